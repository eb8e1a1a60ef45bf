//! The model: how each misdeed of an upstream ends, over each transport, as plain data.
//!
//! This is the law that the connectors are held to, and was written without looking at what they do. A row is one
//! misdeed, a cell is a row over one transport, and a cell allows exactly one ending. What holds for every cell is
//! not written at each: a server that does nothing wrong answers within [`PROMPT`] all the while, and once it is
//! over nothing is left, neither a permit nor a pending id nor a process.

#[path = "model/endings.rs"]
mod endings;
#[path = "model/lives.rs"]
mod lives;
#[path = "model/words.rs"]
mod words;

use crate::{Era, Transport};
use Transport::{LegacyHttp, ModernHttp, Sse, Stdio, WebSocket};
pub use endings::{seen, shown, shown_text};
use std::time::Duration;

/// The time limit of every call.
pub const TIMEOUT: Duration = Duration::from_millis(1500);
/// How far an answer may overshoot its deadline.
pub const PROMISED: Duration = Duration::from_millis(100);
/// How soon an answer comes that waits for no deadline, beyond what its tool takes.
pub const SOON: Duration = Duration::from_secs(1);
/// How soon the neighbour answers, whatever goes on; what the machine may add to any time comes on top.
pub const PROMPT: Duration = Duration::from_millis(500);
/// How soon after a misdeed its upstream works again, where it does: pings and backing off included.
pub const RECOVERED: Duration = Duration::from_secs(20);
/// How long an instance is watched that must not be replaced; a ping that nobody answers is waited for 5 s.
pub const WATCHED: Duration = Duration::from_millis(6500);

/// What kind of misdeed it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It says nothing, or nothing whole.
    Silence,
    /// It has something else to do.
    Busy,
    /// It does not read.
    Deaf,
    /// It says too much.
    Flood,
    /// It says what is no message.
    Garbage,
    /// It says what is not so.
    Lies,
    /// It ends.
    Death,
    /// It does not come up as it should.
    Start,
    /// It stays, or leaves something behind.
    Leftovers,
    /// It asks, and its callers are told apart.
    Asks,
}

impl Class {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Busy => "busy",
            Self::Deaf => "deaf",
            Self::Flood => "flood",
            Self::Garbage => "garbage",
            Self::Lies => "lies",
            Self::Death => "death",
            Self::Start => "start",
            Self::Leftovers => "leftovers",
            Self::Asks => "asks",
        }
    }
}

/// How often the upstream is started, or its session opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// As often as may be.
    Any,
    /// So often in all, at most.
    AtMost(usize),
    /// Exactly once more, after the trap was set.
    OnceMore,
    /// No more often than a server that ends at once may be in the time that it took: [`braked_starts`].
    Braked,
}

/// How often a server may be started within this time that ends at once each time. Five quick ends are forgiven; each
/// further one is followed by a pause, at first of half a second and then twice as long every time.
pub fn braked_starts(time: Duration) -> usize {
    const FORGIVEN: usize = 5;
    let mut starts = FORGIVEN + 1;
    let mut pause = Duration::from_millis(500);
    let mut next = pause;
    while next <= time {
        starts += 1;
        pause = (pause * 2).min(Duration::from_secs(60));
        next += pause;
    }
    starts
}

