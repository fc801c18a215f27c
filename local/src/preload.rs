//! Filling a stream with records faster than requests would, for load tests.

use std::collections::BTreeMap;

use crate::emulator::Emulator;
use crate::error::ServiceError;
use crate::number::Number;
use crate::stream::lifecycle::{Stream, StreamContext};
use crate::stream::record::{Change, WriteSource};
use crate::table::{KeyAttribute, KeySchema, PartitionKey};
use crate::timestamp::Timestamp;
use crate::value::{AttributeValue, Item};

/// Candidates for keys that are tried for each one wanted, or for each shard; a fair hash needs far fewer.
const TRIES_PER_KEY: u64 = 10_000;
/// Beyond this, an item's texts are spread no further.
const MOST_ATTRIBUTES: usize = 1000;

/// Records to write to every open shard of a table's stream, as if its items had changed that often.
///
/// The records are like any other: their keys belong to the shard, their sequence numbers go up, and their images
/// tell a key's history in the attribute `v` (a number that grows by one) beside texts that fill them up.
/// The table has no such items. [`LocalService::change_shards`](crate::LocalService::change_shards) between two
/// preloads gives a stream generations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preload {
    /// Records for each open shard.
    pub records_per_shard: u64,
    /// Keys that take turns in each shard, at least 1.
    pub keys_per_shard: u64,
    /// Total length of the texts in each image.
    pub value_bytes: usize,
    /// Attributes that share that length, at least 1: `pad`, `pad2`, `pad3` and so on.
    pub value_attributes: usize,
    /// The first `v` of each key: 0 for the first time, and then where the last one ended.
    pub first_version: u64,
    /// Whether the answers to GetRecords are prepared now, up to the last full page of each shard. Serving them costs
    /// next to nothing, so that a load test measures its reader. The iterators in them age from now on.
    pub pages_ahead: bool,
}

impl Emulator {
    /// Writes these records at the time `now`. Answers how many.
    ///
    /// # Errors
    /// No such table, or its stream is not enabled; more keys wanted than can be found for each shard.
    pub fn preload(&mut self, now: Timestamp, table: &str, preload: &Preload) -> Result<u64, ServiceError> {
        self.tick(now);
        let described = self.table_for_control(table)?;
        let enabled = described.latest_stream.clone().filter(|_| described.stream_enabled);
        let Some(stream) = enabled.and_then(|arn| self.streams.get_mut(&arn)) else {
            let message = format!("Table {table} has no enabled stream");
            return Err(ServiceError::validation(message));
        };
        let keys = find_keys(stream, preload.keys_per_shard.max(1))?;
        let pads = pads(preload);
        let mut written = 0;
        for index in 0..preload.records_per_shard {
            let round = index / preload.keys_per_shard.max(1);
            let turn = index % preload.keys_per_shard.max(1);
            let version = preload.first_version + round;
            for keys in keys.values() {
                let Some((ring, key)) = usize::try_from(turn).ok().and_then(|turn| keys.get(turn)) else {
                    continue;
                };
                let new = image(key, version, &pads);
                let old = version.checked_sub(1).map(|before| image(key, before, &pads));
                let change = Change { old: old.as_ref(), new: Some(&new), source: WriteSource::Request };
                let mut context = StreamContext { now, options: &self.options, random: &mut self.random };
                written += u64::from(stream.append(*ring, &change, &mut context));
            }
        }
        if preload.pages_ahead {
            stream.prepare_pages(now, &self.options);
        }
        self.stats.records_written += written;
        self.plan();
        Ok(written)
    }
}

/// For each open shard, by the beginning of its range, that many keys with their places on the ring.
fn find_keys(stream: &Stream, wanted: u64) -> Result<BTreeMap<u64, Vec<(u64, Item)>>, ServiceError> {
    let mut found: BTreeMap<u64, Vec<(u64, Item)>> = stream.open_ranges().map(|first| (first, Vec::new())).collect();
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let mut missing = found.len();
    let most = TRIES_PER_KEY.saturating_mul(wanted.max(found.len()) as u64);
    for candidate in 0..most {
        if missing == 0 {
            return Ok(found);
        }
        let key = key_item(&stream.schema, candidate);
        let Some(hash) = key.get(&stream.schema.hash.name) else {
            break;
        };
        let ring = PartitionKey::new(hash.clone()).ring;
        let Some((_, keys)) = found.range_mut(..=ring).next_back() else {
            continue;
        };
        if keys.len() < wanted {
            keys.push((ring, key));
            missing -= usize::from(keys.len() == wanted);
        }
    }
    if missing == 0 {
        return Ok(found);
    }
    Err(ServiceError::validation("Too many shards to find keys for each"))
}

fn key_item(schema: &KeySchema, candidate: u64) -> Item {
    let value = |attribute: &KeyAttribute| match attribute.kind.as_str() {
        "N" => AttributeValue::N(Number::from(candidate)),
        "B" => AttributeValue::B(candidate.to_be_bytes().to_vec()),
        _ => AttributeValue::S(format!("key-{candidate:08}")),
    };
    schema.attributes().map(|attribute| (attribute.name.clone(), value(attribute))).collect()
}

/// The texts that fill an image up.
fn pads(preload: &Preload) -> Item {
    let count = preload.value_attributes.clamp(1, MOST_ATTRIBUTES);
    let (each, rest) = (preload.value_bytes / count, preload.value_bytes % count);
    let pad = |index: usize| {
        let name = if index == 0 { "pad".to_owned() } else { format!("pad{}", index + 1) };
        (name, AttributeValue::S("x".repeat(each + usize::from(index < rest))))
    };
    (0..count).map(pad).collect()
}

fn image(key: &Item, version: u64, pads: &Item) -> Item {
    let mut image = key.clone();
    image.extend(pads.iter().map(|(name, pad)| (name.clone(), pad.clone())));
    image.insert("v".to_owned(), AttributeValue::N(Number::from(version)));
    image
}
