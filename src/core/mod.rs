//! The pure core.

pub mod record;
