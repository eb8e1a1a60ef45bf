//! The picture: a pure function of a snapshot and of how it is looked at.

use super::{
    snapshot::{Server, Snapshot},
    view::View,
};
use crate::cli::calls::{NOTHING, Scope, UnderWay, age, scopes, under_way};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, Wrap},
};
use std::cmp::Reverse;

/// Places in the bar of a scope.
const BAR: usize = 10;
/// Lines of a pane that are no rows: its title and its header.
const FRAME: u16 = 2;
const KEYS: &str = "q quit   p pause   s sort   ↑ ↓ scroll   ? help";
const HELP: [&str; 9] = [
    "q, Ctrl-C       quit",
    "p, space        pause, or go on",
    "s               sort calls by age, server or caller",
    "↑ ↓, k j        scroll by a line",
    "PgUp PgDn       scroll by a page",
    "Home End        to the first or the last call",
    "?, h            show or hide this",
    "",
    "`seawall status` says more of each server.",
];

/// How many calls fit on the screen, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fits {
    pub(super) on_screen: usize,
    pub(super) all: usize,
}

/// Draws a snapshot; `trouble` says why there is no newer one.
pub(super) fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, trouble: Option<&str>, view: &View) -> Fits {
    let mut scopes = scopes(&snapshot.calls);
    scopes.sort_by_key(|scope| (scope.scope != "total", Reverse(scope.waiting), Reverse(thousandths(scope))));
    let servers = snapshot.servers();
    let mut calls = under_way(&snapshot.calls);
    view.order.sort(&mut calls);

    let area = frame.area();
    let part = |rows: usize| {
        let most = (area.height / 4).max(FRAME + 1);
        u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(FRAME).min(most)
    };
    let [head, figures, above, middle, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(part(scopes.len())),
        Constraint::Length(part(servers.len())),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);

    let mut headline = snapshot.headline();
    if view.paused {
        headline.push_str("   PAUSED");
    }
    frame.render_widget(Line::styled(headline, Modifier::BOLD), head);
    let (text, style) = match trouble {
        Some(trouble) => (trouble.to_owned(), Style::new().fg(Color::Red)),
        None => (snapshot.figures(), Style::new()),
    };
    frame.render_widget(Paragraph::new(text).style(style).wrap(Wrap { trim: true }), figures);
    draw_scopes(frame, above, &scopes);
    draw_servers(frame, middle, servers);
    let fits = draw_calls(frame, below, &calls, view);
    frame.render_widget(Line::styled(KEYS, Modifier::DIM), foot);
    if view.help {
        draw_help(frame, area);
    }
    fits
}

fn draw_scopes(frame: &mut Frame<'_>, area: Rect, scopes: &[Scope]) {
    let rows = scopes.iter().map(|scope| {
        let style = match thousandths(scope) {
            1000.. => Style::new().fg(Color::Red),
            750..1000 => Style::new().fg(Color::Yellow),
            _ => Style::new(),
        };
        let used = format!("{} of {}", scope.in_use, scope.limit());
        Row::new([
            Cell::new(scope.scope.clone()),
            Cell::new(scope.name.clone()),
            Cell::new(bar(scope)).style(style),
            Cell::new(used),
            Cell::new(scope.waiting.to_string()),
            Cell::new(scope.oldest()),
        ])
    });
    let columns = [
        ("SCOPE", Constraint::Length(12)),
        ("NAME", Constraint::Fill(1)),
        ("", Constraint::Length(10)),
        ("IN USE", Constraint::Length(12)),
        ("WAITING", Constraint::Length(7)),
        ("OLDEST", Constraint::Length(7)),
    ];
    pane(frame, area, format!(" scopes ({}) ", scopes.len()), columns, rows.collect());
}

