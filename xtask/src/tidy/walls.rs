//! The rules about Rust code: what may stand only behind which wall, and how long things may be.

use super::rust::{Source, find_word, functions};
use super::{Finding, line_at};

const FILE_LINES: usize = 800;
const MEDIAN_LINES: usize = 200;
const CALL_PATH: &str = "crates/core/src/call.rs";
const CALL_PATH_LINES: usize = 100;

/// Words that only some places may use. A place is a file, or a directory with `/` at its end.
struct Wall {
    words: &'static [&'static str],
    /// Whether the words are looked for in literals too.
    in_literals: bool,
    home: &'static str,
    why: &'static str,
}

const WALLS: [Wall; 3] = [
    Wall {
        words: &["unsafe", "Command::new"],
        in_literals: false,
        home: "crates/proc/",
        why: "only seawall-proc starts a process or contains unsafe code",
    },
    Wall {
        words: &[
            "tokio::spawn",
            "task::spawn",
            "task::spawn_blocking",
            "task::spawn_local",
            "JoinSet",
            "TaskTracker",
        ],
        in_literals: false,
        home: "crates/core/src/life.rs",
        why: "every task is spawned by life.rs, which says how it ends",
    },
    Wall {
        words: &["Era::", "is_modern", "2026-07-28", "2025-11-25"],
        in_literals: true,
        home: "crates/proto/",
        why: "only seawall-proto knows an era",
    },
];

/// Words that no Rust file of the project may contain.
const BANNED: [(&str, &str); 4] = [
    ("#[allow(", "write #[expect(…, reason = …)], which says when it stops being needed"),
    ("#![allow(", "write #![expect(…, reason = …)], which says when it stops being needed"),
    ("todo!", "finish it or leave it out"),
    ("unimplemented!", "finish it or leave it out"),
];

pub(super) fn check(sources: &[Source], findings: &mut Vec<Finding>) {
    for source in sources {
        banned(source, findings);
        if ships(source) {
            walls(source, findings);
            length(source, findings);
        }
    }
    median(sources, findings);
    match sources.iter().find(|source| source.path == CALL_PATH) {
        Some(source) => call_path(source, findings),
        None => findings.push(Finding::new(CALL_PATH, 1, "the call path is not here")),
    }
}

/// Whether a file is part of the five crates and not of their tests.
fn ships(source: &Source) -> bool {
    source.path.starts_with("crates/") && !source.is_test
}

fn banned(source: &Source, findings: &mut Vec<Finding>) {
    for (word, advice) in BANNED {
        for offset in find_word(&source.code, word) {
            let line = line_at(&source.code, offset);
            findings.push(Finding::new(&source.path, line, format!("`{word}`: {advice}")));
        }
    }
}

fn walls(source: &Source, findings: &mut Vec<Finding>) {
    for wall in &WALLS {
        let at_home = if wall.home.ends_with('/') {
            source.path.starts_with(wall.home)
        } else {
            source.path == wall.home
        };
        if at_home {
            continue;
        }
        let text = if wall.in_literals { &source.shipped_with_literals } else { &source.shipped };
        for word in wall.words {
            for offset in find_word(text, word) {
                let line = line_at(text, offset);
                findings.push(Finding::new(&source.path, line, format!("`{word}`: {}", wall.why)));
            }
        }
    }
}

fn length(source: &Source, findings: &mut Vec<Finding>) {
    if source.shipped_lines > FILE_LINES {
        let message = format!("{} lines without tests; at most {FILE_LINES}", source.shipped_lines);
        findings.push(Finding::new(&source.path, 1, message));
    }
}

fn median(sources: &[Source], findings: &mut Vec<Finding>) {
    let mut lengths: Vec<usize> =
        sources.iter().filter(|source| ships(source)).map(|source| source.shipped_lines).collect();
    lengths.sort_unstable();
    let Some(median) = lengths.get(lengths.len() / 2) else {
        return;
    };
    if *median > MEDIAN_LINES {
        let message = format!("the median file has {median} lines without tests; at most {MEDIAN_LINES}");
        findings.push(Finding::new("crates", 1, message));
    }
}

