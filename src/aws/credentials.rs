//! Credentials, from wherever the AWS command line takes them.
//!
//! The SDK's chain reads the files of profiles once. Here it is built anew when they change, so that a key that was
//! rotated in a file is used within seconds.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};

use super::clients::{ConfigError, StreamAccess, is_set};

/// Time after which keys from a file are asked for again. The SDK does so 10 s earlier.
const READ_AGAIN: Duration = Duration::from_secs(15);

/// The SDK's chain of sources.
#[derive(Debug)]
pub(super) struct Sources {
    config: SdkConfig,
    /// The last chain that gave credentials.
    chain: Mutex<Option<Chain>>,
}

#[derive(Clone, Debug)]
struct Chain {
    sources: Arc<DefaultCredentialsChain>,
    /// The files' modification times when the chain was built.
    files: [Option<SystemTime>; 2],
}

impl Sources {
    /// The sources for the region and by the connections of `config`.
    pub(super) fn new(config: &SdkConfig) -> Self {
        Self { config: config.clone(), chain: Mutex::default() }
    }

    /// Settings of a new chain. Each clone of them would share the profiles as they were read first.
    fn settings(&self) -> ProviderConfig {
        let settings = ProviderConfig::without_region()
            .with_region(self.config.region().cloned())
            .with_use_fips(self.config.use_fips())
            .with_use_dual_stack(self.config.use_dual_stack());
        match self.config.http_client() {
            Some(client) => settings.with_http_client(client),
            None => settings,
        }
    }

    fn last(&self) -> Option<Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn load(&self) -> provider::Result {
        let files = profile_files().map(|path| path?.metadata().ok()?.modified().ok());
        let mut credentials = match self.last() {
            Some(last) if last.files == files => last.sources.provide_credentials().await?,
            last => {
                let builder = DefaultCredentialsChain::builder().configure(self.settings());
                let sources = Arc::new(builder.region(self.config.region().cloned()).build().await);
                match (sources.provide_credentials().await, last) {
                    (Ok(credentials), _) => {
                        let chain = Some(Chain { sources, files });
                        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
                        credentials
                    }
                    (Err(error), Some(last)) => {
                        let error = super::with_causes(&error);
                        tracing::warn!(%error, "credentials cannot be read again, keeping the last ones");
                        last.sources.provide_credentials().await?
                    }
                    (Err(error), None) => return Err(error),
                }
            }
        };
        if credentials.expiry().is_none() && files != [None, None] {
            #[expect(clippy::disallowed_methods, reason = "the SDK measures expiry by the wall clock")]
            let now = SystemTime::now();
            *credentials.expiry_mut() = Some(now + READ_AGAIN);
        }
        Ok(credentials)
    }
}

impl ProvideCredentials for Sources {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.last()?.sources.fallback_on_interrupt()
    }
}

/// A role that is assumed by the credentials of a configuration.
#[derive(Debug)]
pub(super) struct Role {
    config: SdkConfig,
    arn: String,
    access: StreamAccess,
}

impl Role {
    /// The role with this ARN.
    pub(super) fn new(config: &SdkConfig, arn: &str, access: &StreamAccess) -> Self {
        // The URL that is set for DynamoDB is not that of STS.
        let mut of_sts = config.to_builder();
        of_sts.set_endpoint_url(std::env::var("AWS_ENDPOINT_URL_STS").ok());
        Self { config: of_sts.build(), arn: arn.to_owned(), access: access.clone() }
    }

    async fn assume(&self) -> provider::Result {
        let session = self.access.session_name.as_deref().unwrap_or("shardkeeper");
        let mut builder = AssumeRoleProvider::builder(&self.arn).session_name(session).configure(&self.config);
        if let Some(id) = &self.access.external_id {
            builder = builder.external_id(id);
        }
        builder.build().await.provide_credentials().await
    }
}

impl ProvideCredentials for Role {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}

/// The credentials file and the configuration file, as the SDK finds them.
fn profile_files() -> [Option<PathBuf>; 2] {
    [("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")].map(|(variable, name)| {
        let set = std::env::var_os(variable).map(PathBuf::from);
        set.or_else(|| Some(std::env::home_dir()?.join(".aws").join(name)))
    })
}

/// Asks for credentials once, so that a worker without any says so at once, and returns them.
///
/// # Errors
/// When there are none, or when their source cannot give them now.
pub async fn check(config: &SdkConfig) -> Result<Credentials, ConfigError> {
    let Some(provider) = config.credentials_provider() else {
        return Err(ConfigError::NoCredentials(looked_at()));
    };
    match provider.provide_credentials().await {
        Ok(credentials) => Ok(credentials),
        Err(CredentialsError::CredentialsNotLoaded(_)) => Err(ConfigError::NoCredentials(looked_at())),
        Err(error @ CredentialsError::InvalidConfiguration(_)) => {
            Err(ConfigError::WrongProfile(super::with_causes(&error)))
        }
        Err(error) => Err(ConfigError::CredentialsUnavailable(super::with_causes(&error))),
    }
}

/// The places where the chain looks for credentials, with what is set there.
fn looked_at() -> String {
    let profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
    let files = profile_files().into_iter().flatten().map(|path| path.display().to_string());
    let files = files.collect::<Vec<_>>().join(" and ");
    let metadata = match is_set("AWS_EC2_METADATA_DISABLED") {
        true => "the metadata service, which AWS_EC2_METADATA_DISABLED switches off",
        false => "the metadata service",
    };
    format!(
        "AWS_ACCESS_KEY_ID in the environment, profile {profile} in {files}, AWS_WEB_IDENTITY_TOKEN_FILE, \
         AWS_CONTAINER_CREDENTIALS_FULL_URI and _RELATIVE_URI, {metadata}"
    )
}
