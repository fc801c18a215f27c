//! One AWS configuration and one HTTP pool for all calls, and the two clients made from them.

use std::time::Duration;

pub use aws_config::SdkConfig;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region};
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{ProvideCredentials, SharedHttpClient};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime::client::retries::RetryPartition;

use super::calls::MetricsInterceptor;

/// The most idle connections to one host: as many as calls may be in flight, so that none is opened anew.
pub const MAX_CALLS_IN_FLIGHT: usize = 64;
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
}

/// A mistake in the AWS configuration that prevents all calls.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No region is set anywhere.
    #[error("no AWS region is set: give --region, or set AWS_REGION or the profile's region")]
    NoRegion,
    /// The credential chain ended without credentials.
    #[error(
        "no AWS credentials were found ({0}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile by \
         AWS_PROFILE, or run where a role provides them; a local service takes any, such as \"local\""
    )]
    NoCredentials(String),
}

/// The clients of the two services.
#[derive(Clone, Debug)]
pub struct Clients {
    /// For the lease table and the fleet table.
    pub tables: aws_sdk_dynamodb::Client,
    /// For the stream.
    pub streams: aws_sdk_dynamodbstreams::Client,
}

/// Loads the AWS environment, once for the whole process.
///
/// # Errors
/// When there is no region or there are no credentials.
pub async fn load(endpoints: &Endpoints) -> Result<SdkConfig, ConfigError> {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http_client());
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
    let config = loader.load().await;
    let provider = config.credentials_provider().ok_or_else(|| ConfigError::NoCredentials("none provided".into()))?;
    if let Err(error) = provider.provide_credentials().await {
        return Err(ConfigError::NoCredentials(super::with_causes(&error)));
    }
    if config.region().is_some() {
        return Ok(config);
    }
    if !has_endpoint(&config, endpoints) {
        return Err(ConfigError::NoRegion);
    }
    // A service at a URL of its own, such as DynamoDB Local, doesn't ask for the region.
    Ok(config.into_builder().region(Region::new(ANY_REGION)).build())
}

/// The time-out of one call to a table, so that a worker can retry it within the lease duration.
pub fn table_timeout(lease_duration: Duration) -> Duration {
    lease_duration / 4
}

/// The clients of both services.
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
        .operation_attempt_timeout(Duration::from_secs(10))
        // Longer, so that an attempt ends by its own limit, and is counted.
        .operation_timeout(Duration::from_secs(11))
        .build();
    let tables = aws_sdk_dynamodb::config::Builder::from(config)
        .timeout_config(table_timeouts)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(25)))
        .retry_partition(RetryPartition::new(format!("{partition}-leases")))
        .interceptor(MetricsInterceptor)
        .build();
    let mut streams = aws_sdk_dynamodbstreams::config::Builder::from(config)
        .timeout_config(stream_timeouts)
        .retry_config(RetryConfig::disabled())
        .retry_partition(RetryPartition::new(format!("{partition}-records")))
        .interceptor(MetricsInterceptor);
    if let Some(url) = &endpoints.streams_url {
        streams = streams.endpoint_url(url);
    }
    Clients {
        tables: aws_sdk_dynamodb::Client::from_conf(tables),
        streams: aws_sdk_dynamodbstreams::Client::from_conf(streams.build()),
    }
}

/// The same configuration with HTTP connections of its own.
pub fn with_own_pool(config: &SdkConfig) -> SdkConfig {
    config.to_builder().http_client(http_client()).build()
}

fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .pool_max_idle_per_host(MAX_CALLS_IN_FLIGHT)
        .build_https()
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

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}
