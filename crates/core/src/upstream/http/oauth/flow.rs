//! One login, from the URL that a person opens to the code that comes back. No I/O.

use super::{
    discovery::{Protected, Server},
    registration::Client,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::fmt;

/// The scope that a refresh token is had by, where a server knows it.
const OFFLINE: &str = "offline_access";

/// A login that waits for its redirect.
pub(crate) struct Attempt {
    /// What the redirect is known again by; nobody can guess it.
    pub(crate) state: String,
    pub(super) verifier: String,
    pub(super) redirect: String,
    pub(super) resource: String,
    /// What is asked for; nothing where the server is to choose.
    pub(super) scopes: Vec<String>,
    pub(super) server: Server,
    pub(super) client: Client,
}

/// What the browser brought back from the authorization server.
#[derive(Clone, Default)]
pub struct Redirected {
    /// Which login it belongs to.
    pub state: String,
    /// What tokens are given for.
    pub code: Option<String>,
    /// Who says so.
    pub issuer: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("issuer", &self.server.issuer).finish_non_exhaustive()
    }
}

impl fmt::Debug for Redirected {
    /// Without the code and the state: both are as good as a password for a moment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirected").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Attempt {
    pub(super) fn new(
        redirect: &str,
        resource: String,
        scopes: Vec<String>,
        server: Server,
        client: Client,
    ) -> Self {
        Self {
            state: random(),
            verifier: random(),
            redirect: redirect.to_owned(),
            resource,
            scopes,
            server,
            client,
        }
    }

    /// The URL at which a person says yes.
    pub(crate) fn url(&self) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&self.verifier));
        let mut fields = vec![
            ("response_type", "code".to_owned()),
            ("client_id", self.client.id.clone()),
            ("redirect_uri", self.redirect.clone()),
            ("state", self.state.clone()),
            ("code_challenge", challenge),
            ("code_challenge_method", "S256".to_owned()),
            ("resource", self.resource.clone()),
        ];
        if !self.scopes.is_empty() {
            fields.push(("scope", self.scopes.join(" ")));
        }
        if self.scopes.iter().any(|scope| scope == OFFLINE) {
            // OpenID servers give no refresh token without having asked.
            fields.push(("prompt", "consent".to_owned()));
        }
        let endpoint = &self.server.authorization_endpoint;
        let joint = if endpoint.contains('?') { '&' } else { '?' };
        format!("{endpoint}{joint}{}", form(&fields))
    }

    /// The code that came back, where the server that was asked sent it (RFC 9207).
    ///
    /// # Errors
    /// Why it is not used.
    pub(super) fn code<'r>(&self, answer: &'r Redirected) -> Result<&'r str, String> {
        let issuer = &self.server.issuer;
        match &answer.issuer {
            Some(named) if named != issuer => {
                return Err(format!("the redirect came from {named:?} instead of {issuer:?}"));
            }
            None if self.server.names_itself => {
                return Err(format!("the redirect does not say that it comes from {issuer:?}"));
            }
            Some(_) | None => {}
        }
        if let Some(error) = &answer.error {
            return Err(format!("the authorization server refused: {}", shown(error)));
        }
        answer.code.as_deref().ok_or_else(|| "the redirect brought no code".to_owned())
    }

    /// The form that is exchanged for tokens, without what proves the client.
    pub(super) fn exchange(&self, code: &str) -> Vec<(&'static str, String)> {
        vec![
            ("grant_type", "authorization_code".to_owned()),
            ("code", code.to_owned()),
            ("redirect_uri", self.redirect.clone()),
            ("code_verifier", self.verifier.clone()),
            ("resource", self.resource.clone()),
        ]
    }
}

/// What to ask for: what the configuration says, else what the refusal named, else all that the resource has; and
/// what was asked for before besides, so that a step up loses nothing.
pub(super) fn scopes(
    configured: &[String],
    challenged: Option<&[String]>,
    before: &[String],
    resource: &Protected,
    server: &Server,
) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    let mut add = |more: &[String]| {
        for scope in more {
            if !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
    };
    add(configured);
    match (challenged, &resource.scopes) {
        (Some(challenged), _) => add(challenged),
        (None, Some(all)) if configured.is_empty() => add(all),
        (None, _) => {}
    }
    add(before);
    // Asked for alone it would stand in the place of what the server gives to those who ask for nothing.
    let offered = server.scopes.as_ref().is_some_and(|scopes| scopes.iter().any(|scope| scope == OFFLINE));
    if offered && configured.is_empty() && !scopes.is_empty() && !scopes.iter().any(|scope| scope == OFFLINE)
    {
        scopes.push(OFFLINE.to_owned());
    }
    scopes
}

