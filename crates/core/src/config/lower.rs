//! From texts to a configuration, collecting every fault on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::raw::{Document, Faults, Item, Place, Section, closest};
use super::{Caller, Client, Config, ConfigFault, DEFAULT, Group, Note, Source, Sources};
use super::{address, foreign, limits, servers, terms, timeouts, values};

/// The keys that a variable overrides: `limits.total` is `SEAWALL_LIMITS_TOTAL`.
const SCALARS: [&str; 23] = [
    "listen",
    "state",
    "grace",
    "limits.total",
    "limits.caller",
    "limits.conversation",
    "limits.queue",
    "limits.share",
    "limits.sessions",
    "limits.session_idle",
    "limits.message",
    "limits.processes",
    "limits.preset",
    "limits.conversation_share",
    "limits.count_unnamed",
    "limits.detached",
    "limits.detached_caller",
    "limits.cache",
    "limits.idempotency",
    "limits.rate",
    "timeouts.daemon",
    "timeouts.bridge",
    "timeouts.client",
];

/// Variables of ours that are no keys: a client's token, what is logged, and where the file is.
const NOT_KEYS: [&str; 3] = ["SEAWALL_TOKEN", "SEAWALL_LOG", "SEAWALL_CONFIG"];

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8079);

/// The files that `import = [...]` names, resolved against `base`, so that they can be read before
/// [`lower()`]. What is wrong with the key is left for `lower` to say.
pub fn imports(own: &Source, base: &Path) -> Vec<PathBuf> {
    let (table, _) = DeTable::parse_recoverable(&own.text);
    let Some(DeValue::Array(paths)) = table.get_ref().get("import").map(|paths| paths.get_ref()) else {
        return Vec::new();
    };
    paths.iter().filter_map(|path| path.get_ref().as_str()).map(|path| base.join(path)).collect()
}

/// Makes the configuration, with remarks on what was read differently from how it stands.
///
/// # Errors
///
/// Everything that is wrong, in the order of the files, the own one first and variables last. An error of
/// syntax in the own file hides the rest of that file.
pub fn lower(sources: &Sources<'_>) -> Result<(Config, Vec<Note>), Vec<ConfigFault>> {
    let defaults = Source { path: PathBuf::from("built-in defaults"), text: DEFAULT.to_owned() };
    let own = sources.own.as_ref().unwrap_or(&defaults);
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    let parsed = Document::parse(own, &mut faults);
    let readable = parsed.is_some();
    let document = parsed.unwrap_or_else(|| Document::empty(own));
    let mut overrides = Overrides::read(&sources.overrides, &mut faults);
    let mut root = document.root();

    let listen = overrides.given(&mut root, "listen", &mut faults, address_of_listener);
    let state = overrides.given(&mut root, "state", &mut faults, path);
    let grace = overrides.given(&mut root, "grace", &mut faults, values::duration);
    let allowed_hosts = names(root.take("allowed_hosts"), address::check_host, &mut faults);
    let allowed_origins = names(root.take("allowed_origins"), address::check_origin, &mut faults);
    names(root.take("import"), not_empty, &mut faults);
    let caller_tables = root.take_section("callers", &mut faults).named();
    let client_tables = root.take_section("clients", &mut faults).named();
    let group_tables = root.take_section("groups", &mut faults).named();
    let own_servers = root.take_section("servers", &mut faults);
    // With those whose own tables are at fault, which is no fault of a group that names them.
    let mut known: Vec<String> = own_servers.names().into_iter().map(str::to_owned).collect();
    let limit_table = root.take_section("limits", &mut faults);
    let timeout_table = root.take_section("timeouts", &mut faults);
    root.finish(&[("mcpServers", "servers stand under [servers.NAME]")], &mut faults);

    let limits = limits::limits(limit_table, &mut overrides, readable, &mut faults);
    let times = timeouts::read(timeout_table, &mut overrides, &mut faults);
    if let Some(listen) = &listen
        && readable
        && !listen.value.ip().to_canonical().is_loopback()
        && caller_tables.is_empty()
    {
        let remedy =
            "add a [callers.NAME] with the line that `seawall token NAME` prints, or listen on 127.0.0.1";
        let message =
            format!("\"{}\" reaches beyond this machine without any caller: {remedy}", listen.value);
        faults.push(listen.place.fault(message));
    }
    let listen = listen.map_or(LISTEN, |given| given.value);
    let callers = callers(caller_tables, &mut faults);
    let clients = clients(client_tables, &mut faults);
    let surroundings = servers::Surroundings { environment: sources.environment, base: &sources.base };
    let named = servers::Named { classes: &times.classes, providers: &limits.providers };
    let (mut upstreams, bounds) =
        servers::servers(own_servers, &surroundings, &named, &mut faults, &mut notes);
    foreign::join(&mut upstreams, sources, listen, &mut faults, &mut notes);
    known.extend(upstreams.iter().map(|upstream| upstream.name.clone()));
    let groups = groups(group_tables, &known, &mut faults);
    let timeouts = timeouts::settle(times, &upstreams, &bounds, readable, &mut faults);

    if !faults.is_empty() {
        let rank = |fault: &ConfigFault| {
            let mut files = sources.foreign.iter().map(|file| &file.path);
            let foreign = files.position(|path| *path == fault.path).map_or(usize::MAX, |index| index + 1);
            if fault.path == own.path { 0 } else { foreign }
        };
        faults.sort_by_key(|fault| (rank(fault), fault.line));
        return Err(faults);
    }
    let config = Config {
        listen,
        allowed_hosts,
        allowed_origins,
        state: state.map_or_else(|| sources.state_default.clone(), |given| sources.base.join(given.value)),
        callers,
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
        clients,
        groups,
        limits,
        timeouts,
        grace: grace.map_or(Duration::from_secs(10), |given| given.value),
    };
    Ok((config, notes))
}

