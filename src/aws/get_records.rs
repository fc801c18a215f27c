//! GetRecords at a fraction of the SDK's cost a call.
//!
//! Most calls of a worker are GetRecords on shards that trickle, and the SDK works each one out anew: endpoint, plug-ins,
//! headers, retries. Here it does so once. Its first request is kept as a template with the connector, the credentials'
//! cache and the clock that it used; every later call is a copy with its own body and signature, over the same
//! connections. What cannot be signed so (no SigV4) stays with the SDK.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodbstreams::Client;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::auth::{AuthScheme, AuthSchemeId};
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnector, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::{Identity, ResolveCachedIdentity, SharedIdentityResolver};
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
use http::HeaderValue;
use tokio::time::Instant;

use super::calls::{Outcome, Refusal, note_get_records};
use super::stream::{Error, MOST_PAGE_RECORDS};
use super::{ErrorKind, http_date_ms, with_causes};

/// The clock differences that a signature may have (AWS General Reference, Signature Version 4: five minutes).
const MOST_SKEW_MS: i64 = 4 * 60 * 1000;
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
    region: String,
    service: String,
    settings: SigningSettings,
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
            None => self.call_by_sdk(client, iterator, limit).await,
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
        let scope = request.headers().get("authorization")?.strip_prefix("AWS4-HMAC-SHA256 Credential=")?;
        let mut scope = scope.split(',').next()?.rsplit('/').skip(1);
        let (service, region) = (scope.next()?.to_owned(), scope.next()?.to_owned());
        let mut request = request.try_clone()?;
        for of_one_call in ["authorization", "content-length", "x-amz-date", "x-amz-security-token"] {
            request.headers_mut().remove(of_one_call);
        }
        let mut settings = SigningSettings::default();
        let unsigned = settings.excluded_headers.get_or_insert_default();
        unsigned.extend(["amz-sdk-invocation-id".into(), "amz-sdk-request".into()]); // the SDK's choice
        let mut connection = HttpConnectorSettings::builder();
        connection.set_connect_timeout(config.load::<TimeoutConfig>().and_then(TimeoutConfig::connect_timeout));
        Some(Self {
            request,
            region,
            service,
            settings,
            connector: components.http_client()?.http_connector(&connection.build(), components),
            components: components.clone(),
            identities: components.auth_scheme(AuthSchemeId::new("sigv4"))?.identity_resolver(components)?,
            skew_ms: AtomicI64::new(0),
        })
    }

    async fn call(&self, iterator: &str, limit: u32) -> Result<SdkBody, Error> {
        let identity = self.identity().await?;
        let request = self.signed(iterator, limit, &identity)?;
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
        let (kind, words) = self.refusal(response).await;
        note_get_records(Outcome::ErrorKind(kind), began.elapsed());
        Err(Error::of(kind, words))
    }

    /// The credentials, from the SDK's cache.
    async fn identity(&self) -> Result<Identity, Error> {
        let (cache, resolver, config) = (self.components.identity_cache(), self.identities.clone(), ConfigBag::base());
        let identity = cache.resolve_cached_identity(resolver, &self.components, &config).await;
        identity.map_err(|error| Error::Transient(format!("no credentials: {}", with_causes(&*error))))
    }

    fn signed(&self, iterator: &str, limit: u32, identity: &Identity) -> Result<HttpRequest, Error> {
        let unsigned = |error: &dyn std::error::Error| Error::Transient(format!("the call cannot be signed: {error}"));
        let mut request = self.request.try_clone().unwrap_or_else(HttpRequest::empty);
        let iterator = serde_json::Value::from(iterator);
        let limit = fewer(limit).map(|limit| format!(",\"Limit\":{limit}")).unwrap_or_default();
        let body = format!("{{\"ShardIterator\":{iterator}{limit}}}");
        let headers = request.headers_mut();
        headers.insert("content-length", body.len().to_string());
        headers.insert("amz-sdk-invocation-id", invocation_id());
        *request.body_mut() = SdkBody::from(body);
        let parameters = SigningParams::builder()
            .identity(identity)
            .region(&self.region)
            .name(&self.service)
            .time(self.now())
            .settings(self.settings.clone())
            .build()
            .map_err(|error| unsigned(&error))?;
        let body = SignableBody::Bytes(request.body().bytes().unwrap_or_default());
        let signable = SignableRequest::new(request.method(), request.uri(), request.headers().iter(), body);
        let signed = signable.and_then(|signable| sign(signable, &parameters.into()));
        let (headers, _) = signed.map_err(|error| unsigned(&error))?.into_parts().0.into_parts();
        for header in headers {
            let value = HeaderValue::from_str(header.value()).map(|mut value| {
                value.set_sensitive(header.sensitive());
                value
            });
            request.headers_mut().insert(header.name(), value.map_err(|error| unsigned(&error))?);
        }
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
    async fn refusal(&self, mut response: HttpResponse) -> (ErrorKind, String) {
        let body = super::stream::collect(response.take_body()).await.unwrap_or_default();
        let (headers, status) = (response.headers(), response.status().as_u16());
        let Refusal { code, message } = Refusal::of(headers, &body);
        let request_id = headers.get("x-amzn-requestid");
        tracing::debug!(code, request_id, status, "GetRecords was refused");
        let code = code.unwrap_or_else(|| format!("status {status}"));
        if let Some(skew_ms) = headers.get("date").and_then(|date| self.skew_to(date))
            && TIME_REFUSED.contains(&code.as_str())
        {
            self.skew_ms.store(skew_ms, Ordering::Relaxed);
        }
        let words = message.map_or_else(|| code.clone(), |message| format!("{code}: {message}"));
        (ErrorKind::of_code(&code), words)
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
