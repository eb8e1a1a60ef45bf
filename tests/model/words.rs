//! Misdeeds of what a server says, and of what it does not say or hear.

use super::*;

/// The classes silence, busy, deaf, flood, garbage and lies.
pub(super) const ROWS: &[Row] = &[
    Row {
        test: "call_never_answered",
        row: "agentgateway: tool call never answered",
        does: Does::Call("hang", NO),
        reaches: Some(1),
        cells: &[on(ALL, LATE)],
        ..PLAIN
    },
    Row {
        test: "headers_then_silence",
        row: "agentgateway: headers, then silence",
        does: Does::Call("headers_then_nothing", NO),
        reaches: Some(1),
        cells: &[on(HTTP, LATE)],
        left_out: &[SAME_AS_SILENCE],
        ..PLAIN
    },
    Row {
        test: "comments_only",
        row: "agentgateway: a stream that stalls but for comments",
        does: Does::Call("dribble", NO),
        reaches: Some(1),
        cells: &[on(ALL, LATE)],
        ..PLAIN
    },
    Row {
        test: "progress_then_silence",
        row: "agentgateway: progress, then silence",
        does: Does::Call("progress_then_nothing", NO),
        reaches: Some(1),
        cells: &[on(ALL, LATE)],
        ..PLAIN
    },
    Row {
        test: "half_a_reply",
        row: "half a reply, then silence",
        does: Does::Call("half_reply", NO),
        reaches: Some(1),
        cells: &[on(HTTP, LATE), on(CHANNELS, LATE).sibling(Sibling::Called(LATE))],
        ..PLAIN
    },
    Row {
        test: "one_byte_a_second",
        row: "one byte a second for ever",
        does: Does::Call("one_byte_a_second", NO),
        reaches: Some(1),
        cells: &[on(HTTP, LATE), on(CHANNELS, LATE).sibling(Sibling::Called(LATE))],
        ..PLAIN
    },
    Row {
        test: "valid_reply_after_the_deadline",
        row: "21 cancelled call goes on and answers late",
        does: Does::Call("late", r#"{"ms":2000}"#),
        reaches: Some(1),
        cells: &[on(ALL, LATE)],
        ..PLAIN
    },
    Row {
        test: "stopped_process",
        row: "stopped with SIGSTOP",
        does: Does::Call("stop_itself", NO),
        reaches: Some(1),
        replaced: true,
        cells: &[on(&[Stdio], LATE).sibling(Sibling::Called(LATE))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "list_never_answered",
        row: "agentgateway: list never answered",
        flags: &["--never", "tools/list"],
        does: Does::List,
        cells: &[on(ALL, Ending::Error("TIMEOUT"))],
        ..PLAIN
    },
    Row {
        test: "list_headers_then_silence",
        row: "agentgateway: headers of a list, then silence",
        flags: &["--stall", "tools/list"],
        does: Does::List,
        cells: &[on(HTTP, Ending::Error("TIMEOUT"))],
        left_out: &[SAME_AS_SILENCE],
        ..PLAIN
    },
    Row {
        test: "ping_refused",
        row: "22 ping unsupported",
        flags: &["--refuse", "ping"],
        does: Does::Call("hang", NO),
        stays: Stays::Alone,
        cells: &[on(&[Stdio], LATE)],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "ping_never_answered",
        row: "22 ping silently dropped",
        flags: &["--never", "ping"],
        does: Does::Call("hang", NO),
        stays: Stays::Talking,
        cells: &[on(&[Stdio], LATE)],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "busy_then_answers",
        row: "37 one slow tool blocks the others",
        class: Class::Busy,
        does: Does::Call("busy", r#"{"ms":800}"#),
        takes_ms: 800,
        cells: &[on(ALL, Ending::Result("busy"))],
        ..PLAIN
    },
    Row {
        test: "busy_beyond_the_deadline",
        row: "busy is not dead",
        class: Class::Busy,
        does: Does::Call("busy", r#"{"ms":2500}"#),
        reaches: Some(1),
        stays: Stays::Alone,
        cells: &[on(SESSIONS, LATE).sibling(Sibling::Called(LATE))],
        left_out: &[(&[ModernHttp], "a closed stream ends the work, and with it the being busy")],
        ..PLAIN
    },
    Row {
        test: "idle_while_a_call_runs",
        row: "23 idle reaper kills a call in flight",
        class: Class::Busy,
        keys: "idle = \"500ms\"",
        does: Does::Call("sleep", r#"{"ms":1200}"#),
        takes_ms: 1200,
        cells: &[on(&[Stdio], Ending::Result("sleep"))],
        left_out: &[NO_PROCESS],
        ..PLAIN
    },
    Row {
        test: "never_reads",
        row: "18 server does not read its stdin",
        class: Class::Deaf,
        before: Some("stop_reading"),
        does: Does::Call("echo", BIG_ECHO),
        reaches: Some(0),
        replaced: true,
        cells: &[on(&[Stdio], LATE).sibling(Sibling::Called(LATE))],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "reads_one_byte_a_second",
        row: "18 server reads one byte a second",
        class: Class::Deaf,
        before: Some("read_slowly"),
        does: Does::Call("echo", BIG_ECHO),
        reaches: Some(0),
        replaced: true,
        cells: &[on(&[Stdio], LATE).sibling(Sibling::Called(LATE))],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "child_of_the_server_eats_its_stdin",
        row: "36 server's own child eats its stdin",
        class: Class::Deaf,
        before: Some("feed_a_child"),
        reaches: Some(0),
        replaced: true,
        cells: &[on(&[Stdio], LATE).sibling(Sibling::Called(LATE))],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "stderr_flood",
        row: "16 undrained stderr",
        class: Class::Flood,
        does: Does::Call("stderr", r#"{"bytes":4000000}"#),
        takes_ms: 1000,
        cells: &[on(&[Stdio], Ending::Result("written"))],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "stderr_without_a_line_end",
        row: "16 stderr without a line's end",
        class: Class::Flood,
        does: Does::Call("stderr_without_end", r#"{"bytes":4000000}"#),
        takes_ms: 1000,
        cells: &[on(&[Stdio], Ending::Result("written"))],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "chatty_server",
        row: "flood of log messages",
        class: Class::Flood,
        does: Does::Call("chatter", NO),
        takes_ms: 1000,
        cells: &[on(ALL, Ending::Result("said all"))],
        ..PLAIN
    },
    Row {
        test: "list_changed_storm",
        row: "39 storm of list changes, on the session's own stream where it has one",
        class: Class::Flood,
        does: Does::Call("list_storm", NO),
        takes_ms: 1000,
        cells: &[on(ALL, Ending::Result("changed"))],
        ..PLAIN
    },
    Row {
        test: "client_that_does_not_read",
        row: "agentgateway: slow reader of the session's stream, chatty child",
        class: Class::Flood,
        era: Some(Era::Legacy),
        does: Does::Call("chatter", NO),
        meanwhile: Meanwhile::SlowReader,
        takes_ms: 1000,
        cells: &[on(ALL, Ending::Result("said all"))],
        ..PLAIN
    },
    Row {
        test: "line_of_64_kib",
        row: "17 line of 64 KiB",
        class: Class::Flood,
        does: Does::Call("big", r#"{"bytes":65536}"#),
        cells: &[on(ALL, Ending::Result("xxxx"))],
        ..PLAIN
    },
    Row {
        test: "line_over_the_limit",
        row: "17 line over the limit",
        class: Class::Flood,
        limits: "[limits]\nmessage = \"1MiB\"\n",
        does: Does::Call("big", r#"{"bytes":2000000}"#),
        reaches: Some(1),
        takes_ms: 500,
        cells: &[
            on(ALL, LARGE).sibling(Sibling::Nobody("nobody can tell whose answer it was, were there two"))
        ],
        ..PLAIN
    },
    Row {
        test: "garbage_flood",
        row: "15 flood of lines that are no messages",
        class: Class::Garbage,
        does: Does::Call("garbage_flood", NO),
        takes_ms: 1000,
        cells: &[on(CHANNELS, Ending::Result("after the flood"))],
        left_out: &[(HTTP, "an answer is one body, and one is enough")],
        ..PLAIN
    },
    Row {
        test: "garbage_between_replies",
        row: "15 log on stdout",
        class: Class::Garbage,
        does: Does::Call("garbage", NO),
        cells: &[on(CHANNELS, Ending::Result("after garbage")), on(HTTP, NONSENSE)],
        ..PLAIN
    },
    Row {
        test: "banner_before_the_first_reply",
        row: "15 banner on stdout",
        class: Class::Garbage,
        flags: &["--banner"],
        cells: &[on(&[Stdio], HERE)],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "byte_order_mark",
        row: "19 byte order mark",
        class: Class::Garbage,
        flags: &["--bom"],
        cells: &[on(&[Stdio], HERE)],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "carriage_return",
        row: "19 CRLF",
        class: Class::Garbage,
        does: Does::Call("crlf", NO),
        cells: &[on(&[Stdio], Ending::Result("CRLF"))],
        left_out: &[NO_PIPE],
        ..PLAIN
    },
    Row {
        test: "line_separators",
        row: "19 U+2028 in a text",
        class: Class::Garbage,
        does: Does::Call("line_separator", NO),
        cells: &[on(ALL, Ending::Result("line\u{2028}separator\u{2029}and\u{85}others"))],
        ..PLAIN
    },
    Row {
        test: "invalid_utf8",
        row: "19 invalid UTF-8",
        class: Class::Garbage,
        does: Does::Call("invalid_utf8", NO),
        cells: &[on(&[Stdio], Ending::Result("caf\u{FFFD} au lait")), on(HTTP, NONSENSE)],
        left_out: &[
            (&[Sse], "the reader of events is that of streamable HTTP"),
            (&[WebSocket], "a frame of text that is no UTF-8 breaks the connection, which another row does"),
        ],
        ..PLAIN
    },
    Row {
        test: "reply_with_an_unknown_id",
        row: "20 reply with an unknown id",
        class: Class::Lies,
        does: Does::Call("wrong_id", NO),
        reaches: Some(1),
        cells: &[on(ALL, Ending::Result("right"))],
        ..PLAIN
    },
    Row {
        test: "reply_with_the_id_zero",
        row: "20 reply with the id 0",
        class: Class::Lies,
        does: Does::Call("id_zero", NO),
        reaches: Some(1),
        cells: &[on(CHANNELS, LATE), on(HTTP, NONSENSE)],
        ..PLAIN
    },
    Row {
        test: "reply_with_its_id_as_a_string",
        row: "20 number and string mixed",
        class: Class::Lies,
        does: Does::Call("id_text", NO),
        reaches: Some(1),
        cells: &[on(CHANNELS, LATE), on(HTTP, NONSENSE)],
        ..PLAIN
    },
    Row {
        test: "two_replies",
        row: "20 two replies to one request",
        class: Class::Lies,
        does: Does::Call("twice", NO),
        reaches: Some(1),
        cells: &[on(CHANNELS, Ending::Result("first"))],
        left_out: &[(HTTP, "a body holds one reply")],
        ..PLAIN
    },
    Row {
        test: "progress_with_a_foreign_token",
        row: "27 progress with a foreign token",
        class: Class::Lies,
        does: Does::Call("foreign_progress", NO),
        cells: &[on(ALL, Ending::Result("mine"))],
        ..PLAIN
    },
    Row {
        test: "neither_result_nor_error",
        row: "reply with neither a result nor an error",
        class: Class::Lies,
        does: Does::Call("neither", NO),
        reaches: Some(1),
        cells: &[on(ALL, NONSENSE)],
        ..PLAIN
    },
    Row {
        test: "result_is_null",
        row: "result that is null",
        class: Class::Lies,
        does: Does::Call("null_result", NO),
        reaches: Some(1),
        cells: &[on(ALL, NONSENSE)],
        ..PLAIN
    },
    Row {
        test: "result_without_content",
        row: "result without the content it needs",
        class: Class::Lies,
        does: Does::Call("empty_result", NO),
        reaches: Some(1),
        cells: &[on(ALL, NONSENSE)],
        ..PLAIN
    },
    Row {
        test: "empty_body",
        row: "HTTP 200 with an empty body",
        class: Class::Lies,
        does: Does::Call("empty_body", NO),
        reaches: Some(1),
        cells: &[on(HTTP, NONSENSE)],
        left_out: &[NOT_HTTP],
        ..PLAIN
    },
    Row {
        test: "accepted_and_no_more",
        row: "HTTP 202 to a request",
        class: Class::Lies,
        does: Does::Call("accepted", NO),
        reaches: Some(1),
        cells: &[on(HTTP, NONSENSE)],
        left_out: &[NOT_HTTP],
        ..PLAIN
    },
    Row {
        test: "page_instead_of_a_reply",
        row: "HTTP 200 with a page",
        class: Class::Lies,
        does: Does::Call("html", NO),
        reaches: Some(1),
        cells: &[on(HTTP, NONSENSE)],
        left_out: &[NOT_HTTP],
        ..PLAIN
    },
    Row {
        test: "wrong_content_type",
        row: "right reply of the wrong type",
        class: Class::Lies,
        does: Does::Call("wrong_type", NO),
        reaches: Some(1),
        cells: &[on(HTTP, Ending::Result("plain"))],
        left_out: &[NOT_HTTP],
        ..PLAIN
    },
    Row {
        test: "redirected_elsewhere",
        row: "HTTP redirect",
        class: Class::Lies,
        does: Does::Call("redirect", NO),
        reaches: Some(1),
        cells: &[on(HTTP, NONSENSE)],
        left_out: &[NOT_HTTP],
        ..PLAIN
    },
    Row {
        test: "session_forgotten",
        row: "agentgateway: session that the upstream has forgotten",
        class: Class::Lies,
        before: Some("forget_session"),
        keys: "retries = { max = 1 }",
        starts: Starts::OnceMore,
        cells: &[on(&[LegacyHttp, Sse], HERE)],
        left_out: &[
            (&[Stdio, ModernHttp], "it has no session"),
            (&[WebSocket], "the connection is the session"),
        ],
        ..PLAIN
    },
    Row {
        test: "definitions_that_change",
        row: "39 definitions differ between two lists",
        class: Class::Lies,
        flags: &["--changing"],
        // A modern upstream over stdio tells of a change only those that listen for it.
        era: Some(Era::Legacy),
        before: Some("add_tool"),
        redefined: true,
        cells: &[on(ALL, HERE)],
        ..PLAIN
    },
];
