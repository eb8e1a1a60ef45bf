//! Other clients' files beside our own.

use super::*;

fn with_foreign(own: &str, files: &[(&str, &str)]) -> (Config, Vec<String>) {
    let given = Given { foreign: files, environment: &[("SET", "value")], ..Given::default() };
    let (config, notes) =
        lowered(Some(own), &given).unwrap_or_else(|faults| panic!("{}", lines(&faults).join("\n")));
    (config, notes.iter().map(ToString::to_string).collect())
}

#[test]
fn imports_are_found_before_anything_is_judged() {
    let own = Source {
        path: PathBuf::from("seawall.toml"),
        text: "import = [\"a.json\", \"/etc/b.json\", 3]\n[limits]\ntotal = 0".to_owned(),
    };
    let found = imports(&own, Path::new("/base"));
    assert_eq!(found, [Path::new("/base/a.json"), Path::new("/etc/b.json")]);
}

#[test]
fn a_foreign_file_is_taken_as_it_is() {
    let file = r#"{
  // comments, and commas at the end
  "mcpServers": {
    "time": {
      "command": "uvx", /* also
      here */ "args": ["time", 1, "http://not-a-comment",],
      "env": {"A": "${env:SET}", "B": "${NONE:-d}", "C": true, "D": null},
      "cwd": "sub",
      "disabled": true,
      "timeout": 30000,
    },
    "docs": {
      "type": "http", "url": "https://docs.example/mcp",
      "headers": {"Authorization": "Bearer ${TOKEN}"},
      "timeout": 90,
      "autoApprove": ["x"], "odd": 1
    },
  },
}"#;
    let (config, notes) = with_foreign("[servers.own]\ncommand = \"own\"", &[("/home/.mcp.json", file)]);
    assert_eq!(names(&config), ["own", "time", "docs"]);
    let time = &config.upstreams[1];
    let env = [("A", "value"), ("B", "d"), ("C", "true")];
    let kind = Kind::Stdio {
        command: "uvx".to_owned(),
        args: vec!["time".to_owned(), "1".to_owned(), "http://not-a-comment".to_owned()],
        env: env.map(|(name, value)| (name.to_owned(), Secret::new(value))).into(),
        cwd: Some(PathBuf::from("/home/sub")),
    };
    assert_eq!(time.kind, kind);
    assert_eq!((time.enabled, time.timeout), (false, Duration::from_secs(30)));
    let docs = &config.upstreams[2];
    assert_eq!((docs.enabled, docs.timeout), (true, Duration::from_secs(90)));
    assert_eq!(docs.needs, ["TOKEN"]);
    let begins = [
        "/home/.mcp.json:10: mcpServers.time.timeout: taken as milliseconds",
        "/home/.mcp.json:16: mcpServers.docs.autoApprove: an approval",
        "/home/.mcp.json:16: mcpServers.docs.odd: unknown key",
        "/home/.mcp.json:15: mcpServers.docs.timeout: taken as seconds",
    ];
    assert_eq!(notes.len(), begins.len(), "{notes:#?}");
    for begin in begins {
        assert!(notes.iter().any(|note| note.starts_with(begin)), "no {begin} in {notes:#?}");
    }
}

#[test]
fn foreign_oddities_are_notes_and_foreign_wrecks_are_left_out() {
    let file = r#"{"theme": "dark", "mcpServers": {
"nested": {"transport": {"type": "streamableHttp", "url": "https://n.example"}},
"old": {"type": "sse", "url": "https://s.example"},
"plain": {"url": "https://p.example"},
"filter": {"command": "f", "disabledTools": ["x"], "headers": {}},
"ask": {"command": "a", "args": ["${input:key}"]},
"my server": {"command": "m"},
"both": {"command": "b", "url": "https://b.example"},
"none": {"disabled": true},
"bad": {"command": 1, "args": "x"},
"ws": {"type": "ws", "url": "wss://w.example"},
"text": "x",
"self": {"command": "/usr/bin/seawall", "args": ["stdio"]},
"us": {"type": "http", "url": "http://localhost:8079/mcp"},
"odd": {"command": "o", "disabled": "yes", "timeout": 0}
}}"#;
    let (config, notes) = with_foreign("", &[("c.json", file)]);
    assert_eq!(names(&config), ["nested", "old", "plain", "filter", "ask", "my_server", "ws", "odd"]);
    assert_eq!(config.upstreams[4].needs, ["input:key"]);
    for begin in [
        "c.json:1: settings of the client, not read: theme",
        "c.json:4: mcpServers.plain.url: has no `type`",
        "c.json:5: mcpServers.filter.disabledTools: the client's choice",
        "c.json:5: mcpServers.filter.headers: has no use",
        "c.json:6: mcpServers.ask.args: ${input:key} is not known here",
        "c.json:7: mcpServers.\"my server\": \"my server\" cannot be a server's name: used as `my_server`",
        "c.json:8: mcpServers.both: has both",
        "c.json:9: mcpServers.none: has neither",
        "c.json:10: mcpServers.bad.args: a string where a list is expected; the server is left out",
        "c.json:12: mcpServers.text: a string where an object is expected",
        "c.json:13: mcpServers.self: this is Seawall itself",
        "c.json:14: mcpServers.us: this is Seawall itself",
        "c.json:15: mcpServers.odd.disabled: a string is neither",
        "c.json:15: mcpServers.odd.timeout: not a number",
    ] {
        assert!(notes.iter().any(|note| note.starts_with(begin)), "no {begin} in {notes:#?}");
    }
}

