use super::super::{
    Catalog, fingerprint,
    tests::{listing, raw, store, upstream},
};
use super::{book::DEFINITIONS, *};
use crate::config;

const PINNED: &str = "command = \"x\"\npin = true";
const FREE: &str = "command = \"x\"";

const OLD: &str = r#"{"name":"t","description":"old","annotations":{"readOnlyHint":true}}"#;
/// The same definition, laid out differently.
const OLD_TOO: &str = r#"{ "description": "old", "name": "t", "annotations": {"readOnlyHint": true} }"#;
const NEW: &str = r#"{"name":"t","description":"new"}"#;
const OTHER: &str = r#"{"name":"u"}"#;

/// A server `s`, and a catalogue that has its lists from a client without capabilities.
struct Scene {
    s: Arc<config::Upstream>,
    name: Arc<str>,
    catalog: Catalog,
}

impl Scene {
    fn new(configured: &str) -> Self {
        Self { s: upstream(configured), name: Arc::from("s"), catalog: Catalog::new(None) }
    }

    /// Whether a list of these tools is news.
    async fn lists(&self, tools: &[&str]) -> bool {
        self.lists_to(&fingerprint(&Face::own()), tools).await
    }

    async fn lists_to(&self, fingerprint: &str, tools: &[&str]) -> bool {
        self.catalog.learn(&self.name, &self.s.key(), fingerprint, listing(&self.s, tools)).await
    }

    async fn accept(&self, names: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let accepted = self.catalog.accept(&self.name, &self.s.key(), &names).await?;
        Ok(accepted.tools.iter().map(|tool| tool.to_string()).collect())
    }

    fn held(&self, tool: &str) -> Option<Held> {
        self.catalog.held("s", &self.s.key(), &Face::own(), tool)
    }

    /// The declarations that are shown.
    fn shown(&self) -> Vec<String> {
        let listing = self.catalog.listing("s", "").unwrap();
        listing.tools.iter().map(|tool| tool.declared.declaration.as_str().to_owned()).collect()
    }

    fn states(&self) -> Vec<(String, Option<&'static str>, bool)> {
        let standings = self.catalog.standings(&self.name, &self.s.key());
        let state = |standing: Standing| (standing.own.to_string(), standing.state, standing.held);
        standings.into_iter().map(state).collect()
    }
}

#[tokio::test]
async fn the_first_list_is_accepted_and_a_change_is_held_back_until_it_is() {
    let scene = Scene::new(PINNED);
    // A server that has nothing yet has shown nothing that could be accepted.
    scene.lists(&[]).await;
    assert!(scene.lists(&[OLD]).await);
    assert_eq!((scene.held("t"), scene.shown()), (None, vec![OLD.to_owned()]));

    assert!(!scene.lists(&[NEW, OTHER]).await, "clients see what they saw before");
    assert_eq!((scene.held("t"), scene.held("u")), (Some(Held::Changed), Some(Held::New)));
    assert_eq!(scene.shown(), [OLD]);
    let tool = scene.catalog.tool("s", "t").unwrap();
    assert!(tool.listed().contains("old") && tool.effects == mcp::Effects::None);
    assert!(scene.catalog.tool("s", "u").is_none() && scene.catalog.resolve("s__u").is_none());
    assert_eq!(scene.catalog.held_back("s").len(), 2);
    let states = [("t".to_owned(), Some("changed"), true), ("u".to_owned(), Some("new"), true)];
    assert_eq!(scene.states(), states);

    let mut changes = scene.catalog.changes();
    assert_eq!(scene.accept(&["s__u"]).await.unwrap(), ["u"]);
    assert_eq!(changes.recv().await.as_deref(), Ok("s"), "listeners hear of it");
    assert_eq!(scene.shown(), [OLD, OTHER]);
    assert!(scene.catalog.resolve("s__u").is_some());
    assert_eq!((scene.held("t"), scene.held("u")), (Some(Held::Changed), None));
    assert_eq!(scene.accept(&["t", "none"]).await.unwrap_err(), ["none"]);
    assert_eq!(scene.held("t"), Some(Held::Changed), "a list of names with a wrong one accepts nothing");
    assert_eq!(scene.accept(&[]).await.unwrap(), ["t"]);
    assert_eq!((scene.held("t"), scene.shown()), (None, vec![NEW.to_owned(), OTHER.to_owned()]));
    assert!(scene.accept(&[]).await.unwrap().is_empty());
    assert!(scene.catalog.held_back("s").is_empty());
}

#[tokio::test]
async fn what_was_accepted_may_come_back_in_any_layout() {
    let scene = Scene::new(PINNED);
    scene.lists(&[OLD]).await;
    scene.lists(&[OLD_TOO]).await;
    assert_eq!((scene.held("t"), scene.shown()), (None, vec![OLD_TOO.to_owned()]));
    scene.lists(&[NEW]).await;
    scene.accept(&[]).await.unwrap();
    scene.lists(&[OLD]).await;
    assert_eq!((scene.held("t"), scene.shown()), (None, vec![OLD.to_owned()]));
    scene.lists(&[]).await;
    assert_eq!(scene.held("t"), None, "what is gone stays accepted");
}

