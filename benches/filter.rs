//! The cost of filtering, from the body of an answer to the records that pass: ours beside decoding every record by the
//! AWS SDK and looking at the attribute then.
//!
//! Records of 1 KB with both images; one pattern on an attribute of the new image, which one record in a hundred
//! matches. Each time includes decoding the page and dropping what was decoded.

#[path = "../tests/worker/sdk_decoding.rs"]
mod sdk_decoding;

use std::hint::black_box;

use aws_sdk_dynamodbstreams::types::{AttributeValue, Record as SdkRecord};
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shardkeeper::internals::model::filter::{Filters, Pattern};
use shardkeeper::internals::model::record::Page;

use sdk_decoding::SdkDecoder;

criterion_group!(benches, filter);
criterion_main!(benches);

const COUNT: usize = 1000;
const MATCHING: usize = COUNT / 100;

fn filter(criterion: &mut Criterion) {
    let records: Vec<String> = (0..COUNT).map(record).collect();
    let body = format!(r#"{{"NextShardIterator":"{}","Records":[{}]}}"#, "A".repeat(300), records.join(","));
    println!("filter: {COUNT} records of {} bytes, {MATCHING} matching", body.len() / COUNT);
    let mut group = criterion.benchmark_group("filter");
    group.sample_size(50).throughput(Throughput::Elements(COUNT as u64));

    let filters = of(r#"{"dynamodb":{"NewImage":{"Status":{"S":["paid"]}}}}"#);
    let absent = of(r#"{"dynamodb":{"NewImage":{"Absent":{"S":[{"exists":true}]}}}}"#);
    for (name, filters, passing) in [
        ("decode-only", Filters::new(), COUNT),
        ("ours", filters.clone(), MATCHING),
        ("ours-absent-attribute", absent, 0),
    ] {
        group.bench_function(name, |bencher| {
            // The body is the only reference to its bytes, as from a connection.
            bencher.iter_batched(
                || Bytes::from(body.clone()),
                |body| {
                    let page = Page::decode(body).expect("a page");
                    let chosen = page.records.retain(|record| filters.matches(record));
                    assert_eq!(chosen.len(), passing);
                    black_box(chosen);
                },
                BatchSize::PerIteration,
            );
        });
    }
    let page = Page::decode(Bytes::from(body.clone())).expect("a page");
    group.bench_function("ours-on-decoded-page", |bencher| {
        bencher.iter(|| black_box(page.records.clone().retain(|record| filters.matches(record)).len()));
    });
    let decoder = SdkDecoder::new();
    let bytes = Bytes::from(body);
    group.bench_function("sdk", |bencher| {
        bencher.iter(|| {
            let mut records = decoder.decode(bytes.clone()).expect("a page").records.unwrap_or_default();
            records.retain(is_paid);
            assert_eq!(records.len(), MATCHING);
            black_box(records);
        });
    });
    group.finish();
}

fn of(pattern: &str) -> Filters {
    Filters::new().or(Pattern::parse(pattern).expect("a pattern"))
}

fn is_paid(record: &SdkRecord) -> bool {
    let image = record.dynamodb().and_then(|record| record.new_image());
    image.and_then(|image| image.get("Status")) == Some(&AttributeValue::S("paid".to_owned()))
}

/// A record of 1 KB. The attribute that is looked at stands in the middle of its image.
fn record(index: usize) -> String {
    let status = if index.is_multiple_of(COUNT / MATCHING) { "paid" } else { "open" };
    let keys = format!(r#"{{"Company":{{"S":"company-{index:08}"}},"Model":{{"S":"model-{index:05}"}}}}"#);
    let image = |status: &str, size: usize| {
        format!(
            r#"{{"Company":{{"S":"company-{index:08}"}},"Model":{{"S":"model-{index:05}"}},"Size":{{"N":"{size}"}},"Tags":{{"L":[{{"S":"a"}},{{"N":"1"}}]}},"Status":{{"S":"{status}"}},"Price":{{"N":"199.99"}},"New":{{"BOOL":true}},"More":{{"M":{{"x":{{"S":"y"}},"z":{{"N":"2"}}}}}},"Text":{{"S":"{}"}}}}"#,
            "t".repeat(60)
        )
    };
    format!(
        r#"{{"eventID":"{index:032x}","eventName":"MODIFY","eventVersion":"1.1","eventSource":"aws:dynamodb","awsRegion":"eu-central-1","dynamodb":{{"ApproximateCreationDateTime":1763727600,"Keys":{keys},"NewImage":{},"OldImage":{},"SequenceNumber":"{:028}","SizeBytes":459,"StreamViewType":"NEW_AND_OLD_IMAGES"}}}}"#,
        image(status, index),
        image("new", index + 1),
        4421584500000000017450439091_u128 + index as u128
    )
}
