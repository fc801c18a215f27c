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
/// The mark that some programs begin a text in UTF-8 with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
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
    if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(asked.parse().unwrap_or(u64::MAX)));
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
    let text = response.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&response.body).trim_ascii();
    if text.is_empty() {
        return if is_invocation { Err(Failed::Nothing { status }.into()) } else { Ok(()) };
    }
    if response.is_cut {
        return Err(Failed::TooLong { status }.into());
    }
    let Ok(body) = serde_json::from_slice::<Value>(text) else {
        return Err(Failed::NoJson { status, excerpt: excerpt() }.into());
    };
    if is_function_error(&body) {
        return Err(Failed::Function { status, excerpt: excerpt() }.into());
    }
    let failures = match body.get("batchItemFailures") {
        None | Some(Value::Null) => {
            if let Some(member) = misspelled_failures(&body) {
                tracing::warn!(member, "handler named failed records in a member that does not count, batch is done");
            }
            return Ok(());
        }
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

/// The member that names failed records but for its upper and lower case, which Lambda heeds, too.
fn misspelled_failures(body: &Value) -> Option<&str> {
    let is_meant = |name: &str| name.eq_ignore_ascii_case("batchItemFailures");
    let names_some = |value: &Value| value.as_array().is_some_and(|failures| !failures.is_empty());
    let (name, _) = body.as_object()?.iter().find(|(name, value)| is_meant(name) && names_some(value))?;
    Some(name)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn failed_records_under_a_misspelled_name_are_noticed() {
        let failures = json!([{"itemIdentifier": "1"}]);
        for name in ["BatchItemFailures", "batchitemfailures"] {
            assert_eq!(misspelled_failures(&json!({name: failures})), Some(name));
        }
        for fine in [json!({"BatchItemFailures": []}), json!({"batchItemFailure": failures}), json!([]), json!(null)] {
            assert_eq!(misspelled_failures(&fine), None, "{fine}");
        }
    }
}
