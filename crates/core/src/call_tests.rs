//! The call path on a paused clock, in front of an upstream that plays a script.

use super::{line::EVENTS, *};
use crate::{
    config::{self, Config},
    life::Life,
};
use bytes::Bytes;
use seawall_proto::{
    Message, ReplyKind,
    era::{Face, Wire, serve},
    event::Answer as AskAnswer,
};
use std::path::PathBuf;

#[path = "call/flight_tests.rs"]
mod flights;

#[path = "call/reload_tests.rs"]
mod reloads;

const SECOND: Duration = Duration::from_secs(1);

fn config(script: &[&str], more: &str) -> Config {
    let args: Vec<String> = script.iter().map(|line| format!("{line:?}")).collect();
    let text = format!(
        "[servers.s]\ncommand = \"script\"\nargs = [{}]\nsharing = \"everyone\"\ntimeout = \"10s\"\n{more}",
        args.join(", ")
    );
    let sources = config::Sources {
        own: Some(config::Source { path: PathBuf::from("test.toml"), text }),
        foreign: Vec::new(),
        environment: &|_| None,
        overrides: Vec::new(),
        state_default: PathBuf::from("/nowhere"),
        base: PathBuf::new(),
    };
    config::lower(&sources).unwrap().0
}

/// A gateway whose catalogue knows the script's tools.
async fn gateway(script: &[&str], more: &str) -> Arc<Gateway> {
    let gateway = Gateway::new(Arc::new(config(script, more)), None, Life::default()).await.unwrap();
    let mut changes = gateway.catalog().changes();
    if gateway.catalog().listing("s", "").is_none() {
        changes.recv().await.unwrap();
    }
    gateway
}

/// What a client of the era with sessions speaks.
fn legacy() -> (Wire, Arc<Face>) {
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}}}}"#;
    let (wire, face) =
        serve::initialize(&Message::parse(Bytes::from_static(text.as_bytes())).unwrap()).unwrap();
    (wire, Arc::new(face))
}

fn call_by(tool: &str, (wire, face): (Wire, Arc<Face>)) -> Call {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{{}},"_meta":{{"progressToken":1}}}}}}"#
    );
    let request = serve::in_session(Message::parse(text.into()).unwrap(), &wire, &face).unwrap();
    Call {
        caller: Arc::new(Caller::unlimited("c")),
        conversation: None,
        endpoint: Endpoint::One("s".into()),
        request: Arc::new(request),
        limit: None,
        heartbeat: None,
        followed: false,
        idempotency: None,
    }
}

fn call(tool: &str) -> Call {
    call_by(tool, legacy())
}

async fn end(answer: &mut Answer) -> Result<Reply, Fault> {
    loop {
        if let Event::End(end) = answer.next().await {
            return end;
        }
    }
}

fn happened(gateway: &Gateway) -> Vec<String> {
    let record = gateway.upstream("s").unwrap().record();
    record.into_iter().filter(|event| !event.ends_with("list")).collect()
}

