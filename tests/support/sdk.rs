//! The AWS SDK's clients for a service on this machine.

use aws_sdk_dynamodb::Client as TableClient;
use shardkeeper::SdkConfig;

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};

/// A configuration with any credentials.
pub fn config(url: &str) -> SdkConfig {
    config_of("local", url)
}

/// A configuration for a caller with this name.
pub fn config_of(caller: &str, url: &str) -> SdkConfig {
    let credentials = Credentials::new(caller, caller, None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(url)
        .build()
}

/// A client for the tables of the service at `url`.
pub fn tables(url: &str) -> TableClient {
    TableClient::new(&config(url))
}
