//! Arguments against a tool's JSON Schema, compiled once.

use jsonschema::PatternOptions;
use seawall_proto::Raw;

/// Most faults named in one message.
const NAMED: usize = 3;

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Validator(jsonschema::Validator);

impl Validator {
    /// Compiles a schema: patterns run on an engine of linear time, and nothing is fetched for `$ref`.
    pub(super) fn compile(schema: &Raw) -> Result<Self, String> {
        let schema = serde_json::from_str(schema.as_str()).map_err(|error| error.to_string())?;
        jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .offline()
            .build(&schema)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Checks arguments; none at all are an empty object.
    pub(super) fn check(&self, arguments: Option<&Raw>) -> Result<(), String> {
        let text = arguments.map_or("{}", Raw::as_str);
        // A number that no tree can hold is for the upstream to judge.
        let Ok(value) = serde_json::from_str(text) else { return Ok(()) };
        if self.0.is_valid(&value) {
            return Ok(());
        }
        let mut faults: Vec<String> = Vec::new();
        for fault in self.0.iter_errors(&value).take(NAMED) {
            let at = fault.instance_path().to_string();
            let at = if at.is_empty() { String::from("arguments") } else { format!("arguments{at}") };
            // Values are left out: they may be secrets, and the sentence is logged.
            let what: String = fault.masked().to_string().chars().take(300).collect();
            faults.push(format!("{at}: {what}"));
        }
        Err(faults.join("; "))
    }
}
