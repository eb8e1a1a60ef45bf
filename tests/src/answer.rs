//! What came back for a request, and the questions tests ask about it.

use crate::http::text_of;
use hyper::header::HeaderMap;
use serde_json::Value;
use std::time::Duration;

/// Everything that came back for one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The HTTP headers.
    pub headers: HeaderMap,
    /// The whole JSON-RPC response; null where there was none.
    pub value: Value,
    /// The same as the bytes that came, or whatever else the body was.
    pub text: String,
    /// The messages that came before it on its stream.
    pub events: Vec<Value>,
    /// From before connecting until the response was whole.
    pub elapsed: Duration,
}

impl Answer {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        text_of(&self.headers, name)
    }

    /// Whether it is a result, and none that says it is an error.
    pub fn succeeded(&self) -> bool {
        self.value["result"].is_object() && !self.is_error()
    }

    /// The first text of a tool's result.
    ///
    /// # Panics
    /// When this is an error of any kind.
    pub fn said(&self) -> &str {
        assert!(self.value["error"].is_null() && !self.is_error(), "an error came: {self:#?}");
        self.first_text()
    }

    /// The text of a result that is an error, which is all that many clients show.
    ///
    /// # Panics
    /// When this is not a result with `isError`.
    pub fn complaint(&self) -> &str {
        assert!(self.is_error(), "no result with isError came: {self:#?}");
        self.first_text()
    }

    /// The object that describes a fault of Seawall's, from a result's `_meta` or an error's `data`.
    ///
    /// # Panics
    /// When there is none.
    pub fn fault(&self) -> &Value {
        let of_result = &self.value["result"]["_meta"]["seawall/fault"];
        let fault = if of_result.is_null() { &self.value["error"]["data"] } else { of_result };
        assert!(fault["code"].is_string(), "no fault came: {self:#?}");
        fault
    }

    /// The code of the fault, such as `TIMEOUT`.
    ///
    /// # Panics
    /// When there is none.
    pub fn code(&self) -> &str {
        self.fault()["code"].as_str().unwrap_or_default()
    }

    /// The code of a JSON-RPC error.
    ///
    /// # Panics
    /// When this is none.
    pub fn error_code(&self) -> i64 {
        let code = self.value["error"]["code"].as_i64();
        code.unwrap_or_else(|| panic!("no JSON-RPC error came: {self:#?}"))
    }

    /// What a modern caller is asked with the end of its request, by the names of the questions.
    ///
    /// # Panics
    /// When it is asked nothing.
    pub fn questions(&self) -> &Value {
        let result = &self.value["result"];
        assert_eq!(result["resultType"], "input_required", "nothing is asked: {self:#?}");
        &result["inputRequests"]
    }

    /// What goes back with the answers to [`Answer::questions`].
    ///
    /// # Panics
    /// When there is none.
    pub fn state(&self) -> &str {
        let state = self.value["result"]["requestState"].as_str();
        state.unwrap_or_else(|| panic!("no state came: {self:#?}"))
    }

    /// The parameters of the messages with this method that came before it, in their order.
    pub fn heard(&self, method: &str) -> Vec<&Value> {
        let of_method = self.events.iter().filter(|event| event["method"] == method);
        of_method.map(|event| &event["params"]).collect()
    }

    /// Asserts the answer that is given to calls of tools that do not exist or may not be seen.
    ///
    /// # Panics
    /// When this is another one.
    pub fn assert_unknown_tool(&self) {
        let error = &self.value["error"];
        assert!(error["code"] == -32602 && error["message"] == "Unknown tool", "not unknown: {self:#?}");
    }

    fn is_error(&self) -> bool {
        self.value["result"]["isError"] == true
    }

    fn first_text(&self) -> &str {
        let text = self.value["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text came: {self:#?}"))
    }
}

/// All pages of a list of tools.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The tools' names in the order listed.
    pub names: Vec<String>,
    /// The whole JSON-RPC responses.
    pub pages: Vec<Value>,
    /// How long all pages took together.
    pub elapsed: Duration,
}

impl Listing {
    /// Whether a tool is listed.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|listed| listed == name)
    }

    /// A member of the first page's `_meta`; null where it is not there.
    pub fn meta(&self, name: &str) -> &Value {
        &self.pages[0]["result"]["_meta"][name]
    }
}
