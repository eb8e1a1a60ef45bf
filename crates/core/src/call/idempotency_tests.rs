use super::*;
use crate::call::auth::Caller;
use seawall_proto::{
    Message, Request,
    era::{Face, Wire, serve},
};
use std::path::Path;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a daemon has of keys; a daemon that is killed is one whose keys are dropped.
async fn keys(directory: &Path) -> Keys {
    Keys::new(Some(Arc::new(Store::open(&directory.join("store.db")).await.unwrap())))
}

fn call_in(wire: Wire, id: u64, arguments: &str) -> Call {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
    );
    let request = Request::read(Message::parse(text.into()).unwrap(), wire, Face::own()).unwrap();
    Call {
        caller: Arc::new(Caller::unlimited("ann")),
        conversation: None,
        endpoint: Endpoint::All,
        request: Arc::new(request),
        limit: None,
        heartbeat: None,
        followed: false,
        idempotency: None,
    }
}

fn call(id: u64) -> Call {
    call_in(Wire::own(), id, r#"{"n":1}"#)
}

fn legacy() -> Wire {
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    serve::initialize(&Message::parse(Bytes::from_static(text.as_bytes())).unwrap()).unwrap().0
}

fn reply(kind: ReplyKind, body: impl Into<Bytes>) -> Reply {
    Reply { kind, body: body.into() }
}

fn done() -> Reply {
    reply(
        ReplyKind::Result,
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[ 1.10],"n":12345678901234567890123}}"#,
    )
}

async fn begin(keys: &Keys, call: &Call) -> Begun {
    keys.begin(call, "k", DAY).await.unwrap()
}

async fn first(keys: &Keys, call: &Call) -> Pending {
    match begin(keys, call).await {
        Begun::First(pending) => pending,
        other => panic!("not the first: {other:?}"),
    }
}

/// The end that a repeat is told.
async fn end(keys: &Keys, call: &Call) -> Result<Reply, Fault> {
    match begin(keys, call).await {
        Begun::Ended(end) => end,
        other => panic!("no end: {other:?}"),
    }
}

#[tokio::test]
async fn a_repeat_has_the_end_of_the_first_with_its_own_id_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let before = keys(directory.path()).await;
    first(&before, &call(1)).await.ended(&Ok(done())).await;
    let repeated = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[ 1.10],"n":12345678901234567890123}}"#;
    let told = end(&before, &call(7)).await.unwrap();
    assert_eq!((&told.body[..], told.kind), (repeated.as_bytes(), ReplyKind::Result));

    drop(before);
    let after = keys(directory.path()).await;
    assert_eq!(&end(&after, &call(7)).await.unwrap().body[..], repeated.as_bytes());
    for kind in [ReplyKind::Task, ReplyKind::Error(-32602)] {
        let key = format!("{kind:?}");
        let begun = after.begin(&call(1), &key, DAY).await.unwrap();
        let Begun::First(pending) = begun else { panic!("not the first: {begun:?}") };
        pending.ended(&Ok(Reply { kind, ..done() })).await;
        let begun = after.begin(&call(1), &key, DAY).await.unwrap();
        assert!(matches!(&begun, Begun::Ended(Ok(told)) if told.kind == kind), "{begun:?}");
    }
}

