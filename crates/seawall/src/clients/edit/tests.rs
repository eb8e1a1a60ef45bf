use super::*;
use serde_json::json;

const SERVERS: Shape = Shape { format: Format::Jsonc, root: "mcpServers", list: false };
const CODEX: Shape = Shape { format: Format::Toml, root: "mcp_servers", list: false };
const GOOSE: Shape = Shape { format: Format::Yaml, root: "extensions", list: false };
const LIST: Shape = Shape { format: Format::Yaml, root: "mcpServers", list: true };

fn fields() -> Fields {
    vec![("command", json!("/s")), ("args", json!(["stdio"]))]
}

fn put_in(shape: Shape, text: &str) -> String {
    set(shape, text, "seawall", &fields()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn json_keeps_its_layout() {
    let cases = [
        (
            "{}",
            "{\n  \"mcpServers\": {\n    \"seawall\": {\n      \"command\": \"/s\",\n      \"args\": [\"stdio\"]\n    }\n  }\n}",
        ),
        (r#"{"mcpServers":{}}"#, r#"{"mcpServers":{ "seawall": { "command": "/s", "args": ["stdio"] } }}"#),
        (
            r#"{"mcpServers":{"a":{}}, "b": 1}"#,
            r#"{"mcpServers":{"a":{}, "seawall": { "command": "/s", "args": ["stdio"] }}, "b": 1}"#,
        ),
        (
            "{\n\t\"mcpServers\": {\n\t\t\"a\": {}, // last\n\t\t// end\n\t},\n}",
            "{\n\t\"mcpServers\": {\n\t\t\"a\": {}, // last\n\t\t\"seawall\": {\n\t\t\t\"command\": \"/s\",\n\t\t\t\"args\": [\"stdio\"]\n\t\t},\n\t\t// end\n\t},\n}",
        ),
        (
            "{\r\n  \"mcpServers\": {\r\n    \"a\": {} // last\r\n  }\r\n}\r\n",
            "{\r\n  \"mcpServers\": {\r\n    \"a\": {}, // last\r\n    \"seawall\": {\r\n      \"command\": \"/s\",\r\n      \"args\": [\"stdio\"]\r\n    }\r\n  }\r\n}\r\n",
        ),
    ];
    for (before, after) in cases {
        assert_eq!(put_in(SERVERS, before), after);
    }
}

#[test]
fn what_was_put_in_can_be_taken_out() {
    for before in [
        "{\n  \"mcpServers\": {\n    \"a\": {}\n  }\n}\n",
        "{\r\n  \"mcpServers\": {\r\n    \"a\": {}, // last\r\n  }\r\n}\r\n",
        r#"{"mcpServers":{"a":{}}, "b": 1}"#,
        "\u{feff}{\n  \"mcpServers\": {\n    \"a\": {}\n  }\n}\n",
    ] {
        assert_eq!(remove(SERVERS, &put_in(SERVERS, before), "seawall").unwrap(), before);
    }
    for before in [
        "model = \"x\" # mine\r\n\r\n[mcp_servers.a]\r\ncommand = \"b\"\r\n",
        "[mcp_servers.a]\ncommand = \"b\"\n",
    ] {
        assert_eq!(remove(CODEX, &put_in(CODEX, before), "seawall").unwrap(), before);
    }
    let goose = "a: 1\nextensions:\n    b: # mine\n        cmd: x\n\n# end\nz: 2\n";
    assert_eq!(remove(GOOSE, &put_in(GOOSE, goose), "seawall").unwrap(), goose);
}

#[test]
fn what_was_taken_out_is_put_back_in_its_own_words() {
    let text = "{\n  \"mcpServers\": {\n    \"a\": {},\n    \"b\": { /* mine */ \"url\": \"u\" }\n  }\n}\n";
    let old = entries(SERVERS, text).unwrap().pop().unwrap();
    assert_eq!(restore(SERVERS, &remove(SERVERS, text, "b").unwrap(), "b", &old.1).unwrap(), text);

    let text = "[mcp_servers.a]\ncommand = \"x\"\n\n[mcp_servers.b]\ncommand = \"y\" # mine\n";
    let old = entries(CODEX, text).unwrap().pop().unwrap();
    assert_eq!(restore(CODEX, &remove(CODEX, text, "b").unwrap(), "b", &old.1).unwrap(), text);

    // Within another table's lines its words have no place by themselves, so that ours stand in.
    let text = "[mcp_servers]\nb = { command = \"y\" }\n\n[z]\n";
    let old = entries(CODEX, text).unwrap().pop().unwrap();
    let back = restore(CODEX, &remove(CODEX, text, "b").unwrap(), "b", &old.1).unwrap();
    assert_eq!(entries(CODEX, &back).unwrap()[0].1.value, old.1.value);
}

#[test]
fn an_entry_is_replaced_where_it_stands() {
    let text = "{\n  \"mcpServers\": {\n    \"seawall\": {\"url\": \"u\"}, // ours\n    \"b\": {}\n  }\n}\n";
    let after = put_in(SERVERS, text);
    assert!(after.contains("}, // ours\n    \"b\": {}"), "{after}");
    let text =
        "[mcp_servers.seawall]\nurl = \"u\"\n[mcp_servers.seawall.env]\nA = \"b\"\n\n[mcp_servers.b]\n";
    assert_eq!(
        put_in(CODEX, text),
        "[mcp_servers.seawall]\ncommand = \"/s\"\nargs = [\"stdio\"]\n\n[mcp_servers.b]\n"
    );
    let text = "mcpServers:\n- name: seawall\n  url: u\n- name: b\n  url: v\n";
    let fields = [vec![("name", json!("seawall"))], fields()].concat();
    let after = set(LIST, text, "seawall", &fields).unwrap();
    assert_eq!(after, "mcpServers:\n- name: seawall\n  command: /s\n  args: [stdio]\n- name: b\n  url: v\n");
}

#[test]
fn yaml_without_servers_gets_them() {
    let entry = "  seawall:\n    command: /s\n    args: [stdio]\n";
    for (before, after) in [
        ("", format!("extensions:\n{entry}")),
        ("a: 1", format!("a: 1\nextensions:\n{entry}")),
        ("extensions: {} # none\na: 1\n", format!("extensions: # none\n{entry}a: 1\n")),
        ("extensions:\na: 1\n", format!("extensions:\n{entry}a: 1\n")),
    ] {
        assert_eq!(put_in(GOOSE, before), after);
    }
    assert!(set(GOOSE, "extensions: {b: {cmd: x}}\n", "seawall", &fields()).is_err());
}

#[test]
fn what_cannot_be_read_is_refused() {
    for (shape, text) in [
        (SERVERS, "{\"mcpServers\": {"),
        (SERVERS, "{\"mcpServers\": []}"),
        (SERVERS, "{\"mcpServers\": {}, \"mcpServers\": {}}"),
        (Shape { format: Format::Json, ..SERVERS }, "{} // remark"),
        (CODEX, "mcp_servers = { a = { command = \"x\" } }\n"),
        (CODEX, "[mcp_servers"),
        (GOOSE, "a: [1\n"),
        (GOOSE, "a: 1\n---\nb: 2\n"),
    ] {
        assert!(set(shape, text, "seawall", &fields()).is_err(), "{text}");
    }
}

#[test]
fn an_import_is_added_and_taken_back() {
    for (before, after) in [
        ("", "import = [\"p\"]\n"),
        ("[limits]\ntotal = 1\n", "import = [\"p\"]\n\n[limits]\ntotal = 1\n"),
        ("listen = \"x\" # here\n[limits]\n", "listen = \"x\" # here\nimport = [\"p\"]\n[limits]\n"),
        ("import = []\n", "import = [\"p\"]\n"),
        ("import = [\"a\"] # mine\n", "import = [\"a\", \"p\"] # mine\n"),
        ("import = [\n  \"a\",\n]\n", "import = [\n  \"a\",\n  \"p\",\n]\n"),
    ] {
        let added = toml::add_import(before, "p").unwrap();
        assert_eq!(added, after);
        assert_eq!(toml::add_import(&added, "p").unwrap(), after);
        let back = toml::remove_import(&added, "p").unwrap();
        assert!(!back.contains("\"p\""), "{back}");
        if before.contains("\"a\"") {
            assert_eq!(back, before);
        }
    }
}
