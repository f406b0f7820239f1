//! The wire: connections, paths and queries, streams and faults.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::{FutureExt as _, StreamExt as _, stream};
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use smol::{Executor, Timer};

use super::{Definition, Fault, Message, Request, State, Verb, event};
use crate::io::HyperIo;
use crate::watch::Watch;

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Shared = Arc<Watch<State>>;

/// How long a watch lasts that does not say.
const WATCH_TIME: u64 = 1800;

/// Accepts until `stopped` closes.
pub fn run(
    listener: &smol::net::TcpListener,
    state: &Shared,
    tls: Option<Arc<rustls::ServerConfig>>,
    stopped: &smol::channel::Receiver<()>,
) {
    let executor = Executor::new();
    let accept = async {
        while let Ok((stream, _)) = listener.accept().await {
            // What is spawned must not hold the executor, or its connections would outlive it.
            executor
                .spawn(connection(stream, state.clone(), tls.clone()))
                .detach();
        }
    };
    let stop = async {
        let _closed = stopped.recv().await;
    };
    smol::block_on(executor.run(accept.or(stop)));
}

async fn connection(
    stream: smol::net::TcpStream,
    state: Shared,
    tls: Option<Arc<rustls::ServerConfig>>,
) {
    let socket: Arc<smol::Async<TcpStream>> = stream.clone().into();
    let _nodelay = socket.get_ref().set_nodelay(true);
    let service = hyper::service::service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&request, &state).await) }
    });
    let builder = hyper::server::conn::http1::Builder::new();
    // An error is the client's end of the connection, or a fault of ours.
    match tls {
        None => {
            let _ended = builder.serve_connection(HyperIo(stream), service).await;
        }
        Some(config) => {
            let acceptor = futures_rustls::TlsAcceptor::from(config);
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ended = builder.serve_connection(HyperIo(stream), service).await;
            }
        }
    }
}

/// A `Status`, which is how the API server refuses.
pub fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

/// What a path leads to.
enum Target {
    Groups,
    Group(String),
    Version(String, String),
    /// The objects of a definition, by its index.
    Objects(usize),
    Nothing,
}

fn target(path: &str, state: &State) -> Target {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    if parts.next() != Some("apis") {
        return Target::Nothing;
    }
    let parts: Vec<_> = parts.collect();
    match parts.as_slice() {
        [] => Target::Groups,
        [group] => Target::Group((*group).to_owned()),
        [group, version] => Target::Version((*group).to_owned(), (*version).to_owned()),
        [group, version, plural] => {
            let serves = |known: &Definition| {
                known.group == *group
                    && known.plural == *plural
                    && known.versions.iter().any(|served| served == version)
            };
            let mut definitions = state.definitions.iter();
            let found = definitions.position(serves);
            found.map_or(Target::Nothing, Target::Objects)
        }
        _ => Target::Nothing,
    }
}

fn query(request: &http::Request<Incoming>) -> BTreeMap<String, String> {
    let text = request.uri().query().unwrap_or_default();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match byte {
            b'%' => {
                let (high, low) = (digit().expect("an escape"), digit().expect("an escape"));
                bytes.push(u8::try_from(high * 16 + low).expect("a byte"));
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).expect("a query in UTF-8")
}

async fn answer(request: &http::Request<Incoming>, state: &Shared) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = query(request);
    let watch = query
        .get("watch")
        .is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"));
    let headers: BTreeMap<_, _> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    let (response, fault) = state.update(|state| {
        let target = target(&path, state);
        let verb = match target {
            Target::Objects(_) if watch => Verb::Watch,
            Target::Objects(_) | Target::Nothing => Verb::List,
            _ => Verb::Discover,
        };
        let fault = state.fault(verb);
        let response = match (&fault, admitted(state, &headers, &target)) {
            (Some(Fault::Status(code, message)), _) => refused(&status(*code, "Scripted", message)),
            (Some(Fault::RetryAfter(code, seconds)), _) => {
                let mut response = refused(&status(*code, "TooManyRequests", "later"));
                let seconds = header::HeaderValue::from(*seconds);
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
                response
            }
            (Some(Fault::Garbage), _) => full(StatusCode::OK, "<html>".to_owned()),
            (_, Err(refusal)) => refused(&refusal),
            (fault, Ok(())) => respond(state, &target, &query, watch, fault.as_ref()),
        };
        state.requests.push(Request {
            verb,
            path,
            query,
            headers,
            status: response.status().as_u16(),
        });
        (response, fault)
    });
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Slow(pause)) => slow(response, pause),
        _ => response,
    }
}

