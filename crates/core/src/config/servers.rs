//! The tables `[servers.NAME]`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use seawall_proto::era::Pin;

use super::expand::{Expanded, expand};
use super::raw::{Faults, Item, Section, closest, quoted};
use super::terms::{self, Classes};
use super::timeouts::Bounds;
use super::{Effects, Kind, Note, OAuth, Secret, Sharing, ToolConfig, Transport, Upstream};
use super::{address, pool, values};

/// What the strings of servers are read with.
pub(super) struct Surroundings<'a> {
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    /// What relative paths are resolved against.
    pub(super) base: &'a Path,
}

/// What servers refer to by name.
pub(super) struct Named<'a> {
    pub(super) classes: &'a Classes,
    /// The limits of providers.
    pub(super) providers: &'a BTreeMap<String, usize>,
}

/// Words that other programs use, and what to write here.
const REMEDIES: [(&str, &str); 11] = [
    ("type", "leave it out, `command` or `url` says it; beside `url`, `transport` may say more"),
    ("disabled", "write `enabled = false`"),
    ("environment", "write `env`"),
    ("cmd", "write `command`"),
    ("httpUrl", "write `url`"),
    ("serverUrl", "write `url`"),
    ("uri", "write `url`"),
    ("http_headers", "write `headers`"),
    ("startup_timeout_sec", "write `start_timeout` with a unit, such as \"60s\""),
    ("tool_timeout_sec", "write `timeout` with a unit, such as \"50s\""),
    ("max_concurrency", "write `limit`"),
];

/// Keys that a server has and a tool has not.
const OF_THE_SERVER: [(&str, &str); 3] = [("retries", FOR_ALL), ("breaker", FOR_ALL), ("provider", FOR_ALL)];
const FOR_ALL: &str = "a server has it for all its tools: write it in the server's own table";

/// The least that results can be limited to, in bytes: what is said of the rest takes most of it.
pub const LEAST_RESULT: usize = 1 << 10;

const ERAS: [&str; 3] = ["auto", "legacy", "modern"];

/// Whether a server may have this name.
pub(super) fn good_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=32).contains(&name.len()) && name.chars().all(good) && !name.contains("__")
}

/// The nearest name that a server may have.
pub fn tame_name(name: &str) -> String {
    let mut tame = String::new();
    for c in name.chars() {
        let c = if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        if !(c == '_' && tame.ends_with('_')) {
            tame.push(c);
        }
    }
    tame.truncate(32);
    let tame = tame.trim_matches('_');
    if tame.is_empty() { "server".to_owned() } else { tame.to_owned() }
}

/// The form in which names are told apart: clients fold case, and take `-` for `_`.
pub(super) fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// Reads all servers of the own file, with what was written of the times around the tools of those that are used.
pub(super) fn servers(
    section: Section<'_>,
    surroundings: &Surroundings<'_>,
    named: &Named<'_>,
    faults: &mut Faults,
    notes: &mut Vec<Note>,
) -> (Vec<Upstream>, Vec<Bounds>) {
    let (mut upstreams, mut bounds) = (Vec::new(), Vec::new());
    let mut folded: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for (name, item) in section.named() {
        if !good_name(name) {
            let rule = "use 1 to 32 of A-Z a-z 0-9 _ - and no two underscores in a row";
            let message = format!("{name:?} is not a server's name: {rule}, such as {:?}", tame_name(name));
            item.refuse(faults, message);
        }
        if let Some((other, line)) = folded.get(&fold(name)) {
            let why = "because case and -/_ are not told apart";
            let message = format!("the same name as {other:?} in line {line}, {why}: rename one");
            item.refuse(faults, message);
        } else {
            folded.insert(fold(name), (name, item.place.line));
        }
        let Some(section) = item.section(faults) else { continue };
        let mut reader = Reader {
            surroundings,
            named,
            faults: &mut *faults,
            notes: &mut *notes,
            bounds: &mut bounds,
            needs: Vec::new(),
        };
        upstreams.extend(reader.server(name, section));
    }
    (upstreams, bounds)
}

