//! The rules about text: links lead somewhere, every fault code has its page, nothing tells of the machine it
//! was written on, and the README begins with what a reader runs first.

use std::collections::{BTreeMap, BTreeSet};

use super::rust::{Source, functions};
use super::{Finding, TextFile, line_at};

const FAULTS: &str = "crates/proto/src/fault.rs";
const FAULT_PAGES: &str = "docs/faults/";
const README: &str = "README.md";
/// The commands that the first two code blocks of the README must show.
const FIRST_COMMANDS: [&str; 2] = ["cargo run --release -- try", "cargo xtask test"];

/// Put together here, so that this file does not contain what it looks for.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
const MACHINE_WORDS: [&str; 1] = [concat!("arti", "factory")];

pub(super) fn check(files: &[TextFile], paths: &BTreeSet<String>, findings: &mut Vec<Finding>) {
    for file in files {
        machine_traces(file, findings);
    }
    links(files, paths, findings);
    match files.iter().find(|file| file.path == FAULTS) {
        Some(file) => fault_pages(file, paths, findings),
        None => findings.push(Finding::new(FAULTS, 1, "the fault codes are not here")),
    }
    match files.iter().find(|file| file.path == README) {
        Some(file) => first_commands(file, findings),
        None => findings.push(Finding::new(README, 1, "there is no README")),
    }
}

fn machine_traces(file: &TextFile, findings: &mut Vec<Finding>) {
    for needle in MACHINE_PATHS {
        for (offset, _) in file.text.match_indices(needle) {
            let before = file.text[..offset].chars().next_back();
            let goes_on = |before: char| before.is_alphanumeric() || "_-.~})*".contains(before);
            if !before.is_some_and(goes_on) {
                let message = format!("`{needle}` is a path of one machine");
                findings.push(Finding::new(&file.path, line_at(&file.text, offset), message));
            }
        }
    }
    for (index, line) in file.text.lines().enumerate() {
        let line = line.to_lowercase();
        for word in MACHINE_WORDS {
            if line.contains(word) {
                findings.push(Finding::new(
                    &file.path,
                    index + 1,
                    format!("`{word}` names one machine's registry"),
                ));
            }
        }
    }
}

fn links(files: &[TextFile], paths: &BTreeSet<String>, findings: &mut Vec<Finding>) {
    let pages: Vec<&TextFile> = files.iter().filter(|file| file.path.ends_with(".md")).collect();
    let headings: BTreeMap<&str, BTreeSet<String>> =
        pages.iter().map(|page| (page.path.as_str(), anchors(&page.text))).collect();
    for page in pages {
        for (line, target) in link_targets(&page.text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) =
                target.split_once('#').map_or((target.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let to = if file.is_empty() { Some(page.path.clone()) } else { resolved(&page.path, file) };
            let Some(to) = to.filter(|to| exists(paths, to)) else {
                findings.push(Finding::new(&page.path, line, format!("the link `{target}` leads nowhere")));
                continue;
            };
            if let Some(anchor) = anchor
                && headings.get(to.as_str()).is_some_and(|known| !known.contains(anchor))
            {
                findings.push(Finding::new(
                    &page.path,
                    line,
                    format!("`{target}`: {to} has no such heading"),
                ));
            }
        }
    }
}

/// Whether a file or directory of the project has this path; the empty one is the project itself.
fn exists(paths: &BTreeSet<String>, path: &str) -> bool {
    let directory = format!("{path}/");
    path.is_empty()
        || paths.contains(path)
        || paths.range(directory.clone()..).next().is_some_and(|next| next.starts_with(&directory))
}

/// Where `target` leads from the page at `from`; `None` when that is outside of the project.
fn resolved(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    if !target.starts_with('/') {
        parts.extend(from.rsplit_once('/').map_or("", |(directory, _)| directory).split('/'));
    }
    let mut path: Vec<&str> = Vec::new();
    for part in parts.into_iter().chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                path.pop()?;
            }
            name => path.push(name),
        }
    }
    Some(path.join("/"))
}

/// The targets of a page's links, inline and by reference, with their lines.
fn link_targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, content) in outside_blocks(text) {
        let content = without_code(content);
        for (start, opening) in content.match_indices("](") {
            let rest = &content[start + opening.len()..];
            if let Some(target) = rest.get(..closing_parenthesis(rest)) {
                found.extend(destination(target).map(|target| (line, target)));
            }
        }
        let definition = content.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]:"));
        if let Some((label, target)) = definition
            && !label.contains(']')
        {
            found.extend(destination(target).map(|target| (line, target)));
        }
    }
    found
}

