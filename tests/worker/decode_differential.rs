//! Our decoding of GetRecords answers against the AWS SDK's: the same values from every answer that is whole, and
//! nothing from an answer that is not.

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use shardkeeper::internals::model::record::Page;

use crate::differential::{assert_json, assert_nothing_out_of_broken_json, assert_readable, ours, the_sdks};
use crate::json_text::{Json, Writer, object, string};
use crate::sdk_decoding::SdkDecoder;

/// A page with every feature that an answer may have.
const RICH_PAGE: &str = include_str!("../data/get_records/rich-page.json");

fn assert_same(decoder: &SdkDecoder, body: &str) {
    let expected = the_sdks(decoder, body.as_bytes()).unwrap_or_else(|| panic!("the SDK refuses {body}"));
    let page = Page::decode(Bytes::copy_from_slice(body.as_bytes()));
    assert!(page.is_ok(), "{:?} in {body}", page.err());
    assert_eq!(ours(body.as_bytes()), Some(expected), "{body}");
}

/// A page of one record whose image holds `value`.
fn page_with(value: &str) -> String {
    format!(r#"{{"Records":[{{"dynamodb":{{"SequenceNumber":"1","NewImage":{{"a":{value}}}}}}}]}}"#)
}

#[test]
fn hand_picked_answers_give_the_sdks_values() {
    let decoder = SdkDecoder::new();
    assert_same(&decoder, RICH_PAGE);
    assert_same(&decoder, r#"{"Records":[]}"#);
    assert_same(&decoder, " {\r\n\t\"Records\" : [ ] , \"NextShardIterator\" : null }\n ");
    for view_type in ["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES", "SOMETHING_NEW"] {
        let record = format!(
            r#"{{"dynamodb":{{"SequenceNumber":"1","StreamViewType":"{view_type}"}},"eventName":"{view_type}"}}"#
        );
        assert_same(&decoder, &format!(r#"{{"Records":[{record},{record}]}}"#));
    }
    for value in [
        r#"{"S":"\"\\\/\b\f\n\r\t\u0000\uD834\uDD1E\uffff"}"#,
        r#"{"\u0053":"x"}"#,
        r#"{"S":null,"N":"1","B":null}"#,
        r#"{"N":"not checked, as in the SDK"}"#,
        r#"{"B":"++//"}"#,
        r#"{"SS":[]}"#,
        r#"{"M":{"twice":{"S":"1"},"twice":{"S":"2"}}}"#,
    ] {
        assert_same(&decoder, &page_with(value));
    }
}

#[test]
fn values_nested_as_deep_as_the_service_allows_come_through() {
    let decoder = SdkDecoder::new();
    let mut lists = r#"{"S":"core"}"#.to_owned();
    let mut maps = lists.clone();
    for level in 0..32 {
        lists = format!(r#"{{"L":[{lists}]}}"#);
        maps = if level % 2 == 0 {
            format!(r#"{{"M":{{"m{level}":{maps}}}}}"#)
        } else {
            format!(r#"{{"L":[{maps},{{"NULL":true}}]}}"#)
        };
    }
    assert_same(&decoder, &page_with(&lists));
    assert_same(&decoder, &page_with(&maps));
}

#[test]
fn values_that_the_sdk_refuses_are_refused() {
    let decoder = SdkDecoder::new();
    for value in [
        r#"{}"#,
        r#"{"S":1}"#,
        r#"{"S":null}"#,
        r#"{"S":"a","N":"1"}"#,
        r#"{"B":"A"}"#,
        r#"{"B":"AA"}"#,
        r#"{"B":"AA="}"#,
        r#"{"B":"AB=="}"#,
        r#"{"B":"A-_="}"#,
        r#"{"S":"\ud800"}"#,
        r#"{"S":"\udc00\ud800"}"#,
        r#"{"BOOL":"true"}"#,
        r#"{"L":{}}"#,
        r#"{"M":[]}"#,
        "[]",
        "1",
    ] {
        let body = page_with(value);
        assert_eq!(the_sdks(&decoder, body.as_bytes()), None, "{body}");
        assert_eq!(ours(body.as_bytes()), None, "{body}");
    }
}

/// The SDK takes a binary value's text as it stands and so refuses escapes in it, which some JSON writers use for `/`
/// and `=`.
#[test]
fn binary_values_may_hold_escapes() {
    for (escaped, plain) in [(r#""\/+8\u003d""#, r#""/+8=""#), (r#""\u0041A==""#, r#""AA==""#)] {
        let of = |text: &str| ours(page_with(&format!("{{\"B\":{text}}}")).as_bytes());
        assert!(of(plain).is_some(), "{plain}");
        assert_eq!(of(escaped), of(plain), "{escaped}");
    }
}

#[test]
fn no_prefix_of_a_page_is_a_page() {
    for length in 0..RICH_PAGE.len() {
        let prefix = &RICH_PAGE.as_bytes()[..length];
        assert!(Page::decode(Bytes::copy_from_slice(prefix)).is_err(), "the first {length} bytes");
    }
}

#[test]
fn no_change_of_one_byte_makes_a_page_of_what_is_no_json() {
    let structural = *b"\"\\{}[],:0e-+.nutf \n\x00\x1f\x7f\x80\xc3\xff";
    for at in 0..RICH_PAGE.len() {
        let original = RICH_PAGE.as_bytes()[at];
        let flipped = (0..8).map(|bit| original ^ (1 << bit));
        for byte in structural.into_iter().chain(flipped) {
            let mut replaced = RICH_PAGE.as_bytes().to_vec();
            replaced[at] = byte;
            assert_no_page_of_broken_json(&replaced);
        }
        let mut shortened = RICH_PAGE.as_bytes().to_vec();
        shortened.remove(at);
        assert_no_page_of_broken_json(&shortened);
        for byte in structural {
            let mut lengthened = RICH_PAGE.as_bytes().to_vec();
            lengthened.insert(at, byte);
            assert_no_page_of_broken_json(&lengthened);
        }
    }
}

fn assert_no_page_of_broken_json(body: &[u8]) {
    if let Ok(page) = Page::decode(Bytes::copy_from_slice(body)) {
        assert_json(body);
        assert_readable(&page);
    }
}

/// Any text, with the characters that JSON treats apart in good number.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9 _:/.-]{0,24}",
        2 => vec(any::<char>(), 0..12).prop_map(String::from_iter),
        1 => vec(prop::sample::select(vec!['"', '\\', '/', '\n', '\u{0}', '\u{1f}', '\u{7f}', 'é', '😀', '\u{ffff}']), 0..12)
            .prop_map(String::from_iter),
    ]
}

fn digits() -> impl Strategy<Value = Json> {
    let digits = "-?[1-9][0-9]{0,37}(\\.[0-9]{1,10})?(E[+-]?[0-9]{1,3})?";
    digits.prop_map(Json::String)
}

/// Canonical base64 of random bytes. It stands without escapes, which the SDK does not look for in binary values.
fn base64() -> impl Strategy<Value = Json> {
    let group = "[A-Za-z0-9+/]{4}";
    let last = prop_oneof![Just(String::new()), "[A-Za-z0-9+/][AQgw]==", "[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]="];
    (vec(group, 0..8), last).prop_map(|(groups, last)| Json::Plain(groups.concat() + &last))
}

fn typed(tag: &'static str, content: Json) -> Json {
    object([(tag, content)])
}

fn attribute_value() -> impl Strategy<Value = Json> {
    let set = |element: BoxedStrategy<Json>| vec(element, 0..4).prop_map(Json::Array);
    let leaf = prop_oneof![
        text().prop_map(|value| typed("S", Json::String(value))),
        digits().prop_map(|value| typed("N", value)),
        base64().prop_map(|value| typed("B", value)),
        any::<bool>().prop_map(|value| typed("BOOL", Json::Bool(value))),
        Just(typed("NULL", Json::Bool(true))),
        set(text().prop_map(Json::String).boxed()).prop_map(|all| typed("SS", all)),
        set(digits().boxed()).prop_map(|all| typed("NS", all)),
        set(base64().boxed()).prop_map(|all| typed("BS", all)),
    ];
    leaf.prop_recursive(8, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|all| typed("L", Json::Array(all))),
            btree_map(text(), inner, 0..5).prop_map(|all| typed("M", Json::Object(all.into_iter().collect()))),
        ]
    })
}

fn item() -> impl Strategy<Value = Json> {
    btree_map(text(), attribute_value(), 0..6).prop_map(|all| Json::Object(all.into_iter().collect()))
}

fn key() -> impl Strategy<Value = Json> {
    let value = prop_oneof![
        text().prop_map(|value| typed("S", Json::String(value))),
        digits().prop_map(|value| typed("N", value)),
        base64().prop_map(|value| typed("B", value)),
    ];
    btree_map(text(), value, 1..3).prop_map(|all| Json::Object(all.into_iter().collect()))
}

/// Any JSON, for members that nobody knows.
fn foreign() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        "-?(0|[1-9][0-9]{0,12})(\\.[0-9]{1,6})?([eE][+-]?[0-9]{1,2})?".prop_map(Json::Number),
        text().prop_map(Json::String),
    ];
    leaf.prop_recursive(6, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Json::Array),
            btree_map(text(), inner, 0..4).prop_map(|all| Json::Object(all.into_iter().collect())),
        ]
    })
}

