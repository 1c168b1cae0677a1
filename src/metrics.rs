//! The engine's status as metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemark_engine::{JobStatus, SinkStatus};

use crate::database::Database;
use crate::http::{Histogram, Metric, MetricsSource};

pub struct DatabaseMetrics {
    db: Arc<Database>,
    /// Durations of all epochs that were there to see at a scrape.
    epochs: Histogram,
    /// The last of them.
    seen: AtomicU64,
}

impl DatabaseMetrics {
    pub fn new(db: Arc<Database>) -> Self {
        Self { db, epochs: Histogram::new(Histogram::SECONDS), seen: AtomicU64::new(0) }
    }
}

impl MetricsSource for DatabaseMetrics {
    fn gather(&self) -> Vec<Metric> {
        let status = self.db.engine.status();
        let mut metrics = vec![
            Metric::gauge("tidemark_epoch", "The last committed epoch", self.db.moment().epoch() as f64),
            Metric::counter("tidemark_transactions_total", "Transactions committed", status.transactions as f64),
            Metric::counter(
                "tidemark_conflicts_total",
                "Transactions refused for a concurrent one",
                status.conflicts as f64,
            ),
            Metric::counter(
                "tidemark_source_rows_total",
                "Rows that all sources have given",
                status.source_rows as f64,
            ),
            Metric::gauge("tidemark_connections", "Open sessions", self.db.sessions().len() as f64),
        ];
        if let Some(last) = status.epochs.back() {
            let seconds = last.duration_micros as f64 / 1e6;
            metrics.push(Metric::gauge("tidemark_epoch_duration_seconds", "Duration of the last epoch", seconds));
            metrics.push(Metric::gauge("tidemark_epoch_commit_bytes", "Bytes of the last commit", last.bytes as f64));
        }
        for epoch in status.epochs.iter().filter(|e| e.epoch > self.seen.load(Ordering::Relaxed)) {
            self.epochs.observe(epoch.duration_micros as f64 / 1e6);
        }
        if let Some(last) = status.epochs.back() {
            self.seen.fetch_max(last.epoch, Ordering::Relaxed);
        }
        metrics.push(self.epochs.metric("tidemark_epoch_seconds", "Durations of epochs"));
        let mut rows = Metric::labelled_counter("tidemark_source_read_rows_total", "Rows read from a source");
        let mut late = Metric::labelled_counter("tidemark_source_late_rows_total", "Rows of a source dropped as late");
        let mut future =
            Metric::labelled_counter("tidemark_source_future_rows_total", "Rows of a source refused by max_future");
        let mut lag = Metric::labelled_gauge("tidemark_source_lag_rows", "Rows known to wait in a source");
        let mut lag_bytes =
            Metric::labelled_gauge("tidemark_source_lag_bytes", "Bytes that another system keeps for a source");
        let mut stale = Metric::labelled_counter(
            "tidemark_source_stale_rows_total",
            "Changes of a source that came after later ones of their rows",
        );
        let mut unknown = Metric::labelled_gauge(
            "tidemark_source_unknown_columns",
            "Columns that the records of a source have and it has not",
        );
        for source in &status.sources {
            unknown = unknown.with(&[("source", &source.name)], source.unknown_columns.len() as f64);
            rows = rows.with(&[("source", &source.name)], source.rows as f64);
            late = late.with(&[("source", &source.name)], source.late_rows as f64);
            future = future.with(&[("source", &source.name)], source.future_rows as f64);
            stale = stale.with(&[("source", &source.name)], source.stale_rows as f64);
            if let Some(kept) = source.lag_bytes {
                lag_bytes = lag_bytes.with(&[("source", &source.name)], kept as f64);
            }
            if let Some(waiting) = source.lag_rows {
                lag = lag.with(&[("source", &source.name)], waiting as f64);
            }
        }
        let mut entries =
            Metric::labelled_gauge("tidemark_job_state_entries", "State entries of a view or sink in memory");
        let mut out = Metric::labelled_counter("tidemark_job_rows_total", "Changes that a view or sink has made");
        for job in &status.jobs {
            entries = entries.with(&[("job", &job.name)], job.state_entries as f64);
            out = out.with(&[("job", &job.name)], job.rows_out as f64);
        }
        metrics.extend([rows, late, future, lag, lag_bytes, stale, unknown, entries, out]);
        metrics.extend(sink_metrics(&status.sinks));
        metrics.extend(lookup_metrics(&status.jobs));
        let catalog = self.db.moment().catalog;
        let mut runs = Metric::labelled_counter("tidemark_pipeline_runs_total", "Runs of a pipeline that have ended");
        let mut failing =
            Metric::labelled_gauge("tidemark_pipeline_failing", "1 if a pipeline's last run did not succeed");
        for fact in self.db.pipelines.facts(&catalog) {
            let Some(object) = catalog.get(fact.oid) else { continue };
            runs = runs.with(&[("pipeline", &object.name), ("status", "succeeded")], fact.succeeded as f64);
            runs = runs.with(&[("pipeline", &object.name), ("status", "failed")], fact.failed as f64);
            let fails = fact.last_status.is_some_and(|status| status != "succeeded");
            failing = failing.with(&[("pipeline", &object.name)], f64::from(u8::from(fails)));
        }
        metrics.extend([runs, failing]);
        match self.db.store.stats() {
            Ok(stats) => {
                metrics.push(Metric::gauge(
                    "tidemark_store_disk_bytes",
                    "Size of the store on disk",
                    stats.table_bytes as f64,
                ));
            }
            Err(error) => tracing::warn!(%error, "the store's statistics cannot be read"),
        }
        metrics
    }

