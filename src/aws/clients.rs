//! One AWS configuration and one HTTP pool for all calls, and the two clients made from them.

use std::path::PathBuf;
use std::time::Duration;

pub use aws_config::SdkConfig;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region};
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{RuntimeComponents, SharedCredentialsProvider, SharedHttpClient};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_runtime::client::retries::RetryPartition;

use super::calls::{BodyInterceptor, MetricsInterceptor};
use super::{authorities, credentials, endpoint_url};

/// The most idle connections to one host: as many as calls may be in flight, so that none is opened anew.
pub const MAX_CALLS_IN_FLIGHT: usize = 64;
/// The time-out of one attempt of a call on the stream, without its answer's body.
pub(super) const STREAM_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// The region in signatures for a service at a URL of its own, when none is set.
const ANY_REGION: &str = "us-east-1";

/// The places of the services, unless they are left to the AWS environment (`AWS_REGION`, `AWS_ENDPOINT_URL`,
/// `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ENDPOINT_URL_DYNAMODB_STREAMS`, profiles).
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// The region.
    pub region: Option<String>,
    /// The URL of both services, or of the tables alone when `streams_url` is given too.
    pub url: Option<String>,
    /// The URL of the streams service.
    pub streams_url: Option<String>,
    /// Access to a stream in another account or region than the application's tables.
    pub stream: StreamAccess,
}

/// Access to the stream and its table, where it differs from that to the application's own tables.
#[derive(Clone, Debug, Default)]
pub struct StreamAccess {
    /// The region.
    pub region: Option<String>,
    /// The role to assume, by its ARN.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy asks for.
    pub external_id: Option<String>,
    /// The name of the role's sessions (default: `shardkeeper`).
    pub session_name: Option<String>,
}

/// A mistake in the AWS configuration that prevents all calls.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No region is set anywhere.
    #[error("no AWS region is set: give one, or set AWS_REGION or the profile's region")]
    NoRegion,
    /// No source of credentials is configured; the places that were looked at.
    #[error(
        "no AWS credentials were found: looked at {0}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile by \
         AWS_PROFILE, or run where a role provides them; a local service takes any, such as \"local\""
    )]
    NoCredentials(String),
    /// The source of credentials does not give any now.
    #[error("AWS credentials cannot be had: {0}")]
    CredentialsUnavailable(String),
    /// A profile that makes no sense.
    #[error("the AWS configuration is wrong: {0}")]
    WrongProfile(String),
    /// The file of authorities that a variable names cannot be used.
    #[error("{variable}: cannot read certificates from {}: {reason}", path.display())]
    Authorities {
        /// The variable.
        variable: &'static str,
        /// The file's path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The region is none.
    #[error("{0:?} is not the name of a region; write one like eu-west-1 (--region, AWS_REGION or the AWS profile)")]
    Region(String),
    /// The URL of a service is none.
    #[error("{place}: {reason}")]
    Endpoint {
        /// The variable, or the other place of the URL.
        place: String,
        /// The mistake.
        reason: String,
    },
}

/// The clients of the two services.
#[derive(Clone, Debug)]
pub struct Clients {
    /// For the lease table and the fleet table.
    pub tables: aws_sdk_dynamodb::Client,
    /// For the table whose stream is read.
    pub source: aws_sdk_dynamodb::Client,
    /// For the stream.
    pub streams: aws_sdk_dynamodbstreams::Client,
}

/// Loads the AWS environment, once for the whole process. Credentials are not asked for yet: [`credentials::check`] does.
///
/// # Errors
/// When there is no region, a URL is wrong, or the trusted certificates cannot be read.
pub async fn load(endpoints: &Endpoints) -> Result<SdkConfig, ConfigError> {
    authorities::check()?;
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client(authorities::bundle()?))
        // Each client has its own. The SDK would panic at values that other SDKs take (AWS_RETRY_MODE=legacy).
        .retry_config(RetryConfig::standard());
    if let Ok(name) = AppName::new("shardkeeper") {
        loader = loader.app_name(name);
    }
    if let Some(region) = &endpoints.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(url) = &endpoints.url {
        loader = loader.endpoint_url(url);
    }
    if endpoints.region.is_none() && (endpoints.url.is_some() || is_set("AWS_ENDPOINT_URL")) {
        // Without this, a machine outside the cloud would wait for the metadata service before it calls a local one.
        loader = loader.region(region_of_user());
    }
    let mut config = endpoint_url::without_empty(loader.load().await);
    endpoint_url::check(&config, endpoints)?;
    let region = config.region().map(AsRef::as_ref).unwrap_or_default();
    if !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(ConfigError::Region(region.to_owned()));
    }
    if region.is_empty() {
        if !has_endpoint(&config, endpoints) {
            return Err(ConfigError::NoRegion);
        }
        // A service at a URL of its own, such as DynamoDB Local, doesn't ask for the region.
        config = config.into_builder().region(Region::new(ANY_REGION)).build();
    }
    let sources = SharedCredentialsProvider::new(credentials::Sources::new(&config));
    Ok(config.into_builder().credentials_provider(sources).build())
}

