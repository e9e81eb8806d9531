use crate::error::{ClientError, Refusal, causes};
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

    /// Creates or replaces one resource; returns it as the controller keeps it.
    ///
    /// # Errors
    /// Refused, with every reason.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::PUT, RESOURCES, path, Some(body)).await
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
    pub async fn batch(&self, resources: &[Value]) -> Result<Value, ClientError> {
        let body = serde_json::json!({ "resources": resources });
        self.call(Method::POST, RESOURCES, "$batch", Some(&body)).await
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
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // Pushed one by one, so that an id with `%` or a space is escaped and none leaves the base.
            segments.pop_if_empty().extend(base.split('/').chain(path.split('/')).filter(|s| !s.is_empty()));
        }
        let request = self.http.request(method, url);
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let broken = |e: reqwest::Error| ClientError::Transport { server: self.server.clone(), reason: causes(&e) };
        let response = request.header("accept", "application/json").send().await.map_err(broken)?;
        let status = response.status();
        let body = response.bytes().await.map_err(broken)?;
        if !status.is_success() {
            return Err(ClientError::Refused(Box::new(Refusal::read(status.as_u16(), &body))));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|e| self.answer(status.as_u16(), &e.to_string()))
    }

    fn answer(&self, status: u16, reason: &str) -> ClientError {
        ClientError::Answer { server: self.server.clone(), status, reason: reason.to_owned() }
    }
}
