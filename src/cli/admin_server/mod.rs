//! The admin server: metrics for Prometheus, the worker's health and events, the state of its fleet, and a page of all
//! that for people.
//! Read-only but for the level of the log, which the same machine may change, and bounded in connections, in the time that
//! a request may take, and in what it costs the tables.

mod event_stream;
mod log_level;
mod own_page;
mod page;
mod process;
mod recorder;
mod status;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::event_stream::{EventStream, Pieces};
use self::own_page::OwnPage;
pub use self::process::record_gauges as record_process_gauges;
pub use self::recorder::{AlsoRecorder, Recorder};
use self::status::StatusPage;
use super::args::run::AdminArgs;
use super::reload::Version;
use crate::options::{StreamSelector, WorkerOptions};
use crate::telemetry::WorkerTelemetry;

/// Time for the head of a request to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole request, its response included; for a stream, the time in which it must move.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The most connections at once; others wait to be accepted.
const MOST_CONNECTIONS: usize = 32;
/// Interval at which the recorder's histograms are emptied into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

/// A body at hand, or one that is still being made.
type Body = Either<Full<Bytes>, Pieces>;

struct Admin {
    recorder: Recorder,
    telemetry: WorkerTelemetry,
    has_shards: bool,
    status: StatusPage,
    events: EventStream,
    own: Arc<OwnPage>,
}

/// Starts to record metrics of a worker with these options, here and by the recorder `also`, and to serve them.
///
/// # Errors
/// When the server is needed and the address cannot be listened on.
pub async fn start(
    args: &AdminArgs,
    options: &WorkerOptions,
    is_needed: bool,
    telemetry: WorkerTelemetry,
    version: Version,
    also: Option<AlsoRecorder>,
) -> Result<(), anyhow::Error> {
    let Some(listener) = listen(args, is_needed).await? else {
        return also.map_or(Ok(()), recorder::install_alone);
    };
    let recorder = Recorder::install(&options.app, table_of(&options.stream), also)?;
    let address = listener.local_addr().context("cannot tell the address")?;
    tracing::info!(%address, "serving /metrics, /live, /ready and /status");
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    let own = OwnPage::start(options, telemetry.clone());
    let admin = Admin {
        recorder,
        telemetry,
        has_shards: args.metrics_per_shard,
        status: StatusPage::new(options, version),
        events: EventStream::new(&options.worker_id),
        own,
    };
    tokio::spawn(serve(listener, Arc::new(admin)));
    Ok(())
}

/// Listens on the address, if there is one, and it is not the default one that somebody else has.
async fn listen(args: &AdminArgs, is_needed: bool) -> Result<Option<TcpListener>, anyhow::Error> {
    let Some(address) = args.metrics_addr.0 else { return Ok(None) };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if !is_needed => {
            tracing::warn!(%address, %error, "cannot serve /metrics, /live, /ready and /status: the default address is taken, perhaps by another worker; give --metrics-addr");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| {
            format!("cannot serve metrics on {address}: is another worker there? port 0 is any free one")
        }),
    }
}

/// The table's name, for the label.
pub fn table_of(stream: &StreamSelector) -> &str {
    match stream {
        // A name, or arn:aws:dynamodb:REGION:ACCOUNT:table/NAME
        StreamSelector::Table(table) => table.rsplit('/').next().unwrap_or(table),
        // arn:aws:dynamodb:REGION:ACCOUNT:table/NAME/stream/LABEL
        StreamSelector::Arn(arn) => arn.split('/').nth(1).unwrap_or(arn),
    }
}

async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await;
        let permit = permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"));
        match listener.accept().await {
            Ok((stream, peer)) => drop(tokio::spawn(serve_connection(stream, peer.ip(), Arc::clone(&admin), permit))),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Serves one request and closes the connection, so that idle ones keep nobody out.
async fn serve_connection(stream: TcpStream, peer: IpAddr, admin: Arc<Admin>, _permit: OwnedSemaphorePermit) {
    let moves = Arc::new(AtomicBool::new(false));
    let has_moved = Arc::clone(&moves);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (admin, moves) = (Arc::clone(&admin), Arc::clone(&moves));
        async move {
            Ok::<_, Infallible>(match request.uri().path() {
                "/log-level" => log_level::answer(request, peer).await,
                _ => admin.answer(&request, &moves).await,
            })
        }
    });
    let mut connection = hyper::server::conn::http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
    let stalled = async {
        loop {
            tokio::time::sleep(REQUEST_TIMEOUT).await;
            if !has_moved.swap(false, Ordering::Relaxed) {
                return;
            }
        }
    };
    tokio::select! {
        _ = connection.serve_connection(TokioIo::new(stream), answer) => {}
        () = stalled => {}
    }
}

impl Admin {
    async fn answer<B>(self: &Arc<Self>, request: &Request<B>, moves: &Arc<AtomicBool>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
        }
        match request.uri().path() {
            "/" => page::answer(),
            "/events" => self.events.answer(request, moves),
            "/worker" => match self.own.json() {
                Ok(page) => response(StatusCode::OK, JSON, page),
                Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            },
            "/metrics" => self.metrics().await,
            "/live" => {
                let health = self.telemetry.health();
                verdict(
                    health.is_live(),
                    "alive",
                    "not alive, and will not recover by itself",
                    &health.not_live_reasons,
                )
            }
            "/ready" => {
                let health = self.telemetry.probe().await;
                verdict(health.is_ready(), "ready", "not ready", &health.not_ready_reasons)
            }
            "/status" => match self.status.page().await {
                Ok(page) => response(StatusCode::OK, JSON, page),
                Err(reason) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
            },
            _ => response(
                StatusCode::NOT_FOUND,
                TEXT,
                "here are /, /metrics, /live, /ready, /status, /events, /worker and /log-level\n",
            ),
        }
    }

    /// Renders on a thread of its own: thousands of series take some milliseconds, which record processing would lose.
    async fn metrics(self: &Arc<Self>) -> Response<Body> {
        let admin = Arc::clone(self);
        let text = tokio::task::spawn_blocking(move || {
            record_process_gauges();
            admin.recorder.render(&admin.telemetry, admin.has_shards)
        });
        match text.await {
            Ok(text) => response(StatusCode::OK, EXPOSITION, text),
            Err(_) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics could not be rendered\n"),
        }
    }
}

/// A yes, or a no with its reasons, a line each.
fn verdict(is_good: bool, yes: &str, no: &str, reasons: &[String]) -> Response<Body> {
    if is_good {
        return response(StatusCode::OK, TEXT, format!("{yes}\n"));
    }
    let reasons: Vec<String> = reasons.iter().map(|reason| format!("- {reason}\n")).collect();
    response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{no}:\n{}", reasons.concat()))
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    with_body(status, kind, Body::Left(Full::new(body.into())))
}

fn with_body(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
