//! A small MCP client of either era, to stand before the gateway in the place of a user's. It answers every
//! question with what the question proposes.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::gateway::PATH;
use super::http::{self, Response};

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
/// After how long a stream that ended is taken up again, where it says nothing of that.
const RETRY: Duration = Duration::from_secs(1);

/// The era a caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    /// A session, opened with `initialize`, and a stream for what the server says of its own accord.
    Legacy,
    /// Requests that stand alone.
    Modern,
}

/// A client of one endpoint.
#[derive(Debug)]
pub(super) struct Caller {
    line: Line,
    last_id: u64,
}

/// What every message of a client goes over.
#[derive(Debug, Clone)]
struct Line {
    address: SocketAddr,
    era: Era,
    session: Option<String>,
}

impl Caller {
    /// A client that is ready to ask. In the older era its session is open and its stream is listened to.
    pub(super) fn open(address: SocketAddr, era: Era) -> Result<Self, String> {
        let mut caller = Self { line: Line { address, era, session: None }, last_id: 0 };
        if era == Era::Legacy {
            caller.initialize()?;
        }
        Ok(caller)
    }

    fn initialize(&mut self) -> Result<(), String> {
        let params =
            json!({ "protocolVersion": LEGACY, "capabilities": capabilities(), "clientInfo": information() });
        let (id, message) = self.message("initialize", &params);
        let response = self.line.post(&message)?;
        let session = response.header("mcp-session-id").map(str::to_owned);
        result_of("initialize", self.line.answer(response, id)?)?;
        self.line.session = Some(session.ok_or("`initialize` opened no session")?);
        self.line.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        self.line.listen()
    }

    /// What the server lists with `method` under `member`.
    pub(super) fn list(&mut self, method: &str, member: &str) -> Result<Vec<Value>, String> {
        let mut result = self.result(method, &json!({}))?;
        match result[member].take() {
            Value::Array(items) => Ok(items),
            other => Err(format!("{method} lists {other} as its {member}")),
        }
    }

    /// Calls a tool. An error that it tells is an error.
    pub(super) fn call(&mut self, tool: &str, arguments: &Value) -> Result<Value, String> {
        let result = self.result("tools/call", &json!({ "name": tool, "arguments": arguments }))?;
        if result["isError"] == true { Err(format!("{tool} failed: {result}")) } else { Ok(result) }
    }

    /// Makes any request; the result. An error as an answer is an error.
    pub(super) fn result(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        result_of(method, self.request(method, params)?)
    }

    /// Makes any request; the whole response, be it a result or an error.
    pub(super) fn request(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        let (id, message) = self.message(method, params);
        let response = self.line.post(&message)?;
        self.line.answer(response, id)
    }

    /// The next request of this client.
    fn message(&mut self, method: &str, params: &Value) -> (u64, Value) {
        self.last_id += 1;
        let mut message = json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params });
        if self.line.era == Era::Modern {
            message["params"]["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": information(),
                "io.modelcontextprotocol/clientCapabilities": capabilities(),
            });
        }
        (self.last_id, message)
    }
}

impl Line {
    fn post(&self, message: &Value) -> Result<Response, String> {
        let mut headers = self.headers("application/json, text/event-stream");
        headers.push(("Content-Type", "application/json".to_owned()));
        if self.era == Era::Modern {
            let subject = [&message["params"]["name"], &message["params"]["uri"]];
            let subject = subject.into_iter().find_map(Value::as_str).map(|subject| ("Mcp-Name", subject));
            let method = message["method"].as_str().map(|method| ("Mcp-Method", method));
            let both = [method, subject].into_iter().flatten();
            headers.extend(both.map(|(name, value)| (name, value.to_owned())));
        }
        http::send(self.address, "POST", PATH, &headers, &message.to_string())
            .map_err(|error| format!("no answer to {}: {error}", message["method"]))
    }

    fn headers(&self, accept: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![("Accept", accept.to_owned())];
        match (self.era, &self.session) {
            (Era::Modern, _) => headers.push(("MCP-Protocol-Version", MODERN.to_owned())),
            (Era::Legacy, Some(session)) => {
                headers.push(("MCP-Protocol-Version", LEGACY.to_owned()));
                headers.push(("Mcp-Session-Id", session.clone()));
            }
            // The version is what `initialize` is there to settle.
            (Era::Legacy, None) => {}
        }
        headers
    }

    /// Sends what has no answer: a notification, or the answer to a question.
    fn tell(&self, message: &Value) -> Result<(), String> {
        match self.post(message)?.status {
            200..=299 => Ok(()),
            status => Err(format!("HTTP {status} to {message}")),
        }
    }

    /// Reads on until the response to the request `id`, and takes up a stream that ends before it.
    fn answer(&self, mut response: Response, id: u64) -> Result<Value, String> {
        if !response.is_stream() {
            let status = response.status;
            let text = response.text().map_err(|error| format!("a broken answer: {error}"))?;
            return serde_json::from_str(&text).map_err(|_| format!("HTTP {status} with no JSON: {text:?}"));
        }
        let mut last = None;
        let mut pause = RETRY;
        loop {
            while let Some(event) =
                response.next_event().map_err(|error| format!("a broken stream: {error}"))?
            {
                last = event.id.or(last);
                pause = event.retry.map_or(pause, Duration::from_millis);
                if event.data.is_empty() {
                    continue;
                }
                let message: Value = serde_json::from_str(&event.data)
                    .map_err(|error| format!("{error} in the event {:?}", event.data))?;
                if message["method"].is_string() {
                    self.heard(&message)?;
                } else if message["id"] == id {
                    return Ok(message);
                }
            }
            let Some(last) = &last else {
                return Err("a stream without event ids ended before the answer".to_owned());
            };
            thread::sleep(pause);
            response = self.stream(Some(last.as_str()))?;
        }
    }

