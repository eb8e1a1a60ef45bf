//! The attempt: one dispatch of a call to an instance, and what the call holds while it lasts.

use super::{
    Call, Interest,
    admit::{Admission, Claim, Permit},
    journal::Journal,
    line::WorkSide,
    resolve::Target,
};
use crate::upstream::{Exchange, Heard, Instance, Lost, Sent, Upstream};
use seawall_proto::{
    Ask, Event, Fault, Reply, ReplySlot, Request, Stage,
    era::peer::{Peer, parameter_headers},
    event::Answer as AskAnswer,
    mcp::Effects,
};
use std::{sync::Arc, time::Duration};

/// How an attempt ended without a reply.
#[derive(Debug)]
pub(super) enum Ended {
    /// The clock ran out.
    TimedOut,
    /// The caller took the call back, or left before anything was sent.
    Cancelled,
    /// The instance could not be had, or was lost.
    Lost(Lost),
}

/// What one call holds: its place, its way to the caller, and its request at an instance.
#[derive(Debug)]
pub(super) struct Attempt {
    line: WorkSide,
    journal: Arc<Journal>,
    permit: Option<Arc<Permit>>,
    exchange: Option<Exchange>,
    /// How far the interest in the call has fallen, as far as it was acted on.
    interest: Interest,
}

impl Attempt {
    pub(super) fn new(line: WorkSide, journal: Arc<Journal>) -> Self {
        Self { line, journal, permit: None, exchange: None, interest: Interest::Wanted }
    }

    pub(super) fn reach(&self, stage: Stage) {
        self.journal.reach(stage);
    }

    pub(super) fn stage(&self) -> Stage {
        self.journal.stage()
    }

    pub(super) fn may_have_run(&self) -> bool {
        self.journal.may_have_run()
    }

    /// Waits for a place. Whoever leaves the line never gets one.
    pub(super) async fn admit(
        &mut self,
        admission: &Admission,
        claim: Claim,
        over: Duration,
    ) -> Result<(), Fault> {
        let cancelled =
            || Fault::new(seawall_proto::Code::Cancelled, Stage::Admit, "the caller left the line.");
        tokio::select! {
            biased;
            permit = admission.enter(claim, &self.journal.clock, over) => self.permit = Some(Arc::new(permit?)),
            _ = self.line.lower(Interest::Wanted) => return Err(cancelled()),
        }
        Ok(())
    }

    /// Dispatches the call once and sees it through.
    pub(super) async fn run(&mut self, call: &Call, target: &Target) -> Result<Reply, Ended> {
        self.reach(Stage::Start);
        let instance = self.instance(&target.upstream, target).await?;
        let headers = target.tool.as_ref().map_or_else(Vec::new, |tool| {
            parameter_headers(&tool.declared.header_parameters, call.request.arguments().as_ref())
        });
        let exchange = match instance.exchange(&call.request, target.subject.as_deref(), headers) {
            Ok(exchange) => exchange,
            Err(reply) => return Ok(reply),
        };
        self.journal.dispatching();
        self.exchange = Some(exchange);
        self.reach(Stage::Answer);
        let outcome = self.listen(&call.request, target.effects, instance.peer()).await;
        if matches!(&outcome, Err(Ended::Lost(lost)) if lost.sent == Sent::No) {
            self.journal.recalled();
        }
        outcome
    }

    /// Waits for an instance; its opening goes on if this call gives up.
    async fn instance(&mut self, upstream: &Arc<Upstream>, target: &Target) -> Result<Instance, Ended> {
        tokio::select! {
            biased;
            instance = upstream.instance(target.wanted()) => instance.map_err(Ended::Lost),
            () = self.journal.clock.expired() => Err(Ended::TimedOut),
            _ = self.line.lower(Interest::Wanted) => Err(Ended::Cancelled),
        }
    }

    /// Passes on what the upstream says until it has said the last.
    async fn listen(&mut self, request: &Request, effects: Effects, peer: &Peer) -> Result<Reply, Ended> {
        let journal = Arc::clone(&self.journal);
        let expired = journal.clock.expired();
        tokio::pin!(expired);
        loop {
            let Some(exchange) = &mut self.exchange else { return Err(Ended::Cancelled) };
            tokio::select! {
                biased;
                heard = exchange.next() => match heard.map_err(Ended::Lost)? {
                    Heard::Response(response) => return Ok(peer.reply(request, &response)),
                    heard => self.pass_on(request, peer, heard),
                },
                () = &mut expired => {
                    exchange.cancel("the time limit of the call passed");
                    return Err(Ended::TimedOut);
                }
                interest = self.line.lower(self.interest) => {
                    let nothing_sent = exchange.sent() == Sent::No;
                    if interest == Interest::Cancelled || nothing_sent || effects == Effects::None {
                        exchange.cancel("the caller took the call back");
                        return Err(Ended::Cancelled);
                    }
                    // It may have begun to act: it runs on to its time limit, and nobody waits for it.
                    self.interest = interest;
                    self.free_caller_half();
                }
            }
        }
    }

    /// Hands an event to the caller; what it has no room for is dropped, but a question is refused.
    fn pass_on(&self, request: &Request, peer: &Peer, heard: Heard) {
        let event = match heard {
            Heard::Notification(message, topic) => {
                let Some(body) = peer.notification(request, &message, topic) else { return };
                match topic {
                    seawall_proto::era::peer::Topic::Progress => Event::Progress(body),
                    seawall_proto::era::peer::Topic::Log => Event::Log(body),
                    _ => Event::Notification(body),
                }
            }
            Heard::Ask(ask) if !peer.can_ask(request) => {
                ask.reply.answer(AskAnswer::Refused(
                    "the client cannot be asked: it speaks another era of the protocol",
                ));
                return;
            }
            Heard::Ask(ask) => Event::Ask(self.timed(ask)),
            Heard::Streaming => Event::Streaming,
            Heard::Pause(retry_ms) => Event::Pause { retry_ms },
            Heard::Response(_) => return,
        };
        if !self.line.push(event) {
            self.journal.dropped();
        }
    }

    /// While a question is open the clock stands still and the caller's half of the place is lent back.
    fn timed(&self, ask: Ask) -> Ask {
        let Ask { message, reply } = ask;
        // A question may outlive its call unanswered; the place must not.
        let (journal, permit) = (Arc::clone(&self.journal), self.permit.as_ref().map(Arc::downgrade));
        journal.clock.asking();
        if let Some(permit) = &self.permit {
            permit.free_caller_half();
            permit.held_until(journal.clock.runs_out() + super::ASK_LIMIT + super::OVER);
        }
        let reply = ReplySlot::new(move |answer| {
            let permit = permit.and_then(|permit| permit.upgrade());
            if let Some(permit) = &permit {
                permit.reclaim_caller_half();
            }
            journal.clock.answered();
            if let Some(permit) = &permit {
                permit.held_until(journal.clock.runs_out() + super::OVER);
            }
            reply.answer(answer);
        });
        Ask { message, reply }
    }

    /// The caller has its answer, or waits no more.
    pub(super) fn free_caller_half(&self) {
        if let Some(permit) = &self.permit {
            permit.free_caller_half();
        }
    }

    /// Gives the caller the end.
    pub(super) fn end(&self, end: Result<Reply, Fault>) {
        self.line.end(Event::End(end));
    }

    /// Waits until the upstream is done with the call, or can be taken to be, and frees its half.
    pub(super) async fn over(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.over().await;
        }
        self.permit = None;
    }
}
