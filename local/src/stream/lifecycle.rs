//! A stream and the life of its shards: creation, writing, roll-over, split, trimming, the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;

use super::StreamAction;
use super::record::{Change, RecordFrame, ViewType, write_record};
use super::shard::Shard;
use crate::error::ServiceError;
use crate::limits::RateLimit;
use crate::options::LocalOptions;
use crate::table::{KeySchema, Table};
use crate::timestamp::Timestamp;

/// Longest pause between checks for records to trim.
const TRIM_STEP: Duration = Duration::from_secs(1);

/// A table's stream, enabled or disabled.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) arn: String,
    pub(crate) label: String,
    pub(crate) table: String,
    pub(crate) view: ViewType,
    pub(crate) schema: KeySchema,
    pub(crate) created: Timestamp,
    pub(crate) enabled: bool,
    /// All shards that are not trimmed away, in the order of their ids and so of their creation.
    pub(crate) shards: BTreeMap<String, Shard>,
    /// The open shards by the first place of their ranges; together they cover the ring.
    pub(crate) open: BTreeMap<u64, String>,
    /// The number that the next record or shard gets.
    pub(crate) next_sequence: u128,
    /// No roll-over or trimming is due before this time.
    pub(crate) next_event: Timestamp,
    pub(crate) descriptions: RateLimit,
}

/// The parts of the emulator that a stream uses.
pub(crate) struct StreamContext<'a> {
    pub(crate) now: Timestamp,
    pub(crate) options: &'a LocalOptions,
    pub(crate) random: &'a mut Rng,
}

impl Stream {
    /// An enabled stream with its first shards, which divide the ring evenly.
    pub(crate) fn new(
        table: &Table,
        arn: String,
        label: String,
        view: ViewType,
        context: &mut StreamContext<'_>,
    ) -> Self {
        let mut stream = Self {
            arn,
            label,
            table: table.name.clone(),
            view,
            schema: table.schema.clone(),
            created: context.now,
            enabled: true,
            shards: BTreeMap::new(),
            open: BTreeMap::new(),
            next_sequence: context.options.first_sequence_number,
            next_event: context.now,
            descriptions: RateLimit::default(),
        };
        let count = u128::from(context.options.initial_shards.max(1));
        let ring = 1_u128 << 64;
        for index in 0..count {
            let first = ring * index / count;
            let last = ring * (index + 1) / count - 1;
            stream.open_shard(None, (low_bits(first), low_bits(last)), context);
        }
        stream.plan(context);
        stream
    }

    /// Adds a shard of a snapshot.
    pub(crate) fn add_shard(&mut self, shard: Shard) {
        if shard.closed.is_none() {
            self.open.insert(shard.range.0, shard.id.clone());
        }
        self.shards.insert(shard.id.clone(), shard);
    }

    /// Writes a change of an item at this place of the ring. False if it is no change, and so no record.
    pub(crate) fn append(&mut self, ring: u64, change: &Change<'_>, context: &mut StreamContext<'_>) -> bool {
        if !self.enabled || !change.is_change() {
            return false;
        }
        let Some((_, id)) = self.open.range(..=ring).next_back() else {
            return false;
        };
        let Some(shard) = self.shards.get_mut(id) else {
            return false;
        };
        let frame = RecordFrame {
            region: &context.options.region,
            schema: &self.schema,
            view: self.view,
            sequence: self.next_sequence,
            event_id: [context.random.u64(..), context.random.u64(..)],
            created: context.now,
        };
        shard.records.push_back(write_record(&frame, change));
        self.next_sequence += 1;
        self.next_event = self.next_event.min(context.now.plus(context.options.retention));
        true
    }

    /// The first places of the open shards' ranges.
    pub(crate) fn open_ranges(&self) -> impl Iterator<Item = u64> {
        self.open.keys().copied()
    }

    /// Closes shards of age, and drops records and shards beyond retention.
    pub(crate) fn advance(&mut self, context: &mut StreamContext<'_>) {
        if context.now < self.next_event {
            return;
        }
        self.roll_over_aged(context);
        self.trim_aged(context);
        self.plan(context);
    }

    /// Whether the stream is disabled and nothing of it can be read any more.
    pub(crate) fn is_gone(&self) -> bool {
        !self.enabled && self.shards.is_empty()
    }

    /// Closes every shard for good; they stay readable for the retention time.
    pub(crate) fn disable(&mut self, context: &mut StreamContext<'_>) {
        self.enabled = false;
        for id in std::mem::take(&mut self.open).into_values() {
            if let Some(shard) = self.shards.get_mut(&id) {
                shard.close(context.now);
            }
        }
        self.plan(context);
    }

