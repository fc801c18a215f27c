//! Observation of every call of the two services: its count, duration, outcome and cost.
//!
//! One interceptor for both clients sees each attempt, retried ones too, as the service does. Another one, on the
//! clients of a single table, reports whether that table answers.

use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, Metadata};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use tokio::time::Instant;

use super::ErrorKind;
use super::table_health::TableHealth;
use crate::telemetry::catalogue;

/// The cost of a GetRecords call, in billionths of a dollar: $0.02 per 100,000 streams read request units, a call each
/// (aws.amazon.com/dynamodb/pricing/on-demand, us-east-1, 2025; the first 2.5 million a month are free and counted all
/// the same).
pub const GET_RECORDS_NANODOLLARS: u64 = 200;
/// The cost of a write request unit: $0.625 per million (same source): a write of an item of up to 1 KB. In a
/// transaction each item counts twice.
pub const WRITE_UNIT_NANODOLLARS: u64 = 625;
/// The cost of a read request unit: $0.125 per million (same source): a strongly consistent read of up to 4 KB.
pub const READ_UNIT_NANODOLLARS: u64 = 125;
const READ_UNIT_BYTES: u64 = 4096;

/// The polls of shards without records, and their cost at [`GET_RECORDS_NANODOLLARS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct IdlePolls {
    /// Calls an hour.
    pub per_hour: u64,
    /// US dollars for a month of 730 hours.
    pub dollars_per_month: f64,
}

impl IdlePolls {
    /// So many calls an hour.
    #[expect(clippy::cast_precision_loss, reason = "calls are far fewer than 2^53")]
    pub fn new(per_hour: u64) -> Self {
        Self { per_hour, dollars_per_month: (per_hour * 730 * GET_RECORDS_NANODOLLARS) as f64 / 1e9 }
    }
}

/// Observes calls for metrics.
#[derive(Debug)]
pub(crate) struct MetricsInterceptor;

/// Reports whether a table answers.
#[derive(Debug)]
pub(crate) struct HealthInterceptor(pub(crate) TableHealth);

/// The start of an attempt.
#[derive(Debug)]
struct Began(Instant);

impl Storable for Began {
    type Storer = StoreReplace<Self>;
}

/// The outcome of an attempt: one of the values of the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    NoAnswer,
    ErrorKind(ErrorKind),
}

#[dyn_dispatch_hint]
impl Intercept for MetricsInterceptor {
    fn name(&self) -> &'static str {
        "MetricsInterceptor"
    }

    fn read_before_attempt(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(Began(Instant::now()));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("other", |metadata| operation(metadata.name()));
        let took = config.load::<Began>().map_or(Duration::ZERO, |began| began.0.elapsed());
        note(operation, outcome(context), took, || cost(operation, context));
        Ok(())
    }
}

/// Refuses good answers without a body, which the SDK takes for answers in which nothing is set: a table without an item.
/// The services always send an object.
#[derive(Debug)]
pub(crate) struct BodyInterceptor;

#[dyn_dispatch_hint]
impl Intercept for BodyInterceptor {
    fn name(&self) -> &'static str {
        "BodyInterceptor"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let is_empty = response.status().is_success() && response.body().bytes().is_some_and(<[u8]>::is_empty);
        if is_empty { Err("the answer has no body".into()) } else { Ok(()) }
    }
}

/// Counts an attempt of GetRecords that was made without the SDK.
pub(super) fn note_get_records(outcome: Outcome, took: Duration) {
    note("GetRecords", outcome, took, || ("records", GET_RECORDS_NANODOLLARS));
}

fn note(operation: &'static str, outcome: Outcome, took: Duration, cost: impl FnOnce() -> (&'static str, u64)) {
    catalogue::API_CALLS.inc([operation, outcome.word()]);
    catalogue::API_SECONDS.record([operation], took.as_secs_f64());
    if outcome.is_billed() {
        let (part, nanodollars) = cost();
        catalogue::ESTIMATED_COST.add([part], nanodollars);
    }
}

#[dyn_dispatch_hint]
impl Intercept for HealthInterceptor {
    fn name(&self) -> &'static str {
        "HealthInterceptor"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        match outcome(context) {
            Outcome::Ok | Outcome::ErrorKind(ErrorKind::ConditionFailed) => self.0.good(),
            Outcome::ErrorKind(ErrorKind::Transient) => {
                self.0.failed(&context.response().map_or_else(String::new, fault))
            }
            outcome => self.0.failed(outcome.word()),
        }
        Ok(())
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoAnswer => "no_answer",
            Self::ErrorKind(ErrorKind::ConditionFailed) => "condition_failed",
            Self::ErrorKind(ErrorKind::ExpiredIterator) => "expired_iterator",
            Self::ErrorKind(ErrorKind::NotFound) => "not_found",
            Self::ErrorKind(ErrorKind::Refused | ErrorKind::UnknownOperation) => "refused",
            Self::ErrorKind(ErrorKind::Throttled) => "throttled",
            Self::ErrorKind(ErrorKind::Transient) => "failed",
            Self::ErrorKind(ErrorKind::Trimmed) => "trimmed",
        }
    }

    /// Whether the service charges for it: a write whose condition fails costs what it would have cost.
    fn is_billed(self) -> bool {
        matches!(self, Self::Ok | Self::ErrorKind(ErrorKind::ConditionFailed))
    }
}

