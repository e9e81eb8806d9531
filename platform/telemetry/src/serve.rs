use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Scrapes served at once; more wait.
const CONNECTIONS: usize = 16;
/// A client that has not sent its request by then is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("metrics were set up before in this process")]
    Twice,
    #[error("cannot listen for metrics on {addr}: {source}")]
    Listen { addr: SocketAddr, source: std::io::Error },
}

/// The process's metrics registry.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Makes this process's `metrics` macros record.
    ///
    /// # Errors
    /// A recorder was installed before.
    pub fn install() -> Result<Self, MetricsError> {
        let handle = PrometheusBuilder::new().install_recorder().map_err(|_| MetricsError::Twice)?;
        Ok(Self { handle })
    }

    /// The metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Serves `GET /metrics` on `addr` until the returned task is aborted.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn serve(&self, addr: SocketAddr) -> Result<(SocketAddr, tokio::task::JoinHandle<()>), MetricsError> {
        let listen = |source| MetricsError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let this = self.clone();
        Ok((bound, tokio::spawn(async move { this.accept(listener).await })))
    }

    async fn accept(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let this = self.clone();
            tokio::spawn(async move {
                let _slot = slot;
                let service = service_fn(|request| std::future::ready(this.answer(&request)));
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
                if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "a metrics client went away");
                }
            });
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, body) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => (StatusCode::OK, self.render()),
            (&Method::GET, _) => (StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned()),
            _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; version=0.0.4"));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn what_is_recorded_is_served() {
        let metrics = Metrics::install().unwrap();
        metrics::counter!("penstock_test_total", "reason" => "acl_denied").increment(3);
        let (addr, task) = metrics.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let text = get(addr, "/metrics").await;
        assert!(text.contains("penstock_test_total{reason=\"acl_denied\"} 3"), "{text}");
        assert!(get(addr, "/").await.starts_with("HTTP/1.1 404"));
        assert!(matches!(Metrics::install(), Err(MetricsError::Twice)));
        task.abort();
    }
}
