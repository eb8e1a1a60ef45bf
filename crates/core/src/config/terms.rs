//! On which terms calls are taken: what a server has for all its tools and each tool for itself, and when a server's
//! calls are made again or not made at all.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::lower::Given;
use super::raw::{Faults, Item, Section, quoted};
use super::{Effects, Upstream, values};

/// On which terms calls are taken: keys that a server has for all its tools, and each tool for itself. What is absent
/// is at its default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// How long the clock of a call may stand still for questions to its caller; key `ask_limit`, default 5 min. Zero:
    /// it never stands still.
    pub ask_limit: Option<Duration>,
    /// How often a silent call that was asked for progress tells that it goes on; key `heartbeat`, default the
    /// client's (8 s). Zero: never.
    pub heartbeat: Option<Duration>,
    /// What becomes of a call that equals one under way; key `duplicates`, default [`Duplicates::Share`], or
    /// [`Duplicates::Run`] where the tool writes.
    pub duplicates: Option<Duplicates>,
    /// How long results are kept and given to equal calls; key `cache`, default none. Zero: none. A server's holds for
    /// its tools without effects.
    pub cache: Option<Duration>,
    /// Bounds one attempt at a call; key `attempt_timeout`, or what `timeouts.classes` has for its `class`, default
    /// none. Zero: none.
    pub attempt_timeout: Option<Duration>,
    /// How many calls of one tool one caller may make; key `rate`, default none.
    pub rate: Option<Rate>,
    /// Whether what bounds an attempt is learned from how long calls took; key `learn`, default none.
    pub learn: Option<Learn>,
}

impl Terms {
    /// These where they say something, and the outer ones where they do not, key by key.
    #[must_use]
    pub fn or(self, outer: Self) -> Self {
        Self {
            ask_limit: self.ask_limit.or(outer.ask_limit),
            heartbeat: self.heartbeat.or(outer.heartbeat),
            duplicates: self.duplicates.or(outer.duplicates),
            cache: self.cache.or(outer.cache),
            attempt_timeout: self.attempt_timeout.or(outer.attempt_timeout),
            rate: self.rate.or(outer.rate),
            learn: self.learn.or(outer.learn),
        }
    }

    /// What becomes of a call of a tool with these effects that equals one under way.
    pub fn duplicates_of(&self, effects: Effects) -> Duplicates {
        self.duplicates.unwrap_or(match effects {
            Effects::None | Effects::Idempotent => Duplicates::Share,
            Effects::Writes => Duplicates::Run,
        })
    }
}

impl Upstream {
    /// The same for a tool with these effects: what the server says of `cache` is not for those that change something,
    /// because each of their calls has to be made.
    pub fn terms_with(&self, tool: &str, effects: Effects) -> Terms {
        let own = self.tools.get(tool).is_some_and(|tool| tool.terms.cache.is_some());
        let terms = self.terms_of(tool);
        Terms { cache: terms.cache.filter(|_| own || effects == Effects::None), ..terms }
    }

    /// The terms on which calls of one of its tools are taken: the tool's, or else its own. A `cache` or an
    /// `attempt_timeout` of zero, by which a tool goes without what its server has, is absent.
    pub fn terms_of(&self, tool: &str) -> Terms {
        let own = self.tools.get(tool).map(|tool| tool.terms).unwrap_or_default();
        let terms = own.or(self.terms);
        let some = |time: &Duration| !time.is_zero();
        Terms {
            cache: terms.cache.filter(some),
            attempt_timeout: terms.attempt_timeout.filter(some),
            ..terms
        }
    }
}

/// What becomes of a call that equals one under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    /// It shares the other's work and its answer (`"share"`).
    Share,
    /// It is refused, with the id of the other (`"reject"`).
    Reject,
    /// It is made as well (`"run"`).
    Run,
}

/// How many calls may be made in a time: so many at once, and then as many as time has passed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Calls, at least one.
    pub calls: u32,
    /// In how long: a second (`"10/s"`), a minute (`"600/m"`) or an hour (`"1000/h"`).
    pub per: Duration,
}

const PERIODS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("m", Duration::from_secs(60)), ("h", Duration::from_secs(3600))];

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PERIODS.iter().find(|(_, per)| *per == self.per) {
            Some((unit, _)) => write!(f, "{}/{unit}", self.calls),
            None => write!(f, "{} in {:?}", self.calls, self.per),
        }
    }
}

