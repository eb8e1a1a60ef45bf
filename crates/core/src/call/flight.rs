//! Flights: work that is done once for calls that ask for the same.
//!
//! A call is equal to another when it would have had the same instance and asks for the same with the same bytes, or
//! when its caller gave both one `Idempotency-Key`. It joins the flight of the first, hears what that hears, and keeps
//! its own deadline and its own record. The key leaves with the flight, on every way out: it is in a guard that the
//! work owns. See `docs/design/flights.md`.

use super::{Interest, cache::Key, journal::Journal, line::Line};
use seawall_proto::{Code, Event, Fault, Reply, Stage};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// How many calls may share one flight besides the one that began it; those beyond begin another.
const FOLLOWERS: usize = 256;

/// What makes calls share a flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum FlightKey {
    /// They ask for the same.
    Equal {
        /// What that is.
        of: Key,
        /// Whose calls alone share it, where an answer is of use to its own caller only.
        caller: Option<Arc<str>>,
    },
    /// Their caller says that they are the same.
    Named {
        /// The caller.
        caller: Arc<str>,
        /// The key it gave.
        key: Arc<str>,
    },
}

/// The flights under way.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<FlightKey, Arc<Flight>>>);

/// Work that is under way, and who shares it.
#[derive(Debug)]
struct Flight {
    /// What it is about, where its key does not tell.
    about: Option<String>,
    /// The record of the call that began it.
    first: Arc<Journal>,
    band: Mutex<Band>,
}

#[derive(Debug, Default)]
struct Band {
    /// Nobody joins any more.
    closed: bool,
    followers: Vec<Follower>,
    /// The work, which wants to know when interest falls.
    work: Option<Waker>,
}

#[derive(Debug)]
struct Follower {
    line: Arc<Line>,
    journal: Arc<Journal>,
}

/// A call that shared a flight to its end.
#[derive(Debug)]
pub(super) struct Landed {
    /// Its record.
    pub(super) journal: Arc<Journal>,
    /// How it ended for this call.
    pub(super) end: Result<Reply, Fault>,
}

/// The guard of a flight: dropped, its key is gone, and whoever shares it hears that there is no answer.
#[derive(Debug)]
pub(super) struct InFlight {
    flights: Arc<Flights>,
    key: FlightKey,
    flight: Arc<Flight>,
}

/// What became of a call that could share a flight.
#[derive(Debug)]
pub(super) enum Joined {
    /// It began one.
    Began(Box<InFlight>),
    /// It shares one.
    Follows,
    /// One is under way, and its tool takes no second: the id of the call that began it.
    Refused(Arc<str>),
    /// Its key was given to a call for something else, which is under way.
    Other,
}

