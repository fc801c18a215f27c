//! GetRecords at a fraction of the SDK's cost a call.
//!
//! Most calls of a worker are GetRecords on shards that trickle, and the SDK works each one out anew: endpoint, plug-ins,
//! headers, retries. Here it does so once. Its first request is kept as a template with the connector, the credentials'
//! cache and the clock that it used; every later call is a copy with its own body and [`signature`], over the same
//! connections. What cannot be signed so (no SigV4) stays with the SDK.

mod signature;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_dynamodbstreams::Client;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::auth::{AuthScheme, AuthSchemeId};
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnector, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::{ResolveCachedIdentity, SharedIdentityResolver};
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::DateTime;
use aws_smithy_types::timeout::TimeoutConfig;
use tokio::time::Instant;

use self::signature::{Scheme, Signer};
use super::calls::{Outcome, Refusal, note_get_records};
use super::stream::{Error, MOST_PAGE_RECORDS};
use super::{CallError, ErrorKind, http_date_ms, with_causes};

/// The clock differences that a signature may have (AWS General Reference, Signature Version 4: five minutes).
const MOST_SKEW_MS: i64 = 4 * 60 * 1000;
/// The time for which a signer is used, before the SDK's cache is asked for the credentials again.
const SIGNER_TIME: Duration = Duration::from_secs(1);
/// The codes of signatures that were refused, perhaps for their time.
const TIME_REFUSED: [&str; 4] =
    ["InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"];

/// The calls of one client.
#[derive(Clone, Debug, Default)]
pub(super) struct GetRecords {
    template: Arc<OnceLock<Template>>,
}

/// The SDK's first request and what it was made with.
#[derive(Debug)]
struct Template {
    request: HttpRequest,
    scheme: Scheme,
    /// The last signer, and when it was made.
    signer: Mutex<Option<(Instant, Arc<Signer>)>>,
    connector: SharedHttpConnector,
    components: RuntimeComponents,
    identities: SharedIdentityResolver,
    /// The lead of the service's clock over this machine's, in ms, once a signature was refused for it.
    skew_ms: AtomicI64,
}

impl GetRecords {
    /// The body of the answer, before it is decoded.
    pub(super) async fn call(&self, client: &Client, iterator: &str, limit: u32) -> Result<SdkBody, Error> {
        match self.template.get() {
            Some(template) => template.call(iterator, limit).await,
            None => Box::pin(self.call_by_sdk(client, iterator, limit)).await, // or each task has room for it
        }
    }

    async fn call_by_sdk(&self, client: &Client, iterator: &str, limit: u32) -> Result<SdkBody, Error> {
        let taken = Taken { body: Arc::default(), template: Arc::clone(&self.template) };
        let call = client.get_records().shard_iterator(iterator);
        let call = call.set_limit(fewer(limit).and_then(|limit| limit.try_into().ok()));
        let call = call.customize().interceptor(taken.clone());
        call.send().await.map_err(|error| Error::new(&error))?;
        let body = taken.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        body.ok_or_else(|| Error::Transient("the answer had no body".into()))
    }
}

impl Template {
    /// The template of a signed request; none, if its signature isn't one that can be made here.
    fn of(request: &HttpRequest, components: &RuntimeComponents, config: &ConfigBag) -> Option<Self> {
        let scheme = Scheme::of(request)?;
        let mut request = request.try_clone()?;
        for of_one_call in ["authorization", "content-length", "x-amz-date", "x-amz-security-token"] {
            request.headers_mut().remove(of_one_call);
        }
        let mut connection = HttpConnectorSettings::builder();
        connection.set_connect_timeout(config.load::<TimeoutConfig>().and_then(TimeoutConfig::connect_timeout));
        Some(Self {
            request,
            scheme,
            signer: Mutex::default(),
            connector: components.http_client()?.http_connector(&connection.build(), components),
            components: components.clone(),
            identities: components.auth_scheme(AuthSchemeId::new("sigv4"))?.identity_resolver(components)?,
            skew_ms: AtomicI64::new(0),
        })
    }

    async fn call(&self, iterator: &str, limit: u32) -> Result<SdkBody, Error> {
        let signer = self.signer().await?;
        let request = self.request(iterator, limit, &signer)?;
        let began = Instant::now();
        let answered = tokio::time::timeout(super::clients::STREAM_ATTEMPT_TIMEOUT, self.connector.call(request)).await;
        let response = match answered {
            Ok(Ok(response)) => response,
            failed => {
                note_get_records(Outcome::NoAnswer, began.elapsed());
                return Err(Error::Transient(match failed {
                    Ok(Err(error)) => with_causes(&error),
                    _ => "no answer in time".to_owned(),
                }));
            }
        };
        if response.status().is_success() {
            note_get_records(Outcome::Ok, began.elapsed());
            return Ok(response.into_body());
        }
        let (kind, error) = Box::pin(self.refusal(response)).await;
        note_get_records(Outcome::ErrorKind(kind), began.elapsed());
        Err(Error::of(kind, error))
    }