fn closing_parenthesis(rest: &str) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 0 => return offset,
            b')' => depth -= 1,
            _ => {}
        }
    }
    rest.len()
}

/// A link's target without its title and angle brackets.
fn destination(target: &str) -> Option<String> {
    let target = target.split_whitespace().next()?;
    Some(target.trim_start_matches('<').trim_end_matches('>').to_owned())
}

/// The names under which a page's headings can be linked to: lower case, no punctuation, numbered when
/// repeated.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (_, line) in outside_blocks(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept =
            title.trim().chars().filter(|kept| kept.is_alphanumeric() || matches!(kept, ' ' | '-' | '_'));
        let slug: String =
            kept.flat_map(char::to_lowercase).map(|kept| if kept == ' ' { '-' } else { kept }).collect();
        let mut name = slug.clone();
        let mut repeated = 0;
        while !known.insert(name) {
            repeated += 1;
            name = format!("{slug}-{repeated}");
        }
    }
    known
}

/// The lines of a page that are not in a fenced code block, counted from 1.
fn outside_blocks(text: &str) -> Vec<(usize, &str)> {
    split_blocks(text).0
}

/// A page's lines outside of fenced code blocks, and the content of those blocks.
fn split_blocks(text: &str) -> (Vec<(usize, &str)>, Vec<String>) {
    let mut outside = Vec::new();
    let mut blocks: Vec<String> = Vec::new();
    let mut open: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        match (open, fence(trimmed)) {
            (Some(opened), Some(mark)) if mark.starts_with(opened) && trimmed.trim_end() == mark => {
                open = None
            }
            (Some(_), _) => {
                if let Some(block) = blocks.last_mut() {
                    block.push_str(line);
                    block.push('\n');
                }
            }
            (None, Some(mark)) => {
                open = Some(mark);
                blocks.push(String::new());
            }
            (None, None) => outside.push((index + 1, line)),
        }
    }
    (outside, blocks)
}

/// The fence that opens or closes a code block: at least three of one kind at the start of a line.
fn fence(line: &str) -> Option<&str> {
    ['`', '~'].into_iter().find_map(|kind| {
        let length = line.len() - line.trim_start_matches(kind).len();
        (length >= 3).then(|| &line[..length])
    })
}

/// `line` without its code spans, which are every second part between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

fn fault_pages(file: &TextFile, paths: &BTreeSet<String>, findings: &mut Vec<Finding>) {
    let source = Source::new(&file.path, &file.text);
    let codes = fault_codes(&source);
    if codes.is_empty() {
        findings.push(Finding::new(&file.path, 1, "no fault code was found here"));
    }
    for (code, line) in &codes {
        let page = format!("{FAULT_PAGES}{code}.md");
        if !paths.contains(&page) {
            findings.push(Finding::new(&file.path, *line, format!("the fault {code} has no page {page}")));
        }
    }
    for path in paths {
        let page = path.strip_prefix(FAULT_PAGES).and_then(|name| name.strip_suffix(".md"));
        if let Some(name) = page
            && is_code(name)
            && name != "README"
            && !codes.contains_key(name)
        {
            findings.push(Finding::new(path, 1, format!("there is no fault {name}")));
        }
    }
}

/// The codes that `fn code` names, with their lines; those of the whole file when it names none itself.
fn fault_codes(source: &Source) -> BTreeMap<String, usize> {
    let text = &source.shipped_with_literals;
    let inside: BTreeMap<String, usize> = functions(&source.shipped, "code")
        .flat_map(|range| codes_in(&text[range.clone()], range.start))
        .map(|(code, offset)| (code, line_at(text, offset)))
        .collect();
    if !inside.is_empty() {
        return inside;
    }
    codes_in(text, 0).into_iter().map(|(code, offset)| (code, line_at(text, offset))).collect()
}

/// The literals of `text` that look like codes, with their offsets from `base`.
fn codes_in(text: &str, base: usize) -> Vec<(String, usize)> {
    let quoted = text.match_indices('"').filter_map(|(start, _)| {
        let (code, _) = text[start + 1..].split_once('"')?;
        is_code(code).then(|| (code.to_owned(), base + start))
    });
    quoted.collect()
}

fn is_code(name: &str) -> bool {
    name.len() > 1
        && name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.chars().all(|each| each.is_ascii_uppercase() || each.is_ascii_digit() || each == '_')
}

