//! Metrics and their text form for Prometheus (exposition format 0.0.4).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// One metric with all its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    /// `_bucket`, `_sum`, `_count` of a histogram; otherwise empty.
    suffix: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Metric {
    /// Only ever grows; the name ends in `_total`.
    pub fn counter(name: &'static str, help: &'static str, value: f64) -> Self {
        Self::labelled_counter(name, help).with(&[], value)
    }

    /// Goes up and down.
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self::labelled_gauge(name, help).with(&[], value)
    }

    /// A counter that gets its samples by [`Metric::with`].
    pub fn labelled_counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "counter", samples: Vec::new() }
    }

    /// A gauge that gets its samples by [`Metric::with`].
    pub fn labelled_gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "gauge", samples: Vec::new() }
    }

    /// One more sample, told from the others by its labels.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|(k, v)| (*k, (*v).to_string())).collect();
        self.samples.push(Sample { suffix: "", labels, value });
        self
    }
}

/// Counts observations (seconds, bytes, ..) in buckets; shared between threads.
#[derive(Debug)]
pub struct Histogram {
    /// Ascending.
    bounds: &'static [f64],
    /// One more than bounds: the last has no bound.
    counts: Vec<AtomicU64>,
    /// In millionths, so that it can be added to without a lock.
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Durations of a tick or a query, in seconds.
    pub const SECONDS: &'static [f64] =
        &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted());
        Self {
            bounds,
            counts: bounds.iter().map(|_| 0).chain([0]).map(AtomicU64::new).collect(),
            sum_micros: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add((value.max(0.0) * 1e6) as u64, Ordering::Relaxed);
    }

    /// The buckets as Prometheus wants them: each counts what is at or below its bound.
    pub fn metric(&self, name: &'static str, help: &'static str) -> Metric {
        let mut samples = Vec::with_capacity(self.counts.len() + 2);
        let mut below = 0;
        for (i, count) in self.counts.iter().enumerate() {
            below += count.load(Ordering::Relaxed);
            let bound = self.bounds.get(i).map_or("+Inf".to_string(), f64::to_string);
            samples.push(Sample { suffix: "_bucket", labels: vec![("le", bound)], value: below as f64 });
        }
        let sum = self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        samples.push(Sample { suffix: "_sum", labels: Vec::new(), value: sum });
        samples.push(Sample { suffix: "_count", labels: Vec::new(), value: below as f64 });
        Metric { name, help, kind: "histogram", samples }
    }
}

pub(super) fn expose(metrics: &[Metric]) -> String {
    let mut out = String::new();
    for m in metrics {
        let Metric { name, help, kind, samples } = m;
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", help.replace('\\', "\\\\").replace('\n', "\\n"));
        for s in samples {
            let _ = writeln!(out, "{name}{}{} {}", s.suffix, label_text(&s.labels), s.value);
        }
    }
    out
}

fn label_text(labels: &[(&'static str, String)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn text_form() {
        static BOUNDS: &[f64] = &[0.1, 1.0];
        let histogram = Histogram::new(BOUNDS);
        for seconds in [0.05, 0.1, 0.5, 3.0] {
            histogram.observe(seconds);
        }
        let metrics = [
            Metric::counter("tidemark_epochs_total", "Epochs committed.", 12.0),
            Metric::labelled_gauge("tidemark_source_lag_rows", "Rows behind.")
                .with(&[("source", "a")], 0.0)
                .with(&[("source", "say \"b\"\n")], 1.5),
            histogram.metric("tidemark_epoch_seconds", "Duration of an epoch."),
        ];
        expect![[r#"
            # HELP tidemark_epochs_total Epochs committed.
            # TYPE tidemark_epochs_total counter
            tidemark_epochs_total 12
            # HELP tidemark_source_lag_rows Rows behind.
            # TYPE tidemark_source_lag_rows gauge
            tidemark_source_lag_rows{source="a"} 0
            tidemark_source_lag_rows{source="say \"b\"\n"} 1.5
            # HELP tidemark_epoch_seconds Duration of an epoch.
            # TYPE tidemark_epoch_seconds histogram
            tidemark_epoch_seconds_bucket{le="0.1"} 2
            tidemark_epoch_seconds_bucket{le="1"} 3
            tidemark_epoch_seconds_bucket{le="+Inf"} 4
            tidemark_epoch_seconds_sum 3.65
            tidemark_epoch_seconds_count 4
        "#]]
        .assert_eq(&expose(&metrics));
    }
}
