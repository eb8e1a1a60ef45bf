//! Who holds places, who waits for one and how full each scope is: for whoever asks, and for the log.

use crate::{
    Gateway,
    call::admit::{Claim, Load, Row},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How admission stands, as one line of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Health {
    /// Calls somebody waits for the answers of.
    in_use: usize,
    /// How many of them there may be.
    limit: Option<usize>,
    waiting: usize,
    /// Rows of the table, those among them of which only the upstream's half is held.
    permits: usize,
    detached: usize,
    /// Seconds since the oldest of the rows was admitted.
    oldest_seconds: f64,
    findings: usize,
}

impl Health {
    fn of(loads: &[Load], rows: &[Row], findings: usize, now: Instant) -> Self {
        let total = loads.iter().find(|load| load.scope == "total");
        let oldest = rows.iter().map(|row| now.saturating_duration_since(row.since)).max();
        Self {
            in_use: total.map_or(0, |total| total.in_use),
            limit: total.and_then(|total| total.limit),
            waiting: total.map_or(0, |total| total.waiting),
            permits: rows.len(),
            detached: rows.iter().filter(|row| row.detached).count(),
            oldest_seconds: oldest.unwrap_or_default().as_secs_f64(),
            findings,
        }
    }
}

impl Gateway {
    /// Everything `seawall status --permits` shows, as JSON. Times are milliseconds: `since_ms` and `oldest_ms` are ages,
    /// `until_ms` is what is left, and negative where a place is held past its time.
    pub fn permits(&self) -> Value {
        let now = Instant::now();
        let permits: Vec<Value> = self.admission.rows().iter().map(|row| permit(row, now)).collect();
        let scopes: Vec<Value> = self.admission.loads().iter().map(|load| scope(load, now)).collect();
        let waiting: Vec<Value> =
            self.admission.waiting().iter().map(|(claim, since)| waiter(claim, *since, now)).collect();
        json!({"permits": permits, "scopes": scopes, "waiting": waiting})
    }

    /// Compares the admission counters with the table, and logs what is wrong and how it stands.
    pub(crate) fn tell_health(&self) {
        let findings = self.admission.audit();
        for finding in &findings {
            tracing::error!(finding, "admission does not add up");
        }
        let (loads, rows) = (self.admission.loads(), self.admission.rows());
        let Health { in_use, limit, waiting, permits, detached, oldest_seconds, findings } =
            Health::of(&loads, &rows, findings.len(), Instant::now());
        tracing::info!(
            target: "seawall::health",
            in_use, limit, waiting, permits, detached, oldest_seconds, findings, "health"
        );
    }
}

/// A row of the holder table.
pub(super) fn permit(row: &Row, now: Instant) -> Value {
    let mut shown = waiter(&row.claim, row.since, now);
    let left = signed(row.until.saturating_duration_since(now));
    let over = signed(now.saturating_duration_since(row.until));
    shown["until_ms"] = json!(left - over);
    shown["caller_half"] = json!(row.caller_half);
    shown["upstream_half"] = json!(row.upstream_half);
    shown["detached"] = json!(row.detached);
    shown
}

/// How full a scope is.
pub(super) fn scope(load: &Load, now: Instant) -> Value {
    json!({
        "scope": load.scope,
        "name": &*load.name,
        "in_use": load.in_use,
        "limit": load.limit,
        "waiting": load.waiting,
        "oldest_ms": load.oldest.map(|oldest| signed(now.saturating_duration_since(oldest))),
    })
}

/// What is claimed, and since when.
fn waiter(claim: &Claim, since: Instant, now: Instant) -> Value {
    json!({
        "caller": &*claim.caller,
        "conversation": claim.conversation.as_deref(),
        "upstream": &*claim.upstream,
        "tool": &*claim.tool,
        "since_ms": signed(now.saturating_duration_since(since)),
    })
}

/// In milliseconds.
fn signed(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn row(since: Instant, until: Instant, detached: bool) -> Row {
        let claim = Claim {
            caller: Arc::from("me"),
            conversation: None,
            upstream: Arc::from("docs"),
            upstream_limit: None,
            tool: Arc::from("search"),
            tool_limit: None,
            provider: None,
        };
        Row { claim, since, until, caller_half: !detached, upstream_half: true, detached }
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_says_how_long_it_is_held_and_for_how_long_at_most() {
        let begun = Instant::now();
        let now = begun + Duration::from_secs(10);
        let shown = permit(&row(begun, begun + Duration::from_secs(12), false), now);
        assert_eq!((&shown["since_ms"], &shown["until_ms"]), (&json!(10_000), &json!(2_000)));
        assert_eq!((&shown["caller"], &shown["conversation"]), (&json!("me"), &Value::Null));
        assert_eq!((&shown["caller_half"], &shown["detached"]), (&json!(true), &json!(false)));
        let late = permit(&row(begun, begun + Duration::from_secs(9), true), now);
        assert_eq!((&late["until_ms"], &late["detached"]), (&json!(-1_000), &json!(true)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_of_the_log_sums_up_the_table() {
        let begun = Instant::now();
        let until = begun + Duration::from_secs(50);
        let total = Load {
            scope: "total",
            name: Arc::from(""),
            in_use: 1,
            waiting: 4,
            limit: Some(64),
            oldest: Some(begun),
        };
        let rows = [row(begun + Duration::from_secs(1), until, false), row(begun, until, true)];
        let health = Health::of(&[total], &rows, 0, begun + Duration::from_secs(3));
        let expected = Health {
            in_use: 1,
            limit: Some(64),
            waiting: 4,
            permits: 2,
            detached: 1,
            oldest_seconds: 3.0,
            findings: 0,
        };
        assert_eq!(health, expected);
    }
}
