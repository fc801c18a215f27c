//! Dead letters in an SQS queue, a message each.
//!
//! A message is the letter's JSON. What a message cannot hold, for its size or for a character that SQS refuses, goes to
//! the dead letter table first, and the message says where it is there. To a FIFO queue letters go by shard, with their
//! identity for deduplication; in any other queue, a letter that is put again after a crash is a second message with
//! the same id.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{Region, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;

use super::table::{DeadLetterTable, Place};
use crate::aws::{TableError, describe};
use crate::dead_letters::letter::DeadLetter;
use crate::model::fnv1a;

/// What a message may hold in any queue, in bytes, unless somebody has lowered it. A queue's own limit may be up to
/// 1 MiB (API reference, SendMessage and the queue attribute `MaximumMessageSize`).
const SAFE_MESSAGE_BYTES: usize = 256 << 10;
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A queue for dead letters.
#[derive(Debug)]
pub struct SqsQueue {
    client: Client,
    url: String,
    /// For letters that no message can hold.
    table: DeadLetterTable,
    /// What a message of this queue may hold, in bytes.
    message_bytes: AtomicUsize,
}

/// Why a letter was not kept, or the queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The table for large letters.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The queue.
    #[error("{operation} on queue {url} failed: {reason}")]
    Queue {
        /// The API operation.
        operation: &'static str,
        /// The queue's URL.
        url: String,
        /// The service's or the client's words.
        reason: String,
    },
}

impl SqsQueue {
    /// The queue with this URL, which also says where the service is and, for AWS's own, in which region.
    pub fn new(config: &SdkConfig, url: &str, table: DeadLetterTable) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(CALL_LIMIT)
            .operation_timeout(CALL_LIMIT * 2)
            .build();
        let mut builder = aws_sdk_sqs::config::Builder::from(config)
            .endpoint_url(endpoint(url))
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard());
        if let Some(region) = region(url) {
            builder = builder.region(Region::new(region.to_owned()));
        }
        let client = Client::from_conf(builder.build());
        Self { client, url: url.to_owned(), table, message_bytes: AtomicUsize::new(SAFE_MESSAGE_BYTES) }
    }

    /// Makes sure of the table for large letters, and asks the queue how much a message of it may hold.
    ///
    /// # Errors
    /// When the table is missing and may not be made, or there is no such queue.
    pub async fn prepare(&self, create: bool) -> Result<(), QueueError> {
        self.table.ensure(create).await?;
        let call = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = call.attribute_names(QueueAttributeName::MaximumMessageSize).send().await;
        let attributes = match answer {
            Ok(answer) => answer.attributes.unwrap_or_default(),
            Err(error) if is_missing(error.code()) => return Err(self.error("GetQueueAttributes", describe(&error))),
            Err(error) => {
                // A worker may be allowed to send and to do nothing else.
                let (reason, bytes) = (describe(&error), SAFE_MESSAGE_BYTES);
                tracing::info!(url = self.url, reason, bytes, "the queue does not tell its limit for a message");
                return Ok(());
            }
        };
        let limit = attributes.get(&QueueAttributeName::MaximumMessageSize).and_then(|bytes| bytes.parse().ok());
        if let Some(bytes) = limit {
            self.message_bytes.store(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends a letter, whole or with the place in the table where it is whole.
    ///
    /// # Errors
    /// When it is not known whether it was sent.
    pub async fn put(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        let body = letter.to_json();
        if body.len() <= self.message_bytes.load(Ordering::Relaxed) && body.chars().all(is_allowed) {
            match self.send(letter, body).await {
                Ok(()) => return Ok(()),
                Err((true, reason)) => tracing::debug!(letter = %letter.id(), reason, "no message can hold the letter"),
                Err((false, reason)) => return Err(self.error("SendMessage", reason)),
            }
        }
        self.table.put(letter).await?;
        let place = Place::of(letter);
        let place = json!({"table": self.table.name(), "shard": place.shard(), "position": place.position()});
        let pointer = letter.to_json_without_record(&place.to_string());
        let pointer = if pointer.chars().all(is_allowed) { pointer } else { without_error(letter, &place.to_string()) };
        self.send(letter, pointer).await.map_err(|(_, reason)| self.error("SendMessage", reason))
    }

    /// Sends a message. An error says whether it is the message that was refused, and why.
    async fn send(&self, letter: &DeadLetter, body: String) -> Result<(), (bool, String)> {
        let call = self.client.send_message().queue_url(&self.url).message_body(body);
        let call = if self.url.ends_with(".fifo") {
            call.message_group_id(letter.shard_id.as_str()).message_deduplication_id(deduplication_id(letter))
        } else {
            call
        };
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let code = error.code().unwrap_or_default();
                let is_refused =
                    code.starts_with("InvalidParameterValue") || code.starts_with("InvalidMessageContents");
                Err((is_refused, describe(&error)))
            }
        }
    }

    fn error(&self, operation: &'static str, reason: String) -> QueueError {
        QueueError::Queue { operation, url: self.url.clone(), reason }
    }
}

/// The letter without what a handler said, which may be anything; the table has it.
fn without_error(letter: &DeadLetter, place: &str) -> String {
    let mut plain = letter.clone();
    plain.error.retain(is_allowed);
    plain.to_json_without_record(place)
}

/// The names under which the service says that there is no such queue.
fn is_missing(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.ends_with("NonExistentQueue") || code.contains("QueueDoesNotExist"))
}

/// Scheme and host of a queue's URL.
fn endpoint(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

/// The region in the URL of one of AWS's queues: `https://sqs.REGION.amazonaws.com/…`.
fn region(url: &str) -> Option<&str> {
    let host = endpoint(url).split("://").nth(1)?;
    let rest = host.strip_prefix("sqs.")?;
    let (region, domain) = rest.split_once('.')?;
    domain.starts_with("amazonaws.").then_some(region)
}

/// At most 128 characters (API reference, SendMessage): a digest of the stream's ARN, and the letter's id, of which
/// shard ids have up to 65 and sequence numbers up to 40.
fn deduplication_id(letter: &DeadLetter) -> String {
    let mut id = format!("{:016x}/{}", fnv1a(&letter.stream_arn), letter.id());
    id.truncate(id.floor_char_boundary(128));
    id
}

/// Whether a message may hold the character (API reference, SendMessage: those of XML).
fn is_allowed(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queues_url_says_where_its_service_is() {
        let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/letters.fifo";
        assert_eq!((endpoint(url), region(url)), ("https://sqs.eu-west-1.amazonaws.com", Some("eu-west-1")));
        let url = "http://127.0.0.1:9324/000000000000/letters";
        assert_eq!((endpoint(url), region(url)), ("http://127.0.0.1:9324", None));
        assert_eq!(region("https://queue.amazonaws.com/1/x"), None);
    }

    #[test]
    fn what_tells_letters_apart_in_a_fifo_queue_fits() {
        let shard = "s".repeat(65);
        let number = "9".repeat(40).parse().expect("a sequence number");
        let letter = DeadLetter::new("arn:x", shard.as_str().into(), number, "{}", "no", 1);
        let id = deduplication_id(&letter);
        assert!(id.len() <= 128 && id.ends_with("999"), "{id}");
        let mut other = letter.clone();
        other.stream_arn.push('y');
        assert_ne!(id, deduplication_id(&other));
    }
}
