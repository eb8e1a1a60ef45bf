//! The attempts at one call: how often and when it is tried, and what is kept of its end.

use super::{
    Call,
    attempt::{Attempt, Ended},
    breaker::End,
    cache::cacheable,
    idempotency::{self, Begun, Pending},
    resolve::Target,
};
use crate::{
    Gateway,
    life::{Life, Task},
    time::Clock,
};
use seawall_proto::{Code, Fault, Reply, Stage};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

/// How long keeping the end of a call may hold its answer up, where that much of its time is left.
const KEEPING: Duration = Duration::from_secs(1);
/// The same where nothing is left.
const LATE: Duration = Duration::from_millis(50);

/// What became of a call that its caller may repeat.
#[derive(Debug)]
pub(super) enum Key {
    /// It is the first under its key.
    First(Pending),
    /// It has been answered before.
    Ended(Reply),
}

impl Gateway {
    /// Refuses a call that comes faster than its caller or its tool is allowed calls.
    pub(super) fn within_rates(&self, call: &Call, target: &Target) -> Result<(), Fault> {
        if target.control {
            return Ok(());
        }
        let (caller, now) = (&call.caller.name, Instant::now());
        // Names that callers make up share one: there may be any number of them, of any length.
        let unknown = Arc::default();
        let tool = target.subject.as_ref().map(|tool| if target.knows(tool) { tool } else { &unknown });
        let tool = tool.map(|tool| (target.upstream.name(), tool));
        let of_tool = target.terms.rate.map(|rate| (tool, rate, "this tool"));
        let of_caller = call.caller.rate.or(target.config.limits.rate).map(|rate| (None, rate, "calls"));
        let mut taken = None;
        for (tool, rate, what) in of_tool.into_iter().chain(of_caller) {
            let Err(wait) = self.rates.take(caller, tool, rate, now) else {
                taken = Some(tool);
                continue;
            };
            // What is refused by one rate is not to use up the other.
            if let Some(tool) = taken {
                self.rates.give_back(caller, tool);
            }
            self.telemetry.refused("rate");
            let wait = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            let text = format!(
                "the caller {caller} may make {rate} of {what}, and has; nothing was sent. Try again in about {wait} ms."
            );
            let fault = Fault::new(Code::OverCapacity, Stage::Admit, text);
            return Err(Fault { retry_after_ms: Some(wait), ..fault });
        }
        Ok(())
    }

    /// The result of an equal call that is kept, where results are.
    pub(super) fn kept(&self, call: &Call, target: &Target) -> Option<Reply> {
        target.terms.cache.filter(|_| call.idempotency.is_none())?;
        let now = Instant::now();
        let kept = self.cache.get(target.equal.as_ref()?, now)?;
        self.telemetry.hit(target.upstream.name());
        Some(kept.answering(&call.request, now))
    }

    /// A reply as its caller may have it: cut where it is over its limit.
    pub(super) async fn fit(
        &self,
        call: &Call,
        target: &Target,
        clock: &Clock,
        reply: Reply,
    ) -> Result<Reply, Fault> {
        match target.exceeded(&reply) {
            None => Ok(reply),
            Some(limit) => Box::pin(self.cut(call, target, clock, reply, limit)).await,
        }
    }

    /// Commits the key of a call before anything is sent, or finds what became of an earlier call under it.
    pub(super) async fn begin_under_key(
        &self,
        call: &Call,
        key: &Arc<str>,
        clock: &Clock,
    ) -> Result<Key, Fault> {
        let keep = self.config().limits.idempotency;
        let (keys, call, key) = (self.keys.clone(), call.clone(), Arc::clone(key));
        let (tell, mut told) = oneshot::channel();
        // On a task of its own: what is committed for a call that waits no more is taken back, for it has not run.
        self.life.spawn(Task::Keep, async move {
            if let Err(Ok(Begun::First(pending))) = tell.send(keys.begin(&call, &key, keep).await) {
                take_back(pending).await;
            }
        });
        let begun = if let Ok(begun) = timeout(clock.left(), &mut told).await {
            begun.ok()
        } else {
            // What was told in this moment is not to be lost.
            told.close();
            told.try_recv().ok()
        };
        match begun.transpose()? {
            Some(Begun::First(pending)) if !clock.left().is_zero() => Ok(Key::First(pending)),
            Some(Begun::Ended(end)) => end.map(Key::Ended),
            late @ (None | Some(Begun::First(_))) => {
                if let Some(Begun::First(pending)) = late {
                    self.life.spawn(Task::Keep, take_back(pending));
                }
                let text = "the Idempotency-Key could not be looked up and kept in time; nothing was sent. Try \
                            again.";
                Err(Fault::new(Code::Timeout, Stage::Admit, text))
            }
            Some(begun) => Err(begun.refusal().unwrap_or_else(idempotency::other)),
        }
    }

