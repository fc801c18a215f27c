//! The AWS-facing modules.