#[tokio::test]
async fn what_a_killed_daemon_began_is_not_known_and_never_runs_again() {
    let directory = tempfile::tempdir().unwrap();
    let before = keys(directory.path()).await;
    let pending = first(&before, &call(1)).await;
    assert!(matches!(begin(&before, &call(2)).await, Begun::Running));
    drop((pending, before));

    let after = keys(directory.path()).await;
    for id in 3..5 {
        let begun = begin(&after, &call(id)).await;
        assert!(matches!(begun, Begun::Unknown), "{begun:?}");
        let fault = begun.refusal().unwrap();
        assert_eq!((fault.code, fault.may_have_run), (Code::OutcomeUnknown, true));
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_without_an_end_is_not_known() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    drop(first(&keys, &call(1)).await);
    assert!(matches!(begin(&keys, &call(2)).await, Begun::Unknown));
}

#[tokio::test]
async fn a_key_belongs_to_one_call_of_one_caller() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    let others = [
        call_in(Wire::own(), 1, r#"{"n":2}"#),
        Call { endpoint: Endpoint::One("s".into()), ..call(1) },
        Call { endpoint: Endpoint::Group("s".into()), ..call(1) },
    ];
    let pending = first(&keys, &call(1)).await;
    for other in &others {
        assert!(matches!(begin(&keys, other).await, Begun::Other), "{other:?}");
    }
    pending.ended(&Ok(done())).await;
    for other in &others {
        let begun = begin(&keys, other).await;
        assert!(matches!(begun, Begun::Other), "{begun:?}");
        assert_eq!(begun.refusal().unwrap().code, Code::InvalidArguments);
    }
    // Neither another caller's nor another key is touched by it.
    let bob = Call { caller: Arc::new(Caller::unlimited("bob")), ..call(1) };
    assert!(matches!(begin(&keys, &bob).await, Begun::First(_)));
    let second = keys.begin(&call(1), "k2", DAY).await.unwrap();
    assert!(matches!(second, Begun::First(_)), "{second:?}");
}

#[tokio::test]
async fn a_call_that_has_not_run_may_be_made_again_and_one_that_may_have_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let before = keys(directory.path()).await;
    let unsent = Fault::new(Code::OverCapacity, Stage::Admit, "no place.");
    first(&before, &call(1)).await.ended(&Err(unsent)).await;
    // What goes on with a question goes on under the same key.
    first(&before, &call(2)).await.ended(&Ok(reply(ReplyKind::Ask, done().body))).await;

    let lost = Fault {
        upstream: Some("s".into()),
        elapsed_ms: 1,
        budget_ms: u64::MAX,
        may_have_run: true,
        retry_after_ms: Some(3),
        ..Fault::new(Code::OutcomeUnknown, Stage::Answer, "lost: \"\u{e4}\"\n.")
    };
    first(&before, &call(3)).await.ended(&Err(lost.clone())).await;
    assert_eq!(end(&before, &call(4)).await.unwrap_err(), lost);
    drop(before);
    let after = keys(directory.path()).await;
    assert_eq!(end(&after, &call(5)).await.unwrap_err(), lost);
}

#[test]
fn every_fault_survives_being_kept() {
    for code in Code::ALL {
        for stage in STAGES {
            let fault = Fault { may_have_run: true, ..Fault::new(code, stage, "m") };
            let bytes = record("asked", &of_fault(&fault), &[]);
            assert_eq!(read(bytes), Some(("asked".to_owned(), Kept::Fault(fault))));
        }
    }
}

#[tokio::test]
async fn a_large_result_is_not_kept_but_that_it_ran_is() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"x":"{}"}}}}"#, "y".repeat(LARGEST));
    first(&keys, &call(1)).await.ended(&Ok(reply(ReplyKind::Result, large.clone()))).await;
    let fault = end(&keys, &call(2)).await.unwrap_err();
    assert_eq!((fault.code, fault.may_have_run), (Code::TooLarge, true));
    assert!(fault.message.contains(&large.len().to_string()), "{fault}");
}

