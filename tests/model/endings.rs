//! Endings in a few words: those that are right, and those that came.

use super::Ending;
use crate::Answer;
use serde_json::Value;

/// An ending in a few words.
pub fn shown(ending: Ending) -> String {
    match ending {
        Ending::Result(_) => "result".to_owned(),
        Ending::Fault { code, stage, may_have_run } => fault(code, stage, may_have_run),
        Ending::Error(code) => format!("error {code}"),
        Ending::Nothing => "nothing".to_owned(),
    }
}

fn fault(code: &str, stage: &str, may_have_run: bool) -> String {
    format!("{code} at {stage}{}", if may_have_run { ", may have run" } else { "" })
}

/// What came, in the same words.
pub fn seen(answer: Option<&Answer>) -> String {
    let Some(answer) = answer else { return "nothing".to_owned() };
    let (result, error) = (&answer.value["result"], &answer.value["error"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_result = &result["_meta"]["seawall/fault"];
    if of_result.is_object() {
        let ran = of_result["may_have_run"] == true;
        fault(&text(&of_result["code"]), &text(&of_result["stage"]), ran)
    } else if result["isError"] == true {
        format!("the tool's own error {:?}", text(&result["content"][0]["text"]))
    } else if !result.is_null() {
        "result".to_owned()
    } else if error["data"]["code"].is_string() {
        format!("error {}", text(&error["data"]["code"]))
    } else if !error.is_null() {
        format!("error {error}")
    } else {
        format!("HTTP {} {:.200}", answer.status, answer.text)
    }
}

/// The first text of a result that is no error.
pub fn shown_text(answer: &Answer) -> Option<&str> {
    let result = &answer.value["result"];
    if result["isError"] == true { None } else { result["content"][0]["text"].as_str() }
}
