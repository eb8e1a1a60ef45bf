//! As which client Seawall comes to an authorization server, and how it proves that. No I/O.

use super::{discovery::Server, flow::encoded};
use crate::config::{OAuth, Secret};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use serde_json::{Value, json};

/// A client of one authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) secret: Option<Secret>,
    pub(super) method: Method,
}

/// How a client proves itself at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Nothing,
    Basic,
    Post,
}

/// Where a client comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It is known already.
    Known(Client),
    /// It registers itself at this endpoint.
    Register(String),
}

/// The client to be: the configured one, else the configured document where the server reads such, else one that
/// registers itself.
///
/// # Errors
/// When the server wants a client that it was told of before.
pub(super) fn choose(config: &OAuth, server: &Server) -> Result<Choice, String> {
    if let Some(id) = &config.client_id {
        let secret = config.client_secret.clone();
        let method = Method::choose(None, server.token_methods.as_deref(), secret.is_some());
        return Ok(Choice::Known(Client { id: id.clone(), secret, method }));
    }
    if let Some(document) = config.client_metadata.as_ref().filter(|_| server.metadata_documents) {
        return Ok(Choice::Known(Client { id: document.clone(), secret: None, method: Method::Nothing }));
    }
    server.registration_endpoint.clone().map(Choice::Register).ok_or_else(|| {
        format!(
            "the authorization server {:?} lets no client register itself: register Seawall there and set \
             `oauth.client_id` of this server",
            server.issuer
        )
    })
}

/// What a client that registers itself says of itself (RFC 7591).
pub(super) fn request(redirect: &str, server: &Server) -> Value {
    let offered = |name: &str| {
        server.token_methods.as_ref().is_some_and(|methods| methods.iter().any(|method| method == name))
    };
    // A program on the user's own machine keeps no secret from the user: none is wanted where that will do.
    let methods = [Method::Nothing, Method::Basic, Method::Post];
    let method = methods.into_iter().find(|method| offered(method.name())).unwrap_or(Method::Basic);
    json!({
        "client_name": "Seawall",
        "application_type": "native",
        "redirect_uris": [redirect],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method.name(),
    })
}

/// Reads the answer to a registration: the client, and when its secret expires, in Unix seconds.
///
/// # Errors
/// When there is no client in it.
pub(super) fn registered(body: &[u8], server: &Server) -> Result<(Client, Option<i64>), String> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|_| "the authorization server answered the registration with no JSON".to_owned())?;
    let id = value["client_id"].as_str().filter(|id| !id.is_empty());
    let id = id.ok_or("the authorization server answered the registration without a `client_id`")?;
    let secret = value["client_secret"].as_str().filter(|secret| !secret.is_empty()).map(Secret::new);
    let stated = value["token_endpoint_auth_method"].as_str();
    let method = Method::choose(stated, server.token_methods.as_deref(), secret.is_some());
    let expires = value["client_secret_expires_at"].as_i64().filter(|at| *at > 0 && secret.is_some());
    Ok((Client { id: id.to_owned(), secret, method }, expires))
}

impl Method {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Basic => "client_secret_basic",
            Self::Post => "client_secret_post",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Nothing, Self::Basic, Self::Post].into_iter().find(|method| method.name() == name)
    }

    /// The method that was `stated` for the client, else the best that the server takes; Basic where it says
    /// nothing.
    fn choose(stated: Option<&str>, supported: Option<&[String]>, has_secret: bool) -> Self {
        if !has_secret {
            return Self::Nothing;
        }
        if let Some(method) = stated.and_then(Self::named) {
            return method;
        }
        let takes =
            |method: &Self| supported.is_some_and(|names| names.iter().any(|name| name == method.name()));
        [Self::Basic, Self::Post, Self::Nothing].into_iter().find(takes).unwrap_or(Self::Basic)
    }
}