/// A member that may be absent or null.
fn member(name: &'static str, value: impl Strategy<Value = Json> + 'static) -> BoxedStrategy<Vec<(String, Json)>> {
    prop_oneof![
        1 => Just(vec![]),
        1 => Just(vec![(name.to_owned(), Json::Null)]),
        6 => value.prop_map(move |value| vec![(name.to_owned(), value)]),
    ]
    .boxed()
}

fn required(name: &'static str, value: impl Strategy<Value = Json> + 'static) -> BoxedStrategy<Vec<(String, Json)>> {
    value.prop_map(move |value| vec![(name.to_owned(), value)]).boxed()
}

fn foreign_members() -> BoxedStrategy<Vec<(String, Json)>> {
    btree_map("x[a-z]{0,5}", foreign(), 0..2).prop_map(|all| all.into_iter().collect()).boxed()
}

fn object_of(members: Vec<BoxedStrategy<Vec<(String, Json)>>>) -> impl Strategy<Value = Json> {
    members.prop_map(|parts| Json::Object(parts.concat()))
}

fn one_of(names: &[&'static str]) -> impl Strategy<Value = Json> + use<> {
    prop::sample::select(names.to_vec()).prop_map(string)
}

fn record() -> impl Strategy<Value = Json> {
    let stream_record = object_of(vec![
        member(
            "ApproximateCreationDateTime",
            one_number_of(&["1763727600", "1.7637276E9", "1763727600.123", "0", "-1.5", "1e-7"]),
        ),
        member("Keys", key()),
        member("NewImage", item()),
        member("OldImage", item()),
        required("SequenceNumber", "[0-9]{1,40}".prop_map(Json::String)),
        member("SizeBytes", (0..i64::MAX).prop_map(|size| Json::Number(size.to_string()))),
        member("StreamViewType", one_of(&["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES", "LATER"])),
        foreign_members(),
    ]);
    let identity = object_of(vec![
        member("PrincipalId", one_of(&["dynamodb.amazonaws.com", ""])),
        member("Type", one_of(&["Service", "Other"])),
        foreign_members(),
    ]);
    object_of(vec![
        member("eventID", text().prop_map(Json::String)),
        member("eventName", one_of(&["INSERT", "MODIFY", "REMOVE", "LATER", ""])),
        member("eventVersion", text().prop_map(Json::String)),
        member("eventSource", text().prop_map(Json::String)),
        member("awsRegion", text().prop_map(Json::String)),
        required("dynamodb", stream_record),
        member("userIdentity", identity),
        foreign_members(),
    ])
}

fn one_number_of(numbers: &[&'static str]) -> impl Strategy<Value = Json> + use<> {
    prop::sample::select(numbers.to_vec()).prop_map(|number| Json::Number(number.to_owned()))
}

fn page() -> impl Strategy<Value = Json> {
    object_of(vec![
        required("Records", vec(record(), 0..4).prop_map(Json::Array)),
        member(
            "NextShardIterator",
            text().prop_filter("an iterator is not empty", |text| !text.is_empty()).prop_map(Json::String),
        ),
        foreign_members(),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generated_answers_give_the_sdks_values(page in page(), style in any::<u64>()) {
        assert_same(&SdkDecoder::new(), &Writer::new(style).write(&page));
    }

    #[test]
    fn each_record_keeps_the_bytes_that_were_sent(records in vec(record(), 0..4), style in any::<u64>()) {
        let texts: Vec<String> = records.iter().map(|record| Writer::new(style).write_bare(record)).collect();
        let body = format!("{{\"Records\": [ {} ]}}", texts.join(" ,\n"));
        let page = Page::decode(Bytes::from(body)).expect("a page");
        let kept: Vec<&str> = page.records.iter().map(|record| record.json()).collect();
        prop_assert_eq!(kept, texts);
    }

    #[test]
    fn broken_answers_give_nothing_but_what_the_sdk_gives(
        page in page(),
        style in any::<u64>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..3),
    ) {
        let mut body = Writer::new(style).write(&page).into_bytes();
        for (at, byte, kind) in changes {
            let at = at.index(body.len());
            match kind {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => body.truncate(at.max(1)),
            }
        }
        assert_nothing_out_of_broken_json(&SdkDecoder::new(), &body);
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in vec(any::<u8>(), 0..64)) {
        if let Ok(page) = Page::decode(Bytes::from(body.clone())) {
            assert_json(&body);
            assert_readable(&page);
        }
    }
}
