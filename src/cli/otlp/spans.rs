//! Traces: the worker's [spans](crate::telemetry::spans), sampled and sent by OTLP, and their place in requests to
//! handlers.

use std::sync::OnceLock;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::transport::Transport;
use super::{resource, timeout, variable};
use crate::telemetry::spans::TARGET;

/// The header of the W3C's trace context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The process's provider, if it traces.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// The layer that makes traces, if the environment asks for them: `OTEL_TRACES_EXPORTER=otlp`. Nothing is sent before
/// [`Transport::use_runtime`].
pub fn layer<S>() -> Option<impl Layer<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let tracer = tracer()?;
    let layer: OpenTelemetryLayer<S, SdkTracer> = tracing_opentelemetry::layer().with_tracer(tracer);
    let layer = layer.with_location(false).with_threads(false).with_target(false).with_tracked_inactivity(false);
    Some(layer.with_filter(Targets::new().with_target(TARGET, Level::TRACE)))
}

fn tracer() -> Option<SdkTracer> {
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let exporters = variable("OTEL_TRACES_EXPORTER").filter(|_| !is_disabled)?;
    if !exporters.split(',').any(|name| name.trim() == "otlp") {
        return None;
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Transport::new("traces", timeout("TRACES")))
        .with_protocol(Protocol::HttpBinary)
        .build();
    // Logs are not set up yet, so that a variable that cannot be understood is said by the export of metrics alone.
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter.ok()?).with_resource(resource(None)).build();
    let tracer = provider.tracer("shardkeeper");
    PROVIDER.set(provider).ok()?;
    Some(tracer)
}

/// Sends the last spans.
pub fn end(limit: Duration) {
    if let Some(provider) = PROVIDER.get() {
        let _ = provider.shutdown_with_timeout(limit);
    }
}

/// The header that makes a handler's spans children of the current one, if it is traced.
pub fn traceparent() -> Option<(HeaderName, HeaderValue)> {
    PROVIDER.get()?;
    let context = Span::current().context();
    let span = context.span();
    let context = span.span_context();
    if !context.is_valid() {
        return None;
    }
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags());
    let value = format!("00-{trace}-{span}-{:02x}", flags.to_u8());
    Some((TRACEPARENT, HeaderValue::try_from(value).ok()?))
}
