//! The chain of time-outs: what each comes to, where it is from, and what cannot be.

use super::*;
use proptest::{option, prelude::*};

fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The chain of the first server, or of one of its tools: milliseconds and where they are from.
fn links(config: &Config, tool: Option<&str>) -> Vec<(u128, String)> {
    let chain = chain(config, &config.upstreams[0], tool);
    let names = chain.links.iter().map(|link| link.name).collect::<Vec<_>>();
    assert_eq!(names, ["attempt", "tool", "daemon", "bridge", "client"]);
    let link = |link: &Link| (link.value.unwrap_or_default().as_millis(), link.from.to_string());
    chain.links.iter().map(link).collect()
}

#[track_caller]
fn comes_to(text: &str, tool: Option<&str>, expected: [(u128, &str); 5]) {
    let expected = expected.map(|(milliseconds, from)| (milliseconds, from.to_owned()));
    assert_eq!(links(&config(text), tool), expected, "{text}");
}

const X: &str = "[servers.x]\ncommand = \"a\"\n";

#[test]
fn each_default_is_computed_from_the_longest_time_of_any_tool() {
    let default = [
        (0, "default"),
        (50_000, "default"),
        (75_000, "1.5 × default"),
        (100_000, "2.0 × default"),
        (125_000, "2.5 × default"),
    ];
    comes_to(X, None, default);
    comes_to(X, Some("t"), default);
    let two = format!(
        "{X}timeout = \"45s\"\n[servers.y]\ncommand = \"b\"\n[servers.y.tools.t]\ntimeout = \"333ms\""
    );
    let expected = [
        (0, "default"),
        (45_000, "servers.x.timeout"),
        (75_000, "1.5 × default"),
        (100_000, "2.0 × default"),
        (125_000, "2.5 × default"),
    ];
    comes_to(&two, None, expected);
    let off = "[servers.y]\ncommand = \"b\"\nenabled = false\ntimeout = \"1h\"\n";
    let odd = format!("{X}timeout = \"333ms\"\n[servers.x.tools.t]\ntimeout = \"251ms\"\n{off}");
    let expected = [
        (0, "default"),
        (333, "servers.x.timeout"),
        (500, "1.5 × servers.x.timeout"),
        (666, "2.0 × servers.x.timeout"),
        (833, "2.5 × servers.x.timeout"),
    ];
    comes_to(&odd, None, expected);
    let expected = [
        (0, "default"),
        (251, "servers.x.tools.t.timeout"),
        (500, "1.5 × servers.x.timeout"),
        (666, "2.0 × servers.x.timeout"),
        (833, "2.5 × servers.x.timeout"),
    ];
    comes_to(&odd, Some("t"), expected);
    let short = config(&format!("{X}timeout = \"1ms\""));
    let short: Vec<_> = links(&short, None).into_iter().map(|(milliseconds, _)| milliseconds).collect();
    assert_eq!(short, [0, 1, 2, 3, 4], "rounded so that none fails its own check");
}

#[test]
fn what_was_set_holds_and_names_its_key() {
    let text = format!(
        "{X}attempt_timeout = \"1s\"\ntimeout = \"10s\"\n[servers.x.tools.\"a b\"]\ntimeout = \"20s\"\nclass = \"web\"\n\
         [timeouts]\ndaemon = \"30s\"\nbridge = \"40s\"\nclient = \"50s\"\nclasses = {{ web = \"15s\" }}"
    );
    let outer = [(30_000, "timeouts.daemon"), (40_000, "timeouts.bridge"), (50_000, "timeouts.client")];
    let [daemon, bridge, client] = outer;
    let server = [(1000, "servers.x.attempt_timeout"), (10_000, "servers.x.timeout"), daemon, bridge, client];
    comes_to(&text, None, server);
    let tool = [
        (15_000, "timeouts.classes.web"),
        (20_000, "servers.x.tools.\"a b\".timeout"),
        daemon,
        bridge,
        client,
    ];
    comes_to(&text, Some("a b"), tool);
    let config = config(&text);
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.tools["a b"].class.as_deref(), Some("web"));
    assert_eq!(upstream.terms_of("a b").attempt_timeout, Some(milliseconds(15_000)));
    assert_eq!(config.timeouts.daemon, Some(milliseconds(30_000)));
    assert_eq!(config.timeouts.bridge, Some(milliseconds(40_000)));
    assert_eq!(config.timeouts.client, Some(milliseconds(50_000)));
    assert_eq!(config.timeouts.classes, BTreeMap::from([("web".to_owned(), milliseconds(15_000))]));
    let shown = chain(&config, upstream, Some("a b"));
    assert_eq!(shown.to_string(), "attempt 15s < tool 20s < daemon 30s < bridge 40s < client 50s");
    assert_eq!(
        shown.to_json()[2],
        serde_json::json!({"link": "daemon", "ms": 30_000, "from": "timeouts.daemon"})
    );
    assert_eq!(config.timeouts.outer()[..], shown.links[2..]);
}

