//! How what is shown is looked at: in which order, from where, and what keys do.

use crate::cli::calls::UnderWay;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::{cmp::Reverse, ops::ControlFlow};

/// What the calls are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// The oldest first.
    #[default]
    Age,
    Server,
    Caller,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Age => Self::Server,
            Self::Server => Self::Caller,
            Self::Caller => Self::Age,
        }
    }

    /// Its name.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Server => "server",
            Self::Caller => "caller",
        }
    }

    /// Sorts calls; those that are equal in it by age.
    pub(super) fn sort(self, calls: &mut [UnderWay]) {
        match self {
            Self::Age => calls.sort_by_key(|call| Reverse(call.since_ms)),
            Self::Server => calls
                .sort_by(|a, b| (&a.upstream, &a.tool, b.since_ms).cmp(&(&b.upstream, &b.tool, a.since_ms))),
            Self::Caller => calls.sort_by(|a, b| {
                (&a.caller, &a.conversation, b.since_ms).cmp(&(&b.caller, &b.conversation, a.since_ms))
            }),
        }
    }
}

/// What a person at the terminal has chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) order: Order,
    /// Whether the picture stands still.
    pub(super) paused: bool,
    /// Whether the keys are explained.
    pub(super) help: bool,
    /// How many calls are above the first that is shown.
    pub(super) scroll: usize,
}

impl View {
    /// Takes a key, with `fits` calls on the screen; breaks where the key means the end.
    pub(super) fn press(&mut self, key: KeyEvent, fits: usize) -> ControlFlow<()> {
        if key.kind == KeyEventKind::Release {
            return ControlFlow::Continue(());
        }
        let page = fits.max(1);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return ControlFlow::Break(());
            }
            KeyCode::Char('q') => return ControlFlow::Break(()),
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Esc => self.help = false,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(page),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(page),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// Scrolls no further than to the last of `all` calls, of which `fits` are on the screen.
    pub(super) fn settle(&mut self, fits: usize, all: usize) {
        self.scroll = self.scroll.min(all.saturating_sub(fits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{calls::under_way, top::snapshot::tests::sample};

    fn press(view: &mut View, code: KeyCode) -> ControlFlow<()> {
        view.press(KeyEvent::new(code, KeyModifiers::NONE), 10)
    }

    #[test]
    fn keys_end_it_pause_it_sort_and_explain() {
        let mut view = View::default();
        assert!(press(&mut view, KeyCode::Char('q')).is_break());
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(view.press(interrupt, 10).is_break());
        assert!(press(&mut view, KeyCode::Char('c')).is_continue());
        for code in [KeyCode::Char('p'), KeyCode::Char('?'), KeyCode::Char('s')] {
            assert!(press(&mut view, code).is_continue());
        }
        assert_eq!(view, View { order: Order::Server, paused: true, help: true, scroll: 0 });
        for code in [KeyCode::Char('p'), KeyCode::Esc, KeyCode::Char('s'), KeyCode::Char('s')] {
            assert!(press(&mut view, code).is_continue());
        }
        assert_eq!(view, View::default());
    }

    #[test]
    fn scrolling_stays_within_the_calls() {
        let mut view = View::default();
        let mut after = |code: KeyCode| {
            assert!(press(&mut view, code).is_continue());
            view.settle(10, 25);
            view.scroll
        };
        assert_eq!(after(KeyCode::Up), 0);
        assert_eq!(after(KeyCode::Down), 1);
        assert_eq!(after(KeyCode::PageDown), 11);
        assert_eq!(after(KeyCode::PageDown), 15);
        assert_eq!(after(KeyCode::PageUp), 5);
        assert_eq!(after(KeyCode::End), 15);
        assert_eq!(after(KeyCode::Home), 0);
    }

    #[test]
    fn calls_are_sorted_by_what_was_chosen() {
        let mut calls = under_way(&sample().calls);
        Order::Server.sort(&mut calls);
        assert_eq!((&*calls[0].tool, &*calls[30].upstream), ("tool00", "slow"));
        Order::Caller.sort(&mut calls);
        assert_eq!((&*calls[0].caller, &*calls[30].caller), ("me", "you"));
        Order::Age.sort(&mut calls);
        assert!(calls.windows(2).all(|pair| pair[0].since_ms >= pair[1].since_ms));
    }
}