/// Within what bounds the time-out of an attempt is learned. `floor <= ceiling` holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learn {
    /// The shortest; key `floor`, default 1 s, or `ceiling` where that is less, never zero.
    pub floor: Duration,
    /// The longest; key `ceiling`, default 50 s, or `floor` where that is more, never zero.
    pub ceiling: Duration,
    /// What the time of nearly all calls is multiplied by, 1 or more; key `factor`, default 2.
    pub factor: f64,
}

impl Default for Learn {
    fn default() -> Self {
        Self { floor: Duration::from_secs(1), ceiling: Duration::from_secs(50), factor: 2.0 }
    }
}

/// When a server's calls are made again, table `[servers.NAME.retries]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retries {
    /// How often one call is made again at most; key `max`, default 2. Zero: never.
    pub max: u32,
    /// About how long to wait before the first time; key `backoff`, default 100 ms. Each later wait is twice as long.
    pub backoff: Duration,
    /// What part of all calls may be made again, at most 1; key `budget`, default 0.1. Zero leaves `floor`.
    pub budget: f64,
    /// How many more may be made again besides; key `floor`, default 10.
    pub floor: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { max: 2, backoff: Duration::from_millis(100), budget: 0.1, floor: 10 }
    }
}

/// When a server's calls are not made for a while because so many failed, table `[servers.NAME.breaker]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// The time that is looked back on; key `window`, default 30 s, never zero.
    pub window: Duration,
    /// What part of the calls that ended in it must have failed, at most 1; key `failures`, default 0.8. Zero: calls
    /// are always made.
    pub failures: f64,
    /// How many calls must have ended in it at least; key `least`, default 20, never zero.
    pub least: u32,
    /// For how long no calls are made; key `open`, default 10 s, never zero.
    pub open: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), failures: 0.8, least: 20, open: Duration::from_secs(10) }
    }
}

/// The classes of operation by name, with what bounds an attempt at one; without it where that is at fault.
pub(super) type Classes = BTreeMap<String, Option<Given<Duration>>>;

/// What a table says of terms.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) terms: Terms,
    pub(super) class: Option<String>,
    /// What bounds an attempt, and where that was written.
    pub(super) attempt: Option<Given<Duration>>,
}

/// Takes the keys about terms out of the table of a server or a tool.
pub(super) fn read(section: &mut Section<'_>, classes: &Classes, faults: &mut Faults) -> Read {
    let words = [("share", Duplicates::Share), ("reject", Duplicates::Reject), ("run", Duplicates::Run)];
    let ask_limit = section.take("ask_limit").and_then(|item| values::duration(&item, faults));
    let heartbeat = section.take("heartbeat").and_then(|item| values::duration(&item, faults));
    let duplicates = section.take("duplicates").and_then(|item| values::choice(&item, &words, faults));
    let cache = section.take("cache").and_then(|item| values::duration(&item, faults));
    let rate = section.take("rate").and_then(|item| rate(&item, faults));
    let learn = section.take("learn").and_then(|item| learn(&item, faults));
    let attempt_timeout = section.take("attempt_timeout");
    let class = section.take("class");
    if let (Some(item), Some(_)) = (&attempt_timeout, &class) {
        item.refuse(faults, "stands beside `class`, which sets the same: remove one of the two");
    }
    let attempt = attempt_timeout.and_then(|item| values::given_duration(item, faults));
    let (class, of_class) = class.and_then(|item| named(&item, classes, faults)).unzip();
    let of_class = of_class.flatten();
    let attempt = attempt.or(of_class);
    let attempt_timeout = attempt.as_ref().map(|given| given.value);
    let terms = Terms { ask_limit, heartbeat, duplicates, cache, attempt_timeout, rate, learn };
    Read { terms, class, attempt }
}

/// A class by its name, and what it has.
fn named(
    item: &Item<'_>,
    classes: &Classes,
    faults: &mut Faults,
) -> Option<(String, Option<Given<Duration>>)> {
    let name = item.text("\"web_search\"", faults)?;
    let found = classes.get(name);
    if found.is_none() {
        let message = if classes.is_empty() {
            let example = format!("{} = \"300s\"", quoted(name));
            format!("{} is no class: add `{example}` under [timeouts.classes]", item.shown())
        } else {
            values::not_among(&item.shown(), name, classes.keys().map(String::as_str))
        };
        item.refuse(faults, message);
    }
    found.map(|time| (name.to_owned(), time.clone()))
}

