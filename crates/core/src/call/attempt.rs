//! The attempt: one dispatch of a call to an instance, and what the call holds while it lasts.

use super::{
    Call, Interest,
    admit::{Claim, Permit},
    flight::{InFlight, Landed},
    journal::Journal,
    line::WorkSide,
    resolve::Target,
};
use crate::{
    Gateway,
    time::Clock,
    upstream::{Exchange, Heard, Instance, Lost, Sent, Upstream},
};
use seawall_proto::{
    Ask, Event, Fault, Message, Raw, Reply, ReplySlot, Request, Stage,
    era::{
        cross::{self, Input},
        peer::{Peer, parameter_headers},
    },
    event::Answer as AskAnswer,
    mcp::Effects,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::sleep};

/// How often an upstream may want to know more before it has to answer.
const ROUNDS: u32 = 16;
/// How long to wait, at first, before an upstream that wants nothing but time is called again.
const AGAIN: Duration = Duration::from_millis(50);

/// How an attempt ended without a reply.
#[derive(Debug)]
pub(super) enum Ended {
    /// The clock ran out.
    TimedOut,
    /// The time of this attempt ran out, and that of the call did not; it was learned where that is so.
    RanOut { learned: bool },
    /// The caller took the call back, or left before anything was sent.
    Cancelled,
    /// The instance could not be had, or was lost.
    Lost(Lost),
}

/// What one call holds: its place, its way to the callers, and its request at an instance.
#[derive(Debug)]
pub(super) struct Attempt {
    line: WorkSide,
    journal: Arc<Journal>,
    permit: Option<Arc<Permit>>,
    exchange: Option<Exchange>,
    /// The time of the attempt under way, where it has one of its own.
    time: Option<Arc<Clock>>,
    /// Whether an attempt before this one was sent.
    sent_before: bool,
    /// How far the interest in the call has fallen, as far as it was acted on.
    interest: Interest,
    /// Whether its caller was asked something.
    asked: AtomicBool,
}

impl Attempt {
    pub(super) fn new(line: WorkSide, journal: Arc<Journal>) -> Self {
        Self {
            line,
            journal,
            permit: None,
            exchange: None,
            time: None,
            sent_before: false,
            interest: Interest::Wanted,
            asked: AtomicBool::new(false),
        }
    }

    /// Lets other calls share what is done.
    pub(super) fn share(&mut self, flight: Box<InFlight>) {
        self.line.share(flight);
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

    /// Whether it goes on although its caller has left.
    pub(super) fn is_left(&self) -> bool {
        self.interest < Interest::Wanted
    }

    /// Whether its caller was asked something.
    pub(super) fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The time that the attempt has, where it has one of its own.
    pub(super) fn time(&self) -> Option<Duration> {
        self.time.as_ref().map(|time| time.budget())
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.journal.clock
    }

    /// The record of the call.
    pub(super) fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }

    /// Waits for a place. Whoever leaves the line never gets one.
    pub(super) async fn admit(
        &mut self,
        gateway: &Gateway,
        claim: Claim,
        over: Duration,
    ) -> Result<(), Fault> {
        let Journal { clock, place, .. } = &*self.journal;
        let permit = tokio::select! {
            biased;
            permit = gateway.admission.enter(claim, clock, over, place) => permit.inspect_err(|_| {
                if let Some(why) = place.refused() {
                    gateway.telemetry.refused(why);
                }
            })?,
            () = unwanted(&self.line, self.interest) => {
                let text = "the caller left the line.";
                return Err(Fault::new(seawall_proto::Code::Cancelled, Stage::Admit, text));
            }
        };
        self.permit = Some(Arc::new(permit));
        Ok(())
    }

    /// Waits before the call is tried again, and until the upstream is done with the attempt before.
    pub(super) async fn pause(&mut self, pause: Duration) -> Result<(), Ended> {
        self.sent_before |= self.may_have_run();
        // Where the pause is cut short, the attempt before still holds its place until it is over.
        let exchange = &mut self.exchange;
        let over = async {
            if let Some(exchange) = exchange {
                exchange.over().await;
            }
            sleep(pause).await;
        };
        tokio::select! {
            biased;
            () = over => {}
            () = self.journal.clock.expired() => return Err(Ended::TimedOut),
            () = unwanted(&self.line, self.interest) => return Err(Ended::Cancelled),
        }
        self.exchange = None;
        Ok(())
    }