/// Whether whoever asks may.
fn admitted(
    state: &State,
    headers: &BTreeMap<String, String>,
    target: &Target,
) -> Result<(), Value> {
    if let Some(tokens) = &state.tokens {
        let given = headers.get("authorization");
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        if !given.is_some_and(|token| tokens.contains(token)) {
            return Err(status(401, "Unauthorized", "Unauthorized"));
        }
    }
    if let (true, Target::Objects(index)) = (state.forbidden, target) {
        let Definition { group, plural, .. } = &state.definitions[*index];
        let message = format!(
            "{plural}.{group} is forbidden: User \"system:serviceaccount:ns:ingress\" cannot list resource \"{plural}\" in API group \"{group}\" at the cluster scope"
        );
        return Err(status(403, "Forbidden", &message));
    }
    Ok(())
}

fn respond(
    state: &mut State,
    target: &Target,
    query: &BTreeMap<String, String>,
    watch: bool,
    fault: Option<&Fault>,
) -> Response<Body> {
    let group = |known: &Definition| {
        let version = |version: &String| json!({"groupVersion": format!("{}/{version}", known.group), "version": version});
        json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": known.group,
            "versions": known.versions.iter().map(version).collect::<Vec<_>>(),
            "preferredVersion": version(&known.versions[0]),
        })
    };
    match target {
        Target::Groups => {
            let groups: Vec<_> = state.definitions.iter().map(group).collect();
            let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups});
            full(StatusCode::OK, list.to_string())
        }
        Target::Group(name) => {
            let found = state.definitions.iter().find(|known| known.group == *name);
            found.map_or_else(not_found, |known| {
                full(StatusCode::OK, group(known).to_string())
            })
        }
        Target::Version(name, version) => {
            let resources: Vec<_> = state
                .definitions
                .iter()
                .filter(|known| known.group == *name && known.versions.contains(version))
                .map(|known| {
                    json!({
                        "name": known.plural, "singularName": known.kind.to_lowercase(),
                        "namespaced": true, "kind": known.kind, "verbs": ["get", "list", "watch"],
                    })
                })
                .collect();
            let list = json!({
                "kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": format!("{name}/{version}"), "resources": resources,
            });
            full(StatusCode::OK, list.to_string())
        }
        Target::Objects(index) if watch => watched(state, *index, query, fault),
        Target::Objects(index) => listed(state, *index, query, fault),
        Target::Nothing => not_found(),
    }
}

