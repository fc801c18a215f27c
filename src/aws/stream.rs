//! The stream: its shards, their iterators and records, with every error typed.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::types::{ShardFilter, ShardFilterType, ShardIteratorType, StreamStatus};
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;

use super::clients::Clients;
use super::get_records::GetRecords;
use super::{CallError, ErrorKind};
use crate::model::checkpoint::Checkpoint;
use crate::model::filter::Layout;
use crate::model::lease::ShardId;
use crate::model::record::{Page, ViewType};
use crate::model::shard_graph::Shard;

/// The most records of a page (API reference, GetRecords).
pub const MOST_PAGE_RECORDS: u32 = 1000;
/// The longest wait for the next part of a body. The whole of a page may take longer, over a slow link.
const STILLNESS: Duration = Duration::from_secs(10);
/// The most room reserved for a body before it arrives, whatever its head announces.
const MOST_ROOM_AHEAD: usize = 16 << 20;

/// One DynamoDB stream.
#[derive(Clone, Debug)]
pub struct Stream {
    client: Client,
    arn: Arc<str>,
    get_records: GetRecords,
}

/// A page of DescribeStream.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// The shards on this page.
    pub shards: Vec<Shard>,
    /// Whether the stream is switched off: it gets no further records, and its records stay readable for a day.
    pub disabled: bool,
    /// The content of the stream's records.
    pub layout: Layout,
    /// The start of the next page, when there is one.
    pub next: Option<ShardId>,
}

/// A failed call on the stream, by what its caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The iterator is too old: a new one continues after the last record.
    #[error("the shard iterator has expired")]
    ExpiredIterator,
    /// The stream or the shard isn't there, or no longer.
    #[error("not found: {0}")]
    NotFound(String),
    /// Credentials or permissions: retrying does not help until somebody has changed something.
    #[error("refused: {0}")]
    Refused(CallError),
    /// The service asks for fewer calls.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The body of an answer stalled before its end: smaller pages may arrive.
    #[error("the answer's body stalled for {} s", STILLNESS.as_secs())]
    Still,
    /// No answer, a fault of the service, or an unreadable answer: to be retried from the same position.
    #[error("{0}")]
    Transient(String),
    /// Some records after the wanted position are gone.
    #[error("the records at this position are trimmed: {0}")]
    Trimmed(String),
}

impl Stream {
    /// The stream with this ARN.
    pub fn new(client: Client, arn: impl Into<Arc<str>>) -> Self {
        Self { client, arn: arn.into(), get_records: GetRecords::default() }
    }

    /// The stream's ARN.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// One page of the stream's shards, those after `after` (DescribeStream; at most 100 shards, 10 calls a second).
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such stream.
    pub async fn describe(&self, after: Option<&ShardId>) -> Result<Described, Error> {
        let call = self.client.describe_stream().stream_arn(&*self.arn);
        let call = call.set_exclusive_start_shard_id(after.map(ToString::to_string));
        described(call.send().await.map_err(|error| Error::new(&error))?.stream_description)
    }

    /// The children of one closed shard, as far as they are visible yet (DescribeStream's CHILD_SHARDS filter). Services
    /// that ignore the filter answer with shards of other parents too.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such stream.
    pub async fn children(&self, parent: &ShardId) -> Result<Described, Error> {
        let filter = ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(parent.as_str()).build();
        let call = self.client.describe_stream().stream_arn(&*self.arn).shard_filter(filter);
        described(call.send().await.map_err(|error| Error::new(&error))?.stream_description)
    }

    /// An iterator on a shard that begins after `checkpoint` (GetShardIterator). Sentinels of a time begin at `since_ms` (ms
    /// since the epoch), where the service knows such iterators, and at the shard's oldest record elsewhere.
    ///
    /// # Errors
    /// [`Error::Trimmed`] when the position is no longer in the shard, [`Error::NotFound`] when the shard isn't.
    pub async fn shard_iterator(
        &self,
        shard: &ShardId,
        checkpoint: &Checkpoint,
        since_ms: u64,
    ) -> Result<String, Error> {
        let call = self.client.get_shard_iterator().stream_arn(&*self.arn).shard_id(shard.as_str());
        let oldest = call.clone().shard_iterator_type(ShardIteratorType::TrimHorizon);
        let call = match checkpoint {
            Checkpoint::AtTimestamp | Checkpoint::Latest => {
                let since = DateTime::from_secs(i64::try_from(since_ms / 1000).unwrap_or(i64::MAX));
                let at_time = call.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(since);
                match at_time.send().await.map(|answer| answer.shard_iterator) {
                    Ok(Some(iterator)) => return Ok(iterator),
                    Err(error) if ErrorKind::of(&error) == ErrorKind::Throttled => return Err(Error::new(&error)),
                    _ => oldest,
                }
            }
            Checkpoint::TrimHorizon => oldest,
            Checkpoint::At(number) => {
                call.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).sequence_number(number.as_str())
            }
            Checkpoint::ShardEnd => return Err(Error::NotFound(format!("shard {shard} has ended"))),
        };
        let answer = call.send().await.map_err(|error| Error::new(&error))?;
        answer.shard_iterator.ok_or_else(|| Error::Transient("the answer holds no shard iterator".into()))
    }

    /// The next page of at most `limit` records (GetRecords: at most 1000 records or 1 MB).
    ///
    /// # Errors
    /// An answer that is cut off or malformed is [`Error::Transient`].
    pub async fn records(&self, iterator: &str, limit: u32) -> Result<Page, Error> {
        let body = self.get_records.call(&self.client, iterator, limit).await?;
        let bytes = collect(body).await?;
        Page::decode(bytes.into()).map_err(|error| Error::Transient(format!("the answer is malformed: {error}")))
    }
}

