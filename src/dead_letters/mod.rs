//! Dead letters: the records that the failure policy stopped retrying, and the places that keep them.
//!
//! - `letter`: a dead letter and its JSON
//! - `table`: the store in a DynamoDB table
//! - `sqs`: the SQS queue (feature `sqs`)
//! - `file`: the store in a file, for the program

#[cfg(feature = "cli")]
pub mod file;
pub mod letter;
#[cfg(feature = "sqs")]
pub mod sqs;
pub mod table;
