//! The SQL suites. TIDEMARK_SLT=part-of-a-path runs some of them, TIDEMARK_SLT_BLESS=1 records what the server answers,
//! TIDEMARK_SLT_POSTGRES='host=.. user=..' asks PostgreSQL instead.

use tidemark_sqllogictest::{Options, run_suites};

use crate::harness::repository;

#[tokio::test(flavor = "multi_thread")]
async fn suites() {
    let report = run_suites(Options::from_env(&repository().join("sqllogictest/suites"))).await.unwrap();
    assert!(report.files > 0, "no suite matches");
    let failures: Vec<String> = report.failures.iter().map(|(f, e)| format!("== {}\n{e}\n", f.display())).collect();
    assert!(failures.is_empty(), "{} of {} suites fail\n{}", failures.len(), report.files, failures.join("\n"));
}