#[tokio::test]
async fn only_the_newest_definitions_stay_accepted() {
    let scene = Scene::new(PINNED);
    scene.lists(&[OLD]).await;
    for version in 0..DEFINITIONS {
        scene.lists(&[&format!(r#"{{"name":"t","description":"{version}"}}"#)]).await;
        assert_eq!(scene.accept(&[]).await.unwrap().len(), 1);
    }
    scene.lists(&[r#"{"name":"t","description":"0"}"#]).await;
    assert_eq!(scene.held("t"), None);
    scene.lists(&[OLD]).await;
    assert_eq!(scene.held("t"), Some(Held::Changed));
}

#[tokio::test]
async fn clients_of_other_capabilities_are_judged_by_what_they_are_shown() {
    let scene = Scene::new(PINNED);
    scene.lists(&[OLD]).await;
    scene.lists_to("other", &[NEW]).await;
    assert_eq!(scene.held("t"), None, "a client without capabilities is shown the old one");
    assert_eq!(scene.catalog.listing("s", "other").unwrap().tools[0].declared.declaration.as_str(), OLD);
    assert_eq!(scene.states(), [("t".to_owned(), Some("changed"), true)]);
    scene.accept(&[]).await.unwrap();
    assert_eq!(scene.shown(), [OLD]);
    assert_eq!(scene.catalog.listing("s", "other").unwrap().tools[0].declared.declaration.as_str(), NEW);
}

#[tokio::test]
async fn a_page_that_passes_by_shows_only_what_was_accepted() {
    let scene = Scene::new(PINNED);
    let vetted = |declaration: &str| {
        let tool = mcp::Tool::read(raw(declaration)).unwrap();
        let shown = scene.catalog.vetted("s", &scene.s.key(), tool);
        shown.map(|shown| shown.as_str().to_owned())
    };
    assert_eq!(vetted(NEW).as_deref(), Some(NEW), "nothing is known yet");
    scene.lists(&[OLD]).await;
    assert_eq!(vetted(OLD_TOO).as_deref(), Some(OLD_TOO));
    assert_eq!(vetted(NEW).as_deref(), Some(OLD));
    assert_eq!(vetted(OTHER), None);
}

#[tokio::test]
async fn without_a_pin_changes_are_noted_and_nothing_is_held_back() {
    let scene = Scene::new(FREE);
    scene.lists(&[OLD, OTHER]).await;
    assert_eq!(scene.states(), [("t".to_owned(), None, false), ("u".to_owned(), None, false)]);
    assert!(scene.lists(&[NEW]).await, "that is news");
    assert_eq!(scene.shown(), [NEW]);
    assert_eq!(scene.states(), [("t".to_owned(), Some("changed"), false)]);
    let standing = &scene.catalog.standings(&scene.name, &scene.s.key())[0];
    assert!(standing.before.as_ref().is_some_and(|before| before.contains("\"old\"")), "{standing:?}");
    assert!(standing.now.len() == 1 && standing.now[0].contains("\"new\""), "{standing:?}");
    assert_eq!(scene.accept(&[]).await.unwrap(), ["t"]);
    assert_eq!(scene.states(), [("t".to_owned(), None, false)]);

    // Pinned from now on, it has to stay as it was last.
    let scene = Scene { s: upstream(PINNED), ..scene };
    scene.lists(&[NEW]).await;
    assert_eq!(scene.held("t"), None);
    scene.lists(&[NEW, OTHER]).await;
    assert_eq!(scene.held("u"), Some(Held::New), "it had gone before anything was pinned");
}

#[tokio::test]
async fn what_was_accepted_outlives_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let started = async || {
        let s = upstream(PINNED);
        let catalog = Catalog::new(Some(store(directory.path()).await));
        catalog.load(std::slice::from_ref(&s)).await;
        Scene { s, name: Arc::from("s"), catalog }
    };
    let first = started().await;
    first.lists(&[OLD]).await;
    drop(first);
    let second = started().await;
    second.lists(&[NEW]).await;
    assert_eq!((second.held("t"), second.shown()), (Some(Held::Changed), vec![OLD.to_owned()]));
    drop(second);
    let third = started().await;
    assert_eq!((third.held("t"), third.shown()), (Some(Held::Changed), vec![OLD.to_owned()]));
    third.accept(&[]).await.unwrap();
    drop(third);
    let fourth = started().await;
    assert_eq!((fourth.held("t"), fourth.shown()), (None, vec![NEW.to_owned()]));
}

#[tokio::test]
async fn what_cannot_be_read_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let s = upstream(PINNED);
    let newer = br#"{"format":99}"#;
    {
        let store = store(directory.path()).await;
        let (key, bytes) = (book_key(&s.key(), "s"), &newer[..]);
        let draft = seawall_jobs::Draft { namespace: NAMESPACE, key: &key, owner: "s", bytes, expires: None };
        store.put(draft, seawall_jobs::Expect::Any, 0).await.unwrap();
    }
    let catalog = Catalog::new(Some(store(directory.path()).await));
    catalog.load(std::slice::from_ref(&s)).await;
    let scene = Scene { s, name: Arc::from("s"), catalog };
    scene.lists(&[OLD]).await;
    scene.lists(&[NEW]).await;
    assert_eq!(scene.held("t"), Some(Held::Changed));
    let accepted = scene.catalog.accept(&scene.name, &scene.s.key(), &[]).await.unwrap();
    assert!(!accepted.kept && accepted.tools.len() == 1, "{accepted:?}");
    drop(scene);
    let kept = store(directory.path()).await.list(NAMESPACE, 0).await.unwrap();
    assert_eq!(kept[0].bytes, newer);
}
