//! Metrics and traces by OTLP, decoded by the protocol's official definitions and compared with `/metrics` and with what a
//! handler saw.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use ring::{digest, hmac};
use shardkeeper::internals::telemetry::catalogue;

use super::admin::{address_of, get};
use crate::support::fixture::{Fixture, TABLE, Worker, with_credentials};
use crate::support::local_service::Written;
use crate::support::shardkeeper;
use crate::support::wait::wait_for;

/// A request's head and body.
type Request = (String, Vec<u8>);

/// A collector, and a handler too: answers every request with this status, and keeps it with its head in lower case.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    status: Arc<Mutex<u16>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let collector = Collector { address, requests: Arc::default(), status: Arc::new(Mutex::new(200)) };
        let serving = collector.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(connection));
            }
        });
        collector
    }

    fn serve(&self, connection: TcpStream) {
        let mut reader = BufReader::new(connection.try_clone().expect("a handle"));
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
            }
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            let mut body = vec![0; length.expect("a length")];
            reader.read_exact(&mut body).expect("the whole body");
            self.requests.lock().expect("no panic").push((head, body));
            let status = *self.status.lock().expect("no panic");
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            let _ = (&connection).write_all(answer.as_bytes());
        }
    }

    /// The requests of a path so far.
    fn requests(&self, path: &str) -> Vec<(String, Vec<u8>)> {
        let start = format!("post {path} http/1.1");
        let requests = self.requests.lock().expect("no panic");
        requests.iter().filter(|(head, _)| head.starts_with(&start)).cloned().collect()
    }

    /// The exports of metrics so far.
    fn exports(&self) -> Vec<(String, ExportMetricsServiceRequest)> {
        let decode = |body: Vec<u8>| ExportMetricsServiceRequest::decode(body.as_slice()).expect("protobuf");
        self.requests("/v1/metrics").into_iter().map(|(head, body)| (head, decode(body))).collect()
    }

    fn count(&self) -> usize {
        self.requests("/v1/metrics").len()
    }

    /// All spans so far.
    fn spans(&self) -> Vec<Span> {
        let decode = |body: Vec<u8>| ExportTraceServiceRequest::decode(body.as_slice()).expect("protobuf");
        let exports = self.requests("/v1/traces").into_iter().map(|(_, body)| decode(body));
        let scopes = exports.flat_map(|export| export.resource_spans).flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

/// Starts a worker that sends its metrics each half second, with these variables besides.
fn worker(fixture: &Fixture, collector: &Collector, id: &str, variables: &[(&str, &str)]) -> Worker {
    worker_with(fixture, collector, id, variables, "")
}

fn worker_with(fixture: &Fixture, collector: &Collector, id: &str, variables: &[(&str, &str)], flags: &str) -> Worker {
    let deliveries = fixture.deliveries("app");
    let url = fixture.service.url();
    let line = format!(
        "run --table {TABLE} --app app --worker-id {id} --endpoint-url {url} --metrics-addr 127.0.0.1:0 \
         --lease-duration 2s --idle-poll 100ms --checkpoint-interval 500ms {flags}"
    );
    let mut command = shardkeeper();
    with_credentials(&mut command).args(line.split_whitespace()).stdout(deliveries.stdout());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address));
    command.env("OTEL_METRIC_EXPORT_INTERVAL", "500").envs(variables.iter().copied());
    Worker::start(&mut command, id, fixture.log(id))
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.clone()) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{}: {other:?}", pair.key),
    };
    list.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// A series as Prometheus writes it.
fn series(name: &str, list: &[KeyValue]) -> String {
    let pairs: Vec<String> = attributes(list).iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{name}{{{}}}", pairs.join(","))
}