/// Fields as `application/x-www-form-urlencoded`.
pub(super) fn form(fields: &[(&str, String)]) -> String {
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    pairs.join("&")
}

/// A text of which nothing but unreserved characters stands for itself.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A foreign text as a message may show it.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// 256 random bits, as 43 characters that need no encoding.
fn random() -> String {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::registration::Method, *};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn server(names_itself: bool, scopes: Option<Vec<String>>) -> Server {
        Server {
            issuer: "https://as".to_owned(),
            authorization_endpoint: "https://as/a?tenant=1".to_owned(),
            token_endpoint: "https://as/t".to_owned(),
            registration_endpoint: None,
            scopes,
            token_methods: None,
            metadata_documents: false,
            names_itself,
        }
    }

    fn attempt(names_itself: bool, scopes: &[&str]) -> Attempt {
        let client = Client { id: "c d".to_owned(), secret: None, method: Method::Nothing };
        let resource = "https://h/mcp".to_owned();
        Attempt::new(
            "http://127.0.0.1:1/oauth/callback",
            resource,
            names(scopes),
            server(names_itself, None),
            client,
        )
    }

    #[test]
    fn the_url_says_everything_and_only_the_challenge_of_the_verifier() {
        let attempt = attempt(false, &["a", "b"]);
        let url = attempt.url();
        assert!(url.starts_with(
            "https://as/a?tenant=1&response_type=code&client_id=c%20d&redirect_uri=http%3A%2F%2F"
        ));
        for part in ["&code_challenge_method=S256", "&resource=https%3A%2F%2Fh%2Fmcp", "&scope=a%20b"] {
            assert!(url.contains(part), "{part}: {url}");
        }
        assert!(!url.contains(&attempt.verifier) && !url.contains("prompt="));
        assert_eq!((attempt.verifier.len(), attempt.state.len()), (43, 43));
        assert!(!self::attempt(false, &[]).url().contains("scope="));
        assert!(self::attempt(false, &["offline_access"]).url().contains("&prompt=consent"));
    }

    #[test]
    fn a_redirect_counts_only_from_the_issuer_that_was_asked() {
        let answer = |issuer: Option<&str>| Redirected {
            code: Some("x".to_owned()),
            issuer: issuer.map(str::to_owned),
            ..Redirected::default()
        };
        for (names_itself, issuer, good) in [
            (true, Some("https://as"), true),
            (false, Some("https://as"), true),
            (false, None, true),
            (true, None, false),
            (true, Some("https://as/"), false),
            (false, Some("https://evil.example"), false),
        ] {
            let code = attempt(names_itself, &[]).code(&answer(issuer)).map(str::to_owned);
            assert_eq!(code.is_ok(), good, "{names_itself} {issuer:?}");
        }
        let refused = Redirected { error: Some("access_denied\n".to_owned()), ..answer(None) };
        assert!(attempt(false, &[]).code(&refused).unwrap_err().ends_with("access_denied"));
        assert!(attempt(false, &[]).code(&Redirected::default()).is_err());
    }

    #[test]
    fn scopes_come_from_the_refusal_then_from_the_resource_and_nothing_is_lost() {
        let resource = |scopes: Option<&[&str]>| Protected {
            resource: String::new(),
            issuer: String::new(),
            scopes: scopes.map(names),
        };
        let all = resource(Some(&["r", "w"]));
        let plain = server(false, None);
        let none = Vec::new();
        assert_eq!(scopes(&none, Some(&names(&["w"])), &none, &all, &plain), ["w"]);
        assert_eq!(scopes(&none, None, &none, &all, &plain), ["r", "w"]);
        assert!(scopes(&none, None, &none, &resource(None), &plain).is_empty());
        assert_eq!(scopes(&none, Some(&names(&["w"])), &names(&["r", "w"]), &all, &plain), ["w", "r"]);
        assert_eq!(scopes(&names(&["c"]), None, &none, &all, &plain), ["c"]);
        assert_eq!(scopes(&names(&["c"]), Some(&names(&["w"])), &none, &all, &plain), ["c", "w"]);

        let offline = server(false, Some(names(&["r", "offline_access"])));
        assert_eq!(scopes(&none, Some(&names(&["w"])), &none, &all, &offline), ["w", "offline_access"]);
        assert!(scopes(&none, None, &none, &resource(None), &offline).is_empty());
    }
}
