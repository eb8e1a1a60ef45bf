//! What a configuration says about itself: every fault with its line, and every knob with an effect.

use std::collections::HashMap;

use super::*;

mod foreign_files;
mod pool;
mod terms;
mod timeouts;

/// What a test may give besides the own file.
#[derive(Default)]
struct Given<'a> {
    foreign: &'a [(&'a str, &'a str)],
    environment: &'a [(&'a str, &'a str)],
    overrides: &'a [(&'a str, &'a str)],
}

fn lowered(own: Option<&str>, given: &Given<'_>) -> Result<(Config, Vec<Note>), Vec<ConfigFault>> {
    let environment: HashMap<_, _> = given.environment.iter().copied().collect();
    let source = |path: &str, text: &str| Source { path: PathBuf::from(path), text: text.to_owned() };
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    lower(&Sources {
        own: own.map(|text| source("seawall.toml", text)),
        foreign: given.foreign.iter().map(|(path, text)| source(path, text)).collect(),
        environment: &|name| environment.get(name).map(|value| (*value).to_owned()),
        overrides: given.overrides.iter().map(owned).collect(),
        state_default: PathBuf::from("/state"),
        base: PathBuf::from("/base"),
    })
}

fn config(text: &str) -> Config {
    lowered(Some(text), &Given::default()).unwrap_or_else(|faults| panic!("{}", lines(&faults).join("\n"))).0
}

fn lines(faults: &[ConfigFault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

fn faults(text: &str) -> Vec<String> {
    lines(&lowered(Some(text), &Given::default()).expect_err("a fault"))
}

/// The one fault of a text, which must stand where it begins and hold all the words.
#[track_caller]
fn refused(text: &str, begins: &str, words: &[&str]) {
    let faults = faults(text);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].starts_with(begins), "{}", faults[0]);
    for word in words {
        assert!(faults[0].contains(word), "no {word} in: {}", faults[0]);
    }
}

fn server(lines: &str) -> Upstream {
    let config = config(&format!("[servers.x]\n{lines}"));
    Upstream::clone(&config.upstreams[0])
}

fn names(config: &Config) -> Vec<&str> {
    config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect()
}

const HASH: &str = "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

#[test]
fn defaults_are_what_the_embedded_file_shows() {
    let shown: String = DEFAULT
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(shown.contains("\nlisten ="), "the keys are comments");
    assert_eq!(config(&shown), config(""));
    let embedded = Config::default_for(PathBuf::from("/state"));
    assert_eq!(embedded, config(""));
    assert_eq!(embedded.listen.to_string(), "127.0.0.1:8079");
    assert_eq!(embedded.state, Path::new("/state"));
    assert_eq!(embedded.grace, Duration::from_secs(10));
    assert_eq!(embedded.limits.message, 16 * 1024 * 1024);
    assert!(embedded.upstreams.is_empty() && embedded.callers.is_empty());
}

#[test]
fn every_key_of_the_daemon_has_an_effect() {
    let config = config(&format!(
        r#"
        listen = "0.0.0.0:9000"
        allowed_hosts = ["box.example.com"]
        allowed_origins = ["https://app.example.com"]
        state = "var"
        grace = "0s"
        import = ["other.json"]
        [callers.alice]
        token = "{HASH}"
        tools = ["time__*"]
        [limits]
        total = 8
        caller = 7
        conversation = 6
        queue = 0
        share = 1
        sessions = 5
        session_idle = "1h30m"
        message = "512KiB"
        processes = 9
        "#
    ));
    assert_eq!(config.listen.to_string(), "0.0.0.0:9000");
    assert_eq!(config.allowed_hosts, ["box.example.com"]);
    assert_eq!(config.allowed_origins, ["https://app.example.com"]);
    assert_eq!(config.state, Path::new("/base/var"));
    assert_eq!(config.grace, Duration::ZERO);
    let alice = &config.callers[0];
    assert_eq!((alice.name.as_str(), alice.tools.as_slice()), ("alice", &["time__*".to_owned()][..]));
    assert_eq!((alice.token_sha256[1], alice.token_sha256[31]), (1, 0xff));
    let limits = Limits {
        total: 8,
        caller: 7,
        conversation: 6,
        queue: 0,
        share: 1.0,
        sessions: 5,
        session_idle: Duration::from_secs(5400),
        message: 512 * 1024,
        processes: 9,
        conversation_share: 1.0,
        ..Config::default_for(PathBuf::new()).limits
    };
    assert_eq!(config.limits, limits);
}

