//! `/`: the page for people, one file that takes everything else from this server.

use std::fmt::Write;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY};
use hyper::{Response, StatusCode};

use super::{Body, response};

const PAGE: &str = include_str!("page.html");

/// The page's own script and style, by their hashes, and answers of this server; nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let mut policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
        .to_owned();
    for (directive, element) in [("script-src", "script"), ("style-src", "style")] {
        let _ = write!(policy, "; {directive} 'sha256-{}'", hash(inside(element)));
    }
    policy
});

/// Answers with the page.
pub fn answer() -> Response<Body> {
    let mut response = response(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    let policy = HeaderValue::from_str(&POLICY).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    response
}

/// The text of the page's only element of this name.
fn inside(element: &str) -> &'static str {
    let text = PAGE.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    text.map_or("", |(text, _)| text)
}

fn hash(text: &str) -> String {
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_names_no_other_host() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1);
            assert!(!inside(element).is_empty());
        }
        let links = PAGE.match_indices("https://").map(|(at, _)| &PAGE[at..]);
        let strange: Vec<&str> = links.filter(|link| !link.starts_with("https://github.com/")).collect();
        assert!(strange.is_empty(), "{strange:?}");
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!PAGE.contains(sink), "{sink}");
        }
    }
}
