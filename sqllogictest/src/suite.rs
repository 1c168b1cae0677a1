//! Runs files side by side, each against a database of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use sqllogictest::{Runner, default_column_validator, default_normalizer, default_validator};

use crate::{Client, Failure, Result, Server, slt_files, views};

/// What to run, and against what.
#[derive(Debug, Clone)]
pub struct Options {
    pub suites: PathBuf,
    /// Only files whose path contains this.
    pub filter: Option<String>,
    /// Run against this PostgreSQL (libpq key words without dbname) instead of Tidemark.
    pub postgres: Option<String>,
    /// Rewrite the expected results instead of comparing.
    pub bless: bool,
    pub jobs: usize,
}

impl Options {
    /// TIDEMARK_SLT (filter), TIDEMARK_SLT_POSTGRES, TIDEMARK_SLT_BLESS=1.
    pub fn from_env(suites: &Path) -> Self {
        let var = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        Self {
            suites: suites.to_path_buf(),
            filter: var("TIDEMARK_SLT"),
            postgres: var("TIDEMARK_SLT_POSTGRES"),
            bless: var("TIDEMARK_SLT_BLESS").is_some(),
            jobs: std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8),
        }
    }
}

#[derive(Debug)]
pub struct Report {
    pub files: usize,
    pub failures: Vec<(PathBuf, Failure)>,
}

/// Where a file's connections go.
pub(crate) enum Target {
    Tidemark { server: Server, _dir: tempfile::TempDir },
    Postgres { url: String },
}

impl Target {
    async fn new(options: &Options, file: &Path) -> Result<Self> {
        if let Some(server) = &options.postgres {
            let name: String = file.to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            let name = name[name.len().saturating_sub(40)..].to_lowercase();
            let mut admin = Client::connect(&format!("{server} dbname=postgres"), "postgres").await?;
            admin.query(&format!("DROP DATABASE IF EXISTS \"{name}\"")).await?;
            admin.query(&format!("CREATE DATABASE \"{name}\"")).await?;
            return Ok(Target::Postgres { url: format!("{server} dbname={name}") });
        }
        let dir = tempfile::tempdir()?;
        let server = Server::start(&dir.path().join("data")).await?;
        Ok(Target::Tidemark { server, _dir: dir })
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Target::Tidemark { server, .. } => server.url(),
            Target::Postgres { url } => url.clone(),
        }
    }

    pub(crate) fn engine(&self) -> &'static str {
        match self {
            Target::Tidemark { .. } => "tidemark",
            Target::Postgres { .. } => "postgres",
        }
    }

    pub(crate) async fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.url(), self.engine()).await?)
    }

    fn log_tail(&self) -> String {
        match self {
            Target::Tidemark { server, .. } => format!("\nthe server's last words:\n{}", server.log_tail()),
            Target::Postgres { .. } => String::new(),
        }
    }
}

/// Runs every file; a failure in one does not keep the others from running.
pub async fn run_suites(options: Options) -> Result<Report> {
    let files: Vec<PathBuf> = slt_files(&options.suites)?
        .into_iter()
        .filter(|f| options.filter.as_ref().is_none_or(|want| f.to_string_lossy().contains(want.as_str())))
        .filter(|f| options.postgres.is_none() || !f.starts_with(options.suites.join("tidemark")))
        .collect();
    let options = Arc::new(options);
    let count = files.len();
    let results: Vec<(PathBuf, Result<()>)> = futures::stream::iter(files)
        .map(|file| {
            let options = options.clone();
            async move {
                let result = run_file(&options, &file).await;
                (file, result)
            }
        })
        .buffer_unordered(options.jobs)
        .collect()
        .await;
    let mut failures: Vec<_> = results.into_iter().filter_map(|(file, r)| r.err().map(|e| (file, e))).collect();
    failures.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Report { files: count, failures })
}

/// Runs records that are given as text, against a server that is there. `engine`: the label of `skipif` and `onlyif`.
pub async fn run_script(url: &str, engine: &'static str, script: &str) -> Result<()> {
    let mut runner = Runner::new(|| async move { Client::connect(url, engine).await });
    let result = runner.run_script_async(script).await;
    runner.shutdown_async().await;
    result.map_err(|e| Failure(e.display(false).to_string()))
}

async fn run_file(options: &Options, file: &Path) -> Result<()> {
    let mut target = Target::new(options, file).await?;
    if file.starts_with(options.suites.join("views")) {
        return views::run(&mut target, file, options.bless).await;
    }
    let (url, engine) = (target.url(), target.engine());
    let mut runner = Runner::new(|| {
        let url = url.clone();
        async move { Client::connect(&url, engine).await }
    });
    let result = if options.bless {
        runner
            .update_test_file(file, " ", default_validator, default_normalizer, default_column_validator)
            .await
            .map_err(|e| Failure(e.to_string()))
    } else {
        runner.run_file_async(file).await.map_err(|e| Failure(format!("{}{}", e.display(false), target.log_tail())))
    };
    runner.shutdown_async().await;
    result
}