#[test]
fn every_key_of_a_program_has_an_effect() {
    let upstream = server(
        r#"
        command = "uvx"
        args = ["mcp-server-time", "--utc"]
        env = { TZ = "UTC" }
        cwd = "work"
        enabled = false
        sharing = "everyone"
        era = "legacy"
        timeout = "90s"
        start_timeout = "2m"
        list_timeout = "250ms"
        limit = 4
        trust_hints = false
        stop_grace = "0s"
        [servers.x.tools.now]
        effects = "none"
        timeout = "1s"
        [servers.x.tools."set zone"]
        effects = "idempotent"
        "#,
    );
    let kind = Kind::Stdio {
        command: "uvx".to_owned(),
        args: vec!["mcp-server-time".to_owned(), "--utc".to_owned()],
        env: BTreeMap::from([("TZ".to_owned(), Secret::new("UTC"))]),
        cwd: Some(PathBuf::from("/base/work")),
    };
    assert_eq!(upstream.kind, kind);
    assert!(!upstream.enabled && !upstream.trust_hints);
    assert_eq!(upstream.sharing, Sharing::Everyone);
    assert_eq!(Ok(upstream.era), "legacy".parse::<Pin>());
    assert_eq!(upstream.timeout, Duration::from_secs(90));
    assert_eq!(upstream.start_timeout, Duration::from_secs(120));
    assert_eq!(upstream.list_timeout, Duration::from_millis(250));
    assert_eq!(upstream.limit, NonZeroUsize::new(4));
    assert_eq!(upstream.stop_grace, Duration::ZERO);
    let now = ToolConfig {
        effects: Some(Effects::None),
        timeout: Some(Duration::from_secs(1)),
        ..ToolConfig::default()
    };
    assert_eq!(upstream.tools["now"], now);
    assert_eq!(upstream.tools["set zone"].effects, Some(Effects::Idempotent));
}

#[test]
fn a_program_needs_no_more_than_its_command() {
    let upstream = server("command = './bin/tool'");
    let Kind::Stdio { command, args, env, cwd } = &upstream.kind else { panic!("{:?}", upstream.kind) };
    assert_eq!(command, "/base/./bin/tool");
    assert!(args.is_empty() && env.is_empty() && cwd.is_none());
    assert_eq!(upstream, Upstream::new("x".to_owned(), upstream.kind.clone()));
    assert_eq!(upstream.timeout, Duration::from_secs(50));
    assert_eq!(upstream.start_timeout, Duration::from_secs(60));
    assert_eq!(upstream.list_timeout, Duration::from_secs(10));
    assert_eq!(upstream.stop_grace, Duration::from_secs(2));
    assert!(upstream.enabled && upstream.trust_hints && upstream.limit.is_none());
    assert_eq!(upstream.sharing, Sharing::Session);
    assert_eq!(upstream.era, Pin::default());
}

#[test]
fn every_key_of_a_url_has_an_effect() {
    let upstream = server(
        r#"
        url = "https://example.com/mcp"
        headers = { X-Second = "2", Authorization = "Bearer x" }
        ca_file = "ca.pem"
        "#,
    );
    let headers = vec![
        ("X-Second".to_owned(), Secret::new("2")),
        ("Authorization".to_owned(), Secret::new("Bearer x")),
    ];
    let kind = Kind::Http {
        transport: Transport::Streamable,
        url: "https://example.com/mcp".to_owned(),
        headers,
        ca_file: Some(PathBuf::from("/base/ca.pem")),
    };
    assert_eq!(upstream.kind, kind);
}

