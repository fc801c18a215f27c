//! Tests against handlers of a few lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::model::record::Page;

const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/Phones/stream/2026-01-31T12:00:00.000";
const INVOCATIONS: &str = "/2015-03-31/functions/function/invocations";

/// A handler's reaction to a request.
enum Reaction {
    /// Answers with these bytes.
    Answer(String),
    /// Answers with these bytes and closes the connection.
    BreakOff(&'static str),
    /// Closes the connection without an answer.
    Close,
    /// Never answers.
    Hang,
    /// Reads nothing and never answers.
    Ignore,
    /// Answers with these bytes after a request's first bytes, and reads no more of it.
    Refuse(String),
    /// Answers with this head and a body without end.
    Endless(&'static str),
}

/// A handler that does the same with each request, told how many came before on the connection.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    /// Each request, head and body.
    requests: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    /// A message for each connection that the other end has closed.
    closed: mpsc::UnboundedReceiver<()>,
}

impl Server {
    async fn start(react: impl Fn(usize) -> Reaction + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (request_sender, requests) = mpsc::unbounded_channel();
        let (closed_sender, closed) = mpsc::unbounded_channel();
        let (count, react) = (Arc::clone(&connections), Arc::new(react));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (react, requests, closed) = (Arc::clone(&react), request_sender.clone(), closed_sender.clone());
                tokio::spawn(async move {
                    serve(stream, &*react, &requests).await;
                    let _ = closed.send(());
                });
            }
        });
        Server { port, connections, requests, closed }
    }

    async fn answering(answer: impl Into<String>) -> Server {
        let answer = answer.into();
        Server::start(move |_| Reaction::Answer(answer.clone())).await
    }

    fn handler(&self, path: &str) -> Handler {
        self.handler_with(path, None, None)
    }

    fn handler_with(&self, path: &str, headers: Option<Headers>, secret: Option<Secret>) -> Handler {
        let url = HttpUrl::parse(&format!("http://127.0.0.1:{}{path}", self.port)).expect("a URL");
        let (headers, secret) = (headers.map(Setting::Fixed), secret.map(Setting::Fixed));
        Handler::new(HttpTarget { url, headers, secret }).expect("a handler")
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut stream: TcpStream,
    react: &(dyn Fn(usize) -> Reaction + Send + Sync),
    requests: &mpsc::UnboundedSender<(String, Vec<u8>)>,
) {
    for before in 0.. {
        match react(before) {
            Reaction::Ignore => return std::future::pending().await,
            Reaction::Refuse(answer) => {
                stream.read_exact(&mut [0]).await.expect("a request");
                stream.write_all(answer.as_bytes()).await.expect("it is read");
                return std::future::pending().await;
            }
            _ => {}
        }
        let Some(request) = read_request(&mut stream).await else { return };
        let _ = requests.send(request);
        match react(before) {
            Reaction::Answer(answer) => stream.write_all(answer.as_bytes()).await.expect("it is read"),
            Reaction::BreakOff(start) => {
                stream.write_all(start.as_bytes()).await.expect("it is read");
                return;
            }
            Reaction::Close | Reaction::Ignore | Reaction::Refuse(_) => return,
            Reaction::Hang => {
                let _ = stream.read(&mut [0]).await;
                return;
            }
            Reaction::Endless(head) => {
                let mut written = stream.write_all(head.as_bytes()).await;
                while written.is_ok() {
                    written = stream.write_all(&[b'x'; 4096]).await;
                }
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("a head is text").to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// Records 10, 20 and 30.
fn records() -> RecordBatch {
    let record = |n: u32| json!({"eventID": n.to_string(), "dynamodb": {"SequenceNumber": n.to_string()}});
    let page = json!({"Records": [record(10), record(20), record(30)]});
    Page::decode(Bytes::from(page.to_string())).expect("a page").records
}

async fn hand_over(handler: &Handler) -> Result<(), BatchError> {
    handler.handle(&LambdaEvents::new(ARN), &records()).await
}

/// The error of a batch, and the record that it failed from.
async fn failure(server: &Server, path: &str) -> (String, Option<String>) {
    let error = hand_over(&server.handler(path)).await.expect_err("a failure");
    (error.to_string(), error.failed_from().map(ToString::to_string))
}

#[tokio::test]
async fn a_handler_gets_lambdas_event_with_the_headers_and_the_signature_asked_for() {
    let mut server = Server::answering(answer("200 OK", "", "")).await;
    let headers = Headers::parse("# who asks\nAuthorization: Bearer abc\n\n X-Team : blue \n").expect("headers");
    let secret = Secret::parse("0123456789abcdef\n").expect("a secret");
    hand_over(&server.handler_with("/records?x=1", Some(headers), Some(secret))).await.expect("done");
    let (head, body) = server.requests.recv().await.expect("a request");
    let port = server.port;
    assert!(head.starts_with("post /records?x=1 http/1.1\r\n"), "{head}");
    for line in ["authorization: bearer abc", "x-team: blue", "content-type: application/json"] {
        assert!(head.lines().any(|found| found == line), "no {line} in {head}");
    }
    assert!(head.contains(&format!("\r\nhost: 127.0.0.1:{port}\r\n")), "{head}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
    let signed = signature(&key, &body).expect("a signature");
    assert!(head.contains(&format!("{SIGNATURE}: {}", signed.to_str().expect("text"))), "{head}");
    let event: Value = serde_json::from_slice(&body).expect("json");
    assert_eq!(event["Records"][2]["dynamodb"]["SequenceNumber"], "30");
    assert_eq!(event["Records"][2]["eventSourceARN"], ARN);
}

/// RFC 4231, test case 2.
#[test]
fn the_signature_is_hmac_sha256_in_hexadecimal() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
    let signed = signature(&key, b"what do ya want for nothing?").expect("a signature");
    let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(signed.to_str().expect("text"), expected);
}

#[tokio::test]
async fn any_status_of_success_without_failures_is_done() {
    for (status, body) in [
        ("200 OK", ""),
        ("202 Accepted", "null"),
        ("200 OK", "{}"),
        ("200 OK", "\"ok\""),
        ("200 OK", r#"{"batchItemFailures":[]}"#),
        ("200 OK", r#"{"batchItemFailures":null}"#),
        ("200 OK", r#"{"statusCode":200,"body":"x","errorMessage":null}"#),
    ] {
        let server = Server::answering(answer(status, "", body)).await;
        hand_over(&server.handler("/")).await.unwrap_or_else(|error| panic!("{status} {body}: {error}"));
    }
    let server = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    hand_over(&server.handler("/")).await.expect("done");
}

#[tokio::test]
async fn failures_count_from_the_first_record_that_they_name() {
    let body = r#"{"batchItemFailures":[{"itemIdentifier":"30"},{"itemIdentifier":"0020"}]}"#;
    let server = Server::answering(answer("200 OK", "", body)).await;
    let (words, from) = failure(&server, "/").await;
    assert_eq!(from.as_deref(), Some("20"));
    assert!(words.contains("2 of 3 records failed, the first of them 20"), "{words}");
}

#[tokio::test]
async fn failures_that_name_no_record_of_the_batch_are_the_whole_batchs() {
    for failures in [
        r#"[{"itemIdentifier":"20"},{"itemIdentifier":"99"}]"#,
        r#"[{"itemIdentifier":""}]"#,
        r#"[{"itemIdentifier":null}]"#,
        r#"[{"itemIdentifier":20}]"#,
        r#"[{"identifier":"20"}]"#,
        r#"["20"]"#,
        r#"{"itemIdentifier":"20"}"#,
    ] {
        let server = Server::answering(answer("200 OK", "", &format!(r#"{{"batchItemFailures":{failures}}}"#))).await;
        let (words, from) = failure(&server, "/").await;
        assert_eq!(from, None, "{failures}");
        assert!(words.contains("batchItemFailures are not understood"), "{words}");
    }
}

#[tokio::test]
async fn a_function_that_failed_is_a_failure_although_the_status_is_200() {
    let error = r#"{"errorMessage":"'x'","errorType":"KeyError","stackTrace":[]}"#;
    for (headers, body, expected) in [
        ("", error, "KeyError"),
        ("x-amz-function-error: Unhandled\r\n", "{}", "a function's error"),
        ("", "Task timed out after 3.00 seconds", "Task timed out"),
        ("", "", "an empty body"),
    ] {
        let server = Server::answering(answer("200 OK", headers, body)).await;
        let (words, from) = failure(&server, INVOCATIONS).await;
        assert_eq!(from, None);
        assert!(words.contains(expected), "{expected}: {words}");
    }
    for path in [INVOCATIONS.replace("/function/", "/my-func/"), format!("/prefix/a{INVOCATIONS}?x=1")] {
        let server = Server::answering(answer("200 OK", "", " ")).await;
        let (words, _) = failure(&server, &path).await;
        assert!(words.contains("an empty body"), "{path}: {words}");
    }
    for path in ["/functions/function/invocations", "/2015-03-31/functions//invocations", "/records"] {
        let server = Server::answering(answer("200 OK", "", "")).await;
        hand_over(&server.handler(path)).await.expect("elsewhere an empty body means done");
    }
    for body in [" \r\n", "\u{feff}{}", "\u{feff}"] {
        let server = Server::answering(answer("200 OK", "", body)).await;
        hand_over(&server.handler("/")).await.unwrap_or_else(|error| panic!("{body:?}: {error}"));
    }
    let server = Server::answering(answer("200 OK", "", "null")).await;
    hand_over(&server.handler(INVOCATIONS)).await.expect("a function that returns nothing answers null");
}

#[tokio::test]
async fn any_other_status_is_a_failure_and_told_with_the_beginning_of_the_answer() {
    let server = Server::answering(answer("500 Internal Server Error", "", "no\r\nluck")).await;
    let (words, from) = failure(&server, "/").await;
    assert_eq!((words.as_str(), from), (r#"the handler answered 500 Internal Server Error: "no\r\nluck""#, None));
    let server = Server::answering(answer("302 Found", "location: http://elsewhere/\r\n", "")).await;
    let (words, _) = failure(&server, "/").await;
    assert!(words.contains("http://elsewhere/") && words.contains("not followed"), "{words}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_handler_that_is_busy_or_does_not_take_the_credentials_is_unavailable() {
    let date = "date: Tue, 03 Mar 2026 10:00:00 GMT\r\n";
    let until = format!("{date}retry-after: Tue, 03 Mar 2026 10:00:07 GMT\r\n");
    for (status, headers, expected) in [
        ("429 Too Many Requests", "retry-after: 3\r\n", Some((true, Some(3)))),
        ("429 Too Many Requests", "retry-after: 99999999999999999999\r\n", Some((true, Some(u64::MAX)))),
        ("503 Service Unavailable", &*until, Some((true, Some(7)))),
        ("503 Service Unavailable", "retry-after: soon\r\n", Some((true, None))),
        ("502 Bad Gateway", "", Some((true, None))),
        ("504 Gateway Timeout", "", Some((true, None))),
        ("401 Unauthorized", "", Some((true, None))),
        ("403 Forbidden", "", Some((false, None))),
        ("500 Internal Server Error", "retry-after: 3\r\n", Some((false, None))),
        ("200 OK", "", None),
    ] {
        let server = Server::answering(answer(status, headers, "")).await;
        let outcome = hand_over(&server.handler("/")).await.err();
        let seen = outcome.map(|error| (error.is_unavailable(), error.retry_after().map(|wait| wait.as_secs())));
        assert_eq!(seen, expected, "{status} {headers}");
    }
}

#[tokio::test]
async fn credentials_that_are_refused_may_be_replaced_in_their_file() {
    let path = std::env::temp_dir().join(format!("shardkeeper-headers-{}", std::process::id()));
    let write = |token: &str| std::fs::write(&path, format!("Authorization: Bearer {token}\n")).expect("written");
    write("old");
    let mut server = Server::answering(answer("403 Forbidden", "", "")).await;
    let file = InFile::open(Headers::parse)(path.to_str().expect("text")).expect("headers");
    let url = HttpUrl::parse(&format!("http://127.0.0.1:{}/", server.port)).expect("a URL");
    let target = HttpTarget { url, headers: Some(Setting::InFile(file)), secret: None };
    let handler = Handler::new(target).expect("a handler");
    for token in ["old", "new"] {
        write(token);
        assert!(hand_over(&handler).await.expect_err("refused").is_unavailable());
        let (head, _) = server.requests.recv().await.expect("a request");
        assert!(head.contains(&format!("authorization: bearer {token}")), "{head}");
    }
    std::fs::remove_file(&path).expect("removed");
}

#[tokio::test]
async fn calls_share_a_connection() {
    let server = Server::answering(answer("200 OK", "", "{}")).await;
    let handler = server.handler("/");
    for _ in 0..3 {
        hand_over(&handler.clone()).await.expect("done");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_closes_under_a_request_is_replaced_by_a_new_one() {
    let first_only = |before| match before {
        0 => Reaction::Answer(answer("200 OK", "", "{}")),
        _ => Reaction::Close,
    };
    let server = Server::start(first_only).await;
    let handler = server.handler("/");
    for _ in 0..3 {
        hand_over(&handler).await.expect("done");
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_handler_that_closes_a_new_connection_has_failed() {
    let mut server = Server::start(|_| Reaction::Close).await;
    let (words, _) = failure(&server, "/").await;
    assert!(words.starts_with("the handler's response is incomplete"), "{words}");
    assert!(server.requests.recv().await.is_some());
    assert!(server.requests.try_recv().is_err(), "the request was sent once more");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure_and_not_asked_for_again() {
    let mut server = Server::start(|before| match before {
        0 => Reaction::Answer(answer("200 OK", "", "{}")),
        _ => Reaction::BreakOff("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}"),
    })
    .await;
    let handler = server.handler("/");
    hand_over(&handler).await.expect("done");
    let error = hand_over(&handler).await.expect_err("half an answer");
    assert!(error.to_string().starts_with("the handler's response is incomplete"), "{error}");
    assert!(server.requests.recv().await.is_some() && server.requests.recv().await.is_some());
    assert!(server.requests.try_recv().is_err(), "the request was sent once more");
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_connection_behind() {
    let mut server = Server::start(|_| Reaction::Hang).await;
    let handler = server.handler("/");
    let call = tokio::spawn(async move { hand_over(&handler).await });
    server.requests.recv().await.expect("a request");
    call.abort();
    assert!(call.await.is_err());
    server.closed.recv().await.expect("the connection is closed");
}

#[tokio::test]
async fn an_answer_without_end_is_read_in_part() {
    let mut server = Server::start(|_| Reaction::Endless("HTTP/1.1 200 OK\r\n\r\n")).await;
    let (words, _) = failure(&server, "/").await;
    assert!(words.contains("more than 4194304 bytes"), "{words}");
    server.closed.recv().await.expect("the connection is closed");

    let mut server = Server::start(|_| Reaction::Endless("HTTP/1.1 503 Busy\r\n\r\n")).await;
    let (words, _) = failure(&server, "/").await;
    assert!(words.starts_with("the handler answered 503") && words.len() < 400, "{words}");
    server.closed.recv().await.expect("the connection is closed");
}

#[tokio::test]
async fn a_handler_that_is_not_there_cannot_be_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let url = HttpUrl::parse(&format!("http://127.0.0.1:{port}")).expect("a URL");
    let handler = Handler::new(HttpTarget { url, headers: None, secret: None }).expect("a handler");
    let error = hand_over(&handler).await.expect_err("nobody listens");
    assert!(error.is_unavailable() && error.to_string().starts_with("the handler cannot be reached"), "{error}");
}

/// A machine that is gone takes bytes that nobody acknowledges; one that doesn't read stops taking them as well.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_handler_that_takes_no_more_bytes_fails_the_call() {
    let server = Server::start(|_| Reaction::Ignore).await;
    let uri = format!("http://127.0.0.1:{}/", server.port).parse().expect("a URI");
    let client = Client::with_limit(uri, Duration::from_secs(1)).expect("a client");
    let body = Bytes::from(vec![b'x'; 32 << 20]);
    let sent = client.send(|| Request::post("/").body(http_body_util::Full::new(body.clone())).expect("a request"));
    let error = sent.await.err().expect("a failure");
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[tokio::test]
async fn a_handler_that_answers_before_it_has_read_all_delays_no_other_call() {
    let server = Server::start(|_| Reaction::Refuse(answer("413 Too Large", "", ""))).await;
    let uri = format!("http://127.0.0.1:{}/", server.port).parse().expect("a URI");
    let client = Client::new(uri).expect("a client");
    let body = Bytes::from(vec![b'x'; 32 << 20]);
    for _ in 0..2 {
        let sent = client.send(|| Request::post("/").body(http_body_util::Full::new(body.clone())).expect("a request"));
        let response = tokio::time::timeout(Duration::from_secs(10), sent).await.expect("in time").expect("a response");
        assert_eq!(response.status, 413);
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn no_more_requests_are_open_at_once_than_the_limit() {
    let server = Server::start(|_| Reaction::Hang).await;
    let handler = server.handler("/");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..client::MOST_REQUESTS + 20 {
        let handler = handler.clone();
        calls.spawn(async move { hand_over(&handler).await });
    }
    let is_open = || server.connections() >= client::MOST_REQUESTS;
    while !is_open() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.connections(), client::MOST_REQUESTS);
}

#[test]
fn urls_headers_and_secrets_are_checked_and_secrets_are_not_shown() {
    for wrong in ["localhost:8080", "ftp://x/", "http://", "http:///path", "http://a b/"] {
        assert!(HttpUrl::parse(wrong).expect_err(wrong).contains("write one like"), "{wrong}");
    }
    assert!(HttpUrl::parse("http://me:secret@host/").expect_err("a password").contains("--http-header-file"));
    for (wrong, expected) in [
        ("no header", "line 1 is not a header"),
        ("\na b: c", "line 2: \"a b\" cannot name a header"),
        ("Host: x", "line 1: host is set by the program itself"),
        ("X: a\u{1}b", "line 1: the value of x cannot be sent"),
    ] {
        assert!(Headers::parse(wrong).expect_err(wrong).starts_with(expected), "{wrong}");
    }
    assert!(Secret::parse("short\n").expect_err("too short").contains("5 bytes"));
    let secret = Secret::parse("0123456789abcdef\r\n").expect("long enough");
    assert_eq!(secret.0, b"0123456789abcdef");
    let headers = Headers::parse("Authorization: Bearer abc").expect("a header");
    let shown = format!("{secret:?} {headers:?}");
    assert!(!shown.contains("0123") && !shown.contains("abc"), "{shown}");
}
