//! Secondary indexes: their definitions, and their entries in step with the table's items.
//!
//! An entry is a key that leads to an item of the table. The projection is applied when the entry is read.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde_json::{Value, json};

use crate::error::ServiceError;
use crate::table::{ItemKey, KeyAttribute, KeySchema, PartitionKey, Table};
use crate::timestamp::Timestamp;
use crate::value::{AttributeValue, Item, item_size};

/// An index of a table.
#[derive(Clone, Debug)]
pub(crate) struct SecondaryIndex {
    pub(crate) name: String,
    pub(crate) scope: Scope,
    pub(crate) schema: KeySchema,
    pub(crate) projection: IndexProjection,
    pub(crate) throughput: (i64, i64),
    pub(crate) status: IndexStatus,
    entries: BTreeMap<PartitionKey, BTreeSet<IndexEntry>>,
    entry_count: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Global,
    Local,
}

/// The attributes of the table's items that an index has beside the keys.
#[derive(Clone, Debug)]
pub(crate) enum IndexProjection {
    All,
    KeysOnly,
    Include(Vec<String>),
}

/// The life of a global index under UpdateTable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexStatus {
    Active,
    /// Backfilled at this time.
    Creating(Timestamp),
    /// Gone at this time.
    Deleting(Timestamp),
}

/// An entry within its partition, in the order that a Query reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IndexEntry {
    pub(crate) sort: Option<AttributeValue>,
    pub(crate) base: ItemKey,
}

/// An attribute of the wrong type for an index's key, empty or too long.
pub(crate) struct UnfitKey<'i> {
    index: &'i str,
    attribute: &'i KeyAttribute,
    value: &'i AttributeValue,
    max_bytes: usize,
}

impl UnfitKey<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.attribute.name
    }

    /// The refusal of a put.
    pub(crate) fn in_put(&self) -> ServiceError {
        let Self { index, attribute, value, max_bytes } = self;
        let (key, expected, actual) = (&attribute.name, &attribute.kind, value.type_name());
        ServiceError::validation(if actual != expected {
            format!(
                "One or more parameter values were invalid: Type mismatch for Index Key {key} Expected: {expected} \
                 Actual: {actual} IndexName: {index}"
            )
        } else if let Some(empty) = value.empty_kind() {
            format!(
                "One or more parameter values are not valid. A value specified for a secondary index key is not \
                 supported. The AttributeValue for a key attribute cannot contain an empty {empty} value. IndexName: \
                 {index}, IndexKey: {key}"
            )
        } else {
            format!(
                "One or more parameter values were invalid: Size of index key attribute {key} has exceeded the maximum \
                 size limit of {max_bytes} bytes. IndexName: {index}"
            )
        })
    }

    /// The refusal of an update.
    pub(crate) fn in_update(&self) -> ServiceError {
        if self.value.type_name() != self.attribute.kind {
            return ServiceError::validation(
                "The update expression attempted to update the secondary index key to unsupported type",
            );
        }
        match self.value.empty_kind() {
            Some(empty) => ServiceError::validation(format!(
                "One or more parameter values are not valid. The update expression attempted to update a secondary \
                 index key to a value that is not supported. The AttributeValue for a key attribute cannot contain an \
                 empty {empty} value."
            )),
            None => self.in_put(),
        }
    }
}

impl SecondaryIndex {
    /// An index without entries.
    pub(crate) fn new(
        name: String,
        scope: Scope,
        schema: KeySchema,
        projection: IndexProjection,
        throughput: (i64, i64),
    ) -> Self {
        Self {
            name,
            scope,
            schema,
            projection,
            throughput,
            status: IndexStatus::Active,
            entries: BTreeMap::new(),
            entry_count: 0,
            bytes: 0,
        }
    }

    /// The end of its creation or deletion.
    pub(crate) fn next_event(&self) -> Option<Timestamp> {
        match self.status {
            IndexStatus::Active => None,
            IndexStatus::Creating(settled) | IndexStatus::Deleting(settled) => Some(settled),
        }
    }

    /// The entry of an item. An item without the index's key, or with a key of another type, has none.
    pub(crate) fn entry(&self, base: &ItemKey, item: &Item) -> Option<(PartitionKey, IndexEntry)> {
        let key = self.schema.key_of_item(item).ok()?;
        Some((key.partition, IndexEntry { sort: key.sort, base: base.clone() }))
    }

    /// Moves the entry of an item from its old content to its new one.
    pub(crate) fn replace(&mut self, table: &KeySchema, base: &ItemKey, old: Option<&Item>, new: Option<&Item>) {
        if let Some((item, (partition, entry))) = old.and_then(|item| Some((item, self.entry(base, item)?)))
            && let Some(entries) = self.entries.get_mut(&partition)
            && entries.remove(&entry)
        {
            if entries.is_empty() {
                self.entries.remove(&partition);
            }
            self.entry_count -= 1;
            self.bytes -= item_size(&self.projected(table, item)) as u64;
        }
        if let Some((item, (partition, entry))) = new.and_then(|item| Some((item, self.entry(base, item)?))) {
            self.entries.entry(partition).or_default().insert(entry);
            self.entry_count += 1;
            self.bytes += item_size(&self.projected(table, item)) as u64;
        }
    }

