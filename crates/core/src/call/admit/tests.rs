use super::*;
use seawall_proto::{Code, Stage};
use std::path::PathBuf;

fn limits() -> Limits {
    let config = crate::config::Config::default_for(PathBuf::from("/nowhere"));
    let (share, conversation_share) = (0.5, 0.5);
    Limits { total: 8, caller: 6, conversation: 4, queue: 4, share, conversation_share, ..config.limits }
}

fn claim(caller: &str, conversation: &str, upstream: &str) -> Claim {
    Claim {
        caller: caller.into(),
        conversation: (!conversation.is_empty()).then(|| conversation.into()),
        upstream: upstream.into(),
        upstream_limit: None,
        tool: "t".into(),
        tool_limit: None,
        provider: None,
    }
}

fn clock(seconds: u64) -> Clock {
    Clock::new(Duration::from_secs(seconds), Duration::ZERO)
}

async fn enter(admission: &Admission, claim: Claim, seconds: u64) -> Result<Permit, Fault> {
    admission.enter(claim, &clock(seconds), Duration::ZERO, &Place::default()).await
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
    let alone = || Limits { share: 1.0, conversation_share: 1.0, queue: 0, ..limits() };
    for (change, bound) in [
        (Limits { total: 2, caller: 2, conversation: 2, ..alone() }, 2),
        (Limits { caller: 3, conversation: 3, ..alone() }, 3),
        (Limits { conversation: 1, ..alone() }, 1),
        (Limits { share: 0.125, ..alone() }, 1),
        (Limits { conversation_share: 0.5, ..alone() }, 2),
    ] {
        let admission = Admission::new(change);
        let mut held = Vec::new();
        while let Ok(permit) = enter(&admission, claim("a", "k", "u"), 1).await {
            held.push(permit);
        }
        assert_eq!(held.len(), bound);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_a_tool_and_a_provider_have_limits_of_their_own() {
    let limits = Limits { share: 1.0, conversation_share: 1.0, queue: 0, ..limits() };
    let of_tool = |tool: &str| Claim { tool: tool.into(), tool_limit: Some(2), ..claim("a", "", "u") };
    let of_provider =
        |upstream: &str| Claim { provider: Some(("glm".into(), 2)), ..claim("a", "", upstream) };
    let of_upstream = |_: &str| Claim { upstream_limit: Some(2), ..claim("a", "", "u") };
    type Kind<'a> = (&'a str, &'a dyn Fn(&str) -> Claim);
    let kinds: [Kind<'_>; 3] = [("tool", &of_tool), ("provider", &of_provider), ("upstream", &of_upstream)];
    for (scope, of) in kinds {
        let admission = Admission::new(limits.clone());
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(enter(&admission, of("x"), 1).await.unwrap());
        }
        assert!(enter(&admission, of("x"), 1).await.is_err());
        held[0].free_caller_half();
        assert!(enter(&admission, of("x"), 1).await.is_err(), "the upstream is still at work");
        let load = admission.loads().into_iter().find(|load| load.scope == scope).unwrap();
        assert_eq!((load.in_use, load.limit), (2, Some(2)));
        if scope != "upstream" {
            assert_eq!(enter(&admission, of("y"), 1).await.is_ok(), scope == "tool");
        } else {
            assert!(enter(&admission, claim("a", "", "v"), 1).await.is_ok());
        }
        assert_eq!(admission.audit(), Vec::<String>::new());
        held.clear();
        assert!(enter(&admission, of("x"), 1).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn calls_without_a_conversation_count_as_one_of_their_caller_where_that_is_set() {
    let limits = Limits { share: 1.0, conversation_share: 1.0, queue: 0, conversation: 2, ..limits() };
    for count_unnamed in [false, true] {
        let admission = Admission::new(Limits { count_unnamed, ..limits.clone() });
        let mut held = Vec::new();
        for name in ["", "", "a", "a"] {
            held.push(enter(&admission, claim("a", name, "u"), 1).await.unwrap());
        }
        let another = enter(&admission, claim("a", "", "u"), 1).await;
        assert_eq!(another.is_err(), count_unnamed);
        assert!(enter(&admission, claim("b", "", "u"), 1).await.is_ok(), "each caller has one of its own");
    }
}

#[tokio::test(start_paused = true)]
async fn detached_calls_are_capped_for_each_caller_and_in_all() {
    let limits = Limits { share: 1.0, conversation_share: 1.0, detached: 3, detached_caller: 2, ..limits() };
    let admission = Admission::new(limits);
    let mut held = Vec::new();
    for (caller, may) in [("a", true), ("a", true), ("a", false), ("b", true), ("b", false)] {
        let permit = enter(&admission, claim(caller, "", "u"), 1).await.unwrap();
        assert_eq!(permit.detach(), may);
        held.push(permit);
    }
    assert!(held[0].detach(), "it is detached already");
    held[0].reclaim_caller_half();
    assert_eq!(admission.rows().iter().filter(|row| row.detached && !row.caller_half).count(), 3);
    assert_eq!(admission.loads()[0].in_use, 2);
    held.remove(0);
    assert!(held[1].detach(), "there is one less");
    assert_eq!(admission.audit(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_call_in_line_can_tell_how_many_are_in_front() {
    let admission = Admission::new(limits());
    let narrow = || Claim { upstream_limit: Some(1), ..claim("a", "", "narrow") };
    let held = enter(&admission, narrow(), 9).await.unwrap();
    let (clock, first, second) = (clock(9), Place::default(), Place::default());
    assert_eq!(first.ahead(), None);
    let mut one = Box::pin(admission.enter(narrow(), &clock, Duration::ZERO, &first));
    let mut two = Box::pin(admission.enter(narrow(), &clock, Duration::ZERO, &second));
    assert!(futures_poll(&mut one).await.is_none());
    assert!(futures_poll(&mut two).await.is_none());
    assert_eq!((first.ahead(), second.ahead()), (Some(0), Some(1)));
    drop(held);
    let permit = futures_poll(&mut one).await.unwrap().unwrap();
    assert_eq!((first.ahead(), second.ahead()), (None, Some(0)));
    drop(two);
    assert_eq!(second.ahead(), None);
    drop(permit);
    assert!(admission.rows().is_empty() && admission.audit().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_cannot_end_in_time_is_refused_at_once() {
    let admission = Admission::new(limits());
    let narrow = || Claim { upstream_limit: Some(1), ..claim("a", "", "narrow") };
    let _held = enter(&admission, narrow(), 9).await.unwrap();
    let began = Instant::now();
    let refused = enter(&admission, narrow(), 0).await.unwrap_err();
    assert!(refused.message.starts_with("no place came free in time"));
    let nowhere = Claim { provider: Some(("none".into(), 0)), ..claim("a", "", "u") };
    assert!(enter(&admission, nowhere, 9).await.is_err());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_provider_waits_for_the_limit_it_has_now() {
    let of = |limit: usize| Limits { providers: [("glm".to_owned(), limit)].into(), ..limits() };
    let by = |limit: usize| Claim { provider: Some(("glm".into(), limit)), ..claim("a", "", "u") };
    let admission = Admission::new(of(1));
    let first = enter(&admission, by(1), 9).await.unwrap();
    let mut waits = Box::pin(enter(&admission, by(1), 9));
    assert!(futures_poll(&mut waits).await.is_none());
    admission.set_limits(of(2));
    let second = futures_poll(&mut waits).await.unwrap().unwrap();

    let mut waits = Box::pin(enter(&admission, by(2), 9));
    assert!(futures_poll(&mut waits).await.is_none());
    admission.set_limits(of(1));
    drop(second);
    assert!(futures_poll(&mut waits).await.is_none(), "there is one place now, and it is held");

    admission.set_limits(limits());
    let second = futures_poll(&mut waits).await.unwrap().unwrap();
    let loads = admission.loads();
    let load = loads.iter().find(|load| load.scope == "provider").unwrap();
    assert_eq!((load.in_use, load.limit), (2, None));
    drop((first, second));
    assert!(admission.rows().is_empty() && admission.audit().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_in_the_line_hears_of_the_line() {
    let admission = Admission::new(limits());
    let narrow = || Claim { upstream_limit: Some(1), ..claim("a", "", "narrow") };
    let _held = enter(&admission, narrow(), 9).await.unwrap();
    let mut lines: Vec<_> = (0..2).map(|_| Box::pin(enter(&admission, narrow(), 9))).collect();
    for line in &mut lines {
        assert!(futures_poll(line).await.is_none());
    }
    // The line has room for four, of which one upstream may have two.
    let place = Place::default();
    assert!(admission.enter(narrow(), &clock(9), Duration::ZERO, &place).await.is_err());
    assert_eq!(place.refused(), Some("queue"));
    lines.clear();
    let place = Place::default();
    assert!(admission.enter(narrow(), &clock(1), Duration::ZERO, &place).await.is_err());
    assert_eq!(place.refused(), Some("upstream"));
}