#[test]
fn a_login_is_as_a_client_that_may_be_configured() {
    let url = "url = \"https://example.com/mcp\"\n";
    let plain = server(url);
    assert_eq!(plain.oauth, None);
    let given = Given { environment: &[("SECRET", "s")], ..Given::default() };
    let text = format!(
        "[servers.x]\n{url}oauth = {{ client_id = \"me\", client_secret = \"${{SECRET}}\", scopes = [\"a\"] }}"
    );
    let (config, _) = lowered(Some(&text), &given).unwrap();
    let oauth = OAuth {
        client_id: Some("me".to_owned()),
        client_secret: Some(Secret::new("s")),
        client_metadata: None,
        scopes: vec!["a".to_owned()],
    };
    assert_eq!(config.upstreams[0].oauth, Some(oauth));
    assert_ne!(config.upstreams[0].key(), plain.key(), "another client is another login");

    let of_url = "[servers.x]\nurl = \"https://example.com/mcp\"\n";
    for (line, word) in [
        ("oauth = { client_secret = \"s\" }", "client_id"),
        ("oauth = { client_metadata = \"https://example.com\" }", "with a path"),
        ("oauth = { scopes = [\"a b\"] }", "not a scope"),
        ("oauth = { scope = \"a\" }", "write `scopes`"),
        ("oauth = { client_id = \"\" }", "is empty"),
        ("headers = { authorization = \"x\" }\noauth = {}", "no use beside"),
    ] {
        refused(&format!("{of_url}{line}"), "seawall.toml:", &["servers.x.oauth", word]);
    }
    refused("[servers.x]\ncommand = \"x\"\noauth = {}", "seawall.toml:3:", &["beside `command`"]);
}

#[test]
fn everything_wrong_is_said_at_once_in_the_order_of_the_lines() {
    let found = faults(
        r#"listen = "localhost"
colour = 1
[limits]
total = 0
queue = "many"
[servers.x]
comand = "uvx"
timeout = 50
[servers.y]
command = "uvx"
args = [
  "one",
  2,
]
[servers.y.tools.now]
effects = "write"
"#,
    );
    let begins = [
        "seawall.toml:1: listen: \"localhost\" is not an address",
        "seawall.toml:2: colour: unknown key",
        "seawall.toml:4: limits.total: 0 ",
        "seawall.toml:5: limits.queue: \"many\" is not a whole number",
        "seawall.toml:6: servers.x: has neither",
        "seawall.toml:7: servers.x.comand: unknown key: did you mean `command`?",
        "seawall.toml:8: servers.x.timeout: 50 has no unit: add one, such as \"50s\"",
        "seawall.toml:13: servers.y.args[1]: 2 is not a string",
        "seawall.toml:16: servers.y.tools.now.effects: \"write\" is not known: did you mean \"writes\"?",
    ];
    assert_eq!(found.len(), begins.len(), "{found:#?}");
    for (fault, begin) in found.iter().zip(begins) {
        assert!(fault.starts_with(begin), "{fault}\ndoes not begin with\n{begin}");
    }
}

#[test]
fn syntax_that_cannot_be_read_names_its_line() {
    refused("listen = \"127.0.0.1:1\"\n[limits\ntotal = 1\n", "seawall.toml:2: not valid TOML", &[]);
    let found = faults("grace = \"1s\"\ngrace = \"2s\"\n[limits]\ntotal = 0\n");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("seawall.toml:2: grace: stands twice"), "{}", found[0]);
    assert!(found[1].starts_with("seawall.toml:4: limits.total"), "{}", found[1]);
}

#[test]
fn the_daemon_is_not_opened_to_the_world_without_callers() {
    refused(
        "\nlisten = \"0.0.0.0:80\"",
        "seawall.toml:2: listen: \"0.0.0.0:80\"",
        &["seawall token", "127.0.0.1"],
    );
    assert_eq!(config("listen = \"[::1]:80\"").listen.to_string(), "[::1]:80");
    let given = Given { overrides: &[("SEAWALL_LISTEN", "0.0.0.0:80")], ..Given::default() };
    let found = lines(&lowered(None, &given).expect_err("a fault"));
    assert!(found[0].starts_with("environment: SEAWALL_LISTEN: \"0.0.0.0:80\""), "{}", found[0]);
}

#[test]
fn callers_are_checked() {
    refused("[callers.a]", "seawall.toml:1: callers.a: has no `token`", &["seawall token a"]);
    refused(
        "[callers.a]\ntoken = \"s3cret\"",
        "seawall.toml:2: callers.a.token: this string",
        &["seawall token a"],
    );
    assert!(!faults("[callers.a]\ntoken = \"s3cret\"")[0].contains("s3cret"));
    let bad_digit = HASH.replace("ff", "fg");
    refused(&format!("[callers.a]\ntoken = \"{bad_digit}\""), "seawall.toml:2:", &["64 hex digits"]);
    let entry = |name: &str| format!("[callers.{name}]\ntoken = \"{HASH}\"\n");
    refused(&(entry("a") + &entry("b")), "seawall.toml:4: callers.b.token:", &["`a`"]);
    refused(&entry("\"a b\""), "seawall.toml:1: callers.\"a b\":", &["1 to 64"]);
    refused(&(entry("a") + "tools = [\"\"]"), "seawall.toml:3: callers.a.tools[0]:", &["pattern"]);
    refused(&(entry("a") + "tool = []"), "seawall.toml:3: callers.a.tool:", &["`tools`"]);
    assert_eq!(config(&entry("a")).callers[0].tools, ["*"]);
    assert!(config(&(entry("a") + "tools = []")).callers[0].tools.is_empty());
}