fn draw_servers(frame: &mut Frame<'_>, area: Rect, servers: Vec<Server>) {
    let title = format!(" servers ({}) ", servers.len());
    let rows = servers.into_iter().map(|server| {
        let style = match &*server.state {
            "failed" | "left alone" => Style::new().fg(Color::Red),
            "disabled" => Style::new().add_modifier(Modifier::DIM),
            _ => Style::new(),
        };
        let rate = server.calls.map_or_else(|| NOTHING.to_owned(), |rate| format!("{rate:.1}"));
        Row::new([
            server.name,
            server.state,
            server.instances.to_string(),
            server.in_flight.to_string(),
            server.waiting.to_string(),
            rate,
            server.breaker,
            server.failure,
        ])
        .style(style)
    });
    let columns = [
        ("SERVER", Constraint::Length(20)),
        ("STATE", Constraint::Length(12)),
        ("INSTANCES", Constraint::Length(9)),
        ("IN FLIGHT", Constraint::Length(9)),
        ("WAITING", Constraint::Length(7)),
        ("CALLS/S", Constraint::Length(8)),
        ("BREAKER", Constraint::Length(16)),
        ("FAILURE", Constraint::Fill(1)),
    ];
    pane(frame, area, title, columns, rows.collect());
}

fn draw_calls(frame: &mut Frame<'_>, area: Rect, calls: &[UnderWay], view: &View) -> Fits {
    let on_screen = usize::from(area.height.saturating_sub(FRAME));
    let fits = Fits { on_screen, all: calls.len() };
    let above = view.scroll.min(calls.len().saturating_sub(on_screen));
    let shown = calls.iter().skip(above).take(on_screen);
    let last = above + shown.len();
    let title = match calls.len() {
        0 => String::from(" calls: none under way "),
        all => format!(" calls {} to {last} of {all}, by {} ", (above + 1).min(last), view.order.word()),
    };
    let rows = shown.map(|call| {
        let style = match call.state() {
            _ if call.until_ms.is_some_and(|left| left < 0) => Style::new().fg(Color::Red),
            "waits" => Style::new().fg(Color::Yellow),
            "detached" | "ending" => Style::new().add_modifier(Modifier::DIM),
            _ => Style::new(),
        };
        Row::new([
            age(call.since_ms),
            call.until(),
            call.state().to_owned(),
            call.caller.clone(),
            call.conversation.clone(),
            call.upstream.clone(),
            call.tool.clone(),
        ])
        .style(style)
    });
    let columns = [
        ("SINCE", Constraint::Length(7)),
        ("UNTIL", Constraint::Length(12)),
        ("STATE", Constraint::Length(9)),
        ("CALLER", Constraint::Length(16)),
        ("CONVERSATION", Constraint::Length(16)),
        ("SERVER", Constraint::Length(20)),
        ("TOOL", Constraint::Fill(1)),
    ];
    pane(frame, area, title, columns, rows.collect());
    fits
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines = Vec::from(HELP.map(Line::from));
    let area = area.centered(Constraint::Length(56), Constraint::Length(11));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), area);
}

/// A titled table under a line.
fn pane<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    title: String,
    columns: [(&'static str, Constraint); N],
    rows: Vec<Row<'static>>,
) {
    let header = Row::new(columns.map(|(name, _)| name)).style(Modifier::BOLD);
    let block = Block::new().borders(Borders::TOP).title(title);
    let widths = columns.map(|(_, width)| width);
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(2).block(block), area);
}

/// How full a scope is, in thousandths; nothing where it has no limit.
fn thousandths(scope: &Scope) -> u64 {
    match scope.limit {
        None => 0,
        Some(limit) => scope.in_use.saturating_mul(1000) / limit.max(1),
    }
}