#[test]
fn variables_set_time_outs_too() {
    let overrides = &[
        ("SEAWALL_TIMEOUTS_DAEMON", "60s"),
        ("SEAWALL_TIMEOUTS_BRIDGE", "0s"),
        ("SEAWALL_TIMEOUTS_CLIENT", "70s"),
    ];
    let (config, _) = lowered(Some(X), &Given { overrides, ..Given::default() }).unwrap();
    let found: Vec<_> = links(&config, None).into_iter().skip(2).collect();
    let expected =
        [(60_000, "SEAWALL_TIMEOUTS_DAEMON"), (0, "timeouts.bridge"), (70_000, "SEAWALL_TIMEOUTS_CLIENT")];
    assert_eq!(found, expected.map(|(milliseconds, from)| (milliseconds, from.to_owned())));
    let shown = chain(&config, &config.upstreams[0], None).to_string();
    assert_eq!(shown, "tool 50s < daemon 60s < bridge without limit < client 70s");
}

#[test]
fn zero_is_no_limit_of_its_own_and_the_daemon_bounds_the_call() {
    let text =
        format!("{X}timeout = \"0s\"\n[servers.x.tools.t]\ntimeout = \"80s\"\n[servers.x.tools.free]\n");
    let config = config(&text);
    let upstream = &config.upstreams[0];
    for (tool, expected) in [(None, 120_000), (Some("free"), 120_000), (Some("t"), 80_000)] {
        assert_eq!(config.timeout_of(upstream, tool), milliseconds(expected), "{tool:?}");
    }
    let chain = chain(&config, upstream, None);
    assert_eq!((chain.links[1].value, &*chain.links[1].from), (None, "servers.x.timeout"));
    let freed = super::config(&format!("{X}timeout = \"9s\"\n[servers.x.tools.t]\ntimeout = \"0s\""));
    assert_eq!(freed.timeout_of(&freed.upstreams[0], Some("t")), milliseconds(13_500));
    refused(
        "[timeouts]\ndaemon = \"0s\"",
        "seawall.toml:2: timeouts.daemon: \"0s\" leaves no time at all",
        &["write"],
    );
}

#[test]
fn a_default_gives_way_to_what_was_set() {
    // The daemon's is farther in than a tool's default.
    let text = format!("{X}[timeouts]\ndaemon = \"30s\"");
    let expected = [
        (0, "default"),
        (30_000, "timeouts.daemon"),
        (30_000, "timeouts.daemon"),
        (100_000, "2.0 × default"),
        (125_000, "2.5 × default"),
    ];
    comes_to(&text, None, expected);
    // It is farther out than the bridge's and the client's defaults.
    let text = format!("{X}[timeouts]\ndaemon = \"300s\"");
    let expected = [
        (0, "default"),
        (50_000, "default"),
        (300_000, "timeouts.daemon"),
        (400_000, "4/3 × timeouts.daemon"),
        (500_000, "5/4 × timeouts.bridge"),
    ];
    comes_to(&text, None, expected);
    // The client's is farther in than the defaults of the daemon and the bridge.
    let text = format!("{X}[timeouts]\nclient = \"70s\"");
    let expected = [
        (0, "default"),
        (50_000, "default"),
        (60_000, "below timeouts.client"),
        (65_000, "below timeouts.client"),
        (70_000, "timeouts.client"),
    ];
    comes_to(&text, None, expected);
    // An attempt has more time than a tool has by default.
    let text = format!("{X}class = \"web\"\n[timeouts.classes]\nweb = \"300s\"");
    let expected = [
        (300_000, "timeouts.classes.web"),
        (450_000, "1.5 × timeouts.classes.web"),
        (675_000, "1.5 × 1.5 × timeouts.classes.web"),
        (900_000, "2.0 × 1.5 × timeouts.classes.web"),
        (1_125_000, "2.5 × 1.5 × timeouts.classes.web"),
    ];
    comes_to(&text, None, expected);
}

