use super::*;
use std::path::{Path, PathBuf};

pub(super) fn upstream(text: &str) -> Arc<config::Upstream> {
    let text = format!("[servers.s]\n{text}");
    let own = Some(config::Source { path: PathBuf::from("seawall.toml"), text });
    let sources = config::Sources {
        own,
        foreign: Vec::new(),
        environment: &|_| None,
        overrides: Vec::new(),
        state_default: PathBuf::from("/nowhere"),
        base: PathBuf::new(),
    };
    let (config, _) = config::lower(&sources).unwrap();
    Arc::clone(&config.upstreams[0])
}

pub(super) fn raw(text: &str) -> Raw {
    Raw::parse(text.to_owned().into()).unwrap()
}

fn peer() -> Peer {
    Peer::recall("2025-11-25", raw(r#"{"protocolVersion":"2025-11-25","capabilities":{}}"#)).unwrap()
}

pub(super) fn listing(upstream: &config::Upstream, tools: &[&str]) -> Listing {
    Listing::new(upstream, peer(), tools.iter().map(|tool| raw(tool)).collect())
}

pub(super) async fn store(directory: &Path) -> Arc<Store> {
    Arc::new(Store::open(&directory.join("store.db")).await.unwrap())
}

#[tokio::test]
async fn what_an_upstream_offers_outlives_the_daemon_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let s = upstream("command = \"x\"");
    let name: Arc<str> = "s".into();
    let declaration = r#"{"name":"t","inputSchema":{"maximum":123456789012345678901234567890},"x":[ 1.10]}"#;
    {
        let catalog = Catalog::new(Some(store(directory.path()).await));
        assert!(catalog.learn(&name, &s.key(), "f", listing(&s, &[declaration])).await);
        assert!(!catalog.learn(&name, &s.key(), "f", listing(&s, &[declaration])).await, "no news");
    }
    let catalog = Catalog::new(Some(store(directory.path()).await));
    catalog.load(std::slice::from_ref(&s)).await;
    let tool = catalog.tool("s", "t").unwrap();
    assert_eq!(tool.declared.declaration.as_str(), declaration);
    assert_eq!(catalog.resolve("s__t"), Some((name, "t".into())));

    let other = upstream("command = \"y\"");
    let catalog = Catalog::new(Some(store(directory.path()).await));
    catalog.load(&[other]).await;
    assert!(catalog.tool("s", "t").is_none(), "another command is another upstream");
}

#[tokio::test]
async fn clients_of_other_capabilities_have_lists_of_their_own() {
    let catalog = Catalog::new(None);
    let (s, name) = (upstream("command = \"x\""), Arc::from("s"));
    let own = fingerprint(&Face::own());
    catalog.learn(&name, &s.key(), &own, listing(&s, &[r#"{"name":"a"}"#])).await;
    let mut changes = catalog.changes();
    catalog.learn(&name, &s.key(), "other", listing(&s, &[r#"{"name":"a"}"#, r#"{"name":"b"}"#])).await;
    assert_eq!(changes.recv().await.as_deref(), Ok("s"));
    assert_eq!(catalog.listing("s", "other").unwrap().tools.len(), 2);
    assert_eq!(catalog.listing("s", "unknown").unwrap().tools.len(), 1, "a stranger sees the common list");
    assert!(catalog.exact("s", "unknown").is_none());
    assert!(catalog.tool("s", "b").is_some());
}

#[test]
fn configuration_decides_over_annotations() {
    let declared = [r#"{"name":"r","annotations":{"readOnlyHint":true}}"#, r#"{"name":"w"}"#];
    for (text, effects) in [
        ("command = \"x\"", [Effects::None, Effects::Writes]),
        ("command = \"x\"\ntrust_hints = false", [Effects::Writes, Effects::Writes]),
        (
            "command = \"x\"\n[servers.s.tools.w]\neffects = \"idempotent\"",
            [Effects::None, Effects::Idempotent],
        ),
    ] {
        let listing = listing(&upstream(text), &declared);
        assert_eq!([listing.tools[0].effects, listing.tools[1].effects], effects, "{text}");
    }
}

#[test]
fn arguments_are_checked_and_the_field_at_fault_is_named() {
    let schema = r#"{"name":"t","inputSchema":{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}}"#;
    let listing =
        listing(&upstream("command = \"x\""), &[schema, r#"{"name":"bad","inputSchema":{"type":7}}"#]);
    let tool = listing.tool("t").unwrap();
    assert!(tool.validate(Some(&raw(r#"{"n":1}"#))).is_ok());
    assert!(tool.validate(None).unwrap_err().contains('n'));
    let fault = tool.validate(Some(&raw(r#"{"n":"x"}"#))).unwrap_err();
    assert!(fault.starts_with("arguments/n: "), "{fault}");
    assert!(
        listing.tool("bad").unwrap().validate(Some(&raw("{}"))).is_ok(),
        "a broken schema blocks nothing"
    );
}
