//! Bodies in the encodings of HTTP: gzip and deflate (zlib's format), in both directions.

use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    /// The value of `Content-Encoding`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The encoding with this name in a header.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Gzip, Self::Deflate].into_iter().find(|encoding| name.eq_ignore_ascii_case(encoding.name()))
    }

    /// The encoding for an answer to a request with this `Accept-Encoding`; none for a plain one.
    pub(crate) fn accepted(header: &str) -> Option<Self> {
        let accepted = header.split(',').filter_map(|choice| {
            let (name, weight) = choice.split_once(';').unwrap_or((choice, "q=1"));
            let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
            Self::named(name.trim()).filter(|_| weight.is_some_and(|weight| weight > 0.0))
        });
        accepted.min_by_key(|encoding| *encoding != Self::Gzip)
    }

    pub(crate) fn encode(self, body: &[u8]) -> io::Result<Bytes> {
        let out = Vec::new();
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, Compression::fast());
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(out, Compression::fast());
                encoder.write_all(body)?;
                encoder.finish()
            }
        }
        .map(Bytes::from)
    }

    /// The body in plain, read no further than a byte beyond `limit`.
    pub(crate) fn decode(self, body: &[u8], limit: usize) -> io::Result<Bytes> {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut plain = Vec::new();
        match self {
            Self::Gzip => MultiGzDecoder::new(body).take(limit).read_to_end(&mut plain)?,
            Self::Deflate => ZlibDecoder::new(body).take(limit).read_to_end(&mut plain)?,
        };
        Ok(plain.into())
    }
}
