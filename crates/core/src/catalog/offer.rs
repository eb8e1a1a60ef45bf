//! What an upstream offers besides tools: its prompts, its resources, and the templates of resources.

use super::names::{fold, hashed, public_name};
use seawall_proto::{
    Raw,
    era::offer::{List, Offering},
    jsonrpc::Members,
};
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc};

/// One item of a list.
#[derive(Debug)]
pub struct Item {
    /// The upstream's own name for a prompt, the URI of a resource, or that of a template.
    pub own: Arc<str>,
    /// Its name where every upstream's prompts are listed together. URIs are the same everywhere.
    pub public: Arc<str>,
    declaration: Raw,
    /// Its declaration under its public name, where that is another one.
    renamed: Option<String>,
}

/// The lists of one upstream, as it last gave them.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    prompts: Known,
    resources: Known,
    templates: Known,
    uris: Arc<HashSet<Arc<str>>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// Its items; none before the upstream has given the list.
    items: Option<Arc<[Item]>>,
    /// Why there are none, where it did not give the list when it was asked.
    fault: Option<Arc<str>>,
}

impl Item {
    /// Its declaration where every upstream's are listed together, as JSON text.
    pub fn listed(&self) -> &str {
        self.renamed.as_deref().unwrap_or_else(|| self.declaration.as_str())
    }
}

/// The items of a list, each once; prompts get public names, unique also when folded.
fn read(list: List, server: &str, declarations: Vec<Raw>) -> Arc<[Item]> {
    let (mut seen, mut folded) = (HashSet::new(), HashSet::new());
    let mut items = Vec::with_capacity(declarations.len());
    for declaration in declarations {
        let Ok(members) = Members::parse(declaration.as_str()) else { continue };
        let Some(own) = members.string(list.key()).map(|own| Arc::<str>::from(&*own)) else { continue };
        if !seen.insert(Arc::clone(&own)) {
            continue;
        }
        if list != List::Prompts {
            let public = Arc::clone(&own);
            items.push(Item { own, public, declaration: declaration.clone(), renamed: None });
            continue;
        }
        let mut public = public_name(server, &own);
        if !folded.insert(fold(&public)) {
            public = hashed(&public, server, &own);
        }
        let renamed = members.edited(&[("name", Some(&Value::from(public.as_str()).to_string()))]);
        items.push(Item {
            own,
            public: public.into(),
            declaration: declaration.clone(),
            renamed: Some(renamed),
        });
    }
    items.into()
}

impl Offer {
    /// Takes in a list as the upstream gave it.
    pub fn set(&mut self, list: List, server: &str, declarations: Vec<Raw>) {
        let items = read(list, server, declarations);
        if list == List::Resources {
            self.uris = Arc::new(items.iter().map(|item| Arc::clone(&item.own)).collect());
        }
        *self.known_mut(list) = Known { items: Some(items), fault: None };
    }

    /// Notes that the upstream did not give a list; one that it gave before is kept.
    pub fn fail(&mut self, list: List, why: &str) {
        let known = self.known_mut(list);
        if known.items.is_none() {
            known.fault = Some(why.into());
        }
    }

    /// Drops a list that the upstream does not have any more.
    pub fn clear(&mut self, list: List) {
        if list == List::Resources {
            self.uris = Arc::default();
        }
        *self.known_mut(list) = Known::default();
    }

    /// The items of a list, in the upstream's order; `None` where it has not given it.
    pub fn items(&self, list: List) -> Option<&[Item]> {
        self.known(list).items.as_deref()
    }

    /// Why it has not given it, where it was asked.
    pub fn fault(&self, list: List) -> Option<&str> {
        self.known(list).fault.as_deref()
    }

    /// Whether a resource is listed.
    pub fn lists(&self, uri: &str) -> bool {
        self.uris.contains(uri)
    }

    /// Whether a URI begins like one of the templates, or is one.
    pub fn fits(&self, uri: &str) -> bool {
        let begins = |template: &str| {
            let literal = template.split('{').next().unwrap_or_default();
            !literal.is_empty() && uri.starts_with(literal)
        };
        self.items(List::Templates).is_some_and(|items| items.iter().any(|item| begins(&item.own)))
    }