/// So many calls in a second, a minute or an hour.
pub(super) fn rate(item: &Item<'_>, faults: &mut Faults) -> Option<Rate> {
    let text = item.text("\"10/s\"", faults)?;
    let read = text.split_once('/').and_then(|(calls, unit)| {
        let (_, per) = PERIODS.iter().find(|(known, _)| *known == unit)?;
        let digits = calls.bytes().all(|byte| byte.is_ascii_digit());
        Some(Rate { calls: calls.parse().ok().filter(|_| digits)?, per: *per })
    });
    match read {
        Some(rate) if rate.calls > 0 => Some(rate),
        Some(_) => {
            let message = format!("{} lets no call through: write 1 or more, such as \"10/s\"", item.shown());
            item.refuse(faults, message);
            None
        }
        None => {
            let remedy = "write calls per second, minute or hour, such as \"10/s\", \"600/m\" or \"1000/h\"";
            item.refuse(faults, format!("{} is not a rate: {remedy}", item.shown()));
            None
        }
    }
}

fn learn(item: &Item<'_>, faults: &mut Faults) -> Option<Learn> {
    let mut section = item.section(faults)?;
    let floor = section.take("floor").and_then(|item| Some((values::some_time(&item, faults)?, item)));
    let ceiling = section.take("ceiling").and_then(|item| values::some_time(&item, faults));
    let factor = section.take("factor").and_then(|item| factor(&item, faults));
    section.finish(&[], faults);
    if let (Some((floor, item)), Some(ceiling)) = (&floor, ceiling)
        && *floor > ceiling
    {
        let message = format!("{floor:?} is above `ceiling` = {ceiling:?}: lower the one or raise the other");
        item.refuse(faults, message);
    }
    let (plain, floor) = (Learn::default(), floor.map(|(floor, _)| floor));
    let ceiling = ceiling.unwrap_or_else(|| plain.ceiling.max(floor.unwrap_or_default()));
    Some(Learn {
        floor: floor.unwrap_or_else(|| plain.floor.min(ceiling)),
        ceiling,
        factor: factor.unwrap_or(plain.factor),
    })
}

fn factor(item: &Item<'_>, faults: &mut Faults) -> Option<f64> {
    match item.number() {
        Some(factor) if (1.0..=1000.0).contains(&factor) => Some(factor),
        _ => {
            let remedy = "write a number of 1 or more, such as 2.0, and at most 1000";
            item.refuse(faults, format!("{} is no factor: {remedy}", item.shown()));
            None
        }
    }
}

fn number(item: &Item<'_>, least: usize, faults: &mut Faults) -> Option<u32> {
    // A count is never above what these hold.
    values::count(item, least, faults).and_then(|count| u32::try_from(count).ok())
}

pub(super) fn retries(item: &Item<'_>, faults: &mut Faults) -> Option<Retries> {
    let mut section = item.section(faults)?;
    let max = section.take("max").and_then(|item| number(&item, 0, faults));
    let backoff = section.take("backoff").and_then(|item| values::duration(&item, faults));
    let budget = section.take("budget").and_then(|item| values::part_or_nothing(&item, faults));
    let floor = section.take("floor").and_then(|item| number(&item, 0, faults));
    section.finish(&[], faults);
    let plain = Retries::default();
    Some(Retries {
        max: max.unwrap_or(plain.max),
        backoff: backoff.unwrap_or(plain.backoff),
        budget: budget.unwrap_or(plain.budget),
        floor: floor.unwrap_or(plain.floor),
    })
}

pub(super) fn breaker(item: &Item<'_>, faults: &mut Faults) -> Option<Breaker> {
    let mut section = item.section(faults)?;
    let window = section.take("window").and_then(|item| values::some_time(&item, faults));
    let failures = section.take("failures").and_then(|item| values::part_or_nothing(&item, faults));
    let least = section.take("least").and_then(|item| number(&item, 1, faults));
    let open = section.take("open").and_then(|item| values::some_time(&item, faults));
    section.finish(&[], faults);
    let plain = Breaker::default();
    Some(Breaker {
        window: window.unwrap_or(plain.window),
        failures: failures.unwrap_or(plain.failures),
        least: least.unwrap_or(plain.least),
        open: open.unwrap_or(plain.open),
    })
}