#[test]
fn a_time_of_another_clients_file_is_cut_and_never_refused() {
    let file = r#"{"mcpServers":{"slow":{"command":"a","timeout":600000}}}"#;
    let foreign = &[("/home/.mcp.json", file)];
    let cap = "[timeouts]\ndaemon = \"60s\"";
    for (own, expected) in [("", 600_000), (cap, 60_000)] {
        let (config, _) = lowered(Some(own), &Given { foreign, ..Given::default() }).unwrap();
        assert_eq!(config.timeout_of(&config.upstreams[0], None), milliseconds(expected), "{own:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_both_keys_and_their_lines() {
    let tool = "[servers.x.tools.t]\n";
    for (lines, begins, words) in [
        (
            "timeout = \"60s\"\n[timeouts]\ndaemon = \"60s\"".to_owned(),
            "seawall.toml:3: servers.x.timeout: `servers.x.timeout` = 60s is not below `timeouts.daemon` = 60s",
            ["line 5", "lower the one or raise the other"],
        ),
        (
            "attempt_timeout = \"50s\"\ntimeout = \"50s\"".to_owned(),
            "seawall.toml:3: servers.x.attempt_timeout: ",
            ["`servers.x.timeout` = 50s", "line 4"],
        ),
        (
            format!("timeout = \"5s\"\n{tool}attempt_timeout = \"6s\""),
            "seawall.toml:5: servers.x.tools.t.attempt_timeout: ",
            ["`servers.x.timeout` = 5s", "line 3"],
        ),
        (
            format!("attempt_timeout = \"6s\"\n{tool}timeout = \"5s\""),
            "seawall.toml:3: servers.x.attempt_timeout: ",
            ["`servers.x.tools.t.timeout` = 5s", "line 5"],
        ),
        (
            format!("{tool}timeout = \"5s\"\nclass = \"web\"\n[timeouts.classes]\nweb = \"9s\""),
            "seawall.toml:7: timeouts.classes.web: `timeouts.classes.web` = 9s is not below",
            ["`servers.x.tools.t.timeout` = 5s", "line 4"],
        ),
        (
            "attempt_timeout = \"2m\"\n[timeouts]\nclient = \"1m\"".to_owned(),
            "seawall.toml:3: servers.x.attempt_timeout: ",
            ["`timeouts.client` = 60s", "line 5"],
        ),
        (
            "[timeouts]\nbridge = \"2m\"\nclient = \"1m\"".to_owned(),
            "seawall.toml:4: timeouts.bridge: ",
            ["`timeouts.client` = 60s", "line 5"],
        ),
    ] {
        refused(&format!("{X}{lines}"), begins, &words);
    }
    // Whose server is not used bounds nothing.
    config(&format!("{X}enabled = false\ntimeout = \"60s\"\n[timeouts]\ndaemon = \"30s\""));
    let given = Given { overrides: &[("SEAWALL_TIMEOUTS_DAEMON", "9s")], ..Given::default() };
    let text = format!("{X}timeout = \"10s\"");
    let found = lines(&lowered(Some(&text), &given).expect_err("a fault"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("`SEAWALL_TIMEOUTS_DAEMON` = 9s, a variable"), "{}", found[0]);
}

#[test]
fn classes_are_checked() {
    let classes = "[timeouts.classes]\nweb_search = \"9s\"\n";
    for (lines, begins, word) in [
        ("class = \"web\"", "seawall.toml:5: servers.x.class: \"web\" is not known", "\"web_search\""),
        (
            "class = \"web_search\"\nattempt_timeout = \"1s\"",
            "seawall.toml:6: servers.x.attempt_timeout: stands beside `class`",
            "remove one",
        ),
    ] {
        refused(&format!("{classes}{X}{lines}"), begins, &[word]);
    }
    refused(
        &format!("{X}class = \"web\""),
        "seawall.toml:3: servers.x.class: \"web\" is no class",
        &["`web = \"300s\"`", "[timeouts.classes]"],
    );
    let zero = format!("[timeouts]\nclasses = {{ web = \"0s\" }}\n{X}class = \"web\"");
    refused(&zero, "seawall.toml:2: timeouts.classes.web: \"0s\"", &["write"]);
    refused("[timeouts]\ntool = \"1s\"", "seawall.toml:2: timeouts.tool: unknown key", &["daemon"]);
}

proptest! {
    /// A chain is refused if and only if something set is not below what was set outside of it; every other one rises
    /// from link to link, keeps what was set, and bounds each call.
    #[test]
    fn chains_rise_or_are_refused(
        server in [option::of(1..40_u64), option::of(0..60_u64)],
        tool in [option::of(1..40_u64), option::of(0..60_u64)],
        other in option::of(0..60_u64),
        outer in [option::of(1..90_u64), option::of(0..90_u64), option::of(0..90_u64)],
    ) {
        let line = |key: &str, value: Option<u64>| value.map(|value| format!("{key} = \"{value}ms\"\n"));
        let lines = |keys: &[&str], values: &[Option<u64>]| {
            keys.iter().zip(values).filter_map(|(key, value)| line(key, *value)).collect::<String>()
        };
        let inner = ["attempt_timeout", "timeout"];
        let text = format!(
            "{X}{}[servers.x.tools.t]\n{}[servers.y]\ncommand = \"b\"\n{}[timeouts]\n{}",
            lines(&inner, &server),
            lines(&inner, &tool),
            lines(&["timeout"], &[other]),
            lines(&["daemon", "bridge", "client"], &outer),
        );
        let or = |own: [Option<u64>; 2]| [own[0].or(server[0]), own[1].or(server[1])];
        let rises = |inner: [Option<u64>; 2]| {
            let all = inner.into_iter().chain(outer).flatten().filter(|value| *value > 0);
            all.collect::<Vec<_>>().is_sorted_by(|a, b| a < b)
        };
        let possible = rises(server) && rises(or(tool)) && rises([None, other]);
        let lowered = lowered(Some(&text), &Given::default());
        prop_assert_eq!(lowered.is_ok(), possible, "{}\n{:?}", text, lowered.as_ref().err());
        let Ok((config, _)) = lowered else { return Ok(()) };
        for (upstream, tool, inner) in [
            (0, None, server),
            (0, Some("t"), or(tool)),
            (1, None, [None, other]),
        ] {
            let upstream = &config.upstreams[upstream];
            let chain = chain(&config, upstream, tool);
            let [attempt, own, daemon, bridge, client] = chain.links.clone().map(|link| link.value);
            let cap = daemon.unwrap();
            let rising: Vec<_> = [Some(cap), bridge, client].into_iter().flatten().collect();
            prop_assert!(rising.is_sorted_by(|a, b| a < b), "{}\n{}", text, chain);
            prop_assert!(own.is_none_or(|own| own <= cap), "{}\n{}", text, chain);
            let room = own.unwrap_or(cap);
            prop_assert!(attempt.is_none_or(|attempt| attempt < room), "{}\n{}", text, chain);
            let set = [inner[0], inner[1], outer[0], outer[1], outer[2]];
            for (link, set) in chain.links.iter().zip(set) {
                let limit = set.filter(|set| *set > 0).map(milliseconds);
                prop_assert!(set.is_none() || link.value == limit, "{}\n{}", text, chain);
            }
            let timeout = config.timeout_of(upstream, tool);
            prop_assert_eq!(timeout, own.unwrap_or(cap));
            prop_assert!(!timeout.is_zero());
        }
    }
}