/// The time-out of one call to a table, so that a worker can retry it within the lease duration.
pub fn table_timeout(lease_duration: Duration) -> Duration {
    lease_duration / 4
}

/// The clients of both services. The URL of `endpoints` holds for the stream's table as well, wherever that is.
///
/// One attempt of a call to a table ends after `table_timeout`, the call with its retries after twice that. Table calls
/// have a retry budget of their own, which a throttled stream cannot use up. The SDK does not retry stream calls: the
/// worker keeps the pace of each shard.
pub fn clients(config: &SdkConfig, endpoints: &Endpoints, table_timeout: Duration, partition: &str) -> Clients {
    let table_timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3).min(table_timeout))
        .operation_attempt_timeout(table_timeout)
        .operation_timeout(table_timeout * 2)
        .build();
    let stream_timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(STREAM_ATTEMPT_TIMEOUT)
        // Longer, so that an attempt ends by its own limit, and is counted.
        .operation_timeout(STREAM_ATTEMPT_TIMEOUT + Duration::from_secs(1))
        .build();
    let tables_of = |config: &SdkConfig| {
        let settings = aws_sdk_dynamodb::config::Builder::from(config)
            .timeout_config(table_timeouts.clone())
            .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(25)))
            .retry_partition(RetryPartition::new(format!("{partition}-leases")))
            .interceptor(MetricsInterceptor)
            .interceptor(BodyInterceptor);
        aws_sdk_dynamodb::Client::from_conf(settings.build())
    };
    let of_stream = for_stream(config, &endpoints.stream);
    let mut streams = aws_sdk_dynamodbstreams::config::Builder::from(&of_stream)
        .timeout_config(stream_timeouts)
        .retry_config(RetryConfig::disabled())
        .retry_partition(RetryPartition::new(format!("{partition}-records")))
        .interceptor(MetricsInterceptor)
        .interceptor(BodyInterceptor);
    if let Some(url) = &endpoints.streams_url {
        streams = streams.endpoint_url(url);
    }
    Clients {
        tables: tables_of(config),
        source: tables_of(&of_stream),
        streams: aws_sdk_dynamodbstreams::Client::from_conf(streams.build()),
    }
}

/// The configuration for a stream's account and region.
fn for_stream(config: &SdkConfig, access: &StreamAccess) -> SdkConfig {
    let mut builder = config.to_builder();
    if let Some(region) = &access.region {
        builder = builder.region(Region::new(region.clone()));
    }
    if let Some(arn) = &access.role_arn {
        let role = credentials::Role::new(config, arn, access);
        builder = builder.credentials_provider(SharedCredentialsProvider::new(role));
    }
    builder.build()
}

/// The same configuration with HTTP connections of its own.
pub fn with_own_pool(config: &SdkConfig) -> SdkConfig {
    // A bundle that has become unreadable since the start is no reason to trust fewer than the system's certificates.
    config.to_builder().http_client(http_client(authorities::bundle().unwrap_or_default())).build()
}

/// Connections by way of the proxies of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, which trust the system's
/// certificates and those of `bundle`.
fn http_client(bundle: Option<Vec<u8>>) -> SharedHttpClient {
    let mut trusted = TrustStore::default();
    if let Some(bundle) = bundle {
        trusted.add_pem_certificate(bundle);
    }
    aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
        let context = TlsContext::builder().with_trust_store(trusted.clone()).build();
        let mut connector = aws_smithy_http_client::Connector::builder()
            .pool_max_idle_per_host(MAX_CALLS_IN_FLIGHT)
            .proxy_config(ProxyConfig::from_env())
            .tls_provider(tls::Provider::Rustls(CryptoMode::Ring));
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        if let Ok(context) = context {
            connector.set_tls_context(context);
        }
        connector.build()
    })
}

/// The region that the user set, by variable or profile.
fn region_of_user() -> RegionProviderChain {
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::new(ANY_REGION))
}

fn has_endpoint(config: &SdkConfig, endpoints: &Endpoints) -> bool {
    config.endpoint_url().is_some()
        || endpoints.streams_url.is_some()
        || is_set("AWS_ENDPOINT_URL_DYNAMODB")
        || is_set("AWS_ENDPOINT_URL_DYNAMODB_STREAMS")
}

pub(super) fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}
