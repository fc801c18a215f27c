//! The meaning of a handler's response for its batch.
//!
//! The rules are those by which AWS Lambda reads a function's response (Lambda developer guide, "Configuring partial batch
//! response with DynamoDB and Lambda"): done unless it names failed records; of several the first in the stream counts;
//! what names none of the batch's records counts for all of them. A function that failed says so in its
//! body, behind a status of 200.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{DATE, RETRY_AFTER};
use serde_json::Value;

use super::client::{HandlerResponse, LARGEST_RESPONSE};
use crate::aws::http_date_ms;
use crate::consumer::BatchError;
use crate::model::record::RecordBatch;
use crate::model::sequence_number::SequenceNumber;

/// Lambda's mark of a response that is a function's error (API reference, "Invoke").
const FUNCTION_ERROR: &str = "x-amz-function-error";
/// The most of a response that an error shows, in bytes.
const EXCERPT: usize = 300;

/// A response that means failure.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the handler answered {status}{}: {excerpt}", redirect(location))]
    Status { status: StatusCode, location: Option<String>, excerpt: String },
    #[error("the handler answered {status}, but with a function's error: {excerpt}")]
    Function { status: StatusCode, excerpt: String },
    #[error("the handler answered {status}, but with an empty body: the function's process has ended")]
    Nothing { status: StatusCode },
    #[error("the handler answered {status}, but its body is not JSON: {excerpt}")]
    NoJson { status: StatusCode, excerpt: String },
    #[error("the handler answered {status}, but with more than {LARGEST_RESPONSE} bytes")]
    TooLong { status: StatusCode },
    #[error("the handler answered {status}, but its batchItemFailures are not understood: {excerpt}")]
    NotUnderstood { status: StatusCode, excerpt: String },
    #[error("the handler answered that {failed} of {records} records failed, the first of them {first}")]
    Records { failed: usize, records: usize, first: SequenceNumber },
}

fn redirect(location: &Option<String>) -> String {
    location
        .as_ref()
        .map(|location| format!(" and redirects to {location:?}, which is not followed"))
        .unwrap_or_default()
}

/// Whether a status says that the handler is busy or away, or that it doesn't take the caller's credentials. 403 may also
/// be a judgment on the records, unless the credentials can change.
fn is_unavailable(status: StatusCode, credentials_rotate: bool) -> bool {
    match status {
        StatusCode::FORBIDDEN => credentials_rotate,
        StatusCode::UNAUTHORIZED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => true,
        _ => false,
    }
}

/// The wait that a response asks for, in seconds or as a date, which counts from the response's own.
fn retry_after(response: &HandlerResponse) -> Option<Duration> {
    let header = |name| response.headers.get(name)?.to_str().ok();
    let asked = header(RETRY_AFTER)?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let wait_ms = http_date_ms(asked)? - http_date_ms(header(DATE)?)?;
    u64::try_from(wait_ms).ok().map(Duration::from_millis)
}

/// Whether the batch succeeded, or the failure. `is_invocation`: the response is that of a Lambda function.
/// `credentials_rotate`: the request's credentials may be replaced at any time.
pub(super) fn interpret(
    response: &HandlerResponse,
    is_invocation: bool,
    credentials_rotate: bool,
    records: &RecordBatch,
) -> Result<(), BatchError> {
    let status = response.status;
    let excerpt = || excerpt(&response.body);
    if !status.is_success() {
        let location = response.location().map(str::to_owned);
        let failed = Failed::Status { status, location, excerpt: excerpt() };
        return Err(match is_unavailable(status, credentials_rotate) {
            true => BatchError::unavailable(failed, retry_after(response)),
            false => failed.into(),
        });
    }
    if response.headers.contains_key(FUNCTION_ERROR) {
        return Err(Failed::Function { status, excerpt: excerpt() }.into());
    }
    if response.body.is_empty() {
        return if is_invocation { Err(Failed::Nothing { status }.into()) } else { Ok(()) };
    }
    if response.is_cut {
        return Err(Failed::TooLong { status }.into());
    }
    let Ok(body) = serde_json::from_slice::<Value>(&response.body) else {
        return Err(Failed::NoJson { status, excerpt: excerpt() }.into());
    };
    if is_function_error(&body) {
        return Err(Failed::Function { status, excerpt: excerpt() }.into());
    }
    let failures = match body.get("batchItemFailures") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(failures)) if failures.is_empty() => return Ok(()),
        Some(Value::Array(failures)) => failures,
        Some(_) => return Err(Failed::NotUnderstood { status, excerpt: excerpt() }.into()),
    };
    let Some(first) = first_failed(failures, records) else {
        return Err(Failed::NotUnderstood { status, excerpt: excerpt() }.into());
    };
    let failed = Failed::Records { failed: failures.len(), records: records.len(), first: first.clone() };
    Err(BatchError::from_record(first, failed))
}

/// Whether a function's response is an error: an object with a message or a type of one (Lambda developer guide, on
/// function errors in each language).
fn is_function_error(body: &Value) -> bool {
    ["errorMessage", "errorType"].iter().any(|name| body.get(name).is_some_and(|value| !value.is_null()))
}

/// The first of the records that `failures` name; none when one of them names no record of the batch.
fn first_failed(failures: &[Value], records: &RecordBatch) -> Option<SequenceNumber> {
    let positions: BTreeSet<SequenceNumber> =
        records.iter().filter_map(|record| record.sequence_number().parse().ok()).collect();
    let named = |failure: &Value| {
        let position: SequenceNumber = failure.get("itemIdentifier")?.as_str()?.parse().ok()?;
        positions.get(&position).cloned()
    };
    let failed: Option<BTreeSet<SequenceNumber>> = failures.iter().map(named).collect();
    failed?.pop_first()
}

/// The beginning of a body, in one line.
fn excerpt(body: &[u8]) -> String {
    if body.is_empty() {
        return "no body".to_owned();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let text = text.trim_end_matches('\u{fffd}');
    let rest = if body.len() > EXCERPT { " …" } else { "" };
    format!("{text:?}{rest}")
}
