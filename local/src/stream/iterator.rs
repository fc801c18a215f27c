//! Shard iterators: opaque to clients, self-contained for the service.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::hash::stable_hash;
use crate::timestamp::Timestamp;

/// A reader's position in a shard, and its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardIterator {
    pub(crate) stream_arn: String,
    pub(crate) shard_id: String,
    /// The least sequence number to read.
    pub(crate) position: u128,
    pub(crate) issued: Timestamp,
    /// Empty pages that come before the records.
    pub(crate) empty_pages: u32,
}

impl ShardIterator {
    /// The text handed to clients: `<arn>|1|<base64>`, as the service's looks.
    pub(crate) fn encode(&self) -> String {
        let Self { shard_id, position, issued, empty_pages, .. } = self;
        let fields = format!("{shard_id}|{position}|{}|{empty_pages}", issued.as_millis());
        let sealed = format!("{fields}|{:x}", checksum(&self.stream_arn, &fields));
        format!("{}|1|{}", self.stream_arn, BASE64.encode(sealed))
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let (arn, opaque) = text.split_once("|1|")?;
        let sealed = String::from_utf8(BASE64.decode(opaque).ok()?).ok()?;
        let (fields, sum) = sealed.rsplit_once('|')?;
        if u64::from_str_radix(sum, 16).ok()? != checksum(arn, fields) {
            return None;
        }
        let mut fields = fields.split('|');
        let shard_id = fields.next()?.to_owned();
        let position = fields.next()?.parse().ok()?;
        let issued = Timestamp::from_millis(fields.next()?.parse().ok()?);
        let empty_pages = fields.next()?.parse().ok()?;
        Some(Self { stream_arn: arn.to_owned(), shard_id, position, issued, empty_pages })
    }
}

/// Catches iterators that were truncated or joined wrongly. It is no protection against forgery.
fn checksum(arn: &str, fields: &str) -> u64 {
    stable_hash(arn.bytes().chain(fields.bytes()))
}

#[cfg(test)]
mod tests {
    use super::{ShardIterator, Timestamp};

    #[test]
    fn an_iterator_survives_its_text_and_damage_is_noticed() {
        let iterator = ShardIterator {
            stream_arn: "arn:aws:dynamodb:us-east-1:000000000000:table/T/stream/L".to_owned(),
            shard_id: "shardId-00000001795346529434-e57dcce6".to_owned(),
            position: 100_000_000_000_000_000_001,
            issued: Timestamp::from_millis(1_795_346_529_434),
            empty_pages: 3,
        };
        let text = iterator.encode();
        assert_eq!(ShardIterator::decode(&text), Some(iterator));
        assert_eq!(ShardIterator::decode(&text[..text.len() - 4]), None);
        assert_eq!(ShardIterator::decode(&text.replace("table/T/", "table/U/")), None);
        assert_eq!(ShardIterator::decode("junk"), None);
    }
}
