//! The recorder behind `/metrics`, and the text that it becomes.

use std::fmt::Write;

use anyhow::{Context, anyhow};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;

use crate::telemetry::WorkerTelemetry;
use crate::telemetry::catalogue::{self, Kind, Metric};

/// A recorder besides the one behind `/metrics`.
pub type AlsoRecorder = Box<dyn metrics::Recorder + Send + Sync>;

/// Makes this recorder alone the process's.
///
/// # Errors
/// When the process has a recorder already.
pub fn install_alone(recorder: AlsoRecorder) -> Result<(), anyhow::Error> {
    metrics::set_global_recorder(recorder).context("cannot record metrics")?;
    catalogue::describe();
    Ok(())
}

/// The process's recorder of metrics.
#[derive(Clone, Debug)]
pub struct Recorder {
    handle: PrometheusHandle,
    /// The labels of all series, as they stand in the text.
    labels: String,
}

impl Recorder {
    /// Makes this, and `also`, the process's recorder; every series gets the labels `app` and `table`.
    ///
    /// # Errors
    /// When the process has a recorder already.
    pub fn install(app: &str, table: &str, also: Option<AlsoRecorder>) -> Result<Self, anyhow::Error> {
        let mut builder = PrometheusBuilder::new().add_global_label("app", app).add_global_label("table", table);
        for metric in catalogue::ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
            let matcher = Matcher::Full(metric.name.to_owned());
            builder =
                builder.set_buckets_for_metric(matcher, metric.buckets).context("the metrics' buckets are wrong")?;
        }
        let own = builder.build_recorder();
        let handle = own.handle();
        match also {
            Some(also) => {
                let both = FanoutBuilder::default().add_recorder(own).add_recorder(also).build();
                metrics::set_global_recorder(both)
                    .map_err(|_| anyhow!("cannot record metrics: there is a recorder"))?;
            }
            None => metrics::set_global_recorder(own).context("cannot record metrics")?,
        }
        catalogue::describe();
        let labels = format!("app=\"{}\",table=\"{}\"", escaped(app), escaped(table));
        Ok(Self { handle, labels })
    }

    /// All metrics as they are now, in Prometheus' text format; each shard's lag too if it is asked for.
    pub fn render(&self, telemetry: &WorkerTelemetry, has_shards: bool) -> String {
        telemetry.record_gauges();
        let mut text = without_unknown(self.handle.render());
        if has_shards {
            self.append_shards(telemetry, &mut text);
        }
        text
    }

    /// Empties histograms into their buckets.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Appends each shard's lag. The recorder forgets series only by a time-out for all gauges, so these are written
    /// without it: a shard that is finished or another worker's is gone at once.
    fn append_shards(&self, telemetry: &WorkerTelemetry, text: &mut String) {
        let Metric { name, help, .. } = catalogue::SHARD_LAG.metric();
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (shard, lag) in telemetry.shard_lags() {
            let (labels, shard, lag) = (&self.labels, escaped(shard.as_str()), lag.as_secs_f64());
            let _ = writeln!(text, "{name}{{{labels},shard=\"{shard}\"}} {lag}");
        }
    }
}

/// Leaves out gauges whose value is no longer known.
fn without_unknown(text: String) -> String {
    if !text.contains(" NaN\n") {
        return text;
    }
    text.split_inclusive('\n').filter(|line| !line.ends_with(" NaN\n")).collect()
}

/// A label's value as it stands in the text.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let text = "# TYPE a gauge\na{x=\"1\"} 2\nb{x=\"NaN\"} NaN\nc 3\n".to_owned();
        assert_eq!(without_unknown(text), "# TYPE a gauge\na{x=\"1\"} 2\nc 3\n");
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c"), "a\\\"b\\\\c");
    }
}
