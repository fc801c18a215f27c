//! The files of authorities whose certificates are trusted. TLS would start without one that cannot be read, and refuse
//! every server.

use std::ffi::OsString;
use std::path::PathBuf;

use super::clients::ConfigError;

/// The certificates of `AWS_CA_BUNDLE`, which the AWS command line trusts; none: it is not set.
///
/// # Errors
/// When there are none in the file, or it cannot be read.
pub(super) fn bundle() -> Result<Option<Vec<u8>>, ConfigError> {
    let path = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty());
    path.map(|path| read("AWS_CA_BUNDLE", path)).transpose()
}

/// Checks `SSL_CERT_FILE` and `SSL_CERT_DIR`, which stand for the system's authorities where one is set.
///
/// # Errors
/// When there are none in the file, or it cannot be read, or there is no file and none of the folders can be.
pub(crate) fn check() -> Result<(), ConfigError> {
    if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
        return read("SSL_CERT_FILE", path).map(drop);
    }
    let folders = std::env::var_os("SSL_CERT_DIR").unwrap_or_default();
    let folders = std::env::split_paths(&folders).filter(|path| !path.as_os_str().is_empty());
    let failures: Option<Vec<_>> = folders.map(|path| Some((std::fs::read_dir(&path).err()?, path))).collect();
    match failures.and_then(|failures| failures.into_iter().next()) {
        Some((error, path)) => {
            Err(ConfigError::Authorities { variable: "SSL_CERT_DIR", path, reason: error.to_string() })
        }
        None => Ok(()),
    }
}

fn read(variable: &'static str, path: OsString) -> Result<Vec<u8>, ConfigError> {
    let path = PathBuf::from(path);
    match std::fs::read(&path) {
        Ok(pem) if memchr::memmem::find(&pem, b"-----BEGIN CERTIFICATE-----").is_some() => Ok(pem),
        Ok(_) => Err(ConfigError::Authorities { variable, path, reason: "there are none in it".to_owned() }),
        Err(error) => Err(ConfigError::Authorities { variable, path, reason: error.to_string() }),
    }
}
