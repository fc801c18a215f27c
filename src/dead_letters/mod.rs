//! Dead letters: records that the failure policy stopped retrying, and the stores that keep them.
//!
//! - `letter`: a dead letter and its JSON
//! - `queue`: the interface through which a worker keeps letters; `table`, `sqs` (feature `sqs`) and `file` implement it
//! - `target`, `store`: the queue and the store that the program's options name

#[cfg(feature = "cli")]
pub mod file;
pub mod letter;
pub mod queue;
#[cfg(feature = "sqs")]
pub mod sqs;
#[cfg(feature = "cli")]
pub mod store;
pub mod table;
#[cfg(feature = "cli")]
pub mod target;
