//! Signatures of requests to AWS that the SDK has no operation for, with the credentials that its clients use.

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use bytes::Bytes;
use http::Request;

use super::clients::{ConfigError, Endpoints, load};
use super::credentials::check;

/// A signer for one region.
#[derive(Debug)]
pub struct RequestSigner {
    region: String,
    credentials: SharedCredentialsProvider,
    clock: aws_smithy_async::time::SharedTimeSource,
}

impl RequestSigner {
    /// A signer with the environment's credentials.
    ///
    /// # Errors
    /// When there are none.
    pub async fn load(region: &str) -> Result<Self, ConfigError> {
        let config = load(&Endpoints { region: Some(region.to_owned()), ..Endpoints::default() }).await?;
        check(&config).await?;
        let missing = || ConfigError::NoCredentials("the environment".to_owned());
        let credentials = config.credentials_provider().ok_or_else(missing)?;
        Ok(Self { region: region.to_owned(), credentials, clock: config.time_source().unwrap_or_default() })
    }

    /// Signs a request to this service.
    ///
    /// # Errors
    /// When the credentials cannot be had now, or the request cannot be signed; a sentence says why.
    pub async fn sign(&self, request: &mut Request<Bytes>, service: &str) -> Result<(), String> {
        let credentials = self.credentials.provide_credentials().await;
        let identity: Identity = credentials.map_err(|error| super::with_causes(&error))?.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(service)
            .time(self.clock.now())
            .settings(SigningSettings::default())
            .build();
        let params = params.map_err(|error| error.to_string())?.into();
        let uri = request.uri().to_string();
        let headers = request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let body = SignableBody::Bytes(request.body());
        let signable = SignableRequest::new(request.method().as_str(), uri, headers, body);
        let signed = signable.and_then(|signable| sign(signable, &params)).map_err(|error| error.to_string())?;
        signed.into_parts().0.apply_to_request_http1x(request);
        Ok(())
    }
}
