//! The admin server: metrics for Prometheus, and whether the worker lives and gets on. Read-only.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use crate::consumer::Alive;
use crate::metrics;

/// Upper bounds of the processor's times, in seconds.
const SECONDS_BUCKETS: &[f64] =
    &[0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the recorder's histograms are emptied into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts to record metrics and to serve them at `address`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(address: SocketAddr, app: &str, table: &str, alive: Alive) -> Result<(), anyhow::Error> {
    let recorder = PrometheusBuilder::new()
        .add_global_label("app", app)
        .add_global_label("table", table)
        .set_buckets_for_metric(Matcher::Full(metrics::PROCESSOR_SECONDS.name.to_owned()), SECONDS_BUCKETS)
        .context("the metrics' buckets are wrong")?
        .install_recorder()
        .context("cannot record metrics")?;
    metrics::describe();
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot serve metrics on {address}: is another worker there? --metrics-addr chooses one, port 0 any")
    })?;
    let address = listener.local_addr().context("cannot tell the address")?;
    tracing::info!(%address, "serving /metrics, /live and /ready");
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    tokio::spawn(serve(listener, recorder, alive));
    Ok(())
}

async fn serve(listener: TcpListener, recorder: PrometheusHandle, alive: Alive) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (recorder, alive) = (recorder.clone(), alive.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&request, &recorder, &alive);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(async move {
            let mut connection = hyper::server::conn::http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
            let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn answer<B>(request: &Request<B>, recorder: &PrometheusHandle, alive: &Alive) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, recorder.render()),
        "/live" => text(StatusCode::OK, "alive\n".into()),
        "/ready" if alive.holds(alive.term()) => text(StatusCode::OK, "ready\n".into()),
        "/ready" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: this worker has not proved itself alive in the fleet table in time\n".into(),
        ),
        _ => text(StatusCode::NOT_FOUND, "here are /metrics, /live and /ready\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
