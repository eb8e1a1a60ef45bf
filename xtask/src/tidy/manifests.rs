//! The rules about manifests: which crate may depend on which, and that all share one set of lints.

use toml::{Table, Value};

use super::{Finding, TextFile, line_at};

/// The five crates and the ones each may depend on.
const ARROWS: [(&str, &[&str]); 5] = [
    ("seawall", &["seawall-core", "seawall-proto"]),
    ("seawall-core", &["seawall-jobs", "seawall-proc", "seawall-proto"]),
    ("seawall-jobs", &["seawall-proc"]),
    ("seawall-proc", &[]),
    ("seawall-proto", &[]),
];

/// Families of packages, told by the start of their names, and the only crates that may depend on them.
const FAMILIES: [(&str, &[&str]); 5] = [
    ("axum", &["seawall"]),
    ("clap", &["seawall"]),
    ("sqlx", &["seawall-jobs"]),
    ("hyper", &["seawall", "seawall-core", "seawall-jobs", "seawall-proc"]),
    ("tokio", &["seawall", "seawall-core", "seawall-jobs", "seawall-proc"]),
];

struct Dependency<'a> {
    package: &'a str,
    /// The name it is declared by.
    key: &'a str,
    /// Whether only tests, examples and benchmarks of the crate see it.
    for_tests: bool,
}

pub(super) fn check(files: &[&TextFile], findings: &mut Vec<Finding>) {
    for file in files {
        match file.text.parse::<Table>() {
            Ok(manifest) => {
                lints(file, &manifest, findings);
                if file.path.starts_with("crates/") && file.path.matches('/').count() == 2 {
                    dependencies(file, &manifest, findings);
                }
            }
            Err(error) => {
                let line = error.span().map_or(1, |span| line_at(&file.text, span.start));
                findings.push(Finding::new(&file.path, line, error.message()));
            }
        }
    }
}

/// Every package takes the workspace's lints; one that is a workspace of its own has none to take.
fn lints(file: &TextFile, manifest: &Table, findings: &mut Vec<Finding>) {
    if !manifest.contains_key("package") || manifest.contains_key("workspace") {
        return;
    }
    let inherited = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
    if inherited != Some(true) {
        findings.push(Finding::new(&file.path, 1, "`[lints] workspace = true` is missing"));
    }
}

fn dependencies(file: &TextFile, manifest: &Table, findings: &mut Vec<Finding>) {
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    let Some((name, arrows)) = ARROWS.iter().find(|(known, _)| name == Some(*known)) else {
        findings.push(Finding::new(&file.path, 1, "this is none of the five crates"));
        return;
    };
    for dependency in declared(manifest) {
        let Dependency { package, key, for_tests } = dependency;
        let mut report =
            |message: String| findings.push(Finding::new(&file.path, line_of(&file.text, key), message));
        let known = ARROWS.iter().any(|(crate_name, _)| *crate_name == package);
        let ours = known || package.starts_with("seawall-");
        // Tests may use the project's fixtures; a wall between two of the five crates stands for tests too.
        if ours && (known || !for_tests) && !arrows.contains(&package) {
            report(format!("{name} may not depend on {package}"));
        }
        let family = FAMILIES.iter().find(|(family, _)| is_of(package, family));
        if let Some((family, allowed)) = family
            && !for_tests
            && !allowed.contains(name)
        {
            report(format!("{name} may not depend on {family}: {package}"));
        }
    }
}

/// `tokio-util` and `tokio_util` are of the family `tokio`, `tokiox` is not.
fn is_of(package: &str, family: &str) -> bool {
    package.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

fn declared(manifest: &Table) -> Vec<Dependency<'_>> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = [manifest].into_iter().chain(targets.filter_map(Value::as_table));
    let mut found = Vec::new();
    for table in tables {
        for (section, for_tests) in
            [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)]
        {
            for (key, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
                let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
                found.push(Dependency { package, key, for_tests });
            }
        }
    }
    found
}

/// The line that declares `key`, as `key = …`, `key.workspace = …` or `[dependencies.key]`.
fn line_of(text: &str, key: &str) -> usize {
    let declares = |line: &str| {
        let line = line.trim_start();
        let after =
            line.strip_prefix(key).or_else(|| line.strip_prefix('"')?.strip_prefix(key)?.strip_prefix('"'));
        after.is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
            || line.ends_with(&format!("dependencies.{key}]"))
    };
    text.lines().position(declares).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, rest: &str) -> Vec<String> {
        let text = format!("[package]\nname = \"{name}\"\n{rest}\n[lints]\nworkspace = true\n");
        let file = TextFile { path: "crates/x/Cargo.toml".to_owned(), text };
        let mut findings = Vec::new();
        check(&[&file], &mut findings);
        findings.iter().map(|finding| format!("{}: {}", finding.line, finding.message)).collect()
    }

    #[test]
    fn arrows_point_one_way() {
        assert!(found("seawall-core", "[dependencies]\nseawall-proc.workspace = true").is_empty());
        assert_eq!(
            found("seawall-proc", "[dependencies]\nlibc = \"1\"\nseawall-core.workspace = true"),
            ["5: seawall-proc may not depend on seawall-core"]
        );
        assert_eq!(found("seawall", "[dependencies.seawall-jobs]\nworkspace = true").len(), 1);
        assert_eq!(
            found("seawall-proto", "[build-dependencies]\na = { package = \"seawall-proc\" }").len(),
            1
        );
    }

    #[test]
    fn tests_may_use_fixtures_but_cross_no_wall() {
        assert!(found("seawall-core", "[dev-dependencies]\nseawall-fixture = \"1\"").is_empty());
        assert_eq!(found("seawall-core", "[dependencies]\nseawall-fixture = \"1\"").len(), 1);
        assert_eq!(found("seawall-jobs", "[dev-dependencies]\nseawall-core = \"1\"").len(), 1);
    }

    #[test]
    fn families_stay_behind_their_wall() {
        assert_eq!(found("seawall-proto", "[dependencies]\ntokio-util.workspace = true").len(), 1);
        assert_eq!(found("seawall-proto", "[target.'cfg(unix)'.dependencies]\nhyper = \"1\"").len(), 1);
        assert_eq!(
            found("seawall-core", "[dependencies]\naxum = \"1\"\nclap = \"4\"\nsqlx = \"1\"").len(),
            3
        );
        assert!(found("seawall-jobs", "[dependencies]\nsqlx = \"1\"\ntokio = \"1\"").is_empty());
        assert!(found("seawall-proto", "[dev-dependencies]\ntokio = \"1\"").is_empty());
        assert!(found("seawall-proto", "[dependencies]\ntokiox = \"1\"").is_empty());
    }

    #[test]
    fn another_crate_is_none_of_the_five() {
        assert_eq!(found("seawall-types", "").len(), 1);
    }

    #[test]
    fn lints_are_shared() {
        let judged = |text: &str| {
            let file = TextFile { path: "xtask/Cargo.toml".to_owned(), text: text.to_owned() };
            let mut findings = Vec::new();
            check(&[&file], &mut findings);
            findings.len()
        };
        assert_eq!(judged("[package]\nname = \"a\""), 1);
        assert_eq!(judged("[package]\nname = \"a\"\n[lints]\nworkspace = true"), 0);
        assert_eq!(judged("[package]\nname = \"a\"\n[workspace]"), 0);
        assert_eq!(judged("[workspace]\nmembers = []"), 0);
        assert_eq!(judged("[package"), 1);
    }
}
