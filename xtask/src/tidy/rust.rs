//! Reads Rust just well enough to judge it by words: comments, literals and tests can be told from the rest.

use std::collections::BTreeSet;
use std::ops::Range;

use super::TextFile;

/// A Rust file as the rules see it. Every view has the length and the line breaks of the original, with
/// blanks where something is left out, so that an offset means the same in all.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: String,
    /// All code, tests too, without comments and literals.
    pub(super) code: String,
    /// Code that ships, without comments and literals.
    pub(super) shipped: String,
    /// Code that ships, with its literals but without comments.
    pub(super) shipped_with_literals: String,
    /// Lines outside of test code.
    pub(super) shipped_lines: usize,
    /// Whether the whole file is test code.
    pub(super) is_test: bool,
    /// The paths, without `.rs` or `/mod.rs`, of the modules that this file declares for tests only.
    test_modules: Vec<String>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let (uncommented, code) = blank_text(text);
        let tests = test_items(&code);
        let test_modules = test_modules(path, &uncommented, &code, &tests);
        let lines =
            |range: &Range<usize>| code.get(range.clone()).map_or(0, |part| part.matches('\n').count() + 1);
        let test_lines: usize = tests.iter().map(lines).sum();
        let shipped_lines = text.lines().count().saturating_sub(test_lines);
        let is_test = code.contains("#![cfg(test)]") || lies_in_test_directory(path);
        Self {
            path: path.to_owned(),
            shipped: blanked(&code, &tests),
            shipped_with_literals: blanked(&uncommented, &tests),
            code,
            shipped_lines,
            is_test,
            test_modules,
        }
    }
}

/// All Rust files among `files`, with those marked as tests that are modules of test code.
pub(super) fn sources(files: &[TextFile]) -> Vec<Source> {
    let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
    let mut sources: Vec<Source> = rust.map(|file| Source::new(&file.path, &file.text)).collect();
    let test_modules: BTreeSet<String> =
        sources.iter().flat_map(|source| source.test_modules.iter().cloned()).collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let mut ancestors = stem.match_indices('/').map(|(end, _)| &stem[..end]).chain([stem]);
        let is_test = ancestors.any(|ancestor| test_modules.contains(ancestor));
        source.is_test |= is_test;
    }
    sources
}

/// The offsets at which `word` stands in `code` by itself, not as a part of a longer name.
pub(super) fn find_word<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(start, _)| start).filter(move |start| {
        let before = code[..*start].chars().next_back();
        let after = code[start + word.len()..].chars().next();
        let open_start = !word.starts_with(is_name) || !before.is_some_and(is_name);
        let open_end = !word.ends_with(is_name) || !after.is_some_and(is_name);
        open_start && open_end
    })
}

/// Where each item named by `fn NAME` lies in `code`, from `fn` to the end of its body.
pub(super) fn functions<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    find_word(code, "fn").filter_map(move |start| {
        let rest = code[start + 2..].trim_start().strip_prefix(name)?;
        let is_it = rest.starts_with(|next: char| next == '(' || next == '<' || next.is_whitespace());
        is_it.then(|| start..item_end(code, start))
    })
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn lies_in_test_directory(path: &str) -> bool {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    parts.iter().any(|part| matches!(*part, "tests" | "benches" | "examples" | "fuzz"))
}

/// The modules with a file of their own among the test items of the file at `path`.
fn test_modules(path: &str, uncommented: &str, code: &str, tests: &[Range<usize>]) -> Vec<String> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = match name {
        "lib.rs" | "main.rs" | "mod.rs" => parent,
        _ => path.trim_end_matches(".rs"),
    };
    let module = |range: &Range<usize>| {
        let item = code.get(range.clone())?;
        let rest = item[find_word(item, "mod").next()? + 3..].trim_start();
        let name = rest.strip_suffix(';')?.trim_end();
        if !name.chars().all(is_name) {
            return None;
        }
        let attribute = uncommented.get(range.clone())?.split_once("#[path = \"");
        Some(match attribute.and_then(|(_, rest)| rest.split_once('"')) {
            Some((file, _)) => format!("{parent}/{}", file.trim_end_matches(".rs")),
            None => format!("{directory}/{name}"),
        })
    };
    tests.iter().filter_map(module).collect()
}

/// The items under `#[cfg(test)]` or `#[cfg(all(test, …))]`, attribute included.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut starts: Vec<usize> = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test"] {
        starts.extend(code.match_indices(attribute).map(|(start, _)| start));
    }
    starts.sort_unstable();
    let mut items: Vec<Range<usize>> = Vec::new();
    for start in starts {
        if items.last().is_none_or(|last| start >= last.end) {
            let end = item_end(code, start);
            items.push(start..end);
        }
    }
    items
}

