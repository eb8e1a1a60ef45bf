//! Many upstreams as one: what they offer together, the lists that are merged, and who is told that something of
//! them changed.

use super::{
    Face, Kind, LEGACY, META_SERVER, META_SUBSCRIPTION, MODERN,
    peer::{Peer, error_reply, result_reply},
    serve,
};
use crate::{
    event::{Reply, ReplyKind},
    jsonrpc::{Members, Message, Raw},
    request::Request,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

const INVALID_PARAMS: i64 = -32602;
/// The older era's error for a resource that is not there.
const NO_RESOURCE: i64 = -32002;
/// Levels of log messages (2025-11-25, server/utilities/logging).
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
const UPDATED: &str = "notifications/resources/updated";

/// What an upstream says it has, or several of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// Tools.
    pub tools: bool,
    /// Prompts.
    pub prompts: bool,
    /// Resources.
    pub resources: bool,
    /// Whether changes of single resources can be subscribed to.
    pub subscriptions: bool,
    /// Completions of arguments.
    pub completions: bool,
    /// Log messages.
    pub logging: bool,
}

impl Offered {
    /// All there is: what an upstream that has said nothing yet may turn out to have.
    pub const EVERYTHING: Self = Self {
        tools: true,
        prompts: true,
        resources: true,
        subscriptions: true,
        completions: true,
        logging: true,
    };

    /// What an open upstream has.
    pub fn of(peer: &Peer) -> Self {
        let opening = peer.opening().value();
        let offered = &opening["capabilities"];
        let has = |kind: &str| offered.get(kind).is_some();
        Self {
            tools: has("tools"),
            prompts: has("prompts"),
            resources: has("resources"),
            subscriptions: offered["resources"]["subscribe"] == true,
            completions: has("completions"),
            logging: has("logging"),
        }
    }

    /// What either has.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            tools: self.tools || other.tools,
            prompts: self.prompts || other.prompts,
            resources: self.resources || other.resources,
            subscriptions: self.subscriptions || other.subscriptions,
            completions: self.completions || other.completions,
            logging: self.logging || other.logging,
        }
    }

    /// The capabilities that are declared for it: tools always, and that changed lists are told of.
    fn declared(self) -> Value {
        let mut capabilities = json!({"tools": {"listChanged": true}});
        if self.prompts {
            capabilities["prompts"] = json!({"listChanged": true});
        }
        if self.resources {
            capabilities["resources"] = json!({"listChanged": true});
            if self.subscriptions {
                capabilities["resources"]["subscribe"] = json!(true);
            }
        }
        if self.completions {
            capabilities["completions"] = json!({});
        }
        if self.logging {
            capabilities["logging"] = json!({});
        }
        capabilities
    }
}

/// The answer to `initialize` or `server/discover` on an endpoint that serves several upstreams.
pub fn greeting(request: &Request, instructions: Option<&str>, offered: Offered) -> Reply {
    let mut members = json!({"capabilities": offered.declared()});
    if let Some(instructions) = instructions {
        members["instructions"] = json!(instructions);
    }
    match request.wire.kind {
        Kind::Modern => {
            let versions: Vec<&str> = [MODERN].into_iter().chain(LEGACY).collect();
            members["supportedVersions"] = json!(versions);
        }
        Kind::Legacy => {
            members["protocolVersion"] = json!(request.wire.version);
            members["serverInfo"] = Face::own().info.value();
        }
    }
    serve::result(request, &members.to_string(), 60_000)
}

/// The lists that are merged besides that of the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// Prompts.
    Prompts,
    /// Resources.
    Resources,
    /// Templates of resources.
    Templates,
}

impl List {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Prompts, Self::Resources, Self::Templates];

    /// The list that a method asks for.
    pub fn of(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|list| list.method() == method)
    }

    /// The method that asks for it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// The member of the result that holds its items.
    pub fn member(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The member by which an item is told from the others.
    pub fn key(self) -> &'static str {
        match self {
            Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }

    /// Whether an upstream has such a list.
    pub fn is_offered(self, offered: Offered) -> bool {
        match self {
            Self::Prompts => offered.prompts,
            Self::Resources | Self::Templates => offered.resources,
        }
    }

    /// What changes with it.
    pub fn offering(self) -> Offering {
        match self {
            Self::Prompts => Offering::Prompts,
            Self::Resources | Self::Templates => Offering::Resources,
        }
    }
}

/// What is told of as changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offering {
    /// The list of tools.
    Tools,
    /// The list of prompts.
    Prompts,
    /// The list of resources, or that of their templates.
    Resources,
}

impl Offering {
    const ALL: [Self; 3] = [Self::Tools, Self::Prompts, Self::Resources];