    /// Tries until the call is answered, or must not be tried again.
    pub(super) async fn attempts(
        &self,
        call: &Call,
        target: &Target,
        attempt: &mut Attempt,
    ) -> Result<Reply, Fault> {
        let (name, track) = (target.upstream.name(), target.upstream.track());
        if target.control {
            return attempt.run(call, target).await.map_err(|ended| target.fault(ended, attempt));
        }
        let mut passed = track.pass()?;
        track.called();
        let mut failed = 0;
        loop {
            let left = attempt.clock().left();
            let outcome = attempt.run(call, target).await;
            let change = passed.ended(match &outcome {
                Ok(_) => End::Success,
                // Most of its time had been spent in line: that it was not enough says nothing of the server.
                Err(Ended::TimedOut) if left < attempt.clock().budget() / 2 => End::Neither,
                Err(ended) => Target::says(ended, attempt.stage()),
            });
            if let Some(change) = change {
                self.telemetry.breaker(name, change.name());
                tracing::warn!(upstream = &**name, breaker = change.name(), "calls to a server changed");
            }
            let ended = match outcome {
                Ok(reply) => {
                    // While it stood still for a question, the time was not the server's.
                    let took = left.saturating_sub(attempt.clock().left());
                    self.succeeded(target, &reply, took, attempt.has_asked());
                    return Ok(reply);
                }
                Err(ended) => ended,
            };
            failed += 1;
            if let (Ended::RanOut { learned: true }, Some(tool)) = (&ended, &target.subject) {
                track.ran_out(tool);
            }
            let Some(pause) = target.again(&ended, failed, attempt) else {
                return Err(target.fault(ended, attempt));
            };
            if !track.may_retry() {
                self.telemetry.budget_spent(name);
                return Err(target.fault(ended, attempt));
            }
            if let Err(left) = Box::pin(attempt.pause(pause)).await {
                // What the attempt ended with says more than that time ran out while waiting for the next.
                let ended = if matches!(left, Ended::TimedOut) { ended } else { left };
                return Err(target.fault(ended, attempt));
            }
            // Where calls are not tried any more, this one has been.
            let Ok(next) = track.pass() else { return Err(target.fault(ended, attempt)) };
            passed = next;
            self.telemetry.retried(name);
        }
    }

    /// Notes what an answer says of its upstream and tool, and keeps it where results are kept and it was not made from
    /// more than the arguments: from what a caller was `asked`.
    fn succeeded(&self, target: &Target, reply: &Reply, took: Duration, asked: bool) {
        let upstream = &target.upstream;
        upstream.noted(None);
        let Some(tool) = &target.subject else { return };
        // How soon it fails says nothing of how long it takes.
        if target.terms.learn.is_some() && cacheable(reply) {
            upstream.track().succeeded(tool, took);
            if let Some(timeout) = upstream.track().learned(tool) {
                self.telemetry.learned(upstream.name(), tool, timeout);
            }
        }
        if let (Some(keep), Some(key), false) = (target.terms.cache, &target.equal, asked) {
            self.cache.put(key.clone(), reply, keep, Instant::now());
        }
    }
}

/// Lets go of a key that was committed for a call which is not made.
async fn take_back(pending: Pending) {
    pending.ended(&Err(Fault::new(Code::Timeout, Stage::Admit, "nothing was sent."))).await;
}

/// Keeps the end of a call under its key, before its caller hears of it. A disk that is slow holds the answer up no more
/// than a little, and the end is kept after it: until then a repeat is told that the call is under way.
pub(super) async fn keep_end(life: &Life, pending: Pending, end: &Result<Reply, Fault>, clock: &Clock) {
    let (end, time) = (end.clone(), clock.left().clamp(LATE, KEEPING));
    let (tell, told) = oneshot::channel::<()>();
    life.spawn(Task::Keep, async move {
        pending.ended(&end).await;
        drop(tell);
    });
    // It ends when the other end is dropped.
    if timeout(time, told).await.is_err() {
        tracing::warn!(
            "keeping the end of a call with an Idempotency-Key takes longer than its answer can wait"
        );
    }
}
