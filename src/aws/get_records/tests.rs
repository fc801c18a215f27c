//! The SDK's way and the template's, held to the same requests, answers and errors: a new stream's first call goes the
//! one way, its second the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::UNIX_EPOCH;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_runtime_api::client::http::{HttpConnectorFuture, http_client_fn};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;

use super::*;
use crate::aws::clients::{Endpoints, clients};
use crate::aws::stream::Stream;

const EMPTY_PAGE: &str = r#"{"Records":[],"NextShardIterator":"next"}"#;

#[derive(Clone, Debug)]
enum Answer {
    Response { status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str },
    ConnectionRefused,
}

fn page() -> Answer {
    Answer::Response { status: 200, headers: &[], body: EMPTY_PAGE }
}

/// A service that gives its answers in turn and keeps the requests.
#[derive(Clone, Debug, Default)]
struct Service {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
}

impl HttpConnector for Service {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.requests.lock().unwrap().push(request);
        let answer = self.answers.lock().unwrap().pop_front().expect("an answer for each call");
        HttpConnectorFuture::ready(match answer {
            Answer::ConnectionRefused => Err(ConnectorError::io("connection refused".into())),
            Answer::Response { status, headers, body } => {
                let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
                for (name, value) in headers {
                    response.headers_mut().insert(*name, *value);
                }
                Ok(response)
            }
        })
    }
}

impl Service {
    fn stream(
        &self,
        answers: impl IntoIterator<Item = Answer>,
        credentials: impl ProvideCredentials + 'static,
    ) -> Stream {
        self.answers.lock().unwrap().extend(answers);
        let connector = SharedHttpConnector::new(self.clone());
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build();
        let clients = clients(&config, &Endpoints::default(), Duration::from_secs(1), "test");
        Stream::new(clients.streams, "arn")
    }

    fn request(&self, number: usize) -> (String, BTreeMap<String, String>, Vec<u8>) {
        let requests = self.requests.lock().unwrap();
        let request = &requests[number];
        let headers = request.headers().iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        (request.uri().to_owned(), headers.collect(), request.body().bytes().unwrap().to_vec())
    }
}

fn keys() -> Credentials {
    Credentials::new("AKID", "secret", Some("token".into()), None, "test")
}

#[tokio::test]
async fn both_ways_send_the_same_request() {
    let service = Service::default();
    let stream = service.stream([page(), page()], keys());
    for _ in 0..2 {
        stream.records("iterator \"1\"").await.unwrap();
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
        let stream = service.stream([answer.clone(), answer.clone()], keys());
        let [first, second] = [stream.records("i").await, stream.records("i").await]
            .map(|answer| answer.map(|page| (page.records.len(), page.next_shard_iterator)));
        assert_eq!(first, second, "{answer:?}");
    }
}

#[tokio::test]
async fn answers_that_are_no_json_are_passing_faults_both_ways() {
    let answer = Answer::Response { status: 503, headers: &[], body: "<html>busy</html>" };
    let service = Service::default();
    let stream = service.stream([answer.clone(), answer], keys());
    for _ in 0..2 {
        assert!(matches!(stream.records("i").await, Err(Error::Transient(_))));
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
    let stream = service.stream([page(), refused, page()], keys());
    assert!(stream.records("i").await.is_ok());
    assert!(stream.records("i").await.is_err());
    assert!(stream.records("i").await.is_ok());
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
    let stream = service.stream([page(), page()], Rotating(0.into()));
    for _ in 0..2 {
        stream.records("i").await.unwrap();
    }
    let key_of = |number| service.request(number).1["authorization"].split(['=', '/']).nth(1).unwrap().to_owned();
    assert_ne!(key_of(0), key_of(1));
}
