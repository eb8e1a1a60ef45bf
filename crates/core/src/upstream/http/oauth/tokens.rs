//! Tokens: how they are read, kept and renewed, and the store that keeps them.

use super::{challenge::scopes, flow::shown, registration::Client};
use crate::config::Secret;
use seawall_jobs::{Draft, Expect, Store};
use serde_json::{Value, json};
use std::{fmt, sync::Arc};

const TOKENS: &str = "oauth";
const CLIENTS: &str = "oauth-client";
/// The layout of what is kept; anything else counts as absent.
const FORMAT: u64 = 1;
/// How long before its end a token is renewed, in milliseconds.
const EARLY: i64 = 30_000;

/// What a login gave, and what it takes to renew it.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::upstream::http) struct Tokens {
    pub(super) issuer: String,
    pub(super) resource: String,
    pub(super) token_endpoint: String,
    pub(super) client: Client,
    pub(super) access: Secret,
    pub(super) refresh: Option<Secret>,
    /// What was asked for.
    pub(super) asked: Vec<String>,
    /// When the access token ends, in Unix milliseconds, where that is known.
    pub(super) ends: Option<i64>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// An answer of a token endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Granted {
    access: Secret,
    refresh: Option<Secret>,
    ends: Option<i64>,
}

impl Granted {
    /// Reads a successful answer that came at `now` (Unix milliseconds).
    ///
    /// # Errors
    /// When there is no token in it that can be sent.
    pub(super) fn read(body: &[u8], now: i64) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|_| "the authorization server answered with no JSON".to_owned())?;
        let access = value["access_token"].as_str().unwrap_or_default();
        if access.is_empty() || !access.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the authorization server gave no access token that can be sent".to_owned());
        }
        let kind = value["token_type"].as_str().unwrap_or_default();
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err(format!("the authorization server gave a token of the type {:?}", shown(kind)));
        }
        let refresh = value["refresh_token"].as_str().filter(|token| !token.is_empty());
        let lasts = value["expires_in"].as_i64().filter(|seconds| *seconds >= 0);
        Ok(Self {
            access: Secret::new(access),
            refresh: refresh.map(Secret::new),
            ends: lasts.map(|seconds| now.saturating_add(seconds.saturating_mul(1000))),
        })
    }

    /// The tokens of a login.
    pub(super) fn into_tokens(
        self,
        issuer: String,
        resource: String,
        token_endpoint: String,
        client: Client,
        asked: Vec<String>,
    ) -> Tokens {
        let Self { access, refresh, ends } = self;
        Tokens { issuer, resource, token_endpoint, client, access, refresh, asked, ends }
    }
}

/// Why a token endpoint refused, as a message may show it.
pub(super) fn refusal(status: http::StatusCode, body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = value["error"].as_str().unwrap_or_default();
    let text = value["error_description"].as_str().unwrap_or_default();
    let why = [error, text].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    if why.is_empty() { format!("HTTP {status}") } else { shown(&why) }
}

impl Tokens {
    /// Whether the access token has ended at `now` (Unix milliseconds), or nearly.
    pub(super) fn ended(&self, now: i64) -> bool {
        self.ends.is_some_and(|ends| ends - EARLY <= now)
    }

    /// Whether a login that asks for these scopes would ask for nothing that was not asked for before.
    pub(super) fn asked_for(&self, scopes: &[String]) -> bool {
        scopes.iter().all(|scope| self.asked.contains(scope))
    }

    /// The form that is exchanged for fresh ones, without what proves the client.
    pub(super) fn renewal(&self, refresh: &Secret) -> Vec<(&'static str, String)> {
        vec![
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", refresh.expose().to_owned()),
            ("resource", self.resource.clone()),
        ]
    }