fn outcome(context: &FinalizerInterceptorContextRef<'_>) -> Outcome {
    let Some(response) = context.response() else { return Outcome::NoAnswer };
    if response.status().is_success() {
        // A proxy's page is a good answer of nobody's.
        let is_read = context.output_or_error().is_none_or(|output| output.is_ok());
        return if is_read { Outcome::Ok } else { Outcome::ErrorKind(ErrorKind::Transient) };
    }
    let refusal = Refusal::of(response.headers(), response.body().bytes().unwrap_or_default());
    Outcome::ErrorKind(refusal.code.as_deref().map_or(ErrorKind::Transient, ErrorKind::of_code))
}

/// The words for an answer that is of no use, and none that asks for anything.
fn fault(answer: &HttpResponse) -> String {
    let code = Refusal::of(answer.headers(), answer.body().bytes().unwrap_or_default()).code;
    code.unwrap_or_else(|| super::unreadable(answer))
}

/// The answer to a call that was refused or failed.
#[derive(Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Refusal {
    /// The service's error code, such as `ThrottlingException`.
    #[serde(default, rename = "__type")]
    pub(super) code: Option<String>,
    #[serde(default, alias = "Message")]
    pub(super) message: Option<String>,
}

impl Refusal {
    pub(super) fn of(headers: &Headers, body: &[u8]) -> Self {
        let mut refusal: Self = serde_json::from_slice(body).unwrap_or_default();
        // `namespace#Code:more`
        let named = headers.get("x-amzn-errortype").or(refusal.code.as_deref());
        let code = named.and_then(|code| code.split(':').next()?.rsplit('#').next()).map(ToOwned::to_owned);
        refusal.code = code;
        refusal
    }
}

fn operation(name: &str) -> &'static str {
    catalogue::OPERATION.values.iter().find(|known| **known == name).copied().unwrap_or("other")
}

/// The part of the work that an attempt was paid for, and its cost in billionths of a dollar.
///
/// The items of both tables are smaller than a unit of reading or writing (1 KB but for a worker whose inbox overflows),
/// so items are counted where there are few, and bytes of the answer, as JSON and so rather too many, where there are
/// many. Describing and making tables is free.
fn cost(operation: &str, context: &FinalizerInterceptorContextRef<'_>) -> (&'static str, u64) {
    let request = || context.request().and_then(|request| request.body().bytes()).unwrap_or_default();
    let mentions = |name: &str| memchr::memmem::find_iter(request(), name).count() as u64;
    match operation {
        "GetRecords" => ("records", GET_RECORDS_NANODOLLARS),
        "GetItem" => ("coordination", READ_UNIT_NANODOLLARS),
        "BatchGetItem" => ("coordination", mentions("\"leaseKey\"").max(1) * READ_UNIT_NANODOLLARS),
        "Query" | "Scan" => {
            let length = context.response().and_then(|response| response.headers().get("content-length"));
            let bytes = length.and_then(|length| length.parse().ok()).unwrap_or(0_u64);
            ("coordination", bytes.div_ceil(READ_UNIT_BYTES).max(1) * READ_UNIT_NANODOLLARS)
        }
        "DeleteItem" | "PutItem" | "UpdateItem" => ("coordination", WRITE_UNIT_NANODOLLARS),
        "TransactWriteItems" => ("coordination", mentions("\"TableName\"").max(1) * 2 * WRITE_UNIT_NANODOLLARS),
        _ => ("coordination", 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_that_are_not_ours_count_together() {
        assert_eq!((operation("GetRecords"), operation("RestoreTable")), ("GetRecords", "other"));
    }

    #[test]
    fn an_errors_kind_is_found_in_its_body() {
        let body = br#"{"message":"slow down","__type":"com.amazonaws#ThrottlingException"}"#;
        let refusal = Refusal::of(&Headers::new(), body);
        assert_eq!(refusal.code.as_deref(), Some("ThrottlingException"));
        assert_eq!(refusal.message.as_deref(), Some("slow down"));
        assert_eq!(Refusal::of(&Headers::new(), b"<html>"), Refusal::default());
    }

    #[test]
    fn every_outcome_is_a_value_of_its_label() {
        let faults = [
            ErrorKind::ConditionFailed,
            ErrorKind::ExpiredIterator,
            ErrorKind::NotFound,
            ErrorKind::Refused,
            ErrorKind::Throttled,
            ErrorKind::Transient,
            ErrorKind::Trimmed,
        ];
        let outcomes = faults.map(Outcome::ErrorKind).into_iter().chain([Outcome::Ok, Outcome::NoAnswer]);
        let words: std::collections::BTreeSet<&str> = outcomes.map(Outcome::word).collect();
        assert_eq!(words, catalogue::API_CALLS.metric().labels[1].values.iter().copied().collect());
    }
}