/// Reads one server and gathers what it needs.
struct Reader<'r, 's> {
    surroundings: &'r Surroundings<'s>,
    named: &'r Named<'s>,
    faults: &'r mut Faults,
    notes: &'r mut Vec<Note>,
    bounds: &'r mut Vec<Bounds>,
    needs: Vec<String>,
}

impl Reader<'_, '_> {
    fn server(&mut self, name: &str, mut section: Section<'_>) -> Option<Upstream> {
        let kind = self.kind(&mut section);
        let oauth = section.take("oauth");
        if let (Some(item), Some(Kind::Stdio { .. })) = (&oauth, &kind) {
            item.refuse(self.faults, USELESS_ON_COMMAND);
        }
        let oauth = oauth.and_then(|item| self.oauth(&item, kind.as_ref()));
        let provider = section.take("provider").and_then(|item| self.provider(&item));
        let (faults, classes) = (&mut *self.faults, self.named.classes);
        let enabled = section.take("enabled").and_then(|item| item.flag(faults));
        let sharing = section.take("sharing").and_then(|item| sharing(&item, faults));
        let era = section.take("era").and_then(|item| era(&item, faults));
        let timeout = section.take("timeout").and_then(|item| values::given_duration(item, faults));
        let start_timeout = section.take("start_timeout").and_then(|item| values::some_time(&item, faults));
        let list_timeout = section.take("list_timeout").and_then(|item| values::some_time(&item, faults));
        let limit = section.take("limit").and_then(|item| values::count(&item, 1, faults));
        let trust_hints = section.take("trust_hints").and_then(|item| item.flag(faults));
        let stop_grace = section.take("stop_grace");
        if let (Some(item), Some(Kind::Http { .. })) = (&stop_grace, &kind) {
            item.refuse(faults, USELESS_ON_URL);
        }
        let stop_grace = stop_grace.and_then(|item| values::duration(&item, faults));
        let pin = section.take("pin").and_then(|item| item.flag(faults));
        let result_limit = section.take("result_limit").and_then(|item| result_limit(&item, faults));
        let pool = pool::pool(&mut section, kind.as_ref(), faults);
        let retries = section.take("retries").and_then(|item| terms::retries(&item, faults));
        let breaker = section.take("breaker").and_then(|item| terms::breaker(&item, faults));
        let terms::Read { terms, class, attempt } = terms::read(&mut section, classes, faults);
        let (tools, of_tools) = tools(section.take_section("tools", faults), classes, faults);
        section.finish(&REMEDIES, faults);
        if enabled.unwrap_or(true) {
            let own = Bounds { attempt, timeout: timeout.clone() };
            self.bounds.extend(of_tools.into_iter().map(|of_tool| of_tool.or(&own)));
            self.bounds.push(own);
        }

        let plain = Upstream::new(name.to_owned(), kind?);
        Some(Upstream {
            enabled: enabled.unwrap_or(plain.enabled),
            needs: std::mem::take(&mut self.needs),
            oauth,
            sharing: sharing.unwrap_or(plain.sharing),
            era: era.unwrap_or(plain.era),
            timeout: timeout.map_or(plain.timeout, |given| given.value),
            start_timeout: start_timeout.unwrap_or(plain.start_timeout),
            list_timeout: list_timeout.unwrap_or(plain.list_timeout),
            limit: limit.and_then(NonZeroUsize::new),
            provider,
            terms,
            class,
            retries: retries.unwrap_or(plain.retries),
            breaker: breaker.unwrap_or(plain.breaker),
            trust_hints: trust_hints.unwrap_or(plain.trust_hints),
            tools,
            stop_grace: stop_grace.unwrap_or(plain.stop_grace),
            pin: pin.unwrap_or(plain.pin),
            result_limit,
            pool,
            ..plain
        })
    }

