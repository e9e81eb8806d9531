//! Changes as they happen: server-sent events of a resource or a collection.
//!
//! `GET` with `?watch=true` or `Accept: text/event-stream`. First all that is there as `added`, then `synchronized`, then each
//! change as `added`, `modified` or `deleted`. The id of an event is the revision up to which the client has seen everything: sent
//! back in `Last-Event-ID` (or `?since=`) it resumes, and 410 says that so old a revision is not kept. Every 15 seconds without a
//! change a comment shows that the stream is alive. It ends with the token that it was asked for with.
use super::Api;
use super::asked::{Asked, invalid};
use super::resource::nodes;
use crate::access::Caller;
use crate::history::{self, Record, UnixMillis};
use crate::observe::Observer;
use crate::rate::Share;
use crate::refusal::Refusal;
use crate::serve::Using;
use crate::state::State;
use crate::tokens;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use penstock_admin_types::{Documents, Kind, ResourcePath, node_at};
use penstock_clock::WallClock;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch as signal;

const ALIVE: Duration = Duration::from_secs(15);
/// Streams of one caller at once: one for each kind, and some.
const STREAMS: usize = 64;
/// Resources of a snapshot that are rendered ahead of the client.
const PIECE: usize = 64;

/// What is watched.
#[derive(Debug, Clone)]
enum Scope {
    One(ResourcePath),
    All { parent: Option<ResourcePath>, kind: &'static Kind },
}

pub(super) async fn of_resource(api: &Arc<Api>, asked: &Asked<'_>, path: ResourcePath) -> Result<Response, Refusal> {
    start(api, asked, Scope::One(path)).await
}

pub(super) async fn of_collection(
    api: &Arc<Api>,
    asked: &Asked<'_>,
    parent: Option<ResourcePath>,
    kind: &'static Kind,
) -> Result<Response, Refusal> {
    start(api, asked, Scope::All { parent, kind }).await
}

async fn start(api: &Arc<Api>, asked: &Asked<'_>, scope: Scope) -> Result<Response, Refusal> {
    let share = api.streams.take(&asked.caller.name, 1, STREAMS).ok_or(Refusal::TooManyStreams(STREAMS))?;
    // First the feed, then the snapshot: nothing falls between.
    let feed = api.resources.records();
    let state = api.resources.state();
    let since = since(asked)?;
    if let Some(from) = since {
        resumable(api, from, state.rev).await?;
    }
    let snapshot = match since {
        None => scope.nodes(&asked.caller, &state.documents).into_iter().map(|(path, _)| path).collect(),
        Some(_) => VecDeque::new(),
    };
    let stream = Stream {
        api: api.clone(),
        caller: asked.caller.clone(),
        _share: share,
        _using: asked.using.clone(),
        scope,
        feed,
        shutdown: api.shutdown.clone(),
        seen: since.unwrap_or(state.rev),
        known: state.rev,
        ready: VecDeque::new(),
        snapshot: since.is_none().then_some((state, snapshot)),
    };
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(stream::unfold(stream, Stream::next))).into_response())
}

async fn resumable(api: &Api, from: u64, latest: u64) -> Result<(), Refusal> {
    if from > latest {
        return Err(invalid(format!("revision {from} has not been reached: the latest is {latest}")));
    }
    if from < latest && history::record(api.resources.store(), from + 1).await?.is_none() {
        return Err(Refusal::Gone(format!(
            "the changes after revision {from} are not all kept: read everything again"
        )));
    }
    Ok(())
}

fn since(asked: &Asked<'_>) -> Result<Option<u64>, Refusal> {
    let last = asked.header(&HeaderName::from_static("last-event-id"));
    match last.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) if last.is_empty() => asked.number("since"),
        Err(_) => Err(invalid(format!("Last-Event-ID is a revision, not '{last}'"))),
    }
}

struct Stream {
    api: Arc<Api>,
    caller: Caller,
    _share: Share,
    _using: Option<Using>,
    scope: Scope,
    feed: broadcast::Receiver<Arc<Record>>,
    shutdown: signal::Receiver<bool>,
    /// The change that the client has been told of last.
    seen: u64,
    /// The latest that there is, as far as the stream has heard.
    known: u64,
    ready: VecDeque<String>,
    /// What was there at the start and is still to be told: rendered piece by piece.
    snapshot: Option<(Arc<State>, VecDeque<ResourcePath>)>,
}

impl Stream {
    /// Whether the caller would be let in now: a stream does not outlive its token.
    async fn is_welcome(&self) -> bool {
        match &self.caller.token {
            Some(held) => tokens::holds(self.api.resources.store(), held).await,
            None => true,
        }
    }

