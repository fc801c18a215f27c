//! Records as the AWS SDK has them, and as a user's own structs.
//!
//! The worker reads records without the SDK's types, which cost most of the time of reading them. Code for
//! those types converts a record here ([`Record::to_sdk`]); structs for the items of a table are read straight from keys
//! and images ([`Record::new_image_as`] and its siblings, with the feature `serde_dynamo`).

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodbstreams::primitives::DateTime;
use aws_sdk_dynamodbstreams::types;

use crate::model::record::{DecodeError, Item, OwnedRecord, Record, UserIdentity, Value};

impl Record<'_> {
    /// The record as the SDK's own decoding would have given it.
    ///
    /// An identity counts in both spellings of its members, though, of which the SDK knows the capital one. Fails when
    /// an image holds something that is not an attribute value.
    pub fn to_sdk(&self) -> Result<types::Record, DecodeError> {
        let record = types::Record::builder()
            .set_event_id(self.event_id().map(str::to_owned))
            .set_event_name(self.event_name_text().map(|name| (&*name).into()))
            .set_event_version(self.event_version().map(Into::into))
            .set_event_source(self.event_source().map(Into::into))
            .set_aws_region(self.aws_region().map(Into::into))
            .set_user_identity(self.user_identity().map(sdk_identity))
            .dynamodb(sdk_stream_record(self)?);
        Ok(record.build())
    }
}

impl Record<'_> {
    /// The time of the change, to the service's knowledge (`ApproximateCreationDateTime`, in whole seconds).
    pub fn created_at(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(self.created_at_secs()?).ok()?)
    }
}

impl OwnedRecord {
    /// [`Record::created_at`].
    pub fn created_at(&self) -> Option<SystemTime> {
        self.view().created_at()
    }
}

impl TryFrom<Record<'_>> for types::Record {
    type Error = DecodeError;

    fn try_from(record: Record<'_>) -> Result<Self, DecodeError> {
        record.to_sdk()
    }
}

fn sdk_stream_record(record: &Record<'_>) -> Result<types::StreamRecord, DecodeError> {
    let keys = record.keys_json().map(|_| record.keys());
    let size_bytes = record.size_bytes().and_then(|size| i64::try_from(size).ok());
    let stream_record = types::StreamRecord::builder()
        .set_approximate_creation_date_time(record.created_at_secs().map(DateTime::from_secs_f64))
        .set_keys(keys.map(into_map))
        .set_new_image(record.new_image()?.map(into_map))
        .set_old_image(record.old_image()?.map(into_map))
        .sequence_number(record.sequence_number())
        .set_size_bytes(size_bytes)
        .set_stream_view_type(record.stream_view_type().map(|view_type| (&*view_type).into()));
    Ok(stream_record.build())
}

fn sdk_identity(identity: UserIdentity<'_>) -> types::Identity {
    types::Identity::builder()
        .set_principal_id(identity.principal_id.map(Into::into))
        .set_type(identity.kind.map(Into::into))
        .build()
}

/// An item as a map of either crate's attribute values.
fn into_map<'a, V: From<Value<'a>>>(item: Item<'a>) -> HashMap<String, V> {
    item.into_iter().map(|(name, value)| (name.into_owned(), value.into())).collect()
}

fn into_all<A, B: From<A>>(values: Vec<A>) -> Vec<B> {
    values.into_iter().map(B::from).collect()
}

impl Item<'_> {
    /// The item's attributes as the SDK has them for requests to DynamoDB: to write an image to another table.
    pub fn into_attributes(self) -> HashMap<String, aws_sdk_dynamodb::types::AttributeValue> {
        into_map(self)
    }
}

/// The two services' crates have a type each for the same values.
macro_rules! from_value {
    ($($attribute_value:ty, $blob:ty;)*) => {$(
        impl From<Value<'_>> for $attribute_value {
            fn from(value: Value<'_>) -> Self {
                match value {
                    Value::S(text) => Self::S(text.into_owned()),
                    Value::N(digits) => Self::N(digits.into_owned()),
                    Value::B(bytes) => Self::B(<$blob>::new(bytes)),
                    Value::Bool(truth) => Self::Bool(truth),
                    Value::Null => Self::Null(true),
                    Value::L(values) => Self::L(into_all(values)),
                    Value::M(item) => Self::M(into_map(item)),
                    Value::Ss(texts) => Self::Ss(into_all(texts)),
                    Value::Ns(numbers) => Self::Ns(into_all(numbers)),
                    Value::Bs(byte_strings) => Self::Bs(byte_strings.into_iter().map(<$blob>::new).collect()),
                }
            }
        }
    )*};
}

from_value! {
    aws_sdk_dynamodb::types::AttributeValue, aws_sdk_dynamodb::primitives::Blob;
    aws_sdk_dynamodbstreams::types::AttributeValue, aws_sdk_dynamodbstreams::primitives::Blob;
}

