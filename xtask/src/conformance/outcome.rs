//! What became of a cell, and whether it holds.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::cells::{Cell, Setup};
use super::suite::{Checks, Run};

/// A cell that was run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) cell: &'static Cell,
    /// The control, where there is one.
    pub(super) direct: Option<Run>,
    pub(super) gateway: Run,
}

/// What a verdict says of one scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Passes,
    Fails,
    /// It fails, for the reason of its exception.
    Excepted(&'static str),
    /// It passes, and its exception can go.
    Outgrown,
    /// It is run, but not required.
    NotRequired,
}

impl Outcome {
    /// Whether everything is as it must be: nothing required fails without an exception, the control passes,
    /// every check that it passes is passed through Seawall, and every exception is about something required.
    pub(super) fn holds(&self) -> bool {
        self.failing().is_empty()
            && self.failing_direct().is_empty()
            && self.missing().is_empty()
            && self.idle().is_empty()
    }

    /// The checks, as `scenario/check`, that pass direct but not, or not as often, through the gateway.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (scenario, checks) in self.direct.iter().flat_map(|run| &run.scenarios) {
            for (check, count) in &checks.passed {
                if self.gateway.passed(scenario, check) < *count {
                    missing.push(format!("{scenario}/{check}"));
                }
            }
        }
        missing
    }

    fn failing_direct(&self) -> Vec<&str> {
        self.direct.as_ref().map(Run::failing).unwrap_or_default()
    }

    /// The required scenarios that fail and have no exception.
    fn failing(&self) -> Vec<&str> {
        self.gateway.failing().into_iter().filter(|scenario| self.exception(scenario).is_none()).collect()
    }

    /// The required scenarios that fail and have an exception.
    fn excepted(&self) -> Vec<&str> {
        self.gateway.failing().into_iter().filter(|scenario| self.exception(scenario).is_some()).collect()
    }

    /// The exceptions whose scenarios pass.
    fn outgrown(&self) -> Vec<&'static str> {
        self.exceptions().filter(|scenario| self.gateway.pass(scenario)).collect()
    }

    /// The exceptions whose scenarios are not required, as after a slip of the pen.
    fn idle(&self) -> Vec<&'static str> {
        let required: BTreeSet<&str> = self.gateway.required.iter().map(String::as_str).collect();
        self.exceptions().filter(|scenario| !required.contains(scenario)).collect()
    }

    fn exceptions(&self) -> impl Iterator<Item = &'static str> {
        self.cell.exceptions().iter().flat_map(|exception| exception.scenarios.iter().copied())
    }

    /// The reason why the scenario may fail, if it may.
    fn exception(&self, scenario: &str) -> Option<&'static str> {
        let mut exceptions = self.cell.exceptions().iter();
        let exception = exceptions.find(|exception| exception.scenarios.contains(&scenario))?;
        Some(exception.reason)
    }

    fn required_passes(&self) -> usize {
        self.gateway.required.len() - self.gateway.failing().len()
    }

    fn standing(&self, scenario: &str) -> Standing {
        if !self.gateway.required.iter().any(|required| required == scenario) {
            return Standing::NotRequired;
        }
        match (self.gateway.pass(scenario), self.exception(scenario)) {
            (true, None) => Standing::Passes,
            (false, None) => Standing::Fails,
            (true, Some(_)) => Standing::Outgrown,
            (false, Some(reason)) => Standing::Excepted(reason),
        }
    }

    fn result(&self) -> String {
        let count = |what: &str, number: usize| format!("{number} {what}");
        let wrong = [
            (!self.failing_direct().is_empty()).then(|| "the control fails a required scenario".to_owned()),
            (!self.failing().is_empty()).then(|| count("required fail", self.failing().len())),
            (!self.missing().is_empty()).then(|| count("checks missing", self.missing().len())),
            (!self.idle().is_empty()).then(|| count("exceptions about nothing", self.idle().len())),
        ];
        let mut said: Vec<String> = wrong.into_iter().flatten().collect();
        if said.is_empty() {
            said.push("ok".to_owned());
        }
        if !self.outgrown().is_empty() {
            said.push(count("exceptions pass", self.outgrown().len()));
        }
        said.join(", ")
    }
}