    /// Until something has to be said or asked, whatever changes.
    fn quiet(&self) -> Duration {
        match &self.caller.token {
            Some(held) => ALIVE.min(UnixMillis::of(WallClock::now()).until(held.expires)),
            None => ALIVE,
        }
    }

    /// The next bytes; none ends the stream, which the client resumes.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(Bytes::from(event)), self));
            }
            if !self.is_welcome().await {
                return None;
            }
            if let Some((state, rest)) = self.snapshot.take() {
                self.tell_snapshot(state, rest);
                continue;
            }
            if self.seen < self.known {
                // Missed, or before the stream began. Not kept any more: the stream ends, and resuming it says so.
                let record = history::record(self.api.resources.store(), self.seen + 1).await.ok()??;
                self.change(&record);
                continue;
            }
            self.hear().await?;
            // It may have ended while there was nothing to tell.
            if !self.is_welcome().await {
                return None;
            }
        }
    }

    /// Waits for a change. None: the controller ends.
    async fn hear(&mut self) -> Option<()> {
        let mut shutdown = self.shutdown.clone();
        let quiet = self.quiet();
        let received = tokio::select! {
            received = self.feed.recv() => received,
            () = tokio::time::sleep(quiet) => {
                self.ready.push_back(format!(": revision {}\n\n", self.seen));
                return Some(());
            }
            _ = shutdown.wait_for(|stop| *stop) => return None,
        };
        match received {
            Ok(record) if record.number == self.seen + 1 => {
                self.known = record.number;
                self.change(&record);
            }
            Ok(record) => self.known = self.known.max(record.number),
            Err(RecvError::Lagged(_)) => self.known = self.api.resources.state().rev,
            Err(RecvError::Closed) => return None,
        }
        Some(())
    }

    fn tell_snapshot(&mut self, state: Arc<State>, mut rest: VecDeque<ResourcePath>) {
        let observer = Observer::new(&state, &self.api.hub, &self.caller);
        for path in rest.drain(..rest.len().min(PIECE)) {
            if let Some(node) = state.node(&path) {
                self.ready.push_back(event("added", None, &observer.render(&path, node)));
            }
        }
        if rest.is_empty() {
            self.ready.push_back(event("synchronized", Some(state.rev), &json!({"revision": state.rev})));
        } else {
            drop(observer);
            self.snapshot = Some((state, rest));
        }
    }

    fn change(&mut self, record: &Record) {
        let state = self.api.resources.state();
        let observer = Observer::new(&state, &self.api.hub, &self.caller);
        let (mut before, mut after) = (Documents::new(), Documents::new());
        for step in &record.steps {
            let Ok(path) = ResourcePath::parse(&step.path) else { continue };
            before.extend(step.before.clone().map(|d| (path.clone(), d)));
            after.extend(step.after.clone().map(|d| (path, d)));
        }
        let old: BTreeMap<ResourcePath, &Value> = self.scope.nodes(&self.caller, &before).into_iter().collect();
        let new: BTreeMap<ResourcePath, &Value> = self.scope.nodes(&self.caller, &after).into_iter().collect();
        let mut events = Vec::new();
        for (path, node) in &new {
            match old.get(path) {
                None => events.push(("added", observer.render(path, node))),
                Some(was) if was.get("etag") != node.get("etag") => {
                    events.push(("modified", observer.render(path, node)));
                }
                Some(_) => {}
            }
        }
        let gone = old.keys().filter(|p| !new.contains_key(*p));
        events.extend(gone.map(|p| ("deleted", json!({"resourceRef": p.as_str()}))));
        // Only the last carries the revision: a client that was cut before it gets them all again.
        let last = events.len();
        for (i, (name, body)) in events.iter().enumerate() {
            self.ready.push_back(event(name, (i + 1 == last).then_some(record.number), body));
        }
        self.seen = record.number;
    }
}

impl Scope {
    /// Those that the caller may see.
    fn nodes<'a>(&self, caller: &Caller, documents: &'a Documents) -> Vec<(ResourcePath, &'a Value)> {
        let mut out = self.all(documents);
        out.retain(|(path, _)| caller.may_see(documents, path));
        out
    }

    fn all<'a>(&self, documents: &'a Documents) -> Vec<(ResourcePath, &'a Value)> {
        match self {
            Self::One(path) => {
                let node = documents.get(&path.document()).and_then(|d| node_at(d, path));
                node.map(|n| (path.clone(), n)).into_iter().collect()
            }
            Self::All { parent, kind } => nodes(documents, parent.as_ref(), kind).unwrap_or_default(),
        }
    }
}

fn event(name: &str, id: Option<u64>, data: &Value) -> String {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    format!("event: {name}\n{id}data: {data}\n\n")
}
