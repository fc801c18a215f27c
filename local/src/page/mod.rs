//! The page for people: tables, items, and streams with their shards and records, read by the API itself.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response};

/// The things that the page may do: use its own script and style, and call this service.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// A part of the page, if this is the path of one, and `/` is asked for by a browser.
pub(crate) fn answer(path: &str, headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let accepted = headers.get("accept").and_then(|kinds| kinds.to_str().ok()).unwrap_or_default();
    let (kind, text) = match path {
        "/" if accepted.contains("text/html") => ("text/html; charset=utf-8", include_str!("page.html")),
        "/_local/page.js" => ("text/javascript; charset=utf-8", include_str!("page.js")),
        "/_local/page.css" => ("text/css; charset=utf-8", include_str!("page.css")),
        _ => return None,
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Some(response)
}