    /// Listens from now on to what the server says of its own accord.
    fn listen(&self) -> Result<(), String> {
        let mut stream = self.stream(None)?;
        let line = self.clone();
        thread::spawn(move || {
            // It ends with the gateway, if not with this process.
            while let Ok(Some(event)) = stream.next_event() {
                let Ok(message) = serde_json::from_str::<Value>(&event.data) else { continue };
                if let Err(error) = line.heard(&message) {
                    eprintln!("{error}");
                }
            }
        });
        Ok(())
    }

    fn stream(&self, last: Option<&str>) -> Result<Response, String> {
        let mut headers = self.headers("text/event-stream");
        headers.extend(last.map(|last| ("Last-Event-ID", last.to_owned())));
        let response = http::send(self.address, "GET", PATH, &headers, "")
            .map_err(|error| format!("no answer to a GET: {error}"))?;
        if !response.is_stream() {
            return Err(format!("HTTP {} and no stream to a GET", response.status));
        }
        Ok(response)
    }

    /// Answers what the server asks; what it only tells is passed over.
    fn heard(&self, message: &Value) -> Result<(), String> {
        let (Some(method), Some(id)) = (message["method"].as_str(), message.get("id")) else { return Ok(()) };
        self.tell(&match method {
            "elicitation/create" => {
                json!({ "jsonrpc": "2.0", "id": id, "result": accepted(&message["params"]) })
            }
            "ping" => json!({ "jsonrpc": "2.0", "id": id, "result": {} }),
            _ => {
                let error = json!({ "code": -32601, "message": "this client answers no such question" });
                json!({ "jsonrpc": "2.0", "id": id, "error": error })
            }
        })
    }
}

/// What the client says of itself, the same in both eras.
fn capabilities() -> Value {
    json!({ "elicitation": {}, "sampling": {}, "roots": {} })
}

fn information() -> Value {
    json!({ "name": "seawall-conformance", "version": env!("CARGO_PKG_VERSION") })
}

fn result_of(method: &str, mut response: Value) -> Result<Value, String> {
    match response.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(format!("{method} was answered {response}")),
    }
}

/// The answers to the questions in a result that wants more input.
pub(super) fn responses(questions: &Value) -> Value {
    let questions = questions.as_object().into_iter().flatten();
    let answers = questions.map(|(name, question)| (name.clone(), accepted(&question["params"])));
    Value::Object(answers.collect())
}

/// The answer that a form proposes.
fn accepted(form: &Value) -> Value {
    let properties = form["requestedSchema"]["properties"].as_object();
    let fields = properties.into_iter().flatten().map(|(name, schema)| (name.clone(), fitting(schema)));
    let content: Map<String, Value> = fields.collect();
    json!({ "action": "accept", "content": content })
}

/// Arguments that a tool takes: all that its schema requires, and nothing else.
pub(super) fn arguments(tool: &Value) -> Value {
    let schema = &tool["inputSchema"];
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let arguments = required.map(|name| (name.to_owned(), fitting(&schema["properties"][name])));
    Value::Object(arguments.collect())
}

/// A value for a schema of one type: its default, the first it names, or any of its type.
fn fitting(schema: &Value) -> Value {
    if let Some(named) = schema.get("default").or_else(|| schema["enum"].get(0)) {
        return named.clone();
    }
    match schema["type"].as_str() {
        Some("string") => json!("text"),
        Some("integer") => json!(1),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("null") => Value::Null,
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_answered_with_what_they_propose() {
        let form = json!({ "requestedSchema": { "properties": {
            "name": { "type": "string", "default": "Ada" },
            "colour": { "type": "string", "enum": ["red", "blue"] },
            "sure": { "type": "boolean" },
        } } });
        let content = json!({ "name": "Ada", "colour": "red", "sure": true });
        let accepted = json!({ "action": "accept", "content": content });
        assert_eq!(responses(&json!({ "q": { "params": form } })), json!({ "q": accepted }));
    }

    #[test]
    fn arguments_are_what_is_required() {
        let tool = json!({ "inputSchema": {
            "properties": { "a": { "type": "number" }, "b": { "type": "null" }, "c": { "type": "string" } },
            "required": ["a", "b"],
        } });
        assert_eq!(arguments(&tool), json!({ "a": 1.5, "b": null }));
        assert_eq!(arguments(&json!({ "inputSchema": {} })), json!({}));
    }

    #[test]
    fn an_error_is_no_result() {
        let error = json!({ "id": 1, "error": { "code": -32601, "message": "no" } });
        assert!(result_of("ping", error).unwrap_err().contains("-32601"));
        assert_eq!(result_of("ping", json!({ "id": 1, "result": { "a": 1 } })), Ok(json!({ "a": 1 })));
    }
}