fn call_path(source: &Source, findings: &mut Vec<Finding>) {
    let mut lines = 0;
    for name in ["call", "run"] {
        let mut found = false;
        for range in functions(&source.shipped, name) {
            found = true;
            lines += source.shipped[range].lines().count();
        }
        if !found {
            findings.push(Finding::new(&source.path, 1, format!("`fn {name}` is not here")));
        }
    }
    if lines > CALL_PATH_LINES {
        let message = format!("call() and run() have {lines} lines together; at most {CALL_PATH_LINES}");
        findings.push(Finding::new(&source.path, 1, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: fn(&Source, &mut Vec<Finding>), path: &str, text: &str) -> Vec<(usize, String)> {
        let mut findings = Vec::new();
        rule(&Source::new(path, text), &mut findings);
        findings.into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    fn lines_of(path: &str, text: &str) -> Vec<usize> {
        found(walls, path, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn processes_and_unsafe_belong_to_proc() {
        let text = "// unsafe\nfn a() { unsafe { b() } }\nfn c() { Command::new(\"unsafe\"); }\n";
        assert_eq!(lines_of("crates/core/src/a.rs", text), [2, 3]);
        assert!(lines_of("crates/proc/src/a.rs", text).is_empty());
    }

    #[test]
    fn tasks_are_spawned_in_life() {
        let text =
            "fn a() {\n tokio::spawn(b());\n tasks.spawn(kind, b());\n tokio::task::spawn_blocking(c);\n}";
        assert_eq!(lines_of("crates/core/src/call.rs", text), [2, 4]);
        assert_eq!(lines_of("crates/proto/src/lib.rs", text), [2, 4]);
        assert!(lines_of("crates/core/src/life.rs", text).is_empty());
    }

    #[test]
    fn eras_are_known_to_proto_alone() {
        let text =
            "fn a(e: Era) {\n e == Era::Modern;\n m == \"2025-11-25\";\n e.is_modern();\n}\n// 2026-07-28";
        let mut lines = lines_of("crates/core/src/a.rs", text);
        lines.sort_unstable();
        assert_eq!(lines, [2, 3, 4]);
        assert!(lines_of("crates/proto/src/era.rs", text).is_empty());
        assert!(
            lines_of("crates/core/src/a.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}")).is_empty()
        );
    }

    #[test]
    fn some_words_are_banned_everywhere() {
        for text in
            ["#[allow(dead_code)]", "#![allow(unused)]", "fn a() { todo!() }", "fn a() { unimplemented!() }"]
        {
            assert_eq!(found(banned, "tests/a.rs", text).len(), 1, "{text}");
            assert!(found(banned, "tests/a.rs", &format!("// {text}")).is_empty());
        }
        assert!(found(banned, "tests/a.rs", "#[expect(dead_code, reason = \"b\")]").is_empty());
    }

    #[test]
    fn long_files_are_found_and_their_tests_not_counted() {
        let long = "a();\n".repeat(FILE_LINES + 1);
        assert_eq!(found(length, "crates/core/src/a.rs", &long).len(), 1);
        let tested = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(found(length, "crates/core/src/a.rs", &tested).is_empty());
    }

    #[test]
    fn the_median_is_of_what_ships() {
        let source = |path: &str, lines: usize| Source::new(path, &"a();\n".repeat(lines));
        let mut findings = Vec::new();
        let long = MEDIAN_LINES + 1;
        median(
            &[source("crates/a/src/a.rs", 1), source("crates/a/src/b.rs", 2), source("tests/c.rs", long)],
            &mut findings,
        );
        assert!(findings.is_empty());
        median(&[source("crates/a/src/a.rs", long)], &mut findings);
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn the_call_path_is_found_and_measured() {
        let body = "    a();\n".repeat(CALL_PATH_LINES / 2);
        let text = format!("fn call() {{\n{body}}}\nfn run() {{\n{body}}}\n");
        let messages = found(call_path, CALL_PATH, &text);
        assert_eq!(messages.len(), 1);
        assert!(messages[0].1.contains("104 lines"), "{messages:?}");
        assert_eq!(found(call_path, CALL_PATH, "fn call() {}").len(), 1);
        assert!(found(call_path, CALL_PATH, "fn call() {}\nfn run() {}").is_empty());
    }

    #[test]
    fn a_missing_call_path_is_found() {
        let mut findings = Vec::new();
        check(&[], &mut findings);
        assert_eq!(findings.len(), 1);
    }
}