    fn provider(&mut self, item: &Item<'_>) -> Option<String> {
        let name = item.text("\"glm\"", self.faults)?;
        let known = self.named.providers;
        if name.is_empty() {
            item.refuse(
                self.faults,
                "\"\" is no provider: write a name of [limits.providers], or leave it out",
            );
        } else if !known.contains_key(name) {
            let message = match closest(name, known.keys().map(String::as_str)) {
                Some(meant) => format!("{} has no limit: did you mean {meant:?}?", item.shown()),
                None => format!("has no effect before `limits.providers.{}` limits it", quoted(name)),
            };
            self.notes.push(item.place.note(message));
        }
        Some(name.to_owned())
    }

    fn kind(&mut self, section: &mut Section<'_>) -> Option<Kind> {
        let place = section.place();
        let command = section.take("command");
        let url = section.take("url");
        let of_command = ["args", "env", "cwd"].map(|name| section.take(name));
        let of_url = ["headers", "ca_file", "transport"].map(|name| section.take(name));
        match (command, url) {
            (Some(command), None) => {
                self.useless(&of_url, USELESS_ON_COMMAND);
                self.stdio(&command, of_command)
            }
            (None, Some(url)) => {
                self.useless(&of_command, USELESS_ON_URL);
                self.http(&url, of_url)
            }
            (Some(_), Some(url)) => {
                let message =
                    "stands beside `command`, and a server is either a program or remote: remove one";
                url.refuse(self.faults, message);
                None
            }
            (None, None) => {
                let message =
                    "has neither `command` nor `url`: write one, for a program or for a remote server";
                self.faults.push(place.fault(message));
                None
            }
        }
    }

    fn useless(&mut self, items: &[Option<Item<'_>>], message: &str) {
        for item in items.iter().flatten() {
            item.refuse(self.faults, message);
        }
    }

    fn stdio(&mut self, command: &Item<'_>, [args, env, cwd]: [Option<Item<'_>>; 3]) -> Option<Kind> {
        let program = self.filled(command, "\"uvx\"");
        let args = args
            .and_then(|item| item.texts("[\"-y\", \"server\"]", self.faults))
            .unwrap_or_default()
            .iter()
            .filter_map(|(item, text)| self.expanded(item, text))
            .map(|expanded| expanded.text)
            .collect();
        let mut variables = BTreeMap::new();
        for (name, item) in
            env.and_then(|item| item.section(self.faults)).into_iter().flat_map(Section::named)
        {
            if name.is_empty() || name.contains(['=', '\0']) {
                item.refuse(self.faults, "not a variable's name: it must not be empty nor hold `=`");
            }
            let item = item.hidden();
            if let Some(text) = item.text("\"8080\" in quotes", self.faults)
                && let Some(expanded) = self.expanded(&item, text)
            {
                variables.insert(name.to_owned(), Secret::new(expanded.text));
            }
        }
        let cwd = cwd.and_then(|item| self.filled(&item, "\"/srv/project\""));
        Some(Kind::Stdio {
            command: program_path(program?.text, self.surroundings.base),
            args,
            env: variables,
            cwd: cwd.map(|cwd| self.surroundings.base.join(cwd.text)),
        })
    }