/// The one ending of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A result that is no error, with this in its first text.
    Result(&'static str),
    /// A fault of Seawall's. With the code TIMEOUT it comes at the call's deadline, with others soon.
    Fault {
        /// The code.
        code: &'static str,
        /// How far the call had come.
        stage: &'static str,
        /// Whether the upstream may have acted.
        may_have_run: bool,
    },
    /// A JSON-RPC error with the code of a fault, to what is no call of a tool.
    Error(&'static str),
    /// Nothing: the caller took the request back, and gets no answer.
    Nothing,
}

impl Ending {
    /// Whether it comes at the deadline of the call.
    pub fn at_deadline(self) -> bool {
        matches!(self, Self::Fault { code: "TIMEOUT", .. } | Self::Error("TIMEOUT"))
    }
}

/// No answer in time, to what was sent.
const LATE: Ending = Ending::Fault { code: "TIMEOUT", stage: "answer", may_have_run: true };
/// Not up in time.
const NOT_UP: Ending = Ending::Fault { code: "TIMEOUT", stage: "start", may_have_run: false };
/// Not up at all.
const UNSTARTED: Ending = Ending::Fault { code: "UPSTREAM_UNAVAILABLE", stage: "start", may_have_run: false };
/// An answer that is none.
const NONSENSE: Ending = Ending::Fault { code: "UPSTREAM_ERROR", stage: "answer", may_have_run: true };
/// Sent and lost, and it may have written.
const UNKNOWN: Ending = Ending::Fault { code: "OUTCOME_UNKNOWN", stage: "answer", may_have_run: true };
/// Sent and lost, but it only reads.
const LOST: Ending = Ending::Fault { code: "UPSTREAM_UNAVAILABLE", stage: "answer", may_have_run: true };
/// Over the limit.
const LARGE: Ending = Ending::Fault { code: "TOO_LARGE", stage: "answer", may_have_run: true };
/// What the sibling's echo returns.
const HERE: Ending = Ending::Result("here");

/// What another tool of the same upstream sees, called by the same caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sibling {
    /// `echo`, called once the misdeed has begun.
    Called(Ending),
    /// `sleep`, which only reads, in flight when the misdeed begins.
    InFlight(Ending),
    /// None is called, and why.
    Nobody(&'static str),
}

/// What the next call of the same upstream meets when the misdeed is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It works, within [`RECOVERED`].
    Works,
    /// A fault with this code, at once.
    Fault(&'static str),
    /// None is made, and why.
    Nobody(&'static str),
}

/// The cells of a row that end alike.
#[derive(Clone, Copy, Debug)]
pub struct Cells {
    /// Over which transports.
    pub transports: &'static [Transport],
    /// How the call ends.
    pub ending: Ending,
    /// What another tool of the upstream sees.
    pub sibling: Sibling,
    /// What the next call of it meets.
    pub after: After,
}

const fn on(transports: &'static [Transport], ending: Ending) -> Cells {
    Cells { transports, ending, sibling: Sibling::Called(HERE), after: After::Works }
}

impl Cells {
    const fn sibling(self, sibling: Sibling) -> Self {
        Self { sibling, ..self }
    }

    const fn after(self, after: After) -> Self {
        Self { after, ..self }
    }
}

/// What is asked of the upstream. `BIG` in arguments stands for 300,000 letters.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// A tool, with these arguments.
    Call(&'static str, &'static str),
    /// Its list of tools; the list of all upstreams has to come without it.
    List,
    /// A tool without arguments, so many times at once; all answers are equal.
    Together(&'static str, usize),
    /// The echo, so many times one after another, until the upstream is left alone; the ending that counts is of the
    /// first one that is told when to try again, after the sixth.
    InTurn(usize),
    /// `echo_late` by two callers with equal ids; each gets its own text.
    Twins,
}

impl Does {
    /// The tool that is called; none for a list.
    pub fn tool(self) -> Option<&'static str> {
        match self {
            Self::Call(tool, _) | Self::Together(tool, _) => Some(tool),
            Self::List => None,
            Self::InTurn(_) => Some("echo"),
            Self::Twins => Some("echo_late"),
        }
    }
}

/// What happens besides, once the call is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Nothing.
    Nothing,
    /// The caller takes it back.
    Cancel,
    /// Whoever runs the daemon restarts the upstream; its processes have to go.
    Restart,
    /// The upstream is taken out of the configuration; its processes have to go.
    Remove,
    /// The client opens its session's own stream and reads nothing from it.
    SlowReader,
}

/// What the client can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Nothing.
    Mute,
    /// Its name, by elicitation, which it thinks about for longer than a call may take.
    Slow,
    /// Its name, by elicitation.
    Named,
    /// Its roots.
    Rooted,
}

/// Whether the process has to stay the same, though its call ended at the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// It need not.
    Free,
    /// It has to, with nothing else asked of it than what Seawall asks itself.
    Alone,
    /// It has to, while other calls go on.
    Talking,
}

/// One misdeed.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name of its test.
    pub test: &'static str,
    /// What it is, with the number of its row in the field guide to misbehaving servers where it has one.
    pub row: &'static str,
    /// Its class.
    pub class: Class,
    /// Flags of the server.
    pub flags: &'static [&'static str],
    /// Further keys of its table.
    pub keys: &'static str,
    /// Its budget to start.
    pub start_timeout: &'static str,
    /// Lines of the configuration before the tables of the servers.
    pub limits: &'static str,
    /// The era of the client, where it matters.
    pub era: Option<Era>,
    /// What the client can be asked.
    pub client: Client,
    /// Whether the upstream is up before anything is measured.
    pub warm: bool,
    /// A tool called before, which sets the trap; it returns.
    pub before: Option<&'static str>,
    /// What is asked.
    pub does: Does,
    /// How long the tool itself takes, in milliseconds, where it answers.
    pub takes_ms: u64,
    /// What else happens.
    pub meanwhile: Meanwhile,
    /// How often the call reaches the upstream, where that can be counted.
    pub reaches: Option<usize>,
    /// How often the upstream is started.
    pub starts: Starts,
    /// Whether its definitions are others after the trap was set, which the daemon has to show.
    pub redefined: bool,
    /// What the caller is told of the fault.
    pub says: &'static str,
    /// Whether the process stays.
    pub stays: Stays,
    /// Whether the processes that were there have to be gone while the daemon runs.
    pub replaced: bool,
    /// A process that is none of its descendants and that only its `stop` command ends.
    pub container: bool,
    /// Its cells.
    pub cells: &'static [Cells],
    /// The transports without a cell, and why.
    pub left_out: &'static [(&'static [Transport], &'static str)],
}