    /// The first attribute of an item that does not fit this index's key.
    pub(crate) fn unfit_key<'i>(&'i self, item: &'i Item) -> Option<UnfitKey<'i>> {
        let limits = [2048, 1024];
        self.schema.attributes().zip(limits).find_map(|(attribute, max_bytes)| {
            let value = item.get(&attribute.name)?;
            let fits = value.type_name() == attribute.kind && value.empty_kind().is_none() && value.size() <= max_bytes;
            (!fits).then_some(UnfitKey { index: &self.name, attribute, value, max_bytes })
        })
    }

    /// Whether the index has this attribute of the table's items.
    pub(crate) fn projects(&self, table: &KeySchema, attribute: &str) -> bool {
        match &self.projection {
            IndexProjection::All => true,
            IndexProjection::Include(names) if names.iter().any(|name| name == attribute) => true,
            _ => self.schema.attributes().chain(table.attributes()).any(|key| key.name == attribute),
        }
    }

    /// The part of an item that the index has.
    pub(crate) fn projected<'i>(&self, table: &KeySchema, item: &'i Item) -> Cow<'i, Item> {
        match self.projection {
            IndexProjection::All => Cow::Borrowed(item),
            _ => {
                let projected = item.iter().filter(|(name, _)| self.projects(table, name));
                Cow::Owned(projected.map(|(name, value)| (name.clone(), value.clone())).collect())
            }
        }
    }

    /// The attributes that name an entry: the index's key and the table's.
    pub(crate) fn key_item(&self, table: &KeySchema, item: &Item) -> Item {
        let mut key = self.schema.project(item);
        key.extend(table.project(item));
        key
    }

    /// The entry that an ExclusiveStartKey names: the index's key and the table's, and nothing else.
    pub(crate) fn start_entry(
        &self,
        table: &KeySchema,
        key: &Item,
    ) -> Result<(PartitionKey, IndexEntry), ServiceError> {
        let invalid = || ServiceError::validation("The provided starting key is invalid");
        let is_known = |name: &String| self.schema.attributes().chain(table.attributes()).any(|key| key.name == *name);
        if !key.keys().all(is_known) {
            return Err(invalid());
        }
        let base = table.key_of_item(key).map_err(|_| invalid())?;
        self.entry(&base, key).ok_or_else(invalid)
    }

    /// The entries of one partition.
    pub(crate) fn partition(&self, partition: &PartitionKey) -> Option<&BTreeSet<IndexEntry>> {
        self.entries.get(partition)
    }

    /// The items of all entries at places of the ring from `from` to `to`, both included, after `start` if one is given.
    pub(crate) fn items_after<'i>(
        &'i self,
        table: &'i Table,
        from: u64,
        to: u64,
        start: Option<&'i (PartitionKey, IndexEntry)>,
    ) -> impl Iterator<Item = &'i Item> {
        let first = start.map_or_else(|| PartitionKey::first_at(from), |(partition, _)| partition.clone());
        self.entries
            .range(first..)
            .take_while(move |(partition, _)| partition.ring <= to)
            .flat_map(move |(partition, entries)| {
                let lower = match start {
                    Some((started, entry)) if started == partition => Bound::Excluded(entry),
                    _ => Bound::Unbounded,
                };
                entries.range((lower, Bound::Unbounded))
            })
            .filter_map(|entry| table.item(&entry.base))
    }

    /// The API's description of the index.
    pub(crate) fn to_json(&self, table_arn: &str) -> Value {
        let projection = match &self.projection {
            IndexProjection::All => json!({"ProjectionType": "ALL"}),
            IndexProjection::KeysOnly => json!({"ProjectionType": "KEYS_ONLY"}),
            IndexProjection::Include(names) => json!({"ProjectionType": "INCLUDE", "NonKeyAttributes": names}),
        };
        let mut description = json!({
            "IndexName": self.name,
            "KeySchema": self.schema.to_json(),
            "Projection": projection,
            "IndexSizeBytes": self.bytes,
            "ItemCount": self.entry_count,
            "IndexArn": format!("{table_arn}/index/{}", self.name),
        });
        if self.scope == Scope::Global {
            let (read, write) = self.throughput;
            description["ProvisionedThroughput"] =
                json!({"NumberOfDecreasesToday": 0, "ReadCapacityUnits": read, "WriteCapacityUnits": write});
            description["IndexStatus"] = match self.status {
                IndexStatus::Active => "ACTIVE",
                IndexStatus::Creating(_) => "CREATING",
                IndexStatus::Deleting(_) => "DELETING",
            }
            .into();
            if let IndexStatus::Creating(_) = self.status {
                description["Backfilling"] = true.into();
            }
        }
        description
    }
}
