//! What is known of clients: how long each waits for an answer, and what keeps it waiting. A client says its name in
//! `clientInfo`; the name decides about time only, never about authority.

use crate::config::{self, Config};
use seawall_proto::era::Face;
use std::time::Duration;

/// How often a call says that it is still there, to a client that listens: well under the shortest limit that it
/// resets (60 s), and often enough to survive a lost one.
const BEAT: Duration = Duration::from_secs(8);
/// How long a client waits of which nothing is known: the common limit of 60 s, less what an answer needs.
const UNKNOWN: Duration = Duration::from_secs(50);

/// What holds for a client's calls, unless it says otherwise itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// By when it wants an answer; without one a call has its own deadline only.
    pub limit: Option<Duration>,
    /// How often a call that it asked for progress tells that it goes on.
    pub heartbeat: Option<Duration>,
}

/// Clients by their own names, and after how many seconds each gives a call up whatever it hears; less a margin.
/// None: progress keeps it waiting, or it waits for ever.
const KNOWN: [(&str, Option<u64>); 14] = [
    ("claude-code", None),
    ("opencode", None),
    ("Visual Studio Code", None),
    ("seawall", None),
    ("codex-mcp-client", Some(285)),
    ("gemini-cli-mcp-client", Some(570)),
    ("Q DEV CLI", Some(110)),
    ("goose", Some(285)),
    ("Cline", Some(50)),
    ("@cline/core", Some(50)),
    ("Roo Code", Some(50)),
    ("continue-client", Some(50)),
    ("Zed", Some(50)),
    ("claude-ai", Some(50)),
];

/// The profile of a client: as configured for its name, else as it is known, else the safe one.
pub fn of(face: &Face, config: &Config) -> Profile {
    let name = face.name();
    let name = name.as_deref().unwrap_or_default();
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    let limit = known.map_or(Some(UNKNOWN), |(_, seconds)| seconds.map(Duration::from_secs));
    let configured = config.clients.iter().find(|client| client.name == name);
    let or = |own: Option<Duration>, default: Option<Duration>| match own {
        Some(Duration::ZERO) => None,
        Some(own) => Some(own),
        None => default,
    };
    let config::Client { limit: own, heartbeat, .. } = configured.cloned().unwrap_or_default();
    Profile { limit: or(own, limit), heartbeat: or(heartbeat, Some(BEAT)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_proto::Raw;

    #[test]
    fn a_client_is_known_by_its_name_and_configured_by_it() {
        let face = |name: &str| {
            let opening = serde_json::json!({"protocolVersion": "x", "clientInfo": {"name": name}});
            Face::of_initialize(&Raw::of(&opening)).unwrap()
        };
        let mut config = Config::default_for("/nowhere".into());
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (name, limit) in
            [("claude-code", None), ("codex-mcp-client", seconds(285)), ("never heard of", seconds(50))]
        {
            assert_eq!(of(&face(name), &config), Profile { limit, heartbeat: seconds(8) }, "{name}");
        }
        let client = |name: &str, limit, heartbeat| config::Client { name: name.into(), limit, heartbeat };
        config.clients = vec![client("mine", Some(Duration::ZERO), None), client("Cline", None, seconds(3))];
        assert_eq!(of(&face("mine"), &config), Profile { limit: None, heartbeat: seconds(8) });
        assert_eq!(of(&face("Cline"), &config), Profile { limit: seconds(50), heartbeat: seconds(3) });
    }
}
