//! The tools of the chaos suite: misdeeds that are listed only with `--all`.

use crate::descent;
use crate::server::{Exchange, Part, lock};
use crate::tools::{Arguments, Tool, text};
use crate::wire::{self, Params};
use serde_json::json;
use std::future::pending;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep;

/// How many log messages `chatter` sends before its reply, and lines `garbage_flood`.
const FLOOD: usize = 5000;
/// A progress token and a request that no caller has.
const FOREIGN: &str = "424242";

pub(crate) const TOOLS: &[Tool] = &[
    ("echo_late", "Returns its text after ms.", &[("text", "string"), ("ms", "integer")]),
    ("one_byte_a_second", "Sends its reply one byte a second; all that shares its stream waits.", &[]),
    ("progress_then_nothing", "Sends progress once and never answers.", &[]),
    ("progress_then_close", "Sends progress once, then ends its stream, or exits.", &[]),
    ("busy", "Answers after ms, and nobody is answered meanwhile.", &[("ms", "integer")]),
    ("stop_itself", "Sends itself SIGSTOP.", &[]),
    ("read_slowly", "Answers; on stdio, then reads one byte a second.", &[]),
    ("feed_a_child", "Answers; on stdio, then leaves stdin to a child that throws it away.", &[]),
    ("leave_an_orphan", "Leaves a process without a parent, which ends soon after.", &[]),
    ("crash_read", "Exits with 42 at once, and is read-only.", &[]),
    ("crash_leaving_a_child", "Exits with 42; a child in a session of its own holds stdout.", &[]),
    ("stderr_without_end", "Writes so many bytes to stderr without a line's end.", &[("bytes", "integer")]),
    ("garbage_flood", "Sends thousands of lines or events that are no messages, then the reply.", &[]),
    ("chatter", "Sends thousands of log messages, then the reply.", &[]),
    ("list_storm", "Says thousands of times that its list of tools has changed, then replies.", &[]),
    ("crlf", "Ends the line of its reply with CRLF (stdio).", &[]),
    ("line_separator", "Returns a text with U+2028, U+2029 and U+0085 in it, unescaped.", &[]),
    ("invalid_utf8", "Returns a text with a byte in it that is not UTF-8.", &[]),
    ("id_zero", "Replies to the id 0.", &[]),
    ("id_text", "Replies to its id as a string.", &[]),
    ("twice", "Replies twice, differently.", &[]),
    ("foreign_progress", "Sends progress with a token that nobody has, then replies.", &[]),
    ("neither", "Replies with neither a result nor an error.", &[]),
    ("null_result", "Replies with a result that is null.", &[]),
    ("empty_result", "Replies with a result that has no content.", &[]),
    ("empty_body", "HTTP: answers 200 with an empty body.", &[]),
    ("accepted", "HTTP: answers 202, as if it were no request.", &[]),
    ("html", "HTTP: answers 200 with a page.", &[]),
    ("wrong_type", "HTTP: replies as text/plain.", &[]),
    ("redirect", "HTTP: answers 307 to another place.", &[]),
    ("forget_session", "Replies, and knows nothing of its session afterwards.", &[]),
    ("ask_with_its_id", "Asks for the roots with the id of the call itself, and returns the answer.", &[]),
];

