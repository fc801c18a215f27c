//! A refused filter: the reason and the place.

use std::fmt;

/// Why a filter is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The pattern's text is not a pattern.
    Malformed {
        /// The members that lead to the place, joined by dots; empty for the whole pattern.
        path: String,
        /// The mistake there, and the allowed values.
        what: String,
    },
    /// The filter makes no sense on the stream: no record could match, or what it excludes cannot be there.
    CannotWork {
        /// The pattern, or the name of the preset.
        filter: String,
        /// The members that lead to the condition that is at fault, joined by dots.
        path: String,
        /// Why it cannot work, and what to write.
        what: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, what) = match self {
            Error::Malformed { path, what } => (path, what),
            Error::CannotWork { filter, path, what } => {
                write!(f, "the filter {filter} cannot work on this stream: ")?;
                (path, what)
            }
        };
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        f.write_str(what)
    }
}

impl std::error::Error for Error {}
