//! An instance and a request under way at it, whichever kind of upstream they are of.

#[cfg(test)]
use super::script;
use super::{Heard, Lost, Sent, channel, channel::Oddities, http, response::proper};
use seawall_proto::{
    Request,
    era::peer::{Outgoing, Peer},
};
use std::sync::{Arc, atomic::Ordering};

/// One open instance.
#[derive(Clone, Debug)]
pub enum Instance {
    /// One stream of messages in each direction: a child process, a stream of events or a WebSocket.
    Channel(Arc<channel::Instance>),
    /// A session or a plain endpoint over HTTP.
    Http(Arc<http::Instance>),
    /// A script.
    #[cfg(test)]
    Script(Arc<script::Instance>),
}

/// A request under way at an instance.
#[derive(Debug)]
pub struct Exchange {
    at: At,
    /// Whether the result has to say something.
    wants_content: bool,
}

/// Where a request is under way.
#[derive(Debug)]
enum At {
    Channel(channel::Exchange),
    Http(Box<http::Exchange>),
    #[cfg(test)]
    Script(script::Exchange),
}

impl Instance {
    /// What the instance speaks and offers.
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Channel(instance) => instance.peer(),
            Self::Http(instance) => instance.peer(),
            #[cfg(test)]
            Self::Script(instance) => instance.peer(),
        }
    }

    /// Hands over a request; nothing is sent before the exchange is first polled. `subject` is the upstream's name
    /// for what it is about, `parameters` the `Mcp-Param-*` headers for a caller that sent none.
    ///
    /// # Errors
    /// A reply that says what cannot be said in this upstream's era.
    pub fn exchange(
        &self,
        request: &Request,
        subject: Option<&str>,
        parameters: Vec<(String, String)>,
    ) -> Result<Exchange, seawall_proto::Reply> {
        let at = match self {
            Self::Channel(instance) => At::Channel(channel::Instance::exchange(instance, request, subject)?),
            Self::Http(instance) => {
                At::Http(Box::new(http::Instance::exchange(instance, request, subject, parameters)?))
            }
            #[cfg(test)]
            Self::Script(instance) => At::Script(instance.exchange(request)),
        };
        let wants_content = request.method() == "tools/call";
        Ok(Exchange { at, wants_content })
    }

    /// Passes on a notification of the client.
    pub fn notify(&self, message: Outgoing) {
        match self {
            Self::Channel(instance) => instance.notify(message),
            Self::Http(instance) => instance.notify(message),
            #[cfg(test)]
            Self::Script(_) => {}
        }
    }

    /// Has a legacy upstream log everything, once, where a modern caller's request wants logs: its requests choose
    /// among them.
    pub fn want_logs(&self, request: &Request) {
        let Some(message) = self.peer().log_request(request) else { return };
        let asked = match self {
            Self::Channel(instance) => &instance.logs,
            Self::Http(instance) => &instance.logs,
            #[cfg(test)]
            Self::Script(_) => return,
        };
        if !asked.swap(true, Ordering::Relaxed) {
            self.notify(message);
        }
    }

    /// Reads what the upstream says of its own accord, from now on.
    pub fn follow(&self) {
        if let Self::Http(instance) = self {
            http::Instance::follow(instance);
        }
    }

    /// Whether it is this very instance, not only one like it.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Channel(one), Self::Channel(other)) => Arc::ptr_eq(one, other),
            (Self::Http(one), Self::Http(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Whether it is a process of its own, rather than something that runs elsewhere.
    pub fn is_process(&self) -> bool {
        self.pid().is_some()
    }

    /// Completes when the instance is gone.
    pub(super) async fn gone(&self) {
        match self {
            Self::Channel(instance) => instance.gone().await,
            Self::Http(instance) => instance.gone().await,
            #[cfg(test)]
            Self::Script(_) => std::future::pending().await,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Channel(instance) => instance.is_gone(),
            Self::Http(instance) => instance.is_gone(),
            #[cfg(test)]
            Self::Script(_) => false,
        }
    }

    /// Whether it is gone, calls under way included.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Channel(instance) => instance.is_lost(),
            Self::Http(instance) => instance.is_gone(),
            #[cfg(test)]
            Self::Script(_) => false,
        }
    }

    /// Ends it; returns at once, the ending goes on in its own task.
    pub(super) fn end(&self, why: &str) {
        match self {
            Self::Channel(instance) => instance.end(why),
            Self::Http(instance) => instance.end(why),
            #[cfg(test)]
            Self::Script(_) => {}
        }
    }

    /// Takes no new calls, so that it is gone for whoever looks for an instance; those under way go on, and it ends
    /// after the last of them.
    pub(super) fn drain(&self, why: &str) {
        match self {
            Self::Channel(instance) => instance.drain(why),
            Self::Http(instance) => instance.drain(why),
            #[cfg(test)]
            Self::Script(_) => {}
        }
    }

    /// Completes with the reason when another instance should take its place: it gives no sign of life, or has grown
    /// too large. Over HTTP each call speaks for itself alone, so there it never does.
    pub(super) async fn unfit(&self) -> String {
        match self {
            Self::Channel(instance) => instance.unfit().await,
            Self::Http(_) => std::future::pending().await,
            #[cfg(test)]
            Self::Script(_) => std::future::pending().await,
        }
    }

    /// Completes when nothing is left of it, its process included.
    pub(super) async fn ended(&self) {
        match self {
            Self::Channel(instance) => instance.ended().await,
            Self::Http(instance) => instance.gone().await,
            #[cfg(test)]
            Self::Script(_) => std::future::pending().await,
        }
    }

    /// Whether it has answered anything since it was opened.
    pub(super) fn answered(&self) -> bool {
        match self {
            Self::Channel(instance) => instance.answered(),
            Self::Http(_) => true,
            #[cfg(test)]
            Self::Script(_) => true,
        }
    }

    /// Completes when it has given its first answer.
    pub(super) async fn has_answered(&self) {
        match self {
            Self::Channel(instance) => instance.has_answered().await,
            Self::Http(_) => {}
            #[cfg(test)]
            Self::Script(_) => {}
        }
    }

    /// Why it takes no calls, where it takes none.
    pub(super) fn why_gone(&self) -> String {
        match self {
            Self::Channel(instance) => instance.why_gone(),
            Self::Http(_) => String::from("its session is over"),
            #[cfg(test)]
            Self::Script(_) => String::new(),
        }
    }

    /// What it said that was of no use.
    pub(super) fn oddities(&self) -> Oddities {
        match self {
            Self::Channel(instance) => instance.oddities(),
            Self::Http(_) => Oddities::default(),
            #[cfg(test)]
            Self::Script(_) => Oddities::default(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        match self {
            Self::Channel(instance) => instance.in_flight(),
            Self::Http(instance) => instance.in_flight(),
            #[cfg(test)]
            Self::Script(_) => 0,
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Channel(instance) => instance.pid(),
            Self::Http(_) => None,
            #[cfg(test)]
            Self::Script(_) => None,
        }
    }
}

impl Exchange {
    /// Sends the request when first called, then waits for what comes next. After [`Heard::Response`] or an error
    /// there is nothing more. Cancel-safe once the request is sent.
    ///
    /// # Errors
    /// When the instance is lost or answers nonsense.
    pub async fn next(&mut self) -> Result<Heard, Lost> {
        let heard = match &mut self.at {
            At::Channel(exchange) => exchange.next().await,
            At::Http(exchange) => exchange.next().await,
            #[cfg(test)]
            At::Script(exchange) => exchange.next().await,
        };
        match heard {
            Ok(Heard::Response(message)) => proper(message, self.wants_content).map(Heard::Response),
            heard => heard,
        }
    }

    /// Whether anything may have been sent.
    pub fn sent(&self) -> Sent {
        match &self.at {
            At::Channel(exchange) => exchange.sent(),
            At::Http(exchange) => exchange.sent(),
            #[cfg(test)]
            At::Script(exchange) => exchange.sent(),
        }
    }

    /// Takes the request back because its time limit passed. One that met nothing but silence puts a shared
    /// instance in doubt, which then has to show that it lives.
    pub fn expire(&mut self, reason: &str) {
        match &mut self.at {
            At::Channel(exchange) => exchange.expire(reason),
            At::Http(exchange) => exchange.cancel(reason),
            #[cfg(test)]
            At::Script(exchange) => exchange.cancel(),
        }
    }

    /// Takes the request back: tells the upstream on a lane that no data can fill.
    pub fn cancel(&mut self, reason: &str) {
        match &mut self.at {
            At::Channel(exchange) => exchange.cancel(reason),
            At::Http(exchange) => exchange.cancel(reason),
            #[cfg(test)]
            At::Script(exchange) => exchange.cancel(),
        }
    }

    /// Waits until the upstream is done with a request that was taken back, or can be taken to be.
    pub async fn over(&mut self) {
        match &mut self.at {
            At::Channel(exchange) => exchange.over().await,
            At::Http(_) => {}
            #[cfg(test)]
            At::Script(_) => {}
        }
    }
}
