//! What is due in a pool by the clock: letting go of what is idle or old, and processes in reserve.

use super::{Slot, State, chance, drain};
use crate::{
    config,
    life::Task,
    upstream::{Connector, Failure, Upstream, keys::InstanceKey, stdio},
};
use std::time::Duration;
use tokio::time::Instant;

impl Upstream {
    /// Does what is due by the clock: lets go of what is idle or too old, and starts spares. To
    /// be called about once a second, by one at a time.
    pub async fn tend(&self) {
        let pool = &self.config.pool;
        let now = Instant::now();
        let (idle, old, over, wanting) = {
            let mut state = self.lock();
            for slot in state.slots.values_mut() {
                // The time it may be idle begins when its last call has ended.
                if slot.instance().is_none_or(|instance| instance.in_flight() > 0) {
                    slot.used = now;
                }
            }
            let old = pool.max_age.map_or_else(Vec::new, |age| {
                state.take_where(|slot| slot.instance().is_some() && now - slot.since >= age)
            });
            let idle = pool.idle.map_or_else(Vec::new, |idle| state.idle_for(idle, now, pool.min));
            let mut over = Vec::new();
            for mut spare in std::mem::take(&mut state.spares) {
                if !spare.lives() {
                    state.spare_brake.ended(now, spare.age(), chance());
                    over.push(spare);
                } else if pool.max_age.is_some_and(|age| spare.age() >= age) {
                    over.push(spare);
                } else {
                    state.spares.push_back(spare);
                }
            }
            (idle, old, over, state.wanting(pool))
        };
        for instance in idle.iter().filter_map(Slot::instance) {
            instance.end("it was idle");
        }
        for instance in old.iter().filter_map(Slot::instance) {
            let longest = self.longest_call();
            self.life.spawn(Task::Follow, async move {
                drain(&instance, "it has reached its age", longest).await;
            });
        }
        Self::end_spares(over);
        for _ in 0..wanting {
            if !self.start_spare().await {
                break;
            }
        }
    }

    /// Starts one spare; false where that is not possible now.
    async fn start_spare(&self) -> bool {
        let (Connector::Stdio(connector), config::Kind::Stdio { command, args, .. }) =
            (&self.connector, &self.config.kind)
        else {
            return false;
        };
        // What has never been up is launched by whoever needs it, in its turn.
        if self.life.is_draining() || !self.launches.is_installed(command, args) {
            return false;
        }
        if self.lock().spare_brake.start(Instant::now()).is_err() {
            return false;
        }
        let started = connector.spare(&self.life, &|pid, tail| self.keep_tail(pid, tail)).await;
        let (spare, failed) = {
            let mut state = self.lock();
            state.spare_brake.called_off();
            match started {
                // While it was started, a call may have taken its place.
                Ok(spare) if state.closed.is_none() && state.wanting(&self.config.pool) > 0 => {
                    state.spares.push_back(spare);
                    (None, None)
                }
                Ok(spare) => (Some(spare), None),
                Err(lost) => {
                    if !lost.crowded {
                        state.spare_brake.ended(Instant::now(), Duration::ZERO, chance());
                    }
                    (None, Some(lost))
                }
            }
        };
        let is_there = spare.is_none() && failed.is_none();
        Self::end_spares(spare);
        if let Some(lost) = failed.filter(|lost| !lost.crowded) {
            self.noted(Some(Failure::now("start", lost.why)));
        }
        is_there
    }

    pub(super) fn end_spares(spares: impl IntoIterator<Item = stdio::Spare>) {
        spares.into_iter().for_each(stdio::Spare::end);
    }
}

impl State {
    /// How many spares there should be besides those there are.
    fn wanting(&self, pool: &config::Pool) -> usize {
        let running = self.slots.values().filter(|slot| slot.usable()).count();
        let wanted = pool.spare.max(pool.min.saturating_sub(running));
        let taken = running + self.leaving.len();
        let room = pool.max.map_or(usize::MAX, |max| usize::from(max).saturating_sub(taken));
        wanted.min(room).saturating_sub(self.spares.len())
    }

    /// Takes out what has had nothing to do for `idle`, longest first, as far as `min` are left.
    fn idle_for(&mut self, idle: Duration, now: Instant, min: usize) -> Vec<Slot> {
        let running = self.slots.values().filter(|slot| slot.usable()).count();
        let mut over: Vec<(Instant, InstanceKey)> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.instance().is_some_and(|instance| instance.in_flight() == 0))
            .filter(|(_, slot)| now - slot.used >= idle)
            .map(|(key, slot)| (slot.used, key.clone()))
            .collect();
        over.sort_by_key(|(used, _)| *used);
        over.truncate(running.saturating_sub(min));
        over.iter().filter_map(|(_, key)| self.dismiss(key)).collect()
    }
}