/// Lets every other task do what it can without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_comes_when_it_comes_and_leaves_nothing_behind() {
    let gateway = gateway(&["progress 1000; reply 1000"], "").await;
    let began = Instant::now();
    let mut answer = gateway.call(call("read"));
    assert!(matches!(answer.next().await, Event::Progress(_)));
    assert_eq!(end(&mut answer).await.unwrap().kind, ReplyKind::Result);
    assert_eq!(began.elapsed(), 2 * SECOND);
    settle().await;
    assert!(gateway.admission.rows().is_empty());
    assert_eq!(happened(&gateway), ["start progress", "end reply"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_at_its_deadline_and_the_upstream_is_told() {
    let gateway = gateway(&["hang"], "").await;
    let began = Instant::now();
    let fault = end(&mut gateway.call(call("write"))).await.unwrap_err();
    assert_eq!(began.elapsed(), 10 * SECOND);
    assert_eq!((fault.code, fault.stage, fault.may_have_run), (Code::Timeout, Stage::Answer, true));
    assert_eq!((fault.elapsed_ms, fault.budget_ms), (10_000, 10_000));
    settle().await;
    assert_eq!(happened(&gateway), ["start hang", "cancel"]);
    assert!(gateway.admission.rows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_limit_ends_its_wait_and_not_the_work() {
    for (tool, record) in
        [("write", vec!["start reply", "end reply"]), ("read", vec!["start reply", "cancel"])]
    {
        let gateway = gateway(&["reply 5000"], "").await;
        let mut answer = gateway.call(Call { limit: Some(2 * SECOND), ..call(tool) });
        let fault = end(&mut answer).await.unwrap_err();
        assert_eq!((fault.code, fault.elapsed_ms), (Code::Timeout, 2000), "{tool}");
        settle().await;
        let total = gateway.admission.loads()[0].in_use;
        assert_eq!(total, 0, "nobody waits, so the caller's half is free");
        tokio::time::sleep(9 * SECOND).await;
        assert_eq!(happened(&gateway), record, "{tool}");
        assert!(gateway.admission.rows().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_nobody_waits_for_keeps_its_place_at_the_server() {
    let gateway = gateway(&["reply 5000"], "limit = 1\n").await;
    let began = Instant::now();
    let mut first = gateway.call(Call { limit: Some(2 * SECOND), ..call("write") });
    assert_eq!(end(&mut first).await.unwrap_err().code, Code::Timeout);
    settle().await;
    let rows = gateway.admission.rows();
    let held: Vec<_> = rows.iter().map(|row| (row.caller_half, row.upstream_half, row.detached)).collect();
    assert_eq!(held, [(false, true, true)]);
    end(&mut gateway.call(call("write"))).await.unwrap();
    assert_eq!(began.elapsed(), 10 * SECOND, "the second is begun when the first is over");
    settle().await;
    assert!(gateway.admission.rows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_call_tells_that_it_goes_on_and_progress_only_rises() {
    let gateway = gateway(&["progress 5000; progress 3000; reply 500"], "").await;
    let mut answer = gateway.call(Call { heartbeat: Some(2 * SECOND), ..call("read") });
    let began = Instant::now();
    let mut heard = Vec::new();
    while let Event::Progress(message) = answer.next().await {
        heard.push((began.elapsed().as_secs(), seawall_proto::era::serve::progress(&message).unwrap()));
    }
    assert_eq!(began.elapsed(), 17 * SECOND / 2);
    // The upstream says 1 after five seconds, and again after eight, when a sign of life had gone past it.
    let (seconds, told): (Vec<_>, Vec<_>) = heard.into_iter().unzip();
    assert_eq!(seconds, [2, 4, 5, 7]);
    assert!(told.is_sorted_by(|earlier, later| earlier < later), "{told:?}");
    assert_eq!(told[2], 1.0);
}

#[tokio::test(start_paused = true)]
async fn leaving_and_taking_back_follow_the_rule_of_the_era() {
    let modern = (Wire::own(), Face::own());
    for (who, tool, explicit, stopped) in [
        (legacy(), "write", false, false),
        (legacy(), "read", false, true),
        (legacy(), "write", true, true),
        (modern, "write", false, true),
    ] {
        let gateway = gateway(&["reply 5000"], "").await;
        let wire = who.0;
        let answer = gateway.call(call_by(tool, who));
        tokio::time::sleep(SECOND).await;
        if explicit {
            answer.interest().lower(Interest::Cancelled);
            settle().await;
        }
        drop(answer);
        tokio::time::sleep(9 * SECOND).await;
        let last = happened(&gateway).pop().unwrap();
        assert_eq!(last == "cancel", stopped, "{wire:?} {tool} {explicit}: {last}");
        assert!(gateway.admission.rows().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_left_the_line_is_never_begun() {
    let gateway = gateway(&["reply 3000"], "limit = 1\n").await;
    let mut first = gateway.call(call("write"));
    let second = gateway.call(call("write"));
    tokio::time::sleep(SECOND).await;
    drop(second);
    end(&mut first).await.unwrap();
    tokio::time::sleep(9 * SECOND).await;
    assert_eq!(happened(&gateway), ["start reply", "end reply"]);
}

#[tokio::test(start_paused = true)]
async fn time_in_line_is_spent_from_the_deadline() {
    let gateway = gateway(&["hang"], "limit = 1\n").await;
    let (mut first, mut second) = (gateway.call(call("write")), gateway.call(call("write")));
    let (first, second) = tokio::join!(end(&mut first), end(&mut second));
    assert_eq!(first.unwrap_err().code, Code::Timeout);
    let second = second.unwrap_err();
    assert_eq!((second.code, second.stage, second.may_have_run), (Code::OverCapacity, Stage::Admit, false));
    assert_eq!(second.elapsed_ms, 10_000);
}

#[tokio::test(start_paused = true)]
async fn only_what_was_not_sent_is_tried_again_and_only_once() {
    for (script, code, starts) in [
        (&["lose-no 0", "reply 0"][..], None, 2),
        (&["lose-no 0", "lose-no 0", "reply 0"], Some(Code::UpstreamUnavailable), 2),
        (&["lose-maybe 0", "reply 0"], Some(Code::OutcomeUnknown), 1),
    ] {
        let gateway = gateway(script, "retries = { max = 1 }\n").await;
        let ended = end(&mut gateway.call(call("write"))).await;
        assert_eq!(ended.as_ref().err().map(|fault| fault.code), code, "{script:?}");
        let may_have_run = code == Some(Code::OutcomeUnknown);
        assert_eq!(ended.is_err_and(|fault| fault.may_have_run), may_have_run, "{script:?}");
        assert_eq!(happened(&gateway).iter().filter(|event| event.starts_with("start")).count(), starts);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_out_of_time_is_made_again_only_where_it_cannot_have_acted() {
    let more = "attempt_timeout = \"2s\"\nretries = { max = 2, backoff = \"100ms\" }\n";
    for (tool, attempts) in [("write", 1), ("read", 3)] {
        let gateway = gateway(&["hang"], more).await;
        let began = Instant::now();
        let fault = end(&mut gateway.call(call(tool))).await.unwrap_err();
        assert_eq!((fault.code, fault.may_have_run), (Code::Timeout, true), "{tool}");
        let starts = happened(&gateway).iter().filter(|event| event.starts_with("start")).count();
        assert_eq!(starts, attempts, "{tool}");
        // The pauses between them are 300 ms at most.
        let took = began.elapsed().as_secs();
        assert_eq!(took, 2 * attempts as u64, "{tool}");
        settle().await;
        assert!(gateway.admission.rows().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reader_is_unavailable_rather_than_unknown() {
    let gateway = gateway(&["lose-maybe 0"], "").await;
    let fault = end(&mut gateway.call(call("read"))).await.unwrap_err();
    assert_eq!(fault.code, Code::UpstreamUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_question_stops_the_clock_and_lends_the_callers_half_back() {
    let gateway = gateway(&["ask 1000; reply 8000"], "").await;
    let began = Instant::now();
    let mut answer = gateway.call(call("write"));
    let ask = loop {
        if let Event::Ask(ask) = answer.next().await {
            break ask;
        }
    };
    settle().await;
    assert_eq!(gateway.admission.loads()[0].in_use, 0);
    tokio::time::sleep(60 * SECOND).await;
    assert!(gateway.admission.audit().is_empty());
    ask.reply.answer(AskAnswer::Refused("no"));
    assert_eq!(gateway.admission.loads()[0].in_use, 1);
    assert!(end(&mut answer).await.is_ok(), "a minute of thinking was not the upstream's");
    assert_eq!(began.elapsed(), 69 * SECOND);
    settle().await;
    assert!(gateway.admission.rows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_question_to_a_caller_that_cannot_be_asked_is_refused() {
    let gateway = gateway(&["ask 0; reply 1000"], "").await;
    let mut answer = gateway.call(call_by("write", (Wire::own(), Face::own())));
    assert!(end(&mut answer).await.is_ok());
    assert!(happened(&gateway).iter().any(|event| event.contains("Refused")));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_loses_progress_and_not_the_end() {
    let line = format!("{}reply 0", "progress 1; ".repeat(2 * EVENTS));
    let gateway = gateway(&[&line], "").await;
    let mut answer = gateway.call(call("write"));
    tokio::time::sleep(5 * SECOND).await;
    let mut progress = 0;
    let ended = loop {
        match answer.next().await {
            Event::End(ended) => break ended,
            _ => progress += 1,
        }
    };
    assert!(ended.is_ok());
    assert_eq!(progress, EVENTS);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_call_is_said_before_anything_is_sent() {
    let gateway = gateway(&["reply 0"], "[servers.s.tools.write]\ntimeout = \"1s\"\n").await;
    let invalid = end(&mut gateway.call(call("strict"))).await.unwrap_err();
    assert_eq!((invalid.code, invalid.stage), (Code::InvalidArguments, Stage::Validate));
    let narrow =
        config::Caller { name: "n".into(), token_sha256: [0; 32], rate: None, tools: vec!["s__read".into()] };
    let narrow = auth::Callers::new(&[narrow]);
    assert!(narrow.find(None).is_none());
    let unknown = Call { endpoint: Endpoint::All, ..call("s__none") };
    assert_eq!(end(&mut gateway.call(unknown)).await.unwrap_err().code, Code::ToolNotFound);
    let elsewhere = Call { endpoint: Endpoint::One("none".into()), ..call("read") };
    assert_eq!(end(&mut gateway.call(elsewhere)).await.unwrap_err().code, Code::ToolNotFound);
    assert!(happened(&gateway).is_empty());
    let public = Call { endpoint: Endpoint::All, ..call("S__Read") };
    assert!(end(&mut gateway.call(public)).await.is_ok(), "a model may spell a name its own way");
}

#[tokio::test(start_paused = true)]
async fn a_tools_own_time_limit_holds_for_it() {
    let gateway = gateway(&["hang"], "[servers.s.tools.write]\ntimeout = \"3s\"\n").await;
    assert_eq!(end(&mut gateway.call(call("write"))).await.unwrap_err().elapsed_ms, 3000);
    assert_eq!(end(&mut gateway.call(call("read"))).await.unwrap_err().elapsed_ms, 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_taken_back_at_once_is_never_sent() {
    let gateway = gateway(&["reply 1000"], "").await;
    let mut answer = gateway.call(call("write"));
    answer.interest().lower(Interest::Cancelled);
    let fault = end(&mut answer).await.unwrap_err();
    assert_eq!((fault.code, fault.may_have_run), (Code::Cancelled, false));
    assert!(happened(&gateway).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_not_tried_again() {
    for (stays, starts) in [(true, 2), (false, 1)] {
        let keys = "[servers.s.tools.write]\neffects = \"idempotent\"\n";
        let gateway = gateway(&["lose-maybe 3000", "reply 0"], keys).await;
        let answer = gateway.call(call("write"));
        tokio::time::sleep(SECOND).await;
        let kept = stays.then_some(answer);
        tokio::time::sleep(9 * SECOND).await;
        let begun = happened(&gateway).iter().filter(|event| event.starts_with("start")).count();
        assert_eq!(begun, starts, "it stays: {stays}");
        drop(kept);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_had_no_time_left_says_nothing_of_the_server() {
    let keys = "limit = 1\nbreaker = { window = \"1m\", failures = 0.1, least = 1 }\n";
    for (script, breaker) in [(["reply 8000", "hang"], "closed"), (["reply 2000", "hang"], "open")] {
        let gateway = gateway(&script, keys).await;
        let (mut first, mut second) = (gateway.call(call("write")), gateway.call(call("write")));
        let (first, second) = tokio::join!(end(&mut first), end(&mut second));
        assert!(first.is_ok());
        assert_eq!(second.unwrap_err().code, Code::Timeout);
        assert_eq!(gateway.upstream("s").unwrap().track().show().breaker, breaker, "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_one_rate_refuses_does_not_use_up_the_other() {
    let gateway = gateway(&["reply 0"], "rate = \"3/h\"\n[limits]\nrate = \"1/h\"\n").await;
    assert!(end(&mut gateway.call(call("read"))).await.is_ok());
    for _ in 0..5 {
        assert_eq!(end(&mut gateway.call(call("read"))).await.unwrap_err().code, Code::OverCapacity);
    }
    let rate = config::Rate { calls: 3, per: 3600 * SECOND };
    let [caller, server, tool]: [Arc<str>; 3] = ["c", "s", "read"].map(Arc::from);
    let take = || gateway.rates.take(&caller, Some((&server, &tool)), rate, Instant::now());
    assert_eq!((take().is_ok(), take().is_ok(), take().is_ok()), (true, true, false));
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_has_listed_share_one_rate() {
    let gateway = gateway(&["reply 0"], "rate = \"2/h\"\n").await;
    let code = async |tool: &str| end(&mut gateway.call(call(tool))).await.err().map(|fault| fault.code);
    assert_eq!([code("a").await, code("b").await, code("c").await], [None, None, Some(Code::OverCapacity)]);
    assert_eq!(code("read").await, None);
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_caller_takes_to_answer_is_not_learned() {
    let gateway = gateway(&["ask 100; reply 200"], "learn = { floor = \"1ms\", factor = 2.0 }\n").await;
    for _ in 0..20 {
        let mut answer = gateway.call(call("write"));
        while let Event::Ask(ask) = answer.next().await {
            tokio::time::sleep(60 * SECOND).await;
            ask.reply.answer(AskAnswer::Refused("no"));
        }
    }
    let shown = gateway.upstream("s").unwrap().track().show();
    assert_eq!(shown.learned_ms.get("write"), Some(&600));
}
