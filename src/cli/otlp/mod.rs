//! Metrics and traces by OTLP, pushed to an OpenTelemetry collector.
//!
//! OpenTelemetry's standard variables say whether, where and how. [`recorder`] keeps the figures of `/metrics` and shows
//! them to OpenTelemetry's SDK, [`spans`] makes traces; both are sent by [`transport`], on TLS and through proxies as
//! calls of handlers go.

mod recorder;
pub mod spans;
mod transport;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{MetricExporter, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};

use self::recorder::OtlpRecorder;
use self::transport::Transport;
use crate::cli::admin_server::{AlsoRecorder, record_process_gauges, table_of};
use crate::options::WorkerOptions;
use crate::telemetry::WorkerTelemetry;

/// The interval at which the process's gauges are measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// The limit for the last exports: a collector that is gone must not keep the worker from ending.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Limit of one export, unless the environment sets another: OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The exports of a worker.
pub struct Otlp {
    metrics: Option<SdkMeterProvider>,
}

impl Otlp {
    /// Starts to export what the environment asks for, and gives the recorder that must take the metrics of a worker. With
    /// `has_shards`, each shard's lag too.
    pub fn start(
        options: &WorkerOptions,
        telemetry: &WorkerTelemetry,
        has_shards: bool,
    ) -> (Self, Option<AlsoRecorder>) {
        Transport::use_runtime();
        let Some(exporter) = exporter() else { return (Self { metrics: None }, None) };
        let reader = PeriodicReader::builder(exporter).build();
        let resource = resource(Some(&options.worker_id));
        let provider = SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build();
        let recorder = OtlpRecorder::new(&provider, &options.app, table_of(&options.stream));
        if has_shards {
            recorder.show_shards(&provider, telemetry.clone());
        }
        tokio::spawn(async {
            loop {
                record_process_gauges();
                tokio::time::sleep(MEASURE_INTERVAL).await;
            }
        });
        tracing::info!("sending metrics by OTLP");
        (Self { metrics: Some(provider) }, Some(Box::new(recorder)))
    }

    /// Sends the last figures and spans, if the collector takes them soon.
    pub async fn end(self) {
        // The SDK waits for the exports, whose calls need this runtime's threads. A failure is logged by the transport.
        let last = move || {
            if let Some(metrics) = self.metrics {
                let _ = metrics.shutdown_with_timeout(timeout("METRICS"));
            }
            spans::end(timeout("TRACES"));
        };
        let _ = tokio::time::timeout(END_LIMIT, tokio::task::spawn_blocking(last)).await;
    }
}

/// The exporter of metrics, if they are asked for and can be sent.
fn exporter() -> Option<MetricExporter> {
    if !is_wanted() {
        return None;
    }
    let exporter = MetricExporter::builder()
        .with_http()
        .with_http_client(Transport::new("metrics", timeout("METRICS")))
        .with_protocol(Protocol::HttpBinary)
        .build();
    let error = match (protocol(), exporter) {
        (None, Ok(exporter)) => return Some(exporter),
        (None, Err(error)) => error.to_string(),
        (Some(protocol), _) => format!("the protocol is {protocol}, and this program speaks http/protobuf"),
    };
    tracing::warn!(error, "metrics are not sent by OTLP");
    None
}

/// Whether OpenTelemetry's variables ask for metrics: an endpoint is named, or the exporter is.
fn is_wanted() -> bool {
    let exporter = variable("OTEL_METRICS_EXPORTER");
    let has_endpoint = ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    let has_endpoint = has_endpoint.into_iter().any(|name| variable(name).is_some());
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    !is_disabled && exporter.map_or(has_endpoint, |names| names.split(',').any(|name| name.trim() == "otlp"))
}

/// A protocol that the environment asks for and that is not spoken here.
fn protocol() -> Option<String> {
    let asked = variable("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    asked.filter(|protocol| protocol != "http/protobuf")
}

/// The limit of one export of a signal.
fn timeout(signal: &str) -> Duration {
    let ms = variable(&format!("OTEL_EXPORTER_OTLP_{signal}_TIMEOUT"));
    let ms = ms.or_else(|| variable("OTEL_EXPORTER_OTLP_TIMEOUT")).and_then(|ms| ms.parse().ok());
    ms.map_or(TIMEOUT, Duration::from_millis)
}

/// The worker as OpenTelemetry names it; what the environment says counts more.
fn resource(worker: Option<&str>) -> Resource {
    let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let is_said = |name: &str| attributes.split(',').any(|pair| pair.split('=').next().map(str::trim) == Some(name));
    let mut resource = Resource::builder();
    if variable("OTEL_SERVICE_NAME").is_none() && !is_said("service.name") {
        resource = resource.with_service_name("shardkeeper");
    }
    let version = Some(("service.version", env!("CARGO_PKG_VERSION")));
    let own = worker.map(|worker| ("service.instance.id", worker)).into_iter().chain(version);
    let own = own.filter(|(name, _)| !is_said(name));
    resource.with_attributes(own.map(|(name, value)| KeyValue::new(name, value.to_owned()))).build()
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
