//! A snapshot as lines of text, for where there is no terminal.

use super::snapshot::Snapshot;
use crate::cli::calls::{NOTHING, aligned, tables};

/// Everything of a snapshot.
pub(super) fn lines(snapshot: &Snapshot) -> Vec<String> {
    let servers: Vec<[String; 8]> = snapshot
        .servers()
        .into_iter()
        .map(|server| {
            [
                server.name,
                server.state,
                server.instances.to_string(),
                server.in_flight.to_string(),
                server.waiting.to_string(),
                server.calls.map_or_else(|| NOTHING.to_owned(), |rate| format!("{rate:.1}")),
                server.breaker,
                server.failure,
            ]
        })
        .collect();
    let mut lines = vec![snapshot.headline(), snapshot.figures(), String::new()];
    let header = ["SERVER", "STATE", "INSTANCES", "IN FLIGHT", "WAITING", "CALLS/S", "BREAKER", "FAILURE"];
    lines.extend(aligned(header, &servers));
    lines.push(String::new());
    lines.extend(tables(&snapshot.calls));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::snapshot::tests::sample;

    #[test]
    fn there_is_a_line_for_each_server_call_and_scope() {
        let lines = lines(&sample());
        let has = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!((has("docs "), has("slow ")), (1, 1));
        assert_eq!((has("me "), has("you ")), (30, 1));
        assert_eq!((has("total "), has("upstream ")), (1, 1));
        assert!(lines[1].starts_with("per second: "), "{}", lines[1]);
    }
}