/// A value that somebody wrote, and where.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// The variables that override keys, by key.
#[derive(Debug)]
pub(super) struct Overrides<'a>(BTreeMap<&'static str, Item<'a>>);

impl<'a> Overrides<'a> {
    fn read(variables: &'a [(String, String)], faults: &mut Faults) -> Self {
        let names =
            SCALARS.map(|key| (format!("SEAWALL_{}", key.to_ascii_uppercase().replace('.', "_")), key));
        let mut items = BTreeMap::new();
        for (name, value) in variables {
            let item = Item::variable(name, value);
            if let Some((_, key)) = names.iter().find(|(known, _)| known == name) {
                items.insert(*key, item);
            } else if !NOT_KEYS.contains(&name.as_str()) {
                let known: Vec<_> = names.iter().map(|(known, _)| known.as_str()).chain(NOT_KEYS).collect();
                let message = match closest(bare(name), known.iter().map(|known| bare(known))) {
                    Some(known) => format!("unknown variable: did you mean SEAWALL_{known}?"),
                    None => format!("unknown variable: those known are {}", known.join(", ")),
                };
                item.refuse(faults, message);
            }
        }
        Self(items)
    }

    /// The value of a key: that of its variable where there is one, else that of the file. Both are checked.
    pub(super) fn given<T>(
        &mut self,
        section: &mut Section<'a>,
        name: &'static str,
        faults: &mut Faults,
        read: impl Fn(&Item<'a>, &mut Faults) -> Option<T>,
    ) -> Option<Given<T>> {
        let of_variable = self.0.remove(section.key_of(name).as_str());
        let of_file = section.take(name);
        let mut given = |item: Option<Item<'a>>| {
            let item = item?;
            let value = read(&item, faults)?;
            Some(Given { value, place: item.place })
        };
        let of_file = given(of_file);
        given(of_variable).or(of_file)
    }
}

/// The name without what all of them begin with, which says nothing about which one was meant.
fn bare(variable: &str) -> &str {
    variable.strip_prefix("SEAWALL_").unwrap_or(variable)
}

fn address_of_listener(item: &Item<'_>, faults: &mut Faults) -> Option<SocketAddr> {
    let text = item.text("\"127.0.0.1:8079\"", faults)?;
    let address = text.parse::<SocketAddr>().ok();
    if address.is_none() {
        let remedy = "write a number and a port, such as \"127.0.0.1:8079\" or \"[::1]:8079\"";
        item.refuse(faults, format!("{} is not an address to listen on: {remedy}", item.shown()));
    }
    address
}

fn path(item: &Item<'_>, faults: &mut Faults) -> Option<PathBuf> {
    let text = item.text("\"/var/lib/seawall\"", faults)?;
    if text.is_empty() {
        item.refuse(faults, "\"\" is not a path: write one such as \"/var/lib/seawall\", or leave it out");
        return None;
    }
    Some(PathBuf::from(text))
}

fn not_empty(text: &str) -> Result<(), &'static str> {
    if text.is_empty() { Err("is empty: write a path") } else { Ok(()) }
}

/// A list of strings, each of which must pass a check.
fn names(
    item: Option<Item<'_>>,
    check: impl Fn(&str) -> Result<(), &'static str>,
    faults: &mut Faults,
) -> Vec<String> {
    let mut names = Vec::new();
    for (item, text) in item.and_then(|item| item.texts("[\"…\"]", faults)).unwrap_or_default() {
        match check(text) {
            Ok(()) => names.push(text.to_owned()),
            Err(wrong) => item.refuse(faults, format!("{} {wrong}", item.shown())),
        }
    }
    names
}

