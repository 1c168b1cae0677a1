//! What Linux says of a process, and services that run beside a test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::{Failure, Result};

/// In which `/proc` counts time; Linux has no other for programs.
const TICKS_A_SECOND: f64 = 100.0;

/// User and system time of a process so far.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(cpu_in(&fs::read_to_string(format!("/proc/{pid}/stat"))?))
}

/// The same of each of its threads that still run, with their names (15 characters at most).
pub fn cpu_seconds_by_thread(pid: u32) -> Result<Vec<(String, f64)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or("", |(name, _)| name);
        threads.push((name.to_string(), cpu_in(&stat)));
    }
    Ok(threads)
}

fn cpu_in(stat: &str) -> f64 {
    // After the name in brackets, which may hold anything: utime and stime are the 12th and 13th fields.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_A_SECOND
}

/// The most memory that a process had so far, in bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
    kilobytes.map(|kb: u64| kb * 1024).ok_or_else(|| Failure("the process has no VmHWM".into()))
}

/// What one of `scripts/` runs a command beside: there until this is dropped.
pub struct Service(Child);

impl Service {
    /// `script`: without the command.
    pub fn start(script: &mut Command) -> Result<Self> {
        script.args(["bash", "-c", "echo ready; cat"]); // until its input ends
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| Failure(format!("{script:?} has no output")))?;
        let service = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim() {
            "ready" => Ok(service),
            _ => Err(Failure(format!("{script:?} does not start (make setup installs what it needs)"))),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The script cleans up behind it.
        let _ended = self.0.wait();
    }
}
