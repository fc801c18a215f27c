//! Patterns beside AWS Lambda's treatment of them: what neither can deliver and this program refuses, what event-ruler
//! refuses, and what the two treat differently on purpose.

use super::*;

fn refusal(text: &str, view_type: ViewType) -> String {
    match Pattern::parse(text) {
        Ok(pattern) => pattern.check(Some(view_type)).expect_err(text).to_string(),
        Err(error) => error.to_string(),
    }
}

fn image(inside: &str) -> String {
    format!(r#"{{"dynamodb":{{"NewImage":{inside}}}}}"#)
}

fn both_images(text: &str) -> String {
    refusal(text, ViewType::NewAndOldImages)
}

#[test]
fn members_that_no_record_has_are_refused_with_the_name_that_was_meant() {
    let cases = [
        (r#"{"body":{"eventName":["INSERT"]}}"#, "body: no record has this member; there are eventID, eventName"),
        (r#"{"event_name":["INSERT"]}"#, "event_name: no record has this member; write \"eventName\""),
        (r#"{"EventName":["INSERT"]}"#, "write \"eventName\""),
        (r#"{"Records":{"eventName":["INSERT"]}}"#, "Records: no record has this member"),
        (r#"{"Dynamodb":{"Keys":{"pk":{"S":["x"]}}}}"#, "Dynamodb: no record has this member; write \"dynamodb\""),
        (
            r#"{"dynamodb":{"newImage":{"a":{"S":["x"]}}}}"#,
            "dynamodb.newImage: no record has this member; write \"NewI",
        ),
        (r#"{"dynamodb":{"eventName":["INSERT"]}}"#, "dynamodb.eventName: no record has this member; there are Keys"),
        (r#"{"Keys":{"pk":{"S":["x"]}}}"#, "Keys: no record has this member here; write {\"dynamodb\":{\"Keys\":…}}"),
        (r#"{"NewImage":{"a":{"S":["x"]}}}"#, "write {\"dynamodb\":{\"NewImage\":…}}"),
        (
            r#"{"userIdentity":{"accountId":["1"]}}"#,
            "userIdentity.accountId: no record has this member; there are type",
        ),
        (
            r#"{"dynamodb.NewImage.status.S":["paid"]}"#,
            "\"dynamodb.NewImage.status.S\": a dot does not lead into an object; write \
             {\"dynamodb\":{\"NewImage\":{\"status\":{\"S\":…}}}}",
        ),
        (r#"{"dynamodb":{"NewImage.status":{"S":["paid"]}}}"#, "dynamodb.\"NewImage.status\": a dot does not lead"),
        (r#"{"dynamodb.Keys":{"pk":{"S":["s_paid"]}}}"#, "write {\"dynamodb\":{\"Keys\":…}}"),
    ];
    for (text, expected) in cases {
        let message = both_images(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
    assert!(
        both_images(&image(r#"{"status.S":["paid"]}"#))
            .contains("dynamodb.NewImage.\"status.S\": records have an object"),
        "an attribute's dot is its own, and the message shows that"
    );
    let with_a_dot = Pattern::parse(&image(r#"{"a.b":{"S":["x"]}}"#)).unwrap();
    assert_eq!(with_a_dot.check(Some(ViewType::NewImage)), Ok(()));
    assert!(with_a_dot.matches_json(&image(r#"{"a.b":{"S":"x"}}"#)).unwrap());
}

#[test]
fn values_that_the_service_never_writes_are_refused_with_those_that_it_does() {
    let cases = [
        (r#"{"eventName":["insert"]}"#.into(), "eventName: records have one of INSERT, MODIFY, REMOVE here"),
        (r#"{"eventName":["UPDATE",{"prefix":"DEL"}]}"#.into(), "records have one of INSERT"),
        (r#"{"eventName":[{"anything-but":["insert"]}]}"#.into(), "records have one of INSERT"),
        (r#"{"eventName":[{"anything-but":["INSERT","MODIFY","REMOVE"]}]}"#.into(), "records have one of INSERT"),
        (r#"{"eventName":[{"exists":false}]}"#.into(), "eventName: each record has this member"),
        (r#"{"eventID":[{"exists":false}]}"#.into(), "eventID: each record has this member"),
        (r#"{"dynamodb":{"SequenceNumber":[{"exists":false}]}}"#.into(), "each record has this member"),
        (r#"{"eventSource":["aws:sqs"]}"#.into(), "records have \"aws:dynamodb\" here"),
        (r#"{"userIdentity":{"type":["service"]}}"#.into(), "records have \"Service\" here"),
        (r#"{"userIdentity":{"principalId":["dynamodb"]}}"#.into(), "records have \"dynamodb.amazonaws.com\" here"),
        (r#"{"dynamodb":{"StreamViewType":["NEW_IMAGES"]}}"#.into(), "records have \"NEW_AND_OLD_IMAGES\" here"),
        (r#"{"dynamodb":{"StreamViewType":["KEYS_ONLY"]}}"#.into(), "records have \"NEW_AND_OLD_IMAGES\" here"),
        (r#"{"dynamodb":{"SequenceNumber":["first"]}}"#.into(), "a string of digits"),
        (r#"{"dynamodb":{"SizeBytes":[26.0]}}"#.into(), "whole numbers"),
        (r#"{"dynamodb":{"SizeBytes":["26"]}}"#.into(), "whole numbers"),
        (r#"{"dynamodb":{"Keys":{"pk":{"SS":["x"]}}}}"#.into(), "\"SS\" is no type of a key; write S, N or B"),
        (image(r#"{"s":{"NULL":[false]}}"#), "dynamodb.NewImage.s.NULL: records have true here"),
        (image(r#"{"s":{"S":[null]}}"#), "records have strings here"),
        (image(r#"{"amount":{"N":[""]}}"#), "a number is a string in records"),
        (image(r#"{"amount":{"N":["ten"]}}"#), "a number is a string in records"),
        (image(r#"{"amount":{"N":[{"prefix":"$"}]}}"#), "a number is a string in records"),
        (image(r#"{"blob":{"B":["foobar"]}}"#), "bytes in Base64"),
    ];
    for (text, expected) in cases {
        let message = both_images(&text);
        assert!(message.contains(expected), "{text}: {message}");
    }
    for fine in [
        r#"{"eventName":["insert","INSERT"]}"#.to_owned(),
        r#"{"eventName":[{"equals-ignore-case":"insert"}]}"#.into(),
        r#"{"eventName":[{"anything-but":"INSERT"},{"exists":false}]}"#.into(),
        r#"{"userIdentity":{"type":[{"exists":false}]}}"#.into(),
        r#"{"userIdentity":{"Type":["Service"],"PrincipalId":["dynamodb.amazonaws.com"]}}"#.into(),
        r#"{"dynamodb":{"StreamViewType":[{"anything-but":"KEYS_ONLY"}]}}"#.into(),
        r#"{"dynamodb":{"SequenceNumber":[{"prefix":"442"}],"SizeBytes":[26]}}"#.into(),
        image(r#"{"a":{"N":["1","-2.5E-3",{"suffix":"0"}],"NULL":[true],"S":[""]},"b":{"B":["Zm9vYmFy"]}}"#),
    ] {
        let pattern = Pattern::parse(&fine).unwrap_or_else(|error| panic!("{fine}: {error}"));
        assert_eq!(pattern.check(Some(ViewType::NewAndOldImages)), Ok(()), "{fine}");
    }
}

#[test]
fn conditions_that_no_kind_of_change_meets_together_are_refused() {
    let old = r#""OldImage":{"a":{"S":["x"]}}"#;
    let new = r#""NewImage":{"a":{"S":["x"]}}"#;
    for text in [
        format!(r#"{{"eventName":["INSERT"],"dynamodb":{{{old}}}}}"#),
        format!(r#"{{"eventName":["REMOVE"],"dynamodb":{{{new}}}}}"#),
        r#"{"eventName":["MODIFY"],"$or":[{"eventName":["REMOVE"]},{"eventName":["INSERT"]}]}"#.into(),
        r#"{"eventName":["INSERT"],"userIdentity":{"type":["Service"]}}"#.into(),
    ] {
        let message = both_images(&text);
        assert!(message.contains("no record of an event that passes (insert,modify,remove) meets all"), "{message}");
    }
    let pattern = |text: &str| Filters::new().or(Pattern::parse(text).unwrap());
    let modified = format!(r#"{{"eventName":["MODIFY","INSERT"],"dynamodb":{{{old},{new}}}}}"#);
    assert_eq!(pattern(&modified).check(Some(ViewType::NewAndOldImages)), Ok(()));
    let not_by_the_service = r#"{"eventName":["INSERT"],"userIdentity":{"type":[{"exists":false}]}}"#;
    assert_eq!(pattern(not_by_the_service).check(None), Ok(()));
    let inserts = pattern(&modified).events("insert".parse().unwrap());
    let error = inserts.check(Some(ViewType::NewAndOldImages)).unwrap_err().to_string();
    assert!(error.contains("(insert)"), "{error}");
}

#[test]
fn keys_that_the_table_does_not_have_are_refused() {
    let layout = Layout { view_type: None, keys: vec!["pk".to_owned(), "sk".to_owned()] };
    let outcome = |text: &str| Filters::new().or(Pattern::parse(text).unwrap()).check_for(&layout);
    let of_keys = |inside: &str| outcome(&format!(r#"{{"dynamodb":{{"Keys":{inside}}}}}"#));
    assert_eq!(of_keys(r#"{"pk":{"S":["x"]},"sk":{"N":["1"]}}"#), Ok(()));
    assert_eq!(of_keys(r#"{"status":{"S":[{"exists":false}]}}"#), Ok(()));
    let error = of_keys(r#"{"status":{"S":["paid"]}}"#).unwrap_err().to_string();
    assert!(error.contains("dynamodb.Keys.status: the table's key has no such attribute: it is pk and sk"), "{error}");
    assert_eq!(outcome(&image(r#"{"status":{"S":["paid"]}}"#)), Ok(()));
}

#[test]
fn operands_that_event_ruler_refuses_are_refused() {
    let cases = [
        (r#"{"anything-but":{"prefix":""}}"#, "nothing is left"),
        (r#"{"anything-but":{"suffix":""}}"#, "nothing is left"),
        (r#"{"anything-but":{"prefix":["a",""]}}"#, "nothing is left"),
        (r#"{"anything-but":["a",1]}"#, "an array of strings or of numbers"),
        (r#"{"anything-but":[true]}"#, "\"anything-but\" wants"),
        (r#"{"numeric":["<=",42,">",0]}"#, "the lower end comes first"),
        (r#"{"numeric":["<",42,">=",0]}"#, "the lower end comes first"),
        (r#"{"numeric":[">=",5,"<=",5]}"#, "the upper end must be above the lower"),
        (r#"{"numeric":["=",5,"=",5]}"#, "stands alone"),
        (r#"{"numeric":[">",1,"<",3,"<",2]}"#, "one lower and one upper end"),
        (r#"{"wildcard":"a*"}"#, "unknown operator"),
        (r#"{"cidr":"10.0.0.0/8"}"#, "unknown operator"),
        (r#"{"exactly":"a"}"#, "unknown operator"),
    ];
    for (operand, expected) in cases {
        let text = format!(r#"{{"dynamodb":{{"SizeBytes":[{operand}]}}}}"#);
        let message = Pattern::parse(&text).expect_err(&text).to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
    let one = r#"{"$or":[{"eventName":["INSERT"]}]}"#;
    assert!(Pattern::parse(one).unwrap_err().to_string().contains("two or more objects"));
    for name in ["prefix", "exists", "numeric", "regex"] {
        let fields = [name, "status"].map(|name| format!(r#"{{"{name}":{{"S":["x"]}}}}"#));
        let text = image(&format!(r#"{{"$or":[{}]}}"#, fields.join(",")));
        let message = Pattern::parse(&text).expect_err(&text).to_string();
        assert!(message.contains("is an operator's name"), "{message}");
        assert!(Pattern::parse(&image(&fields[0])).is_ok(), "outside of $or it is an attribute's name");
    }
}

#[test]
#[cfg(feature = "cli")]
fn the_parts_that_lambda_would_treat_otherwise_are_named() {
    let cases = [
        (image(r#"{"n":{"N":[{"numeric":[">",100]},{"anything-but":"101"}]}}"#), "dynamodb.NewImage.n.N: numeric"),
        (image(r#"{"a":{"M":{"b.c":{"S":["x"]}}}}"#), "dynamodb.NewImage.a.M.\"b.c\": here the dot is part"),
        (r#"{"dynamodb":{"SizeBytes":[{"numeric":["<",6e9]}]}}"#.into(), "dynamodb.SizeBytes: Lambda's engine refuses"),
        (r#"{"dynamodb":{"SizeBytes":[{"anything-but":26.0}]}}"#.into(), "dynamodb.SizeBytes: a number equals by its"),
        (
            r#"{"dynamodb":{"ApproximateCreationDateTime":[1795574596]}}"#.into(),
            "dynamodb.ApproximateCreationDateTime: a number equals by its digits, which",
        ),
        (
            r#"{"eventName":["MODIFY"],"$or":[{"eventName":["REMOVE","MODIFY"]},{"eventID":["1"]}]}"#.into(),
            "eventName: here the conditions beside \"$or\" and in it both count",
        ),
        (
            r#"{"dynamodb":{"Keys":{"a":{"S":["x"]}}},"$or":[{"dynamodb":{"Keys":{"a":{"S":["y"]}}}},{"eventID":["1"]}]}"#
                .into(),
            "dynamodb.Keys.a.S: here the conditions",
        ),
        (image(&format!(r#"{{"a":{{"S":["{}"]}}}}"#, "x".repeat(4096))), "characters; Lambda takes 4096"),
    ];
    for (text, expected) in cases {
        let notes = Filters::new().or(Pattern::parse(&text).unwrap()).differences_from_lambda();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains(expected), "{notes:?}");
    }
    for same in [
        image(r#"{"n":{"N":["101",{"anything-but":"7"}]},"s":{"S":[{"prefix":"a"}]}}"#),
        r#"{"eventName":["INSERT"],"dynamodb":{"SizeBytes":[{"numeric":[">",0,"<",5e9]},7]}}"#.into(),
        r#"{"eventName":["MODIFY"],"$or":[{"eventID":["1"]},{"eventID":["2"]}]}"#.into(),
    ] {
        let filters = Filters::new().or(Pattern::parse(&same).unwrap());
        assert!(filters.differences_from_lambda().is_empty(), "{same}");
    }
    let six = (0..6).fold(Filters::new(), |filters, _| filters.or(Pattern::parse(r#"{"eventID":["1"]}"#).unwrap()));
    assert!(six.differences_from_lambda()[0].contains("there are 6 patterns"));
}
