//! Rates: how many calls a caller may make in a time, kept by token buckets.
//!
//! A bucket holds as many calls as the rate names, so that many may come at once; then they come as fast as it fills.

use crate::config::Rate;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How many buckets are kept at most.
const MOST: usize = 4096;
/// How many are left after buckets that are not full had to be forgotten, so that this is not to be done again at once.
const LEFT: usize = MOST / 4 * 3;

/// What is left of one rate: a token bucket.
///
/// It counts in nanoseconds times calls, all in whole numbers: after just the time that was told, there is a call.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    /// One call is as much as `rate.per` has nanoseconds; each nanosecond adds `rate.calls`.
    level: u128,
    /// Until when it was filled.
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: full(rate), filled: now }
    }

    /// Takes one call out. `rate` may have changed since the last time: what is left is kept as far as it fits in, and
    /// it fills at the new rate from now on.
    ///
    /// # Errors
    /// How long it takes until there is one.
    pub fn try_take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.level = self.level_at(now);
        // A reading of the clock may come late; time that was counted is not counted again.
        self.filled = self.filled.max(now);
        if rate != self.rate {
            let calls = self.level.saturating_mul(rate.per.as_nanos()).checked_div(self.rate.per.as_nanos());
            self.level = calls.unwrap_or(u128::MAX).min(full(rate));
            self.rate = rate;
        }
        let one = rate.per.as_nanos();
        if rate.calls == 0 {
            return Err(rate.per);
        }
        match self.level.checked_sub(one) {
            Some(level) => {
                self.level = level;
                Ok(())
            }
            None => Err(time_for(one - self.level, rate)),
        }
    }

    /// Puts back a call that was taken out, and not made.
    fn give_back(&mut self) {
        self.level = self.level.saturating_add(self.rate.per.as_nanos()).min(full(self.rate));
    }

    /// How long it takes until it is full; a full one is like a new one.
    fn full_in(&self, now: Instant) -> Duration {
        time_for(full(self.rate).saturating_sub(self.level_at(now)), self.rate)
    }

    fn level_at(&self, now: Instant) -> u128 {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        self.level.saturating_add(passed.saturating_mul(self.rate.calls.into())).min(full(self.rate))
    }
}

fn full(rate: Rate) -> u128 {
    u128::from(rate.calls).saturating_mul(rate.per.as_nanos())
}

/// How long it takes to fill in `missing`, no less.
fn time_for(missing: u128, rate: Rate) -> Duration {
    let nanoseconds = missing.div_ceil(u128::from(rate.calls).max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// What a rate is kept for: all calls of a caller, or those of one tool, named by its upstream and its own name.
type Key = (Arc<str>, Option<(Arc<str>, Arc<str>)>);

/// All buckets of the daemon.
///
/// At most 4096 are kept. Beyond that those that are full are forgotten, which changes nothing; where that is not
/// enough also those that would be full next, whose callers then get the little that was missing ahead of time.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<Key, Bucket>>);

impl Rates {
    /// Takes one call of `caller` out of the bucket for all its calls, or out of that of one tool, given as the names
    /// of its upstream and its own.
    ///
    /// # Errors
    /// How long it takes until there is one. Nothing was taken then.
    pub fn take(
        &self,
        caller: &Arc<str>,
        tool: Option<(&Arc<str>, &Arc<str>)>,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        let tool = tool.map(|(upstream, tool)| (Arc::clone(upstream), Arc::clone(tool)));
        let key = (Arc::clone(caller), tool);
        let mut buckets = self.lock();
        if let Some(bucket) = buckets.get_mut(&key) {
            return bucket.try_take(rate, now);
        }
        if buckets.len() >= MOST {
            make_room(&mut buckets, now);
        }
        buckets.entry(key).or_insert_with(|| Bucket::new(rate, now)).try_take(rate, now)
    }

    /// Puts back what [`Rates::take`] took for a call that is not made after all.
    pub fn give_back(&self, caller: &Arc<str>, tool: Option<(&Arc<str>, &Arc<str>)>) {
        let tool = tool.map(|(upstream, tool)| (Arc::clone(upstream), Arc::clone(tool)));
        if let Some(bucket) = self.lock().get_mut(&(Arc::clone(caller), tool)) {
            bucket.give_back();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(buckets: &mut HashMap<Key, Bucket>, now: Instant) {
    buckets.retain(|_, bucket| !bucket.full_in(now).is_zero());
    let mut surplus = buckets.len().saturating_sub(LEFT);
    if surplus == 0 {
        return;
    }
    let mut times: Vec<Duration> = buckets.values().map(|bucket| bucket.full_in(now)).collect();
    let next = *times.select_nth_unstable(surplus - 1).1;
    // As many as are due go first. Of those that are full at the same time some stay.
    buckets.retain(|_, bucket| {
        let forgotten = surplus > 0 && bucket.full_in(now) <= next;
        surplus -= usize::from(forgotten);
        !forgotten
    });
}

#[cfg(test)]
mod tests;
