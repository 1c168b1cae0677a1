//! The documentation is true: every ```` ```sql run ```` block of README.md and docs/ is given to psql, and the ```` ```text ````
//! block that follows must be what psql prints. UPDATE_EXPECT=1 rewrites those.

use std::path::{Path, PathBuf};

use crate::harness::{Instance, repository, start, text};

/// A block to run, and the lines of the expected output below it, if there is one.
struct Example {
    sql: String,
    line: usize,
    expected: Option<(usize, usize)>,
}

fn examples(lines: &[&str]) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut i = 0;
    // Only a text block right below an example is its output.
    let mut after_example = false;
    while i < lines.len() {
        let Some(info) = lines[i].strip_prefix("```") else {
            after_example &= lines[i].trim().is_empty();
            i += 1;
            continue;
        };
        let body = i + 1;
        let end = (body..lines.len()).find(|j| lines[*j].starts_with("```")).expect("a code block that ends");
        if info == "sql run" {
            examples.push(Example { sql: lines[body..end].join("\n"), line: i + 1, expected: None });
            after_example = true;
        } else {
            if info == "text" && after_example {
                examples.last_mut().unwrap().expected = Some((body, end));
            }
            after_example = false;
        }
        i = end + 1;
    }
    examples
}

fn psql_says(instance: &Instance, sql: &str) -> String {
    let file = instance.dir.path().join("example.sql");
    std::fs::write(&file, sql).unwrap();
    let output = instance.psql(&["-q", "-f", file.to_str().unwrap()]);
    let said = text(&output.stdout) + &text(&output.stderr).replace(&format!("psql:{}:", file.display()), "line ");
    said.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_string()
}

async fn check(path: &Path) -> Vec<String> {
    let content = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = content.lines().collect();
    let examples = examples(&lines);
    if examples.is_empty() {
        return Vec::new();
    }
    let instance = start().await;
    let (mut wrong, mut out, mut next) = (Vec::new(), Vec::<String>::new(), 0);
    for example in examples {
        let said = psql_says(&instance, &example.sql);
        let Some((from, to)) = example.expected else {
            if said.contains("ERROR") {
                wrong.push(format!("{}:{}: {said}", path.display(), example.line));
            }
            continue;
        };
        let expected = lines[from..to].iter().map(|l| l.trim_end()).collect::<Vec<_>>().join("\n");
        if said != expected {
            wrong.push(format!("{}:{}\n-- expected\n{expected}\n-- psql says\n{said}", path.display(), example.line));
        }
        out.extend(lines[next..from].iter().map(|l| l.to_string()));
        out.extend(said.lines().map(String::from));
        next = to;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        out.extend(lines[next..].iter().map(|l| l.to_string()));
        std::fs::write(path, out.join("\n") + "\n").unwrap();
        return Vec::new();
    }
    wrong
}

#[tokio::test]
async fn examples_say_the_truth() {
    let mut files: Vec<PathBuf> = vec![repository().join("README.md")];
    let mut dirs = vec![repository().join("docs")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut wrong = Vec::new();
    for file in files {
        wrong.extend(check(&file).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Links between pages lead somewhere.
#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    let mut dirs = vec![repository().join("docs")];
    let mut files = vec![repository().join("README.md")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "md")) {
        let content = std::fs::read_to_string(file).unwrap();
        for link in content.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !file.parent().unwrap().join(target).exists() {
                wrong.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
