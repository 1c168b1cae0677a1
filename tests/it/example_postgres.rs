//! examples/postgres-scd2: the commands of its README print what it says. UPDATE_EXPECT=1 rewrites that.

use std::process::Command;

use crate::harness::{binary, repository, text};
use crate::postgres::Postgres;
use tidemark_sqllogictest::Server;

#[tokio::test]
async fn its_readme_is_true() {
    let postgres = Postgres::start().await;
    postgres.run("CREATE DATABASE shop").await;
    let port = postgres.port.to_string();
    let shop = [("SHOP_HOST", "127.0.0.1"), ("SHOP_PORT", port.as_str()), ("SHOP_PASSWORD", "secret")];
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_program(&binary(), &dir.path().join("data"), &["--log", "warn"], &shop).await.unwrap();
    let example = repository().join("examples/postgres-scd2");
    let readme = std::fs::read_to_string(example.join("README.md")).unwrap();
    let declared = std::fs::read_to_string(example.join("tidemark.sql")).unwrap();
    assert!(readme.contains(&format!("```sql\n{}\n```", declared.trim_end())), "README.md shows another tidemark.sql");

    let run = |command: &str| -> String {
        let output = Command::new("bash")
            .args(["-c", &format!("{command} 2>&1")])
            .current_dir(&example)
            .env("SHOP", format!("host=127.0.0.1 port={port} dbname=shop user=tidemark"))
            .env("TIDEMARK", server.url())
            .envs([("PGTZ", "UTC"), ("PAGER", "cat"), ("LC_ALL", "C.UTF-8")])
            .output()
            .unwrap();
        text(&output.stdout).lines().map(|line| format!("{}\n", line.trim_end())).collect()
    };
    let (mut said, mut commands, mut inside) = (String::new(), 0, false);
    for line in readme.lines() {
        inside = (inside || line == "```console") && line != "```";
        match line.strip_prefix("$ ").filter(|_| inside) {
            Some(command) => {
                commands += 1;
                said.push_str(&format!("{line}\n{}", run(command).trim_end_matches('\n')));
                said.truncate(said.trim_end_matches('\n').len());
                said.push('\n');
            }
            None if inside && line != "```console" => {}
            None => said.push_str(&format!("{line}\n")),
        }
    }
    assert!(commands >= 8, "{commands} commands");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(example.join("README.md"), said).unwrap();
    } else {
        assert_eq!(readme, said);
    }
}
