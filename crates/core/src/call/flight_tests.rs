//! Work that is shared, on a paused clock.

use super::{super::idempotency, *};
use seawall_proto::Code;

/// Two calls of the same with other ids.
fn twice(tool: &str) -> (Call, Call) {
    (call(tool), numbered(tool, 8, "{}"))
}

fn numbered(tool: &str, id: u64, arguments: &str) -> Call {
    let (wire, face) = legacy();
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{{"progressToken":{id}}}}}}}"#
    );
    let request = serve::in_session(Message::parse(text.into()).unwrap(), &wire, &face).unwrap();
    Call { request: Arc::new(request), ..call(tool) }
}

fn id(reply: &Reply) -> u64 {
    Message::parse(reply.body.clone()).unwrap().id().unwrap().as_str().parse().unwrap()
}

fn starts(gateway: &Gateway) -> usize {
    happened(gateway).iter().filter(|event| event.starts_with("start")).count()
}

/// Nothing of any flight is left.
async fn nothing_is_left(gateway: &Gateway) {
    settle().await;
    assert_eq!(gateway.flights.count(), 0);
    assert!(gateway.admission.rows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn equal_calls_of_a_reader_share_one_attempt_and_each_has_its_own_answer() {
    let gateway = gateway(&["progress 1000; reply 1000"], "").await;
    let (first, second) = twice("read");
    let mut first = gateway.call(first);
    tokio::time::sleep(SECOND / 2).await;
    let mut second = gateway.call(second);
    assert_eq!(gateway.admission.loads()[0].in_use, 1, "the flight is charged to the call that began it");
    let Event::Progress(heard) = second.next().await else { panic!("progress comes first") };
    let token = br#""progressToken":8"#;
    assert!(heard.windows(token.len()).any(|part| part == token), "{heard:?}");
    let (first, second) = tokio::join!(end(&mut first), end(&mut second));
    assert_eq!((id(&first.unwrap()), id(&second.unwrap())), (7, 8));
    assert_eq!(starts(&gateway), 1);
    nothing_is_left(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_equal_or_writes_is_done_for_each() {
    for (one, other) in [
        (call("write"), numbered("write", 8, "{}")),
        (call("read"), numbered("read", 8, r#"{"n":1}"#)),
        (call("read"), Call { request: call_by("read", modern()).request, ..call("read") }),
    ] {
        let gateway = gateway(&["reply 1000"], "").await;
        let (mut one, mut other) = (gateway.call(one), gateway.call(other));
        let (one, other) = tokio::join!(end(&mut one), end(&mut other));
        assert!(one.is_ok() && other.is_ok());
        assert_eq!(starts(&gateway), 2);
        nothing_is_left(&gateway).await;
    }
}

fn modern() -> (Wire, Arc<Face>) {
    (Wire::own(), Face::own())
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_takes_no_second_names_the_first() {
    let gateway = gateway(&["reply 1000"], "duplicates = \"reject\"\n").await;
    for tool in ["read", "write"] {
        let (first, second) = twice(tool);
        let mut first = gateway.call(first);
        let fault = end(&mut gateway.call(second.clone())).await.unwrap_err();
        assert_eq!(fault.code, Code::Duplicate);
        assert_eq!(fault.original, first.journal().map(Journal::id));
        end(&mut first).await.unwrap();
        end(&mut gateway.call(second)).await.unwrap();
    }
    assert_eq!(starts(&gateway), 4);
    nothing_is_left(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_as_long_as_anybody_wants_it() {
    let gateway = gateway(&["reply 4000"], "").await;
    let (first, second) = twice("read");
    let (first, mut second) = (gateway.call(first), gateway.call(second));
    settle().await;
    drop(first);
    end(&mut second).await.unwrap();
    assert_eq!(happened(&gateway), ["start reply", "end reply"]);
    nothing_is_left(&gateway).await;

    let (first, second) = twice("read");
    let (first, second) = (gateway.call(first), gateway.call(second));
    settle().await;
    drop((first, second));
    settle().await;
    assert_eq!(happened(&gateway)[2..], ["start reply", "cancel"]);
    nothing_is_left(&gateway).await;
}

/// Between the moment when nobody waits any more and the end of the work somebody may join.
#[tokio::test(start_paused = true)]
async fn work_is_not_given_up_over_whoever_joined_at_the_last_moment() {
    let flights = Arc::new(flight::Flights::default());
    let join = || {
        let (caller, line) = CallerSide::follower();
        let key = flight::FlightKey::Named { caller: "c".into(), key: "k".into() };
        let journal = resolve::unresolved(&call("read"), Clock::new(10 * SECOND, Duration::ZERO));
        (flights.join(key, None, false, &Arc::new(journal), || line), caller)
    };
    let (Joined::Began(first), _) = join() else { panic!("there is no other") };
    let (joined, caller) = join();
    assert!(matches!(joined, Joined::Follows));
    assert!(!first.give_up(Interest::Left) && !first.give_up(Interest::Cancelled));
    caller.lower(Interest::Left);
    assert!(!first.give_up(Interest::Cancelled));
    assert!(first.give_up(Interest::Left));

    let (Joined::Began(second), _) = join() else { panic!("nobody joins what was given up") };
    drop(first);
    assert_eq!(flights.count(), 1, "the key is that of the second");
    drop(second);
    assert_eq!(flights.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_call_keeps_its_own_limit() {
    let gateway = gateway(&["reply 4000"], "").await;
    let (first, second) = twice("read");
    let mut first = gateway.call(first);
    let mut second = gateway.call(Call { limit: Some(SECOND), ..second });
    let fault = end(&mut second).await.unwrap_err();
    assert_eq!((fault.code, fault.elapsed_ms, fault.may_have_run), (Code::Timeout, 1000, true));
    end(&mut first).await.unwrap();
    assert_eq!(starts(&gateway), 1);
    nothing_is_left(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_in_the_second_half_of_the_time_begins_anew() {
    let gateway = gateway(&["reply 9000"], "").await;
    let (first, second) = twice("read");
    let mut first = gateway.call(first);
    tokio::time::sleep(6 * SECOND).await;
    let mut second = gateway.call(second.clone());
    let mut third = gateway.call(numbered("read", 9, "{}"));
    settle().await;
    assert_eq!(starts(&gateway), 2, "the third joins the second");
    let ends = tokio::join!(end(&mut first), end(&mut second), end(&mut third));
    assert!(ends.0.is_ok() && ends.1.is_ok() && ends.2.is_ok());
    nothing_is_left(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_leaves_with_its_flight_however_that_ends() {
    let gateway = gateway(&["hang"], "limit = 1\n[servers.s.tools.read]\ntimeout = \"5s\"\n").await;
    let (first, second) = twice("read");
    // No place in time, taken back in the line, taken back under way, out of time.
    let mut holds = gateway.call(numbered("write", 1, "{}"));
    let fault = {
        let (mut one, mut other) = (gateway.call(first.clone()), gateway.call(second.clone()));
        let (one, other) = tokio::join!(end(&mut one), end(&mut other));
        assert_eq!(other.unwrap_err().code, Code::OverCapacity);
        one.unwrap_err()
    };
    assert_eq!(fault.code, Code::OverCapacity);
    assert_eq!(end(&mut holds).await.unwrap_err().code, Code::Timeout);
    assert_eq!(gateway.flights.count(), 0);
    let holds = gateway.call(numbered("write", 1, "{}"));
    let one = gateway.call(first.clone());
    settle().await;
    assert_eq!(gateway.flights.count(), 1);
    drop(one);
    settle().await;
    assert_eq!(gateway.flights.count(), 0, "the line was left");
    holds.interest().lower(Interest::Cancelled);
    tokio::time::sleep(3 * SECOND).await;
    let one = gateway.call(first);
    settle().await;
    one.interest().lower(Interest::Cancelled);
    settle().await;
    assert_eq!(gateway.flights.count(), 0, "the call was taken back");
    assert_eq!(end(&mut gateway.call(second)).await.unwrap_err().code, Code::Timeout);
    tokio::time::sleep(3 * SECOND).await;
    nothing_is_left(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn one_key_is_one_call_and_another_call_under_it_is_refused() {
    let gateway = gateway(&["reply 1000"], "").await;
    let key = Some(Arc::from("k"));
    let first = Call { idempotency: key.clone(), ..call("write") };
    let other = Call { idempotency: key, ..numbered("write", 9, r#"{"n":1}"#) };
    // There is no store, so that nothing may be sent under a key.
    let fault = end(&mut gateway.call(first.clone())).await.unwrap_err();
    assert_eq!((fault.code, fault.may_have_run), (Code::Internal, false));
    assert_eq!(starts(&gateway), 0);
    assert_ne!(idempotency::asked(&first), idempotency::asked(&other));
    nothing_is_left(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn who_joined_ends_at_its_own_deadline_although_another_was_asked() {
    let gateway = gateway(&["ask 1000; reply 0"], "").await;
    let (first, second) = twice("read");
    let (mut first, mut second) = (gateway.call(first), gateway.call(second));
    let Event::Ask(ask) = first.next().await else { panic!("the question comes first") };
    let fault = end(&mut second).await.unwrap_err();
    assert_eq!((fault.code, fault.elapsed_ms, fault.budget_ms), (Code::Timeout, 10_100, 10_000));
    ask.reply.answer(AskAnswer::Refused("no"));
    assert!(end(&mut first).await.is_ok(), "its clock stood still");
    nothing_is_left(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn calls_with_one_key_and_other_words_do_not_share_an_answer() {
    let gateway = gateway(&["reply 1000"], "").await;
    let keyed = |call: Call| Call { idempotency: Some(Arc::from("k")), ..call };
    let mut first = gateway.call(keyed(call("write")));
    let fault = end(&mut gateway.call(keyed(call_by("write", modern())))).await.unwrap_err();
    assert_eq!(fault.code, Code::Duplicate);
    assert_eq!(fault.original, first.journal().map(Journal::id));
    drop(end(&mut first).await);
    nothing_is_left(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn a_servers_cache_is_not_for_tools_that_change_something() {
    for (keys, tool, runs) in [
        ("cache = \"1m\"\n", "read", 1),
        ("cache = \"1m\"\n", "write", 2),
        ("cache = \"1m\"\n[servers.s.tools.write]\neffects = \"idempotent\"\n", "write", 2),
        ("[servers.s.tools.write]\ncache = \"1m\"\n", "write", 1),
    ] {
        let gateway = gateway(&["reply 0"], keys).await;
        for _ in 0..2 {
            end(&mut gateway.call(call(tool))).await.unwrap();
        }
        assert_eq!(starts(&gateway), runs, "{tool}: {keys}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_from_an_answer_of_the_caller_is_not_kept() {
    let gateway = gateway(&["ask 0; reply 0"], "cache = \"1m\"\n").await;
    for _ in 0..2 {
        // The question is refused by being dropped.
        end(&mut gateway.call(call("read"))).await.unwrap();
    }
    assert_eq!(starts(&gateway), 2);
}

/// The store's thread works while the clock is paused, so that whatever takes it time runs into every limit there is.
#[tokio::test]
async fn a_store_that_is_slow_leaves_no_key_of_a_call_that_did_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&["reply 0"], "");
    config.state = directory.path().to_owned();
    let store = seawall_jobs::Store::open(&directory.path().join("store.db")).await.unwrap();
    let gateway = Gateway::new(Arc::new(config), Some(store), Life::default()).await.unwrap();
    let mut changes = gateway.catalog().changes();
    if gateway.catalog().listing("s", "").is_none() {
        changes.recv().await.unwrap();
    }
    let keyed = Call { idempotency: Some(Arc::from("k")), ..call("write") };
    tokio::time::pause();
    let slow = end(&mut gateway.call(keyed.clone())).await;
    if let Err(fault) = &slow {
        assert_eq!((fault.code, fault.may_have_run), (Code::Timeout, false));
    }
    tokio::time::resume();
    let began = Instant::now();
    loop {
        match end(&mut gateway.call(keyed.clone())).await {
            Ok(_) => break,
            Err(fault) => assert_eq!(fault.code, Code::Duplicate, "{fault}"),
        }
        assert!(began.elapsed() < 10 * SECOND, "the key is still taken");
        tokio::time::sleep(SECOND / 100).await;
    }
    assert_eq!(starts(&gateway), 1);
}
