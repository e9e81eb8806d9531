use crate::error::{ClientError, Refusal, causes};
use crate::events::Events;
use penstock_southbound::CredentialFiles;
use reqwest::{Method, RequestBuilder, Url};
use serde_json::Value;
use std::time::Duration;

/// Where the controller is and who the caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `https://host[:port]`
    pub server: String,
    pub credentials: CredentialFiles,
}

/// How a change is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manner {
    /// Only say what it would do.
    pub what_if: bool,
    /// Undo it unless it is confirmed in so many seconds.
    pub confirm_within: Option<u64>,
    /// Kept in the history.
    pub comment: Option<String>,
}

impl Manner {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        if self.what_if {
            out.push(("whatIf", "true".to_owned()));
        }
        out.extend(self.confirm_within.map(|s| ("confirmWithin", s.to_string())));
        out.extend(self.comment.clone().map(|c| ("comment", c)));
        out
    }
}

/// The northbound interface of one controller. Cheap to clone; keeps its connection.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    server: String,
}

/// A batch of ten thousand resources takes the controller seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);
/// Of a stream of events.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The Network Controller's interface, and Penstock's own beside it.
const RESOURCES: &str = "networking/v1";
const OWN: &str = "penstock/v1";

impl Client {
    /// # Errors
    /// The certificate files cannot be used, or `server` is no `https` URL.
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        let wrong = || ClientError::Server(settings.server.clone());
        let server = settings.server.trim_end_matches('/').to_owned();
        let url = Url::parse(&server).ok().filter(|u| u.scheme() == "https" && u.has_host()).ok_or_else(wrong)?;
        let base = url.join("/").map_err(|_| wrong())?;
        let tls = settings.credentials.load()?.client_config(&[b"h2", b"http/1.1"])?;
        let http = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            .https_only(true)
            .connect_timeout(CONNECT)
            .timeout(TIMEOUT)
            // The way to the controller is the operator's to choose, and client certificates do not pass proxies.
            .no_proxy()
            .build()
            .map_err(|e| ClientError::Transport { server: server.clone(), reason: causes(&e) })?;
        Ok(Self { http, base, server })
    }

    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// One resource: `virtualNetworks/blue`, `virtualNetworks/blue/subnets/web`.
    ///
    /// # Errors
    /// It is not there, or the controller is not.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, RESOURCES, path, None).await
    }

    /// All resources of a collection, as `{"value": [...]}`, whatever number of pages it takes.
    ///
    /// # Errors
    /// There is no such collection, or the controller is not there.
    pub async fn list(&self, collection: &str) -> Result<Vec<Value>, ClientError> {
        let mut all = Vec::new();
        let mut page = self.get(collection).await?;
        loop {
            match page.get_mut("value").map(Value::take) {
                Some(Value::Array(items)) => all.extend(items),
                _ => return Err(self.answer(200, "a collection without `value`")),
            }
            let Some(next) = page.get("nextLink").and_then(Value::as_str).filter(|n| !n.is_empty()) else {
                return Ok(all);
            };
            let url = self.base.join(next).map_err(|_| self.answer(200, "a `nextLink` that is no URL"))?;
            // Another host would be given our requests.
            if url.origin() != self.base.origin() {
                return Err(self.answer(200, "a `nextLink` to another server"));
            }
            page = self.send(self.http.get(url)).await?;
        }
    }

    /// Creates or replaces one resource; returns it as the controller keeps it. With an etag only if nobody has changed it since.
    ///
    /// # Errors
    /// Refused, with every reason; 412 if it was changed meanwhile.
    pub async fn put(
        &self,
        path: &str,
        body: &Value,
        etag: Option<&str>,
        manner: &Manner,
    ) -> Result<Value, ClientError> {
        let mut request = self.http.request(Method::PUT, self.url(RESOURCES, path, &manner.query())).json(body);
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        self.send(request).await
    }

    /// # Errors
    /// It is not there, or something refers to it.
    pub async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::DELETE, RESOURCES, path, None).await
    }

    /// Creates or replaces all of `resources` (each with its `resourceRef`), or none.
    ///
    /// # Errors
    /// Refused, with every reason in every resource.
    pub async fn batch(&self, resources: &[Value], manner: &Manner) -> Result<Value, ClientError> {
        let body = serde_json::json!({ "resources": resources });
        self.ask(Method::POST, RESOURCES, "$batch", &manner.query(), Some(&body)).await
    }

    /// Penstock's own: `history`, `history/17`, `confirm`, `export`, `openapi.json`.
    ///
    /// # Errors
    /// There is nothing of the kind, or the controller is not there.
    pub async fn own(&self, path: &str, query: &[(&str, String)]) -> Result<Value, ClientError> {
        self.ask(Method::GET, OWN, path, query, None).await
    }

    /// Makes everything as it was after a change.
    ///
    /// # Errors
    /// So old a change is not kept, or what it restored would not be valid.
    pub async fn roll_back(&self, revision: u64, manner: &Manner) -> Result<Value, ClientError> {
        let body = serde_json::json!({ "revision": revision });
        self.ask(Method::POST, OWN, "rollback", &manner.query(), Some(&body)).await
    }

    /// Keeps the change that waits to be confirmed.
    ///
    /// # Errors
    /// None waits.
    pub async fn confirm(&self) -> Result<Value, ClientError> {
        self.call(Method::POST, OWN, "confirm", None).await
    }

    /// Makes a token; its secret is in the answer alone.
    ///
    /// # Errors
    /// Refused, with the reason.
    pub async fn make_token(&self, wanted: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, OWN, "tokens", Some(wanted)).await
    }

    /// # Errors
    /// There is no such token.
    pub async fn delete_token(&self, id: &str) -> Result<Value, ClientError> {
        self.call(Method::DELETE, OWN, &format!("tokens/{id}"), None).await
    }

    /// Says what a tenant may have; `*`: each that has no quota of its own.
    ///
    /// # Errors
    /// A kind that tenants do not have.
    pub async fn set_quota(&self, tenant: &str, quota: &Value) -> Result<Value, ClientError> {
        self.call(Method::PUT, OWN, &format!("quotas/{tenant}"), Some(quota)).await
    }

    /// # Errors
    /// There is none.
    pub async fn delete_quota(&self, tenant: &str) -> Result<Value, ClientError> {
        self.call(Method::DELETE, OWN, &format!("quotas/{tenant}"), None).await
    }

    /// Follows a resource or a collection, after a revision that was seen or from what is there.
    ///
    /// # Errors
    /// There is no such kind, or so old a revision is not kept (410).
    pub async fn watch(&self, path: &str, since: Option<u64>) -> Result<Events, ClientError> {
        let since: Vec<(&str, String)> = since.map(|s| ("since", s.to_string())).into_iter().collect();
        let request = self.http.get(self.url(RESOURCES, path, &since)).timeout(FOREVER);
        let response = request.header("accept", "text/event-stream").send().await.map_err(|e| self.broken(&e))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.bytes().await.map_err(|e| self.broken(&e))?;
            return Err(ClientError::Refused(Box::new(Refusal::read(status.as_u16(), &body))));
        }
        Ok(Events::new(self.server.clone(), response))
    }

    /// Nodes, their revisions, health and traffic.
    ///
    /// # Errors
    /// The controller is not there.
    pub async fn status(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, OWN, "status", None).await
    }

    /// What each node would decide for a packet, and why.
    ///
    /// # Errors
    /// The question makes no sense.
    pub async fn trace(&self, question: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, OWN, "trace", Some(question)).await
    }

    async fn call(&self, method: Method, base: &str, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        self.ask(method, base, path, &[], body).await
    }

    async fn ask(
        &self,
        method: Method,
        base: &str,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let request = self.http.request(method, self.url(base, path, query));
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    fn url(&self, base: &str, path: &str, query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // Pushed one by one, so that an id with `%` or a space is escaped and none leaves the base.
            segments.pop_if_empty().extend(base.split('/').chain(path.split('/')).filter(|s| !s.is_empty()));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let response = request.header("accept", "application/json").send().await.map_err(|e| self.broken(&e))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|e| self.broken(&e))?;
        if !status.is_success() {
            return Err(ClientError::Refused(Box::new(Refusal::read(status.as_u16(), &body))));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|e| self.answer(status.as_u16(), &e.to_string()))
    }

    fn broken(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Transport { server: self.server.clone(), reason: causes(error) }
    }

    fn answer(&self, status: u16, reason: &str) -> ClientError {
        ClientError::Answer { server: self.server.clone(), status, reason: reason.to_owned() }
    }
}
