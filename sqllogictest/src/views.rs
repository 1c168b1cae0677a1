//! View tests: one query, four runs that must agree.
//!
//! ```text
//!   view-test running totals        1. select   setup, data, the query
//!   setup                           2. before   setup, CREATE MATERIALIZED VIEW, data; equal to the query after each step
//!   CREATE TABLE t (a INT);         3. after    setup, data, CREATE MATERIALIZED VIEW
//!   data                            4. restart  setup, CREATE MATERIALIZED VIEW, half of the data, SIGKILL, the other half
//!   INSERT INTO t VALUES (1), (2);
//!   DELETE FROM t WHERE a = 1;      Results are compared as multisets.
//!   query
//!   SELECT sum(a) FROM t
//!   ----
//!   2
//! ```
//!
//! A statement ends with `;` at the end of a line; each statement of `data` is a step. A blank line ends the test. A line
//! `onlyif tidemark` before it: the query is not plain Postgres, which then skips it. Each run has a schema of its own.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::suite::Target;
use crate::{Client, Failure, Result};

#[derive(Debug, Default, Clone, PartialEq)]
struct ViewTest {
    name: String,
    line: usize,
    tidemark_only: bool,
    setup: Vec<String>,
    data: Vec<String>,
    query: String,
    expected: Vec<String>,
    /// Lines of the file that hold `expected`.
    expected_lines: (usize, usize),
}

pub(crate) async fn run(target: &mut Target, file: &Path, bless: bool) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let mut tests = parse(&text).map_err(|e| Failure(format!("{}:{e}", file.display())))?;
    if target.engine() == "postgres" {
        tests.retain(|t| !t.tidemark_only);
    }
    let at = |test: &ViewTest, run: &str, failure: Failure| {
        Failure(format!("{}:{}: view-test {}, {run}: {failure}", file.display(), test.line, test.name))
    };

    let mut failures = Vec::new();
    for (n, test) in tests.iter_mut().enumerate() {
        match select(target, n, test).await {
            Ok(rows) if bless => test.expected = rows,
            Ok(rows) => failures.extend(compare(&rows, &test.expected).err().map(|e| at(test, "as a SELECT", e))),
            Err(e) => failures.push(at(test, "as a SELECT", e)),
        }
    }
    if bless {
        std::fs::write(file, rewritten(&text, &tests))?;
    } else if target.engine() == "tidemark" {
        for (n, test) in tests.iter().enumerate() {
            let result = before(target, n, test).await;
            failures.extend(result.err().map(|e| at(test, "view before the data", e)));
            failures.extend(after(target, n, test).await.err().map(|e| at(test, "view after the data", e)));
        }
        // One restart serves all tests of the file.
        let mut running = Vec::new();
        for (n, test) in tests.iter().enumerate() {
            match restart_first_half(target, n, test).await {
                Ok(()) => running.push((n, test)),
                Err(e) => failures.push(at(test, "before the restart", e)),
            }
        }
        if let Target::Tidemark { server, .. } = target {
            server.kill_and_restart().await?;
        }
        for (n, test) in running {
            failures.extend(restart_second_half(target, n, test).await.err().map(|e| at(test, "after the restart", e)));
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure(failures.iter().map(|f| format!("{f}\n")).collect()))
}