#[test]
fn hosts_origins_and_paths_are_checked() {
    refused("allowed_hosts = [\"http://a\"]", "seawall.toml:1: allowed_hosts[0]: \"http://a\"", &["scheme"]);
    refused("allowed_hosts = [\"*\"]", "seawall.toml:1: allowed_hosts[0]:", &["each name"]);
    refused("allowed_hosts = \"a\"", "seawall.toml:1: allowed_hosts: \"a\" is not a list", &[]);
    refused("allowed_origins = [\"https://a/\"]", "seawall.toml:1: allowed_origins[0]:", &["after the host"]);
    refused("allowed_origins = [\"a.example\"]", "seawall.toml:1: allowed_origins[0]:", &["scheme and host"]);
    refused("allowed_origins = [\"*\"]", "seawall.toml:1: allowed_origins[0]:", &["each origin"]);
    refused("state = \"\"", "seawall.toml:1: state:", &["/var/lib"]);
    refused("import = [\"\"]", "seawall.toml:1: import[0]:", &["a path"]);
}

#[test]
fn durations_need_units_and_sense() {
    refused("grace = 10", "seawall.toml:1: grace: 10 has no unit", &["\"10s\""]);
    refused("grace = 1.5", "seawall.toml:1: grace: 1.5 is not a string", &["\"50s\""]);
    for bad in ["", "10", "s", "10 s", "-1s", "30m1h", "1h1h", "1.5s", "5 minutes", "99999999999999999999s"] {
        refused(&format!("grace = \"{bad}\""), "seawall.toml:1: grace:", &[bad, "such as"]);
    }
    refused("grace = \"9000h\"", "seawall.toml:1: grace:", &["a year", "8760h"]);
    assert_eq!(config("grace = \"1h30m5s250ms\"").grace, Duration::from_millis(5_405_250));
    for key in ["start_timeout", "list_timeout"] {
        let text = format!("[servers.x]\ncommand = \"a\"\n{key} = \"0s\"");
        refused(&text, &format!("seawall.toml:3: servers.x.{key}: \"0s\""), &["write how long", "\"24h\""]);
    }
}

#[test]
fn limits_need_room_and_order() {
    for key in ["total", "caller", "conversation", "sessions", "message"] {
        refused(&format!("[limits]\n{key} = 0"), &format!("seawall.toml:2: limits.{key}: 0 "), &["write"]);
    }
    refused("[limits]\nsession_idle = \"0s\"", "seawall.toml:2: limits.session_idle:", &["write how long"]);
    refused("[limits]\ntotal = -1", "seawall.toml:2: limits.total: -1", &["1 or more"]);
    refused("[limits]\nqueue = 5_000_000_000", "seawall.toml:2: limits.queue: 5000000000", &["at most"]);
    for bad in ["0", "0.0", "-0.5", "1.01", "nan", "\"half\""] {
        refused(
            &format!("[limits]\nshare = {bad}"),
            "seawall.toml:2: limits.share:",
            &["above 0 and at most 1"],
        );
    }
    for bad in ["\"16MB\"", "\"MiB\"", "true", "-1"] {
        refused(&format!("[limits]\nmessage = {bad}"), "seawall.toml:2: limits.message:", &["MiB\""]);
    }
    assert_eq!(config("[limits]\nmessage = 1000").limits.message, 1000);
    assert_eq!(config("[limits]\nmessage = \"1GiB\"").limits.message, 1 << 30);
    refused(
        "[limits]\ntotal = 8\ncaller = 9",
        "seawall.toml:3: limits.caller: `limits.caller` = 9 is above `limits.total` = 8",
        &["lower", "raise"],
    );
    refused("[limits]\ncaller = 65", "seawall.toml:2: limits.caller:", &["`limits.total` = 64"]);
    refused("[limits]\nconversation = 33", "seawall.toml:2: limits.conversation:", &["`limits.caller` = 32"]);
}

