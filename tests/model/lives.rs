//! Misdeeds of how a server starts, ends, and tells its callers apart.

use super::*;

/// The classes death, start, leftovers and asks.
pub(super) const ROWS: &[Row] = &[
    Row {
        test: "crash_in_a_call",
        row: "14 server dies in mid-call",
        class: Class::Death,
        does: Does::Call("crash", NO),
        reaches: Some(1),
        cells: &[
            on(&[Stdio], UNKNOWN).sibling(Sibling::InFlight(LOST)),
            on(NETWORK, UNKNOWN).sibling(Sibling::InFlight(LOST)).after(After::Fault("UPSTREAM_UNAVAILABLE")),
        ],
        ..PLAIN
    },
    Row {
        test: "crash_in_a_call_that_only_reads",
        row: "14 server dies in a call that only reads",
        class: Class::Death,
        does: Does::Call("crash_read", NO),
        cells: &[
            on(&[Stdio], LOST).sibling(Sibling::InFlight(LOST)),
            on(NETWORK, LOST).sibling(Sibling::InFlight(LOST)).after(After::Fault("UPSTREAM_UNAVAILABLE")),
        ],
        ..PLAIN
    },
    Row {
        test: "crash_that_leaves_stdout_open",
        row: "8 grandchild holds stdout",
        class: Class::Death,
        does: Does::Call("crash_leaving_a_child", NO),
        reaches: Some(1),
        replaced: true,
        cells: &[on(&[Stdio], UNKNOWN).sibling(Sibling::InFlight(LOST))],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "stream_that_ends",
        row: "agentgateway: stream ends without an answer, and is dead from then on",
        class: Class::Death,
        does: Does::Call("close_stream", NO),
        reaches: Some(1),
        cells: &[on(HTTP, UNKNOWN), on(CHANNELS, UNKNOWN).sibling(Sibling::InFlight(LOST))],
        ..PLAIN
    },
    Row {
        test: "stream_that_ends_after_progress",
        row: "stream cut after progress",
        class: Class::Death,
        does: Does::Call("progress_then_close", NO),
        reaches: Some(1),
        cells: &[on(HTTP, UNKNOWN), on(CHANNELS, UNKNOWN).sibling(Sibling::InFlight(LOST))],
        ..PLAIN
    },
    Row {
        test: "exit_at_a_cancel",
        row: "21 cancel kills the server",
        class: Class::Death,
        flags: &["--exit-on", "notifications/cancelled"],
        does: Does::Call("hang", NO),
        reaches: Some(1),
        cells: &[on(&[Stdio], LATE)],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "crash_loop",
        row: "13 crash loop",
        class: Class::Death,
        flags: &["--exit-once-open"],
        warm: false,
        does: Does::InTurn(12),
        starts: Starts::Braked,
        cells: &[on(&[Stdio], UNSTARTED)
            .sibling(Sibling::Nobody("it would be one more in turn"))
            .after(After::Fault("UPSTREAM_UNAVAILABLE"))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "opening_never_answered",
        row: "12 hangs in initialize",
        class: Class::Start,
        flags: &["--never", "initialize"],
        warm: false,
        reaches: Some(0),
        cells: &[on(ALL, NOT_UP)
            .sibling(Sibling::Nobody("it is not up for any tool"))
            .after(After::Nobody("it never comes up"))],
        ..PLAIN
    },
    Row {
        test: "exit_in_initialize",
        row: "12 dies in initialize",
        class: Class::Start,
        flags: &["--era", "legacy", "--exit-on", "initialize"],
        warm: false,
        reaches: Some(0),
        says: "because ",
        cells: &[on(&[Stdio], UNSTARTED)
            .sibling(Sibling::Nobody("it is not up for any tool"))
            .after(After::Fault("UPSTREAM_UNAVAILABLE"))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "cold_start",
        row: "9 start that takes longer than its caller waits",
        class: Class::Start,
        flags: &["--slow-start", "4000"],
        start_timeout: "13s",
        warm: false,
        reaches: Some(0),
        cells: &[on(&[Stdio], NOT_UP).sibling(Sibling::Nobody("it is not up for any tool"))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "start_storm",
        row: "10 spawn storm",
        class: Class::Start,
        keys: SHARED,
        // That of the probe, so that one process is enough.
        era: Some(Era::Modern),
        warm: false,
        does: Does::Together("pid", 16),
        takes_ms: 500,
        starts: Starts::AtMost(1),
        cells: &[on(&[Stdio], Ending::Result("")).sibling(Sibling::Nobody("there are sixteen"))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "probe_unanswered",
        row: "40 silent at the modern probe",
        class: Class::Start,
        flags: &["--silent-discover"],
        era: Some(Era::Modern),
        cells: &[on(&[Stdio, LegacyHttp], HERE)],
        left_out: &[(&[ModernHttp], "it is of the modern era"), (SERVICES, "they know the legacy era alone")],
        ..PLAIN
    },
    Row {
        test: "probe_that_kills",
        row: "40 exits at the modern probe",
        class: Class::Start,
        flags: &["--exit-on-discover"],
        era: Some(Era::Modern),
        cells: &[on(&[Stdio], HERE)],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "probe_refused",
        row: "40 refuses the modern probe",
        class: Class::Start,
        flags: &["--era", "legacy"],
        era: Some(Era::Modern),
        cells: &[on(&[Stdio, LegacyHttp], HERE)],
        left_out: &[(&[ModernHttp], "it is of the modern era"), (SERVICES, "they know the legacy era alone")],
        ..PLAIN
    },
    Row {
        test: "removed_while_it_starts",
        row: "25 reconnect revives a removed server",
        class: Class::Start,
        flags: &["--slow-start", "1000"],
        warm: false,
        reaches: Some(0),
        meanwhile: Meanwhile::Remove,
        replaced: true,
        cells: &[on(&[Stdio], UNSTARTED)
            .sibling(Sibling::Nobody("it is not up for any tool"))
            .after(After::Nobody("it is not there any more"))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "survives_eof_and_term",
        row: "1 and 2 survives its client and the end of stdin",
        class: Class::Leftovers,
        flags: &["--ignore-eof", "--ignore-term"],
        cells: &[on(&[Stdio], HERE)],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "three_wrappers_deep",
        row: "3 and 4 wrapper killed, grandchild lives, at a restart too",
        class: Class::Leftovers,
        flags: &["--wrapped", "3", "--ignore-eof"],
        does: Does::Call("hang", NO),
        reaches: Some(1),
        meanwhile: Meanwhile::Restart,
        replaced: true,
        cells: &[on(&[Stdio], UNKNOWN).sibling(Sibling::InFlight(LOST))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "grandchild_that_left_the_session",
        row: "3 grandchild left the session",
        class: Class::Leftovers,
        flags: &["--escapee"],
        does: Does::Call("hang", NO),
        reaches: Some(1),
        meanwhile: Meanwhile::Restart,
        replaced: true,
        cells: &[on(&[Stdio], UNKNOWN).sibling(Sibling::InFlight(LOST))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "close_that_takes_for_ever",
        row: "7 close blocks on a child that does not end",
        class: Class::Leftovers,
        flags: &["--ignore-eof", "--ignore-term"],
        does: Does::Call("hang", NO),
        reaches: Some(1),
        meanwhile: Meanwhile::Restart,
        replaced: true,
        cells: &[on(&[Stdio], UNKNOWN).sibling(Sibling::InFlight(LOST))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "container_behind_its_client",
        row: "5 container outlives its client",
        class: Class::Leftovers,
        container: true,
        cells: &[on(&[Stdio], HERE)],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "orphan_that_ends",
        row: "6 defunct children",
        class: Class::Leftovers,
        does: Does::Call("leave_an_orphan", NO),
        cells: &[on(&[Stdio], Ending::Result("left"))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "cancelled_and_goes_on",
        row: "21 cancelled call is never answered",
        class: Class::Asks,
        does: Does::Call("hang", NO),
        reaches: Some(1),
        meanwhile: Meanwhile::Cancel,
        cells: &[on(ALL, Ending::Nothing)],
        ..PLAIN
    },
    Row {
        test: "equal_ids_of_two_callers",
        row: "26 ids collide on a shared server",
        class: Class::Asks,
        keys: SHARED,
        does: Does::Twins,
        takes_ms: 300,
        reaches: Some(2),
        cells: &[on(ALL, Ending::Result("own"))],
        ..PLAIN
    },
    Row {
        test: "question_of_a_shared_server",
        row: "28 shared process asks, and nobody knows whom",
        class: Class::Asks,
        keys: SHARED,
        era: Some(Era::Legacy),
        client: Client::Named,
        does: Does::Call("ask_elicit", NO),
        cells: &[on(CHANNELS, Ending::Result("shared"))],
        left_out: &[
            (&[LegacyHttp], "what is asked on a call's own stream is asked of its caller"),
            NO_QUESTIONS,
        ],
        ..PLAIN
    },
    Row {
        test: "question_with_the_id_of_the_call",
        row: "28 ids of questions and calls collide",
        class: Class::Asks,
        era: Some(Era::Legacy),
        client: Client::Rooted,
        does: Does::Call("ask_with_its_id", NO),
        cells: &[on(SESSIONS, Ending::Result("roots"))
            .sibling(Sibling::Nobody("with two calls under way nobody knows whose question it is"))],
        left_out: &[NO_QUESTIONS],
        ..PLAIN
    },
    Row {
        test: "question_that_takes_its_time",
        row: "38 waiting for a person counts as the tool's time",
        class: Class::Asks,
        era: Some(Era::Legacy),
        client: Client::Slow,
        does: Does::Call("ask_elicit", NO),
        takes_ms: 2500,
        cells: &[on(SESSIONS, Ending::Result("Ada"))
            .sibling(Sibling::Nobody("with two calls under way nobody knows whose question it is"))],
        left_out: &[NO_QUESTIONS],
        ..PLAIN
    },
];