    /// Carries out an operator's change. Answers the shards it touched.
    pub(crate) fn act(
        &mut self,
        action: StreamAction,
        shard: Option<&str>,
        context: &mut StreamContext<'_>,
    ) -> Result<Vec<String>, ServiceError> {
        let targets = match (shard, action) {
            (Some(id), _) if !self.shards.contains_key(id) => {
                return Err(ServiceError::not_found(format!("Shard {id} does not exist")));
            }
            (Some(id), _) => vec![id.to_owned()],
            (None, StreamAction::Trim) => self.shards.keys().cloned().collect(),
            (None, _) => self.open.values().cloned().collect(),
        };
        for id in &targets {
            match action {
                StreamAction::Split => self.split(id, context)?,
                StreamAction::Rollover => self.roll_over(id, context)?,
                StreamAction::Trim => {
                    if let Some(shard) = self.shards.get_mut(id) {
                        shard.trim(Timestamp::from_millis(u64::MAX));
                    }
                }
            }
        }
        self.plan(context);
        Ok(targets)
    }

    fn roll_over(&mut self, id: &str, context: &mut StreamContext<'_>) -> Result<(), ServiceError> {
        let range = self.close_shard(id, context)?;
        self.open_shard(Some(id.to_owned()), range, context);
        Ok(())
    }

    fn split(&mut self, id: &str, context: &mut StreamContext<'_>) -> Result<(), ServiceError> {
        let (first, last) = self.close_shard(id, context)?;
        let middle = first + (last - first) / 2;
        self.open_shard(Some(id.to_owned()), (first, middle), context);
        self.open_shard(Some(id.to_owned()), (middle.saturating_add(1), last), context);
        Ok(())
    }

    /// Closes an open shard; answers the range that its children take over.
    fn close_shard(&mut self, id: &str, context: &StreamContext<'_>) -> Result<(u64, u64), ServiceError> {
        match self.shards.get_mut(id) {
            Some(shard) if shard.closed.is_none() => {
                shard.close(context.now);
                self.open.remove(&shard.range.0);
                Ok(shard.range)
            }
            _ => Err(ServiceError::validation(format!("Shard {id} is not open"))),
        }
    }

    fn open_shard(&mut self, parent: Option<String>, range: (u64, u64), context: &mut StreamContext<'_>) {
        let id = self.new_shard_id(context);
        let shard = Shard {
            id: id.clone(),
            parent,
            range,
            created: context.now,
            start: self.next_sequence,
            ..Shard::default()
        };
        self.next_sequence += 1;
        self.open.insert(range.0, id.clone());
        self.shards.insert(id, shard);
    }

    /// `shardId-<creation time, 20 digits>-<8 hex digits>`, as the service's ids look.
    fn new_shard_id(&self, context: &mut StreamContext<'_>) -> String {
        loop {
            let suffix = context.random.u64(..) >> 32;
            let id = format!("shardId-{:020}-{suffix:08x}", context.now.as_millis());
            if !self.shards.contains_key(&id) {
                return id;
            }
        }
    }

    fn roll_over_aged(&mut self, context: &mut StreamContext<'_>) {
        let Some(rollover) = context.options.rollover else {
            return;
        };
        let aged = |id: &&String| self.shards.get(*id).is_some_and(|shard| shard.created.plus(rollover) <= context.now);
        let aged: Vec<String> = self.open.values().filter(aged).cloned().collect();
        for id in aged {
            // The ids come from the open shards, so none of them is closed.
            let _ = self.roll_over(&id, context);
        }
    }

    fn trim_aged(&mut self, context: &StreamContext<'_>) {
        let retention_ms = duration_ms(context.options.retention);
        let horizon_ms = context.now.as_millis().saturating_sub(retention_ms);
        let horizon = Timestamp::from_millis(horizon_ms.saturating_add(1));
        let mut gone = BTreeSet::new();
        for (id, shard) in &mut self.shards {
            shard.trim(horizon);
            let closed_long_ago = shard.closed.is_some_and(|(closed, _)| closed < horizon);
            if closed_long_ago && shard.records.is_empty() {
                gone.insert(id.clone());
            }
        }
        self.shards.retain(|id, _| !gone.contains(id));
    }

    /// Finds the next time at which something is due.
    fn plan(&mut self, context: &StreamContext<'_>) {
        let retention = context.options.retention;
        let mut next = Timestamp::from_millis(u64::MAX);
        for shard in self.shards.values() {
            if let Some(oldest) = shard.records.front() {
                let step = TRIM_STEP.min(retention / 20);
                next = next.min(oldest.created.plus(retention).max(context.now.plus(step)));
            }
            match (shard.closed, context.options.rollover) {
                (Some((closed, _)), _) => next = next.min(closed.plus(retention)),
                (None, Some(rollover)) => next = next.min(shard.created.plus(rollover)),
                (None, None) => {}
            }
        }
        self.next_event = next;
    }
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The lower half of a number below 2^64.
fn low_bits(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