/// The summary, a line per cell, and then everything that needs a reader.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<20}{:>10}{:>8}{:>8}{:>9}{:>10}  result\n",
        "cell", "required", "checks", "direct", "missing", "excepted"
    );
    for outcome in outcomes {
        let required = format!("{}/{}", outcome.required_passes(), outcome.gateway.required.len());
        let direct = outcome.direct.as_ref().map_or_else(|| "-".to_owned(), |run| run.passes().to_string());
        let missing =
            if outcome.direct.is_some() { outcome.missing().len().to_string() } else { "-".to_owned() };
        text.push_str(&format!(
            "{:<20}{required:>10}{:>8}{direct:>8}{missing:>9}{:>10}  {}\n",
            outcome.cell.name,
            outcome.gateway.passes(),
            outcome.excepted().len(),
            outcome.result()
        ));
    }
    for outcome in outcomes {
        details(outcome, &mut text);
    }
    text
}

fn details(outcome: &Outcome, text: &mut String) {
    let name = outcome.cell.name;
    let Outcome { direct, gateway, .. } = outcome;
    if matches!(outcome.cell.setup, Setup::Client { .. }) {
        let lines: Vec<String> = scenarios(outcome).iter().map(|scenario| line(outcome, scenario)).collect();
        section(text, &format!("{name}, every scenario"), &lines);
    }
    if let Some(direct) = direct {
        let why = |scenario: &&str| format!("{scenario}: {}", direct.why(scenario));
        let failing: Vec<String> = outcome.failing_direct().iter().map(why).collect();
        section(text, &format!("{name}, required and failed direct"), &failing);
    }
    let why = |scenario: &&str| format!("{scenario}: {}", gateway.why(scenario));
    let failing: Vec<String> = outcome.failing().iter().map(why).collect();
    section(text, &format!("{name}, required and failed through Seawall"), &failing);

    let missing: Vec<String> = outcome.missing().iter().map(|check| lost(gateway, check)).collect();
    section(text, &format!("{name}, passed direct and missing through Seawall"), &missing);

    let mut excepted = Vec::new();
    for exception in outcome.cell.exceptions() {
        let of_it = outcome.excepted().into_iter();
        let names: Vec<&str> = of_it.filter(|scenario| exception.scenarios.contains(scenario)).collect();
        if !names.is_empty() {
            excepted.push(format!("{}: {}", names.join(", "), exception.reason));
        }
    }
    section(text, &format!("{name}, excepted"), &excepted);

    let outgrown: Vec<String> = outcome.outgrown().into_iter().map(str::to_owned).collect();
    section(text, &format!("{name}, passed although excepted: take these out of the list"), &outgrown);
    let idle: Vec<String> = outcome.idle().into_iter().map(str::to_owned).collect();
    section(text, &format!("{name}, excepted but not required: take these out of the list"), &idle);
}

fn section(text: &mut String, heading: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    text.push_str(&format!("\n{heading}:\n"));
    for line in lines {
        text.push_str(&format!("  {line}\n"));
    }
}

/// Every scenario that was run or should have been.
fn scenarios(outcome: &Outcome) -> BTreeSet<&str> {
    let run = outcome.gateway.scenarios.keys();
    run.chain(&outcome.gateway.required).map(String::as_str).collect()
}

fn line(outcome: &Outcome, scenario: &str) -> String {
    let passes = outcome.gateway.scenarios.get(scenario).map_or(0, Checks::passes);
    let standing = match outcome.standing(scenario) {
        Standing::Passes => "pass",
        Standing::Fails => "FAIL",
        Standing::Excepted(_) => "excepted",
        Standing::Outgrown => "pass, excepted",
        Standing::NotRequired if outcome.gateway.pass(scenario) => "pass, not required",
        Standing::NotRequired => "fail, not required",
    };
    format!("{standing:<20}{scenario} ({passes} checks passed)")
}