const PLAIN: Row = Row {
    test: "",
    row: "",
    class: Class::Silence,
    flags: &[],
    keys: "",
    start_timeout: "3s",
    limits: "",
    era: None,
    client: Client::Mute,
    warm: true,
    before: None,
    does: Does::Call("echo", ECHO),
    takes_ms: 0,
    meanwhile: Meanwhile::Nothing,
    reaches: None,
    starts: Starts::Any,
    redefined: false,
    says: "",
    stays: Stays::Free,
    replaced: false,
    container: false,
    cells: &[],
    left_out: &[],
};

/// The arguments of an echo, and what it returns.
pub const ECHO: &str = r#"{"text":"here"}"#;
const BIG_ECHO: &str = r#"{"text":"BIG"}"#;
const NO: &str = "{}";
const SHARED: &str = "sharing = \"everyone\"";

const ALL: &[Transport] = &[Stdio, LegacyHttp, ModernHttp, Sse, WebSocket];
const HTTP: &[Transport] = &[LegacyHttp, ModernHttp];
const CHANNELS: &[Transport] = &[Stdio, Sse, WebSocket];
const NETWORK: &[Transport] = &[LegacyHttp, ModernHttp, Sse, WebSocket];
const SERVICES: &[Transport] = &[Sse, WebSocket];
const SESSIONS: &[Transport] = &[Stdio, LegacyHttp, Sse, WebSocket];

const NO_PROCESS: (&[Transport], &str) = (NETWORK, "there is no process of ours");
const NO_PIPE: (&[Transport], &str) = (NETWORK, "there is no pipe");
const NOT_HTTP: (&[Transport], &str) = (CHANNELS, "it is a misdeed of HTTP");
const NO_QUESTIONS: (&[Transport], &str) =
    (&[ModernHttp], "the modern era asks with the end of a request, which is a result");
const SAME_AS_SILENCE: (&[Transport], &str) = (CHANNELS, "it is the same as no answer at all");

/// Rows of the field guide that have no row here, and why.
pub const NOT_SHOWN: &[(&str, &str)] = &[
    ("11 parallel first launches of one package", "it takes a package manager: the tests of real servers"),
    ("24 retry after reconnect runs the tool twice", "every row that counts `reaches` shows it"),
    ("29 shared process mixes users' state", "who shares what is shown by the tests of sharing"),
    ("30 pool key too weak", "who shares what is shown by the tests of sharing"),
    ("31 pool key too strong", "who shares what is shown by the tests of sharing"),
    ("32 whole environment handed on", "it is no misdeed of a server: the tests of the daemon"),
    ("33 Ctrl-C reaches the servers", "it is no misdeed of a server: the tests of processes"),
    ("34 Windows", "Linux is the platform"),
    ("35 death signal when the spawning thread ends", "no such signal is used"),
    ("41 processes without number", "caps are shown by the tests of the pool"),
    ("agentgateway: no admission control", "a thousand parked calls are in the test of churn"),
    ("agentgateway: list cut to its first page", "lists in pages are in the tests of faults"),
];

/// Every misdeed.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    words::ROWS.iter().chain(lives::ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transport_of_a_row_has_one_cell_or_one_reason() {
        for row in rows() {
            for transport in ALL {
                let cells = row.cells.iter().filter(|cells| cells.transports.contains(transport)).count();
                let reasons = row.left_out.iter().filter(|(left, _)| left.contains(transport)).count();
                assert_eq!(cells + reasons, 1, "{}: {}", row.test, transport.name());
            }
        }
    }

    #[test]
    fn the_brake_lets_one_more_start_through_after_each_pause() {
        let starts = |ms| braked_starts(Duration::from_millis(ms));
        assert_eq!([0, 499, 500, 1499, 1500, 3500].map(starts), [6, 6, 7, 7, 8, 9]);
    }

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let rows: Vec<&Row> = rows().collect();
        for (at, row) in rows.iter().enumerate() {
            assert!(rows[..at].iter().all(|other| other.test != row.test && other.row != row.row), "{row:?}");
        }
    }
}
