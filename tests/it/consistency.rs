//! Money moves between accounts in many sessions at once, and every reader finds all of it at every moment.
//!
//! ```text
//!   movers:   BEGIN; INSERT INTO transfers ..; COMMIT      or, on a table of their own, BEGIN; UPDATE ..; UPDATE ..; COMMIT
//!   views:    transfers ─▶ debits, credits ─▶ balance (a join of both) ─▶ total        always 0
//!             accounts ─▶ by_branch ─▶ wealth                                          always ACCOUNTS * OPENING
//!   readers:  SELECT one view, or several joined, over and over; SIGKILL and restart in between
//! ```
//!
//! The work is counted, not timed: a round ends when so many transfers are acknowledged and each reader has read so often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::harness::{Instance, Random, start};

const ACCOUNTS: u64 = 20;
const OPENING: u64 = 1000;
const MOVERS: u64 = 3;
const READERS: u64 = 3;
/// Between two kills, all movers together.
const TRANSFERS: u64 = 150;
/// Between two kills, each reader.
const READS: u64 = 40;
const KILLS: u64 = 2;

/// Name and query; each account begins with nothing as far as transfers go.
const VIEWS: &[(&str, &str)] = &[
    ("debits", "SELECT from_account AS account, sum(amount) AS amount FROM transfers GROUP BY from_account"),
    ("credits", "SELECT to_account AS account, sum(amount) AS amount FROM transfers GROUP BY to_account"),
    (
        "balance",
        "SELECT a.id AS account, coalesce(c.amount, 0) - coalesce(d.amount, 0) AS balance \
         FROM accounts AS a LEFT JOIN credits AS c ON c.account = a.id LEFT JOIN debits AS d ON d.account = a.id",
    ),
    ("total", "SELECT sum(balance) AS total, count(*) AS accounts FROM balance"),
    ("by_branch", "SELECT id % 4 AS branch, sum(money) AS money FROM accounts GROUP BY id % 4"),
    ("wealth", "SELECT sum(money) AS money FROM by_branch"),
];

/// What a reader asks, and what it must get at every moment.
fn invariants() -> Vec<(&'static str, String)> {
    let all = (ACCOUNTS * OPENING).to_string();
    let even = format!("0 {ACCOUNTS}");
    vec![
        ("SELECT total, accounts FROM total", even.clone()),
        ("SELECT sum(balance), count(*) FROM balance", even),
        ("SELECT money FROM wealth", all.clone()),
        ("SELECT sum(money) FROM by_branch", all.clone()),
        ("SELECT sum(money) FROM accounts", all),
        (
            "SELECT (SELECT coalesce(sum(amount), 0) FROM debits) = (SELECT coalesce(sum(amount), 0) FROM credits)",
            "t".into(),
        ),
        (
            "SELECT (SELECT coalesce(sum(amount), 0) FROM transfers) = (SELECT coalesce(sum(amount), 0) FROM credits)",
            "t".into(),
        ),
        // The two halves of balance, joined by the reader: no account differs.
        (
            "SELECT count(*) FROM balance AS b LEFT JOIN credits AS c ON c.account = b.account \
             LEFT JOIN debits AS d ON d.account = b.account \
             WHERE b.balance <> coalesce(c.amount, 0) - coalesce(d.amount, 0)",
            "0".into(),
        ),
        (
            "SELECT t.total, w.money - s.money FROM total AS t, wealth AS w, (SELECT sum(money) AS money FROM accounts) AS s",
            "0 0".into(),
        ),
    ]
}

/// What the sessions of a round have done so far, and whether they should go on.
#[derive(Default)]
struct Round {
    transfers: AtomicU64,
    reads: Vec<AtomicU64>,
    killed: AtomicBool,
}

impl Round {
    fn is_done(&self) -> bool {
        self.transfers.load(Ordering::SeqCst) >= TRANSFERS
            && self.reads.iter().all(|reads| reads.load(Ordering::SeqCst) >= READS)
    }
}

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    tokio::spawn(async move {
        // The kill ends it with an error; that is the test.
        let _ = connection.await;
    });
    Some(client)
}

/// Whether the session may go on: a conflict is no reason to end, the server's end is.
fn goes_on(result: Result<(), tokio_postgres::Error>, round: &Round) -> bool {
    match result {
        Ok(()) => true,
        Err(e) if e.code().is_some_and(|c| c.code() == "40001") => true,
        Err(e) => {
            assert!(round.killed.load(Ordering::SeqCst), "a transfer failed: {e:?}");
            false
        }
    }
}