/// How full a scope is, as a bar; nothing where it has no limit.
fn bar(scope: &Scope) -> String {
    if scope.limit.is_none() {
        return String::new();
    }
    // A single place in use is seen, however many there are.
    let least = usize::from(scope.in_use > 0);
    let full = usize::try_from(thousandths(scope)).unwrap_or(usize::MAX) / (1000 / BAR);
    let full = full.max(least).min(BAR);
    "█".repeat(full) + &"·".repeat(BAR - full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::{snapshot::tests::sample, view::Order};
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    /// What a terminal of this size shows.
    fn drawn(size: (u16, u16), trouble: Option<&str>, view: &View) -> (Vec<String>, Fits) {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("memory can be drawn on");
        let mut fits = None;
        terminal
            .draw(|frame| fits = Some(draw(frame, &sample(), trouble, view)))
            .expect("memory can be drawn on");
        let buffer = terminal.backend().buffer();
        let lines = (0..size.1)
            .map(|y| {
                (0..size.0).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect::<String>()
            })
            .map(|line| line.trim_end().to_owned())
            .collect();
        (lines, fits.expect("it was drawn"))
    }

    fn holds(lines: &[String], parts: &[&str]) -> bool {
        lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    #[test]
    fn all_panes_are_on_the_screen() {
        let (lines, fits) = drawn((140, 40), None, &View::default());
        assert!(lines[0].starts_with("seawall 1.2.3 at 127.0.0.1:8079 (pid 42)"), "{lines:#?}");
        assert!(lines[1].starts_with("per second: ") && lines[1].contains("calls 5.0"), "{lines:#?}");
        for parts in [
            &["total", "████······", "30 of 64"][..],
            &["upstream", "slow", "██████████", "4 of 4", "0.9s"],
            &["docs", "running", "closed", "5.0"],
            &["slow", "failed", "open 4.2s", "start: it exited"],
            &["calls 1 to", "of 31, by age"],
            &["1m00s", "in flight", "me", "docs", "tool00"],
            &["q quit"],
        ] {
            assert!(holds(&lines, parts), "{parts:?} is not on one line of {lines:#?}");
        }
        assert_eq!(fits.all, 31);
        assert!(fits.on_screen < 31 && !holds(&lines, &["late"]), "{fits:?}");
    }

    #[test]
    fn scrolled_to_the_end_the_last_call_is_on_the_screen() {
        let view = View { scroll: usize::MAX, order: Order::Server, ..View::default() };
        let (lines, _) = drawn((140, 40), None, &view);
        assert!(holds(&lines, &["waits", "you", "late"]), "{lines:#?}");
        assert!(holds(&lines, &["to 31 of 31, by server"]), "{lines:#?}");
    }

    #[test]
    fn a_missing_daemon_a_pause_and_the_help_are_said() {
        let view = View { paused: true, help: true, ..View::default() };
        let (lines, _) = drawn((140, 40), Some("waiting for the daemon: it is away"), &view);
        assert!(lines[0].ends_with("PAUSED"), "{lines:#?}");
        assert!(lines[1].starts_with("waiting for the daemon: it is away"), "{lines:#?}");
        assert!(holds(&lines, &["pause, or go on"]), "{lines:#?}");
    }

    #[test]
    fn every_size_of_terminal_can_be_drawn_on() {
        let view = View { help: true, scroll: 3, ..View::default() };
        for size in [(1, 1), (1, 60), (300, 1), (20, 5), (40, 10), (80, 24), (200, 60)] {
            drawn(size, Some("waiting for the daemon"), &view);
        }
    }

    #[test]
    fn a_bar_is_empty_full_or_in_between() {
        let of = |in_use: u64, limit: Option<u64>| {
            let row = json!({"scopes": [{"scope": "total", "name": "", "in_use": in_use, "limit": limit, "waiting": 0}]});
            bar(&scopes(&row)[0])
        };
        assert_eq!(of(0, Some(64)), "··········");
        assert_eq!(of(1, Some(64)), "█·········");
        assert_eq!(of(32, Some(64)), "█████·····");
        assert_eq!(of(70, Some(64)), "██████████");
        assert_eq!(of(3, None), "");
    }
}