    fn notification(self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources => "notifications/resources/list_changed",
        }
    }

    /// Its name in the filter of a stream of changes.
    fn flag(self) -> &'static str {
        match self {
            Self::Tools => "toolsListChanged",
            Self::Prompts => "promptsListChanged",
            Self::Resources => "resourcesListChanged",
        }
    }
}

/// What an upstream tells of its own accord, as far as it concerns what it offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A list changed.
    Changed(Offering),
    /// The resource with this URI changed, or one below it.
    Updated(String),
}

/// What a notification of an upstream tells; `None` for one about anything else.
pub fn told(message: &Message) -> Option<Told> {
    let method = message.method()?;
    if method == UPDATED {
        let params = message.params()?;
        let uri = Members::parse(params.as_str()).ok()?.string("uri")?.into_owned();
        return Some(Told::Updated(uri));
    }
    Offering::ALL.into_iter().find(|offering| offering.notification() == method).map(Told::Changed)
}

/// A merged list as the answer to a request. `items` is the text between the brackets, `missing` says which
/// upstreams are not in it and why.
pub fn list(request: &Request, member: &str, items: &str, missing: Option<&Value>, ttl_ms: u64) -> Reply {
    let mut meta = json!({});
    if let Some(missing) = missing {
        meta["seawall/missing"] = missing.clone();
    }
    let mut more = String::new();
    if request.wire.kind == Kind::Modern {
        meta[META_SERVER] = Face::own().info.value();
        more = format!(r#","resultType":"complete","ttlMs":{ttl_ms},"cacheScope":"private""#);
    }
    if meta.as_object().is_some_and(|meta| !meta.is_empty()) {
        more.push_str(&format!(r#","_meta":{meta}"#));
    }
    let id = request.id();
    let body = [
        r#"{"jsonrpc":"2.0","id":"#,
        id.as_str(),
        r#","result":{""#,
        member,
        r#"":["#,
        items,
        "]",
        &more,
        "}}",
    ]
    .concat();
    Reply { body: body.into(), kind: ReplyKind::Result }
}

/// What a modern client wants to hear of on a stream of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Changes of the tools.
    pub tools: bool,
    /// Changes of the prompts.
    pub prompts: bool,
    /// Changes of the list of resources.
    pub resources: bool,
    /// Changes of single resources, by URI.
    pub uris: Vec<String>,
}

impl Filter {
    /// What the caller of a `subscriptions/listen` asks for.
    pub fn of(request: &Request) -> Self {
        let params = request.message().params();
        let value = params.as_ref().map_or(Value::Null, Raw::value);
        let asked = &value["notifications"];
        let wants = |offering: Offering| asked[offering.flag()] == true;
        let uris = asked["resourceSubscriptions"].as_array().into_iter().flatten();
        Self {
            tools: wants(Offering::Tools),
            prompts: wants(Offering::Prompts),
            resources: wants(Offering::Resources),
            uris: uris.filter_map(|uri| uri.as_str().map(str::to_owned)).collect(),
        }
    }

    /// Whether a changed list is wanted.
    pub fn wants(&self, offering: Offering) -> bool {
        match offering {
            Offering::Tools => self.tools,
            Offering::Prompts => self.prompts,
            Offering::Resources => self.resources,
        }
    }

    fn to_value(&self) -> Value {
        let mut filter = json!({});
        for offering in Offering::ALL.into_iter().filter(|offering| self.wants(*offering)) {
            filter[offering.flag()] = json!(true);
        }
        if !self.uris.is_empty() {
            filter["resourceSubscriptions"] = json!(self.uris);
        }
        filter
    }
}

/// The lists whose changes an open upstream tells of: the filter of a stream of changes that Seawall opens for
/// itself.
pub fn told_lists(peer: &Peer) -> Value {
    let opening = peer.opening().value();
    let tells = |kind: &str| opening["capabilities"][kind]["listChanged"] == true;
    let filter = Filter {
        tools: tells("tools"),
        prompts: tells("prompts"),
        resources: tells("resources"),
        uris: Vec::new(),
    };
    filter.to_value()
}

/// The first message on a stream of changes: what will be told.
pub fn acknowledged(request: &Request, granted: &Filter) -> Bytes {
    let more = json!({"notifications": granted.to_value()});
    notification(Some(request), "notifications/subscriptions/acknowledged", &more)
}

/// Tells that a list changed: on a modern caller's stream of changes, or to a session (`None`).
pub fn changed(listener: Option<&Request>, offering: Offering) -> Bytes {
    notification(listener, offering.notification(), &json!({}))
}

/// Tells that a resource changed, likewise.
pub fn updated(listener: Option<&Request>, uri: &str) -> Bytes {
    notification(listener, UPDATED, &json!({"uri": uri}))
}

/// A notification with the members of `params`, and on a stream of changes with the stream's id as it was given.
fn notification(listener: Option<&Request>, method: &str, params: &Value) -> Bytes {
    let meta = listener.map(|request| format!(r#"{{"{META_SUBSCRIPTION}":{}}}"#, request.id().as_str()));
    let text = params.to_string();
    let members = Members::parse(&text).unwrap_or_default();
    let params = match &meta {
        Some(meta) => members.edited(&[("_meta", Some(meta))]),
        None => text.clone(),
    };
    if params == "{}" {
        return format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#).into();
    }
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#).into()
}

/// How an upstream is asked to tell of a resource's changes.
#[derive(Debug)]
pub enum Subscribing {
    /// One request; what changes is told beside all calls, until it is taken back.
    Asked(Request),
    /// A stream that tells of the changes as long as it is open.
    Stream(Request),
}

/// The request that asks an upstream to tell of a resource's changes, in its own words.
pub fn subscribing(peer: &Peer, uri: &str, face: &Arc<Face>) -> Subscribing {
    match peer.wire().kind {
        Kind::Legacy => Subscribing::Asked(about(peer, "resources/subscribe", uri, face)),
        Kind::Modern => {
            let filter = Filter { uris: vec![uri.to_owned()], ..Filter::default() };
            let params = json!({"notifications": filter.to_value()});
            Subscribing::Stream(Request::own("subscriptions/listen", &params, *peer.wire(), Arc::clone(face)))
        }
    }
}

/// The request that takes back what [`Subscribing::Asked`] asked.
pub fn unsubscribing(peer: &Peer, uri: &str, face: &Arc<Face>) -> Request {
    about(peer, "resources/unsubscribe", uri, face)
}

fn about(peer: &Peer, method: &str, uri: &str, face: &Arc<Face>) -> Request {
    Request::own(method, &json!({"uri": uri}), *peer.wire(), Arc::clone(face))
}

/// What the argument belongs to that a `completion/complete` wants completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completing {
    /// The prompt of this name.
    Prompt(String),
    /// The resource or template with this URI.
    Resource(String),
}

/// What a request wants completed; `None` where it does not say.
pub fn completing(request: &Request) -> Option<Completing> {
    let params = request.message().params()?;
    let members = Members::parse(params.as_str()).ok()?;
    let reference = Members::parse(members.get("ref")?).ok()?;
    let string = |name: &str| Some(reference.string(name)?.into_owned());
    string("name").map(Completing::Prompt).or_else(|| string("uri").map(Completing::Resource))
}

/// The same request for a prompt by the name that its upstream has for it.
pub fn completing_as(request: &Request, prompt: &str) -> Option<Request> {
    let params = request.message().params()?;
    let members = Members::parse(params.as_str()).ok()?;
    let reference = Members::parse(members.get("ref")?).ok()?;
    let name = Value::from(prompt).to_string();
    let reference = reference.edited(&[("name", Some(&name))]);
    let params = members.edited(&[("ref", Some(&reference))]);
    let message = Message::parse(request.message().with_params(&params)).ok()?;
    Request::read(message, *request.wire(), Arc::clone(request.face())).ok()
}

/// A request that lets a session's instance log from `level` on, which is JSON text.
pub fn log_from(level: &str, request: &Request) -> Request {
    let level: Value = serde_json::from_str(level).unwrap_or_default();
    Request::own("logging/setLevel", &json!({"level": level}), request.wire, Arc::clone(request.face()))
}

/// Whether a text is the JSON of a level of log messages.
pub fn is_log_level(level: &str) -> bool {
    LEVELS
        .into_iter()
        .any(|known| level.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) == Some(known))
}

/// The empty result.
pub fn done(request: &Request) -> Reply {
    result_reply(&request.id(), "{}")
}

/// The error for parameters that name nothing, or nothing that can be used.
pub fn invalid(request: &Request, text: &str) -> Reply {
    error_reply(&request.id(), INVALID_PARAMS, text)
}

/// The error for a resource that no upstream has, by the code of the caller's era.
pub fn no_resource(request: &Request, uri: &str) -> Reply {
    let code = match request.wire.kind {
        Kind::Legacy => NO_RESOURCE,
        Kind::Modern => INVALID_PARAMS,
    };
    let error = json!({
        "code": code,
        "message": format!("Resource not found: no server has {uri:?}"),
        "data": {"uri": uri},
    });
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, request.id().as_str());
    Reply { body: body.into(), kind: ReplyKind::Error(code) }
}

/// The reply to a request of Seawall's own, as the reply to the caller's for which it was made.
pub fn readdressed(reply: &Reply, request: &Request) -> Reply {
    let body = match Message::parse(reply.body.clone()) {
        Ok(message) => message.answering(request.id().as_str(), None),
        Err(_) => reply.body.clone(),
    };
    Reply { body, kind: reply.kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::era::Wire;

    fn raw(text: &str) -> Raw {
        Raw::parse(text.to_owned().into()).unwrap()
    }

    fn peer(version: &str, capabilities: &str) -> Peer {
        Peer::recall(version, raw(&format!(r#"{{"capabilities":{capabilities}}}"#))).unwrap()
    }

    fn request(kind: Kind, method: &str, params: &str) -> Request {
        let version = if kind == Kind::Modern { MODERN } else { LEGACY[0] };
        let text = format!(r#"{{"jsonrpc":"2.0","id":"i","method":"{method}","params":{params}}}"#);
        Request::read(Message::parse(text.into()).unwrap(), Wire { kind, version }, Face::own()).unwrap()
    }

    fn value(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn only_what_somebody_has_is_declared() {
        let tools = Offered::of(&peer("2025-11-25", r#"{"tools":{}}"#));
        let more = Offered::of(&peer("2026-07-28", r#"{"resources":{"subscribe":true},"logging":{}}"#));
        let body = greeting(&request(Kind::Legacy, "initialize", "{}"), None, tools).body;
        assert_eq!(value(&body)["result"]["capabilities"], json!({"tools": {"listChanged": true}}));
        let body = greeting(&request(Kind::Modern, "server/discover", "{}"), None, tools.or(more)).body;
        let declared = &value(&body)["result"]["capabilities"];
        assert_eq!(declared["resources"], json!({"listChanged": true, "subscribe": true}));
        assert!(declared.get("prompts").is_none() && declared.get("logging").is_some());
    }

    #[test]
    fn a_stream_of_changes_grants_by_name_and_says_whose_it_is() {
        let asked = r#"{"notifications":{"promptsListChanged":true,"resourceSubscriptions":["a:b"]}}"#;
        let request = request(Kind::Modern, "subscriptions/listen", asked);
        let filter = Filter::of(&request);
        assert_eq!(filter, Filter { prompts: true, uris: vec!["a:b".into()], ..Filter::default() });
        let granted = value(&acknowledged(&request, &filter));
        assert_eq!(granted["params"]["notifications"], value(&asked.to_owned().into())["notifications"]);
        let update = updated(Some(&request), "a:b");
        assert_eq!(value(&update)["params"]["_meta"][META_SUBSCRIPTION], "i");
        assert_eq!(told(&Message::parse(update).unwrap()), Some(Told::Updated("a:b".into())));
        let change = changed(None, Offering::Prompts);
        assert!(value(&change).get("params").is_none());
        assert_eq!(told(&Message::parse(change).unwrap()), Some(Told::Changed(Offering::Prompts)));
    }

    #[test]
    fn a_completion_is_asked_for_by_the_upstreams_own_name() {
        let params = r#"{"ref":{"type":"ref/prompt","name":"s__p"},"argument":{"name":"a","value":1.10}}"#;
        let request = request(Kind::Legacy, "completion/complete", params);
        assert_eq!(completing(&request), Some(Completing::Prompt("s__p".into())));
        let renamed = completing_as(&request, "p").unwrap();
        let expected = params.replace("s__p", "p");
        assert_eq!(renamed.message().params().unwrap().as_str(), expected);
    }

    #[test]
    fn a_merged_list_is_whole_in_either_era() {
        let missing = json!({"x": "why"});
        let legacy =
            list(&request(Kind::Legacy, "prompts/list", "{}"), "prompts", r#"{"name":"a"}"#, None, 5);
        assert_eq!(
            std::str::from_utf8(&legacy.body).unwrap(),
            r#"{"jsonrpc":"2.0","id":"i","result":{"prompts":[{"name":"a"}]}}"#
        );
        let modern = list(&request(Kind::Modern, "prompts/list", "{}"), "prompts", "", Some(&missing), 5);
        let result = &value(&modern.body)["result"];
        assert_eq!(result["prompts"], json!([]));
        assert_eq!((&result["ttlMs"], &result["resultType"]), (&json!(5), &json!("complete")));
        assert_eq!(result["_meta"]["seawall/missing"], missing);
        assert_eq!(result["_meta"][META_SERVER]["name"], "seawall");
    }

    #[test]
    fn a_missing_resource_is_told_by_the_callers_era() {
        for (kind, code) in [(Kind::Legacy, -32002), (Kind::Modern, -32602)] {
            let reply = no_resource(&request(kind, "resources/read", r#"{"uri":"a:b"}"#), "a:b");
            let error = &value(&reply.body)["error"];
            assert_eq!((&error["code"], &error["data"]["uri"]), (&json!(code), &json!("a:b")));
        }
    }
}
