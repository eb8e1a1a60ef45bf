//! The built-in server of `seawall try`: a small MCP server over stdin and stdout, of the era with sessions.

use serde_json::{Value, json};
use std::{
    io::{BufRead, Write, stdin, stdout},
    process::ExitCode,
    sync::mpsc,
    time::Duration,
};

/// Serves until stdin ends.
pub(crate) fn run() -> ExitCode {
    for line in stdin().lock().lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        let Some(id) = message.get("id").cloned() else { continue };
        match message["method"].as_str() {
            Some("initialize") => reply(&id, &introduction(&message["params"]["protocolVersion"])),
            Some("tools/list") => reply(&id, &tools()),
            Some("tools/call") => call(id, &message["params"]),
            Some("ping") => reply(&id, &json!({})),
            Some(_) => say(
                &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "Method not found"}}),
            ),
            None => {}
        }
    }
    ExitCode::SUCCESS
}

/// Whatever version is asked for: what this server does means the same in all of them.
fn introduction(version: &Value) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "demo", "version": env!("CARGO_PKG_VERSION")},
    })
}

fn tools() -> Value {
    json!({"tools": [
        {
            "name": "greet",
            "description": "Greets somebody.",
            "inputSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            "annotations": {"readOnlyHint": true},
        },
        {
            "name": "count_slowly",
            "description": "Counts to `to`, one number every 400 ms, and tells how far it is.",
            "inputSchema": {"type": "object", "properties": {"to": {"type": "integer", "minimum": 1, "maximum": 100}}},
            "annotations": {"readOnlyHint": true},
        },
        {
            "name": "hang",
            "description": "Never answers.",
            "inputSchema": {"type": "object"},
        },
    ]})
}

fn call(id: Value, params: &Value) {
    let text = |text: &str| json!({"content": [{"type": "text", "text": text}]});
    match params["name"].as_str() {
        Some("greet") => {
            let name = params["arguments"]["name"].as_str().unwrap_or("stranger");
            reply(&id, &text(&format!("Hello, {name}!")));
        }
        Some("count_slowly") => {
            let to = params["arguments"]["to"].as_u64().unwrap_or(3);
            let token = params["_meta"]["progressToken"].clone();
            // A thread of its own: the next call is answered meanwhile.
            std::thread::spawn(move || {
                let (_never, pause) = mpsc::channel::<()>();
                for done in 1..=to {
                    let _ = pause.recv_timeout(Duration::from_millis(400));
                    if !token.is_null() {
                        let params = json!({"progressToken": token, "progress": done, "total": to});
                        say(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}));
                    }
                }
                reply(&id, &text(&format!("Counted to {to}.")));
            });
        }
        Some("hang") => {}
        _ => say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": "Unknown tool"}})),
    }
}

fn reply(id: &Value, result: &Value) {
    say(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
}

fn say(message: &Value) {
    let mut out = stdout().lock();
    // A client that is gone closes stdin too, which ends the loop.
    let _ = writeln!(out, "{message}").and_then(|()| out.flush());
}
