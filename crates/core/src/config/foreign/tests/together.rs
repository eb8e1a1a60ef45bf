//! Files whose client cannot be told, several files beside each other, and those that cannot be read.

use std::path::PathBuf;
use std::time::Duration;

use super::super::{ForeignFile, foreign};
use super::{file, files, noted, program, server, service};
use crate::config::{Source, Sources};

#[test]
fn one_bare_entry_is_a_file_too_whatever_it_is_written_in() {
    let json = file("/x/time.json", r#"{"command": "uvx", "args": ["time"]}"#);
    assert_eq!(program(server(&json, "time")).0, "uvx");
    let toml = file("/x/entry", "name = \"clock\"\ncommand = \"uvx\"\ntimeout = 30\n");
    assert_eq!(server(&toml, "clock").upstream.timeout, Duration::from_secs(30));
    let yaml = file("/x/entry", "url: https://y.example/mcp\n");
    assert_eq!(service(&server(&yaml, "entry").upstream.kind).0, "https://y.example/mcp");
    noted(&toml, &["/x/entry:3: timeout: taken as seconds"]);
}

#[test]
fn equal_servers_are_one_and_equal_names_get_their_clients() {
    let own = "[servers.time]\ncommand = \"own\"";
    let cursor = r#"{"mcpServers": {"time": {"command": "a"}, "docs": {"url": "https://d.example/mcp"}}}"#;
    let codex = "[mcp_servers.time]\ncommand = \"b\"\n[mcp_servers.doc]\nurl = \"https://d.example/mcp\"\n\
                 bearer_token_env_var = \"TOKEN\"\n[mcp_servers.same]\ncommand = \"a\"\n";
    let files = files(own, &[("/home/me/.cursor/mcp.json", cursor), ("/home/me/.codex/config.toml", codex)]);
    let [cursor, codex] = &files[..] else { panic!("{files:#?}") };
    let names = |file: &ForeignFile| -> Vec<_> {
        file.servers.iter().map(|server| (server.upstream.name.clone(), server.same_as.clone())).collect()
    };
    let owned = |name: &str, same: Option<&str>| (name.to_owned(), same.map(str::to_owned));
    assert_eq!(names(cursor), [owned("time-cursor", None), owned("docs", None)]);
    let codex_names =
        [owned("time-codex", None), owned("doc", Some("docs")), owned("same", Some("time-cursor"))];
    assert_eq!(names(codex), codex_names);
    let docs = server(cursor, "docs");
    assert_eq!(service(&docs.upstream.kind).1, [("Authorization", "Bearer t0ken")], "the token is kept");
    assert_eq!(service(&docs.written).1, [("Authorization", "Bearer ${TOKEN}")]);
}

#[test]
fn what_cannot_be_read_at_all_names_its_line() {
    let wrong = |path: &str, text: &str| {
        let sources = Sources {
            own: None,
            foreign: vec![Source { path: PathBuf::from(path), text: text.to_owned() }],
            environment: &|_| None,
            overrides: Vec::new(),
            state_default: PathBuf::from("/state"),
            base: PathBuf::from("/base"),
        };
        foreign(&sources).expect_err("a fault")[0].to_string()
    };
    assert!(wrong("a.toml", "x = 1\ny = ").starts_with("a.toml:2: not valid TOML"));
    assert!(wrong("a.yaml", "a: 1\nb: [1").starts_with("a.yaml:"));
    assert!(wrong("a.yaml", "- 1\n").starts_with("a.yaml:1: a list where an object"));
    assert!(wrong("a", "{\"mcpServers\": {\n]}").starts_with("a:2: not valid JSON"));
}