    /// Dispatches the call once and sees it through.
    pub(super) async fn run(&mut self, call: &Call, target: &Target) -> Result<Reply, Ended> {
        self.reach(Stage::Start);
        let time = target.attempt_time();
        self.time = time.map(|(time, _)| Arc::new(Clock::new(time, target.ask_limit)));
        let learned = time.is_some_and(|(_, learned)| learned);
        let sent_before = self.sent_before;
        self.run_once(call, target).await.map_err(|ended| match ended {
            Ended::RanOut { .. } => Ended::RanOut { learned },
            // An attempt before may have acted, whatever became of this one.
            Ended::Lost(lost) if sent_before => Ended::Lost(Lost { sent: Sent::Maybe, ..lost }),
            ended => ended,
        })
    }

    async fn run_once(&mut self, call: &Call, target: &Target) -> Result<Reply, Ended> {
        let instance = self.instance(&target.upstream, target).await?;
        let peer = instance.peer();
        let mut answered = None;
        for round in 0..=ROUNDS {
            let request = answered.as_ref().unwrap_or(&*call.request);
            let response = match self.exchange(request, target, &instance, round).await? {
                Ok(response) => response,
                Err(reply) => return Ok(reply),
            };
            let Some(input) = peer.input(request, &response) else {
                return Ok(peer.reply(request, &response));
            };
            let face = call.request.face();
            if let Some((name, _)) = input.questions.iter().find(|(_, asked)| !face.can_be_asked(asked)) {
                let reason = format!("the client has not said that it can be asked what {name:?} asks");
                return Ok(cross::unanswered(request, &reason));
            }
            match self.ask_all(&input, round).await? {
                Ok(answers) => match call.request.with_input(&answers, input.state.as_ref()) {
                    Some(request) => answered = Some(request),
                    None => {
                        let reason = "the answers are nested too deeply, or are too many";
                        return Ok(cross::unanswered(request, reason));
                    }
                },
                Err(reason) => return Ok(cross::unanswered(request, &reason)),
            }
        }
        let reason = format!("the upstream asked more than {ROUNDS} times");
        Ok(cross::unanswered(&call.request, &reason))
    }

    /// Sends one request and waits for its response; the inner error is the reply to what cannot be sent.
    async fn exchange(
        &mut self,
        request: &Request,
        target: &Target,
        instance: &Instance,
        round: u32,
    ) -> Result<Result<Message, Reply>, Ended> {
        let headers = target.tool.as_ref().map_or_else(Vec::new, |tool| {
            parameter_headers(&tool.declared.header_parameters, request.arguments().as_ref())
        });
        let exchange = match instance.exchange(request, target.subject.as_deref(), headers) {
            Ok(exchange) => exchange,
            Err(reply) => return Ok(Err(reply)),
        };
        let first = round == 0 && !self.sent_before;
        instance.want_logs(request);
        self.journal.dispatching();
        self.exchange = Some(exchange);
        self.reach(Stage::Answer);
        let mut outcome = self.listen(request, target.effects, instance.peer()).await;
        if let Err(Ended::Lost(lost)) = &mut outcome
            && lost.sent == Sent::No
        {
            // An earlier round may have acted, whatever became of this one.
            if first { self.journal.recalled() } else { lost.sent = Sent::Maybe }
        }
        let unsent = self.exchange.as_ref().is_some_and(|exchange| exchange.sent() == Sent::No);
        if matches!(outcome, Err(Ended::TimedOut | Ended::RanOut { .. } | Ended::Cancelled))
            && unsent
            && first
        {
            self.journal.recalled();
        }
        outcome.map(Ok)
    }

    /// Puts what a modern upstream wants to know to a legacy caller, all of it at once, and waits for the answers.
    /// The inner error says why there is none.
    async fn ask_all(
        &mut self,
        input: &Input,
        round: u32,
    ) -> Result<Result<Vec<(String, Raw)>, String>, Ended> {
        let mut waiting = Vec::with_capacity(input.questions.len());
        for (name, question) in &input.questions {
            let (give, given) = oneshot::channel();
            let reply = ReplySlot::new(move |answer| drop(give.send(answer)));
            let ask = self.timed(Ask { message: question.clone(), reply });
            // A question that finds no room is refused by being dropped.
            if !self.line.push(Event::Ask(ask)) {
                self.journal.dropped();
            }
            waiting.push((name, question, given));
        }
        let answers = async {
            if waiting.is_empty() {
                sleep(AGAIN * 2_u32.pow(round.min(5))).await;
            }
            let mut answers = Vec::with_capacity(waiting.len());
            for (name, question, given) in waiting {
                let answer = given.await.unwrap_or(AskAnswer::Refused("the client is gone"));
                answers.push((name.clone(), cross::answer(question, answer)?));
            }
            Ok(answers)
        };
        tokio::select! {
            biased;
            answers = answers => Ok(answers),
            () = self.journal.clock.expired() => Err(Ended::TimedOut),
            () = expired(self.time.as_deref()) => Err(Ended::RanOut { learned: false }),
            () = unwanted(&self.line, self.interest) => Err(Ended::Cancelled),
        }
    }

