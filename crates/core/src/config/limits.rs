//! The table `[limits]`.

use std::time::Duration;

use super::Limits;
use super::lower::{Given, Overrides};
use super::raw::{Faults, Item, Section};
use super::values;

/// Reads the table and the variables that override it, and checks that the scopes fit into each other, unless
/// the file was not `readable` and so what they are is not known.
pub(super) fn limits<'a>(
    mut section: Section<'a>,
    overrides: &mut Overrides<'a>,
    readable: bool,
    faults: &mut Faults,
) -> Limits {
    let one_or_more = |item: &Item<'a>, faults: &mut Faults| values::count(item, 1, faults);
    let total = overrides.given(&mut section, "total", faults, one_or_more);
    let caller = overrides.given(&mut section, "caller", faults, one_or_more);
    let conversation = overrides.given(&mut section, "conversation", faults, one_or_more);
    let queue = overrides.given(&mut section, "queue", faults, |item, faults| values::count(item, 0, faults));
    let share = overrides.given(&mut section, "share", faults, values::part_of_one);
    let sessions = overrides.given(&mut section, "sessions", faults, one_or_more);
    let session_idle = overrides.given(&mut section, "session_idle", faults, values::some_time);
    let message = overrides.given(&mut section, "message", faults, values::size);
    let processes = overrides.given(&mut section, "processes", faults, one_or_more);
    section.finish(&[], faults);

    let mut misfits = Vec::new();
    let total = total.map_or(64, |given| given.value);
    let caller = inside(("limits.caller", caller.as_ref(), 32), ("limits.total", total), &mut misfits);
    let conversation =
        inside(("limits.conversation", conversation.as_ref(), 16), ("limits.caller", caller), &mut misfits);
    if readable {
        faults.append(&mut misfits);
    }
    Limits {
        total,
        caller,
        conversation,
        queue: queue.map_or(256, |given| given.value),
        share: share.map_or(0.5, |given| given.value),
        sessions: sessions.map_or(16_384, |given| given.value),
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