    /// These, renewed. A server that gives no other refresh token lets the old one be used again.
    pub(super) fn renewed(&self, granted: Granted) -> Self {
        let Granted { access, refresh, ends } = granted;
        Self { access, refresh: refresh.or_else(|| self.refresh.clone()), ends, ..self.clone() }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let value = json!({
            "format": FORMAT,
            "issuer": self.issuer,
            "resource": self.resource,
            "token_endpoint": self.token_endpoint,
            "client": self.client.to_json(),
            "access": self.access.expose(),
            "refresh": self.refresh.as_ref().map(Secret::expose),
            "asked": self.asked.join(" "),
            "ends": self.ends,
        });
        value.to_string().into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        if value["format"] != FORMAT {
            return None;
        }
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self {
            issuer: text("issuer")?,
            resource: text("resource")?,
            token_endpoint: text("token_endpoint")?,
            client: Client::from_json(&value["client"])?,
            access: Secret::new(text("access")?),
            refresh: text("refresh").map(Secret::new),
            asked: scopes(value["asked"].as_str()?),
            ends: value["ends"].as_i64(),
        })
    }
}

/// Where tokens and registrations are kept; without a store, nowhere.
#[derive(Clone, Debug, Default)]
pub struct Keep(Option<Arc<Store>>);

impl Keep {
    /// Keeps things in a store.
    pub fn new(store: Option<Arc<Store>>) -> Self {
        Self(store)
    }

    /// The tokens of an upstream.
    pub(super) async fn tokens(&self, key: &str) -> Option<Tokens> {
        let records = self.0.as_ref()?.list(TOKENS, now()).await;
        let records =
            records.inspect_err(|fault| tracing::error!(%fault, "logins could not be read")).ok()?;
        let of_it = |name: &str| name.split(' ').next() == Some(key);
        records
            .iter()
            .filter(|record| of_it(&record.key))
            .find_map(|record| Tokens::from_bytes(&record.bytes))
    }

    /// Keeps the tokens of an upstream in the place of those it had.
    pub(super) async fn put_tokens(&self, key: &str, tokens: &Tokens) {
        let name = format!("{key} {} {}", tokens.resource, tokens.issuer);
        self.put(TOKENS, &name, &tokens.to_bytes(), None).await;
        self.forget_but(key, Some(&name)).await;
    }

    /// Forgets the tokens of an upstream.
    pub(super) async fn forget(&self, key: &str) {
        self.forget_but(key, None).await;
    }

    async fn forget_but(&self, key: &str, kept: Option<&str>) {
        let Some(store) = &self.0 else { return };
        let records = match store.list(TOKENS, now()).await {
            Ok(records) => records,
            Err(fault) => return tracing::error!(%fault, "a login could not be forgotten"),
        };
        for record in records {
            if record.key.split(' ').next() != Some(key) || Some(record.key.as_str()) == kept {
                continue;
            }
            if let Err(fault) = store.delete(TOKENS, &record.key, Expect::Any).await {
                tracing::error!(%fault, "a login could not be forgotten");
            }
        }
    }

    /// The client that an upstream's login registered at an issuer for a redirect.
    pub(super) async fn client(&self, key: &str, issuer: &str, redirect: &str) -> Option<Client> {
        let name = format!("{key} {issuer} {redirect}");
        let record = self.0.as_ref()?.get(CLIENTS, &name, now()).await.ok()??;
        Client::from_json(&serde_json::from_slice(&record.bytes).ok()?)
    }

    /// Keeps such a client until its secret `expires` (Unix seconds).
    pub(super) async fn put_client(
        &self,
        key: &str,
        issuer: &str,
        redirect: &str,
        client: &Client,
        expires: Option<i64>,
    ) {
        let name = format!("{key} {issuer} {redirect}");
        let expires = expires.map(|seconds| seconds.saturating_mul(1000));
        self.put(CLIENTS, &name, client.to_json().to_string().as_bytes(), expires).await;
    }

    /// Forgets such a client: the server knows it no more.
    pub(super) async fn forget_client(&self, key: &str, issuer: &str, redirect: &str) {
        let Some(store) = &self.0 else { return };
        let deleted = store.delete(CLIENTS, &format!("{key} {issuer} {redirect}"), Expect::Any).await;
        if let Err(fault) = deleted {
            tracing::error!(%fault, "a registration could not be forgotten");
        }
    }

