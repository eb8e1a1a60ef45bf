//! The table `[limits]`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::lower::{Given, Overrides};
use super::raw::{Faults, Item, Section};
use super::{Limits, terms, values};

/// Limits under one name. What is set by hand goes over them. Both let one server hold a whole conversation, and count
/// the calls of a caller that name no conversation as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// For one developer (`"dev"`): 5 calls in all and of a caller, 2 of a conversation, 5 sessions; of the providers
    /// `glm` 2 and `kimi` 3.
    Dev,
    /// For a service (`"prod"`): 24 calls in all and of a caller, 8 of a conversation, 100 sessions; of the providers
    /// `glm` 4 and `kimi` 6.
    Prod,
}

/// What is not set by hand.
struct Usual {
    total: usize,
    caller: usize,
    conversation: usize,
    sessions: usize,
    /// None: as `share`.
    conversation_share: Option<f64>,
    count_unnamed: bool,
    providers: &'static [(&'static str, usize)],
}

impl Usual {
    fn of(preset: Option<Preset>) -> Self {
        let plain = Self {
            total: 64,
            caller: 32,
            conversation: 16,
            sessions: 16_384,
            conversation_share: None,
            count_unnamed: false,
            providers: &[],
        };
        let whole = Self { conversation_share: Some(1.0), count_unnamed: true, ..plain };
        match preset {
            None => plain,
            Some(Preset::Dev) => Self {
                total: 5,
                caller: 5,
                conversation: 2,
                sessions: 5,
                providers: &[("glm", 2), ("kimi", 3)],
                ..whole
            },
            Some(Preset::Prod) => Self {
                total: 24,
                caller: 24,
                conversation: 8,
                sessions: 100,
                providers: &[("glm", 4), ("kimi", 6)],
                ..whole
            },
        }
    }
}

/// Reads the table and the variables that override it, and checks that the scopes fit into each other, unless
/// the file was not `readable` and so what they are is not known.
pub(super) fn limits<'a>(
    mut section: Section<'a>,
    overrides: &mut Overrides<'a>,
    readable: bool,
    faults: &mut Faults,
) -> Limits {
    let one_or_more = |item: &Item<'a>, faults: &mut Faults| values::count(item, 1, faults);
    let any = |item: &Item<'a>, faults: &mut Faults| values::count(item, 0, faults);
    let words = [("dev", Preset::Dev), ("prod", Preset::Prod)];
    let preset = |item: &Item<'a>, faults: &mut Faults| values::choice(item, &words, faults);
    let preset = overrides.given(&mut section, "preset", faults, preset).map(|given| given.value);
    let total = overrides.given(&mut section, "total", faults, one_or_more);
    let caller = overrides.given(&mut section, "caller", faults, one_or_more);
    let conversation = overrides.given(&mut section, "conversation", faults, one_or_more);
    let queue = overrides.given(&mut section, "queue", faults, any);
    let share = overrides.given(&mut section, "share", faults, values::part_of_one);
    let sessions = overrides.given(&mut section, "sessions", faults, one_or_more);
    let session_idle = overrides.given(&mut section, "session_idle", faults, values::some_time);
    let message = overrides.given(&mut section, "message", faults, values::size);
    let processes = overrides.given(&mut section, "processes", faults, one_or_more);
    let conversation_share = overrides.given(&mut section, "conversation_share", faults, values::part_of_one);
    let count_unnamed =
        overrides.given(&mut section, "count_unnamed", faults, |item, faults| item.flag(faults));
    let detached = overrides.given(&mut section, "detached", faults, any);
    let detached_caller = overrides.given(&mut section, "detached_caller", faults, any);
    let cache = overrides.given(&mut section, "cache", faults, values::size);
    let idempotency = overrides.given(&mut section, "idempotency", faults, values::some_time);
    let rate = overrides.given(&mut section, "rate", faults, terms::rate);
    let usual = Usual::of(preset);
    let mut providers: BTreeMap<String, usize> =
        usual.providers.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect();
    for (name, item) in section.take_section("providers", faults).named() {
        providers.extend(one_or_more(&item, faults).map(|limit| (name.to_owned(), limit)));
    }
    section.finish(&[], faults);

    let mut misfits = Vec::new();
    let total = total.map_or(usual.total, |given| given.value);
    let caller =
        inside(("limits.caller", caller.as_ref(), usual.caller), ("limits.total", total), &mut misfits);
    let conversation = inside(
        ("limits.conversation", conversation.as_ref(), usual.conversation),
        ("limits.caller", caller),
        &mut misfits,
    );
    let detached = detached.map_or(32, |given| given.value);
    let detached_caller = inside(
        ("limits.detached_caller", detached_caller.as_ref(), 16),
        ("limits.detached", detached),
        &mut misfits,
    );
    let share = share.map_or(0.5, |given| given.value);
    let usual_share = usual.conversation_share.unwrap_or(share);
    if readable {
        faults.append(&mut misfits);
    }
    Limits {
        preset,
        total,
        caller,
        conversation,
        queue: queue.map_or(256, |given| given.value),
        share,
        conversation_share: conversation_share.map_or(usual_share, |given| given.value),
        count_unnamed: count_unnamed.map_or(usual.count_unnamed, |given| given.value),
        detached,
        detached_caller,
        providers,
        rate: rate.map(|given| given.value),
        cache: cache.map_or(64 << 20, |given| given.value),
        idempotency: idempotency.map_or(Duration::from_secs(24 * 60 * 60), |given| given.value),
        sessions: sessions.map_or(usual.sessions, |given| given.value),
        session_idle: session_idle.map_or(Duration::from_secs(30 * 60), |given| given.value),
        message: message.map_or(16 << 20, |given| given.value),
        processes: processes.map_or(256, |given| given.value),
    }
}

/// A limit that must not exceed the one around it. Only one that was set by hand can: a default gives way.
fn inside(
    (key, given, default): (&str, Option<&Given<usize>>, usize),
    (outer_key, outer): (&str, usize),
    faults: &mut Faults,
) -> usize {
    let Some(given) = given else { return default.min(outer) };
    if given.value > outer {
        let message = format!(
            "`{key}` = {} is above `{outer_key}` = {outer}: lower the one or raise the other",
            given.value
        );
        faults.push(given.place.fault(message));
    }
    given.value
}