fn metrics(export: &ExportMetricsServiceRequest) -> Vec<Metric> {
    let scopes = export.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    scopes.flat_map(|scope| scope.metrics.clone()).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts of a test")]
fn number(value: Option<number_data_point::Value>) -> f64 {
    match value.expect("a value") {
        number_data_point::Value::AsDouble(value) => value,
        number_data_point::Value::AsInt(value) => value as f64,
    }
}

/// All series of an export; a histogram's as its count and its buckets, which Prometheus adds up.
#[expect(clippy::cast_precision_loss, reason = "counts of a test")]
fn exported(export: &ExportMetricsServiceRequest) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for Metric { name, data, .. } in metrics(export) {
        match data.expect("data") {
            metric::Data::Sum(sum) => {
                assert!(sum.is_monotonic, "{name}");
                found.extend(
                    sum.data_points.iter().map(|point| (series(&name, &point.attributes), number(point.value))),
                );
            }
            metric::Data::Gauge(gauge) => {
                let points = gauge.data_points.iter();
                found.extend(points.map(|point| (series(&name, &point.attributes), number(point.value))));
            }
            metric::Data::Histogram(histogram) => {
                for point in histogram.data_points {
                    found.insert(series(&format!("{name}_count"), &point.attributes), point.count as f64);
                    let bounds =
                        catalogue::ALL.iter().find(|metric| metric.name == name).expect("it is listed").buckets;
                    assert_eq!(point.explicit_bounds, bounds, "{name}");
                }
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    found
}

/// All series of `/metrics`, with their labels in order; of histograms the counts alone.
fn scraped(address: &str) -> BTreeMap<String, f64> {
    let text = get(address, "/metrics").1;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .filter(|line| !line.contains("_bucket{") && !line.contains("_sum{"))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = name.split_once('{').expect("labels");
            let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
            labels.sort_unstable();
            (format!("{name}{{{}}}", labels.join(",")), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn an_export_has_the_series_of_the_metrics_page_with_their_values() {
    let fixture = Fixture::new("--shards 2");
    let collector = Collector::start();
    let variables =
        [("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"), ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=streams")];
    let mut worker = worker(&fixture, &collector, "w", &variables);
    let address = address_of(&worker);
    fixture.service.write(TABLE, &mut Written::default(), 500);
    fixture.wait_for_checkpoints("app");

    // A whole export between two scrapes.
    let before = scraped(&address);
    let seen = collector.count();
    wait_for("two exports", || collector.count() >= seen + 2);
    let (head, export) = collector.exports().pop().expect("an export");
    let after = scraped(&address);
    let exported = exported(&export);
    let names = |all: &BTreeMap<String, f64>| -> Vec<String> { all.keys().cloned().collect() };
    let in_all = |name: &&String| after.contains_key(*name);
    let missing: Vec<_> = before.keys().filter(in_all).filter(|name| !exported.contains_key(*name)).collect();
    // OpenTelemetry has no series of a histogram without an observation.
    let missing: Vec<_> = missing.into_iter().filter(|name| before[*name] != 0.0).collect();
    assert!(missing.is_empty(), "{missing:?} are missing in {:?}", names(&exported));
    let strange: Vec<_> = exported.keys().filter(|name| !after.contains_key(*name)).collect();
    assert!(strange.is_empty(), "{strange:?} are not in /metrics");
    for (name, value) in exported.iter().filter(|(name, _)| name.contains("_total{") || name.contains("_count{")) {
        let (low, high) = (before.get(name).copied().unwrap_or_default(), after[name]);
        assert!((low..=high).contains(value), "{name}: {value} is not from {low} to {high}");
    }
    assert!(exported.values().all(|value| !value.is_nan()));
    let processed = exported.iter().filter(|(name, _)| name.starts_with("shardkeeper_records_processed_total{"));
    assert_eq!(processed.map(|(_, value)| value).sum::<f64>(), 500.0);

    assert!(head.contains("content-type: application/x-protobuf") && head.contains("x-team: streams"), "{head}");
    let resource = attributes(&export.resource_metrics[0].resource.as_ref().expect("a resource").attributes);
    for (name, value) in [
        ("service.name", "shardkeeper"),
        ("service.instance.id", "w"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("deployment.environment", "test"),
    ] {
        assert_eq!(resource.get(name).map(String::as_str), Some(value), "{resource:?}");
    }
    for metric in metrics(&export) {
        let listed = catalogue::ALL.iter().find(|listed| listed.name == metric.name).expect("it is listed");
        assert_eq!(metric.description, listed.help);
    }
    // The last figures arrive, however the interval falls.
    let seen = collector.count();
    assert_eq!(worker.stop(), 0);
    assert!(collector.count() > seen);
}

#[test]
fn deltas_are_sent_where_they_are_asked_for_and_add_up() {
    let fixture = Fixture::new("--shards 1");
    let collector = Collector::start();
    let variables = [("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"), ("OTEL_SERVICE_NAME", "orders")];
    let mut worker = worker(&fixture, &collector, "w", &variables);
    fixture.service.write(TABLE, &mut Written::default(), 300);
    fixture.wait_for_checkpoints("app");
    assert_eq!(worker.stop(), 0);
    let mut records = 0.0;
    for (_, export) in collector.exports() {
        let resource = attributes(&export.resource_metrics[0].resource.as_ref().expect("a resource").attributes);
        assert_eq!(resource["service.name"], "orders");
        for metric in metrics(&export).iter().filter(|metric| metric.name == "shardkeeper_records_processed_total") {
            let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
            assert_eq!(sum.aggregation_temporality, AggregationTemporality::Delta as i32);
            records += sum.data_points.iter().map(|point| number(point.value)).sum::<f64>();
        }
    }
    assert_eq!(records, 300.0);
}

#[test]
fn a_collector_that_fails_is_logged_once_and_holds_up_nothing() {
    let fixture = Fixture::new("--shards 1");
    let collector = Collector::start();
    *collector.status.lock().expect("no panic") = 400;
    let mut worker = worker(&fixture, &collector, "w", &[]);
    worker.wait_for_log("sending by OTLP failed, retrying");
    let seen = collector.count();
    wait_for("it to retry", || collector.count() >= seen + 3);
    *collector.status.lock().expect("no panic") = 200;
    worker.wait_for_log("sending by OTLP succeeds again");
    assert_eq!(worker.log().matches("sending by OTLP failed").count(), 1, "{}", worker.log());
    fixture.service.write(TABLE, &mut Written::default(), 100);
    fixture.wait_for_checkpoints("app");
    assert_eq!(worker.stop(), 0);
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_batch_is_traced_from_its_deliveries_into_the_handler_if_that_is_asked_for() {
    let fixture = Fixture::new("--shards 1");
    let (collector, handler) = (Collector::start(), Collector::start());
    *handler.status.lock().expect("no panic") = 503;
    let flags = format!("--to http://{}/orders", handler.address);
    let variables = [("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_BSP_SCHEDULE_DELAY", "200")];
    let mut worker = worker_with(&fixture, &collector, "w", &variables, &flags);
    fixture.service.write(TABLE, &mut Written::default(), 10);
    wait_for("a retry", || handler.requests("/orders").len() >= 2);
    *handler.status.lock().expect("no panic") = 200;
    fixture.wait_for_checkpoints("app");
    assert_eq!(worker.stop(), 0);
    assert!(!worker.log().contains("otel"), "the log is as without traces: {}", worker.log());

    let spans = collector.spans();
    let named = |name: &str| -> Vec<&Span> { spans.iter().filter(|span| span.name == name).collect() };
    for name in ["fetch", "batch", "deliver", "checkpoint"] {
        assert!(!named(name).is_empty(), "no span {name}");
    }
    let requests = handler.requests("/orders");
    let delivered = named("deliver");
    assert!(delivered.len() >= 2);
    for (head, _) in &requests {
        let parent = head.split("traceparent: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a header");
        let is_parent = |span: &&&Span| parent.contains(&hexadecimal(&span.span_id));
        let deliver = delivered.iter().find(is_parent).unwrap_or_else(|| panic!("no span of {parent}"));
        assert_eq!(parent, format!("00-{}-{}-01", hexadecimal(&deliver.trace_id), hexadecimal(&deliver.span_id)));
        assert!(named("batch").iter().any(|batch| batch.span_id == deliver.parent_span_id), "an attempt without batch");
    }
    let failed = delivered.iter().filter(|span| span.status.as_ref().is_some_and(|status| status.code == 2));
    assert!(failed.count() >= 2, "{delivered:?}");
    // Each retry links the attempt before it, and begins after it.
    let mut retries = 0;
    for batch in named("batch") {
        let mut attempts: Vec<_> = delivered.iter().filter(|span| span.parent_span_id == batch.span_id).collect();
        attempts.sort_by_key(|span| span.start_time_unix_nano);
        assert!(attempts[0].links.is_empty(), "{attempts:?}");
        for pair in attempts.windows(2) {
            let linked: Vec<_> = pair[1].links.iter().map(|link| &link.span_id).collect();
            assert_eq!(linked, [&pair[0].span_id]);
            assert!(pair[0].end_time_unix_nano <= pair[1].start_time_unix_nano, "{pair:?}");
            retries += 1;
        }
    }
    assert!(retries >= 1, "{delivered:?}");
}

#[test]
fn nothing_is_traced_unless_that_is_asked_for() {
    let fixture = Fixture::new("--shards 1");
    let (collector, handler) = (Collector::start(), Collector::start());
    let flags = format!("--to http://{}/orders", handler.address);
    let mut worker = worker_with(&fixture, &collector, "w", &[], &flags);
    fixture.service.write(TABLE, &mut Written::default(), 10);
    fixture.wait_for_checkpoints("app");
    assert_eq!(worker.stop(), 0);
    assert!(collector.count() > 0 && collector.requests("/v1/traces").is_empty());
    assert!(handler.requests("/orders").iter().all(|(head, _)| !head.contains("traceparent")));
}

#[test]
fn exports_to_cloudwatch_are_signed() {
    let fixture = Fixture::new("--shards 1");
    let collector = Collector::start();
    let url = "http://monitoring.us-east-1.amazonaws.com/v1/metrics";
    let proxy = format!("http://{}", collector.address);
    let variables = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", url), ("HTTP_PROXY", &*proxy), ("NO_PROXY", "127.0.0.1")];
    let _worker = worker(&fixture, &collector, "w", &variables);
    wait_for("an export", || !collector.requests(url).is_empty());
    let (head, body) = collector.requests(url).remove(0);
    let header = |name: &str| {
        let start = format!("{name}: ");
        head.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {name} in {head}"))
    };
    let field = |name: &str| header("authorization").split(name).nth(1).and_then(|rest| rest.split(", ").next());
    let (time, names) = (header("x-amz-date").to_uppercase(), field("signedheaders=").expect("names"));
    let scope = format!("{}/us-east-1/monitoring/aws4_request", &time[..8]);
    assert_eq!(field("credential="), Some(format!("local/{scope}").as_str()));
    assert!(names.split(';').any(|name| name == "host"), "{names}");

    // Signature Version 4, from what has arrived.
    let digest = |bytes: &[u8]| hexadecimal(digest::digest(&digest::SHA256, bytes).as_ref());
    let value = |name: &str| if name == "x-amz-date" { time.clone() } else { header(name).to_owned() };
    let headers: String = names.split(';').map(|name| format!("{name}:{}\n", value(name))).collect();
    let canonical = format!("POST\n/v1/metrics\n\n{headers}\n{names}\n{}", digest(&body));
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", digest(canonical.as_bytes()));
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let key = scope.split('/').fold(b"AWS4local".to_vec(), |key, part| sign(&key, part).as_ref().to_vec());
    assert_eq!(field("signature="), Some(&*hexadecimal(sign(&key, &text).as_ref())));
}