#[test]
fn foreign_names_give_way_and_equal_servers_are_one() {
    let own = "[servers.time]\ncommand = \"uvx\"\nargs = [\"time\"]";
    let first = r#"{"mcpServers": {"Time": {"command": "other"},
        "clock": {"command": "uvx", "args": ["time"]},
        "fetch": {"command": "fetch", "disabled": true}}}"#;
    let second = r#"{"mcpServers": {"time": {"command": "third"}, "fetch": {"command": "fetch"}}}"#;
    let (config, notes) = with_foreign(own, &[("a.json", first), ("b.json", second)]);
    assert_eq!(names(&config), ["time", "Time-2", "fetch", "time-3"]);
    assert!(config.upstreams[2].enabled, "one client uses it");
    for begin in [
        "a.json:1: mcpServers.Time: the name is taken by another server: used as `Time-2`",
        "a.json:2: mcpServers.clock: the same server as `time`",
        "b.json:1: mcpServers.time: the name is taken by another server: used as `time-3`",
        "b.json:1: mcpServers.fetch: the same server as `fetch`",
    ] {
        assert!(notes.iter().any(|note| note.starts_with(begin)), "no {begin} in {notes:#?}");
    }
}

#[test]
fn a_foreign_file_that_cannot_be_read_is_one_fault_beside_ours() {
    let given = Given {
        foreign: &[
            ("a.json", "{\n\"mcpServers\": {\n  \"x\" {}\n}}"),
            ("b.json", "[]"),
            ("c.json", "{\n\"servers\": {}}"),
            ("d.json", "{\"mcpServers\": 3}"),
        ],
        ..Given::default()
    };
    let found = lines(&lowered(Some("\ncolour = 1"), &given).expect_err("faults"));
    let begins = [
        "seawall.toml:2: colour: unknown key",
        "a.json:3: not valid JSON",
        "b.json:1: a list where an object",
        "c.json:2: servers: the format of another client",
        "d.json:1: mcpServers: a number where an object",
    ];
    assert_eq!(found.len(), begins.len(), "{found:#?}");
    for (fault, begin) in found.iter().zip(begins) {
        assert!(fault.starts_with(begin), "{fault}\ndoes not begin with\n{begin}");
    }
    let (config, notes) = with_foreign("", &[("e.json", "{}")]);
    assert!(config.upstreams.is_empty() && notes[0].starts_with("e.json:1: names no servers"), "{notes:?}");
}

#[test]
fn json_keeps_its_lines_and_its_strings() {
    let text =
        "\u{feff}{\"a\": \"// no /* ,}\\\"\", // yes ü\n/* two\n** lines */ \"b\": [1, 2, /* end */ ], }";
    let strict = json::strict(text);
    assert_eq!(strict.lines().count(), text.lines().count());
    let members = json::Json::parse(&strict).unwrap().members().unwrap();
    assert_eq!(members[0].1.text().as_deref(), Some("// no /* ,}\""));
    assert_eq!((members[1].0.as_str(), members[1].1.line()), ("b", 3));
    assert_eq!(members[1].1.elements().unwrap().len(), 2);
    assert!(json::Json::parse(&json::strict("{\"a\": /* open")).is_err());
}