    fn ready(&self) -> Result<(), String> {
        let status = self.db.engine.status();
        match status.clock_error {
            Some(error) => Err(error.to_string()),
            None if status.running => Ok(()),
            None => Err("the clock does not run yet".into()),
        }
    }
}

fn lookup_metrics(jobs: &[JobStatus]) -> [Metric; 5] {
    let mut rows = Metric::labelled_gauge("tidemark_lookup_waiting_rows", "Rows that wait for a lookup's answer");
    let mut bytes =
        Metric::labelled_gauge("tidemark_lookup_waiting_bytes", "Bytes of rows that wait for a lookup's answer");
    let mut asked = Metric::labelled_counter("tidemark_lookup_keys_total", "Keys that a lookup has asked for");
    let mut hits = Metric::labelled_counter("tidemark_lookup_hits_total", "Rows whose key a lookup had in its cache");
    let mut failing =
        Metric::labelled_gauge("tidemark_lookup_failing", "1 if a lookup's last question was not answered");
    for (job, lookup) in jobs.iter().flat_map(|job| job.lookups.iter().map(move |lookup| (job, lookup))) {
        let label = [("job", job.name.as_str()), ("table", lookup.table.as_str())];
        rows = rows.with(&label, lookup.rows_waiting as f64);
        bytes = bytes.with(&label, lookup.bytes_waiting as f64);
        asked = asked.with(&label, lookup.report.answered as f64);
        hits = hits.with(&label, lookup.hits as f64);
        failing = failing.with(&label, f64::from(u8::from(lookup.report.error.is_some())));
    }
    [rows, bytes, asked, hits, failing]
}

fn sink_metrics(sinks: &[SinkStatus]) -> [Metric; 5] {
    let mut delivered = Metric::labelled_counter("tidemark_sink_rows_total", "Changes that a sink has delivered");
    let mut epochs = Metric::labelled_gauge("tidemark_sink_pending_epochs", "Epochs that a sink has yet to deliver");
    let mut rows = Metric::labelled_gauge("tidemark_sink_pending_rows", "Changes that a sink has yet to deliver");
    let mut bytes = Metric::labelled_gauge("tidemark_sink_pending_bytes", "Bytes that a sink has yet to deliver");
    let mut failing = Metric::labelled_gauge("tidemark_sink_failing", "1 if a sink's last delivery did not succeed");
    for sink in sinks {
        let label = [("sink", sink.name.as_str())];
        delivered = delivered.with(&label, sink.delivered_rows as f64);
        epochs = epochs.with(&label, sink.pending_epochs as f64);
        rows = rows.with(&label, sink.pending_rows as f64);
        bytes = bytes.with(&label, sink.pending_bytes as f64);
        failing = failing.with(&label, f64::from(u8::from(sink.error.is_some())));
    }
    [delivered, epochs, rows, bytes, failing]
}
