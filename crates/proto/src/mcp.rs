//! What Seawall reads of MCP's own shapes: tools, and pages of lists.

use crate::jsonrpc::{Members, Raw};
use std::{borrow::Cow, sync::Arc};

/// What a call of a tool may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effects {
    /// Nothing: it only reads.
    None,
    /// The same call twice changes no more than once.
    Idempotent,
    /// Anything. What is not declared otherwise is taken to write.
    Writes,
}

impl Effects {
    /// Whether the same call may be made again when its outcome is not known.
    pub fn may_repeat(self) -> bool {
        self != Self::Writes
    }
}

/// Properties whose values travel as headers, each with the name of its header.
pub type HeaderParameters = Vec<(Arc<str>, Arc<str>)>;

/// One tool as its upstream declares it.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The upstream's name for it.
    pub name: Arc<str>,
    /// The whole declaration as it came.
    pub declaration: Raw,
    /// The schema of its arguments.
    pub input_schema: Option<Raw>,
    /// What its annotations say of its effects.
    pub effects: Effects,
    /// Properties whose values travel as headers too, and the headers' names.
    pub header_parameters: HeaderParameters,
    /// Why those cannot travel so: then the modern era's clients do not use the tool.
    pub header_fault: Option<String>,
}

impl Tool {
    /// Reads a declaration; `None` without a name.
    pub fn read(declaration: Raw) -> Option<Self> {
        let members = Members::parse(declaration.as_str()).ok()?;
        let name = Arc::from(&*members.string("name")?);
        let input_schema = members.get("inputSchema").map(|schema| Raw::part(declaration.bytes(), schema));
        let effects = members.get("annotations").map_or(Effects::Writes, effects);
        let headers = input_schema.as_ref().map_or_else(|| Ok(Vec::new()), header_parameters);
        let (header_parameters, header_fault) = match headers {
            Ok(parameters) => (parameters, None),
            Err(fault) => (Vec::new(), Some(fault)),
        };
        Some(Self { name, input_schema, effects, header_parameters, header_fault, declaration })
    }

    /// The declaration under another name; a description is added where there is none.
    pub fn declared_as(&self, name: &str, upstream: &str) -> String {
        let Ok(members) = Members::parse(self.declaration.as_str()) else { return String::from("{}") };
        let quoted = serde_json::Value::from(name).to_string();
        let described = members.string("description").is_some_and(|text| !text.trim().is_empty());
        let description =
            serde_json::Value::from(format!("Tool {} of server {upstream}", self.name)).to_string();
        let mut edits = vec![("name", Some(quoted.as_str()))];
        if !described {
            edits.push(("description", Some(description.as_str())));
        }
        members.edited(&edits)
    }
}

/// `readOnlyHint` and `idempotentHint` (2025-03-26 and later).
fn effects(annotations: &str) -> Effects {
    let Ok(members) = Members::parse(annotations) else { return Effects::Writes };
    let says = |name: &str| members.get(name).is_some_and(|value| value == "true");
    if says("readOnlyHint") {
        Effects::None
    } else if says("idempotentHint") {
        Effects::Idempotent
    } else {
        Effects::Writes
    }
}

/// Properties annotated with `x-mcp-header` (2026-07-28, server/tools): strings, integers and booleans, each under a
/// header's name of its own.
fn header_parameters(schema: &Raw) -> Result<HeaderParameters, String> {
    if !schema.as_str().contains("x-mcp-header") {
        return Ok(Vec::new());
    }
    let value = schema.value();
    let mut parameters = HeaderParameters::new();
    for (property, schema) in value["properties"].as_object().into_iter().flatten() {
        let Some(header) = schema.get("x-mcp-header") else { continue };
        let fault = |what: &str| Err(format!("`x-mcp-header` of {property:?} {what}"));
        let Some(header) = header.as_str().filter(|header| is_token(header)) else {
            return fault("is not the name of a header");
        };
        if !matches!(schema["type"].as_str(), Some("string" | "integer" | "boolean")) {
            return fault("stands at what is no string, integer or boolean");
        }
        if parameters.iter().any(|(_, other)| other.eq_ignore_ascii_case(header)) {
            return fault("is the name of another property's header");
        }
        parameters.push((Arc::from(property.as_str()), Arc::from(header)));
    }
    Ok(parameters)
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// One page of a list: its items, and the cursor of the next page.
#[derive(Debug)]
pub struct Page {
    /// The items as they came.
    pub items: Vec<Raw>,
    /// Where the next page begins.
    pub next: Option<String>,
}

impl Page {
    /// Reads the result of a list request whose items are under `member`; `None` where it has none.
    pub fn read(result: &Raw, member: &str) -> Option<Self> {
        let members = Members::parse(result.as_str()).ok()?;
        let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(members.get(member)?).ok()?;
        Some(Self {
            items: items.into_iter().map(|item| Raw::part(result.bytes(), item.get())).collect(),
            next: members.string("nextCursor").map(Cow::into_owned).filter(|cursor| !cursor.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw {
        Raw::parse(text.to_owned().into()).unwrap()
    }

    #[test]
    fn what_is_not_annotated_is_taken_to_write() {
        for (annotations, effects) in [
            (r#""annotations":{"readOnlyHint":true},"#, Effects::None),
            (r#""annotations":{"idempotentHint":true},"#, Effects::Idempotent),
            (r#""annotations":{"readOnlyHint":"true"},"#, Effects::Writes),
            ("", Effects::Writes),
        ] {
            let tool = Tool::read(raw(&format!(r#"{{{annotations}"name":"t"}}"#))).unwrap();
            assert_eq!(tool.effects, effects, "{annotations}");
        }
    }

    #[test]
    fn a_renamed_tool_keeps_what_nobody_here_knows() {
        let tool = Tool::read(raw(r#"{"name":"t","x":{"n":1.10},"description":"d"}"#)).unwrap();
        assert_eq!(tool.declared_as("s__t", "s"), r#"{"name":"s__t","x":{"n":1.10},"description":"d"}"#);
        let bare = Tool::read(raw(r#"{"name":"t"}"#)).unwrap();
        assert!(bare.declared_as("s__t", "s").contains("Tool t of server s"));
    }

    #[test]
    fn a_page_says_where_the_next_begins() {
        let page =
            Page::read(&raw(r#"{"tools":[{"name":"a"},{"name":"b"}],"nextCursor":"2"}"#), "tools").unwrap();
        assert_eq!((page.items.len(), page.next.as_deref()), (2, Some("2")));
        assert!(Page::read(&raw("{}"), "tools").is_none());
    }
}