fn callers(tables: Vec<(&str, Item<'_>)>, faults: &mut Faults) -> Vec<Caller> {
    let mut callers: Vec<Caller> = Vec::new();
    for (name, item) in tables {
        let Some(mut section) = item.section(faults) else { continue };
        let good = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            let rule = "use 1 to 64 of A-Z a-z 0-9 . _ @ -";
            item.refuse(faults, format!("{name:?} is not a caller's name: {rule}"));
        }
        let token = section.take("token").map(Item::hidden);
        let tools = section.take("tools");
        let rate = section.take("rate").and_then(|item| terms::rate(&item, faults));
        let place = section.place();
        section.finish(&[], faults);
        let tools = if tools.is_some() { names(tools, pattern, faults) } else { vec!["*".to_owned()] };
        let Some(token) = token else {
            let remedy = format!("run `seawall token {name}` and add the line that it prints");
            faults.push(place.fault(format!("has no `token`, so nobody could be this caller: {remedy}")));
            continue;
        };
        let Some(token_sha256) = token_hash(name, &token, faults) else { continue };
        if let Some(other) = callers.iter().find(|other| other.token_sha256 == token_sha256) {
            let message = format!("the token of caller `{}` as well: give each its own", other.name);
            token.refuse(faults, message);
        }
        callers.push(Caller { name: name.to_owned(), token_sha256, tools, rate });
    }
    callers
}

/// Reads the groups. `known` are the names of all servers.
fn groups(tables: Vec<(&str, Item<'_>)>, known: &[String], faults: &mut Faults) -> Vec<Group> {
    let mut groups = Vec::new();
    for (name, item) in tables {
        let Some(mut section) = item.section(faults) else { continue };
        if !servers::good_name(name) {
            let rule = "use 1 to 32 of A-Z a-z 0-9 _ - and no two underscores in a row";
            item.refuse(faults, format!("{name:?} is not a group's name: {rule}"));
        }
        let members = section.take("servers");
        let tools = section.take("tools");
        let place = section.place();
        section.finish(&[], faults);
        let tools = if tools.is_some() { names(tools, pattern, faults) } else { vec!["*".to_owned()] };
        let Some(members) = members else {
            let remedy = "write which it has, such as `servers = [\"time\"]`";
            faults.push(place.fault(format!("has no `servers`: {remedy}")));
            continue;
        };
        let mut servers: Vec<String> = Vec::new();
        for (item, server) in members.texts("[\"time\"]", faults).unwrap_or_default() {
            if !known.iter().any(|known| known == server) {
                let message = match closest(server, known.iter().map(String::as_str)) {
                    Some(meant) => format!("{} is no server: did you mean {meant:?}?", item.shown()),
                    None => format!("{} is no server: add [servers.NAME], or take it out", item.shown()),
                };
                item.refuse(faults, message);
            } else if !servers.iter().any(|had| had == server) {
                servers.push(server.to_owned());
            }
        }
        groups.push(Group { name: name.to_owned(), servers, tools });
    }
    groups
}

fn clients(tables: Vec<(&str, Item<'_>)>, faults: &mut Faults) -> Vec<Client> {
    let read = |(name, item): (&str, Item<'_>)| {
        let mut section = item.section(faults)?;
        let limit = section.take("limit").and_then(|item| values::duration(&item, faults));
        let heartbeat = section.take("heartbeat").and_then(|item| values::duration(&item, faults));
        section.finish(&[], faults);
        Some(Client { name: name.to_owned(), limit, heartbeat })
    };
    tables.into_iter().filter_map(read).collect()
}

fn pattern(text: &str) -> Result<(), &'static str> {
    if text.is_empty() { Err("is empty: write a pattern such as \"time__*\"") } else { Ok(()) }
}

fn token_hash(name: &str, item: &Item<'_>, faults: &mut Faults) -> Option<[u8; 32]> {
    let text = item.text("\"sha256:…\"", faults)?;
    let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64).unwrap_or_default();
    let mut hash = [0; 32];
    let pairs = digits.as_bytes().chunks_exact(2);
    let good = pairs.len() == hash.len()
        && pairs.zip(&mut hash).all(|(pair, byte)| {
            let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return false };
            *byte = (high << 4) | low;
            true
        });
    if !good {
        let remedy = format!("run `seawall token {name}` and use the line that it prints");
        item.refuse(faults, format!("this string is not \"sha256:\" with 64 hex digits: {remedy}"));
    }
    good.then_some(hash)
}
