//! Signatures of calls (AWS General Reference, Signature Version 4), whose key is derived once for many calls.

use std::fmt::Write as _;

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::date_time::{DateTime, Format};
use http::{HeaderName, HeaderValue, Uri};
use ring::digest::{SHA256, digest};
use ring::hmac;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TOKEN: &str = "x-amz-security-token";

/// The parts of a signature that all calls of a client share, taken from one that the SDK has signed.
#[derive(Clone, Debug)]
pub(super) struct Scheme {
    region: String,
    service: String,
    host: String,
    /// The signed headers in their order, without the token of a session.
    names: Vec<String>,
}

/// Signs calls with the same credentials and time.
#[derive(Debug)]
pub(super) struct Signer {
    scheme: Scheme,
    credentials: Credentials,
    key: hmac::Key,
    /// As `20260131T120000Z`.
    time: String,
    /// As `20260131/REGION/SERVICE/aws4_request`.
    scope: String,
    /// The signed headers, separated by semicolons.
    names: String,
}

impl Scheme {
    /// The scheme of a signed request; `None` if its signature isn't one that can be made here.
    pub(super) fn of(request: &HttpRequest) -> Option<Self> {
        let signature = request.headers().get("authorization")?.strip_prefix(ALGORITHM)?;
        let field = |name: &str| signature.split([',', ' ']).find_map(|field| field.strip_prefix(name));
        let mut scope = field("Credential=")?.rsplit('/').skip(1);
        let (service, region) = (scope.next()?.to_owned(), scope.next()?.to_owned());
        let names = field("SignedHeaders=")?.split(';').filter(|name| *name != TOKEN).map(ToOwned::to_owned);
        let uri: Uri = request.uri().parse().ok()?;
        let is_default =
            matches!((uri.scheme_str(), uri.port_u16()), (Some("https"), Some(443)) | (Some("http"), Some(80)));
        let host = if is_default { uri.host()? } else { uri.authority()?.as_str() }.to_owned();
        (uri.path() == "/" && uri.query().is_none()).then_some(Self { region, service, host, names: names.collect() })
    }
}

impl Signer {
    /// A signer for calls at `time`.
    pub(super) fn new(scheme: &Scheme, credentials: &Credentials, time: DateTime) -> Self {
        let time = DateTime::from_secs(time.secs()).fmt(Format::DateTime).unwrap_or_default();
        let time: String = time.chars().filter(char::is_ascii_alphanumeric).collect();
        let date = &time[..time.len().min(8)];
        let secret = format!("AWS4{}", credentials.secret_access_key());
        let key = [date, &scheme.region, &scheme.service, "aws4_request"]
            .into_iter()
            .fold(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), |key, part| {
                hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref())
            });
        let scope = format!("{date}/{}/{}/aws4_request", scheme.region, scheme.service);
        let mut names: Vec<&str> = scheme.names.iter().map(String::as_str).collect();
        names.extend(credentials.session_token().map(|_| TOKEN));
        names.sort_unstable();
        let names = names.join(";");
        Self { scheme: scheme.clone(), credentials: credentials.clone(), key, time, scope, names }
    }

    /// Adds the time, the token of a session and the signature to a call with this body.
    pub(super) fn sign(&self, request: &mut HttpRequest, body: &str) -> Result<(), http::Error> {
        let headers = request.headers_mut();
        headers.insert("x-amz-date", self.time.clone());
        if let Some(token) = self.credentials.session_token() {
            headers.insert(HeaderName::from_static(TOKEN), secret(token)?);
        }
        let mut canonical = String::with_capacity(1024);
        canonical.push_str("POST\n/\n\n");
        for name in self.names.split(';') {
            let value = if name == "host" { &self.scheme.host } else { headers.get(name).unwrap_or_default() };
            canonical.extend([name, ":", value, "\n"]);
        }
        canonical.extend(["\n", &self.names, "\n"]);
        push_hex(&mut canonical, digest(&SHA256, body.as_bytes()).as_ref());
        let mut text = format!("{ALGORITHM}\n{}\n{}\n", self.time, self.scope);
        push_hex(&mut text, digest(&SHA256, canonical.as_bytes()).as_ref());
        let (key_id, names) = (self.credentials.access_key_id(), &self.names);
        let mut signature =
            format!("{ALGORITHM} Credential={key_id}/{}, SignedHeaders={names}, Signature=", self.scope);
        push_hex(&mut signature, hmac::sign(&self.key, text.as_bytes()).as_ref());
        headers.insert(http::header::AUTHORIZATION, secret(&signature)?);
        Ok(())
    }
}

/// A header that stays out of logs.
fn secret(value: &str) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::from_str(value)?;
    value.set_sensitive(true);
    Ok(value)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // a string takes anything
    }
}
