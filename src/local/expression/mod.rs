//! DynamoDB's expressions.