async fn client_in_schema(target: &Target, schema: &str) -> Result<Client> {
    let mut client = target.connect().await?;
    client.query(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await?;
    client.query(&format!("SET search_path TO {schema}")).await?;
    Ok(client)
}

async fn statements(client: &mut Client, statements: &[String]) -> Result<()> {
    for sql in statements {
        client.query(sql).await.map_err(|e| Failure(format!("{e}\n[SQL] {sql}")))?;
    }
    Ok(())
}

async fn lines(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    client.lines(sql).await.map_err(|e| Failure(format!("{e}\n[SQL] {sql}")))
}

async fn create_view(client: &mut Client, test: &ViewTest) -> Result<()> {
    statements(client, &[format!("CREATE MATERIALIZED VIEW the_view AS {}", test.query)]).await
}

async fn select(target: &Target, n: usize, test: &ViewTest) -> Result<Vec<String>> {
    let mut client = client_in_schema(target, &format!("select_{n}")).await?;
    statements(&mut client, &test.setup).await?;
    statements(&mut client, &test.data).await?;
    lines(&mut client, &test.query).await
}

async fn before(target: &Target, n: usize, test: &ViewTest) -> Result<()> {
    let mut client = client_in_schema(target, &format!("before_{n}")).await?;
    statements(&mut client, &test.setup).await?;
    create_view(&mut client, test).await?;
    for step in &test.data {
        statements(&mut client, std::slice::from_ref(step)).await?;
        let query = lines(&mut client, &test.query).await?;
        let view = lines(&mut client, "SELECT * FROM the_view").await?;
        compare(&view, &query).map_err(|e| Failure(format!("the view differs from its query after\n{step}\n{e}")))?;
    }
    compare(&lines(&mut client, "SELECT * FROM the_view").await?, &test.expected)
}

async fn after(target: &Target, n: usize, test: &ViewTest) -> Result<()> {
    let mut client = client_in_schema(target, &format!("after_{n}")).await?;
    statements(&mut client, &test.setup).await?;
    statements(&mut client, &test.data).await?;
    create_view(&mut client, test).await?;
    // A backfill may go on after CREATE has returned: wait for the right answer, and report the last wrong one.
    let mut result = Ok(());
    for _ in 0..100 {
        result = compare(&lines(&mut client, "SELECT * FROM the_view").await?, &test.expected);
        if result.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    result
}

async fn restart_first_half(target: &Target, n: usize, test: &ViewTest) -> Result<()> {
    let mut client = client_in_schema(target, &format!("restart_{n}")).await?;
    statements(&mut client, &test.setup).await?;
    create_view(&mut client, test).await?;
    statements(&mut client, &test.data[..test.data.len() / 2]).await
}

async fn restart_second_half(target: &Target, n: usize, test: &ViewTest) -> Result<()> {
    let mut client = client_in_schema(target, &format!("restart_{n}")).await?;
    statements(&mut client, &test.data[test.data.len() / 2..]).await?;
    compare(&lines(&mut client, "SELECT * FROM the_view").await?, &test.expected)
}

/// As multisets; white space within a row does not count.
fn compare(actual: &[String], expected: &[String]) -> Result<()> {
    let mut difference: HashMap<String, i64> = HashMap::new();
    let words = |row: &String| row.split_whitespace().collect::<Vec<_>>().join(" ");
    for row in actual {
        *difference.entry(words(row)).or_default() += 1;
    }
    for row in expected {
        *difference.entry(words(row)).or_default() -= 1;
    }
    let mut wrong: Vec<String> =
        difference.iter().filter(|(_, n)| **n != 0).map(|(row, n)| format!("  {n:+} {row}")).collect();
    wrong.sort();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure(format!("wrong rows (+ too many, - missing):\n{}", wrong.join("\n"))))
    }
}

fn rewritten(text: &str, tests: &[ViewTest]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out: Vec<&str> = Vec::new();
    let mut next = 0;
    for test in tests {
        let (from, to) = test.expected_lines;
        out.extend(&lines[next..from]);
        out.extend(test.expected.iter().map(String::as_str));
        next = to;
    }
    out.extend(&lines[next..]);
    out.join("\n") + "\n"
}