/// Says again that nobody waits behind `busy`, however that ends.
struct Busy<'a>(&'a watch::Sender<bool>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// Does what the tool `name` does; whether there is one.
pub(crate) async fn call(exchange: &Exchange, name: &str, params: &Params, arguments: &Arguments) -> bool {
    let server = &exchange.server;
    let say = |said: &str| exchange.reply(text(said));
    let answer = |result: &str| {
        exchange.send(Part::Reply { status: 200, text: wire::result(exchange.id.get(), result) });
    };
    match name {
        "echo_late" => {
            sleep(Duration::from_millis(arguments.ms)).await;
            say(arguments.text.as_deref().unwrap_or_default());
        }
        "one_byte_a_second" => {
            exchange.send(Part::Trickle(exchange.result(text("the whole of a reply"))));
            pending().await
        }
        "progress_then_nothing" => {
            progress(exchange, params);
            pending().await
        }
        "progress_then_close" => {
            progress(exchange, params);
            exchange.send(Part::Close);
        }
        "busy" => {
            server.busy.send_replace(true);
            let busy = Busy(&server.busy);
            sleep(Duration::from_millis(arguments.ms)).await;
            drop(busy);
            say("busy");
        }
        "stop_itself" => {
            let stopped =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            say(&format!("{stopped:?}"));
        }
        "leave_an_orphan" => match descent::orphan() {
            Ok(()) => say("left"),
            Err(error) => say(&error.to_string()),
        },
        "crash_read" => std::process::exit(42),
        "crash_leaving_a_child" => {
            if let Err(error) = descent::escape(server.options.tag.as_deref(), true) {
                say(&error.to_string());
            } else {
                std::process::exit(42);
            }
        }
        "stderr_without_end" => match tokio::io::stderr().write_all(&vec![b'x'; arguments.bytes]).await {
            Ok(()) => say("written"),
            Err(error) => say(&error.to_string()),
        },
        "garbage_flood" => {
            for number in 0..FLOOD {
                exchange.send(Part::Garbage(format!("{number}: {{not json")));
            }
            say("after the flood");
        }
        "chatter" => {
            let log = r#"{"level":"info","logger":"chatter","data":"and another thing"}"#;
            for number in 0..FLOOD {
                exchange.send(Part::Event(wire::notification("notifications/message", log)));
                if number % 64 == 0 {
                    yield_now().await;
                }
            }
            say("said all");
        }
        "list_storm" => {
            for _ in 0..FLOOD {
                // An error means that nobody listens.
                let _ = server.tools_changed.send(());
                yield_now().await;
            }
            say("changed");
        }
        "crlf" => exchange.send(Part::Line(format!("{}\r\n", exchange.result(text("CRLF"))).into_bytes())),
        "line_separator" => say("line\u{2028}separator\u{2029}and\u{85}others"),
        "invalid_utf8" => {
            let reply = exchange.result(text("caf# au lait")).into_bytes();
            let reply = reply.into_iter().map(|byte| if byte == b'#' { 0xE9 } else { byte }).collect();
            exchange.send(Part::Whole { status: 200, kind: wire::JSON, body: reply });
        }
        "read_slowly" | "feed_a_child" => say(name),
        "id_zero" => exchange.send(misdirected(exchange, "0")),
        "id_text" => exchange.send(misdirected(exchange, &json!(exchange.id.get()).to_string())),
        "twice" => {
            say("first");
            say("second");
        }
        "foreign_progress" => {
            let params = format!(r#"{{"progressToken":{FOREIGN},"progress":1,"total":2}}"#);
            exchange.send(Part::Event(wire::notification("notifications/progress", &params)));
            say("mine");
        }
        "neither" => {
            let reply = format!(r#"{{"jsonrpc":"2.0","id":{}}}"#, exchange.id);
            exchange.send(Part::Reply { status: 200, text: reply });
        }
        "null_result" => answer("null"),
        "empty_result" => exchange.reply(json!({})),
        "empty_body" => exchange.send(whole(200, wire::JSON, "")),
        "accepted" => exchange.send(whole(202, wire::JSON, "")),
        "html" => exchange.send(whole(200, "text/html", "<!doctype html><title>Sign in</title>")),
        "wrong_type" => exchange.send(whole(200, "text/plain", &exchange.result(text("plain")))),
        "redirect" => exchange.send(whole(307, wire::JSON, "")),
        "forget_session" => {
            lock(&server.forgotten).extend(exchange.session.clone());
            say("forgotten");
        }
        "ask_with_its_id" => {
            let answer = exchange.ask_as(exchange.id.get().to_owned(), "roots/list", &json!({})).await;
            say(&answer);
        }
        _ => return false,
    }
    true
}

fn whole(status: u16, kind: &'static str, body: &str) -> Part {
    Part::Whole { status, kind, body: body.as_bytes().to_vec() }
}

/// A result for the request `id`, which is another one.
fn misdirected(exchange: &Exchange, id: &str) -> Part {
    let mut result = text("for someone else");
    if exchange.era == wire::Era::Modern {
        result["resultType"] = "complete".into();
    }
    Part::Reply { status: 200, text: wire::result(id, &result.to_string()) }
}

/// Tells the caller once how far it is; where it did not ask for that, in the log.
fn progress(exchange: &Exchange, params: &Params) {
    let (method, params) = match &params.meta.progress_token {
        Some(token) => ("notifications/progress", format!(r#"{{"progressToken":{token},"progress":1}}"#)),
        None => ("notifications/message", r#"{"level":"info","data":"one step"}"#.to_owned()),
    };
    exchange.send(Part::Event(wire::notification(method, &params)));
}
