//! On which terms calls are taken, and the limits under one name: each key, its default, and what is refused.

use super::*;

fn limits(lines: &str) -> Limits {
    config(&format!("[limits]\n{lines}")).limits
}

/// Terms of which each is set.
const ALL: &str = r#"
    ask_limit = "0s"
    heartbeat = "2s"
    duplicates = "reject"
    cache = "30s"
    attempt_timeout = "10s"
    rate = "600/m"
    learn = { floor = "2s", ceiling = "20s", factor = 1.5 }
"#;

fn all() -> Terms {
    Terms {
        ask_limit: Some(Duration::ZERO),
        heartbeat: Some(Duration::from_secs(2)),
        duplicates: Some(Duplicates::Reject),
        cache: Some(Duration::from_secs(30)),
        attempt_timeout: Some(Duration::from_secs(10)),
        rate: Some(Rate { calls: 600, per: Duration::from_secs(60) }),
        learn: Some(Learn { floor: Duration::from_secs(2), ceiling: Duration::from_secs(20), factor: 1.5 }),
    }
}

#[test]
fn every_term_has_an_effect_for_a_server_and_for_a_tool() {
    let plain = server("command = \"a\"");
    assert_eq!((plain.terms, plain.class, plain.provider), (Terms::default(), None, None));
    assert_eq!((plain.retries, plain.breaker), (Retries::default(), Breaker::default()));

    let of_server = server(&format!("command = \"a\"\n{ALL}\n[servers.x.tools.t]\nlimit = 2"));
    assert_eq!(of_server.terms, all());
    assert_eq!(of_server.tools["t"].limit, NonZeroUsize::new(2));
    assert_eq!((of_server.terms_of("t"), of_server.terms_of("other")), (all(), all()));

    let of_tool = server(&format!("command = \"a\"\nduplicates = \"run\"\n[servers.x.tools.t]\n{ALL}"));
    assert_eq!((of_tool.tools["t"].terms, of_tool.terms_of("t")), (all(), all()));
    assert_eq!(of_tool.tools["t"].limit, None);
    let others = Terms { duplicates: Some(Duplicates::Run), ..Terms::default() };
    assert_eq!(of_tool.terms_of("other"), others);
}

#[test]
fn a_tool_can_go_without_what_its_server_has() {
    let upstream = server(&format!(
        "command = \"a\"\n{ALL}\n[servers.x.tools.t]\ncache = \"0s\"\nattempt_timeout = \"0s\"\nheartbeat = \"0s\""
    ));
    let terms = upstream.terms_of("t");
    assert_eq!((terms.cache, terms.attempt_timeout, terms.heartbeat), (None, None, Some(Duration::ZERO)));
    assert_eq!(terms.rate, all().rate);
}

#[test]
fn equal_calls_share_unless_they_write_or_something_else_is_said() {
    for (duplicates, effects, expected) in [
        (None, Effects::None, Duplicates::Share),
        (None, Effects::Idempotent, Duplicates::Share),
        (None, Effects::Writes, Duplicates::Run),
        (Some(Duplicates::Reject), Effects::Writes, Duplicates::Reject),
    ] {
        let terms = Terms { duplicates, ..Terms::default() };
        assert_eq!(terms.duplicates_of(effects), expected, "{duplicates:?} {effects:?}");
    }
}

#[test]
fn retries_and_the_breaker_are_the_servers() {
    let upstream = server(
        r#"
        command = "a"
        retries = { max = 0, backoff = "1s", budget = 0, floor = 3 }
        [servers.x.breaker]
        window = "1m"
        failures = 1
        least = 1
        open = "5s"
        "#,
    );
    let retries = Retries { max: 0, backoff: Duration::from_secs(1), budget: 0.0, floor: 3 };
    let breaker =
        Breaker { window: Duration::from_secs(60), failures: 1.0, least: 1, open: Duration::from_secs(5) };
    assert_eq!((upstream.retries, upstream.breaker), (retries, breaker));
    let some = server("command = \"a\"\nretries = { max = 5 }\nbreaker = { failures = 0 }");
    assert_eq!(some.retries, Retries { max: 5, ..Retries::default() });
    assert_eq!(some.breaker, Breaker { failures: 0.0, ..Breaker::default() });
    let plain = Retries { max: 2, backoff: Duration::from_millis(100), budget: 0.1, floor: 10 };
    assert_eq!(Retries::default(), plain);
    let plain =
        Breaker { window: Duration::from_secs(30), failures: 0.8, least: 20, open: Duration::from_secs(10) };
    assert_eq!(Breaker::default(), plain);
}

#[test]
fn what_is_learned_has_bounds_that_fit_each_other() {
    let learn = |line: &str| server(&format!("command = \"a\"\nlearn = {line}")).terms.learn.unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(learn("{}"), Learn { floor: seconds(1), ceiling: seconds(50), factor: 2.0 });
    assert_eq!(learn("{ floor = \"60s\" }").ceiling, seconds(60));
    assert_eq!(learn("{ ceiling = \"500ms\" }").floor, Duration::from_millis(500));
}