/// Where the item that begins at `start`, perhaps with attributes, ends: after its body, or after its `;`.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth < 0 {
                    return offset;
                }
                if depth == 0 && byte == b'}' {
                    return offset + 1;
                }
            }
            b';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// `text` without comments, and `text` without comments and literals.
fn blank_text(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut comments: Vec<Range<usize>> = Vec::new();
    let mut literals: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (length, kind) = if rest.starts_with(b"//") {
            (rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()), Some(&mut comments))
        } else if rest.starts_with(b"/*") {
            (block_comment(rest), Some(&mut comments))
        } else if let Some(length) = literal(rest) {
            (length, Some(&mut literals))
        } else {
            (1, None)
        };
        if let Some(ranges) = kind {
            ranges.push(at..at + length);
        }
        at += length;
    }
    let uncommented = blanked(text, &comments);
    let code = blanked(&uncommented, &literals);
    (uncommented, code)
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the string or character literal at the start of `rest`, if there is one. A prefix such as
/// `b` before a quote is passed over as code, since what follows it reads the same.
fn literal(rest: &[u8]) -> Option<usize> {
    match *rest.first()? {
        b'"' => Some(1 + closing(&rest[1..], b'"')),
        b'r' => raw_string(rest),
        b'\'' => character(rest),
        _ => None,
    }
}

/// How many bytes it takes to reach and pass `quote`, stepping over what backslashes escape.
fn closing(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    let body = 1 + hashes + 1;
    if rest.get(body - 1) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let length = rest[body..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(rest.len(), |length| body + length + end.len()))
}

/// A character literal, as opposed to a lifetime: a quote closes it after one character or an escape.
fn character(rest: &[u8]) -> Option<usize> {
    let first = *rest.get(1)?;
    if first == b'\\' {
        return Some(1 + closing(&rest[1..], b'\''));
    }
    let width = match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..=0xff => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

fn blanked(text: &str, ranges: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        for byte in &mut bytes[range.clone()] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(bytes).expect("ranges begin and end between characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_told_from_code() {
        let text =
            "a // b\nc /* d /* e */ f */ g \"h \\\" i\" r#\"j \" k\"# 'l' '\\'' '\\\\' 'é' m<'n> b\"o\"";
        let source = Source::new("x.rs", text);
        let words: Vec<&str> = source.code.split_whitespace().collect();
        assert_eq!(words, ["a", "c", "g", "m<'n>", "b"]);
        assert_eq!(source.code.len(), text.len());
        assert!(source.shipped_with_literals.contains("\"h \\\" i\""));
        assert!(!source.shipped_with_literals.contains('f'));
    }

    #[test]
    fn an_unclosed_literal_ends_with_the_file() {
        for text in ["\"a", "r#\"a\"", "/* a", "'\\", "\"a\\"] {
            let source = Source::new("x.rs", text);
            assert_eq!(source.code.trim(), "", "{text}");
        }
    }

    #[test]
    fn test_items_are_left_out_of_what_ships() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c(); }\n}\nfn d() {}\n";
        let source = Source::new("x.rs", text);
        assert!(source.shipped.contains("fn a") && source.shipped.contains("fn d"));
        assert!(!source.shipped.contains("fn b"));
        assert_eq!(source.shipped_lines, 2);
        assert!(source.code.contains("fn b"));
    }

    #[test]
    fn modules_of_tests_are_tests_with_all_below_them() {
        let file = |path: &str, text: &str| TextFile { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("crates/a/src/lib.rs", "mod shipped;\n#[cfg(test)]\nmod scripted;\n"),
            file("crates/a/src/shipped.rs", "#[cfg(test)]\nmod tests;"),
            file("crates/a/src/shipped/tests.rs", ""),
            file("crates/a/src/peer.rs", "#[cfg(test)]\n#[path = \"peer_script.rs\"]\nmod tests;"),
            file("crates/a/src/peer_script.rs", ""),
            file("crates/a/src/scripted.rs", ""),
            file("crates/a/src/scripted/clock.rs", ""),
            file("crates/a/tests/whole.rs", ""),
        ];
        let tests: Vec<bool> = sources(&files).iter().map(|source| source.is_test).collect();
        assert_eq!(tests, [false, false, true, false, true, true, true, true]);
    }

    #[test]
    fn words_are_whole() {
        let code = "unsafe_code unsafe { not_unsafe }";
        assert_eq!(find_word(code, "unsafe").collect::<Vec<_>>(), [12]);
        assert_eq!(find_word("MyEra::A Era::B", "Era::").collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn functions_run_to_the_end_of_their_body() {
        let code =
            "fn called() {}\npub async fn call<T>(t: [u8; 2]) -> T {\n    if t { a }\n}\nfn other() {}";
        let found: Vec<&str> = functions(code, "call").map(|range| &code[range]).collect();
        assert_eq!(found, ["fn call<T>(t: [u8; 2]) -> T {\n    if t { a }\n}"]);
    }
}