/// A lost check, `scenario/check`, with what the gateway's run says of it.
fn lost(gateway: &Run, name: &str) -> String {
    let said = name
        .rsplit_once('/')
        .and_then(|(scenario, check)| gateway.scenarios.get(scenario)?.failed.get(check));
    format!("{name}: {}", said.map_or("not reported", String::as_str))
}

/// The same for programs.
pub(super) fn as_json(outcomes: &[Outcome]) -> Value {
    outcomes.iter().map(one_as_json).collect()
}

fn one_as_json(outcome: &Outcome) -> Value {
    let run = |run: &Run| {
        let failed: Vec<Value> = run
            .scenarios
            .iter()
            .flat_map(|(scenario, checks)| checks.failed.iter().map(move |failed| (scenario, failed)))
            .map(|(scenario, (check, why))| json!({ "scenario": scenario, "check": check, "why": why }))
            .collect();
        json!({ "passed": run.passes(), "required_pass": run.failing().is_empty(), "failed": failed })
    };
    let scenarios: Vec<Value> = scenarios(outcome)
        .into_iter()
        .map(|scenario| {
            let (standing, reason) = match outcome.standing(scenario) {
                Standing::Passes => ("passes", None),
                Standing::Fails => ("fails", None),
                Standing::Excepted(reason) => ("excepted", Some(reason)),
                Standing::Outgrown => ("outgrown", outcome.exception(scenario)),
                Standing::NotRequired => ("not required", None),
            };
            let passes = outcome.gateway.pass(scenario);
            json!({ "scenario": scenario, "standing": standing, "passes": passes, "reason": reason })
        })
        .collect();
    json!({
        "cell": outcome.cell.name,
        "revision": outcome.cell.revision,
        "fixture": outcome.cell.fixture(),
        "direct": outcome.direct.as_ref().map(run),
        "gateway": run(&outcome.gateway),
        "missing": outcome.missing(),
        "required": outcome.gateway.required.len(),
        "required_passed": outcome.required_passes(),
        "failing": outcome.failing(),
        "outgrown": outcome.outgrown(),
        "scenarios": scenarios,
        "holds": outcome.holds(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::cells::Exception;
    use super::super::suite::add_checks;
    use super::*;

    const PASSED: &str = r#"{"id": "a", "status": "SUCCESS"}"#;
    const FAILED: &str = r#"{"id": "a", "status": "FAILURE", "errorMessage": "no tools"}"#;
    const WARNING: &str = r#"{"id": "a", "status": "WARNING"}"#;

    const GOOD: &str = r#"[{"id": "a", "status": "SUCCESS"}]"#;
    const BAD: &str = r#"[{"id": "a", "status": "FAILURE", "errorMessage": "no tools"}]"#;

    static COMPARED: Cell =
        Cell { name: "compared", revision: "2026-07-28", setup: Setup::Compared { fixture: "both" } };
    static EXCEPTIONS: [Exception; 1] =
        [Exception { reason: "It asks for the moon.", scenarios: &["tools-list", "ping"] }];
    static TRANSLATED: Cell = Cell {
        name: "translated",
        revision: "2026-07-28",
        setup: Setup::Translated { fixture: "legacy", exceptions: &EXCEPTIONS },
    };

    fn run_of(required: &[&str], scenarios: &[(&str, &str)]) -> Run {
        let mut run =
            Run { required: required.iter().map(|name| (*name).to_owned()).collect(), ..Run::default() };
        for (scenario, text) in scenarios {
            add_checks(run.scenarios.entry((*scenario).to_owned()).or_default(), text).unwrap();
        }
        run
    }

    fn compared(direct: &str, gateway: &str) -> Outcome {
        Outcome {
            cell: &COMPARED,
            direct: Some(run_of(&[], &[("tools-list", direct)])),
            gateway: run_of(&[], &[("tools-list", gateway)]),
        }
    }

    fn translated(scenarios: &[(&str, &str)]) -> Outcome {
        let gateway = run_of(&["ping", "prompts-list", "tools-list"], scenarios);
        Outcome { cell: &TRANSLATED, direct: None, gateway }
    }

    #[test]
    fn what_passes_direct_must_pass_through() {
        let same = compared(&format!("[{PASSED}]"), &format!("[{PASSED}]"));
        assert!(same.holds());
        for worse in [format!("[{FAILED}]"), format!("[{WARNING}]"), "[]".to_owned()] {
            let outcome = compared(&format!("[{PASSED}]"), &worse);
            assert_eq!(outcome.missing(), ["tools-list/a"]);
            assert!(!outcome.holds());
        }
    }

    #[test]
    fn a_check_made_twice_must_pass_twice() {
        let outcome = compared(&format!("[{PASSED}, {PASSED}]"), &format!("[{PASSED}, {FAILED}]"));
        assert_eq!(outcome.missing(), ["tools-list/a"]);
        assert!(table(&[outcome]).contains("tools-list/a: no tools"));
    }

    #[test]
    fn what_fails_direct_and_is_not_required_is_not_asked_of_the_gateway() {
        assert!(compared(&format!("[{FAILED}]"), &format!("[{FAILED}]")).holds());
    }

    #[test]
    fn a_failed_requirement_does_not_hold() {
        let other = r#"{"id": "b", "status": "FAILURE"}"#;
        let mut outcome = compared(&format!("[{PASSED}]"), &format!("[{PASSED}, {other}]"));
        assert!(outcome.holds());
        outcome.gateway.required = vec!["tools-list".to_owned()];
        assert!(outcome.missing().is_empty());
        assert!(!outcome.holds());
        assert_eq!(as_json(&[outcome])[0]["holds"], false);

        let mut outcome = compared(&format!("[{FAILED}]"), &format!("[{PASSED}]"));
        outcome.direct.as_mut().unwrap().required = vec!["tools-list".to_owned()];
        assert!(!outcome.holds());
        assert!(table(&[outcome]).contains("the control fails a required scenario"));
    }

    #[test]
    fn an_exception_excuses_its_scenario_and_no_other() {
        let outcome = translated(&[("ping", BAD), ("prompts-list", GOOD), ("tools-list", BAD)]);
        assert!(outcome.holds());
        assert_eq!(outcome.excepted().len(), 2);
        let told = table(&[outcome]);
        assert!(told.contains("1/3"), "{told}");
        assert!(told.contains("ping, tools-list: It asks for the moon."), "{told}");

        let outcome = translated(&[("ping", BAD), ("prompts-list", BAD), ("tools-list", BAD)]);
        assert!(!outcome.holds());
        assert_eq!(outcome.failing(), ["prompts-list"]);
        assert!(table(&[outcome]).contains("prompts-list: a: no tools"));

        // What was not run at all is no better than what failed.
        assert_eq!(translated(&[("ping", GOOD), ("tools-list", GOOD)]).failing(), ["prompts-list"]);
    }

    #[test]
    fn an_exception_that_passes_is_told() {
        let outcome = translated(&[("ping", GOOD), ("prompts-list", GOOD), ("tools-list", BAD)]);
        assert!(outcome.holds());
        assert_eq!(outcome.outgrown(), ["ping"]);
        let told = table(std::slice::from_ref(&outcome));
        assert!(told.contains("ok, 1 exceptions pass"), "{told}");
        assert!(told.contains("take these out of the list:\n  ping\n"), "{told}");
        let json = as_json(&[outcome]);
        assert_eq!(json[0]["outgrown"][0], "ping");
        assert_eq!(json[0]["scenarios"][2]["reason"], "It asks for the moon.");
    }

    #[test]
    fn an_exception_about_nothing_does_not_hold() {
        let gateway = run_of(&["ping"], &[("ping", GOOD), ("tools-list", GOOD)]);
        let outcome = Outcome { cell: &TRANSLATED, direct: None, gateway };
        assert_eq!(outcome.idle(), ["tools-list"]);
        assert!(!outcome.holds());
    }
}
