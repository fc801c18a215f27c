//! The AWS-facing modules.

pub mod record;
