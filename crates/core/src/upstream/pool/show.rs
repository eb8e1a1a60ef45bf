//! What a pool shows of itself.

use super::Slot;
use crate::upstream::{Instance, InstanceStatus, Oddities, Upstream, brake::Braked, keys::Isolation};
use std::time::Duration;
use tokio::time::Instant;

impl Upstream {
    /// How many instances there are, those being opened included.
    pub fn running(&self) -> usize {
        self.lock().slots.values().filter(|slot| slot.usable()).count()
    }

    /// How many processes there are, those that are ending and those in reserve included.
    pub fn processes(&self) -> usize {
        let state = self.lock();
        let open = state.slots.values().filter_map(Slot::instance).filter(Instance::is_process).count();
        let leaving = state.leaving.values().filter(|leaving| leaving.instance.is_process()).count();
        open + leaving + state.spares.len()
    }

    /// Requests that wait for an answer of it.
    pub fn pending(&self) -> usize {
        let state = self.lock();
        let open = state.slots.values().filter_map(Slot::instance);
        let leaving = state.leaving.values().map(|leaving| leaving.instance.clone());
        open.chain(leaving).map(|instance| instance.in_flight()).sum()
    }

    /// Its instances, oldest first: those in use, those that are leaving, and spares.
    pub fn statuses(&self) -> Vec<InstanceStatus> {
        let state = self.lock();
        let of = |isolation: &Isolation, since: Instant, word, instance: Option<&Instance>| InstanceStatus {
            key: isolation.to_string(),
            state: word,
            version: instance.map_or("", |instance| instance.peer().wire().version()),
            pid: instance.and_then(Instance::pid),
            in_flight: instance.map_or(0, Instance::in_flight),
            age: since.elapsed(),
            oddities: instance.map(Instance::oddities).unwrap_or_default(),
        };
        let open = state.slots.values().filter(|slot| slot.usable()).map(|slot| {
            let instance = slot.instance();
            let word = if instance.is_some() { "open" } else { "starting" };
            of(&slot.isolation, slot.since, word, instance.as_ref())
        });
        let leaving = state.leaving.values().map(|leaving| {
            let word = if leaving.instance.in_flight() > 0 { "draining" } else { "ending" };
            of(&leaving.isolation, leaving.since, word, Some(&leaving.instance))
        });
        let spares = state.spares.iter().map(|spare| InstanceStatus {
            key: String::from("nobody yet"),
            state: "spare",
            version: "",
            pid: Some(spare.pid()),
            in_flight: 0,
            age: spare.age(),
            oddities: Oddities::default(),
        });
        let mut statuses: Vec<InstanceStatus> = open.chain(leaving).chain(spares).collect();
        statuses.sort_by_key(|status| std::cmp::Reverse(status.age));
        statuses
    }

    /// How often in a row it did not stay up, and in what time it is tried again, where it is being left alone.
    pub fn left_alone(&self) -> Option<(u32, Duration)> {
        let now = Instant::now();
        let Braked { times, next } = self.lock().brake.braked(now)?;
        Some((times, next.map_or(Duration::ZERO, |next| next - now)))
    }
}
