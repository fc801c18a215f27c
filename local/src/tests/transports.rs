//! The shells around the emulator: the real SDK over HTTP and in memory, faults, the control plane.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ReturnValuesOnConditionCheckFailure,
    ScalarAttributeType, StreamSpecification, StreamViewType,
};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use aws_smithy_types::retry::RetryConfig;
use aws_types::SdkConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::compression::Encoding;
use crate::{Clock, Effect, FaultPlan, InMemoryClient, InjectedFault, LocalOptions, LocalService, Timestamp};

/// Both of the SDK's clients.
struct Clients {
    tables: aws_sdk_dynamodb::Client,
    streams: aws_sdk_dynamodbstreams::Client,
}

impl Clients {
    /// Clients without retries.
    fn new(config: &SdkConfig) -> Self {
        let config = config.to_builder().retry_config(RetryConfig::disabled()).build();
        Self { tables: aws_sdk_dynamodb::Client::new(&config), streams: aws_sdk_dynamodbstreams::Client::new(&config) }
    }

    fn in_memory(client: InMemoryClient, service: &LocalService) -> Self {
        Self::new(&service.sdk_config().into_builder().http_client(client.shared()).build())
    }

    async fn put(&self, key: &str) -> Result<(), aws_sdk_dynamodb::Error> {
        let put = self.tables.put_item().table_name("Phones");
        put.item("k", AttributeValue::S(key.to_owned())).send().await?;
        Ok(())
    }
}

fn service() -> LocalService {
    let options = LocalOptions { initial_shards: 2, ..LocalOptions::default() };
    LocalService::new(options, Clock::tokio(Timestamp::from_millis(1_795_346_529_400)))
}