#[cfg(feature = "serde_dynamo")]
pub use structs::DeserializeError;

#[cfg(feature = "serde_dynamo")]
mod structs {
    //! Keys and images as a user's own structs.

    use std::collections::HashMap;

    use serde::de::DeserializeOwned;

    use super::{into_all, into_map};
    use crate::model::record::{DecodeError, Item, OwnedRecord, Record, Value};

    /// Why keys or an image did not become the struct that was asked for.
    #[derive(Debug, thiserror::Error)]
    #[non_exhaustive]
    pub enum DeserializeError {
        /// The record holds something that is not an attribute value.
        #[error(transparent)]
        Decode(#[from] DecodeError),
        /// The item does not fit the struct.
        #[error("item does not fit the struct: {0}")]
        Mismatch(#[from] serde_dynamo::Error),
    }

    impl Record<'_> {
        /// The item's primary key as a `T`.
        pub fn keys_as<T: DeserializeOwned>(&self) -> Result<T, DeserializeError> {
            item_as(self.keys())
        }

        /// The item after the change as a `T`, if the record carries it.
        pub fn new_image_as<T: DeserializeOwned>(&self) -> Result<Option<T>, DeserializeError> {
            self.new_image()?.map(item_as).transpose()
        }

        /// The item before the change as a `T`, if the record carries it.
        pub fn old_image_as<T: DeserializeOwned>(&self) -> Result<Option<T>, DeserializeError> {
            self.old_image()?.map(item_as).transpose()
        }
    }

    impl OwnedRecord {
        /// [`Record::keys_as`].
        pub fn keys_as<T: DeserializeOwned>(&self) -> Result<T, DeserializeError> {
            self.view().keys_as()
        }

        /// [`Record::new_image_as`].
        pub fn new_image_as<T: DeserializeOwned>(&self) -> Result<Option<T>, DeserializeError> {
            self.view().new_image_as()
        }

        /// [`Record::old_image_as`].
        pub fn old_image_as<T: DeserializeOwned>(&self) -> Result<Option<T>, DeserializeError> {
            self.view().old_image_as()
        }
    }

    fn item_as<T: DeserializeOwned>(item: Item<'_>) -> Result<T, DeserializeError> {
        let attributes: HashMap<String, serde_dynamo::AttributeValue> = into_map(item);
        Ok(serde_dynamo::from_item(attributes)?)
    }

    impl From<Value<'_>> for serde_dynamo::AttributeValue {
        fn from(value: Value<'_>) -> Self {
            match value {
                Value::S(text) => Self::S(text.into_owned()),
                Value::N(digits) => Self::N(digits.into_owned()),
                Value::B(bytes) => Self::B(bytes),
                Value::Bool(truth) => Self::Bool(truth),
                Value::Null => Self::Null(true),
                Value::L(values) => Self::L(into_all(values)),
                Value::M(item) => Self::M(into_map(item)),
                Value::Ss(texts) => Self::Ss(into_all(texts)),
                Value::Ns(numbers) => Self::Ns(into_all(numbers)),
                Value::Bs(byte_strings) => Self::Bs(byte_strings),
            }
        }
    }
}

#[cfg(all(test, feature = "serde_dynamo"))]
mod tests {
    use bytes::Bytes;
    use serde::Deserialize;

    use super::DeserializeError;
    use crate::model::record::{Page, RecordBatch};

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "PascalCase")]
    struct Phone {
        company: String,
        model: String,
        #[serde(default)]
        size: Option<u32>,
        #[serde(default)]
        colors: Vec<String>,
    }

    fn phones() -> RecordBatch {
        let body = r#"{"Records":[{"dynamodb":{"SequenceNumber":"1","Keys":{"Company":{"S":"Nokia"},"Model":{"S":"3310"}},
            "NewImage":{"Company":{"S":"Nokia"},"Model":{"S":"33\u00310"},"Size":{"N":"5"},"Colors":{"SS":["blue","red"]}},
            "OldImage":{"Company":{"N":"1"}}}}]}"#;
        Page::decode(Bytes::from(body)).expect("a page").records
    }

    #[test]
    fn keys_and_images_become_structs() {
        let batch = phones();
        let record = batch.first().expect("a record");
        let key: Phone = record.keys_as().expect("a key");
        assert_eq!((key.company.as_str(), key.model.as_str(), key.size), ("Nokia", "3310", None));
        let phone: Phone = record.new_image_as().expect("an item").expect("an image");
        let expected = Phone {
            company: "Nokia".into(),
            model: "3310".into(),
            size: Some(5),
            colors: vec!["blue".into(), "red".into()],
        };
        assert_eq!(phone, expected);
    }

    #[test]
    fn an_image_that_does_not_fit_is_an_error() {
        let batch = phones();
        let record = batch.first().expect("a record");
        assert!(matches!(record.old_image_as::<Phone>(), Err(DeserializeError::Mismatch(_))));
    }
}