#[test]
fn limits_left_at_their_defaults_give_way_to_those_around_them() {
    let limits = config("[limits]\ntotal = 8").limits;
    assert_eq!((limits.total, limits.caller, limits.conversation), (8, 8, 8));
    let limits = config("[limits]\ncaller = 10").limits;
    assert_eq!((limits.total, limits.caller, limits.conversation), (64, 10, 10));
}

#[test]
fn a_server_is_a_program_or_a_url() {
    refused("[servers.x]", "seawall.toml:1: servers.x: has neither `command` nor `url`", &["write"]);
    refused(
        "[servers.x]\ncommand = \"a\"\nurl = \"http://a\"",
        "seawall.toml:3: servers.x.url: stands beside `command`",
        &["remove one"],
    );
    refused("[servers.x]\ncommand = \"\"", "seawall.toml:2: servers.x.command: \"\" is empty", &[]);
    refused("[servers.x]\ncommand = [\"a\"]", "seawall.toml:2: servers.x.command: this array is not", &[]);
    refused("servers.x = 3", "seawall.toml:1: servers.x: 3 is not a table", &["[servers.x]"]);
    refused("servers = 3", "seawall.toml:1: servers: 3 is not a table", &[]);
}

#[test]
fn knobs_without_use_are_refused() {
    for line in ["headers = { A = \"b\" }", "ca_file = \"a.pem\""] {
        let key = line.split(' ').next().unwrap();
        let text = format!("[servers.x]\ncommand = \"a\"\n{line}");
        refused(
            &text,
            &format!("seawall.toml:3: servers.x.{key}: has no use beside `command`"),
            &["remove it"],
        );
    }
    for line in ["args = [\"a\"]", "env = { A = \"b\" }", "cwd = \"/\"", "stop_grace = \"1s\""] {
        let key = line.split(' ').next().unwrap();
        let text = format!("[servers.x]\nurl = \"http://a\"\n{line}");
        refused(&text, &format!("seawall.toml:3: servers.x.{key}: has no use beside `url`"), &["remove it"]);
    }
    let text = "[servers.x]\nurl = \"http://a\"\nca_file = \"a.pem\"";
    refused(text, "seawall.toml:3: servers.x.ca_file: has no use for a URL without TLS", &["https://"]);
}

#[test]
fn values_of_servers_are_checked() {
    let checks = [
        ("limit = 0", "limit: 0 ", "1 or more"),
        ("enabled = \"yes\"", "enabled: \"yes\" is neither", "true"),
        ("trust_hints = 1", "trust_hints: 1 is neither", "true"),
        ("sharing = \"sesion\"", "sharing: \"sesion\" is not known", "did you mean \"session\""),
        ("sharing = \"pool\"", "sharing: \"pool\" is not known", "\"everyone\""),
        ("era = \"Modern\"", "era: \"Modern\" is not known", "did you mean \"modern\""),
        ("env = { A = 1 }", "env.A: this integer is not a string", "in quotes"),
        ("env = { \"A=B\" = \"c\" }", "env.\"A=B\": not a variable's name", "="),
        ("disabled = true", "disabled: unknown key", "`enabled = false`"),
        ("type = \"stdio\"", "type: unknown key", "leave it out"),
        ("time_out = \"1s\"", "time_out: unknown key", "`timeout`"),
        ("whatever = 1", "whatever: unknown key", "start_timeout"),
        ("args = [\"a\\u0000\"]", "args[0]: holds a NUL", "remove it"),
    ];
    for (line, begins, word) in checks {
        let text = format!("[servers.x]\ncommand = \"a\"\n{line}");
        refused(&text, &format!("seawall.toml:3: servers.x.{begins}"), &[word]);
    }
}

#[test]
fn urls_and_headers_are_checked_without_showing_secrets() {
    for (url, word) in [
        ("example.com/mcp", "http"),
        ("ftp://example.com", "only http"),
        ("http://", "URL"),
        ("http://a b/", "https://example.com/mcp"),
        ("http://a:99999/", "65535"),
        ("http://me:s3cret@a/", "Authorization"),
    ] {
        let text = format!("[servers.x]\nurl = \"{url}\"");
        refused(&text, "seawall.toml:2: servers.x.url: ", &[word, "is not a usable URL"]);
        assert!(!faults(&text)[0].contains("s3cret"));
    }
    let shown = &faults("[servers.x]\nurl = \"ftp://a/?key=s3cret\"")[0];
    assert!(shown.contains("ftp://a/?…") && !shown.contains("s3cret"), "{shown}");
    let header = |line: &str| format!("[servers.x]\nurl = \"http://a\"\n[servers.x.headers]\n{line}");
    refused(&header("\"a b\" = \"c\""), "seawall.toml:4: servers.x.headers.\"a b\": not a header name", &[]);
    refused(
        &header("A = \"s3cret\\n\""),
        "seawall.toml:4: servers.x.headers.A: the value holds",
        &["remove"],
    );
    refused(
        &header("A = \"b\"\na = \"c\""),
        "seawall.toml:5: servers.x.headers.a: the same header as `A`",
        &[],
    );
    assert!(!faults(&header("A = \"s3cret\\n\""))[0].contains("s3cret"));
}

