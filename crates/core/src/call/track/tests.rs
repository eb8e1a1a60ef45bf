use super::*;
use crate::config::{Source, Sources, lower};
use std::path::PathBuf;
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);

/// The track of a server `x` with these lines in its table.
fn track(lines: &str) -> Track {
    let text = format!("[servers.x]\ncommand = \"x\"\n{lines}");
    let (config, _) = lower(&Sources {
        own: Some(Source { path: PathBuf::from("seawall.toml"), text }),
        foreign: Vec::new(),
        environment: &|_| None,
        overrides: Vec::new(),
        state_default: PathBuf::from("/state"),
        base: PathBuf::from("/base"),
    })
    .unwrap_or_else(|faults| panic!("{faults:?}"));
    Track::new(&config.upstreams[0])
}

fn end(track: &Track, end: End) -> Option<Change> {
    track.pass().expect("it is let through").ended(end)
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_says_whom_it_keeps_calls_from_why_and_until_when() {
    let track = track("");
    for _ in 0..19 {
        assert_eq!(end(&track, End::Failure), None);
    }
    assert_eq!(end(&track, End::Failure), Some(Change::Opened));
    advance(Duration::from_nanos(2_500_000_001)).await;
    let fault = track.pass().expect_err("it is open");
    assert_eq!((fault.code, fault.stage), (Code::UpstreamUnavailable, Stage::Start));
    assert_eq!(
        (fault.retry_after_ms, fault.upstream.as_deref(), fault.may_have_run),
        (Some(7500), Some("x"), false)
    );
    for words in ["\"x\"", "failed", "nothing was sent", "in 7.5 s"] {
        assert!(fault.message.contains(words), "{}", fault.message);
    }
    let shown = track.show();
    assert_eq!((shown.breaker, shown.next_try_ms), ("open", Some(7500)));

    advance(Duration::from_millis(7500)).await;
    assert_eq!(track.show().breaker, "half-open");
    let probe = track.pass().expect("one is let through");
    assert!(track.pass().expect_err("one alone").retry_after_ms >= Some(1000));
    drop(probe);
    assert_eq!(end(&track, End::Success), Some(Change::Closed), "a dropped one lets the next one try");
    assert_eq!((track.show().breaker, track.show().next_try_ms), ("closed", None));
}

#[tokio::test(start_paused = true)]
async fn attempts_that_are_dropped_say_nothing() {
    let track = track("breaker = { least = 1, failures = 0.5 }");
    for _ in 0..100 {
        drop(track.pass().expect("it is let through"));
    }
    assert_eq!(track.show().breaker, "closed");
    assert_eq!(end(&track, End::Failure), Some(Change::Opened), "none of them was counted");
}

#[test]
fn retries_are_taken_out_of_a_budget_and_wait_no_longer_than_they_should() {
    let track = track("retries = { backoff = \"100ms\", budget = 0.5, floor = 1 }");
    assert!(track.may_retry());
    assert!(!track.may_retry());
    track.called();
    track.called();
    assert_eq!(track.show().retries_left, 1);
    assert!(track.may_retry() && !track.may_retry());
    for attempt in 1..40 {
        let longest = Duration::from_millis(100) * 2_u32.saturating_pow(attempt - 1);
        assert!(track.backoff(attempt) <= longest.min(5 * SECOND));
    }
}

#[test]
fn times_are_learned_where_that_is_wanted() {
    let learn = "learn = { floor = \"1s\", ceiling = \"40s\", factor = 2.0 }";
    let tools = "[servers.x.tools.slow]\nlearn = { floor = \"1s\", ceiling = \"3s\", factor = 2.0 }";
    let learns = track(&format!("{learn}\n{tools}"));
    let only_slow = track(tools);
    let [slow, other]: [Arc<str>; 2] = ["slow".into(), "other".into()];
    for track in [&learns, &only_slow] {
        for _ in 0..20 {
            assert_eq!((track.learned(&slow), track.learned(&other)), (None, None));
            track.succeeded(&slow, 2 * SECOND);
            track.succeeded(&other, 2 * SECOND);
        }
        assert_eq!(track.learned(&slow), Some(3 * SECOND));
    }
    assert_eq!((learns.learned(&other), only_slow.learned(&other)), (Some(4 * SECOND), None));
    let shown = learns.show().learned_ms;
    assert_eq!(shown, BTreeMap::from([(Arc::clone(&slow), 3000), (Arc::clone(&other), 4000)]));
    for _ in 0..100 {
        learns.ran_out(&slow);
    }
    assert_eq!((learns.learned(&slow), learns.learned(&other)), (None, Some(4 * SECOND)));
}

#[test]
fn the_tools_whose_time_is_learned_are_bounded() {
    let track = track("learn = { floor = \"1s\", ceiling = \"40s\", factor = 2.0 }");
    for number in 0..2 * TOOLS {
        let tool: Arc<str> = number.to_string().into();
        for _ in 0..20 {
            track.succeeded(&tool, SECOND);
        }
    }
    assert_eq!(track.show().learned_ms.len(), TOOLS);
    assert!(track.learned("0").is_some() && track.learned("2000").is_none());
}
