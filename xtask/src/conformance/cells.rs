//! The matrix: which revision is asked of what, and which scenarios may fail there, and why.

/// One cell of the matrix.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) name: &'static str,
    /// The requirement set that is run; it fixes the scenarios and the wire.
    pub(super) revision: &'static str,
    pub(super) setup: Setup,
}

/// What stands around Seawall in a cell.
#[derive(Debug)]
pub(super) enum Setup {
    /// The fixture speaks the revision: asked directly it is the control, and every check that passes there
    /// must pass through Seawall too.
    Compared { fixture: &'static str },
    /// The fixture speaks only the other era, so there is nothing to compare with.
    Translated { fixture: &'static str, exceptions: &'static [Exception] },
    /// Seawall is the client of the suite's own servers.
    Client { exceptions: &'static [Exception] },
}

/// Scenarios that may fail.
#[derive(Debug)]
pub(super) struct Exception {
    /// Why, in one sentence.
    pub(super) reason: &'static str,
    pub(super) scenarios: &'static [&'static str],
}

impl Cell {
    pub(super) fn exceptions(&self) -> &'static [Exception] {
        match self.setup {
            Setup::Compared { .. } => &[],
            Setup::Translated { exceptions, .. } | Setup::Client { exceptions } => exceptions,
        }
    }

    pub(super) fn fixture(&self) -> Option<&'static str> {
        match self.setup {
            Setup::Compared { fixture } | Setup::Translated { fixture, .. } => Some(fixture),
            Setup::Client { .. } => None,
        }
    }
}

/// Each revision is asked of a fixture that speaks only its era, of one that speaks both, and of one that
/// speaks only the other era; and Seawall is made a client at each.
pub(super) static CELLS: [Cell; 8] = [
    Cell { name: "2025-11-25-legacy", revision: "2025-11-25", setup: Setup::Compared { fixture: "legacy" } },
    Cell { name: "2025-11-25-both", revision: "2025-11-25", setup: Setup::Compared { fixture: "both" } },
    Cell {
        name: "2025-11-25-modern",
        revision: "2025-11-25",
        setup: Setup::Translated { fixture: "modern", exceptions: &[] },
    },
    Cell { name: "2025-11-25-client", revision: "2025-11-25", setup: Setup::Client { exceptions: &[] } },
    Cell { name: "2026-07-28-modern", revision: "2026-07-28", setup: Setup::Compared { fixture: "modern" } },
    Cell { name: "2026-07-28-both", revision: "2026-07-28", setup: Setup::Compared { fixture: "both" } },
    Cell {
        name: "2026-07-28-legacy",
        revision: "2026-07-28",
        setup: Setup::Translated { fixture: "legacy", exceptions: &MODERN_WIRE_LEGACY_FIXTURE },
    },
    Cell { name: "2026-07-28-client", revision: "2026-07-28", setup: Setup::Client { exceptions: &[] } },
];

static MODERN_WIRE_LEGACY_FIXTURE: [Exception; 2] = [
    Exception {
        reason: "a question of the older era has no name of its own, so Seawall calls it `question`, where \
                 the scenario wants the tool's `user_name`.",
        scenarios: &["input-required-result-basic-elicitation"],
    },
    Exception {
        reason: "a server of the older era asks one question after the other, so each result carries one, \
                 where the scenario wants several in one.",
        scenarios: &["input-required-result-multiple-input-requests"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_tell_the_revision() {
        let names: BTreeSet<&str> = CELLS.iter().map(|cell| cell.name).collect();
        assert_eq!(names.len(), CELLS.len());
        for cell in &CELLS {
            let rest = cell.fixture().unwrap_or("client");
            assert_eq!(cell.name, format!("{}-{rest}", cell.revision));
        }
    }

    #[test]
    fn every_exception_is_made_once_and_has_a_sentence_for_a_reason() {
        for cell in &CELLS {
            let mut seen = BTreeSet::new();
            for exception in cell.exceptions() {
                assert!(exception.reason.ends_with('.'), "{}: {}", cell.name, exception.reason);
                assert!(!exception.scenarios.is_empty(), "{}: {}", cell.name, exception.reason);
                for scenario in exception.scenarios {
                    assert!(seen.insert(scenario), "{}: {scenario} twice", cell.name);
                }
            }
        }
    }
}