#[test]
fn names_of_servers_are_unique_and_plain() {
    for (name, tame) in [("\"a b\"", "a_b"), ("a__b", "a_b"), ("\"\"", "server"), ("\"café\"", "caf")] {
        let text = format!("[servers.{name}]\ncommand = \"a\"");
        refused(
            &text,
            &format!("seawall.toml:1: servers.{name}:"),
            &["1 to 32", &format!("such as {tame:?}")],
        );
    }
    refused(
        &format!("[servers.{}]\ncommand = \"a\"", "a".repeat(33)),
        "seawall.toml:1: servers.a",
        &["1 to 32"],
    );
    refused(
        "[servers.My-Server]\ncommand = \"a\"\n[servers.my_server]\ncommand = \"b\"",
        "seawall.toml:3: servers.my_server: the same name as \"My-Server\" in line 1",
        &["rename"],
    );
    let config = config("[servers.z]\ncommand = \"a\"\n[servers.a]\ncommand = \"b\"");
    assert_eq!(names(&config), ["z", "a"], "in the order of the file");
}

#[test]
fn variables_are_put_in_or_needed() {
    let text = r#"
        [servers.a]
        command = "${BIN}/run"
        args = ["${env:WORD}", "${UNSET:-fallback}", "${EMPTY:-full}", "${EMPTY}", "$${WORD} $WORD"]
        env = { KEY = "${MISSING}", OTHER = "x${MISSING}y${ALSO}" }
        cwd = "${BIN}"
        [servers.b]
        url = "https://${HOST}/mcp"
        headers = { Authorization = "Bearer ${WORD}" }
        [servers.c]
        url = "${NOWHERE}"
    "#;
    let environment = &[("BIN", "/opt"), ("WORD", "w"), ("EMPTY", ""), ("HOST", "a.example")];
    let given = Given { environment, ..Given::default() };
    let (config, _) = lowered(Some(text), &given).unwrap();
    let [a, b, c] = &config.upstreams[..] else { panic!("{:?}", config.upstreams) };
    let Kind::Stdio { command, args, cwd, .. } = &a.kind else { panic!("{:?}", a.kind) };
    assert_eq!(command, "/opt/run");
    assert_eq!(args, &["w", "fallback", "full", "", "${WORD} $WORD"]);
    assert_eq!(cwd.as_deref(), Some(Path::new("/opt")));
    assert_eq!(a.needs, ["MISSING", "ALSO"]);
    let Kind::Http { url, headers, .. } = &b.kind else { panic!("{:?}", b.kind) };
    assert_eq!((url.as_str(), headers[0].1.expose()), ("https://a.example/mcp", "Bearer w"));
    assert!(b.needs.is_empty());
    assert_eq!(c.needs, ["NOWHERE"], "what the URL will be is not known yet, so it is not judged");
}

#[test]
fn what_only_looks_like_a_variable_is_refused() {
    for (value, shown) in [
        ("${input:token}", "${input:token} is not a variable"),
        ("${}", "${} is not a variable"),
        ("${A:-${B}}", "is not a variable"),
        ("a ${open", "\"a ${open\" holds a ${ without its }"),
    ] {
        let text = format!("[servers.x]\ncommand = \"{value}\"");
        refused(&text, "seawall.toml:2: servers.x.command:", &[shown, "${NAME:-default}"]);
    }
    let secret = &faults("[servers.x]\ncommand = \"a\"\nenv = { A = \"${s3 cret}\" }")[0];
    assert!(!secret.contains("s3 cret"), "{secret}");
}