/// What a path that nothing serves is answered with, byte for byte.
fn not_found() -> Response<Body> {
    full(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

fn refused(status: &Value) -> Response<Body> {
    let code = status["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok());
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    full(code.expect("a status code"), status.to_string())
}

fn full(code: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    with_body(code, body.boxed_unsync())
}

fn with_body(code: StatusCode, body: Body) -> Response<Body> {
    let response = Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, "application/json")
        .header("audit-id", "00000000-0000-0000-0000-000000000000");
    response.body(body).expect("a response")
}

/// The page a list begins with, or goes on with.
fn listed(
    state: &State,
    index: usize,
    query: &BTreeMap<String, String>,
    fault: Option<&Fault>,
) -> Response<Body> {
    let field = |name: &str| query.get(name).map_or("", String::as_str);
    let asked = field("resourceVersion");
    let number = asked.parse::<u64>();
    if let Ok(number) = number
        && number > state.version
    {
        let message = format!(
            "Timeout: Too large resource version: {number}, current: {}",
            state.version
        );
        return refused(&status(504, "Timeout", &message));
    }
    let (mut version, mut after) = (state.version, None);
    let token = field("continue");
    if !token.is_empty() {
        if !matches!(asked, "" | "0") {
            let message = "specifying resource version is not allowed when using continue";
            return refused(&status(400, "BadRequest", message));
        }
        let (begun, key) = token.split_once(' ').expect("a token of ours");
        version = begun.parse().expect("a token of ours");
        if version < state.forgotten {
            let message =
                "The provided continue parameter is too old to display a consistent list result.";
            return refused(&status(410, "Expired", message));
        }
        after = Some(key.to_owned());
    }
    // The cache answers in full, whatever the limit.
    let cached = asked == "0" && token.is_empty() && !state.always_paged;
    let limit: usize = field("limit").parse().unwrap_or(0);
    let limit = if limit == 0 || cached {
        usize::MAX
    } else {
        limit
    };
    let known = &state.definitions[index];
    let matching: Vec<_> = state
        .objects
        .iter()
        .filter(|((definition, ..), _)| *definition == index)
        .map(|((_, namespace, name), object)| (format!("{namespace}/{name}"), object))
        .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after))
        .collect();
    let page = matching
        .get(..limit.min(matching.len()))
        .unwrap_or_default();
    let left = matching.len() - page.len();
    let mut metadata = json!({"continue": "", "resourceVersion": version.to_string()});
    if left > 0 {
        let (last, _) = page.last().expect("a limit of at least one");
        metadata["continue"] = format!("{version} {last}").into();
        metadata["remainingItemCount"] = left.into();
    }
    let head = format!(
        "{{\"apiVersion\":\"{}/{}\",\"items\":[",
        known.group, known.versions[0]
    );
    let tail = format!(
        "],\"kind\":\"{}List\",\"metadata\":{metadata}}}\n",
        known.kind
    );
    let items: Vec<_> = page.iter().map(|(_, object)| object.to_string()).collect();
    if matches!(fault, Some(Fault::CutMidObject)) {
        let item = items.first().cloned().unwrap_or_else(|| "{}".to_owned());
        let half = item.get(..item.len() / 2).unwrap_or_default();
        let pieces = [
            Ok(Bytes::from(format!("{head}{half}"))),
            Err(io::ErrorKind::ConnectionReset.into()),
        ];
        return with_body(StatusCode::OK, streamed(stream::iter(pieces)));
    }
    match state.generated {
        Some((count, ballast)) if index == 0 => {
            let items = items.join(",");
            let first = head + &items;
            let mut separator = if items.is_empty() { "" } else { "," };
            let objects = (0..count).map(move |number| {
                let object = generated(number, ballast);
                Ok(Bytes::from(format!(
                    "{}{object}",
                    std::mem::replace(&mut separator, ",")
                )))
            });
            let whole = stream::once(Ok(first.into()))
                .chain(stream::iter(objects))
                .chain(stream::once(Ok(tail.into())));
            with_body(StatusCode::OK, streamed(whole))
        }
        _ => full(StatusCode::OK, format!("{head}{}{tail}", items.join(","))),
    }
}

/// One of many objects, made when it is sent.
fn generated(number: usize, ballast: usize) -> String {
    let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).expect("few"));
    let mut object =
        super::batchsandbox("many", &format!("generated-{number}"), &address.to_string());
    object["metadata"]["uid"] = format!("00000000-0000-4000-9000-{number:012}").into();
    object["metadata"]["resourceVersion"] = "1".into();
    object["spec"]["ballast"] = "x".repeat(ballast).into();
    object.to_string()
}

fn streamed(pieces: impl futures_lite::Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    let frames = pieces.map(|piece| piece.map(Frame::data));
    StreamBody::new(frames).boxed_unsync()
}

/// The response in halves of its pieces, with a pause before each.
fn slow(response: Response<Body>, pause: Duration) -> Response<Body> {
    let halves = |body: Body| {
        stream::unfold((body, None), move |(mut body, rest)| async move {
            Timer::after(pause).await;
            if let Some(rest) = rest {
                return Some((Ok(rest), (body, None)));
            }
            let data = body
                .frame()
                .await?
                .map(|frame| frame.into_data().unwrap_or_default());
            let (first, rest) = match data {
                Ok(mut data) => {
                    let rest = data.split_off(data.len() / 2);
                    (Ok(data), Some(rest))
                }
                Err(error) => (Err(error), None),
            };
            Some((first, (body, rest)))
        })
    };
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, streamed(halves(body)))
}

