//! A case: the statements of a file, and after each of them every view beside its query.
//!
//! ```text
//!   -- workers: 3                       threads of the server
//!   CREATE TABLE t0 (..);
//!   CREATE MATERIALIZED VIEW w AS ..;   from here on compared
//!   INSERT INTO t0 VALUES (..);
//!   -- restart                          kill -9, and a new server
//! ```

use std::fmt::Write as _;

use tidemark_sqllogictest::{Client, ClientError, Server};

#[derive(Debug, Clone)]
pub struct Case {
    pub workers: u32,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub enum Step {
    Run(String),
    /// A view by its name and query.
    View(String, String),
    Restart,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Right,
    /// The view cannot be kept up to date, and its creation said so (0A000).
    Refused,
    /// In which way, which stays the same while the case shrinks, and what was found.
    Wrong(String, String),
}

impl Case {
    pub fn parse(text: &str) -> Self {
        let mut case = Case { workers: 1, steps: Vec::new() };
        for block in text.split_inclusive(";\n") {
            let (comments, lines): (Vec<&str>, Vec<&str>) = block.lines().partition(|line| line.starts_with("--"));
            for comment in comments {
                match comment.trim_start_matches("-- ").split_once(": ") {
                    Some(("workers", n)) => case.workers = n.parse().expect("a number of workers"),
                    _ if comment == "-- restart" => case.steps.push(Step::Restart),
                    _ => {}
                }
            }
            let statement = lines.join("\n").trim().trim_end_matches(';').to_string();
            let view = statement.strip_prefix("CREATE MATERIALIZED VIEW ").and_then(|rest| rest.split_once(" AS "));
            match view {
                Some((name, query)) => case.steps.push(Step::View(name.into(), query.trim().into())),
                None if statement.is_empty() => {}
                None => case.steps.push(Step::Run(statement)),
            }
        }
        case
    }

    pub fn render(&self) -> String {
        let mut text = format!("-- workers: {}\n", self.workers);
        for step in &self.steps {
            let written = match step {
                Step::Run(sql) => writeln!(text, "{sql};"),
                Step::View(name, query) => writeln!(text, "CREATE MATERIALIZED VIEW {name} AS {query};"),
                Step::Restart => writeln!(text, "-- restart"),
            };
            written.expect("a String takes all");
        }
        text
    }
}

/// A server on which cases run, each in a schema of its own.
pub struct Bench {
    pub server: Server,
    schemas: u32,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub async fn start(workers: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--workers", &workers.to_string(), "--sync", "off"];
        let server = Server::start_with(&dir.path().join("data"), &flags, &[]).await.unwrap();
        Self { server, schemas: 0, _dir: dir }
    }

    pub async fn connect(&self, schema: &str) -> Client {
        let mut client = self.server.connect().await.unwrap();
        client.lines(&format!("SET search_path = {schema}")).await.unwrap();
        client
    }

    pub async fn new_schema(&mut self) -> String {
        self.schemas += 1;
        let schema = format!("case{}", self.schemas);
        self.server.connect().await.unwrap().lines(&format!("CREATE SCHEMA {schema}")).await.unwrap();
        schema
    }

    pub async fn run(&mut self, case: &Case) -> Outcome {
        let schema = self.new_schema().await;
        let outcome = self.run_in(&schema, case).await;
        let mut client = self.server.connect().await.unwrap();
        // What cannot be dropped only costs time: the server goes after the last case.
        let _ = client.lines(&format!("DROP SCHEMA {schema} CASCADE")).await;
        outcome
    }

    async fn run_in(&mut self, schema: &str, case: &Case) -> Outcome {
        let mut client = self.connect(schema).await;
        let mut views: Vec<(&str, &str)> = Vec::new();
        for step in &case.steps {
            match step {
                Step::Run(sql) => {
                    // A duplicate key is refused: nothing has happened.
                    let _ = client.lines(sql).await;
                }
                Step::View(name, query) => match create(&mut client, name, query).await {
                    Outcome::Right => views.push((name, query)),
                    other => return other,
                },
                Step::Restart => {
                    self.server.kill_and_restart().await.unwrap();
                    client = self.connect(schema).await;
                }
            }
            for (view, _) in &views {
                match validate(&mut client, view).await {
                    Outcome::Right => {}
                    other => return other,
                }
            }
        }
        for (view, query) in views {
            match select(&mut client, view, query).await {
                Outcome::Right => {}
                other => return other,
            }
        }
        Outcome::Right
    }
}

pub async fn create(client: &mut Client, view: &str, query: &str) -> Outcome {
    match client.lines(&format!("CREATE MATERIALIZED VIEW {view} AS {query}")).await {
        Ok(_) => Outcome::Right,
        Err(error) if error.code() == Some("0A000") => Outcome::Refused,
        Err(error) => failed("CREATE", &error),
    }
}

pub async fn validate(client: &mut Client, view: &str) -> Outcome {
    match client.lines(&format!("VALIDATE MATERIALIZED VIEW {view}")).await {
        Ok(rows) if rows.is_empty() => Outcome::Right,
        Ok(rows) => Outcome::Wrong("differs".into(), rows.join("\n")),
        Err(error) => failed("VALIDATE", &error),
    }
}

/// What VALIDATE does, by a client: the rows of the view and those of its query.
pub async fn select(client: &mut Client, view: &str, query: &str) -> Outcome {
    let mut found = Vec::new();
    for sql in [format!("SELECT * FROM {view}"), query.to_string()] {
        match client.lines(&sql).await {
            Ok(mut rows) => {
                rows.sort();
                found.push(rows);
            }
            Err(error) => return failed("SELECT", &error),
        }
    }
    match found[0] == found[1] {
        true => Outcome::Right,
        false => Outcome::Wrong("SELECT differs".into(), format!("view: {:?}\nquery: {:?}", found[0], found[1])),
    }
}

/// The way a statement failed: code and message, without the names and numbers in it, which change as the case shrinks.
fn failed(statement: &str, error: &ClientError) -> Outcome {
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default();
    let words = message.split(['"', '\'', '`']).step_by(2).collect::<String>();
    let words: String = words.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
    Outcome::Wrong(format!("{statement} fails with {}{words}", error.code().unwrap_or("no answer")), text)
}