#[test]
fn rates_are_written_and_read_alike() {
    for text in ["10/s", "600/m", "1000/h"] {
        let upstream = server(&format!("command = \"a\"\nrate = \"{text}\""));
        assert_eq!(upstream.terms.rate.unwrap().to_string(), text);
    }
    let config = config(&format!("[callers.a]\ntoken = \"{HASH}\"\nrate = \"2/s\""));
    assert_eq!(config.callers[0].rate, Some(Rate { calls: 2, per: Duration::from_secs(1) }));
    assert_eq!(limits("rate = \"3/h\"").rate, Some(Rate { calls: 3, per: Duration::from_secs(3600) }));
}

#[test]
fn terms_are_checked() {
    let checks = [
        ("ask_limit = 5", "ask_limit: 5 has no unit", "\"5s\""),
        ("heartbeat = \"soon\"", "heartbeat: \"soon\" is not a duration", "\"50s\""),
        ("duplicates = \"shared\"", "duplicates: \"shared\" is not known", "did you mean \"share\""),
        ("cache = true", "cache: true is not a string", "\"50s\""),
        ("rate = 10", "rate: 10 is not a string", "\"10/s\""),
        ("rate = \"10\"", "rate: \"10\" is not a rate", "\"600/m\""),
        ("rate = \"10/d\"", "rate: \"10/d\" is not a rate", "\"1000/h\""),
        ("rate = \"-1/s\"", "rate: \"-1/s\" is not a rate", "\"10/s\""),
        ("rate = \"0/s\"", "rate: \"0/s\" lets no call through", "1 or more"),
        ("learn = true", "learn: true is not a table", "[servers.x.learn]"),
        ("learn = { floor = \"2s\", ceiling = \"1s\" }", "learn.floor: 2s is above `ceiling` = 1s", "raise"),
        ("learn = { factor = 0.5 }", "learn.factor: 0.5 is no factor", "1 or more"),
        ("learn = { flor = \"1s\" }", "learn.flor: unknown key", "`floor`"),
        ("retries = { max = -1 }", "retries.max: -1 ", "0 or more"),
        ("retries = { budget = 2 }", "retries.budget: 2 is not a part of one", "from 0 to 1"),
        ("retries = { tries = 1 }", "retries.tries: unknown key", "backoff"),
        ("breaker = { failures = 1.5 }", "breaker.failures: 1.5 is not a part of one", "from 0 to 1"),
        ("breaker = { least = 0 }", "breaker.least: 0 ", "1 or more"),
        ("breaker = { open = \"0s\" }", "breaker.open: \"0s\" leaves no time", "write"),
        ("provider = \"\"", "provider: \"\" is no provider", "[limits.providers]"),
    ];
    for (line, begins, word) in checks {
        let text = format!("[servers.x]\ncommand = \"a\"\n{line}");
        refused(&text, &format!("seawall.toml:3: servers.x.{begins}"), &[word]);
    }
    let tool = "[servers.x]\ncommand = \"a\"\n[servers.x.tools.t]\n";
    for (line, begins, word) in [
        ("limit = 0", "limit: 0 ", "1 or more"),
        ("duplicates = \"no\"", "duplicates: \"no\" is not known", "\"reject\""),
        ("retries = { max = 1 }", "retries: unknown key", "the server's own table"),
        ("breaker = {}", "breaker: unknown key", "the server's own table"),
        ("provider = \"glm\"", "provider: unknown key", "the server's own table"),
    ] {
        refused(&format!("{tool}{line}"), &format!("seawall.toml:4: servers.x.tools.t.{begins}"), &[word]);
    }
}