/// A beginner's first steps: a table, some items, every record of its stream.
async fn walk_through(clients: &Clients) {
    let hash = AttributeDefinition::builder().attribute_name("k").attribute_type(ScalarAttributeType::S);
    let element = KeySchemaElement::builder().attribute_name("k").key_type(KeyType::Hash);
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewImage);
    let created = clients
        .tables
        .create_table()
        .table_name("Phones")
        .attribute_definitions(hash.build().expect("complete"))
        .key_schema(element.build().expect("complete"))
        .billing_mode(BillingMode::PayPerRequest)
        .stream_specification(stream.build().expect("complete"))
        .send()
        .await
        .expect("a table");
    let description = created.table_description().expect("described");
    let arn = description.latest_stream_arn().expect("a stream").to_owned();

    for index in 0..10 {
        clients.put(&format!("key{index}")).await.expect("written");
    }
    let again = clients
        .tables
        .put_item()
        .table_name("Phones")
        .item("k", AttributeValue::S("key1".to_owned()))
        .condition_expression("attribute_not_exists(k)")
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .send()
        .await
        .expect_err("the item is there")
        .into_service_error();
    let aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(failure) = again else {
        panic!("{again:?}");
    };
    assert_eq!(failure.item().map(std::collections::HashMap::len), Some(1));

    let described = clients.streams.describe_stream().stream_arn(&arn).send().await.expect("described");
    let mut keys = BTreeSet::new();
    for shard in described.stream_description().expect("described").shards() {
        let iterator = clients
            .streams
            .get_shard_iterator()
            .stream_arn(&arn)
            .shard_id(shard.shard_id().expect("named"))
            .shard_iterator_type(ShardIteratorType::TrimHorizon)
            .send()
            .await
            .expect("an iterator");
        let page =
            clients.streams.get_records().set_shard_iterator(iterator.shard_iterator).send().await.expect("a page");
        assert!(page.next_shard_iterator().is_some());
        for record in page.records() {
            let image = record.dynamodb().and_then(|record| record.new_image()).expect("an image");
            keys.insert(image["k"].as_s().expect("a string").clone());
        }
    }
    assert_eq!(keys.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_real_sdk_works_in_memory() {
    let service = service();
    walk_through(&Clients::new(&service.sdk_config())).await;
    assert_eq!(service.stats().calls["PutItem"], 11);
}

#[tokio::test(start_paused = true)]
async fn a_hook_breaks_single_calls_of_single_clients() {
    let service = service();
    walk_through(&Clients::new(&service.sdk_config())).await;
    let client = InMemoryClient::new(service.clone()).label("unlucky").hook(|call| {
        assert_eq!(call.client, "unlucky");
        let key = String::from_utf8_lossy(&call.request.body).into_owned();
        let effect = match () {
            () if key.contains("lost-call") => Effect::LoseCall,
            () if key.contains("lost-answer") => Effect::LoseAnswer,
            () if key.contains("late") => Effect::ApplyLate(Duration::from_secs(5)),
            () if key.contains("slow") => {
                return Some(InjectedFault { delay_after: Duration::from_secs(3), ..InjectedFault::default() });
            }
            () => return None,
        };
        Some(InjectedFault { effect, ..InjectedFault::default() })
    });
    let clients = Clients::in_memory(client, &service);
    let count = || service.stats().records_written;
    assert!(clients.put("lost-call").await.is_err());
    assert_eq!(count(), 10);
    assert!(clients.put("lost-answer").await.is_err());
    assert_eq!(count(), 11);
    assert!(clients.put("late").await.is_err());
    assert_eq!(count(), 11);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(count(), 12);
    let before = tokio::time::Instant::now();
    clients.put("slow").await.expect("written");
    assert!(before.elapsed() >= Duration::from_secs(3));
    clients.put("lucky").await.expect("written");
}

/// One HTTP exchange on a connection of its own; the status and the body, empty if the connection broke.
async fn exchange(address: std::net::SocketAddr, method: &str, path: &str, target: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let target = match target {
        "" => String::new(),
        target => format!("x-amz-target: {target}\r\n"),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: local\r\nconnection: close\r\n{target}");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    // A broken connection leaves the answer empty.
    let _ = stream.read_to_string(&mut answer).await;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return (0, Value::Null);
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn the_service_serves_over_http_and_can_be_made_to_fail() {
    let service = LocalService::start();
    let server = service.listen().await.expect("a port");
    let address = server.address();
    let over_http = service.sdk_config().into_builder();
    let over_http = over_http.http_client(aws_smithy_http_client::Builder::new().build_http());
    walk_through(&Clients::new(&over_http.endpoint_url(server.url()).build())).await;

    let put = json!({"TableName": "Phones", "Item": {"k": {"S": "x"}}});
    let target = "DynamoDB_20120810.PutItem";
    assert_eq!(exchange(address, "POST", "/", target, &put).await, (200, json!({})));
    let faults = async |plan: Value| exchange(address, "POST", "/_local/faults", "", &plan).await.0;
    assert_eq!(faults(json!({"deny": ["PutItem"]})).await, 200);
    let (status, error) = exchange(address, "POST", "/", target, &put).await;
    assert_eq!((status, &error["__type"]), (400, &json!("com.amazon.coral.service#AccessDeniedException")));
    assert_eq!(faults(json!({"rules": [{"share": 1, "effect": "error"}]})).await, 200);
    assert_eq!(exchange(address, "POST", "/", target, &put).await.0, 500);
    assert_eq!(faults(json!({"refuse": ["tables"]})).await, 200);
    assert_eq!(exchange(address, "POST", "/", target, &put).await, (0, Value::Null));
    assert_eq!(faults(json!({"rules": [{"share": 7}]})).await, 400);
    assert_eq!(faults(json!({})).await, 200);

    let split = json!({"table": "Phones", "action": "split"});
    let (status, answer) = exchange(address, "POST", "/_local/streams", "", &split).await;
    assert_eq!((status, answer["shards"].as_array().map(Vec::len)), (200, Some(4)));
    let (_, stats) = exchange(address, "GET", "/_local/stats", "", &json!({})).await;
    assert_eq!(stats["records_written"], 11);
    assert_eq!(stats["errors"]["PutItem"]["AccessDeniedException"], 1);
    assert_eq!(exchange(address, "GET", "/nowhere", "", &json!({})).await.0, 404);
    assert_eq!(exchange(address, "GET", "/", "", &json!({})).await.0, 200);

    drop(server);
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_are_read_in_chunks_and_only_whole() {
    let service = LocalService::start();
    let server = service.listen().await.expect("a port");
    let send = async |headers: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(server.address()).await.expect("connected");
        let head = format!(
            "POST / HTTP/1.1\r\nhost: local\r\nconnection: close\r\nx-amz-target: DynamoDB_20120810.ListTables\r\n\
             {headers}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await.expect("sent");
        stream.shutdown().await.expect("half closed");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    let chunked = send("transfer-encoding: chunked", b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n").await;
    assert!(chunked.starts_with("HTTP/1.1 200") && chunked.ends_with(r#"{"TableNames":[]}"#), "{chunked}");
    for encoding in ["gzip\r\ncontent-length: 2", "br\r\ncontent-length: 2"] {
        let refused = send(&format!("content-encoding: {encoding}"), b"{}").await;
        assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("SerializationException"), "{refused}");
    }
    send("content-length: 200", b"{}").await;
    assert_eq!(service.stats().calls["ListTables"], 1, "a body that breaks off is no call");
}

#[tokio::test]
async fn bodies_are_compressed_in_both_directions() {
    let server = LocalService::start().listen().await.expect("a port");
    for (accepted, encoding) in [("deflate, gzip", Encoding::Gzip), ("gzip;q=0, deflate;q=0.5", Encoding::Deflate)] {
        let body = encoding.encode(br#"{"Limit": 1}"#).expect("compressed");
        let head = format!(
            "POST / HTTP/1.1\r\nhost: local\r\nconnection: close\r\nx-amz-target: DynamoDB_20120810.ListTables\r\n\
             content-encoding: {0}\r\naccept-encoding: {accepted}\r\ncontent-length: {1}\r\n\r\n",
            encoding.name(),
            body.len()
        );
        let mut stream = TcpStream::connect(server.address()).await.expect("connected");
        stream.write_all(&[head.as_bytes(), &body].concat()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("answered");
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("the headers' end");
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        assert!(head.contains(&format!("content-encoding: {}", encoding.name())), "{head}");
        let body = encoding.decode(&answer[end + 4..], 1000).expect("the encoding that the answer names");
        assert_eq!(body, br#"{"TableNames":[]}"#.as_slice());
    }
}

#[test]
fn a_body_that_unpacks_without_end_is_read_only_to_the_limit() {
    for encoding in [Encoding::Gzip, Encoding::Deflate] {
        let packed = encoding.encode(&vec![0; 1_000_000]).expect("compressed");
        assert_eq!(encoding.decode(&packed, 1000).expect("the part up to the limit").len(), 1001);
    }
}

#[tokio::test(start_paused = true)]
async fn truncated_and_silent_answers_are_the_plans_to_give() {
    let service = service();
    let request = crate::Request { target: "DynamoDB_20120810.ListTables".to_owned(), body: "{}".into() };
    let whole = service.call(request.clone()).await.expect("an answer");
    let rule = |effect: &str| json!({"rules": [{"share": 1, "effect": effect, "operations": ["ListTables"]}]});
    service.set_faults(FaultPlan::from_json(&rule("truncate")).expect("a plan"));
    let half = service.call(request.clone()).await.expect("an answer");
    assert_eq!(half.body.len(), whole.body.len() / 2);
    service.set_faults(FaultPlan::from_json(&rule("hang")).expect("a plan"));
    let silent = tokio::time::timeout(Duration::from_secs(60), service.call(request)).await;
    assert!(silent.is_err());
}

#[tokio::test(start_paused = true)]
async fn access_to_a_table_can_be_lost_for_a_while() {
    let service = service();
    let clients = Clients::new(&service.sdk_config());
    walk_through(&clients).await;
    let rule = json!({"share": 1, "code": "AccessDeniedException", "tables": ["Phones"], "for_ms": 5000});
    service.set_faults(FaultPlan::from_json(&json!({"rules": [rule]})).expect("a plan"));
    let refused = clients.put("x").await.expect_err("access is lost");
    assert!(format!("{refused:?}").contains("AccessDeniedException"), "{refused:?}");
    let streams = clients.streams.list_streams().send().await;
    assert!(streams.is_ok(), "a call that touches no table goes through");
    let arn = streams.expect("listed").streams()[0].stream_arn().expect("named").to_owned();
    assert!(clients.streams.describe_stream().stream_arn(arn).send().await.is_err(), "the stream is the table's");
    tokio::time::sleep(Duration::from_secs(5)).await;
    clients.put("x").await.expect("access is back");
}

#[tokio::test(start_paused = true)]
async fn a_policy_holds_callers_in_memory_too() {
    let service = service();
    let clients = Clients::new(&service.sdk_config());
    walk_through(&clients).await;
    let policy = json!({"Statement": [{"Effect": "Allow", "Action": "dynamodb:GetItem", "Resource": "*"}]});
    service.set_faults(FaultPlan::from_json(&json!({"policies": {"local": policy}})).expect("a plan"));
    let refused = clients.put("x").await.expect_err("only GetItem is allowed");
    assert!(format!("{refused:?}").contains("AccessDeniedException"), "{refused:?}");
    service.set_faults(FaultPlan::from_json(&json!({"policies": {"other": policy}})).expect("a plan"));
    clients.put("x").await.expect("the policy is another caller's");
}
