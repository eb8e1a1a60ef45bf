//! Where the metadata of a server and of its authorization server are, and what is believed of them. No I/O.

use super::fetch::is_loopback;
use http::Uri;
use serde_json::Value;

/// What a server says of itself as a protected resource (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Protected {
    /// Its identifier, exactly as it is published.
    pub(super) resource: String,
    /// The issuer that is asked for tokens: the first that it names.
    pub(super) issuer: String,
    pub(super) scopes: Option<Vec<String>>,
}

/// What an authorization server says of itself (RFC 8414).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    pub(super) registration_endpoint: Option<String>,
    pub(super) scopes: Option<Vec<String>>,
    /// How a client may prove itself at the token endpoint; `None` where nothing is said.
    pub(super) token_methods: Option<Vec<String>>,
    /// Whether the URL of a document may be the client's id.
    pub(super) metadata_documents: bool,
    /// Whether it names itself in each redirect (RFC 9207).
    pub(super) names_itself: bool,
}

/// Where a server's metadata may be, in the order to look: where the challenge says, else below its path, else at
/// its root.
pub(super) fn resource_places(server: &Uri, told: Option<&str>) -> Vec<String> {
    if let Some(told) = told {
        return vec![told.to_owned()];
    }
    let root = format!("{}/.well-known/oauth-protected-resource", origin(server));
    match server.path() {
        "" | "/" => vec![root],
        path => vec![format!("{root}{path}"), root],
    }
}

/// What a server that publishes no metadata is taken to be: its own authorization server, as before RFC 9728.
pub(super) fn unpublished(server: &Uri) -> Protected {
    Protected { resource: server.to_string(), issuer: origin(server), scopes: None }
}

/// Reads a server's metadata.
///
/// # Errors
/// Why it is not believed: it may belong to another server, whose tokens would then go to this one.
pub(super) fn protected(body: &[u8], server: &Uri) -> Result<Protected, String> {
    let value = object(body)?;
    let resource = text(&value, "resource").ok_or("its metadata names no `resource`")?;
    if !covers(&resource, server) {
        return Err(format!("its metadata is about {resource:?}, which is not {server}"));
    }
    let servers = list(&value, "authorization_servers").unwrap_or_default();
    let issuer = servers.into_iter().next().ok_or("its metadata names no `authorization_servers`")?;
    Ok(Protected { resource, issuer, scopes: list(&value, "scopes_supported") })
}

/// Whether a resource is the server at a URL, or a part of its host that the URL lies in.
fn covers(resource: &str, server: &Uri) -> bool {
    let Ok(uri) = resource.parse::<Uri>() else { return false };
    let same = |pick: fn(&Uri) -> Option<&str>| match (pick(&uri), pick(server)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    };
    let base = uri.path().trim_end_matches('/');
    let below = server.path().strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    !resource.contains('#')
        && same(Uri::scheme_str)
        && same(Uri::host)
        && port(&uri) == port(server)
        && below
        && uri.query().is_none_or(|query| server.query() == Some(query))
}

fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or_else(|| if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

/// Where an authorization server's metadata may be, in the order to look.
///
/// # Errors
/// When the issuer is no URL.
pub(super) fn server_places(issuer: &str) -> Result<Vec<String>, String> {
    let uri: Uri = issuer.parse().map_err(|_| format!("{issuer:?} is no issuer: it is no URL"))?;
    if uri.scheme().is_none() || uri.query().is_some() || issuer.contains('#') {
        return Err(format!("{issuer:?} is no issuer: it must be a URL without query and fragment"));
    }
    let origin = origin(&uri);
    Ok(match uri.path().trim_end_matches('/') {
        "" => vec![
            format!("{origin}/.well-known/oauth-authorization-server"),
            format!("{origin}/.well-known/openid-configuration"),
        ],
        path => vec![
            format!("{origin}/.well-known/oauth-authorization-server{path}"),
            format!("{origin}/.well-known/openid-configuration{path}"),
            format!("{origin}{path}/.well-known/openid-configuration"),
        ],
    })
}

/// Reads an authorization server's metadata.
///
/// # Errors
/// Why it is not used: another issuer than the one that was asked, no S256, or no endpoints.
pub(super) fn server(body: &[u8], issuer: &str) -> Result<Server, String> {
    let value = object(body)?;
    let named = text(&value, "issuer").unwrap_or_default();
    // Compared as they are written: two that only look alike are two.
    if named != issuer {
        return Err(format!(
            "the authorization server {issuer:?} publishes metadata of the issuer {named:?}"
        ));
    }
    let proofs = list(&value, "code_challenge_methods_supported").unwrap_or_default();
    if !proofs.iter().any(|proof| proof == "S256") {
        return Err(format!(
            "the authorization server {issuer:?} does not say that it checks PKCE with S256"
        ));
    }
    let endpoint = |name: &str| {
        text(&value, name).ok_or_else(|| format!("the authorization server {issuer:?} names no `{name}`"))
    };
    Ok(Server {
        authorization_endpoint: endpoint("authorization_endpoint")?,
        token_endpoint: endpoint("token_endpoint")?,
        registration_endpoint: text(&value, "registration_endpoint"),
        scopes: list(&value, "scopes_supported"),
        token_methods: list(&value, "token_endpoint_auth_methods_supported"),
        metadata_documents: value["client_id_metadata_document_supported"] == true,
        names_itself: value["authorization_response_iss_parameter_supported"] == true,
        issuer: named,
    })
}

/// A URL that a server told, where it may be asked: https, or plain HTTP on this machine. Nothing on this machine
/// may be asked for a server elsewhere (`near` is false), or that server could have its neighbours here asked.
///
/// # Errors
/// Why it may not.
pub(super) fn trusted(url: &str, near: bool) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    let local = is_loopback(&uri);
    let safe = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => local,
        _ => false,
    };
    if !safe || uri.host().is_none_or(str::is_empty) {
        return Err(format!("{url:?} is not asked: only https:// is, and http:// on this machine"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("{url:?} is not asked: it holds credentials"));
    }
    if local && !near {
        return Err(format!("{url:?} is not asked: a server elsewhere has no business on this machine"));
    }
    Ok(uri)
}

