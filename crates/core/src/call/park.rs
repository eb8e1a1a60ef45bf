//! Parked calls: a legacy upstream asks in mid-call and waits, and a modern caller is asked by the end of its request
//! and calls again with the answer. In between nobody waits for the call; it is kept here, bound to its caller and to
//! what was asked for, and found again by a sealed state. See `docs/design/eras.md`.

use super::{ASK_LIMIT, Answer, Call, OVER, auth::Caller};
use crate::{Gateway, conversation::random_id};
use ring::hmac;
use seawall_proto::{
    Ask, Code, Fault, Message, Raw, Reply, ReplySlot, Request, Stage,
    era::cross::{Given, foreign_state, wants_input},
    event::Answer as AskAnswer,
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::time::Instant;

/// What a state of Seawall's begins with; an upstream's own begins otherwise.
const PREFIX: &str = "seawall:";
/// The name of the question in a result: a legacy upstream asks one after the other.
const QUESTION: &str = "question";
/// Most calls of one caller parked at once; over it, its oldest is given up. A parked call holds no caller's half, so
/// nothing else bounds them, and nobody's may push out another's.
const PARKED: usize = 256;

/// The calls whose callers were asked something.
pub struct Parking {
    /// Made anew at each start: no parked call outlives the daemon, and neither does its state.
    key: hmac::Key,
    parked: Mutex<HashMap<String, Parked>>,
}

struct Parked {
    answer: Answer,
    question: Message,
    reply: ReplySlot,
    caller: Arc<str>,
    about: String,
    until: Instant,
}

/// What a request that goes on with a call comes to.
#[derive(Debug)]
pub enum Resumed {
    /// The state is none of Seawall's: it is the upstream's, which will know it.
    Foreign,
    /// The call goes on.
    Going(Answer),
    /// There is no such call, or its question is still open.
    Ended(Result<Reply, Fault>),
}

impl Default for Parking {
    fn default() -> Self {
        let mut secret = [0_u8; 32];
        getrandom::fill(&mut secret).expect("the kernel gives random bytes");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), parked: Mutex::default() }
    }
}

impl fmt::Debug for Parking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parking").field("parked", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Keeps a call whose upstream asks its caller something; the reply ends the request and says what is asked.
    pub fn park(&self, caller: &Caller, request: &Arc<Request>, answer: Answer, ask: Ask) -> Reply {
        // As long as its work may go on: its clock stands still for the question at most so long.
        let time = answer.journal().map(|journal| journal.clock.left() + journal.clock.ask_left());
        let parked = Parked {
            answer,
            question: ask.message,
            reply: ask.reply,
            caller: Arc::clone(&caller.name),
            about: about(request),
            until: Instant::now() + time.unwrap_or(ASK_LIMIT) + OVER,
        };
        self.parking.keep(random_id(), request, parked)
    }

    /// Goes on with a parked call: its upstream gets the answer, and what it says from now on answers `call`.
    pub fn resume(&self, call: &Call, given: Given) -> Resumed {
        let (caller, request) = (&call.caller, &call.request);
        let Some(state) = given.state.strip_prefix(PREFIX) else { return Resumed::Foreign };
        let unknown = || {
            let text = "the call that this answers is not waiting any more: its time ran out, or Seawall was started \
                        anew. It may have acted; look before calling again without `requestState`.";
            let fault = Fault::new(Code::OutcomeUnknown, Stage::Resolve, text);
            Resumed::Ended(Err(Fault { may_have_run: true, ..fault }))
        };
        let sealed = state.split_once('.');
        let Some((id, _)) = sealed.filter(|(id, seal)| self.parking.fits(id, seal, caller, request)) else {
            return Resumed::Ended(Ok(foreign_state(request)));
        };
        let Some(parked) = self.parking.lock().remove(id) else { return unknown() };
        if *parked.caller != *caller.name || parked.about != about(request) {
            return unknown();
        }
        let answered = given.answers.into_iter().find(|(name, _)| name == QUESTION);
        let Some((_, response)) = answered else {
            // Asked again, not an error: so the specification has it.
            return Resumed::Ended(Ok(self.parking.keep(id.to_owned(), request, parked)));
        };
        parked.reply.answer(AskAnswer::Response(response));
        Resumed::Going(parked.answer.for_call(call))
    }
}

impl Parking {
    fn keep(&self, id: String, request: &Request, parked: Parked) -> Reply {
        let seal = hmac::sign(&self.key, &sealed(&id, &parked.caller, &parked.about));
        let seal: String = seal.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let reply = wants_input(request, [(QUESTION, &parked.question)], &format!("{PREFIX}{id}.{seal}"));
        let given_up = {
            let mut calls = self.lock();
            let mine = calls.iter().filter(|(_, other)| other.caller == parked.caller);
            let crowded = mine.clone().count() >= PARKED;
            let oldest = mine.min_by_key(|(_, other)| other.until).map(|(id, _)| id.clone());
            let oldest = oldest.filter(|_| crowded);
            calls.insert(id, parked);
            oldest.and_then(|id| calls.remove(&id))
        };
        // Without the lock: a call that is given up is cancelled, and its question refused.
        drop(given_up);
        reply
    }

    fn fits(&self, id: &str, seal: &str, caller: &Caller, request: &Request) -> bool {
        let bytes: Option<Vec<u8>> = (0..seal.len() / 2)
            .map(|at| u8::from_str_radix(seal.get(2 * at..2 * at + 2)?, 16).ok())
            .collect();
        let text = sealed(id, &caller.name, &about(request));
        bytes.is_some_and(|seal| hmac::verify(&self.key, &text, &seal).is_ok())
    }

    /// Gives up the calls whose callers did not come back in time.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let expired: Vec<_> = self.lock().extract_if(|_, parked| parked.until <= now).collect();
        drop(expired);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request asks for, however it is written.
fn about(request: &Request) -> String {
    let subject = request.subject().map_or("", |subject| &**subject);
    let arguments = request.arguments().as_ref().map_or(serde_json::Value::Null, Raw::value);
    format!("{}\n{subject}\n{arguments}", request.method())
}

fn sealed(id: &str, caller: &str, about: &str) -> Vec<u8> {
    format!("{id}\n{caller}\n{about}").into_bytes()
}
