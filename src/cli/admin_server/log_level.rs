//! `/log-level`: the level of the log, until the next reload or start.

use std::net::IpAddr;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};

use super::{Body, TEXT, response};
use crate::cli::logs;

/// The most bytes of a level.
const MOST_LOG_LEVEL: usize = 4 << 10;

/// Shows the level, or sets it, for callers on this machine.
pub(super) async fn answer(request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
    if !peer.to_canonical().is_loopback() {
        return response(StatusCode::FORBIDDEN, TEXT, "only from this machine, by a loopback address\n");
    }
    let wanted = match *request.method() {
        Method::GET | Method::HEAD => None,
        Method::PUT => Some(Limited::new(request.into_body(), MOST_LOG_LEVEL).collect().await),
        _ => return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and PUT\n"),
    };
    if let Some(body) = wanted {
        let text = body.ok().and_then(|body| String::from_utf8(body.to_bytes().into()).ok()).unwrap_or_default();
        match text.trim().parse() {
            Ok(filter) => logs::set_filter(&filter),
            Err(mistake) => return response(StatusCode::BAD_REQUEST, TEXT, format!("{mistake}\n")),
        }
        tracing::info!(level = text.trim(), "log level set");
    }
    match logs::filter() {
        Some(filter) => response(StatusCode::OK, TEXT, format!("{filter}\n")),
        None => response(StatusCode::NOT_FOUND, TEXT, "the log is not this program's\n"),
    }
}
