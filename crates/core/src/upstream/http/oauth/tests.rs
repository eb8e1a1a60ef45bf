//! Whole logins, at a server that is its own authorization server.

use super::*;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const CALLBACK: &str = "http://127.0.0.1:1/oauth/callback";

/// A server that answers by the path, and what it was asked.
struct Fake {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    life: Life,
}

impl Fake {
    async fn start() -> Self {
        let life = Life::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (base, log) = (url.clone(), Arc::clone(&asked));
        life.spawn(Task::Housekeeping, async move {
            let mut given = 0;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (head, body) = read(&mut stream).await;
                let line = head.split(" HTTP/1.1").next().unwrap_or_default().to_owned();
                given += u32::from(line == "POST /token");
                let (status, header, answer) = answer(&base, &line, given);
                log.lock().unwrap().push(format!("{line} {body}"));
                let length = answer.len();
                let text = format!(
                    "HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
                );
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        Self { url, asked, life }
    }

    fn authorization(&self) -> Arc<Authorization> {
        let text = format!("[servers.s]\nurl = \"{}/mcp\"", self.url);
        let sources = config::Sources {
            own: Some(config::Source { path: PathBuf::from("seawall.toml"), text }),
            foreign: Vec::new(),
            environment: &|_| None,
            overrides: Vec::new(),
            state_default: PathBuf::from("/nowhere"),
            base: PathBuf::new(),
        };
        let (config, _) = config::lower(&sources).unwrap();
        let uri = format!("{}/mcp", self.url).parse().unwrap();
        let keep = Keep::default();
        Authorization::of(&config.upstreams[0], &uri, &HeaderMap::new(), None, &keep, &self.life).unwrap()
    }

    async fn log_in(&self, authorization: &Authorization) {
        let attempt = authorization.begin(CALLBACK).await.unwrap();
        let answer = Redirected {
            state: attempt.state.clone(),
            code: Some("k".to_owned()),
            issuer: Some(self.url.clone()),
            error: None,
        };
        authorization.finish(attempt, &answer).await.unwrap();
    }

    /// The bodies of what was asked there.
    fn bodies(&self, line: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter_map(|asked| asked.strip_prefix(line)).map(|body| body.trim().to_owned()).collect()
    }
}

async fn read(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
            if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
                return (head.to_owned(), body.to_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            return (text, String::new());
        }
    }
}

fn answer(base: &str, line: &str, given: u32) -> (&'static str, &'static str, String) {
    let resource = format!("{base}/mcp");
    let good = |value: serde_json::Value| ("200 OK", "", value.to_string());
    match line {
        "POST /mcp" => {
            ("401 Unauthorized", "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n", String::new())
        }
        "GET /.well-known/oauth-protected-resource/mcp" => {
            good(json!({"resource": resource, "authorization_servers": [base], "scopes_supported": ["r"]}))
        }
        "GET /.well-known/oauth-authorization-server" => good(json!({
            "issuer": base,
            "authorization_endpoint": format!("{base}/authorize"),
            "token_endpoint": format!("{base}/token"),
            "registration_endpoint": format!("{base}/register"),
            "token_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
        })),
        "POST /register" => good(json!({"client_id": "c"})),
        "POST /token" => good(json!({
            "access_token": format!("t{given}"), "token_type": "Bearer", "refresh_token": "f", "expires_in": 3600,
        })),
        _ => ("404 Not Found", "", String::new()),
    }
}

fn wants(scope: &str) -> Challenge {
    Challenge { metadata: None, scopes: Some(vec![scope.to_owned()]), insufficient: true }
}

#[tokio::test]
async fn a_login_gives_tokens_and_they_are_renewed_once_for_all() {
    let fake = Fake::start().await;
    let authorization = fake.authorization();
    assert_eq!(authorization.to_send().await, None);
    fake.log_in(&authorization).await;
    let tokens = authorization.to_send().await.unwrap();
    assert_eq!(tokens.access.expose(), "t1");
    assert_eq!((tokens.client.id.as_str(), tokens.asked.join(" ")), ("c", "r".to_owned()));

    let refused = || authorization.instead(&tokens, Challenge::default());
    let (one, other) = tokio::join!(refused(), refused());
    assert_eq!([one, other].map(|renewed| renewed.unwrap().access.expose().to_owned()), ["t2", "t2"]);
    let asked = fake.bodies("POST /token");
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(
        asked[0].contains("grant_type=authorization_code&code=k&") && asked[0].contains("&code_verifier=")
    );
    assert!(asked[1].contains("grant_type=refresh_token&refresh_token=f&resource="), "{asked:?}");

    assert!(authorization.forget().await);
    assert_eq!(authorization.to_send().await, None);
}

#[tokio::test]
async fn a_step_up_asks_for_more_and_never_for_the_same_again() {
    let fake = Fake::start().await;
    let authorization = fake.authorization();
    fake.log_in(&authorization).await;
    let tokens = authorization.to_send().await.unwrap();
    assert_eq!(authorization.instead(&tokens, wants("w")).await, None);
    assert!(authorization.begin(CALLBACK).await.unwrap().url().ends_with("&scope=w%20r"));
    assert_eq!(authorization.instead(&tokens, wants("r")).await, None);
    let futile = authorization.begin(CALLBACK).await.unwrap_err();
    assert!(futile.contains("seawall logout s"), "{futile}");
}

#[tokio::test]
async fn a_redirect_from_elsewhere_gets_no_code_exchanged() {
    let fake = Fake::start().await;
    let authorization = fake.authorization();
    let attempt = authorization.begin(CALLBACK).await.unwrap();
    let answer = Redirected {
        code: Some("k".to_owned()),
        issuer: Some("https://evil.example".to_owned()),
        ..Redirected::default()
    };
    assert!(authorization.finish(attempt, &answer).await.is_err());
    assert!(fake.bodies("POST /token").is_empty());
}
