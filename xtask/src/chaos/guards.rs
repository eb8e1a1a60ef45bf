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
const FLIGHT: &str = "crates/core/src/call/flight.rs";
const ATTEMPT: &str = "crates/core/src/call/attempt.rs";
const RESOLVE: &str = "crates/core/src/call/resolve.rs";
const LINE: &str = "crates/core/src/call/admit/line.rs";
const MACHINE: &str = "crates/core/src/call/admit/machine.rs";

/// Unit tests of the engine.
const fn in_core(tests: &'static [&'static str]) -> Noticed {
    Noticed::Beside { package: "seawall-core", target: UNIT, tests }
}

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
        file: ATTEMPT,
        before: "() = &mut all => {",
        after: "() = std::future::pending::<()>() => {",
        noticed: Noticed::Whole {
            file: "hang",
            tests: &["a_tool_that_never_answers_ends_at_its_deadline::legacy_client_to_stdio"],
        },
    },
    Guard {
        name: "lists-have-a-limit",
        without: "a list that never comes is waited for",
        file: RESOLVE,
        before: "(false, true) => config.list_timeout,",
        after: "(false, true) => config.list_timeout.saturating_add(Duration::from_secs(3600)),",
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
        file: RESOLVE,
        before: "Ended::Lost(lost) => lost.sent == Sent::No || self.effects != Effects::Writes,",
        after: "Ended::Lost(_) => true,",
        noticed: Noticed::Whole {
            file: "faults",
            tests: &["a_crash_in_a_call_that_may_write_leaves_its_outcome_unknown"],
        },
    },
    Guard {
        name: "an-upstream-has-its-share",
        without: "one upstream may hold every place there is",
        file: "crates/core/src/call/admit/counts.rs",
        before: "share.used + before(&share.reserved, ticket) >= places",
        after: "share.used >= places.max(usize::MAX)",
        noticed: Noticed::Beside {
            package: "seawall-core",
            target: UNIT,
            tests: &["one_upstream_holds_at_most_its_share_of_each_scope"],
        },
    },
    Guard {
        name: "the-line-is-bounded",
        without: "any number of calls may wait for a place",
        file: MACHINE,
        before: "if self.line.len() >= queue {",
        after: "if self.line.len() == usize::MAX {",
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
    Guard {
        name: "equal-calls-are-one",
        without: "equal calls of a tool that reads are each done for themselves",
        file: RESOLVE,
        before: "filter(|_| self.duplicates() != Duplicates::Run)",
        after: "filter(|_| self.duplicates() == Duplicates::Reject)",
        noticed: in_core(&["equal_calls_of_a_reader_share_one_attempt_and_each_has_its_own_answer"]),
    },
    Guard {
        name: "late-calls-begin-anew",
        without: "a call joins work that has hardly any time left",
        file: FLIGHT,
        before: "clock.left() < clock.budget() / 2",
        after: "clock.left() > clock.budget()",
        noticed: in_core(&["whoever_comes_in_the_second_half_of_the_time_begins_anew"]),
    },
    Guard {
        name: "keys-leave-with-their-flight",
        without: "the key of a flight stays after its end",
        file: FLIGHT,
        before: "Arc::ptr_eq(there, flight)",
        after: "!Arc::ptr_eq(there, flight)",
        noticed: in_core(&["a_key_leaves_with_its_flight_however_that_ends"]),
    },
    Guard {
        name: "each-wish-counts",
        without: "the work of equal calls goes with the one that began it, whoever else waits",
        file: "crates/core/src/call/line.rs",
        before: "let line = Line::new();
        (Self(Arc::clone(&line)), line)",
        after: "let line = Line::new();
        line.lower(Interest::Cancelled);
        (Self(Arc::clone(&line)), line)",
        noticed: in_core(&["work_goes_on_as_long_as_anybody_wants_it"]),
    },
    Guard {
        name: "who-joins-at-the-last-moment",
        without: "work is given up over whoever joined since it was looked at who waits",
        file: FLIGHT,
        before: "follower.line.interest() > seen",
        after: "follower.line.interest() > seen.max(Interest::Wanted)",
        noticed: in_core(&["work_is_not_given_up_over_whoever_joined_at_the_last_moment"]),
    },
    Guard {
        name: "answers-stay-with-whom-they-are-for",
        without: "a call is answered by the work for another whose instance it would not have had",
        file: "crates/core/src/upstream/keys.rs",
        before: "Self { upstream: Arc::clone(upstream), instance }",
        after: "let instance = InstanceKey { isolation: Isolation::Everyone, ..instance };
        Self { upstream: Arc::clone(upstream), instance }",
        noticed: Noticed::Whole {
            file: "sharing_work",
            tests: &["calls_that_would_not_share_an_instance_never_share_an_answer"],
        },
    },
    Guard {
        name: "errors-are-not-kept",
        without: "a result that says it is an error is kept and given again",
        file: "crates/core/src/call/cache.rs",
        before: "(markable && !failed).then_some(response)",
        after: "markable.then_some(response)",
        noticed: in_core(&["only_successes_are_kept"]),
    },
    Guard {
        name: "keys-are-kept-before-anything-is-sent",
        without: "nothing is known of a call with an Idempotency-Key before its end",
        file: "crates/core/src/call/idempotency.rs",
        before: "match store.put(draft, Expect::Absent, now).await {",
        after: "let _not_kept = draft;
            if let Some(begun) = found(store, &name, call, &asked, now).await? {
                return Ok(begun);
            }
            match Ok::<(), StoreError>(()) {",
        noticed: in_core(&["what_a_killed_daemon_began_is_not_known_and_never_runs_again"]),
    },
    Guard {
        name: "ends-are-kept",
        without: "the end of a call with an Idempotency-Key is forgotten",
        file: "crates/core/src/call.rs",
        before: "Box::pin(keep_end(&self.life, pending, &end, clock)).await;",
        after: "drop(pending);",
        noticed: Noticed::Whole {
            file: "sharing_work",
            tests: &["a_call_that_is_repeated_with_its_key_ran_once"],
        },
    },
    Guard {
        name: "what-ran-out-may-have-acted",
        without: "a call that may write is tried again after an attempt ran out of time",
        file: RESOLVE,
        before: "Ended::RanOut { .. } => unsent || self.effects == Effects::None,",
        after: "Ended::RanOut { .. } => true,",
        noticed: Noticed::Whole {
            file: "overload",
            tests: &["what_may_write_is_never_repeated_once_it_was_sent"],
        },
    },
    Guard {
        name: "an-attempt-has-its-time",
        without: "an attempt waits for its answer as long as its call may",
        file: ATTEMPT,
        before: "() = &mut one => {",
        after: "() = std::future::pending::<()>() => {",
        noticed: in_core(&["an_attempt_out_of_time_is_made_again_only_where_it_cannot_have_acted"]),
    },
    Guard {
        name: "no-pause-past-the-deadline",
        without: "a call waits for another try that its time does not reach to",
        file: RESOLVE,
        before: "(pause < attempt.clock().left()).then_some(pause)",
        after: "Some(pause)",
        noticed: Noticed::Whole {
            file: "overload",
            tests: &["a_server_that_says_to_come_back_after_the_deadline_is_left_at_once"],
        },
    },
    Guard {
        name: "retries-have-a-budget",
        without: "every call to a server that is down is made again",
        file: "crates/core/src/call/budget.rs",
        before: "let left = self.left.checked_sub(ONE);",
        after: "let left = Some(self.left);",
        noticed: in_core(&["a_hundred_failing_calls_cost_ten_retries_and_the_floor"]),
    },
    Guard {
        name: "a-breaker-opens",
        without: "a server that answers nothing any more is called all the same",
        file: "crates/core/src/call/breaker.rs",
        before: "if !failed || !enough ||",
        after: "if !failed || !enough || ended > 0 ||",
        noticed: in_core(&["it_opens_when_enough_calls_ended_and_enough_of_them_failed"]),
    },
    Guard {
        name: "one-call-tries",
        without: "all calls go to a server that is only tried again",
        file: "crates/core/src/call/breaker.rs",
        before: "return Err(Open { retry_after: left.max(TRYING) });",
        after: "self.phase = Phase::HalfOpen;",
        noticed: in_core(&["one_probe_is_let_through_and_its_success_closes_it"]),
    },
    Guard {
        name: "callers-have-turns",
        without: "whoever sends the most calls waits the least",
        file: LINE,
        before: "self.turns.push_back(turn);",
        after: "self.turns.insert(at, turn);",
        noticed: in_core(&["callers_have_turns"]),
    },
    Guard {
        name: "overtaking-has-a-bound",
        without: "a call that needs two places at once is overtaken without end",
        file: LINE,
        before: "self.passed.saturating_sub(callers) >= enough",
        after: "self.passed.saturating_sub(callers) >= enough.saturating_mul(1_000_000)",
        noticed: in_core(&["a_call_that_needs_two_full_scopes_is_overtaken_only_so_often"]),
    },
    Guard {
        name: "a-hung-server-keeps-no-idle-places",
        without: "places of a caller are kept idle for calls that wait for a server",
        file: LINE,
        before: "let (wanted, kept) = if by_upstream.is_empty() {",
        after: "let (wanted, kept) = if !self.waits_for.is_empty() {",
        noticed: in_core(&["calls_to_a_healthy_upstream_go_in_while_five_hundred_wait_for_a_hung_one"]),
    },
    Guard {
        name: "what-nobody-waits-for-is-counted",
        without: "any number of calls goes on with nobody waiting",
        file: MACHINE,
        before: "*self.detached.entry(Arc::clone(caller)).or_default() += 1;",
        after: "",
        noticed: in_core(&["detached_calls_are_capped_for_each_caller_and_in_all"]),
    },
    Guard {
        name: "a-server-at-work-has-its-place",
        without: "a call that nobody waits for frees its place at a server that is still at it",
        file: ATTEMPT,
        before: "if let Some(permit) = &self.permit {
                        permit.detach();
                    }",
        after: "self.permit = None;",
        noticed: in_core(&["work_that_nobody_waits_for_keeps_its_place_at_the_server"]),
    },
    Guard {
        name: "rates-are-heeded",
        without: "a caller calls as often as it likes",
        file: "crates/core/src/call/rate.rs",
        before: "match self.level.checked_sub(one) {",
        after: "match Some(self.level) {",
        noticed: in_core(&["a_burst_and_then_one_by_one"]),
    },
    Guard {
        name: "signs-of-life-in-the-line",
        without: "a call that waits for a place says nothing",
        file: "crates/core/src/call.rs",
        before: "self.heartbeat.as_ref().map(|beats| beats.due)",
        after: "self.heartbeat.as_ref().map(|beats| beats.due).filter(|_| {
                self.journal.as_ref().is_none_or(|journal| journal.ahead().is_none())
            })",
        noticed: Noticed::Whole { file: "heartbeats", tests: &["over_http_with_a_session"] },
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
        assert!(GUARDS.len() >= 32);
        for guard in GUARDS {
            let named = match &guard.noticed {
                Noticed::Checking { words, .. } => words,
                Noticed::Beside { tests, .. } | Noticed::Whole { tests, .. } => tests,
            };
            assert!(!named.is_empty() && guard.before != guard.after, "{}", guard.name);
        }
    }
}