impl Error {
    pub(super) fn new<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        Self::of(ErrorKind::of(error), CallError::new(error))
    }

    pub(super) fn of(kind: ErrorKind, error: CallError) -> Self {
        let words = error.to_string();
        match kind {
            ErrorKind::ExpiredIterator => Self::ExpiredIterator,
            ErrorKind::NotFound => Self::NotFound(words),
            ErrorKind::Refused | ErrorKind::UnknownOperation => Self::Refused(error),
            ErrorKind::Throttled => Self::Throttled(words),
            ErrorKind::Trimmed => Self::Trimmed(words),
            ErrorKind::ConditionFailed | ErrorKind::Transient => Self::Transient(words),
        }
    }
}

/// The absence of a stream to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// There is no stream with this ARN.
    #[error(
        "there is no stream {0}: it may belong to another region or account, or have been off for more than a day; \
         a table's name finds its newest stream"
    )]
    NoSuchStream(String),
    /// There is no such table.
    #[error("table {0} does not exist here: check its name, and the region and endpoint in use")]
    NoSuchTable(String),
    /// The table has no stream.
    #[error(
        "table {0} has no stream: switch one on, for example with `aws dynamodb update-table --table-name {0} \
         --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES`"
    )]
    NotStreaming(String),
    /// The service refuses us.
    #[error("the stream cannot be looked up: {0}")]
    Refused(CallError),
    /// No answer, or a fault of the service: to be retried.
    #[error("{0}")]
    Unavailable(CallError),
}

impl FindError {
    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable(CallError::described(None, reason.into()))
    }
}

/// The ARN of a table's latest stream (DescribeTable). A stream that was switched off stays readable for a day, so it
/// is found too.
///
/// # Errors
/// When there is no such table or it never had a stream, or the service cannot be asked.
pub async fn find_stream(clients: &Clients, table: &str) -> Result<String, FindError> {
    let answer = clients.source.describe_table().table_name(table).send().await;
    let description = match answer.map(|answer| answer.table) {
        Ok(Some(description)) => description,
        Ok(None) => return Err(FindError::unavailable("the answer describes no table")),
        Err(error) => {
            return Err(match ErrorKind::of(&error) {
                ErrorKind::NotFound => FindError::NoSuchTable(table.to_owned()),
                ErrorKind::Refused | ErrorKind::UnknownOperation => FindError::Refused(CallError::new(&error)),
                _ => FindError::Unavailable(CallError::new(&error)),
            });
        }
    };
    let arn = description.latest_stream_arn.filter(|arn| !arn.is_empty());
    arn.ok_or_else(|| FindError::NotStreaming(table.to_owned()))
}

fn described(description: Option<aws_sdk_dynamodbstreams::types::StreamDescription>) -> Result<Described, Error> {
    let description = description.ok_or_else(|| Error::Transient("the answer holds no stream description".into()))?;
    let shards = description.shards.unwrap_or_default().into_iter().filter_map(|shard| {
        let ending = shard.sequence_number_range.and_then(|range| range.ending_sequence_number);
        Some(Shard {
            id: shard.shard_id?.into(),
            parent: shard.parent_shard_id.filter(|parent| !parent.is_empty()).map(Into::into),
            closed: ending.is_some(),
            ending: ending.and_then(|ending| ending.parse().ok()),
        })
    });
    let keys = description.key_schema.unwrap_or_default().into_iter().map(|key| key.attribute_name);
    Ok(Described {
        shards: shards.collect(),
        disabled: matches!(description.stream_status, Some(StreamStatus::Disabled | StreamStatus::Disabling)),
        layout: Layout {
            view_type: description.stream_view_type.and_then(|view_type| ViewType::from_wire(view_type.as_str())),
            keys: keys.collect(),
        },
        next: description.last_evaluated_shard_id.filter(|id| !id.is_empty()).map(Into::into),
    })
}

/// The whole of a body. Each part is copied as it comes and let go, so that the connection reads the next one into the
/// same memory; the SDK's own way keeps all parts until the last one is there.
pub(super) async fn collect(body: SdkBody) -> Result<Vec<u8>, Error> {
    let mut parts = ByteStream::new(body);
    let (announced, _) = parts.size_hint();
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).min(MOST_ROOM_AHEAD));
    loop {
        match tokio::time::timeout(STILLNESS, parts.next()).await {
            Err(_) => return Err(Error::Still),
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(part))) => bytes.extend_from_slice(&part),
            Ok(Some(Err(error))) => {
                let reason = super::with_causes(&error);
                return Err(Error::Transient(format!("the answer's body broke off: {reason}")));
            }
        }
    }
}