    /// A signer with the credentials in the SDK's cache.
    async fn signer(&self) -> Result<Arc<Signer>, Error> {
        if let Some((made, signer)) = &*self.last_signer()
            && made.elapsed() < SIGNER_TIME
        {
            return Ok(Arc::clone(signer));
        }
        let (cache, resolver, config) = (self.components.identity_cache(), self.identities.clone(), ConfigBag::base());
        let identity = Box::pin(cache.resolve_cached_identity(resolver, &self.components, &config)).await;
        let identity =
            identity.map_err(|error| Error::Transient(format!("no credentials: {}", with_causes(&*error))))?;
        let credentials = identity.data::<Credentials>();
        let credentials = credentials.ok_or_else(|| Error::Transient("the credentials are no keys".into()))?;
        let signer = Arc::new(Signer::new(&self.scheme, credentials, self.now().into()));
        *self.last_signer() = Some((Instant::now(), Arc::clone(&signer)));
        Ok(signer)
    }

    fn last_signer(&self) -> MutexGuard<'_, Option<(Instant, Arc<Signer>)>> {
        self.signer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, iterator: &str, limit: u32, signer: &Signer) -> Result<HttpRequest, Error> {
        let mut request = self.request.try_clone().unwrap_or_else(HttpRequest::empty);
        let iterator = serde_json::Value::from(iterator);
        let limit = fewer(limit).map(|limit| format!(",\"Limit\":{limit}")).unwrap_or_default();
        let body = format!("{{\"ShardIterator\":{iterator}{limit}}}");
        let headers = request.headers_mut();
        headers.insert("content-length", body.len().to_string());
        headers.insert("amz-sdk-invocation-id", invocation_id());
        let signed = signer.sign(&mut request, &body);
        signed.map_err(|error| Error::Transient(format!("the call cannot be signed: {error}")))?;
        *request.body_mut() = SdkBody::from(body);
        Ok(request)
    }

    fn machine_now(&self) -> SystemTime {
        self.components.time_source().unwrap_or_default().now()
    }

    fn now(&self) -> SystemTime {
        let skew_ms = self.skew_ms.load(Ordering::Relaxed);
        let skew = Duration::from_millis(skew_ms.unsigned_abs());
        if skew_ms < 0 { self.machine_now() - skew } else { self.machine_now() + skew }
    }

    /// An error's answer. A signature that is refused for its time sets the clock right.
    async fn refusal(&self, mut response: HttpResponse) -> (ErrorKind, CallError) {
        let body = super::stream::collect(response.take_body()).await.unwrap_or_default();
        let (headers, status) = (response.headers(), response.status().as_u16());
        let Refusal { code, message } = Refusal::of(headers, &body);
        let request_id = headers.get("x-amzn-requestid");
        tracing::debug!(code, request_id, status, "GetRecords was refused");
        let name = code.clone().unwrap_or_else(|| format!("status {status}"));
        if let Some(skew_ms) = headers.get("date").and_then(|date| self.skew_to(date))
            && TIME_REFUSED.contains(&name.as_str())
        {
            self.skew_ms.store(skew_ms, Ordering::Relaxed);
        }
        *self.last_signer() = None; // it may be what was refused
        let text = message.map_or_else(|| name.clone(), |message| format!("{name}: {message}"));
        (ErrorKind::of_code(&name), CallError::described(code, text))
    }

    /// The lead of the service's clock over this machine's, in ms, if that is more than a signature may differ.
    fn skew_to(&self, date: &str) -> Option<i64> {
        let theirs = http_date_ms(date)?;
        let ours = DateTime::from(self.machine_now()).to_millis().ok()?;
        Some(theirs - ours).filter(|skew_ms| skew_ms.abs() > MOST_SKEW_MS)
    }
}

/// A limit that is less than the service's own.
fn fewer(limit: u32) -> Option<u32> {
    (limit < MOST_PAGE_RECORDS).then_some(limit)
}

/// A random identifier of a call, in the form of a UUID.
fn invocation_id() -> String {
    let id = fastrand::u128(..);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        id >> 96,
        id >> 80 & 0xffff,
        id >> 64 & 0x0fff | 0x4000,
        id >> 48 & 0x3fff | 0x8000,
        id & 0xffff_ffff_ffff
    )
}

/// Takes the template from a request that the SDK has signed, and the body out of a good answer, and leaves the SDK an
/// empty object to decode.
#[derive(Clone, Debug)]
struct Taken {
    body: Arc<Mutex<Option<SdkBody>>>,
    template: Arc<OnceLock<Template>>,
}

#[dyn_dispatch_hint]
impl Intercept for Taken {
    fn name(&self) -> &'static str {
        "Taken"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(template) = Template::of(context.request(), components, config) {
            let _ = self.template.set(template);
        }
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        if response.status().is_success() {
            let body = std::mem::replace(response.body_mut(), SdkBody::from("{}"));
            *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
