//! The local service: DynamoDB with Streams in this process.

mod expression;
mod number;
mod value;
