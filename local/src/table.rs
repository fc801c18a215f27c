//! A table: its key schema and its items.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::error::ServiceError;
use crate::hash::stable_hash;
use crate::index::{SecondaryIndex, UnfitKey};
use crate::tags::Tags;
use crate::timestamp::Timestamp;
use crate::value::{AttributeValue, Item, item_size};

/// The most bytes that an item may have ("Limits": 400 KB).
const MAX_ITEM_BYTES: usize = 400 * 1024;

/// One attribute of a table's key.
#[derive(Clone, Debug)]
pub(crate) struct KeyAttribute {
    pub(crate) name: String,
    /// `S`, `N` or `B`.
    pub(crate) kind: String,
}

/// The key attributes of a table.
#[derive(Clone, Debug)]
pub(crate) struct KeySchema {
    pub(crate) hash: KeyAttribute,
    pub(crate) range: Option<KeyAttribute>,
}

/// A partition key with its place on the ring that shards and segments divide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionKey {
    pub(crate) ring: u64,
    pub(crate) value: AttributeValue,
}

/// An item's place in its table: the partition, and the sort key where the schema has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ItemKey {
    pub(crate) partition: PartitionKey,
    pub(crate) sort: Option<AttributeValue>,
}

/// The expiry of items: see UpdateTimeToLive.
#[derive(Clone, Debug)]
pub(crate) struct TimeToLive {
    /// The attribute that holds the time, in seconds since the epoch.
    pub(crate) attribute: String,
    /// The items that have such a time, soonest first.
    pub(crate) expiries: BTreeSet<(u64, ItemKey)>,
}

/// A table and all its items.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) schema: KeySchema,
    pub(crate) created: Timestamp,
    /// Whether tables are billed by request; else `throughput` holds read and write units.
    pub(crate) on_demand: bool,
    pub(crate) throughput: (i64, i64),
    pub(crate) deletion_protection: bool,
    /// The newest stream's ARN, enabled or not.
    pub(crate) latest_stream: Option<String>,
    pub(crate) stream_enabled: bool,
    pub(crate) ttl: Option<TimeToLive>,
    pub(crate) indexes: Vec<SecondaryIndex>,
    pub(crate) tags: Tags,
    /// Items by place on the ring, then by sort key.
    items: BTreeMap<PartitionKey, BTreeMap<Option<AttributeValue>, Item>>,
    item_count: u64,
    bytes: u64,
}

impl KeySchema {
    /// The key attributes, hash first.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.hash).chain(&self.range)
    }

    /// The names of the key attributes, hash first.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.attributes().map(|attribute| attribute.name.as_str()).collect()
    }

    /// The `KeySchema` member of descriptions.
    pub(crate) fn to_json(&self) -> Value {
        let mut elements = vec![json!({"AttributeName": self.hash.name, "KeyType": "HASH"})];
        if let Some(range) = &self.range {
            elements.push(json!({"AttributeName": range.name, "KeyType": "RANGE"}));
        }
        Value::Array(elements)
    }

    /// The key of a request that must consist of the key attributes and nothing else.
    pub(crate) fn key_of_request(&self, key: &Item) -> Result<ItemKey, ServiceError> {
        let wanted = self.attributes().count();
        let fits = key.len() == wanted
            && self
                .attributes()
                .all(|attribute| key.get(&attribute.name).is_some_and(|value| value.type_name() == attribute.kind));
        if !fits {
            return Err(ServiceError::validation("The provided key element does not match the schema"));
        }
        self.key_of_item(key)
    }

    /// The key within a whole item.
    pub(crate) fn key_of_item(&self, item: &Item) -> Result<ItemKey, ServiceError> {
        let hash = key_value(&self.hash, item, 2048)?;
        let sort = match &self.range {
            Some(range) => Some(key_value(range, item, 1024)?),
            None => None,
        };
        Ok(ItemKey { partition: PartitionKey::new(hash), sort })
    }

    /// The key's attributes out of an item, as `Keys` of a stream record has them.
    pub(crate) fn project(&self, item: &Item) -> Item {
        self.attributes()
            .filter_map(|attribute| Some((attribute.name.clone(), item.get(&attribute.name)?.clone())))
            .collect()
    }

    /// An item with nothing but this key.
    pub(crate) fn item_of_key(&self, key: &ItemKey) -> Item {
        let hash = (self.hash.name.clone(), key.partition.value.clone());
        let range = self
            .range
            .as_ref()
            .zip(key.sort.as_ref())
            .map(|(attribute, value)| (attribute.name.clone(), value.clone()));
        std::iter::once(hash).chain(range).collect()
    }
}

