//! What a server says when it refuses: the `Bearer` challenge of `WWW-Authenticate`.

use http::{HeaderMap, StatusCode, header};

/// A refusal that a login may help against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::upstream::http) struct Challenge {
    /// Where the metadata of the protected resource is.
    pub(super) metadata: Option<String>,
    /// The scopes that are wanted for what was asked.
    pub(super) scopes: Option<Vec<String>>,
    /// Whether the token was good and did not reach far enough.
    pub(super) insufficient: bool,
}

impl Challenge {
    /// The challenge in the head of an answer: any 401, and a 403 that says `insufficient_scope`.
    pub(in crate::upstream::http) fn of(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return None;
        }
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let bearer = values.flat_map(parse).find(|challenge| challenge.scheme == "bearer");
        let told = |name: &str| bearer.as_ref().and_then(|bearer| bearer.get(name));
        let insufficient = status == StatusCode::FORBIDDEN;
        if insufficient && told("error") != Some("insufficient_scope") {
            return None;
        }
        Some(Self {
            metadata: told("resource_metadata").map(str::to_owned),
            scopes: told("scope").map(scopes).filter(|scopes| !scopes.is_empty()),
            insufficient,
        })
    }
}

/// The scopes in a text that lists them.
pub(super) fn scopes(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// One challenge of the list that `WWW-Authenticate` is.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Parsed {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Challenges and their parameters are both told apart by commas: what is followed by `=` is a parameter.
fn parse(text: &str) -> Vec<Parsed> {
    let mut found: Vec<Parsed> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return found;
        }
        let (word, after) = rest.split_at(rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len()));
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(value) => {
                let (value, left) = parameter(value.trim_start_matches([' ', '\t']));
                if let Some(challenge) = found.last_mut() {
                    challenge.parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = left;
            }
            None => {
                found.push(Parsed { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// A parameter's value, quoted or not, and what comes after it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([' ', '\t', ',']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            plain => value.push(plain),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn challenge(status: u16, text: &'static str) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(text));
        Challenge::of(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn the_bearer_challenge_is_found_among_others() {
        let text =
            r#"Basic realm="a, b=\"c\"", bearer Error = "x",scope="a  b", resource_metadata=https://x/y"#;
        let found = challenge(401, text).unwrap();
        assert_eq!(found.scopes, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(found.metadata.as_deref(), Some("https://x/y"));
        assert!(!found.insufficient);
    }

    #[test]
    fn any_401_is_a_wish_to_log_in_and_a_403_only_where_it_says_so() {
        assert_eq!(Challenge::of(StatusCode::UNAUTHORIZED, &HeaderMap::new()), Some(Challenge::default()));
        assert_eq!(challenge(403, "Bearer error=\"invalid_token\""), None);
        assert_eq!(challenge(200, "Bearer error=\"insufficient_scope\""), None);
        assert!(challenge(403, "Bearer error=\"insufficient_scope\", scope=\"w\"").unwrap().insufficient);
    }

    #[test]
    fn what_is_malformed_ends() {
        for text in ["=", "a=b", ",,", "Bearer scope=\"open", "Negotiate abc==", "Bearer scope=\"a\\"] {
            parse(text);
        }
        assert_eq!(challenge(401, "Bearer scope=\"\"").unwrap().scopes, None);
    }
}
