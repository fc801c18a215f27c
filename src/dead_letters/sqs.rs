//! Dead letters in an SQS queue, one message each.
//!
//! A message is the letter's JSON. A letter that no message can hold, for its size or for a character that SQS refuses,
//! goes to the dead letter table first, and its message names the table and the key there. In a FIFO queue the message
//! group is the shard, and the deduplication id is the letter's identity; in any other queue, a letter that is put again
//! after a crash is a second message with the same id.

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_config::retry::RetryConfig;
use aws_config::{Region, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;

use super::letter::DeadLetter;
use super::queue::{DeadLetterQueue, PrepareError, QueueFuture};
use super::table::{DeadLetterTable, LetterKey, timeouts};
use crate::aws::describe;
use crate::model::fnv1a;

/// The size of a message that every queue accepts by default. A queue's own limit may be up to
/// 1 MiB (API reference, SendMessage and the queue attribute `MaximumMessageSize`).
const SAFE_MESSAGE_BYTES: usize = 256 << 10;

/// A dead letter queue in SQS.
#[derive(Debug)]
pub struct SqsQueue {
    client: Client,
    url: String,
    /// Keeps letters that no message can hold.
    table: DeadLetterTable,
    /// The queue's limit for a message.
    message_bytes: AtomicUsize,
}

/// A call to the queue that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} on queue {url} failed: {reason}")]
struct QueueError {
    operation: &'static str,
    url: String,
    reason: String,
}

impl SqsQueue {
    /// The queue with this URL, which also names the service's endpoint and, for AWS's own, its region.
    pub fn new(config: &SdkConfig, url: &str, table: DeadLetterTable) -> Self {
        let mut builder = aws_sdk_sqs::config::Builder::from(config)
            .endpoint_url(endpoint(url))
            .timeout_config(timeouts())
            .retry_config(RetryConfig::standard());
        if let Some(region) = region(url) {
            builder = builder.region(Region::new(region.to_owned()));
        }
        let client = Client::from_conf(builder.build());
        Self { client, url: url.to_owned(), table, message_bytes: AtomicUsize::new(SAFE_MESSAGE_BYTES) }
    }

    /// Sends a message. An error says whether SQS refused this message, and why the call failed.
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
        QueueError { operation, url: self.url.clone(), reason }
    }
}

impl DeadLetterQueue for SqsQueue {
    /// Prepares the table for large letters, and asks the queue how much a message of it may hold.
    fn prepare(&self, create: bool) -> QueueFuture<'_, PrepareError> {
        Box::pin(async move {
            self.table.ensure(create).await?;
            let call = self.client.get_queue_attributes().queue_url(&self.url);
            let answer = call.attribute_names(QueueAttributeName::MaximumMessageSize).send().await;
            let attributes = match answer {
                Ok(answer) => answer.attributes.unwrap_or_default(),
                Err(error) if is_missing(error.code()) => {
                    let error = self.error("GetQueueAttributes", describe(&error));
                    return Err(PrepareError::Other(error.into()));
                }
                Err(error) => {
                    // A worker may be allowed to send and to do nothing else.
                    let (reason, bytes) = (describe(&error), SAFE_MESSAGE_BYTES);
                    tracing::info!(url = self.url, reason, bytes, "message size limit unknown, using the default");
                    return Ok(());
                }
            };
            let limit = attributes.get(&QueueAttributeName::MaximumMessageSize).and_then(|bytes| bytes.parse().ok());
            if let Some(bytes) = limit {
                self.message_bytes.store(bytes, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// Sends the letter, whole or with its key in the table that has it whole.
    fn put<'a>(&'a self, letter: &'a DeadLetter) -> QueueFuture<'a> {
        Box::pin(async move {
            let body = letter.to_json();
            if body.len() <= self.message_bytes.load(Ordering::Relaxed) && body.chars().all(is_allowed) {
                match self.send(letter, body).await {
                    Ok(()) => return Ok(()),
                    Err((true, reason)) => {
                        tracing::debug!(letter = %letter.id(), reason, "message refused, using the table");
                    }
                    Err((false, reason)) => return Err(self.error("SendMessage", reason).into()),
                }
            }
            self.table.put(letter).await?;
            let key = LetterKey::of(letter);
            let key = json!({"table": self.table.name(), "shard": key.shard(), "position": key.position()}).to_string();
            let mut pointer = letter.to_json_without_record(&key);
            if !pointer.chars().all(is_allowed) {
                pointer = without_forbidden_characters(letter).to_json_without_record(&key);
            }
            self.send(letter, pointer).await.map_err(|(_, reason)| self.error("SendMessage", reason).into())
        })
    }
}

/// The letter with an error text that a message may hold; the table has the whole text.
fn without_forbidden_characters(letter: &DeadLetter) -> DeadLetter {
    let mut plain = letter.clone();
    plain.error.retain(is_allowed);
    plain
}

/// Whether the code is one of the service's names for a missing queue.
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
    fn a_queues_url_names_its_endpoint_and_region() {
        let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/letters.fifo";
        assert_eq!((endpoint(url), region(url)), ("https://sqs.eu-west-1.amazonaws.com", Some("eu-west-1")));
        let url = "http://127.0.0.1:9324/000000000000/letters";
        assert_eq!((endpoint(url), region(url)), ("http://127.0.0.1:9324", None));
        assert_eq!(region("https://queue.amazonaws.com/1/x"), None);
    }

    #[test]
    fn a_deduplication_id_fits_and_differs_between_streams() {
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