    /// What differs in another offer.
    pub(super) fn differences(&self, other: &Self) -> Vec<Offering> {
        let mut found = Vec::new();
        for list in List::ALL {
            let (mine, others) = (self.known(list), other.known(list));
            let same = match (&mine.items, &others.items) {
                (Some(mine), Some(others)) => {
                    mine.len() == others.len()
                        && mine.iter().zip(others.iter()).all(|(a, b)| a.declaration == b.declaration)
                }
                (None, None) => mine.fault.is_some() == others.fault.is_some(),
                _ => false,
            };
            if !same && !found.contains(&list.offering()) {
                found.push(list.offering());
            }
        }
        found
    }

    /// The lists as they are kept: declarations are strings, for a tree would lose the digits of big numbers.
    pub(super) fn to_value(&self) -> Value {
        let mut kept = json!({});
        for list in List::ALL {
            if let Some(items) = self.items(list) {
                let items: Vec<&str> = items.iter().map(|item| item.declaration.as_str()).collect();
                kept[list.member()] = json!(items);
            }
        }
        kept
    }

    pub(super) fn from_value(server: &str, kept: &Value) -> Self {
        let mut offer = Self::default();
        for list in List::ALL {
            if let Some(items) = kept[list.member()].as_array() {
                let items = items.iter().filter_map(|item| Raw::parse(item.as_str()?.to_owned().into()).ok());
                offer.set(list, server, items.collect());
            }
        }
        offer
    }

    fn known(&self, list: List) -> &Known {
        match list {
            List::Prompts => &self.prompts,
            List::Resources => &self.resources,
            List::Templates => &self.templates,
        }
    }

    fn known_mut(&mut self, list: List) -> &mut Known {
        match list {
            List::Prompts => &mut self.prompts,
            List::Resources => &mut self.resources,
            List::Templates => &mut self.templates,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw {
        Raw::parse(text.to_owned().into()).unwrap()
    }

    #[test]
    fn prompts_are_named_like_tools_and_nothing_else_is_renamed() {
        let mut offer = Offer::default();
        let twins =
            vec![raw(r#"{"name":"a-b","n":1.10}"#), raw(r#"{"name":"A_b"}"#), raw(r#"{"name":"a-b"}"#)];
        offer.set(List::Prompts, "s", twins);
        let prompts = offer.items(List::Prompts).unwrap();
        assert_eq!(prompts.len(), 2, "a name counts once");
        assert_eq!(prompts[0].listed(), r#"{"name":"s__a-b","n":1.10}"#);
        assert!(prompts[1].public.starts_with("s__A_b_"), "{}", prompts[1].public);
        offer.set(List::Resources, "s", vec![raw(r#"{"uri":"a:b","name":"x"}"#)]);
        assert_eq!(offer.items(List::Resources).unwrap()[0].listed(), r#"{"uri":"a:b","name":"x"}"#);
    }

    #[test]
    fn a_uri_is_found_by_the_list_and_by_the_beginning_of_a_template() {
        let mut offer = Offer::default();
        offer.set(List::Resources, "s", vec![raw(r#"{"uri":"a:b"}"#)]);
        let templates = vec![raw(r#"{"uriTemplate":"t://{x}/y"}"#), raw(r#"{"uriTemplate":"{+any}"}"#)];
        offer.set(List::Templates, "s", templates);
        assert!(offer.lists("a:b") && !offer.lists("a:c"));
        assert!(offer.fits("t://1/y") && !offer.fits("u://1/y"));
    }

    #[test]
    fn what_is_kept_comes_back_and_what_changed_is_told() {
        let mut offer = Offer::default();
        offer.set(List::Prompts, "s", vec![raw(r#"{"name":"p","n":123456789012345678901234567890}"#)]);
        let back = Offer::from_value("s", &offer.to_value());
        assert!(back.differences(&offer).is_empty());
        assert!(back.items(List::Resources).is_none());
        let mut more = back.clone();
        more.fail(List::Prompts, "why");
        assert!(more.fault(List::Prompts).is_none(), "what was given before is kept");
        more.fail(List::Templates, "why");
        more.set(List::Resources, "s", Vec::new());
        assert_eq!(back.differences(&more), [Offering::Resources]);
    }
}
