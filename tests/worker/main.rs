//! The library in this process: workers with the real SDK on the in-memory service on a paused clock, and the decoding
//! of pages against the SDK's.

mod commit;
mod decode_differential;
mod differential;
mod embedding;
mod endings;
mod examples;
mod failing_handlers;
mod fleet;
mod json_text;
mod leases;
mod life_cycle;
mod metrics;
mod positions;
mod sdk_decoding;
mod slow_processors;
