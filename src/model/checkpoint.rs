//! Checkpoints: where in a shard the reading stands, in KCL's notation and order.

use std::fmt;

use super::sequence_number::SequenceNumber;

/// A position in a shard as the `checkpoint` attribute of a lease holds it.
///
/// The order is KCL's (`ExtendedSequenceNumber`): `AT_TIMESTAMP < TRIM_HORIZON < LATEST < any number < SHARD_END`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checkpoint {
    /// Nothing delivered; reading starts at the first record of a time that is the application's.
    AtTimestamp,
    /// Nothing delivered; reading starts at the oldest record.
    TrimHorizon,
    /// Nothing delivered; reading starts at the first record since the application first saw its stream.
    Latest,
    /// Everything up to and including this record is delivered.
    At(SequenceNumber),
    /// The shard is closed and everything in it is delivered.
    ShardEnd,
}

/// A `checkpoint` attribute that is neither a sentinel nor a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a sequence number nor one of TRIM_HORIZON, LATEST, AT_TIMESTAMP, SHARD_END")]
pub struct ParseError(pub String);

impl Checkpoint {
    /// Reads the attribute's text.
    ///
    /// # Errors
    /// When it is neither one of KCL's sentinels nor a sequence number.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Ok(match text {
            "AT_TIMESTAMP" => Self::AtTimestamp,
            "TRIM_HORIZON" => Self::TrimHorizon,
            "LATEST" => Self::Latest,
            "SHARD_END" => Self::ShardEnd,
            digits => Self::At(digits.parse().map_err(|_| ParseError(text.chars().take(60).collect()))?),
        })
    }

    /// The attribute's text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::AtTimestamp => "AT_TIMESTAMP",
            Self::TrimHorizon => "TRIM_HORIZON",
            Self::Latest => "LATEST",
            Self::At(number) => number.as_str(),
            Self::ShardEnd => "SHARD_END",
        }
    }

    /// Whether it stands for a time: nothing is delivered, and reading starts at the first record since then.
    pub fn is_time(&self) -> bool {
        matches!(self, Self::AtTimestamp | Self::Latest)
    }

    /// Whether nothing is delivered yet.
    pub fn is_start(&self) -> bool {
        *self == Self::TrimHorizon || self.is_time()
    }

    /// The last delivered record, when there is one.
    pub fn sequence_number(&self) -> Option<&SequenceNumber> {
        match self {
            Self::At(number) => Some(number),
            _ => None,
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kcls() {
        let texts = ["AT_TIMESTAMP", "TRIM_HORIZON", "LATEST", "0", "99", "100000000000000000000001", "SHARD_END"];
        let checkpoints: Vec<_> = texts.iter().map(|text| Checkpoint::parse(text).expect(text)).collect();
        assert!(checkpoints.is_sorted());
        for (checkpoint, text) in checkpoints.iter().zip(texts) {
            assert_eq!(checkpoint.to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["", "shard_end", "12x", "-3", "TRIM HORIZON"] {
            let error = Checkpoint::parse(text).expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
