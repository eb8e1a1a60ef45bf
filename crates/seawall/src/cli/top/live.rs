//! The terminal: drawn anew at each look at the daemon and at each key, and given back whatever happens.

use super::{
    screen::{self, Fits},
    snapshot::{Snapshot, Source},
    view::View,
    waiting,
};
use crate::cli::{Exit, Failure};
use crossterm::event::{Event, EventStream};
use futures_core::Stream;
use ratatui::DefaultTerminal;
use std::{future::poll_fn, io, pin::Pin, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

/// Shows what the daemon is at until a key or a signal ends it.
pub(super) async fn run(source: Source, first: Snapshot, every: Duration) -> Result<Exit, Failure> {
    let mut ends = Ends::listen()?;
    // Before the keys: they can be read of a terminal only, and this says whether there is one.
    let mut picture = Picture::begin()?;
    let mut keys = EventStream::new();
    let (mut snapshot, mut trouble, mut view) = (first, None::<String>, View::default());
    let mut looking = Box::pin(look(source, every));
    loop {
        let fits = picture.draw(&snapshot, trouble.as_deref(), &view)?;
        view.settle(fits.on_screen, fits.all);
        tokio::select! {
            (source, looked) = &mut looking, if !view.paused => {
                match looked {
                    Ok(new) => (snapshot, trouble) = (new, None),
                    Err(failure) => trouble = Some(waiting(&failure)),
                }
                looking = Box::pin(look(source, every));
            }
            event = next(&mut keys) => match event {
                Some(Ok(Event::Key(key))) => {
                    if view.press(key, fits.on_screen).is_break() {
                        return Ok(Exit::Done);
                    }
                }
                // Another size, above all: it is drawn anew in any case.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(unusable(&error)),
                None => return Ok(Exit::Done),
            },
            () = ends.come() => return Ok(Exit::Done),
        }
    }
}

/// Waits and looks at the daemon; gives back what it looked with.
async fn look(mut source: Source, after: Duration) -> (Source, Result<Snapshot, Failure>) {
    sleep(after).await;
    let looked = source.look().await;
    (source, looked)
}

/// What happens next at the terminal. Cancel-safe.
async fn next(keys: &mut EventStream) -> Option<io::Result<Event>> {
    poll_fn(|context| Pin::new(&mut *keys).poll_next(context)).await
}

fn unusable(error: &io::Error) -> Failure {
    let text = format!("the terminal cannot be used: {error}; `seawall top --json` needs none");
    Failure::new(Exit::Failed, text)
}

/// The signals that end it, as they would without it, but with the terminal given back.
#[derive(Debug)]
struct Ends([Signal; 3]);

impl Ends {
    fn listen() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, format!("signals cannot be listened to: {error}"))
            })
        };
        Ok(Self([on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?]))
    }

    /// Completes when one of them comes. Cancel-safe.
    async fn come(&mut self) {
        let [terminate, interrupt, hang_up] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}

/// The whole terminal, as long as this lives.
struct Picture(DefaultTerminal);

impl Picture {
    /// Takes the terminal. From here on a panic gives it back before it is told.
    fn begin() -> Result<Self, Failure> {
        ratatui::try_init().map(Self).map_err(|error| {
            give_back();
            unusable(&error)
        })
    }

    fn draw(&mut self, snapshot: &Snapshot, trouble: Option<&str>, view: &View) -> Result<Fits, Failure> {
        let mut fits = Fits { on_screen: 0, all: 0 };
        self.0
            .draw(|frame| fits = screen::draw(frame, snapshot, trouble, view))
            .map_err(|error| unusable(&error))?;
        Ok(fits)
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        // A panic has given it back already; once more would move the cursor over what it said.
        if !std::thread::panicking() {
            give_back();
        }
    }
}

fn give_back() {
    // There is nobody left to tell: the terminal is what failed.
    drop(ratatui::try_restore());
}
