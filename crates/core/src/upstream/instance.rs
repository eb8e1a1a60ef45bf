//! An instance and a request under way at it, whichever kind of upstream they are of.

#[cfg(test)]
use super::script;
use super::{Heard, Lost, Sent, http, stdio};
use seawall_proto::{
    Request,
    era::peer::{Outgoing, Peer},
};
use std::sync::{Arc, atomic::Ordering};

/// One open instance.
#[derive(Clone, Debug)]
pub enum Instance {
    /// A child process.
    Stdio(Arc<stdio::Instance>),
    /// A session or a plain endpoint over HTTP.
    Http(Arc<http::Instance>),
    /// A script.
    #[cfg(test)]
    Script(Arc<script::Instance>),
}

/// A request under way at an instance.
#[derive(Debug)]
pub enum Exchange {
    /// At a child process.
    Stdio(stdio::Exchange),
    /// Over HTTP.
    Http(Box<http::Exchange>),
    /// At a script.
    #[cfg(test)]
    Script(script::Exchange),
}

impl Instance {
    /// What the instance speaks and offers.
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Stdio(instance) => instance.peer(),
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
        match self {
            Self::Stdio(instance) => {
                stdio::Instance::exchange(instance, request, subject).map(Exchange::Stdio)
            }
            Self::Http(instance) => http::Instance::exchange(instance, request, subject, parameters)
                .map(|exchange| Exchange::Http(Box::new(exchange))),
            #[cfg(test)]
            Self::Script(instance) => Ok(Exchange::Script(instance.exchange(request))),
        }
    }

    /// Passes on a notification of the client.
    pub fn notify(&self, message: Outgoing) {
        match self {
            Self::Stdio(instance) => instance.notify(message),
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
            Self::Stdio(instance) => &instance.logs,
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
            (Self::Stdio(one), Self::Stdio(other)) => Arc::ptr_eq(one, other),
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
            Self::Stdio(instance) => instance.gone().await,
            Self::Http(instance) => instance.gone().await,
            #[cfg(test)]
            Self::Script(_) => std::future::pending().await,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Stdio(instance) => instance.is_gone(),
            Self::Http(instance) => instance.is_gone(),
            #[cfg(test)]
            Self::Script(_) => false,
        }
    }

    /// Ends it; returns at once, the ending goes on in its own task.
    pub(super) fn end(&self, why: &str) {
        match self {
            Self::Stdio(instance) => instance.end(why),
            Self::Http(instance) => instance.end(why),
            #[cfg(test)]
            Self::Script(_) => {}
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        match self {
            Self::Stdio(instance) => instance.in_flight(),
            Self::Http(instance) => instance.in_flight(),
            #[cfg(test)]
            Self::Script(_) => 0,
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Stdio(instance) => Some(instance.pid()),
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
        match self {
            Self::Stdio(exchange) => exchange.next().await,
            Self::Http(exchange) => exchange.next().await,
            #[cfg(test)]
            Self::Script(exchange) => exchange.next().await,
        }
    }

    /// Whether anything may have been sent.
    pub fn sent(&self) -> Sent {
        match self {
            Self::Stdio(exchange) => exchange.sent(),
            Self::Http(exchange) => exchange.sent(),
            #[cfg(test)]
            Self::Script(exchange) => exchange.sent(),
        }
    }

    /// Takes the request back: tells the upstream on a lane that no data can fill.
    pub fn cancel(&mut self, reason: &str) {
        match self {
            Self::Stdio(exchange) => exchange.cancel(reason),
            Self::Http(exchange) => exchange.cancel(reason),
            #[cfg(test)]
            Self::Script(exchange) => exchange.cancel(),
        }
    }

    /// Waits until the upstream is done with a request that was taken back, or can be taken to be.
    pub async fn over(&mut self) {
        match self {
            Self::Stdio(exchange) => exchange.over().await,
            Self::Http(_) => {}
            #[cfg(test)]
            Self::Script(_) => {}
        }
    }
}
