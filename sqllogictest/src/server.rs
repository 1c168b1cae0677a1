//! A server process on a data directory: started, killed, started again.

#![allow(clippy::disallowed_methods)] // waits for a process; nothing here is part of a result

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::{Client, Failure, Result};

/// How long a server may take to answer before a test gives up on it; generous, for loaded machines.
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Server {
    child: Child,
    pub port: u16,
    pub http_port: u16,
    dir: PathBuf,
    log: PathBuf,
    /// As it was started, to start it again.
    flags: Vec<String>,
}

/// The next port that nobody listens on: each time another one, below those that the system gives to outgoing connections, so that
/// nobody else takes it before it is used.
pub fn free_port() -> std::io::Result<u16> {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 20_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_mul(97).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + next % PORTS) as u16;
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

impl Server {
    /// The server under test: TIDEMARK_BIN, or else the one that cargo built beside the test executable.
    pub fn binary() -> Result<PathBuf> {
        if let Some(path) = std::env::var_os("TIDEMARK_BIN") {
            return Ok(path.into());
        }
        let test = std::env::current_exe()?;
        let path = test.ancestors().skip(1).map(|dir| dir.join("tidemark")).find(|path| path.is_file());
        path.ok_or_else(|| {
            Failure("no tidemark binary beside the tests: cargo build --workspace, or set TIDEMARK_BIN".into())
        })
    }

    /// Starts on `dir` and waits until it answers.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, &[], &[]).await
    }

    /// With further flags and environment variables.
    pub async fn start_with(dir: &Path, flags: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        Self::start_program(&Self::binary()?, dir, flags, env).await
    }

    /// `program`: the server, or something that becomes the server and passes its arguments on.
    pub async fn start_program(program: &Path, dir: &Path, flags: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        // Between choosing a port and listening on it somebody else may take it: then once more.
        let mut last = None;
        for _ in 0..3 {
            let mut server = Self::spawn(program, dir, flags, env)?;
            match server.wait_ready().await {
                Ok(()) => return Ok(server),
                Err(failure) if failure.0.contains("in use") => last = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        Err(last.unwrap_or_else(|| Failure("no free port".into())))
    }

    fn spawn(program: &Path, dir: &Path, flags: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let (port, http_port) = (free_port()?, free_port()?);
        let log = dir.with_extension("log");
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        // Nothing of the developer's own settings.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMARK_") {
                command.env_remove(name);
            }
        }
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let child = command
            .arg("serve")
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen", &format!("127.0.0.1:{port}"), "--http", &format!("127.0.0.1:{http_port}")])
            .args(flags)
            // Tables of tests are small, and their rows are to be read by column, too.
            .env("TIDEMARK_COLUMN_ROWS", "16")
            .envs(env.iter().copied())
            .current_dir(parent)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let flags = flags.iter().map(|flag| flag.to_string()).collect();
        Ok(Self { child, port, http_port, dir: dir.to_path_buf(), log, flags })
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(Failure(format!("the server ended at once ({status}):\n{}", self.log_tail())));
            }
            match Client::connect(&self.url(), "tidemark").await {
                Ok(_) => return Ok(()),
                // It is up, and wants to know who this is: the test will say.
                Err(error) if error.wants_password() => return Ok(()),
                Err(error) if began.elapsed() > START_LIMIT => {
                    return Err(Failure(format!("the server does not answer: {error}\n{}", self.log_tail())));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    pub fn url(&self) -> String {
        format!("host=127.0.0.1 port={} user=tidemark dbname=tidemark", self.port)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.url(), "tidemark").await?)
    }

    /// SIGKILL: what a power cut leaves of a process.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        Ok(self.child.wait()?)
    }

    /// SIGKILL, then a new process on the same directory, with the same flags.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.kill9()?;
        let (dir, flags) = (self.dir.clone(), std::mem::take(&mut self.flags));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        *self = Self::start_with(&dir, &flags, &[]).await?;
        Ok(())
    }

    /// Ends, and starts again on the same directory with other flags.
    pub async fn restart_with(&mut self, flags: &[&str]) -> Result<()> {
        self.terminate()?;
        let dir = self.dir.clone();
        *self = Self::start_with(&dir, flags, &[]).await?;
        Ok(())
    }

    /// All that the server logged.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// The last lines the server logged.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended: nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