    fn http(&mut self, url: &Item<'_>, [headers, ca_file, transport]: [Option<Item<'_>>; 3]) -> Option<Kind> {
        let address = self.filled(url, "\"https://example.com/mcp\"");
        if let Some(address) = &address
            && address.complete()
            && let Err(wrong) = address::check_url(&address.text)
        {
            url.refuse(self.faults, wrong);
        }
        let mut named: Vec<(String, Secret)> = Vec::new();
        for (name, item) in
            headers.and_then(|item| item.section(self.faults)).into_iter().flat_map(Section::named)
        {
            let item = item.hidden();
            if let Err(wrong) = address::check_header_name(name) {
                item.refuse(self.faults, wrong);
            }
            if let Some((other, _)) = named.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
                item.refuse(self.faults, format!("the same header as `{other}`: remove one of the two"));
            }
            let Some(text) = item.text("\"Bearer ${TOKEN}\"", self.faults) else { continue };
            let Some(expanded) = self.expanded(&item, text) else { continue };
            if let Err(wrong) = address::check_header_value(&expanded.text) {
                item.refuse(self.faults, wrong);
            }
            named.push((name.to_owned(), Secret::new(expanded.text)));
        }
        let certificates = ca_file.as_ref().and_then(|item| self.filled(item, "\"/etc/ssl/our-ca.pem\""));
        let address = address?.text;
        if let Some(item) = &ca_file
            && (address.starts_with("http://") || address.starts_with("ws://"))
        {
            item.refuse(
                self.faults,
                "has no use for a URL without TLS: remove it, or write https:// in `url`",
            );
        }
        let ca_file = certificates.map(|path| self.surroundings.base.join(path.text));
        let transport = match transport {
            Some(item) => self.transport(&item, &address)?,
            None => Transport::of(&address),
        };
        Some(Kind::Http { transport, url: address, headers: named, ca_file })
    }

    fn transport(&mut self, item: &Item<'_>, url: &str) -> Option<Transport> {
        let words = [("http", Transport::Streamable), ("sse", Transport::Sse)];
        let transport = values::choice(item, &words, self.faults)?;
        if Transport::of(url) == Transport::WebSocket {
            item.refuse(self.faults, "has no use beside a ws:// or wss:// URL: remove it");
        }
        Some(transport)
    }

    fn oauth(&mut self, item: &Item<'_>, kind: Option<&Kind>) -> Option<OAuth> {
        if let Some(Kind::Http { headers, .. }) = kind
            && headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        {
            item.refuse(self.faults, "has no use beside `headers.Authorization`: remove one of the two");
        }
        let mut section = item.section(self.faults)?;
        let [client_id, client_secret, client_metadata, scopes] =
            ["client_id", "client_secret", "client_metadata", "scopes"].map(|name| section.take(name));
        section.finish(&[("scope", "write `scopes`, a list")], self.faults);
        if let (None, Some(secret)) = (&client_id, &client_secret) {
            secret.refuse(self.faults, "is the secret of no client: write its `client_id` too");
        }
        let id = client_id.and_then(|item| self.filled(&item, "\"seawall\""));
        let secret = client_secret.and_then(|item| self.filled(&item.hidden(), "\"${CLIENT_SECRET}\""));
        let metadata = client_metadata.and_then(|item| {
            let url = self.filled(&item, "\"https://example.com/seawall.json\"")?;
            // A document at a root would make the whole host a client.
            let below = url.text.strip_prefix("https://").and_then(|rest| rest.split_once('/'));
            if url.complete() && below.is_none_or(|(host, path)| host.is_empty() || path.is_empty()) {
                item.refuse(self.faults, "is not the https:// URL of a document, with a path");
            }
            Some(url)
        });
        let mut wanted = Vec::new();
        for (item, scope) in scopes.and_then(|item| item.texts("[\"read\"]", self.faults)).unwrap_or_default()
        {
            let good = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
            if scope.is_empty() || !scope.bytes().all(good) {
                item.refuse(self.faults, format!("{} is not a scope: write one word each", item.shown()));
            }
            wanted.push(scope.to_owned());
        }
        Some(OAuth {
            client_id: id.map(|expanded| expanded.text),
            client_secret: secret.map(|expanded| Secret::new(expanded.text)),
            client_metadata: metadata.map(|expanded| expanded.text),
            scopes: wanted,
        })
    }

    /// A string that must not be empty once its variables are put in.
    fn filled(&mut self, item: &Item<'_>, example: &str) -> Option<Expanded> {
        let text = item.text(example, self.faults)?;
        let expanded = self.expanded(item, text)?;
        if expanded.text.is_empty() {
            item.refuse(self.faults, format!("{} is empty: write one such as {example}", item.shown()));
            return None;
        }
        Some(expanded)
    }

    fn expanded(&mut self, item: &Item<'_>, text: &str) -> Option<Expanded> {
        const FORMS: &str = "write ${NAME}, ${env:NAME} or ${NAME:-default}, or $${ for a plain ${";
        if text.contains('\0') {
            item.refuse(self.faults, "holds a NUL character, which nothing can be given: remove it");
            return None;
        }
        let expanded = expand(text, self.surroundings.environment);
        for strange in &expanded.strange {
            let strange = item.shown_part(&format!("${{{strange}}}"));
            item.refuse(self.faults, format!("{strange} is not a variable: {FORMS}"));
        }
        if expanded.unclosed {
            item.refuse(self.faults, format!("{} holds a ${{ without its }}: {FORMS}", item.shown()));
        }
        for name in &expanded.needs {
            if !self.needs.contains(name) {
                self.needs.push(name.clone());
            }
        }
        Some(expanded)
    }
}