/// A key attribute's value, of the right type, neither empty nor too long.
fn key_value(attribute: &KeyAttribute, item: &Item, max_bytes: usize) -> Result<AttributeValue, ServiceError> {
    let name = &attribute.name;
    let Some(value) = item.get(name) else {
        return Err(ServiceError::validation(format!(
            "One or more parameter values were invalid: Missing the key {name} in the item"
        )));
    };
    if value.type_name() != attribute.kind {
        return Err(ServiceError::validation(format!(
            "One or more parameter values were invalid: Type mismatch for key {name} expected: {} actual: {}",
            attribute.kind,
            value.type_name()
        )));
    }
    if let Some(empty) = value.empty_kind() {
        return Err(ServiceError::validation(format!(
            "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an \
             empty {empty} value. Key: {name}"
        )));
    }
    if value.size() > max_bytes {
        return Err(ServiceError::validation(format!(
            "One or more parameter values were invalid: Size of key attribute {name} has exceeded the maximum size \
             limit of {max_bytes} bytes"
        )));
    }
    Ok(value.clone())
}

impl PartitionKey {
    /// The least key at a place of the ring: no value sorts before the empty string.
    pub(crate) fn first_at(ring: u64) -> Self {
        Self { ring, value: AttributeValue::S(String::new()) }
    }

    /// The key of this value, at the place that its canonical form hashes to (FNV-1a, then mixed).
    pub(crate) fn new(value: AttributeValue) -> Self {
        let ring = match &value {
            AttributeValue::S(text) => ring_of(b'S', text.as_bytes()),
            AttributeValue::B(bytes) => ring_of(b'B', bytes),
            number => {
                let mut canonical = Vec::new();
                number.write_json(&mut canonical);
                ring_of(b'N', &canonical)
            }
        };
        Self { ring, value }
    }
}

fn ring_of(kind: u8, bytes: &[u8]) -> u64 {
    stable_hash(std::iter::once(kind).chain(bytes.iter().copied()))
}

/// The settings of a new table.
pub(crate) struct TableSettings {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) schema: KeySchema,
    pub(crate) created: Timestamp,
    pub(crate) on_demand: bool,
    pub(crate) throughput: (i64, i64),
    pub(crate) deletion_protection: bool,
    pub(crate) indexes: Vec<SecondaryIndex>,
    pub(crate) tags: Tags,
}

impl Table {
    /// A table without items and stream.
    pub(crate) fn new(settings: TableSettings) -> Self {
        Self {
            name: settings.name,
            id: settings.id,
            schema: settings.schema,
            created: settings.created,
            on_demand: settings.on_demand,
            throughput: settings.throughput,
            deletion_protection: settings.deletion_protection,
            latest_stream: None,
            stream_enabled: false,
            ttl: None,
            indexes: settings.indexes,
            tags: settings.tags,
            items: BTreeMap::new(),
            item_count: 0,
            bytes: 0,
        }
    }

    pub(crate) fn item_count(&self) -> u64 {
        self.item_count
    }

