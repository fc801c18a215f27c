//! The SDK's way and the template's, held to the same requests, answers and errors: a new stream's first call goes the
//! one way, its second the other.

use std::time::UNIX_EPOCH;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, future};

use super::*;
use crate::aws::scripted::{Answer, Service, keys};
use crate::aws::stream::Stream;

fn page() -> Answer {
    Answer::ok(r#"{"Records":[],"NextShardIterator":"next"}"#)
}

fn stream(
    service: &Service,
    answers: impl IntoIterator<Item = Answer>,
    credentials: impl ProvideCredentials + 'static,
) -> Stream {
    Stream::new(service.clients(answers, credentials).streams, "arn")
}

#[tokio::test]
async fn both_ways_send_the_same_request() {
    for limit in [1000, 7] {
        let service = Service::default();
        let stream = stream(&service, [page(), page()], keys());
        for _ in 0..2 {
            stream.records("iterator \"1\"", limit).await.unwrap();
        }
        let ((uri, mut of_sdk, body), (our_uri, mut ours, our_body)) = (service.request(0), service.request(1));
        assert_eq!((our_uri, our_body), (uri, body));
        assert_eq!(ours["x-amz-security-token"], "token");
        assert!(ours["authorization"].contains("/eu-west-1/dynamodb/aws4_request, SignedHeaders="));
        for headers in [&mut of_sdk, &mut ours] {
            for of_one_call in ["amz-sdk-invocation-id", "x-amz-date"] {
                assert!(headers.remove(of_one_call).is_some(), "{of_one_call}");
            }
            let signature = headers.remove("authorization").unwrap();
            headers.insert("authorization".into(), signature.split("Signature=").next().unwrap().to_owned());
        }
        assert_eq!(ours, of_sdk);
    }
}

#[tokio::test]
async fn both_ways_give_the_same_answer() {
    const JSON: &[(&str, &str)] = &[("content-type", "application/x-amz-json-1.0")];
    let refused = |body| Answer::Response { status: 400, headers: JSON, body };
    let answers = [
        page(),
        Answer::Response { status: 200, headers: &[], body: "{\"Records\":[" },
        Answer::Response { status: 200, headers: &[], body: "" },
        refused(r#"{"__type":"com.amazonaws.dynamodb.v20120810#ExpiredIteratorException","message":"old"}"#),
        refused(r#"{"__type":"com.amazonaws.dynamodb.v20120810#TrimmedDataAccessException","message":"gone"}"#),
        refused(r#"{"__type":"com.amazonaws.dynamodb.v20120810#ResourceNotFoundException","Message":"none"}"#),
        refused(r#"{"__type":"com.amazonaws.dynamodb.v20120810#LimitExceededException","message":"slow"}"#),
        refused(r#"{"__type":"com.amazon.coral.availability#ThrottlingException"}"#),
        refused(r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"no"}"#),
        refused(r#"{"__type":"com.amazon.coral.service#UnrecognizedClientException","message":"who"}"#),
        refused(r#"{"__type":"Unheard","message":"of"}"#),
        Answer::Response {
            status: 400,
            headers: &[("x-amzn-errortype", "ExpiredIteratorException:http://internal/")],
            body: r#"{"message":"named by a header"}"#,
        },
        Answer::Response { status: 500, headers: JSON, body: r#"{"__type":"InternalServerError","message":"sorry"}"# },
        Answer::ConnectionRefused,
    ];
    for answer in answers {
        let service = Service::default();
        let stream = stream(&service, [answer.clone(), answer.clone()], keys());
        let [first, second] = [stream.records("i", 1000).await, stream.records("i", 1000).await]
            .map(|answer| answer.map(|page| (page.records.len(), page.next_shard_iterator)));
        assert_eq!(first, second, "{answer:?}");
    }
}

#[tokio::test]
async fn answers_that_are_no_json_are_passing_faults_both_ways() {
    let answer = Answer::Response { status: 503, headers: &[], body: "<html>busy</html>" };
    let service = Service::default();
    let stream = stream(&service, [answer.clone(), answer], keys());
    for _ in 0..2 {
        assert!(matches!(stream.records("i", 1000).await, Err(Error::Transient(_))));
    }
}

#[tokio::test]
async fn a_wrong_clock_is_set_right_by_a_refused_signature() {
    let refused = Answer::Response {
        status: 400,
        headers: &[("date", "Mon, 01 Jan 2035 00:00:00 GMT")],
        body: r#"{"__type":"com.amazon.coral.service#InvalidSignatureException","message":"Signature expired"}"#,
    };
    let service = Service::default();
    let stream = stream(&service, [page(), refused, page()], keys());
    assert!(stream.records("i", 1000).await.is_ok());
    assert!(stream.records("i", 1000).await.is_err());
    assert!(stream.records("i", 1000).await.is_ok());
    let (_, headers, _) = service.request(2);
    assert!(headers["x-amz-date"].starts_with("20350101T0000"), "{headers:?}");
}

#[tokio::test]
async fn credentials_that_expire_are_asked_for_again() {
    #[derive(Debug)]
    struct Rotating(std::sync::atomic::AtomicU32);
    impl ProvideCredentials for Rotating {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let turn = self.0.fetch_add(1, Ordering::Relaxed);
            let keys = Credentials::new(format!("AKID{turn}"), "secret", None, Some(UNIX_EPOCH), "test");
            future::ProvideCredentials::ready(provider::Result::Ok(keys))
        }
    }
    let service = Service::default();
    let stream = stream(&service, [page(), page()], Rotating(0.into()));
    for _ in 0..2 {
        stream.records("i", 1000).await.unwrap();
    }
    let key_of = |number| service.request(number).1["authorization"].split(['=', '/']).nth(1).unwrap().to_owned();
    assert_ne!(key_of(0), key_of(1));
}

#[tokio::test]
async fn the_signature_is_the_one_that_the_sdk_makes() {
    for credentials in [keys(), Credentials::new("AKID", "secret", None, None, "test")] {
        let service = Service::default();
        stream(&service, [page()], credentials.clone()).records("i", 1000).await.unwrap();
        let (uri, headers, body) = service.request(0);
        let mut request = HttpRequest::new(SdkBody::empty());
        request.set_uri(uri).unwrap();
        for (name, value) in &headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let scheme = Scheme::of(&request).unwrap();
        let [date, time] = headers["x-amz-date"].split('T').collect::<Vec<_>>().try_into().unwrap();
        let time =
            format!("{}-{}-{}T{}:{}:{}", &date[..4], &date[4..6], &date[6..], &time[..2], &time[2..4], &time[4..]);
        let time = DateTime::from_str(&time, aws_smithy_types::date_time::Format::DateTime).unwrap();
        request.headers_mut().remove("authorization");
        Signer::new(&scheme, &credentials, time).sign(&mut request, std::str::from_utf8(&body).unwrap()).unwrap();
        assert_eq!(request.headers().get("authorization"), Some(headers["authorization"].as_str()));
    }
}