#[test]
fn variables_of_ours_override_keys() {
    let overrides = &[
        ("SEAWALL_LISTEN", "127.0.0.1:1"),
        ("SEAWALL_STATE", "there"),
        ("SEAWALL_GRACE", "1m"),
        ("SEAWALL_LIMITS_TOTAL", "6"),
        ("SEAWALL_LIMITS_CALLER", "5"),
        ("SEAWALL_LIMITS_CONVERSATION", "4"),
        ("SEAWALL_LIMITS_QUEUE", "0"),
        ("SEAWALL_LIMITS_SHARE", "0.25"),
        ("SEAWALL_LIMITS_SESSIONS", "3"),
        ("SEAWALL_LIMITS_SESSION_IDLE", "2m"),
        ("SEAWALL_LIMITS_MESSAGE", "1MiB"),
        ("SEAWALL_LIMITS_PROCESSES", "7"),
        ("SEAWALL_TOKEN", "x"),
        ("SEAWALL_LOG", "debug"),
        ("SEAWALL_CONFIG", "y"),
    ];
    let text = "listen = \"127.0.0.1:2\"\ngrace = \"1s\"\n[limits]\ntotal = 100";
    let (config, _) = lowered(Some(text), &Given { overrides, ..Given::default() }).unwrap();
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.state, Path::new("/base/there"));
    assert_eq!(config.grace, Duration::from_secs(60));
    let limits = Limits {
        total: 6,
        caller: 5,
        conversation: 4,
        queue: 0,
        share: 0.25,
        sessions: 3,
        session_idle: Duration::from_secs(120),
        message: 1 << 20,
        processes: 7,
        conversation_share: 0.25,
        ..Config::default_for(PathBuf::new()).limits
    };
    assert_eq!(config.limits, limits);
}

#[test]
fn variables_of_ours_are_checked_too() {
    for (name, value, words) in [
        ("SEAWALL_LIMIT_TOTAL", "1", ["did you mean", "SEAWALL_LIMITS_TOTAL?"]),
        ("SEAWALL_TOKENS", "1", ["did you mean", "SEAWALL_TOKEN?"]),
        ("SEAWALL_BANANA", "1", ["unknown variable", "SEAWALL_LISTEN"]),
        ("SEAWALL_LIMITS_TOTAL", "lots", ["\"lots\"", "whole number"]),
        ("SEAWALL_LIMITS_TOTAL", "0", ["0 ", "1 or more"]),
        ("SEAWALL_GRACE", "10", ["10 has no unit", "\"10s\""]),
    ] {
        let given = Given { overrides: &[(name, value)], ..Given::default() };
        let found = lines(&lowered(None, &given).expect_err("a fault"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(&format!("environment: {name}: ")), "{}", found[0]);
        assert!(words.iter().all(|word| found[0].contains(word)), "{}", found[0]);
    }
}

#[test]
fn a_key_tells_processes_apart_and_nothing_else() {
    let key = |lines: &str| server(lines).key();
    let plain = key("command = \"a\"");
    assert!(plain.len() == 64 && plain.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let same = "timeout = '1s'\nsharing = 'call'\nlimit = 1\ntrust_hints = false\nenabled = false";
    assert_eq!(plain, key(&format!("command = 'a'\n{same}")));
    let different = [
        "command = \"b\"",
        "command = \"a\"\nargs = [\"b\"]",
        "command = \"a\"\nargs = [\"bc\"]",
        "command = \"a\"\nargs = [\"b\", \"c\"]",
        "command = \"a\"\nenv = { B = \"c\" }",
        "command = \"a\"\nenv = { B = \"d\" }",
        "command = \"a\"\ncwd = \"/b\"",
        "command = \"a\"\nera = \"modern\"",
        "url = \"http://a\"",
        "url = \"http://a\"\nheaders = { B = \"c\" }",
        "url = \"https://a\"",
        "url = \"https://a\"\nca_file = \"/b\"",
    ];
    let mut keys: std::collections::BTreeSet<_> = different.iter().map(|lines| key(lines)).collect();
    keys.insert(plain);
    assert_eq!(keys.len(), different.len() + 1);
}

#[test]
fn secrets_do_not_show() {
    let upstream = server("command = \"a\"\nenv = { KEY = \"s3cret\" }");
    let shown = format!("{upstream:?}");
    assert!(shown.contains("Secret(…)") && !shown.contains("s3cret"), "{shown}");
    let source = Source { path: PathBuf::from("a"), text: "s3cret".to_owned() };
    assert!(!format!("{source:?}").contains("s3cret"));
}