#[test]
fn a_provider_is_one_that_has_a_limit() {
    let noted = |limits: &str| {
        let text = format!("[limits]\n{limits}\n[servers.x]\ncommand = \"a\"\nprovider = \"glm\"");
        let (config, notes) = lowered(Some(&text), &Given::default()).unwrap();
        assert_eq!(config.upstreams[0].provider.as_deref(), Some("glm"));
        notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(noted("providers = { glm = 1 }").is_empty());
    assert!(noted("preset = \"dev\"").is_empty());
    for (limits, words) in [
        ("", "seawall.toml:5: servers.x.provider: has no effect before `limits.providers.glm`"),
        (
            "providers = { glms = 1 }",
            "seawall.toml:5: servers.x.provider: \"glm\" has no limit: did you mean",
        ),
    ] {
        let notes = noted(limits);
        assert!(notes.len() == 1 && notes[0].starts_with(words), "{notes:?}");
    }
}

#[test]
fn every_further_limit_has_an_effect() {
    let plain = limits("");
    assert_eq!((plain.preset, plain.conversation_share, plain.count_unnamed), (None, 0.5, false));
    assert_eq!((plain.detached, plain.detached_caller), (32, 16));
    assert_eq!((plain.cache, plain.idempotency), (64 << 20, Duration::from_secs(86_400)));
    assert!(plain.providers.is_empty() && plain.rate.is_none());
    let set = limits(
        r#"
        conversation_share = 0.25
        count_unnamed = true
        detached = 0
        cache = "1MiB"
        idempotency = "1h"
        rate = "5/s"
        providers = { glm = 1, other = 2 }
        "#,
    );
    assert_eq!((set.conversation_share, set.share, set.count_unnamed), (0.25, 0.5, true));
    assert_eq!((set.detached, set.detached_caller), (0, 0), "the default gives way");
    assert_eq!((set.cache, set.idempotency), (1 << 20, Duration::from_secs(3600)));
    assert_eq!(set.rate, Some(Rate { calls: 5, per: Duration::from_secs(1) }));
    assert_eq!(set.providers, BTreeMap::from([("glm".to_owned(), 1), ("other".to_owned(), 2)]));
    assert_eq!(limits("detached_caller = 3").detached_caller, 3);
    assert_eq!(limits("share = 0.75").conversation_share, 0.75, "it is `share` where nothing else is said");
}

#[test]
fn further_limits_are_checked() {
    for (line, begins, word) in [
        ("preset = \"develop\"", "preset: \"develop\" is not known", "\"dev\""),
        ("conversation_share = 0", "conversation_share: 0 is not a part of one", "above 0"),
        ("count_unnamed = 1", "count_unnamed: 1 is neither", "true"),
        ("detached = -1", "detached: -1 ", "0 or more"),
        ("detached_caller = 33", "detached_caller: `limits.detached_caller` = 33 is above", "= 32"),
        ("cache = 0", "cache: 0 lets nothing through", "MiB"),
        ("idempotency = \"0s\"", "idempotency: \"0s\" leaves no time", "write"),
        ("rate = \"x\"", "rate: \"x\" is not a rate", "\"10/s\""),
        ("providers = { glm = 0 }", "providers.glm: 0 ", "1 or more"),
        ("providers = 3", "providers: 3 is not a table", "[limits.providers]"),
    ] {
        refused(&format!("[limits]\n{line}"), &format!("seawall.toml:2: limits.{begins}"), &[word]);
    }
}

#[test]
fn a_preset_is_what_keys_go_over() {
    let of = |limits: &Limits| {
        let Limits { total, caller, conversation, sessions, .. } = *limits;
        (total, caller, conversation, sessions)
    };
    let pairs =
        |pairs: [(&str, usize); 2]| BTreeMap::from(pairs.map(|(name, limit)| (name.to_owned(), limit)));
    let (dev, prod) = (limits("preset = \"dev\""), limits("preset = \"prod\""));
    assert_eq!((dev.preset, of(&dev)), (Some(Preset::Dev), (5, 5, 2, 5)));
    assert_eq!((prod.preset, of(&prod)), (Some(Preset::Prod), (24, 24, 8, 100)));
    assert_eq!(dev.providers, pairs([("glm", 2), ("kimi", 3)]));
    assert_eq!(prod.providers, pairs([("glm", 4), ("kimi", 6)]));
    for preset in [dev, prod] {
        assert_eq!((preset.share, preset.conversation_share, preset.count_unnamed), (0.5, 1.0, true));
    }

    let set = limits(
        "preset = \"prod\"\ntotal = 4\nsessions = 7\nshare = 0.75\ncount_unnamed = false\nproviders = { glm = 9 }",
    );
    assert_eq!(of(&set), (4, 4, 4, 7));
    assert_eq!((set.share, set.conversation_share, set.count_unnamed), (0.75, 1.0, false));
    assert_eq!(set.providers, pairs([("glm", 9), ("kimi", 6)]));
}

#[test]
fn variables_override_the_further_limits() {
    let overrides = &[
        ("SEAWALL_LIMITS_PRESET", "dev"),
        ("SEAWALL_LIMITS_CONVERSATION_SHARE", "0.5"),
        ("SEAWALL_LIMITS_COUNT_UNNAMED", "false"),
        ("SEAWALL_LIMITS_DETACHED", "8"),
        ("SEAWALL_LIMITS_DETACHED_CALLER", "4"),
        ("SEAWALL_LIMITS_CACHE", "2MiB"),
        ("SEAWALL_LIMITS_IDEMPOTENCY", "2h"),
        ("SEAWALL_LIMITS_RATE", "9/m"),
    ];
    let text = "[limits]\npreset = \"prod\"\ncount_unnamed = true\nrate = \"1/s\"";
    let (config, _) = lowered(Some(text), &Given { overrides, ..Given::default() }).unwrap();
    let limits = config.limits;
    assert_eq!((limits.preset, limits.total), (Some(Preset::Dev), 5));
    assert_eq!((limits.conversation_share, limits.count_unnamed), (0.5, false));
    assert_eq!((limits.detached, limits.detached_caller), (8, 4));
    assert_eq!((limits.cache, limits.idempotency), (2 << 20, Duration::from_secs(7200)));
    assert_eq!(limits.rate, Some(Rate { calls: 9, per: Duration::from_secs(60) }));
    let given = Given { overrides: &[("SEAWALL_LIMITS_COUNT_UNNAMED", "yes")], ..Given::default() };
    let found = lines(&lowered(None, &given).expect_err("a fault"));
    assert!(
        found[0].starts_with("environment: SEAWALL_LIMITS_COUNT_UNNAMED: \"yes\" is neither"),
        "{found:?}"
    );
}
