use super::*;
use std::path::PathBuf;

fn limits() -> Limits {
    let config = crate::config::Config::default_for(PathBuf::from("/nowhere"));
    Limits { total: 8, caller: 6, conversation: 4, queue: 4, share: 0.5, ..config.limits }
}

fn claim(caller: &str, conversation: &str, upstream: &str) -> Claim {
    Claim {
        caller: caller.into(),
        conversation: (!conversation.is_empty()).then(|| conversation.into()),
        upstream: upstream.into(),
        upstream_limit: None,
        tool: "t".into(),
    }
}

fn clock(seconds: u64) -> Clock {
    Clock::new(Duration::from_secs(seconds), Duration::ZERO)
}

async fn enter(admission: &Admission, claim: Claim, seconds: u64) -> Result<Permit, Fault> {
    admission.enter(claim, &clock(seconds), Duration::ZERO).await
}

#[tokio::test(start_paused = true)]
async fn one_upstream_holds_at_most_its_share_of_each_scope() {
    for (conversation, room) in [("k", 2), ("", 3)] {
        let admission = Admission::new(limits());
        let mut held = Vec::new();
        for _ in 0..room {
            held.push(enter(&admission, claim("c", conversation, "hung"), 1).await.unwrap());
        }
        let refused = enter(&admission, claim("c", conversation, "hung"), 1).await.unwrap_err();
        assert_eq!((refused.code, refused.stage), (Code::OverCapacity, Stage::Admit));
        assert!(refused.retry_after_ms.is_some());
        let healthy = enter(&admission, claim("c", conversation, "healthy"), 0).await;
        assert!(healthy.is_ok(), "a healthy upstream has room in the same conversation at once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_scope_makes_wait_and_whoever_has_room_overtakes() {
    let admission = Arc::new(Admission::new(limits()));
    let narrow = || Claim { upstream_limit: Some(1), ..claim("a", "", "narrow") };
    let first = enter(&admission, narrow(), 1).await.unwrap();
    let waits = async {
        let began = Instant::now();
        let permit = enter(&admission, narrow(), 9).await;
        (permit.is_ok(), began.elapsed())
    };
    let others = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(admission.loads().iter().find(|load| load.scope == "upstream").unwrap().waiting, 1);
        assert!(enter(&admission, claim("a", "", "other"), 0).await.is_ok());
        drop(first);
    };
    let ((admitted, after), ()) = tokio::join!(waits, others);
    assert!(admitted);
    assert_eq!(after, Duration::from_secs(2));
    assert!(admission.rows().is_empty() && admission.audit().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_line_is_bounded_in_all_and_per_upstream_and_leaving_it_leaves_nothing() {
    let admission = Admission::new(limits());
    let full = |name: &str| Claim { upstream_limit: Some(1), ..claim("a", "", name) };
    let _held =
        [enter(&admission, full("x"), 1).await.unwrap(), enter(&admission, full("y"), 1).await.unwrap()];
    let mut lines: Vec<_> =
        ["x", "x"].iter().map(|name| Box::pin(enter(&admission, full(name), 60))).collect();
    for line in &mut lines {
        assert!(futures_poll(line).await.is_none());
    }
    assert!(enter(&admission, full("x"), 60).await.unwrap_err().message.contains("share of the line"));
    let mut more: Vec<_> =
        ["y", "y"].iter().map(|name| Box::pin(enter(&admission, full(name), 60))).collect();
    for line in &mut more {
        assert!(futures_poll(line).await.is_none());
    }
    assert!(
        enter(&admission, full("y"), 60)
            .await
            .unwrap_err()
            .message
            .starts_with("the line of waiting calls is full")
    );
    drop((lines, more));
    assert_eq!(admission.loads().iter().map(|load| load.waiting).sum::<usize>(), 0);
}

async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::time::timeout(Duration::ZERO, future).await.ok()
}

#[tokio::test(start_paused = true)]
async fn the_callers_half_goes_with_the_answer_and_the_upstreams_with_the_attempt() {
    let admission = Admission::new(limits());
    let permit = enter(&admission, claim("a", "k", "u"), 1).await.unwrap();
    permit.free_caller_half();
    permit.free_caller_half();
    let loads = admission.loads();
    assert_eq!(loads.iter().find(|load| load.scope == "total").unwrap().in_use, 0);
    assert_eq!(loads.iter().find(|load| load.scope == "upstream").unwrap().in_use, 1);
    assert!(admission.audit().is_empty());
    permit.reclaim_caller_half();
    assert_eq!(admission.loads()[0].in_use, 1);
    drop(permit);
    assert!(admission.rows().is_empty() && admission.audit().is_empty());
    assert_eq!(admission.loads()[0].in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn the_audit_finds_a_row_past_its_time() {
    let admission = Admission::new(limits());
    let permit = enter(&admission, claim("a", "", "u"), 1).await.unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(admission.audit().len(), 1);
    permit.held_until(Instant::now());
    assert!(admission.audit().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_limit_bites() {
    for (change, bound) in [
        (Limits { total: 2, caller: 2, conversation: 2, share: 1.0, queue: 0, ..limits() }, 2),
        (Limits { caller: 3, conversation: 3, share: 1.0, queue: 0, ..limits() }, 3),
        (Limits { conversation: 1, share: 1.0, queue: 0, ..limits() }, 1),
        (Limits { share: 0.25, queue: 0, ..limits() }, 1),
    ] {
        let admission = Admission::new(change);
        let mut held = Vec::new();
        while let Ok(permit) = enter(&admission, claim("a", "k", "u"), 1).await {
            held.push(permit);
        }
        assert_eq!(held.len(), bound);
    }
}
