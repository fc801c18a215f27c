//! Records to a handler over HTTP: a POST of the event that AWS Lambda would make of a batch, and an answer like a
//! function's.
//!
//! - `client`: connections, and a request and its response on one of them
//! - `response`: the meaning of a response for its batch

pub(in crate::cli) mod client;
mod response;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use ring::hmac;

use self::client::{Client, RequestError};
use crate::cli::args::run::READING;
use crate::consumer::{BatchError, ProcessRecordsInput, RecordProcessor, ShardContext};
use crate::model::record::{LambdaEvents, Page, RecordBatch};

/// The most records of a request when the user sets no other number: what a handler does in a moment, as Lambda has it.
pub const BATCH_SIZE: usize = 100;
/// The most bytes of a request's records when the user sets no other number: many servers take a body of 1 MiB at most.
pub const BATCH_BYTES: usize = 1_000_000;
/// The limit of a request when the user sets no other one: the longest that a Lambda function may run.
pub const TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The header with the signature of a request's body.
const SIGNATURE: &str = "x-shardkeeper-signature";
/// A shorter secret could be guessed.
const SHORTEST_SECRET: usize = 16;

#[derive(Args)]
pub struct HttpArgs {
    #[command(flatten)]
    headers: HeaderArgs,
    #[command(flatten)]
    secret: SecretArgs,
}

#[derive(Args)]
#[command(next_help_heading = READING)]
#[group(multiple = false)]
struct HeaderArgs {
    /// A file of headers for each request to a handler, one a line (Authorization: Bearer …). It is read again for each
    /// request, so that what is in it may change.
    #[arg(long, value_name = "FILE", value_parser = InFile::open(Headers::parse), env = "SHARDKEEPER_HTTP_HEADER_FILE")]
    http_header_file: Option<InFile<Headers>>,
    /// The headers themselves, one a line.
    #[arg(long, hide = true, value_parser = Headers::parse, env = "SHARDKEEPER_HTTP_HEADERS")]
    http_headers: Option<Headers>,
}

#[derive(Args)]
#[command(next_help_heading = READING)]
#[group(multiple = false)]
struct SecretArgs {
    /// A file with the secret that signs each request to a handler: the HMAC-SHA256 of its body, in the header
    /// X-Shardkeeper-Signature. It is read again for each request. The secret itself can also be in the environment, as
    /// SHARDKEEPER_HTTP_SECRET.
    #[arg(long, value_name = "FILE", value_parser = InFile::open(Secret::parse), env = "SHARDKEEPER_HTTP_SECRET_FILE")]
    http_secret_file: Option<InFile<Secret>>,
    /// The secret itself.
    #[arg(long, hide = true, value_parser = Secret::parse, env = "SHARDKEEPER_HTTP_SECRET")]
    http_secret: Option<Secret>,
}

/// A value that stands in a file, and may be replaced there at any time.
#[derive(Clone)]
struct InFile<T> {
    path: String,
    parse: fn(&str) -> Result<T, String>,
    last: Arc<Mutex<T>>,
}

impl<T: Clone + Send + Sync + 'static> InFile<T> {
    /// A parser of paths of such files.
    fn open(parse: fn(&str) -> Result<T, String>) -> impl Fn(&str) -> Result<Self, String> + Clone + Send + Sync {
        move |path| {
            let last = Arc::new(Mutex::new(read(path, parse)?));
            Ok(Self { path: path.to_owned(), parse, last })
        }
    }

    /// The value that the file holds now, or the last one that it held.
    fn get(&self) -> T {
        let read = read(&self.path, self.parse);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(value) => *last = value,
            Err(error) => tracing::warn!(error, "file cannot be read again, keeping what it held"),
        }
        last.clone()
    }
}

fn read<T>(path: &str, parse: fn(&str) -> Result<T, String>) -> Result<T, String> {
    let content = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path:?}: {error}"))?;
    parse(&content).map_err(|message| format!("{path:?}: {message}"))
}

/// A value that was given once, or stands in a file.
#[derive(Clone)]
enum Setting<T> {
    Fixed(T),
    InFile(InFile<T>),
}

impl<T: Clone + Send + Sync + 'static> Setting<T> {
    fn of(file: Option<&InFile<T>>, fixed: Option<&T>) -> Option<Self> {
        file.cloned().map(Self::InFile).or_else(|| fixed.cloned().map(Self::Fixed))
    }

    fn get(&self) -> T {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::InFile(file) => file.get(),
        }
    }
}

impl HttpArgs {
    pub fn target(&self, url: HttpUrl) -> HttpTarget {
        let (headers, secret) = (&self.headers, &self.secret);
        HttpTarget {
            url,
            headers: Setting::of(headers.http_header_file.as_ref(), headers.http_headers.as_ref()),
            secret: Setting::of(secret.http_secret_file.as_ref(), secret.http_secret.as_ref()),
        }
    }
}

/// A handler's URL, with the additions to each request.
pub struct HttpTarget {
    url: HttpUrl,
    headers: Option<Setting<Headers>>,
    /// The key of the signatures of bodies; none: they are not signed.
    secret: Option<Setting<Secret>>,
}

impl HttpTarget {
    /// Whether the requests' credentials stand in files, so that they may be replaced at any time.
    fn credentials_rotate(&self) -> bool {
        matches!(self.headers, Some(Setting::InFile(_))) || matches!(self.secret, Some(Setting::InFile(_)))
    }
}

/// The URL of a handler: `http` or `https`, with a host and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(Uri);

/// Headers that a user has given. Their values are kept out of logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(HeaderMap);

