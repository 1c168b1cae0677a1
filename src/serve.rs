//! `tidemark serve`: listens until a signal says stop, then finishes the epoch.

use std::sync::Arc;

use tidemark_common::{Error, Result, SqlState};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::database::Database;
use crate::metrics::DatabaseMetrics;
use crate::pgwire::Encryption;
use crate::{http, pgwire};

pub async fn run(config: Arc<Config>) -> Result<()> {
    let encryption = match &config.tls {
        Some(files) => Encryption::with_files(&files.certificate, &files.key, files.required)?,
        None => Encryption::default(),
    };
    let db = Database::open(config.clone(), tokio::runtime::Handle::current())?;
    db.clean_up().await?;
    let mut servers: JoinSet<Result<()>> = JoinSet::new();
    for address in config.http_addresses()? {
        let listener = bind("http", address).await?;
        let shutdown = db.shutdown_token();
        let metrics = Arc::new(DatabaseMetrics::new(db.clone()));
        tracing::info!(%address, "http");
        servers.spawn(async move { http::serve(listener, metrics, async move { shutdown.cancelled().await }).await });
    }
    for address in config.listen_addresses()? {
        let listener = bind("listen", address).await?;
        tracing::info!(%address, data_dir = %config.data_dir.display(), epoch = db.moment().epoch(), "ready for connections");
        servers.spawn(pgwire::serve(listener, db.clone(), encryption.clone(), db.shutdown_token()));
    }
    wait_for_signal().await?;
    tracing::info!("stopping");
    let stopped = tokio::time::timeout(config.shutdown_timeout, async {
        db.shutdown().await;
        while let Some(server) = servers.join_next().await {
            server.map_err(|e| Error::internal(e.to_string()))??;
        }
        Ok::<_, Error>(())
    });
    match stopped.await {
        Ok(result) => result?,
        Err(_) => tracing::warn!("clients did not leave in time; what was acknowledged is on disk"),
    }
    tracing::info!("stopped");
    Ok(())
}

async fn bind(name: &str, address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let error = Error::new(SqlState::IoError, format!("{name}: cannot listen on {address}: {e}"));
        match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                error.with_hint(format!("Another process listens there; choose another address with --{name}."))
            }
            _ => error,
        }
    })
}

async fn wait_for_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
