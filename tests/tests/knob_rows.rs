//! Every key about limits, times, retries, kept results, duplicates and signs of life does something.
//!
//! A row is a key, two values of it, and what is to be seen with each. It fails where both look the same, whatever that
//! is, and where either looks different from what the key promises. The keys come from the types of the configuration:
//! `cargo xtask tidy` fails where one of them has no row.
#![expect(clippy::disallowed_methods, reason = "calls under way are tasks of the test")]

/// The test of one row: its name, the key, each value with what is to be seen of it, and how to look.
macro_rules! row {
    ($name:ident, $key:literal, $values:expr, |$value:ident| $observe:expr) => {
        #[test]
        fn $name() {
            $crate::check(&$crate::Row {
                key: $key,
                values: $values,
                observe: |$value| Box::pin(async move { $observe.await }),
            });
        }
    };
}

#[path = "knob_rows/failures.rs"]
mod failures;
#[path = "knob_rows/limits.rs"]
mod limits;
#[path = "knob_rows/scene.rs"]
mod scene;
#[path = "knob_rows/terms.rs"]
mod terms;
#[path = "knob_rows/times.rs"]
mod times;

use seawall_tests::note;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::thread;
use tokio::runtime::Builder;

/// What is seen of a daemon of its own that has the key at this value: a number or a word.
type Observe = fn(&'static str) -> Pin<Box<dyn Future<Output = String>>>;

/// A key, and how it shows that it does something.
struct Row {
    key: &'static str,
    /// Two values, and what is to be seen with each.
    values: [(&'static str, &'static str); 2],
    observe: Observe,
}

/// Looks at both values side by side, each on a thread of its own: ending a daemon blocks.
fn check(row: &Row) {
    let look = |value| {
        let runtime =
            Builder::new_current_thread().enable_all().build().expect("a thread can have a runtime");
        runtime.block_on((row.observe)(value))
    };
    let [(first, of_first), (second, of_second)] = row.values;
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| look(second));
        let one = look(first);
        (one, other.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let key = row.key;
    note(&format!("{key}: {first} gives {one}, {second} gives {other}"));
    assert_ne!(one, other, "`{key}` does nothing: {first} and {second} look the same");
    assert_eq!([one.as_str(), other.as_str()], [of_first, of_second], "`{key}` at {first} and at {second}");
}
