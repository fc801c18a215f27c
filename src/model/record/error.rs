//! The error of every decoding in this module.

use std::fmt;

/// A malformed answer: the reason and the place.
///
/// The offset counts bytes from the start of the GetRecords body (or of the text handed to [`Item::decode`]).
///
/// [`Item::decode`]: super::Item::decode
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    what: &'static str,
    offset: usize,
}

impl DecodeError {
    /// Cold, so that the checks that lead here stay out of the way of the scan.
    #[cold]
    #[inline(never)]
    pub(super) fn new(what: &'static str, offset: usize) -> Self {
        Self { what, offset }
    }

    /// The reason, in a few lower-case words.
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// The byte at which it was noticed.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for DecodeError {}