fn origin(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}", uri.scheme_str().unwrap_or("https"))
}

fn object(body: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(body).map_err(|_| "its metadata is no JSON".to_owned())?;
    if value.is_object() { Ok(value) } else { Err("its metadata is no JSON object".to_owned()) }
}

fn text(value: &Value, name: &str) -> Option<String> {
    value[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn list(value: &Value, name: &str) -> Option<Vec<String>> {
    let items = value[name].as_array()?;
    Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn metadata_is_looked_for_in_the_specified_order() {
        let server = uri("https://h:1/a/mcp");
        assert_eq!(resource_places(&server, Some("https://x/m")), ["https://x/m"]);
        assert_eq!(
            resource_places(&server, None),
            [
                "https://h:1/.well-known/oauth-protected-resource/a/mcp",
                "https://h:1/.well-known/oauth-protected-resource"
            ]
        );
        assert_eq!(resource_places(&uri("https://h"), None).len(), 1);
        assert_eq!(
            server_places("https://as/t").unwrap(),
            [
                "https://as/.well-known/oauth-authorization-server/t",
                "https://as/.well-known/openid-configuration/t",
                "https://as/t/.well-known/openid-configuration"
            ]
        );
        assert_eq!(
            server_places("https://as/").unwrap(),
            [
                "https://as/.well-known/oauth-authorization-server",
                "https://as/.well-known/openid-configuration"
            ]
        );
        assert!(server_places("https://as?x=1").is_err());
        assert!(server_places("as").is_err());
    }

    #[test]
    fn a_resource_covers_its_own_url_and_what_lies_below() {
        let server = uri("https://h/a/mcp");
        for (resource, covered) in [
            ("https://h/a/mcp", true),
            ("https://H:443/a/", true),
            ("https://h", true),
            ("http://h/a/mcp", false),
            ("https://h:8443/a/mcp", false),
            ("https://h/a/m", false),
            ("https://h/a/mcp/b", false),
            ("https://h/a/mcp#x", false),
            ("https://evil.example/a/mcp", false),
            ("nonsense", false),
        ] {
            assert_eq!(covers(resource, &server), covered, "{resource}");
        }
    }

    #[test]
    fn a_resource_is_kept_as_it_is_published() {
        let body = json!({"resource": "https://h", "authorization_servers": ["https://as", "https://b"]});
        let read = protected(body.to_string().as_bytes(), &uri("https://h/mcp")).unwrap();
        assert_eq!((read.resource.as_str(), read.issuer.as_str()), ("https://h", "https://as"));
        assert_eq!(read.scopes, None);
        assert!(protected(br#"{"resource":"https://h"}"#, &uri("https://h/mcp")).is_err());
        assert!(protected(b"[]", &uri("https://h/mcp")).is_err());
    }

    #[test]
    fn issuers_are_compared_as_they_are_written_and_s256_must_be_named() {
        let mut body = json!({
            "issuer": "https://as", "authorization_endpoint": "https://as/a", "token_endpoint": "https://as/t",
            "code_challenge_methods_supported": ["plain", "S256"],
        });
        let read = |body: &Value, issuer| server(body.to_string().as_bytes(), issuer);
        assert_eq!(read(&body, "https://as").unwrap().token_endpoint, "https://as/t");
        assert!(read(&body, "https://as/").is_err());
        body["code_challenge_methods_supported"] = json!(["plain"]);
        assert!(read(&body, "https://as").is_err());
    }

    #[test]
    fn only_safe_places_are_asked() {
        for (url, near, good) in [
            ("https://as/x", false, true),
            ("http://as/x", true, false),
            ("http://localhost:1/x", true, true),
            ("http://[::1]:1/x", true, true),
            ("http://127.0.0.1/x", false, false),
            ("https://localhost/x", false, false),
            ("https://u@as/x", false, false),
            ("file:///etc/passwd", true, false),
            ("javascript:alert(1)", true, false),
            ("/x", true, false),
        ] {
            assert_eq!(trusted(url, near).is_ok(), good, "{url}");
        }
    }
}
