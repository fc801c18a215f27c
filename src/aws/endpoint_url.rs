//! The URLs of services, as users give them. The SDK takes any text, and then fails with each call.

use aws_config::SdkConfig;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

use super::clients::{ConfigError, Endpoints};

/// The services that a worker calls, by the SDK's name, and the variable for each one's URL.
const SERVICES: [(&str, &str); 4] = [
    ("DynamoDB", "AWS_ENDPOINT_URL_DYNAMODB"),
    ("DynamoDB Streams", "AWS_ENDPOINT_URL_DYNAMODB_STREAMS"),
    ("SQS", "AWS_ENDPOINT_URL_SQS"),
    ("STS", "AWS_ENDPOINT_URL_STS"),
];
const ALL_SERVICES: &str = "AWS_ENDPOINT_URL";

/// A URL with a scheme and a host.
///
/// # Errors
/// Anything else; a sentence says what to write.
pub fn parse(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not a URL; write one like http://localhost:8000");
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or_else(wrong)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let has_bad_character = text.chars().any(|c| c.is_whitespace() || c.is_control());
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if host.is_empty() || has_bad_character || !port.is_none_or(is_port) {
        return Err(wrong());
    }
    Ok(text.to_string())
}

/// A configuration without the URLs that are set and empty, as other SDKs take them. This one panics at such a URL.
pub(super) fn without_empty(config: SdkConfig) -> SdkConfig {
    let url = config.endpoint_url().filter(|url| !url.is_empty()).map(ToOwned::to_owned);
    let mut builder = config.to_builder().service_config(WithoutEmpty(config));
    builder.set_endpoint_url(url);
    builder.build()
}

#[derive(Debug)]
struct WithoutEmpty(SdkConfig);

impl LoadServiceConfig for WithoutEmpty {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        self.0.service_config()?.load_config(key).filter(|value| !value.is_empty())
    }
}

/// Checks the URLs of `endpoints`, or else those of the AWS environment.
pub(super) fn check(config: &SdkConfig, endpoints: &Endpoints) -> Result<(), ConfigError> {
    let check = |place: &str, url: &str| {
        let mistake = |reason| ConfigError::Endpoint { place: place.to_owned(), reason };
        parse(url).map(drop).map_err(mistake)
    };
    for (place, url) in [("endpoint", &endpoints.url), ("endpoint of the streams", &endpoints.streams_url)] {
        url.iter().try_for_each(|url| check(place, url))?;
    }
    let Some(environment) = config.service_config().filter(|_| endpoints.url.is_none()) else { return Ok(()) };
    for (service, variable) in SERVICES {
        let key = ServiceConfigKey::builder().service_id(service).env(ALL_SERVICES).profile("endpoint_url").build();
        let Some(url) = key.ok().and_then(|key| environment.load_config(key)) else { continue };
        let is_source = |variable: &&str| std::env::var(variable).is_ok_and(|set| set == url);
        let place = [variable, ALL_SERVICES].into_iter().find(is_source).unwrap_or("endpoint_url of the AWS profile");
        check(place, &url)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_need_a_scheme_and_a_host() {
        for right in
            ["http://localhost:8000", "https://dynamodb.eu-west-1.amazonaws.com/", "http://[::1]:8000", "http://[::1]"]
        {
            assert_eq!(parse(right), Ok(right.to_string()));
        }
        for wrong in ["localhost:8000", "http://", "http://:80", "ftp://x", "http://x:y", "http://a b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