/// A secret, kept out of logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl HttpUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// A sentence with the mistake and the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a handler's URL; write one like http://localhost:8080/records");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.host().is_empty() {
            return Err(wrong());
        }
        if authority.as_str().contains('@') {
            let advice = "a password in a URL ends in logs; send it as a header, with --http-header-file";
            return Err(format!("a handler's URL has no user and password: {advice}"));
        }
        Ok(Self(uri))
    }

    /// Whether this is where a Lambda function is invoked: by Lambda's own API, or by the runtime interface emulator
    /// in a function's container image, whose answers have some meanings of their own. A proxy may put a path before it.
    fn is_invocation(&self) -> bool {
        let mut from_end = self.0.path().rsplit('/');
        from_end.next() == Some("invocations")
            && from_end.next().is_some_and(|function| !function.is_empty())
            && from_end.next() == Some("functions")
            && from_end.next() == Some("2015-03-31")
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Headers {
    /// Reads headers, one `Name: value` a line; empty lines and those that begin with `#` count for nothing.
    ///
    /// # Errors
    /// A sentence with the mistake, without the values.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| format!("line {number} is not a header such as \"Name: value\""))?;
            let name: HeaderName =
                name.trim().parse().map_err(|_| format!("line {number}: {:?} cannot name a header", name.trim()))?;
            let own = ["connection", "content-length", "content-type", "host", "transfer-encoding", SIGNATURE];
            if own.contains(&name.as_str()) {
                return Err(format!("line {number}: {name} is set by the program itself"));
            }
            let mut value: HeaderValue =
                value.trim().parse().map_err(|_| format!("line {number}: the value of {name} cannot be sent"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self(headers))
    }
}

impl Secret {
    /// Takes a secret; a line feed at its end is the editor's and not part of it.
    ///
    /// # Errors
    /// When it is too short.
    pub fn parse(text: &str) -> Result<Self, String> {
        let secret = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        if secret.len() < SHORTEST_SECRET {
            return Err(format!("the secret has {} bytes; it needs at least {SHORTEST_SECRET}", secret.len()));
        }
        Ok(Self(secret.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A handler over HTTP: makes the processors of all shards, which share its connections.
#[derive(Clone)]
pub struct Handler {
    shared: Arc<Shared>,
}

struct Shared {
    target: HttpTarget,
    client: Client,
}

impl Handler {
    /// A handler; it is not called yet.
    ///
    /// # Errors
    /// For `https`, when the system's certificates cannot be found.
    pub fn new(target: HttpTarget) -> Result<Self, anyhow::Error> {
        let client = Client::new(target.url.0.clone()).with_context(|| format!("cannot call {}", target.url))?;
        Ok(Self { shared: Arc::new(Shared { target, client }) })
    }

    /// The processor of a shard.
    pub fn processor(&self, shard: &ShardContext) -> Processor {
        Processor { handler: self.clone(), events: LambdaEvents::new(&shard.stream_arn) }
    }

    /// Hands an event without records to the handler.
    ///
    /// # Errors
    /// When it cannot be reached, or answers as if records had failed.
    pub async fn probe(&self) -> Result<(), anyhow::Error> {
        let nothing = Page::decode(Bytes::from_static(br#"{"Records":[]}"#))?.records;
        let outcome = self.handle(&LambdaEvents::new(""), &nothing).await;
        outcome.map_err(|error| anyhow::anyhow!("{}: {error}", self.shared.target.url))
    }

    /// Hands a batch to the handler.
    async fn handle(&self, events: &LambdaEvents, records: &RecordBatch) -> Result<(), BatchError> {
        let body = Bytes::from(events.event(records));
        let target = &self.shared.target;
        let response =
            self.shared.client.send(|| self.shared.request(&body)).await.map_err(RequestError::into_batch)?;
        response::interpret(&response, target.url.is_invocation(), target.credentials_rotate(), records)
    }
}

impl Shared {
    fn request(&self, body: &Bytes) -> Request<http_body_util::Full<Bytes>> {
        let mut request = Request::new(http_body_util::Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        let uri = &self.target.url.0;
        *request.uri_mut() = self.client.target(uri);
        let headers = request.headers_mut();
        headers.extend(self.target.headers.as_ref().map(Setting::get).unwrap_or_default().0);
        let host = uri.authority().and_then(|authority| authority.as_str().parse().ok());
        headers.extend(self.client.proxy_authorization());
        #[cfg(feature = "otlp")]
        headers.extend(crate::cli::otlp::spans::traceparent());
        headers.insert(HOST, host.unwrap_or_else(|| HeaderValue::from_static("localhost")));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = HeaderValue::from_static(concat!("shardkeeper/", env!("CARGO_PKG_VERSION")));
        headers.entry(USER_AGENT).or_insert(agent);
        if let Some(secret) = self.target.secret.as_ref().map(Setting::get) {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
            headers.extend(signature(&key, body).map(|signature| (HeaderName::from_static(SIGNATURE), signature)));
        }
        request
    }
}

/// `sha256=` and the body's HMAC-SHA256 in hexadecimal.
fn signature(key: &hmac::Key, body: &[u8]) -> Option<HeaderValue> {
    let mut text = String::from("sha256=");
    for byte in hmac::sign(key, body).as_ref() {
        text.push_str(&format!("{byte:02x}"));
    }
    HeaderValue::try_from(text).ok()
}

/// Hands the records of one shard to a [`Handler`].
pub struct Processor {
    handler: Handler,
    events: LambdaEvents,
}

impl RecordProcessor for Processor {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        self.handler.handle(&self.events, &input.records).await
    }
}
