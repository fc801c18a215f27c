//! DynamoDB numbers: up to 38 significant digits, exact.