/// The error is `line: what`.
fn parse(text: &str) -> Result<Vec<ViewTest>, String> {
    enum Part {
        None,
        Setup,
        Data,
        Query,
        Expected,
    }
    let mut tests: Vec<ViewTest> = Vec::new();
    let mut part = Part::None;
    let mut statement = String::new();
    let mut tidemark_only = false;
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in lines.iter().copied().chain([""]).enumerate() {
        if let Some(name) = line.strip_prefix("view-test ") {
            tests.push(ViewTest { name: name.into(), line: i + 1, tidemark_only, ..ViewTest::default() });
            (part, tidemark_only) = (Part::None, false);
            continue;
        }
        let outside = matches!(part, Part::None) && tests.last().is_none_or(|t| !t.query.is_empty());
        if outside {
            match line {
                "onlyif tidemark" => tidemark_only = true,
                _ if line.is_empty() || line.starts_with('#') => {}
                _ => return Err(format!("{}: unexpected line: {line}", i + 1)),
            }
            continue;
        }
        let test = tests.last_mut().ok_or_else(|| format!("{}: no view-test before this", i + 1))?;
        match (line, &part) {
            ("setup", _) => part = Part::Setup,
            ("data", _) => part = Part::Data,
            ("query", _) => part = Part::Query,
            ("----", Part::Query) => {
                test.expected_lines = (i + 1, i + 1);
                part = Part::Expected;
            }
            ("", Part::Expected) => part = Part::None,
            (_, Part::Expected) => {
                test.expected.push(line.to_string());
                test.expected_lines.1 = i + 1;
            }
            (_, Part::Query) => {
                test.query = format!("{}{}{line}", test.query, if test.query.is_empty() { "" } else { "\n" });
            }
            (_, Part::Setup | Part::Data) => {
                statement = format!("{statement}{}{line}", if statement.is_empty() { "" } else { "\n" });
                if line.ends_with(';') {
                    let list = if matches!(part, Part::Setup) { &mut test.setup } else { &mut test.data };
                    list.push(std::mem::take(&mut statement));
                }
            }
            (_, Part::None) => return Err(format!("{}: unexpected line: {line}", i + 1)),
        }
        if !statement.is_empty() && matches!(part, Part::Query | Part::Expected) {
            return Err(format!("{}: a statement before this does not end in ';'", i + 1));
        }
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment\n\nview-test one\nsetup\nCREATE TABLE t (\n  a INT);\ndata\nINSERT 1;\nINSERT 2;\n\
                        query\nSELECT a\nFROM t\n----\n1\n2\n\nonlyif tidemark\nview-test two\nsetup\nX;\nquery\nY\n----\n";

    #[test]
    fn parsing() {
        let tests = parse(TEXT).unwrap();
        assert_eq!(tests.len(), 2);
        assert_eq!(tests[0].setup, ["CREATE TABLE t (\n  a INT);"]);
        assert_eq!(tests[0].data, ["INSERT 1;", "INSERT 2;"]);
        assert_eq!(tests[0].query, "SELECT a\nFROM t");
        assert_eq!(tests[0].expected, ["1", "2"]);
        assert!(tests[1].tidemark_only && !tests[0].tidemark_only);
        assert!(tests[1].expected.is_empty());
        assert!(parse("view-test x\nsetup\nno end\nquery\n").is_err());
        assert!(parse("nonsense").is_err());
    }

    #[test]
    fn rewriting_touches_only_the_expectations() {
        let mut tests = parse(TEXT).unwrap();
        assert_eq!(rewritten(TEXT, &tests), TEXT);
        tests[0].expected = vec!["9".into()];
        assert_eq!(rewritten(TEXT, &tests), TEXT.replace("----\n1\n2\n", "----\n9\n"));
    }

    #[test]
    fn comparing_as_multisets() {
        let rows = |r: &[&str]| r.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert!(compare(&rows(&["1  2", "3 4"]), &rows(&["3 4", "1 2"])).is_ok());
        let failure = compare(&rows(&["1", "1"]), &rows(&["1", "2"])).unwrap_err();
        assert!(failure.0.ends_with("  +1 1\n  -1 2"), "{failure}");
    }
}