impl Flights {
    /// Begins a flight, or joins the one under way where at least half of its time is left. A flight that is named
    /// after a key is joined to its end: its work must not be done twice. With `refuse` none is joined.
    pub(super) fn join(
        self: &Arc<Self>,
        key: FlightKey,
        about: Option<String>,
        refuse: bool,
        journal: &Arc<Journal>,
        line: impl FnOnce() -> Arc<Line>,
    ) -> Joined {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&key) {
            let named = matches!(key, FlightKey::Named { .. });
            if flight.about != about {
                return Joined::Other;
            }
            // Of calls with one key the words may differ, and each has to be answered in its own.
            let same_words = flight.first.request.words() == journal.request.words();
            if (refuse && !named) || !same_words {
                return Joined::Refused(flight.first.id());
            }
            if flight.join(&line(), journal, named) {
                return Joined::Follows;
            }
        }
        let flight = Arc::new(Flight { about, first: Arc::clone(journal), band: Mutex::default() });
        flights.insert(key.clone(), Arc::clone(&flight));
        Joined::Began(Box::new(InFlight { flights: Arc::clone(self), key, flight }))
    }

    fn forget(&self, key: &FlightKey, flight: &Arc<Flight>) {
        let mut flights = self.lock();
        // A later flight may have taken the key.
        if flights.get(key).is_some_and(|there| Arc::ptr_eq(there, flight)) {
            flights.remove(key);
        }
    }

    /// How many are under way.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FlightKey, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Takes a follower in, unless it is too late or too full.
    fn join(&self, line: &Arc<Line>, journal: &Arc<Journal>, named: bool) -> bool {
        let clock = &self.first.clock;
        if !named && clock.left() < clock.budget() / 2 {
            return false;
        }
        let mut band = self.lock();
        if band.closed || band.followers.len() >= FOLLOWERS {
            return false;
        }
        if let Some(work) = &band.work {
            line.watch(work);
        }
        journal.follow(&self.first);
        band.followers.push(Follower { line: Arc::clone(line), journal: Arc::clone(journal) });
        true
    }

    fn lock(&self) -> MutexGuard<'_, Band> {
        self.band.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// Hands an event to whoever shares the flight, in the words of the call that began it. Progress goes to those who
    /// asked for it; questions are for the first caller alone.
    pub(super) fn pass_on(&self, event: &Event) {
        let band = self.flight.lock();
        for Follower { line, journal } in &band.followers {
            let copy = match event {
                Event::Progress(message) if journal.request.wants_progress() => {
                    Event::Progress(message.clone())
                }
                Event::Log(message) if journal.request.wants_log(message) => Event::Log(message.clone()),
                Event::Notification(message) => Event::Notification(message.clone()),
                Event::Streaming => Event::Streaming,
                Event::Progress(_) | Event::Log(_) | Event::Ask(_) | Event::Pause { .. } | Event::End(_) => {
                    continue;
                }
            };
            if !line.push(copy) {
                journal.dropped();
            }
        }
    }

    /// The highest interest of whoever shares the flight; `work` is woken when one falls.
    pub(super) fn watch(&self, work: &Waker) -> Interest {
        let mut band = self.flight.lock();
        if band.work.as_ref().is_none_or(|waker| !waker.will_wake(work)) {
            band.work = Some(work.clone());
        }
        let interests = band.followers.iter().map(|follower| follower.line.watch(work));
        interests.max().unwrap_or(Interest::Cancelled)
    }

    /// Lets nobody join any more, unless somebody has joined whose interest is higher than `seen`.
    pub(super) fn give_up(&self, seen: Interest) -> bool {
        {
            let mut band = self.flight.lock();
            if band.followers.iter().any(|follower| follower.line.interest() > seen) {
                return false;
            }
            band.closed = true;
        }
        self.flights.forget(&self.key, &self.flight);
        true
    }

    /// Ends the flight: its key is gone, and whoever shares it has the end.
    pub(super) fn land(&self, end: &Event) -> Vec<Landed> {
        self.flights.forget(&self.key, &self.flight);
        let followers = {
            let mut band = self.flight.lock();
            band.closed = true;
            std::mem::take(&mut band.followers)
        };
        let Event::End(end) = end else { return Vec::new() };
        let landed = |Follower { line, journal }: Follower| {
            let end = end.clone().map_err(|fault| journal.complete(fault));
            line.close(Some(Event::End(end.clone())));
            Landed { journal, end }
        };
        followers.into_iter().map(landed).collect()
    }
}

/// The fault of a call that equals one under way, and whose tool takes no second.
pub(super) fn duplicate(first: &Arc<str>) -> Fault {
    let text = format!(
        "the same call is under way already, as {first}; nothing was sent. Wait for that one, or call again when it is \
         over."
    );
    Fault { original: Some(Arc::clone(first)), ..Fault::new(Code::Duplicate, Stage::Admit, text) }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.flights.forget(&self.key, &self.flight);
        let followers = {
            let mut band = self.flight.lock();
            band.closed = true;
            std::mem::take(&mut band.followers)
        };
        for follower in followers {
            follower.line.close(None);
        }
    }
}