const USELESS_ON_COMMAND: &str = "has no use beside `command`: remove it, or write `url` for a remote server";
const USELESS_ON_URL: &str = "has no use beside `url`: remove it, or write `command` for a program";

/// A program given as a relative path is meant from where its file stands; a bare name is looked up in
/// `PATH`.
pub(super) fn program_path(command: String, base: &Path) -> String {
    if !command.contains('/') {
        return command;
    }
    base.join(&command).into_os_string().into_string().unwrap_or(command)
}

fn sharing(item: &Item<'_>, faults: &mut Faults) -> Option<Sharing> {
    let words = [
        ("session", Sharing::Session),
        ("caller", Sharing::Caller),
        ("everyone", Sharing::Everyone),
        ("call", Sharing::Call),
    ];
    values::choice(item, &words, faults)
}

fn era(item: &Item<'_>, faults: &mut Faults) -> Option<Pin> {
    let text = item.text("\"auto\"", faults)?;
    let pin = text.parse::<Pin>().ok();
    if pin.is_none() {
        item.refuse(faults, values::not_among(&item.shown(), text, ERAS.into_iter()));
    }
    pin
}

/// Reads what is known about single tools, with what was written of the times around them.
fn tools(
    section: Section<'_>,
    classes: &Classes,
    faults: &mut Faults,
) -> (BTreeMap<String, ToolConfig>, Vec<Bounds>) {
    let words = [("none", Effects::None), ("idempotent", Effects::Idempotent), ("writes", Effects::Writes)];
    let (mut tools, mut bounds) = (BTreeMap::new(), Vec::new());
    for (name, item) in section.named() {
        let Some(mut section) = item.section(faults) else { continue };
        let effects = section.take("effects").and_then(|item| values::choice(&item, &words, faults));
        let timeout = section.take("timeout").and_then(|item| values::given_duration(item, faults));
        let limit = section.take("limit").and_then(|item| values::count(&item, 1, faults));
        let result_limit = section.take("result_limit").and_then(|item| result_limit(&item, faults));
        let terms::Read { terms, class, attempt } = terms::read(&mut section, classes, faults);
        section.finish(&OF_THE_SERVER, faults);
        let tool = ToolConfig {
            effects,
            timeout: timeout.as_ref().map(|given| given.value),
            limit: limit.and_then(NonZeroUsize::new),
            terms,
            class,
            result_limit,
        };
        bounds.push(Bounds { attempt, timeout });
        tools.insert(name.to_owned(), tool);
    }
    (tools, bounds)
}

fn result_limit(item: &Item<'_>, faults: &mut Faults) -> Option<usize> {
    let limit = values::size(item, faults)?;
    if limit < LEAST_RESULT {
        let message =
            format!("{} leaves no room to say where the rest is: write at least \"1KiB\"", item.shown());
        item.refuse(faults, message);
        return None;
    }
    Some(limit)
}
