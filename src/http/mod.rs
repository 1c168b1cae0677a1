//! The HTTP port: is it up, is it ready, how is it doing.
//!
//! ```text
//!   GET /         what this is          GET /healthz  the process answers
//!   GET /metrics  Prometheus text       GET /readyz   the database is open and its clock runs; else 503 and why
//! ```
//!
//! Everything said here comes from a [`MetricsSource`]; this folder knows no database.

mod metrics;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tidemark_common::{Error, Result};
use tokio::net::TcpListener;

pub use metrics::{Histogram, Metric};

/// Whoever knows how the server is doing.
pub trait MetricsSource: Send + Sync + 'static {
    /// Every metric, as of now. Cheap: called at each scrape.
    fn gather(&self) -> Vec<Metric>;

    /// `Err`: why statements cannot be served now.
    fn ready(&self) -> Result<(), String>;
}

/// Answers until `shutdown` resolves; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    source: Arc<dyn MetricsSource>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    axum::serve(listener, router(source))
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(|e| Error::from(e).context("http"))
}

fn router(source: Arc<dyn MetricsSource>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(exposition))
        .with_state(source)
}

async fn ready(State(source): State<Arc<dyn MetricsSource>>) -> impl IntoResponse {
    match source.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_string()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn exposition(State(source): State<Arc<dyn MetricsSource>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::expose(&source.gather()))
}

async fn index(State(source): State<Arc<dyn MetricsSource>>) -> impl IntoResponse {
    let state = match source.ready() {
        Ok(()) => "It is ready.".to_string(),
        Err(reason) => format!("It is not ready: {}.", escape_html(&reason)),
    };
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Tidemark</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}}</style>\
         <h1>Tidemark {version}</h1>\
         <p>This is a Tidemark server, a streaming database. {state} SQL is spoken on its Postgres port, with psql or any \
         other Postgres client.\
         <ul><li><a href=/healthz>/healthz</a>: the process is up\
         <li><a href=/readyz>/readyz</a>: the database is open and its clock runs\
         <li><a href=/metrics>/metrics</a>: figures for Prometheus</ul></html>\n",
        version = env!("CARGO_PKG_VERSION"),
    ))
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[derive(Default)]
    struct Switched(AtomicBool);

    impl MetricsSource for Switched {
        fn gather(&self) -> Vec<Metric> {
            vec![Metric::gauge("tidemark_up", "Is it up.", 1.0)]
        }

        fn ready(&self) -> Result<(), String> {
            if self.0.load(Ordering::SeqCst) { Ok(()) } else { Err("the clock stopped: disk <full>".into()) }
        }
    }

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn the_pages_say_how_the_source_is() {
        let source = Arc::new(Switched::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, source.clone(), async {
            stopped.await.ok();
        }));

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let waiting = get(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503") && waiting.contains("disk <full>"), "{waiting}");
        assert!(get(address, "/").await.contains("disk &lt;full&gt;"));
        source.0.store(true, Ordering::SeqCst);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("\ntidemark_up 1\n"));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