fn first_commands(file: &TextFile, findings: &mut Vec<Finding>) {
    let blocks = split_blocks(&file.text).1;
    let first = blocks.iter().take(2).cloned().collect::<String>();
    for command in FIRST_COMMANDS {
        if !first.contains(command) {
            let message = format!("the first two code blocks do not show `{command}`");
            findings.push(Finding::new(&file.path, 1, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    fn traces(text: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        machine_traces(&file("a.md", text), &mut findings);
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn paths_and_names_of_one_machine_are_found() {
        let [first, second] = MACHINE_PATHS;
        assert_eq!(traces(&format!("a\nin {first}main and \"{second}x\"")), [2, 2]);
        assert!(traces(&format!("frame{first}a ~{first} docs.{second}")).is_empty());
        assert_eq!(traces(&format!("a\nhttps://{}.example/", MACHINE_WORDS[0].to_uppercase())), [2]);
    }

    fn broken_links(path: &str, text: &str) -> Vec<usize> {
        let files = [file(path, text), file("docs/b.md", "# One `two`: three\n\n## Same\n## Same\n")];
        let mut findings = Vec::new();
        links(&files, &set(&[path, "docs/b.md", "docs/design/c.md", "src/d.rs"]), &mut findings);
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_left_alone() {
        let text = "# Top\n[b](b.md) [c](design/c.md \"title\") [d](../src/d.rs)\n[e](/src) [f](design/)\n[g](#top)\n\
                    [h](https://example.org) [i](<b.md#one-two-three>) [j](b.md#same-1)\n[k]: b.md\n\
                    `[l](none)`\n```\n[m](none)\n```\n";
        assert!(broken_links("docs/a.md", text).is_empty(), "{:?}", broken_links("docs/a.md", text));
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let text = "[b](none.md)\n[c](docs/b.md#none)\n[d](#none)\n[e]: none\n[f](../outside)\n\
                    [g](doc)\n[h](docs/b.md)\n";
        assert_eq!(broken_links("a.md", text), [1, 2, 3, 4, 5, 6]);
    }

    fn fault_findings(text: &str, paths: &[&str]) -> Vec<(String, usize)> {
        let mut findings = Vec::new();
        fault_pages(&file(FAULTS, text), &set(paths), &mut findings);
        findings.into_iter().map(|finding| (finding.path, finding.line)).collect()
    }

    #[test]
    fn every_fault_has_a_page_and_every_page_a_fault() {
        let text = "const A: &str = \"GET\";\nfn code(&self) -> &str {\n match self {\n\
                    A => \"TIMEOUT\",\nB => \"TOO_LARGE\",\n }\n}";
        assert!(fault_findings(text, &["docs/faults/TIMEOUT.md", "docs/faults/TOO_LARGE.md"]).is_empty());
        assert_eq!(fault_findings(text, &["docs/faults/TIMEOUT.md"]), [(FAULTS.to_owned(), 5)]);
        let stale = [
            "docs/faults/TIMEOUT.md",
            "docs/faults/TOO_LARGE.md",
            "docs/faults/GONE.md",
            "docs/faults/README.md",
        ];
        assert_eq!(fault_findings(text, &stale), [("docs/faults/GONE.md".to_owned(), 1)]);
    }

    #[test]
    fn fault_codes_may_be_constants() {
        let text = "const T: &str = \"TIMEOUT\";\nfn code() -> &str { T }\n\
                    #[cfg(test)]\nmod tests { const A: &str = \"NOT_ONE\"; }";
        assert_eq!(fault_findings(text, &[]), [(FAULTS.to_owned(), 1)]);
        assert_eq!(fault_findings("fn code() {}", &[]), [(FAULTS.to_owned(), 1)]);
    }

    #[test]
    fn the_readme_begins_with_its_commands() {
        let judged = |text: &str| {
            let mut findings = Vec::new();
            first_commands(&file(README, text), &mut findings);
            findings.len()
        };
        let [first, second] = FIRST_COMMANDS;
        assert_eq!(judged(&format!("a\n```sh\n{first}\n```\nb\n```sh\n{second}\n```\n")), 0);
        assert_eq!(judged(&format!("a\n```sh\n{first}\n```\n```\nb\n```\n```sh\n{second}\n```\n")), 1);
        assert_eq!(judged(&format!("{first} {second}")), 2);
    }

    #[test]
    fn a_missing_readme_and_missing_faults_are_found() {
        let mut findings = Vec::new();
        check(&[], &set(&[]), &mut findings);
        assert_eq!(findings.len(), 2);
    }

    #[test]
    fn fences_close_with_their_own_kind() {
        let (outside, blocks) = split_blocks("a\n````\n```\nb\n````\nc\n~~~\n```\n~~~\n");
        assert_eq!(outside, [(1, "a"), (6, "c")]);
        assert_eq!(blocks, ["```\nb\n", "```\n"]);
    }
}