fn watched(
    state: &mut State,
    index: usize,
    query: &BTreeMap<String, String>,
    fault: Option<&Fault>,
) -> Response<Body> {
    let field = |name: &str| query.get(name).map_or("", String::as_str);
    let mut first = VecDeque::new();
    let mut since = 0;
    match field("resourceVersion") {
        "" | "0" => {
            let objects = state.objects.iter();
            let matching = objects.filter(|((definition, ..), _)| *definition == index);
            let added = |object| Message::Event(index, state.version, event("ADDED", object));
            first.extend(matching.map(|(_, object)| added(object)));
        }
        text => {
            since = text.parse().expect("a version of ours");
            if since < state.forgotten {
                let message = format!("too old resource version: {since} ({})", state.forgotten);
                let last = event("ERROR", &status(410, "Expired", &message));
                first.push_back(Message::Last(last));
            } else {
                let missed = state.history.iter().filter(|change| change.version > since);
                first.extend(missed.map(|change| {
                    Message::Event(change.definition, change.version, change.event.clone())
                }));
            }
        }
    }
    match fault {
        Some(Fault::EndAtOnce) => return full(StatusCode::OK, String::new()),
        Some(Fault::Silent | Fault::Hang) => {
            return with_body(StatusCode::OK, streamed(stream::pending()));
        }
        Some(Fault::CutMidObject) => {
            first.push_back(Message::Cut(r#"{"type":"ADDED","object":{"metada"#.into()));
        }
        _ => {}
    }
    let (sender, receiver) = smol::channel::unbounded();
    state.watchers.push(sender);
    let known = &state.definitions[index];
    let seconds = field("timeoutSeconds").parse().unwrap_or(WATCH_TIME);
    let watcher = Watcher {
        index,
        since,
        version: state.version,
        first,
        receiver,
        bookmarks: field("allowWatchBookmarks") == "true",
        api_version: format!("{}/{}", known.group, known.versions[0]),
        kind: known.kind.clone(),
        timeout: Timer::after(Duration::from_secs(seconds)),
        end: None,
    };
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((line, watcher))
    });
    with_body(StatusCode::OK, streamed(lines))
}

/// One who watches.
struct Watcher {
    index: usize,
    /// What happened up to this version is known; it may be one that is not reached yet.
    since: u64,
    /// The version last heard of.
    version: u64,
    first: VecDeque<Message>,
    receiver: smol::channel::Receiver<Message>,
    bookmarks: bool,
    api_version: String,
    kind: String,
    timeout: Timer,
    /// How it ends after what was sent last: well, or not.
    end: Option<io::Result<()>>,
}

impl Watcher {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(end) = self.end.take() {
                return end.err().map(Err);
            }
            let message = match self.first.pop_front() {
                Some(message) => message,
                None => {
                    let (receiver, timeout) = (&self.receiver, &mut self.timeout);
                    let next = async { receiver.recv().await.ok() };
                    let late = async {
                        timeout.await;
                        None
                    };
                    match next.or(late).await {
                        Some(message) => message,
                        // The last thing is a bookmark, if there is something new.
                        None => {
                            self.end = Some(Ok(()));
                            Message::Bookmark(self.version)
                        }
                    }
                }
            };
            if let Message::Event(_, version, _) | Message::Bookmark(version) = message {
                self.version = version;
            }
            let line = match message {
                Message::Event(index, version, event)
                    if index == self.index && version > self.since =>
                {
                    event
                }
                // Never for the version that the watch began with.
                Message::Bookmark(version) if self.bookmarks && version > self.since => {
                    let metadata =
                        json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
                    let object = json!({"kind": self.kind, "apiVersion": self.api_version, "metadata": metadata});
                    event("BOOKMARK", &object)
                }
                Message::Event(..) | Message::Bookmark(_) => continue,
                Message::Last(event) => {
                    self.end = Some(Ok(()));
                    event
                }
                Message::Cut(bytes) => {
                    self.end = Some(Err(io::ErrorKind::ConnectionReset.into()));
                    bytes
                }
            };
            return Some(Ok(Bytes::copy_from_slice(line.as_bytes())));
        }
    }
}