impl Client {
    /// Puts into a form of the token endpoint what proves the client, and gives the header that goes with it.
    pub(super) fn prove(&self, form: &mut Vec<(&'static str, String)>) -> Option<HeaderValue> {
        match (&self.secret, self.method) {
            (Some(secret), Method::Basic) => {
                let pair = format!("{}:{}", encoded(&self.id), encoded(secret.expose()));
                let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
                value.set_sensitive(true);
                Some(value)
            }
            (Some(secret), Method::Post) => {
                form.push(("client_id", self.id.clone()));
                form.push(("client_secret", secret.expose().to_owned()));
                None
            }
            (_, Method::Nothing) | (None, _) => {
                form.push(("client_id", self.id.clone()));
                None
            }
        }
    }

    /// The client as it is kept.
    pub(super) fn to_json(&self) -> Value {
        let secret = self.secret.as_ref().map(Secret::expose);
        json!({"id": self.id, "secret": secret, "method": self.method.name()})
    }

    /// A client that was kept.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            id: value["id"].as_str()?.to_owned(),
            secret: value["secret"].as_str().map(Secret::new),
            method: Method::named(value["method"].as_str()?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(methods: Option<&[&str]>, registration: bool, documents: bool) -> Server {
        Server {
            issuer: "https://as".to_owned(),
            authorization_endpoint: "https://as/a".to_owned(),
            token_endpoint: "https://as/t".to_owned(),
            registration_endpoint: registration.then(|| "https://as/r".to_owned()),
            scopes: None,
            token_methods: methods.map(|methods| methods.iter().map(|&name| name.to_owned()).collect()),
            metadata_documents: documents,
            names_itself: false,
        }
    }

    #[test]
    fn the_configured_client_comes_first_then_the_document_then_a_registration() {
        let document =
            OAuth { client_metadata: Some("https://me/client.json".to_owned()), ..OAuth::default() };
        let configured = OAuth { client_id: Some("me".to_owned()), ..document.clone() };
        let Ok(Choice::Known(client)) = choose(&configured, &server(None, true, true)) else { panic!() };
        assert_eq!((client.id.as_str(), client.method), ("me", Method::Nothing));
        let Ok(Choice::Known(client)) = choose(&document, &server(None, true, true)) else { panic!() };
        assert_eq!(client.id, "https://me/client.json");
        let register = Ok(Choice::Register("https://as/r".to_owned()));
        assert_eq!(choose(&document, &server(None, true, false)), register);
        assert!(
            choose(&OAuth::default(), &server(None, false, true)).unwrap_err().contains("oauth.client_id")
        );
    }

    #[test]
    fn the_method_is_one_that_both_sides_know() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        for (stated, supported, secret, method) in [
            (None, None, false, Method::Nothing),
            (None, None, true, Method::Basic),
            (None, Some(names(&["client_secret_post"])), true, Method::Post),
            (None, Some(names(&["client_secret_post", "client_secret_basic"])), true, Method::Basic),
            (None, Some(names(&["none"])), true, Method::Nothing),
            (Some("client_secret_post"), Some(names(&["client_secret_basic"])), true, Method::Post),
            (Some("private_key_jwt"), None, true, Method::Basic),
        ] {
            assert_eq!(Method::choose(stated, supported.as_deref(), secret), method, "{supported:?}");
        }
        let asked = |methods| request("http://r", &server(methods, true, false));
        assert_eq!(asked(Some(&["client_secret_post", "none"]))["token_endpoint_auth_method"], "none");
        assert_eq!(asked(Some(&["client_secret_post"]))["token_endpoint_auth_method"], "client_secret_post");
        assert_eq!(asked(None)["token_endpoint_auth_method"], "client_secret_basic");
        assert_eq!(asked(None)["application_type"], "native");
    }

    #[test]
    fn a_client_proves_itself_as_it_registered() {
        let body = br#"{"client_id":"a b","client_secret":"s:1","client_secret_expires_at":5}"#;
        let (client, expires) = registered(body, &server(None, true, false)).unwrap();
        assert_eq!((client.method, expires), (Method::Basic, Some(5)));
        assert_eq!(Client::from_json(&client.to_json()), Some(client.clone()));
        let mut form = Vec::new();
        let header = client.prove(&mut form).unwrap();
        assert_eq!(header, format!("Basic {}", STANDARD.encode("a%20b:s%3A1")));
        assert!(form.is_empty());
        Client { method: Method::Post, ..client.clone() }.prove(&mut form);
        assert_eq!(form.len(), 2);
        form.clear();
        assert!(Client { secret: None, method: Method::Nothing, ..client }.prove(&mut form).is_none());
        assert_eq!(form, [("client_id", "a b".to_owned())]);
        assert!(registered(b"{}", &server(None, true, false)).is_err());
    }
}
