//! The writes of a transaction, each of another item: what a projection makes of records.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;

use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, Update};

use super::lease_table::{MAX_WRITES, TransactWriteItem};
use crate::model::record::Record;

type Attributes = HashMap<String, AttributeValue>;

/// The writes of a record, and of others in the same transaction. Each is of another item; additions to one item are
/// added up.
#[derive(Debug, Default)]
pub struct Transaction {
    writes: Vec<Write>,
    /// The place of each item's write.
    items: HashMap<ItemId, usize>,
    is_ambiguous: bool,
}

/// A table's name and a key as text.
type ItemId = (String, String);

#[derive(Clone, Debug)]
enum Write {
    Any(Box<TransactWriteItem>),
    Add { table: String, key: Attributes, sums: Vec<(String, i64)> },
}

impl Transaction {
    /// Copies the record's item into `table`, which has the same key: puts its new image, or deletes it.
    ///
    /// # Errors
    /// When the record's image cannot be decoded.
    pub fn copy(&mut self, table: &str, record: &Record<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let key = record.keys().into_attributes();
        match record.new_image()? {
            Some(image) => {
                let put = Put::builder().table_name(table).set_item(Some(image.into_attributes())).build()?;
                self.add_write(table, &key, Write::Any(Box::new(TransactWriteItem::builder().put(put).build())));
            }
            None => self.delete(table, key)?,
        }
        Ok(())
    }

    /// Puts an item, whose key has these attributes.
    ///
    /// # Errors
    /// When the item lacks an attribute of its key.
    pub fn put(&mut self, table: &str, key: &[&str], item: Attributes) -> Result<(), Box<dyn Error + Send + Sync>> {
        let of_key = |name: &&str| {
            let value =
                item.get(*name).ok_or_else(|| format!("the item for {table} lacks {name:?}, a part of its key"))?;
            Ok::<_, Box<dyn Error + Send + Sync>>(((*name).to_owned(), value.clone()))
        };
        let key: Attributes = key.iter().map(of_key).collect::<Result<_, _>>()?;
        let put = Put::builder().table_name(table).set_item(Some(item)).build()?;
        self.add_write(table, &key, Write::Any(Box::new(TransactWriteItem::builder().put(put).build())));
        Ok(())
    }

    /// Deletes an item.
    ///
    /// # Errors
    /// None with a key; the SDK's builder has one.
    pub fn delete(&mut self, table: &str, key: Attributes) -> Result<(), Box<dyn Error + Send + Sync>> {
        let delete = Delete::builder().table_name(table).set_key(Some(key.clone())).build()?;
        self.add_write(table, &key, Write::Any(Box::new(TransactWriteItem::builder().delete(delete).build())));
        Ok(())
    }

    /// Adds a number to an attribute of an item, and makes what is missing of them.
    pub fn add(&mut self, table: &str, key: Attributes, attribute: &str, number: i64) {
        let sums = vec![(attribute.to_owned(), number)];
        let write = Write::Add { table: table.to_owned(), key: key.clone(), sums };
        self.add_write(table, &key, write);
    }

    /// Updates an item by an expression of one's own.
    ///
    /// # Errors
    /// When the update lacks a table, a key or an expression.
    pub fn update(
        &mut self,
        update: aws_sdk_dynamodb::types::builders::UpdateBuilder,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let update = update.build()?;
        let (table, key) = (update.table_name().to_owned(), update.key().clone());
        self.add_write(&table, &key, Write::Any(Box::new(TransactWriteItem::builder().update(update).build())));
        Ok(())
    }

    fn add_write(&mut self, table: &str, key: &Attributes, write: Write) {
        let mut parts: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        parts.sort_unstable();
        match self.items.entry((table.to_owned(), parts.join(","))) {
            Entry::Vacant(place) => {
                place.insert(self.writes.len());
                self.writes.push(write);
            }
            Entry::Occupied(place) => match (&mut self.writes[*place.get()], write) {
                (Write::Add { sums, .. }, Write::Add { sums: more, .. }) => add_up(sums, more),
                _ => self.is_ambiguous = true,
            },
        }
    }

    /// Whether an item has two writes that are not additions.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// The number of writes.
    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    /// Takes in the writes of the next record; `false`, and nothing is taken in, if they do not fit.
    pub(crate) fn extend(&mut self, next: &Self) -> bool {
        let both_add = |ours: usize, theirs: usize| {
            matches!((&self.writes[ours], &next.writes[theirs]), (Write::Add { .. }, Write::Add { .. }))
        };
        let mut new = next.items.len();
        for (item, theirs) in &next.items {
            match self.items.get(item) {
                Some(ours) if both_add(*ours, *theirs) => new -= 1,
                Some(_) => return false,
                None => {}
            }
        }
        if self.writes.len() + new > MAX_WRITES && !self.writes.is_empty() {
            return false;
        }
        for (item, theirs) in &next.items {
            let write = next.writes[*theirs].clone();
            match (self.items.get(item).map(|ours| &mut self.writes[*ours]), write) {
                (Some(Write::Add { sums, .. }), Write::Add { sums: more, .. }) => add_up(sums, more),
                (_, write) => {
                    self.items.insert(item.clone(), self.writes.len());
                    self.writes.push(write);
                }
            }
        }
        true
    }

    pub(crate) fn into_items(self) -> Result<Vec<TransactWriteItem>, Box<dyn Error + Send + Sync>> {
        self.writes.into_iter().map(Write::into_item).collect()
    }
}

fn add_up(sums: &mut Vec<(String, i64)>, more: Vec<(String, i64)>) {
    for (attribute, number) in more {
        match sums.iter_mut().find(|(known, _)| *known == attribute) {
            Some((_, sum)) => *sum += number,
            None => sums.push((attribute, number)),
        }
    }
}

impl Write {
    fn into_item(self) -> Result<TransactWriteItem, Box<dyn Error + Send + Sync>> {
        let (table, key, sums) = match self {
            Self::Any(item) => return Ok(*item),
            Self::Add { table, key, sums } => (table, key, sums),
        };
        let expression: Vec<String> = (0..sums.len()).map(|index| format!("#a{index} :n{index}")).collect();
        let mut update = Update::builder().table_name(table).set_key(Some(key));
        update = update.update_expression(format!("ADD {}", expression.join(", ")));
        for (index, (attribute, sum)) in sums.into_iter().enumerate() {
            update = update
                .expression_attribute_names(format!("#a{index}"), attribute)
                .expression_attribute_values(format!(":n{index}"), AttributeValue::N(sum.to_string()));
        }
        Ok(TransactWriteItem::builder().update(update.build()?).build())
    }
}
