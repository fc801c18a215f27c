//! Properties of our decoding and the SDK's that hold whatever the bytes.

use aws_sdk_dynamodbstreams::types::{self, AttributeValue};
use bytes::Bytes;
use shardkeeper::internals::model::record::{Item, Page};

use super::sdk_decoding::SdkDecoder;

/// The records in the SDK's type, and the iterator for the rest of the shard.
pub type Decoded = (Vec<types::Record>, Option<String>);

/// Decodes an answer with our decoder; `None` when it refuses the answer or one of its images.
pub fn ours(body: &[u8]) -> Option<Decoded> {
    let page = Page::decode(Bytes::copy_from_slice(body)).ok()?;
    let records: Result<Vec<_>, _> = page.records.iter().map(|record| record.to_sdk()).collect();
    Some((records.ok()?, page.next_shard_iterator))
}

/// Decodes an answer with the SDK; `None` when it refuses the answer.
pub fn the_sdks(decoder: &SdkDecoder, body: &[u8]) -> Option<Decoded> {
    let output = decoder.decode(Bytes::copy_from_slice(body))?;
    Some((output.records.unwrap_or_default(), output.next_shard_iterator))
}

/// Whatever the bytes, a page comes only out of JSON that serde_json takes, all of it can be read, and it has the
/// SDK's values.
pub fn assert_nothing_out_of_broken_json(decoder: &SdkDecoder, body: &[u8]) {
    let Ok(page) = Page::decode(Bytes::copy_from_slice(body)) else {
        return;
    };
    assert_json(body);
    assert_readable(&page);
    let Some(decoded) = ours(body) else {
        return;
    };
    match the_sdks(decoder, body) {
        Some(expected) => assert_eq!(normal(decoded), normal(expected)),
        // It does not look for escapes in binary values.
        None => assert!(body.contains(&b'\\'), "the SDK refuses {}", String::from_utf8_lossy(body)),
    }
}

/// serde_json takes `body` whole.
pub fn assert_json(body: &[u8]) {
    let value = serde_json::from_slice::<serde_json::Value>(body);
    assert!(value.is_ok(), "{:?} in {}", value.err(), String::from_utf8_lossy(body));
}

/// Asks everything of every record, so that a span that does not fit would show.
pub fn assert_readable(page: &Page) {
    for record in &page.records {
        assert!(record.json().starts_with('{') && record.json().ends_with('}'));
        assert_eq!(record.keys_json(), record.to_owned().view().keys_json());
        let keys = Item::decode(record.keys_json().unwrap_or("{}"));
        assert_eq!(keys.as_ref(), Ok(&record.keys()));
        let _ = (record.to_sdk(), record.is_ttl_delete());
    }
}

/// Without that in which we differ on purpose: the SDK knows one spelling of an identity's members, and a `NULL` that is
/// false, which the service has not.
fn normal(mut decoded: Decoded) -> Decoded {
    for record in &mut decoded.0 {
        record.user_identity = None;
        if let Some(stream_record) = &mut record.dynamodb {
            let items = [&mut stream_record.keys, &mut stream_record.new_image, &mut stream_record.old_image];
            items.into_iter().flatten().flat_map(|item| item.values_mut()).for_each(make_null_true);
        }
    }
    decoded
}

fn make_null_true(value: &mut AttributeValue) {
    match value {
        AttributeValue::Null(truth) => *truth = true,
        AttributeValue::L(values) => values.iter_mut().for_each(make_null_true),
        AttributeValue::M(values) => values.values_mut().for_each(make_null_true),
        _ => {}
    }
}
