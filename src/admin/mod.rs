//! Operator's tools: the status of a fleet, and changes of leases by hand.
//!
//! - `status`: workers, shards, and what waits for what, from the rows of the tables
//! - `lease_ops`: the lease changes that an operator may make
//! - `replay`: the lease changes that have a whole stream delivered again

pub mod lease_ops;
pub mod replay;
pub mod status;