    async fn put(&self, namespace: &str, key: &str, bytes: &[u8], expires: Option<i64>) {
        let Some(store) = &self.0 else { return };
        let draft = Draft { namespace, key, owner: "", bytes, expires };
        if let Err(fault) = store.put(draft, Expect::Any, now()).await {
            tracing::error!(%fault, "a login could not be kept; it is gone when the daemon ends");
        }
    }
}

/// Now, in Unix milliseconds.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::{super::registration::Method, *};

    fn tokens(body: &str) -> Tokens {
        let client = Client { id: "c".to_owned(), secret: Some(Secret::new("s")), method: Method::Post };
        let [issuer, resource, endpoint] = ["https://as", "https://h", "https://as/t"].map(str::to_owned);
        let granted = Granted::read(body.as_bytes(), 1000).unwrap();
        granted.into_tokens(issuer, resource, endpoint, client, vec!["a".to_owned(), "b".to_owned()])
    }

    const FULL: &str = r#"{"access_token":"x","token_type":"bearer","expires_in":60,"refresh_token":"r"}"#;

    #[test]
    fn an_answer_is_believed_only_with_a_bearer_token() {
        assert!(Granted::read(br#"{"access_token":"x","token_type":"DPoP"}"#, 0).is_err());
        assert!(Granted::read(br#"{"access_token":"a b","token_type":"Bearer"}"#, 0).is_err());
        assert!(Granted::read(br#"{"token_type":"Bearer"}"#, 0).is_err());
        let plain = tokens(r#"{"access_token":"x","token_type":"Bearer"}"#);
        assert_eq!((plain.ends, plain.refresh.is_some()), (None, false));
        assert!(!plain.ended(i64::MAX));
    }

    #[test]
    fn tokens_are_renewed_before_they_end_and_keep_the_old_refresh_token() {
        let full = tokens(FULL);
        assert_eq!(full.ends, Some(61_000));
        assert_eq!([30_000, 31_000].map(|now| full.ended(now)), [false, true]);
        let fresh = Granted::read(br#"{"access_token":"y","token_type":"Bearer"}"#, 0).unwrap();
        let fresh = full.renewed(fresh);
        assert_eq!((fresh.access.expose(), fresh.refresh), ("y", full.refresh));
    }

    #[test]
    fn a_login_for_nothing_new_is_told() {
        let full = tokens(FULL);
        assert!(full.asked_for(&["b".to_owned()]) && full.asked_for(&[]));
        assert!(!full.asked_for(&["b".to_owned(), "c".to_owned()]));
    }

    #[test]
    fn nothing_of_a_token_is_shown() {
        let shown = format!("{:?}", tokens(FULL));
        assert_eq!(shown, r#"Tokens { issuer: "https://as", .. }"#);
    }

    #[tokio::test]
    async fn an_upstream_has_one_login_and_it_outlives_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        {
            let keep = Keep::new(Some(Arc::new(Store::open(&path).await.unwrap())));
            keep.put_tokens("k", &Tokens { issuer: "https://old".to_owned(), ..tokens(FULL) }).await;
            keep.put_tokens("k", &tokens(FULL)).await;
            keep.put_client("k", "https://as", "http://r", &tokens(FULL).client, None).await;
        }
        let keep = Keep::new(Some(Arc::new(Store::open(&path).await.unwrap())));
        assert_eq!(keep.tokens("k").await, Some(tokens(FULL)));
        assert_eq!(keep.tokens("other").await, None);
        assert_eq!(keep.client("k", "https://as", "http://r").await, Some(tokens(FULL).client));
        assert_eq!(keep.client("k", "https://other", "http://r").await, None);
        keep.forget("k").await;
        keep.forget_client("k", "https://as", "http://r").await;
        assert_eq!(keep.tokens("k").await, None);
        assert_eq!(keep.client("k", "https://as", "http://r").await, None);
    }

    #[test]
    fn a_refusal_says_why() {
        let status = http::StatusCode::BAD_REQUEST;
        let body = br#"{"error":"invalid_grant","error_description":"too\nlate"}"#;
        assert_eq!(refusal(status, body), "invalid_grant: toolate");
        assert_eq!(refusal(status, b"<html>"), "HTTP 400 Bad Request");
    }
}
