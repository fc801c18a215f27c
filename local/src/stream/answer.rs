//! The answers to GetRecords, written on request or prepared ahead of it.

use bytes::Bytes;

use super::iterator::ShardIterator;
use super::lifecycle::Stream;
use super::record::append;
use super::shard::{Page, PageSize};
use crate::options::LocalOptions;
use crate::timestamp::Timestamp;

/// An answer prepared before its request.
#[derive(Clone, Debug)]
pub(crate) struct PreparedPage {
    /// The body, to be sent as it is.
    pub(crate) body: Bytes,
    pub(crate) records: u64,
    /// The position of the page behind it.
    next: Option<u128>,
}

impl Stream {
    /// Prepares the answers of all final pages: the full ones, and the last one of a closed shard.
    pub(crate) fn prepare_pages(&mut self, now: Timestamp, options: &LocalOptions) {
        let size = PageSize { records: options.page_records, bytes: options.page_bytes };
        for shard in self.shards.values_mut() {
            let mut position = match shard.prepared.last_key_value() {
                Some((_, made)) => made.next,
                None => Some(shard.horizon()),
            };
            while let Some(start) = position {
                let page = shard.page(start, &size);
                let newest = shard.records.back().map(|record| record.sequence);
                if page.next.is_some_and(|next| newest < Some(next)) {
                    break; // more may come onto this page
                }
                let iterator = page.next.map(|position| ShardIterator {
                    stream_arn: self.arn.clone(),
                    shard_id: shard.id.clone(),
                    position,
                    issued: now,
                    empty_pages: 0,
                });
                let (records, next) = (page.records.len() as u64, page.next);
                let made = PreparedPage { body: write_answer(&page, iterator.as_ref()), records, next };
                shard.prepared.insert(start, made);
                position = next;
            }
        }
    }
}

/// Writes the answer of a page with `next` as its NextShardIterator.
pub(crate) fn write_answer(page: &Page<'_>, next: Option<&ShardIterator>) -> Bytes {
    let bytes: usize = page.records.iter().map(|record| record.json.len() + 1).sum();
    let mut out = Vec::with_capacity(bytes + 512);
    out.push(b'{');
    if let Some(next) = next {
        // Neither an ARN nor base64 has anything that JSON would escape.
        append(&mut out, format_args!("\"NextShardIterator\":\"{}\",", next.encode()));
    }
    out.extend_from_slice(b"\"Records\":[");
    for (index, record) in page.records.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&record.json);
    }
    out.extend_from_slice(b"]}");
    out.into()
}
