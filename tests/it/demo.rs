//! The demo: its script runs, its views fill, and running it again does no harm.

use crate::harness::{repository, start, text};

#[tokio::test]
async fn flights() {
    let instance = start().await;
    let script = repository().join("examples/flights.sql");
    for _ in 0..2 {
        // The script names its data relative to the repository, where `make demo` runs it.
        let sql = std::fs::read_to_string(&script).unwrap();
        let sql = sql.replace("'examples/flights", &format!("'{}/examples/flights", repository().display()));
        let copy = instance.dir.path().join("flights.sql");
        std::fs::write(&copy, sql).unwrap();
        let output = instance.psql(&["-v", "ON_ERROR_STOP=1", "-q", "-f", copy.to_str().unwrap()]);
        assert!(output.status.success(), "{}{}", text(&output.stderr), instance.server.log_tail());
    }
    instance.wait_for("SELECT count(*) > 10 FROM delays_by_hour", &["t"]).await;
    instance.wait_for("SELECT count(*) > 0 FROM worst_hours", &["t"]).await;
    // A view on a view is its query.
    let query = "SELECT count(*) FROM ((SELECT * FROM worst_hours) EXCEPT (SELECT window_start, origin, flights, avg_delay \
                 FROM delays_by_hour WHERE flights >= 5 AND avg_delay >= 30))";
    assert_eq!(instance.value(query).await, "0");
}
