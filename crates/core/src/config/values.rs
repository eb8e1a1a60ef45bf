//! Values with a meaning: durations, sizes, counts and choices.

use std::time::Duration;

use super::lower::Given;
use super::raw::{Faults, Item, closest};

/// The longest time that may be written. It keeps every sum of a point in time and a duration representable.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads "250ms", "50s", "30m", "1h" and sums of them from the largest unit down ("1h30m").
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = UNITS.as_slice();
    let mut milliseconds = 0_u64;
    while !rest.is_empty() {
        let (number, after) = split_while(rest, |c| c.is_ascii_digit());
        let (unit, after) = split_while(after, |c| c.is_ascii_alphabetic());
        let index = units.iter().position(|(name, _)| *name == unit)?;
        let part = number.parse::<u64>().ok()?.checked_mul(units[index].1)?;
        milliseconds = milliseconds.checked_add(part)?;
        units = &units[index + 1..];
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_millis(milliseconds))
}

/// Reads "16MiB", "512KiB", "1GiB" and "100B" as bytes.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_while(text, |c| c.is_ascii_digit());
    let scale = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

fn split_while(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !wanted(c)).unwrap_or(text.len()))
}

/// A duration, zero included.
pub(super) fn duration(item: &Item<'_>, faults: &mut Faults) -> Option<Duration> {
    if let Some(number) = item.integer() {
        item.refuse(
            faults,
            format!("{number} has no unit: add one, such as \"{number}s\" or \"{number}ms\""),
        );
        return None;
    }
    let text = item.text("\"50s\"", faults)?;
    match parse_duration(text) {
        Some(duration) if duration <= LONGEST => Some(duration),
        Some(_) => {
            item.refuse(faults, format!("{} is longer than a year: write at most \"8760h\"", item.shown()));
            None
        }
        None => {
            let remedy =
                "write whole numbers with their units, such as \"250ms\", \"50s\", \"30m\" or \"1h30m\"";
            item.refuse(faults, format!("{} is not a duration: {remedy}", item.shown()));
            None
        }
    }
}

/// A duration, zero included, and where it stands.
pub(super) fn given_duration(item: Item<'_>, faults: &mut Faults) -> Option<Given<Duration>> {
    Some(Given { value: duration(&item, faults)?, place: item.place })
}

/// A duration that is not zero.
pub(super) fn some_time(item: &Item<'_>, faults: &mut Faults) -> Option<Duration> {
    let duration = duration(item, faults)?;
    if duration.is_zero() {
        let remedy = "write how long it may take, such as \"50s\"; \"24h\" is as good as no limit";
        item.refuse(faults, format!("{} leaves no time at all: {remedy}", item.shown()));
        return None;
    }
    Some(duration)
}

/// A whole number from `least` up.
pub(super) fn count(item: &Item<'_>, least: usize, faults: &mut Faults) -> Option<usize> {
    let Some(number) = item.integer() else {
        item.refuse(faults, format!("{} is not a whole number: write one, such as 64", item.shown()));
        return None;
    };
    // The cap is far beyond any use, and below what a semaphore can count.
    match u32::try_from(number).ok().and_then(|number| usize::try_from(number).ok()) {
        Some(number) if number >= least => Some(number),
        _ if number < least as i128 => {
            item.refuse(faults, format!("{number} leaves no room for anything: write {least} or more"));
            None
        }
        _ => {
            item.refuse(faults, format!("{number} is too large: write at most {}", u32::MAX));
            None
        }
    }
}

/// A number of bytes that is not zero: an integer, or a string with a unit.
pub(super) fn size(item: &Item<'_>, faults: &mut Faults) -> Option<usize> {
    let number = match item.integer() {
        Some(number) => number,
        None => match parse_size(item.text("\"16MiB\"", faults)?) {
            Some(number) => i128::from(number),
            None => {
                let remedy = "write \"16MiB\", \"512KiB\", \"1GiB\" or a number of bytes";
                item.refuse(faults, format!("{} is not a size: {remedy}", item.shown()));
                return None;
            }
        },
    };
    match usize::try_from(number) {
        Ok(number) if number > 0 => Some(number),
        _ => {
            let wrong = if number > 0 { "is too large" } else { "lets nothing through" };
            item.refuse(faults, format!("{} {wrong}: write a size such as \"16MiB\"", item.shown()));
            None
        }
    }
}

/// A number above 0 and at most 1.
pub(super) fn part_of_one(item: &Item<'_>, faults: &mut Faults) -> Option<f64> {
    match item.number() {
        Some(part) if part > 0.0 && part <= 1.0 => Some(part),
        _ => {
            let message =
                format!("{} is not a part of one: write a number above 0 and at most 1", item.shown());
            item.refuse(faults, message);
            None
        }
    }
}

/// A number from 0 to 1.
pub(super) fn part_or_nothing(item: &Item<'_>, faults: &mut Faults) -> Option<f64> {
    let part = item.number().filter(|part| (0.0..=1.0).contains(part));
    if part.is_none() {
        item.refuse(faults, format!("{} is not a part of one: write a number from 0 to 1", item.shown()));
    }
    part
}

/// One of a few words.
pub(super) fn choice<T: Copy>(item: &Item<'_>, words: &[(&str, T)], faults: &mut Faults) -> Option<T> {
    let text = item.text(&format!("{:?}", words[0].0), faults)?;
    let chosen = words.iter().find(|(word, _)| *word == text);
    if chosen.is_none() {
        item.refuse(faults, not_among(&item.shown(), text, words.iter().map(|(word, _)| *word)));
    }
    chosen.map(|(_, value)| *value)
}

/// The message for a word that is not among those known.
pub(super) fn not_among<'w>(shown: &str, text: &str, words: impl Iterator<Item = &'w str> + Clone) -> String {
    match closest(text, words.clone()) {
        Some(word) => format!("{shown} is not known: did you mean {word:?}?"),
        None => {
            let known: Vec<_> = words.map(|word| format!("{word:?}")).collect();
            format!("{shown} is not known: write one of {}", known.join(", "))
        }
    }
}