async fn move_money(url: String, seed: u64, round: Arc<Round>) {
    let Some(client) = connect(&url).await else { return };
    let mut random = Random::new(seed);
    loop {
        let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        let amount = 1 + random.below(50);
        let sql = match random.below(4) {
            0 => format!(
                "BEGIN; UPDATE accounts SET money = money - {amount} WHERE id = {from}; \
                 UPDATE accounts SET money = money + {amount} WHERE id = {to}; COMMIT"
            ),
            1 => format!(
                "BEGIN; INSERT INTO transfers VALUES ({from}, {to}, {amount}); \
                 UPDATE accounts SET money = money - {amount} WHERE id = {to}; \
                 INSERT INTO transfers VALUES ({to}, {from}, 1); \
                 UPDATE accounts SET money = money + {amount} WHERE id = {from}; COMMIT"
            ),
            // Given up half way: nobody may see any of it.
            2 => format!("BEGIN; UPDATE accounts SET money = money + {amount} WHERE id = {to}; ROLLBACK"),
            _ => format!("INSERT INTO transfers VALUES ({from}, {to}, {amount}), ({to}, {from}, {amount} / 2)"),
        };
        let result = client.batch_execute(&sql).await;
        let done = result.is_ok();
        if !goes_on(result, &round) {
            return;
        }
        if done {
            round.transfers.fetch_add(1, Ordering::SeqCst);
        } else if client.batch_execute("ROLLBACK").await.is_err() {
            return;
        }
    }
}

async fn read(url: String, reader: u64, round: Arc<Round>) {
    let Some(client) = connect(&url).await else { return };
    let invariants = invariants();
    let mut random = Random::new(1000 + reader);
    loop {
        let (sql, expected) = &invariants[random.below(invariants.len() as u64) as usize];
        let Ok(messages) = client.simple_query(sql).await else {
            assert!(round.killed.load(Ordering::SeqCst), "a SELECT failed: {sql}");
            return;
        };
        assert_eq!(one_line(&messages), *expected, "{sql}");
        round.reads[reader as usize].fetch_add(1, Ordering::SeqCst);
    }
}

/// The values of the only row.
fn one_line(messages: &[SimpleQueryMessage]) -> String {
    let mut rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = rows.next().expect("each invariant gives a row");
    assert!(rows.next().is_none());
    (0..row.len()).map(|i| row.get(i).unwrap_or("NULL")).collect::<Vec<_>>().join(" ")
}

/// Asks all there is to ask, and that the views are what their queries say.
async fn check(instance: &Instance) {
    for (sql, expected) in invariants() {
        assert_eq!(instance.value(sql).await, expected, "{sql}");
    }
    for (view, _) in VIEWS {
        assert!(instance.lines(&format!("VALIDATE MATERIALIZED VIEW {view}")).await.is_empty(), "{view}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_ever_misses_money() {
    let mut instance = start().await;
    instance.run("CREATE TABLE accounts (id INT PRIMARY KEY, money BIGINT NOT NULL)").await;
    instance
        .run("CREATE TABLE transfers (from_account INT NOT NULL, to_account INT NOT NULL, amount BIGINT NOT NULL)")
        .await;
    instance
        .run(&format!("INSERT INTO accounts SELECT i, {OPENING} FROM generate_series(0, {ACCOUNTS} - 1) AS g (i)"))
        .await;
    for (view, query) in VIEWS {
        instance.run(&format!("CREATE MATERIALIZED VIEW {view} AS {query}")).await;
    }
    for kill in 0..=KILLS {
        let round = Arc::new(Round { reads: (0..READERS).map(|_| AtomicU64::new(0)).collect(), ..Round::default() });
        let url = instance.server.url();
        let mut sessions = tokio::task::JoinSet::new();
        for mover in 0..MOVERS {
            sessions.spawn(move_money(url.clone(), kill * MOVERS + mover + 1, Arc::clone(&round)));
        }
        for reader in 0..READERS {
            sessions.spawn(read(url.clone(), reader, Arc::clone(&round)));
        }
        // A session only ends by itself when it has found something wrong.
        while !round.is_done() {
            assert_eq!(sessions.len() as u64, MOVERS + READERS, "sessions ended before the server did");
            if let Some(Err(failure)) = sessions.try_join_next() {
                std::panic::resume_unwind(failure.into_panic());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        round.killed.store(true, Ordering::SeqCst);
        instance.server.kill9().unwrap();
        while let Some(ended) = sessions.join_next().await {
            ended.unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic()));
        }
        let dir = instance.server.dir().to_path_buf();
        instance.server = tidemark_sqllogictest::Server::start(&dir).await.unwrap();
        check(&instance).await;
    }
}
