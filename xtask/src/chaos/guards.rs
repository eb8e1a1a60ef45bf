//! The guards against misdeeds of upstreams: where each stands, what takes it out, and who must notice.
//!
//! `cargo xtask chaos --break` takes one out at a time. A text that is no longer in its file exactly once, a
//! replacement that does not compile and a test that does not exist are faults of this list.

/// One guard.
#[derive(Debug)]
pub(super) struct Guard {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// What becomes of Seawall without it, as a clause.
    pub(super) without: &'static str,
    /// The file it stands in, from the root of the workspace.
    pub(super) file: &'static str,
    /// The text that is replaced; it is in the file once.
    pub(super) before: &'static str,
    /// What stands there instead.
    pub(super) after: &'static str,
    pub(super) noticed: Noticed,
}

/// Who notices that a guard is missing. Tests are named by parts of their names.
#[derive(Debug)]
pub(super) enum Noticed {
    /// The compiler or a lint, in a package: one of these words is in what it says.
    Checking { package: &'static str, words: &'static [&'static str] },
    /// Tests of a package, built from the broken source.
    Beside { package: &'static str, target: &'static [&'static str], tests: &'static [&'static str] },
    /// Tests of the whole binary: this file of `tests/tests`, with a broken `seawall`.
    Whole { file: &'static str, tests: &'static [&'static str] },
}

impl Noticed {
    /// The tests that notice, by parts of their names.
    pub(super) fn tests(&self) -> &'static [&'static str] {
        match self {
            Self::Checking { .. } => &[],
            Self::Beside { tests, .. } | Self::Whole { tests, .. } => tests,
        }
    }
}

const STDIO: &str = "crates/core/src/upstream/stdio.rs";
const CHANNEL: &str = "crates/core/src/upstream/channel.rs";
const UNIT: &[&str] = &["--lib"];
const CHILDREN: &[&str] = &["--test", "children"];

pub(super) static GUARDS: &[Guard] = &[
    Guard {
        name: "close-after-the-lock",
        without: "an instance is closed and waited for under the lock of its pool",
        file: "crates/core/src/upstream/pool.rs",
        before: "            if state.is(key, id) {
                state.take(key);
            }
        }
        match unfit {",
        after: "            if state.is(key, id) {
                state.take(key);
                instance.end(\"it is out of the pool\");
                instance.ended().await;
            }
        }
        match unfit {",
        noticed: Noticed::Checking {
            package: "seawall-core",
            words: &["await_holding_lock", "cannot be sent between threads safely"],
        },
    },
    Guard {
        name: "routing-cannot-wait",
        without: "the reader of a child waits for a call to take what is said about it",
        file: CHANNEL,
        before: "if !way.tell(heard) {",
        after: "way.closed().await;
        if !way.tell(heard) {",
        noticed: Noticed::Checking { package: "seawall-core", words: &["only allowed inside `async`"] },
    },
    Guard {
        name: "stderr-is-drained",
        without: "nobody reads a child's standard error",
        file: STDIO,
        before: "life.spawn(Task::Instance, stderr.drain());",
        after: "let undrained = stderr;
        life.spawn(Task::Instance, async move {
            let _undrained = undrained;
            std::future::pending::<()>().await;
        });",
        noticed: Noticed::Whole { file: "daemon", tests: &["logs_show_what_was_written"] },
    },
    Guard {
        name: "garbage-is-skipped",
        without: "a line that is no message ends the reading of a child",
        file: STDIO,
        before: "Ok(Some(Line::Text(text))) => instance.hear(&text),",
        after: "Ok(Some(Line::Text(text))) => {
                instance.hear(&text);
                if !text.starts_with(b\"{\") {
                    break;
                }
            }",
        noticed: Noticed::Whole {
            file: "faults",
            tests: &["a_line_that_is_no_message_does_not_hide_the_answer_after_it"],
        },
    },
    Guard {
        name: "ids-are-matched",
        without: "a response goes to any call that waits",
        file: CHANNEL,
        before: "Incoming::Response { id } => match id.and_then(|id| self.take(id)) {",
        after: "Incoming::Response { id } => match id.and_then(|_| {
                let calls = self.lock();
                calls.open.keys().next().copied()
            }).and_then(|id| self.take(id)) {",
        noticed: Noticed::Whole {
            file: "faults",
            tests: &["an_answer_to_a_request_nobody_made_is_passed_over::legacy_client_to_stdio"],
        },
    },
    Guard {
        name: "the-process-tells-the-end",
        without: "the end of a child is learnt from its stdout, which others may hold",
        file: STDIO,
        before: "status = process.exited() => {
                // What it said last",
        after: "status = std::future::pending::<std::process::ExitStatus>() => {
                // What it said last",
        noticed: Noticed::Whole { file: "chaos", tests: &["crash_that_leaves_stdout_open"] },
    },
    Guard {
        name: "cancels-are-told",
        without: "a child is not told that a call was taken back",
        file: "crates/core/src/upstream/channel/exchange.rs",
        before: "if let Some(cancel) = self.instance.peer.cancel(self.id, false, reason) {",
        after: "if let Some(cancel) = self.instance.peer.cancel(self.id, false, reason).filter(|_| false) {",
        noticed: Noticed::Whole {
            file: "sessions",
            tests: &["taking_a_call_back_reaches_the_upstream::modern_client_to_stdio"],
        },
    },
    Guard {
        name: "lines-are-bounded",
        without: "a line is kept whole, however long it is",
        file: "crates/proc/src/lines.rs",
        before: "if self.dropped > 0 || self.scanned > full {",
        after: "if full == 0 {",
        noticed: Noticed::Beside {
            package: "seawall-proc",
            target: UNIT,
            tests: &["a_line_that_is_too_long_holds_no_memory"],
        },
    },
    Guard {
        name: "kill-is-the-last-step",
        without: "a child that ignores SIGTERM is left alone",
        file: "crates/proc/src/end.rs",
        before: "if timeout(KILL_WAIT, self.killed()).await.is_err() {",
        after: "if KILL_WAIT.is_zero() {",
        noticed: Noticed::Beside {
            package: "seawall-proc",
            target: CHILDREN,
            tests: &["a_child_that_ignores_termination_is_killed_with_its_children"],
        },
    },
    Guard {
        name: "whoever-left-the-group",
        without: "descendants outside the group of their child are not signalled",
        file: "crates/proc/src/tree.rs",
        before: "        for entry in living {
            signal_outside(group.map(number), entry, signal);
        }
        if signal == Signal::KILL {
            self.cages.iter().for_each(|cage| cage.kill());
        }",
        after: "        let _ = living;",
        noticed: Noticed::Beside {
            package: "seawall-proc",
            target: CHILDREN,
            tests: &["a_grandchild_in_another_session_dies_too"],
        },
    },
    Guard {
        name: "leftovers-are-swept",
        without: "what a child leaves behind when it obeys lives on",
        file: "crates/proc/src/end.rs",
        before: "if step.is_none() || living.as_ref().is_none_or(|living| !living.is_empty()) {",
        after: "if step.is_none() {",
        noticed: Noticed::Beside {
            package: "seawall-proc",
            target: CHILDREN,
            tests: &["what_an_obedient_child_leaves_behind_is_swept"],
        },
    },
    Guard {
        name: "the-deadline-is-heeded",
        without: "a call waits for its answer past its deadline",
        file: "crates/core/src/call/attempt.rs",
        before: "() = &mut expired => {",
        after: "() = std::future::pending::<()>() => {",
        noticed: Noticed::Whole {
            file: "hang",
            tests: &["a_tool_that_never_answers_ends_at_its_deadline::legacy_client_to_stdio"],
        },
    },
    Guard {
        name: "lists-have-a-limit",
        without: "a list that never comes is waited for",
        file: "crates/core/src/call/resolve.rs",
        before: "None if lists => config.list_timeout,",
        after: "None if lists => config.list_timeout.saturating_add(Duration::from_secs(3600)),",
        noticed: Noticed::Whole {
            file: "hang",
            tests: &[
                "a_list_that_never_comes_is_missing_from_the_whole_and_ends_by_itself::modern_client_to_modern_http",
            ],
        },
    },
    Guard {
        name: "what-was-sent-is-not-repeated",
        without: "a call is tried again after it was sent",
        file: "crates/core/src/call/resolve.rs",
        before: "lost.sent == Sent::No && !lost.timed_out",
        after: "!lost.timed_out",
        noticed: Noticed::Whole {
            file: "faults",
            tests: &["a_crash_in_a_call_that_may_write_leaves_its_outcome_unknown"],
        },
    },
    Guard {
        name: "an-upstream-has-its-share",
        without: "one upstream may hold every place there is",
        file: "crates/core/src/call/admit.rs",
        before: "count.used < limit && (!shared || count.of(&claim.upstream) < self.share(limit))",
        after: "count.used < limit && (!shared || count.of(&claim.upstream) < limit)",
        noticed: Noticed::Beside {
            package: "seawall-core",
            target: UNIT,
            tests: &["one_upstream_holds_at_most_its_share_of_each_scope"],
        },
    },
    Guard {
        name: "the-line-is-bounded",
        without: "any number of calls may wait for a place",
        file: "crates/core/src/call/admit.rs",
        before: "if self.waiting.len() >= self.limits.queue {",
        after: "if self.waiting.len() == usize::MAX {",
        noticed: Noticed::Beside {
            package: "seawall-core",
            target: UNIT,
            tests: &["the_line_is_bounded_in_all_and_per_upstream_and_leaving_it_leaves_nothing"],
        },
    },
    Guard {
        name: "a-caller-that-does-not-read",
        without: "everything is kept for a caller that does not read",
        file: "crates/core/src/call/line.rs",
        before: "if state.events.len() >= EVENTS || state.interest",
        after: "if state.interest",
        noticed: Noticed::Beside {
            package: "seawall-core",
            target: UNIT,
            tests: &["a_caller_that_does_not_read_loses_progress_and_not_the_end"],
        },
    },
    Guard {
        name: "a-forgotten-session-is-dropped",
        without: "a session that its server has forgotten is used again",
        file: "crates/core/src/upstream/http.rs",
        before: "fn forgotten(&self) {
        self.gone.cancel();",
        after: "fn forgotten(&self) {",
        noticed: Noticed::Whole {
            file: "interop",
            tests: &["a_service_that_hangs_and_dies_ends_its_calls_and_no_others"],
        },
    },
    Guard {
        name: "bodies-are-bounded",
        without: "an HTTP answer of any size is read to its end",
        file: "crates/core/src/upstream/http/endpoint.rs",
        before: "if response.status().is_success() { self.message } else",
        after: "if response.status().is_success() { usize::MAX } else",
        noticed: Noticed::Whole {
            file: "faults",
            tests: &["an_answer_over_the_limit_is_refused::modern_client_to_modern_http"],
        },
    },
];

#[cfg(test)]
mod tests {
    use super::super::copy::without;
    use super::*;
    use crate::process::workspace_root;
    use std::collections::BTreeSet;
    use std::fs;

    #[test]
    fn every_guard_stands_where_the_list_says() {
        for guard in GUARDS {
            let text = fs::read_to_string(workspace_root().join(guard.file)).unwrap();
            if let Err(why) = without(&text, guard) {
                panic!("{}: {why}", guard.name);
            }
        }
    }

    #[test]
    fn every_guard_has_a_name_of_its_own_and_somebody_who_notices() {
        let names: BTreeSet<&str> = GUARDS.iter().map(|guard| guard.name).collect();
        assert_eq!(names.len(), GUARDS.len());
        assert!(GUARDS.len() >= 12);
        for guard in GUARDS {
            let named = match &guard.noticed {
                Noticed::Checking { words, .. } => words,
                Noticed::Beside { tests, .. } | Noticed::Whole { tests, .. } => tests,
            };
            assert!(!named.is_empty() && guard.before != guard.after, "{}", guard.name);
        }
    }
}
