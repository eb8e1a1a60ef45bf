//! The keys of a server that say how many instances it has, and how long each of them lives.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::Kind;
use super::raw::{Faults, Item, Section};
use super::values;

/// How many instances an upstream has, and how long each of them lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Processes that are kept running, also where nobody wants one; key `min`, default 0.
    pub min: usize,
    /// Instances at once, at most; key `max`, default none (`limits.processes` holds anyway).
    pub max: Option<NonZeroUsize>,
    /// Processes that are started in advance for whoever comes next; key `spare`, default 0.
    pub spare: usize,
    /// How long an instance may have nothing to do before it is ended; key `idle`, default never.
    pub idle: Option<Duration>,
    /// The age at which an instance is replaced once its calls have ended; key `max_age`, default none.
    pub max_age: Option<Duration>,
    /// The memory that a process and its descendants may hold, in bytes of resident set, before it is replaced once its
    /// calls have ended; key `max_rss`, default none.
    pub max_rss: Option<u64>,
    /// A program and its arguments that are run before the process is told to end, such as what stops its container;
    /// key `stop`, default none.
    pub stop: Vec<String>,
}

const USELESS_ON_URL: &str = "is about processes, and has no use beside `url`: remove it";

/// Takes the keys of the pool out of a server's table.
pub(super) fn pool(section: &mut Section<'_>, kind: Option<&Kind>, faults: &mut Faults) -> Pool {
    let max = section.take("max").and_then(|item| Some((values::count(&item, 1, faults)?, item)));
    let idle = section.take("idle").and_then(|item| values::some_time(&item, faults));
    let max_age = section.take("max_age").and_then(|item| values::some_time(&item, faults));
    let of_processes = ["min", "spare", "max_rss", "stop"].map(|name| section.take(name));
    if matches!(kind, Some(Kind::Http { .. })) {
        of_processes.iter().flatten().for_each(|item| item.refuse(faults, USELESS_ON_URL));
    }
    let [min, spare, max_rss, stop] = of_processes;
    let least = |item: Option<Item<'_>>, faults: &mut Faults| {
        item.and_then(|item| values::count(&item, 0, faults)).unwrap_or_default()
    };
    let (min, spare) = (least(min, faults), least(spare, faults));
    if let Some((max, item)) = &max
        && min.max(spare) > *max
    {
        let message = format!("{max} is below `min` = {min} or `spare` = {spare}: raise it or lower those");
        item.refuse(faults, message);
    }
    let max_rss = max_rss.and_then(|item| values::size(&item, faults));
    let stop = stop.map(|item| {
        let words = item.texts("[\"docker\", \"stop\", \"NAME\"]", faults).unwrap_or_default();
        if words.first().is_none_or(|(_, program)| program.is_empty()) {
            item.refuse(faults, "names no program: write one and its arguments, or remove it");
        }
        words.into_iter().map(|(_, word)| word.to_owned()).collect()
    });
    Pool {
        min,
        max: max.and_then(|(max, _)| NonZeroUsize::new(max)),
        spare,
        idle,
        max_age,
        max_rss: max_rss.and_then(|bytes| u64::try_from(bytes).ok()),
        stop: stop.unwrap_or_default(),
    }
}