    /// Waits for an instance; its opening goes on if this call gives up.
    async fn instance(&mut self, upstream: &Arc<Upstream>, target: &Target) -> Result<Instance, Ended> {
        tokio::select! {
            biased;
            // First of all: nothing is sent for a caller that has left, also where an instance is there at once.
            () = unwanted(&self.line, self.interest) => Err(Ended::Cancelled),
            instance = upstream.instance(target.wanted()) => instance.map_err(Ended::Lost),
            () = self.journal.clock.expired() => Err(Ended::TimedOut),
            () = expired(self.time.as_deref()) => Err(Ended::RanOut { learned: false }),
        }
    }

    /// Passes on what the upstream says until it has said the last.
    async fn listen(&mut self, request: &Request, effects: Effects, peer: &Peer) -> Result<Message, Ended> {
        let (journal, time) = (Arc::clone(&self.journal), self.time.clone());
        let (all, one) = (journal.clock.expired(), expired(time.as_deref()));
        tokio::pin!(all, one);
        loop {
            let Some(exchange) = &mut self.exchange else { return Err(Ended::Cancelled) };
            tokio::select! {
                biased;
                heard = exchange.next() => match heard.map_err(Ended::Lost)? {
                    Heard::Response(response) => return Ok(response),
                    heard => self.pass_on(request, peer, heard),
                },
                () = &mut all => {
                    exchange.expire("the time limit of the call passed");
                    return Err(Ended::TimedOut);
                }
                () = &mut one => {
                    exchange.expire("the time limit of the attempt passed");
                    return Err(Ended::RanOut { learned: false });
                }
                interest = self.line.lower(self.interest) => {
                    let nothing_sent = exchange.sent() == Sent::No;
                    if interest == Interest::Cancelled || nothing_sent || effects == Effects::None {
                        if !self.line.give_up(interest) {
                            continue;
                        }
                        exchange.cancel("the caller took the call back");
                        return Err(Ended::Cancelled);
                    }
                    // It may have begun to act: it runs on to its time limit, and nobody waits for it.
                    self.interest = interest;
                    if let Some(permit) = &self.permit {
                        permit.detach();
                    }
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
            Heard::Ask(ask) if !peer.can_ask(request, &ask.message) => {
                ask.reply.answer(AskAnswer::Refused("the client has not said that it can be asked this"));
                return;
            }
            Heard::Ask(ask) => Event::Ask(self.timed(ask)),
            // How an upstream of the other era answers says nothing about what its caller expects.
            Heard::Streaming if !peer.speaks_as(request) => return,
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
        let time = self.time.clone();
        self.asked.store(true, Ordering::Relaxed);
        journal.clock.asking();
        if let Some(time) = &time {
            time.asking();
        }
        if let Some(permit) = &self.permit {
            permit.free_caller_half();
            permit.held_until(journal.clock.runs_out() + journal.clock.ask_left() + super::OVER);
        }
        let reply = ReplySlot::new(move |answer| {
            let permit = permit.and_then(|permit| permit.upgrade());
            if let Some(permit) = &permit {
                permit.reclaim_caller_half();
            }
            journal.clock.answered();
            if let Some(time) = &time {
                time.answered();
            }
            if let Some(permit) = &permit {
                permit.held_until(journal.clock.runs_out() + super::OVER);
            }
            reply.answer(answer);
        });
        Ask { message, reply }
    }

    /// Fills in what is known of a fault.
    pub(super) fn complete(&self, fault: Fault) -> Fault {
        self.journal.complete(fault)
    }

    /// The caller has its answer, or waits no more.
    pub(super) fn free_caller_half(&self) {
        if let Some(permit) = &self.permit {
            permit.free_caller_half();
        }
    }

    /// Gives the caller the end, and whoever shares the work; these are handed back.
    pub(super) fn end(&mut self, end: Result<Reply, Fault>) -> Vec<Landed> {
        self.line.end(Event::End(end))
    }

    /// Waits until the upstream is done with the call, or can be taken to be, and frees its half.
    pub(super) async fn over(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.over().await;
        }
        self.permit = None;
    }
}

/// Waits until nobody wants a call any more as much as was acted on, and from then on nobody can.
async fn unwanted(line: &WorkSide, acted_on: Interest) {
    loop {
        let seen = line.lower(acted_on).await;
        if line.give_up(seen) {
            return;
        }
    }
}

/// Waits until a clock has run out, for ever where there is none. Cancel-safe.
async fn expired(clock: Option<&Clock>) {
    match clock {
        Some(clock) => clock.expired().await,
        None => std::future::pending().await,
    }
}
