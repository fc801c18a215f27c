//! Patterns as AWS documents them, what is refused and how, and the presets.

use bytes::Bytes;

use super::pattern::{MAX_FIELDS, MAX_PATTERN_BYTES};
use super::*;
use crate::model::record::{Page, RecordBatch};

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn matches(text: &str, json: &str) -> bool {
    pattern(text).matches_json(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// Whether a record matches whose new image is `image`.
fn matches_image(image_pattern: &str, image: &str) -> bool {
    matches(
        &format!(r#"{{"dynamodb":{{"NewImage":{image_pattern}}}}}"#),
        &format!(r#"{{"dynamodb":{{"NewImage":{image}}}}}"#),
    )
}

fn refusal(text: &str) -> String {
    Pattern::parse(text).expect_err(text).to_string()
}

fn cannot_work(text: &str, view_type: ViewType) -> String {
    let error = pattern(text).check(Some(view_type)).expect_err(text).to_string();
    let beginning = format!("the filter {text} cannot work on this stream: ");
    error.strip_prefix(&beginning).unwrap_or_else(|| panic!("{error}")).to_owned()
}

/// A page of records, each completed to be one.
fn page(records: &[&str]) -> RecordBatch {
    let body = format!(r#"{{"Records":[{}]}}"#, records.join(","));
    Page::decode(Bytes::from(body)).expect("a page").records
}

/// The record of Lambda's developer guide, "Using event filtering with a DynamoDB event source".
const CUSTOMER: &str = r#"{"eventID":"1","eventVersion":"1.0","dynamodb":{"ApproximateCreationDateTime":"1678831218.0",
    "Keys":{"CustomerName":{"S":"AnyCompany Industries"}},
    "NewImage":{"AccountManager":{"S":"Pat Candella"},"PaymentTerms":{"S":"60 days"},"CustomerName":{"S":"AnyCompany Industries"}},
    "SequenceNumber":"111","SizeBytes":26,"StreamViewType":"NEW_IMAGE"}}"#;

#[test]
fn the_examples_of_lambdas_page_on_dynamodb_match_as_it_says() {
    let by_key = r#"{ "dynamodb": { "Keys": { "CustomerName": { "S": [ "AnyCompany Industries" ] } } } }"#;
    assert!(matches(by_key, CUSTOMER));
    assert!(!matches(&by_key.replace("AnyCompany", "NoCompany"), CUSTOMER));

    let by_attribute = r#"{"dynamodb":{"NewImage":{"AccountManager":{"S":["Pat Candella","Shirley Rodriguez"]}}}}"#;
    assert!(matches(by_attribute, CUSTOMER));
    assert!(matches(by_attribute, &CUSTOMER.replace("Pat Candella", "Shirley Rodriguez")));
    assert!(!matches(by_attribute, &CUSTOMER.replace("Pat Candella", "John Doe")));

    let both =
        r#"{"dynamodb":{"NewImage":{"AccountManager":{"S":["Pat Candella"]},"PaymentTerms":{"S":["30 days"]}}}}"#;
    assert!(!matches(both, CUSTOMER));
    assert!(matches(both, &CUSTOMER.replace("60 days", "30 days")));

    let either = r#"{"$or":[{"dynamodb":{"NewImage":{"AccountManager":{"S":["Shirley Rodriguez"]}}}},
        {"dynamodb":{"NewImage":{"PaymentTerms":{"S":["60 days"]}}}}]}"#;
    assert!(matches(either, CUSTOMER));
    assert!(!matches(either, &CUSTOMER.replace("60 days", "30 days")));

    let inner =
        r#"{"dynamodb":{"NewImage":{"$or":[{"AccountManager":{"S":["X"]}},{"PaymentTerms":{"S":["60 days"]}}]}}}"#;
    assert!(matches(inner, CUSTOMER));
}

#[test]
fn exists_looks_at_leaves_only_as_lambdas_page_warns() {
    let user = r#"{"UserID":{"S":"12345"},"name":{"S":"John Doe"},"organizations":{"L":[{"S":"Sales"},{"S":"Marketing"},{"S":"Support"}]}}"#;
    let on_object = r#"{"organizations":[{"exists":true}]}"#;
    assert!(!matches_image(on_object, user));
    assert!(matches_image(r#"{"organizations":[{"exists":false}]}"#, user), "an object is no leaf, so none exists");
    assert!(matches_image(r#"{"organizations":{"L":{"S":[{"exists":true}]}}}"#, user));
    assert!(!matches_image(r#"{"organizations":{"L":{"S":[{"exists":false}]}}}"#, user));
    assert!(matches_image(r#"{"departments":{"L":{"S":[{"exists":false}]}}}"#, user));
    let whole = format!(r#"{{"dynamodb":{{"NewImage":{on_object}}}}}"#);
    assert!(
        cannot_work(&whole, ViewType::NewImage).starts_with("dynamodb.NewImage.organizations: records have an object")
    );
}

#[test]
fn the_operators_of_lambdas_table_match_as_it_says() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (r#"{"UserID":[null]}"#, &[r#"{"UserID":null}"#], &[r#"{"UserID":"null"}"#, "{}"]),
        (r#"{"LastName":[""]}"#, &[r#"{"LastName":""}"#], &[r#"{"LastName":" "}"#, r#"{"LastName":null}"#, "{}"]),
        (r#"{"Name":["Alice"]}"#, &[r#"{"Name":"Alice"}"#, r#"{"Name":"\u0041lice"}"#], &[r#"{"Name":"alice"}"#]),
        (r#"{"Name":[{"equals-ignore-case":"alICE"}]}"#, &[r#"{"Name":"AlicE"}"#], &[r#"{"Name":"Alic"}"#]),
        (
            r#"{"Location":["New York"],"Day":["Monday"]}"#,
            &[r#"{"Day":"Monday","Location":"New York"}"#],
            &[r#"{"Location":"New York"}"#, r#"{"Location":"New York","Day":"Tuesday"}"#],
        ),
        (
            r#"{"PaymentType":["Credit","Debit"]}"#,
            &[r#"{"PaymentType":"Credit"}"#, r#"{"PaymentType":"Debit"}"#],
            &[r#"{"PaymentType":"Cash"}"#],
        ),
        (
            r#"{"$or":[{"Location":["New York"]},{"Day":["Monday"]}]}"#,
            &[r#"{"Location":"New York"}"#, r#"{"Location":"x","Day":"Monday"}"#],
            &[r#"{"Location":"x","Day":"y"}"#, "{}"],
        ),
        (
            r#"{"Weather":[{"anything-but":["Raining"]}]}"#,
            &[r#"{"Weather":"Snowing"}"#, r#"{"Weather":1}"#],
            &[r#"{"Weather":"Raining"}"#, "{}"],
        ),
        (r#"{"Price":[{"numeric":["=",100]}]}"#, &[r#"{"Price":100}"#, r#"{"Price":1.0e2}"#], &[r#"{"Price":"100"}"#]),
        (
            r#"{"Price":[{"numeric":[">",10,"<=",20]}]}"#,
            &[r#"{"Price":10.5}"#, r#"{"Price":20}"#],
            &[r#"{"Price":10}"#, r#"{"Price":20.01}"#],
        ),
        (r#"{"ProductName":[{"exists":true}]}"#, &[r#"{"ProductName":null}"#], &[r#"{"ProductName":{}}"#, "{}"]),
        (r#"{"ProductName":[{"exists":false}]}"#, &["{}"], &[r#"{"ProductName":null}"#]),
        (r#"{"Region":[{"prefix":"us-"}]}"#, &[r#"{"Region":"us-east-1"}"#], &[r#"{"Region":"eu-us-"}"#]),
        (r#"{"FileName":[{"suffix":".png"}]}"#, &[r#"{"FileName":"a.png"}"#], &[r#"{"FileName":"a.png.jpg"}"#]),
    ];
    for (text, right, wrong) in cases {
        for json in *right {
            assert!(matches(text, json), "{text} on {json}");
        }
        for json in *wrong {
            assert!(!matches(text, json), "{text} on {json}");
        }
    }
}

#[test]
fn anything_but_excludes_values_beginnings_endings_and_cases() {
    let excludes = |operand: &str, value: &str| {
        !matches(&format!(r#"{{"a":[{{"anything-but":{operand}}}]}}"#), &format!(r#"{{"a":{value}}}"#))
    };
    for (operand, out, stays) in [
        (r#""x""#, r#""x""#, r#""y""#),
        ("300", "300", "300.0"),
        ("[7,300]", "300", r#""300""#),
        (r#"{"prefix":"in"}"#, r#""init""#, r#""begin""#),
        (r#"{"suffix":[".png",".jpg"]}"#, r#""a.jpg""#, r#""a.gif""#),
        (r#"{"equals-ignore-case":"INIT"}"#, r#""Init""#, r#""Inits""#),
    ] {
        assert!(excludes(operand, out), "{operand} {out}");
        assert!(!excludes(operand, stays), "{operand} {stays}");
    }
    assert!(!excludes(r#""x""#, r#"["x","y"]"#), "one element that is not excluded is enough");
    assert!(excludes(r#""x""#, r#"["x"]"#));
}

#[test]
fn numbers_equal_by_their_digits_and_compare_by_value() {
    for other in ["300.0", "3.0e2"] {
        let json = format!(r#"{{"a":{other}}}"#);
        assert!(!matches(r#"{"a":[300]}"#, &json));
        assert!(matches(r#"{"a":[{"numeric":["=",300]}]}"#, &json));
    }
    assert!(matches(r#"{"a":[300]}"#, r#"{"a":300}"#));
    let sizes = r#"{"dynamodb":{"SizeBytes":[{"numeric":[">=",100]}],"ApproximateCreationDateTime":[{"numeric":[">",1.7e9]}]}}"#;
    assert!(matches(sizes, r#"{"dynamodb":{"ApproximateCreationDateTime":1763727600,"SizeBytes":100}}"#));
    assert!(!matches(sizes, r#"{"dynamodb":{"ApproximateCreationDateTime":1763727600,"SizeBytes":99}}"#));
}

#[test]
fn number_attributes_compare_by_value_with_all_their_digits() {
    assert!(matches_image(r#"{"Id":{"N":["101"]}}"#, r#"{"Id":{"N":"101"}}"#));
    let above = r#"{"price":{"N":[{"numeric":[">",12345678901234567890123456789012345677]}]}}"#;
    assert!(matches_image(above, r#"{"price":{"N":"12345678901234567890123456789012345678"}}"#));
    assert!(!matches_image(above, r#"{"price":{"N":"12345678901234567890123456789012345677"}}"#));
    assert!(!matches_image(above, r#"{"price":{"S":"99999999999999999999999999999999999999"}}"#));
    let any_of_set = r#"{"sizes":{"NS":[{"numeric":["<",0]}]}}"#;
    assert!(matches_image(any_of_set, r#"{"sizes":{"NS":["1","-2E-3"]}}"#));
    assert!(!matches_image(any_of_set, r#"{"sizes":{"NS":["1","2"]}}"#));
}

#[test]
fn nested_maps_lists_and_sets_are_reached() {
    let image = r#"{"address":{"M":{"city":{"S":"K\u00f6ln"},"geo":{"M":{"lat":{"N":"50.9"}}}}},
        "tags":{"SS":["new","sale"]},"blobs":{"BS":["AQI=","AQM="]},"paid":{"BOOL":true},"gone":{"NULL":true},
        "lines":{"L":[{"M":{"sku":{"S":"a"},"count":{"N":"1"}}},{"M":{"sku":{"S":"b"},"count":{"N":"7"}}}]}}"#;
    for right in [
        r#"{"address":{"M":{"city":{"S":["Köln"]},"geo":{"M":{"lat":{"N":[{"numeric":[">",50,"<",51]}]}}}}}}"#,
        r#"{"tags":{"SS":["sale"]}}"#,
        r#"{"blobs":{"BS":[{"prefix":"AQM"}]}}"#,
        r#"{"paid":{"BOOL":[true]},"gone":{"NULL":[true]}}"#,
        r#"{"lines":{"L":{"M":{"sku":{"S":["b"]},"count":{"N":["7"]}}}}}"#,
    ] {
        assert!(matches_image(right, image), "{right}");
    }
    for wrong in [
        r#"{"tags":{"SS":["old"]}}"#,
        r#"{"paid":{"BOOL":[false]}}"#,
        r#"{"city":{"S":["Köln"]}}"#,
        r#"{"lines":{"L":{"M":{"sku":{"S":["a"]},"count":{"N":["7"]}}}}}"#,
    ] {
        assert!(!matches_image(wrong, image), "{wrong}");
    }
}

#[test]
fn members_of_any_name_are_reached_whatever_their_escapes() {
    assert!(matches(r#"{"a\u0062\"":["x\n"]}"#, r#"{"\u0061b\u0022":"x\u000a"}"#));
    assert!(matches(r#"{"future":{"member":[true]}}"#, r#"{"future":{"member":true}}"#));
    assert!(matches(r#"{"$or":{"x":[1]}}"#, r#"{"$or":{"x":1}}"#), "only an array after $or is one");
}

#[test]
fn the_identity_is_found_in_both_spellings() {
    let lambda = r#"{"userIdentity":{"type":["Service"],"principalId":["dynamodb.amazonaws.com"]}}"#;
    let api = r#"{"userIdentity":{"Type":["Service"],"PrincipalId":["dynamodb.amazonaws.com"]}}"#;
    for text in [lambda, api] {
        for record in [
            r#"{"userIdentity":{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service"}}"#,
            r#"{"userIdentity":{"type":"Service","principalId":"dynamodb.amazonaws.com"}}"#,
        ] {
            assert!(matches(text, record), "{text} on {record}");
        }
        assert!(!matches(text, r#"{"userIdentity":{"Type":"Service"}}"#));
    }
    assert!(!matches(r#"{"userIdentity":{"x":{"type":["a"]}}}"#, r#"{"userIdentity":{"x":{"Type":"a"}}}"#));
}

#[test]
fn the_streams_arn_is_there_although_records_lack_it() {
    let arn = "arn:aws:dynamodb:eu-west-1:1:table/Phones/stream/2026";
    let batch = page(&[r#"{"dynamodb":{"SequenceNumber":"1"}}"#]);
    let filters = |text: &str| Filters::new().or(pattern(text)).for_stream(arn);
    let passes = |text: &str| filters(text).matches(&batch.first().unwrap());
    assert!(passes(r#"{"eventSourceARN":[{"prefix":"arn:aws:dynamodb:eu-west-1:"}]}"#));
    assert!(passes(r#"{"eventSourceARN":[{"exists":true}],"dynamodb":{"SequenceNumber":["1"]}}"#));
    assert!(!passes(r#"{"eventSourceARN":[{"exists":false}]}"#));
    assert!(!passes(r#"{"eventSourceARN":["arn"]}"#));
    let error = filters(r#"{"eventSourceARN":["arn"]}"#).check(None).unwrap_err();
    assert!(error.to_string().ends_with("it names the eventSourceARN of another stream"), "{error}");
}

#[test]
fn what_is_no_pattern_is_refused_with_the_place_and_what_is_allowed() {
    let cases = [
        ("", "not JSON: truncated json at byte 0"),
        ("[]", "a pattern is an object of fields"),
        ("{}", "an object without fields says nothing"),
        (r#"{"a":["x"]"#, "not JSON: truncated json at byte 10"),
        (r#"{"a":["x"]} x"#, "not JSON: bytes after the end"),
        (r#"{"dynamodb":{"Keys":{"id":{"S":"x"}}}}"#, "dynamodb.Keys.id.S: a field takes an array"),
        (r#"{"a":{"b":[]}}"#, "a.b: an empty array matches nothing; allowed are"),
        (r#"{"a":[["x"]]}"#, "a: allowed are strings, numbers"),
        (r#"{"a":[{}]}"#, "a: allowed are strings, numbers"),
        (r#"{"a":[{"prefx":"x"}]}"#, "a: unknown operator \"prefx\"; allowed are"),
        (r#"{"a":[{"prefix":1}]}"#, "a: \"prefix\" wants a string"),
        (r#"{"a":[{"prefix":"x","suffix":"y"}]}"#, "a: \"suffix\" is a second operator"),
        (r#"{"a":[{"exists":"yes"}]}"#, "a: \"exists\" wants true or false"),
        (r#"{"a":[{"numeric":[]}]}"#, "a: \"numeric\" wants an array such as"),
        (r#"{"a":[{"numeric":["="]}]}"#, "a: \"numeric\" wants an array such as"),
        (r#"{"a":[{"numeric":["=","1"]}]}"#, "a: \"numeric\" wants an array such as"),
        (r#"{"a":[{"numeric":["!=",1]}]}"#, "a: \"numeric\": no such operator; allowed are"),
        (r#"{"a":[{"numeric":[">",1,">=",2]}]}"#, "a: \"numeric\": a range has one lower"),
        (r#"{"a":[{"numeric":["=",1,"<",2]}]}"#, "a: \"numeric\": a range has one lower"),
        (r#"{"a":[{"numeric":[">",2,"<",1]}]}"#, "a: \"numeric\": the upper end must be above"),
        (r#"{"a":[{"numeric":[">",1,"<=",1.0]}]}"#, "a: \"numeric\": the upper end must be above"),
        (r#"{"a":[{"anything-but":[]}]}"#, "a: \"anything-but\" wants"),
        (r#"{"a":[{"anything-but":[null]}]}"#, "a: \"anything-but\" wants"),
        (r#"{"a":[{"anything-but":{"numeric":["=",1]}}]}"#, "a: \"anything-but\" wants"),
        (r#"{"a":["x"],"a":["y"]}"#, "a: stands twice"),
        (r#"{"$or":[]}"#, "$or: \"$or\" takes an array of two or more objects"),
        (r#"{"$or":["x"]}"#, "$or: \"$or\" takes an array of two or more objects"),
        (r#"{"$or":[{"a":1}]}"#, "$or.a: a field takes an array"),
    ];
    for (text, expected) in cases {
        let message = refusal(text);
        assert!(message.starts_with(expected), "{text}: {message}");
    }
}

#[test]
fn patterns_are_bounded_in_length_depth_and_fields() {
    let fields = |count: usize| {
        let fields: Vec<String> = (0..count).map(|index| format!(r#"{{"f{index}":[1]}}"#)).collect();
        format!(r#"{{"$or":[{}]}}"#, fields.join(","))
    };
    assert!(matches(&fields(MAX_FIELDS), &format!(r#"{{"f{}":1}}"#, MAX_FIELDS - 1)));
    assert!(refusal(&fields(MAX_FIELDS + 1)).contains("more than 128 fields"));
    let deep = |depth: usize| format!("{}[1]{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    assert!(matches(&deep(100), &deep(100)));
    assert!(refusal(&deep(MAX_FIELDS)).contains("nested too deep"));
    assert!(refusal(&format!(r#"{{"a":["{}"]}}"#, "x".repeat(MAX_PATTERN_BYTES))).contains("at most 16384"));
}

#[test]
fn a_pattern_on_an_image_that_the_stream_lacks_is_refused() {
    let new = r#"{"dynamodb":{"NewImage":{"a":{"S":["x"]}}}}"#;
    let old = r#"{"dynamodb":{"OldImage":{"a":{"S":["x"]}}}}"#;
    let works = |text: &str, view_type| pattern(text).check(Some(view_type)).is_ok();
    let message = cannot_work(new, ViewType::KeysOnly);
    assert_eq!(message, "dynamodb.NewImage: the stream's view type is KEYS_ONLY: its records have no such image");
    assert!(cannot_work(new, ViewType::OldImage).contains("OLD_IMAGE"));
    assert!(cannot_work(old, ViewType::NewImage).contains("dynamodb.OldImage: "));
    for view_type in [ViewType::NewImage, ViewType::NewAndOldImages] {
        assert!(works(new, view_type));
    }
    for view_type in [ViewType::OldImage, ViewType::NewAndOldImages] {
        assert!(works(old, view_type));
    }
    assert!(pattern(new).check(None).is_ok());
    assert!(works(r#"{"dynamodb":{"NewImage":{"a":{"S":[{"exists":false}]}}}}"#, ViewType::KeysOnly));
    assert!(works(r#"{"dynamodb":{"NewImage":[{"exists":false}]}}"#, ViewType::KeysOnly));
    let either = format!(r#"{{"$or":[{new},{{"eventName":["REMOVE"]}}]}}"#);
    assert!(works(&either, ViewType::KeysOnly), "one alternative that can match is enough");
    assert!(!works(&format!(r#"{{"$or":[{new},{old}]}}"#), ViewType::KeysOnly));
    let filters = Filters::new().or(pattern(old)).or(pattern(new));
    assert!(filters.check(Some(ViewType::OldImage)).unwrap_err().to_string().contains("NewImage"));
}

#[test]
fn a_pattern_that_contradicts_the_layout_of_records_is_refused() {
    let of_image =
        |inside: &str| cannot_work(&format!(r#"{{"dynamodb":{{"NewImage":{inside}}}}}"#), ViewType::NewAndOldImages);
    assert!(
        of_image(r#"{"status":["paid"]}"#).starts_with("dynamodb.NewImage.status: records have an object here, by")
    );
    assert!(of_image(r#"{"status":{"s":["paid"]}}"#).contains("\"s\" is no type of an attribute value; write S, N"));
    assert!(of_image(r#"{"n":{"N":[101]}}"#).contains("write [\"100\"], or [{\"numeric\""));
    assert!(of_image(r#"{"n":{"N":[{"anything-but":[101]}]}}"#).contains("a number is a string in records"));
    assert!(of_image(r#"{"paid":{"BOOL":["true"]}}"#).contains("write [true] or [false]"));
    assert!(of_image(r#"{"l":{"L":["x"]}}"#).starts_with("dynamodb.NewImage.l.L: records have an object here"));
    assert!(of_image(r#"{"s":{"S":[{"numeric":["=",1]}]}}"#).contains("records have strings here"));
    assert!(of_image(r#"{"s":{"S":{"x":["y"]}}}"#).contains("records have a single value here"));
    assert!(
        cannot_work(r#"{"eventName":[1]}"#, ViewType::KeysOnly).starts_with("eventName: records have one of INSERT")
    );
    assert!(cannot_work(r#"{"dynamodb":["x"]}"#, ViewType::KeysOnly).contains("name its fields"));
    for fine in [
        r#"{"dynamodb":{"NewImage":{"m":{"M":{"l":{"L":{"N":["1"]}}}},"s":{"SS":["x"]},"b":{"BOOL":[true]}}}}"#,
        r#"{"dynamodb":{"NewImage":{"a":{"S":["x"],"N":[{"exists":false}]}},"Keys":{"N":{"S":["x"]}}}}"#,
        r#"{"userIdentity":{"type":["Service"]},"future":[1,{"exists":false}],"dynamodb":{"SizeBytes":[7]}}"#,
    ] {
        assert_eq!(pattern(fine).check(Some(ViewType::NewImage)), Ok(()), "{fine}");
    }
}

#[test]
fn presets_and_patterns_all_have_to_hold_and_one_pattern_is_enough() {
    let batch = page(&[
        r#"{"eventName":"INSERT","dynamodb":{"SequenceNumber":"1"}}"#,
        r#"{"eventName":"MODIFY","dynamodb":{"SequenceNumber":"2"}}"#,
        r#"{"eventName":"REMOVE","dynamodb":{"SequenceNumber":"3"}}"#,
        r#"{"eventName":"REMOVE","dynamodb":{"SequenceNumber":"4"},"userIdentity":{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service"}}"#,
        r#"{"eventName":"RESTORE","dynamodb":{"SequenceNumber":"5"}}"#,
    ]);
    let passed = |filters: Filters| -> String {
        batch
            .iter()
            .filter(|record| filters.matches(record))
            .map(|record| record.sequence_number().to_owned())
            .collect()
    };
    assert_eq!(passed(Filters::new()), "12345");
    assert!(Filters::new().pass_all());
    assert_eq!(passed(Filters::new().events("insert, REMOVE".parse().unwrap())), "134");
    assert_eq!(passed(Filters::new().skip_ttl_deletes(true)), "1235");
    let of = |number: &str| pattern(&format!(r#"{{"dynamodb":{{"SequenceNumber":["{number}"]}}}}"#));
    assert_eq!(passed(Filters::new().or(of("2")).or(of("4"))), "24");
    assert_eq!(passed(Filters::new().or(of("2")).or(of("4")).skip_ttl_deletes(true)), "2");
    assert!("insert,update".parse::<Events>().unwrap_err().to_string().contains("\"update\" is no event"));
    assert!("".parse::<Events>().is_err());
    assert_eq!("remove,insert".parse::<Events>().unwrap().to_string(), "insert,remove");
}

#[test]
fn writes_that_came_from_another_region_are_told_apart() {
    let image = |region: &str, time: &str, deleting: bool| {
        format!(
            r#"{{"a":{{"S":"x"}},"aws:rep:deleting":{{"BOOL":{deleting}}},"aws:rep:updateregion":{{"S":"{region}"}},"aws:rep:updatetime":{{"N":"{time}"}}}}"#
        )
    };
    let passes = |event: &str, images: &str| {
        let batch = page(&[&format!(
            r#"{{"eventName":"{event}","awsRegion":"eu-west-1","dynamodb":{{{images}"SequenceNumber":"1"}}}}"#
        )]);
        Filters::new().skip_replicated(true).matches(&batch.first().unwrap())
    };
    let new = |image: String| format!(r#""NewImage":{image},"#);
    let old = |image: String| format!(r#""OldImage":{image},"#);
    assert!(passes("INSERT", r#""NewImage":{"a":{"S":"x"}},"#), "a local write before it is marked");
    assert!(passes("MODIFY", &new(image("eu-west-1", "2", false))));
    assert!(!passes("INSERT", &new(image("us-east-1", "2", false))));
    let replicated = new(image("us-east-1", "2", false)) + &old(image("eu-west-1", "1", false));
    assert!(!passes("MODIFY", &replicated));
    let local_on_old_marks = new(image("us-east-1", "2", false)) + &old(image("us-east-1", "2", false));
    assert!(passes("MODIFY", &local_on_old_marks));
    assert!(passes("REMOVE", &old(image("us-east-1", "2", false))), "deleted here");
    assert!(!passes("REMOVE", &old(image("us-east-1", "3", true))));
    assert!(passes("REMOVE", ""));
    let own_mark = r#"{"aws:rep:updateregion":{"S":"us-east-1"}}"#;
    assert!(!passes("MODIFY", &format!(r#""NewImage":{own_mark},"OldImage":{own_mark},"#)));
    let error = Filters::new().skip_replicated(true).check(Some(ViewType::OldImage)).unwrap_err().to_string();
    assert!(error.starts_with("the filter skip-replicated cannot work on this stream: "), "{error}");
}