#[tokio::test]
async fn a_result_is_not_told_in_words_of_another_era() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    first(&keys, &call(1)).await.ended(&Ok(done())).await;
    let fault = end(&keys, &call_in(legacy(), 2, r#"{"n":1}"#)).await.unwrap_err();
    assert_eq!((fault.code, fault.may_have_run), (Code::InvalidArguments, true));
    assert!(fault.message.contains(Wire::own().version()), "{fault}");
}

#[tokio::test]
async fn a_key_is_remembered_as_long_as_it_is_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    for id in 0..2 {
        let begun = keys.begin(&call(id), "k", Duration::ZERO).await.unwrap();
        let Begun::First(pending) = begun else { panic!("it is remembered: {begun:?}") };
        let meanwhile = keys.begin(&call(9), "k", Duration::ZERO).await.unwrap();
        assert!(matches!(meanwhile, Begun::Running), "{meanwhile:?}");
        pending.ended(&Ok(done())).await;
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    let longest = "x".repeat(LONGEST);
    for key in ["", "a b", "a\u{7f}", "\u{e4}", &format!("{longest}x")] {
        let fault = keys.begin(&call(1), key, DAY).await.unwrap_err();
        assert_eq!(fault.code, Code::InvalidArguments, "{key:?}");
    }
    for key in ["!~", &longest] {
        let begun = keys.begin(&call(1), key, DAY).await.unwrap();
        assert!(matches!(begun, Begun::First(_)), "{key:?}");
    }
}

#[tokio::test]
async fn nothing_is_sent_where_a_key_cannot_be_kept() {
    let directory = tempfile::tempdir().unwrap();
    let closed = keys(directory.path()).await;
    closed.store.as_ref().unwrap().close().await;
    for (keys, why) in [(Keys::new(None), "there is no store"), (closed, "the store is closed")] {
        // Twice: a begin that failed leaves nothing behind.
        for _ in 0..2 {
            let fault = keys.begin(&call(1), "k", DAY).await.unwrap_err();
            assert_eq!((fault.code, fault.stage), (Code::Internal, Stage::Admit));
            assert!(!fault.may_have_run && fault.message.contains(why), "{fault}");
            assert!(fault.message.contains("Nothing was sent"), "{fault}");
        }
    }
}

#[tokio::test]
async fn an_end_that_cannot_be_kept_is_not_known() {
    let directory = tempfile::tempdir().unwrap();
    let before = keys(directory.path()).await;
    let pending = first(&before, &call(1)).await;
    before.store.as_ref().unwrap().close().await;
    pending.ended(&Ok(done())).await;
    let after = keys(directory.path()).await;
    assert!(matches!(begin(&after, &call(2)).await, Begun::Unknown));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_of_a_call_that_may_have_run() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    first(&keys, &call(1)).await.ended(&Ok(done())).await;
    let store = keys.store.as_ref().unwrap();
    let kept = store.list(NAMESPACE, now()).await.unwrap().remove(0);
    assert_eq!(kept.owner, "ann");
    for bytes in [&b""[..], b"\n", b"{}\n", br#"{"format":2,"asked":"x","end":null}"#, b"\xff\n"] {
        let draft = Draft { namespace: NAMESPACE, key: &kept.key, owner: "ann", bytes, expires: None };
        store.put(draft, Expect::Any, now()).await.unwrap();
        assert!(matches!(begin(&keys, &call(2)).await, Begun::Unknown), "{bytes:?}");
    }
}

#[tokio::test]
async fn of_many_at_once_one_is_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    let calls: Vec<Call> = (0..20).map(call).collect();
    let begun = futures_util::future::join_all(calls.iter().map(|call| begin(&keys, call))).await;
    let firsts = begun.iter().filter(|begun| matches!(begun, Begun::First(_))).count();
    let running = begun.iter().filter(|begun| matches!(begun, Begun::Running)).count();
    assert_eq!((firsts, running), (1, 19), "{begun:?}");
}

#[tokio::test]
async fn who_repeats_a_call_that_was_taken_back_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path()).await;
    let cancelled = Fault { may_have_run: true, ..Fault::new(Code::Cancelled, Stage::Answer, "x") };
    first(&keys, &call(1)).await.ended(&Err(cancelled)).await;
    let fault = end(&keys, &call(2)).await.unwrap_err();
    assert_eq!((fault.code, fault.may_have_run), (Code::OutcomeUnknown, true));
}