    /// The items' bytes by the service's own measure.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn item(&self, key: &ItemKey) -> Option<&Item> {
        self.items.get(&key.partition)?.get(&key.sort)
    }

    /// The items of one partition, by sort key.
    pub(crate) fn partition(&self, key: &PartitionKey) -> Option<&BTreeMap<Option<AttributeValue>, Item>> {
        self.items.get(key)
    }

    /// All items with a place on the ring from `from` to `to`, both included, after `start` if one is given.
    pub(crate) fn items_after<'a>(
        &'a self,
        from: u64,
        to: u64,
        start: Option<&'a ItemKey>,
    ) -> impl Iterator<Item = &'a Item> {
        let first = match start {
            Some(key) => key.partition.clone(),
            None => PartitionKey::first_at(from),
        };
        self.items
            .range(first..)
            .take_while(move |(partition, _)| partition.ring <= to)
            .flat_map(move |(partition, items)| {
                let lower = match start {
                    Some(key) if key.partition == *partition => std::ops::Bound::Excluded(&key.sort),
                    _ => std::ops::Bound::Unbounded,
                };
                items.range::<Option<AttributeValue>, _>((lower, std::ops::Bound::Unbounded))
            })
            .map(|(_, item)| item)
    }

    /// Replaces the key's item by `new`. Answers the old one.
    pub(crate) fn replace(&mut self, key: &ItemKey, new: Option<Item>) -> Option<Item> {
        self.count_expiry(key, new.as_ref());
        let mut indexes = std::mem::take(&mut self.indexes);
        for index in &mut indexes {
            index.replace(&self.schema, key, self.item(key), new.as_ref());
        }
        self.indexes = indexes;
        let new_bytes = new.as_ref().map_or(0, item_size) as u64;
        let added = u64::from(new.is_some());
        let old = match new {
            Some(item) => match self.items.get_mut(&key.partition) {
                Some(partition) => partition.insert(key.sort.clone(), item),
                None => {
                    let partition = BTreeMap::from([(key.sort.clone(), item)]);
                    self.items.insert(key.partition.clone(), partition);
                    None
                }
            },
            None => self.take(key),
        };
        let old_bytes = old.as_ref().map_or(0, item_size) as u64;
        self.item_count = self.item_count + added - u64::from(old.is_some());
        self.bytes = self.bytes + new_bytes - old_bytes;
        old
    }

    pub(crate) fn index(&self, name: &str) -> Option<&SecondaryIndex> {
        self.indexes.iter().find(|index| index.name == name)
    }

    /// Adds an index with the entries of all items.
    pub(crate) fn add_index(&mut self, mut index: SecondaryIndex) {
        for (partition, items) in &self.items {
            for (sort, item) in items {
                let key = ItemKey { partition: partition.clone(), sort: sort.clone() };
                index.replace(&self.schema, &key, None, Some(item));
            }
        }
        self.indexes.push(index);
    }

    /// The first attribute of an item that does not fit the key of an index.
    pub(crate) fn unfit_index_key<'a>(&'a self, item: &'a Item) -> Option<UnfitKey<'a>> {
        self.indexes.iter().find_map(|index| index.unfit_key(item))
    }

    /// Enables expiry by `attribute`.
    pub(crate) fn enable_ttl(&mut self, attribute: &str) {
        let mut expiries = BTreeSet::new();
        for (partition, items) in &self.items {
            for (sort, item) in items {
                if let Some(second) = expiry_second(item, attribute) {
                    let key = ItemKey { partition: partition.clone(), sort: sort.clone() };
                    expiries.insert((second, key));
                }
            }
        }
        self.ttl = Some(TimeToLive { attribute: attribute.to_owned(), expiries });
    }

    fn take(&mut self, key: &ItemKey) -> Option<Item> {
        let partition = self.items.get_mut(&key.partition)?;
        let old = partition.remove(&key.sort);
        if partition.is_empty() {
            self.items.remove(&key.partition);
        }
        old
    }

    /// Keeps the index of expiry times in step with a coming replacement.
    fn count_expiry(&mut self, key: &ItemKey, new: Option<&Item>) {
        let Some(mut ttl) = self.ttl.take() else {
            return;
        };
        if let Some(second) = self.item(key).and_then(|old| expiry_second(old, &ttl.attribute)) {
            ttl.expiries.remove(&(second, key.clone()));
        }
        if let Some(second) = new.and_then(|item| expiry_second(item, &ttl.attribute)) {
            ttl.expiries.insert((second, key.clone()));
        }
        self.ttl = Some(ttl);
    }
}

/// The second after which an item expires, if its attribute is a number at all.
fn expiry_second(item: &Item, attribute: &str) -> Option<u64> {
    match item.get(attribute) {
        Some(AttributeValue::N(number)) => {
            let text = number.to_string();
            let whole = text.split('.').next().unwrap_or(&text);
            whole.parse().ok()
        }
        _ => None,
    }
}

/// Refuses an item above the service's limit; `message` is the operation's wording.
pub(crate) fn check_item_size(item: &Item, message: &str) -> Result<(), ServiceError> {
    if item_size(item) > MAX_ITEM_BYTES {
        return Err(ServiceError::validation(message));
    }
    Ok(())
}
