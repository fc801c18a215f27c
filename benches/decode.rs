//! The cost of decoding a GetRecords answer: ours beside the AWS SDK's own, on the same bodies in the same run.
//!
//! Each body is a full page of its kind. Times include dropping what was decoded. The SDK's decoding can be had only
//! through its client, whose fixed cost a call (`empty/sdk`) is a small part of a full page's.

#[path = "../tests/worker/sdk_decoding.rs"]
mod sdk_decoding;

use std::hint::black_box;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use shardkeeper::internals::model::record::Page;

use sdk_decoding::SdkDecoder;

criterion_group!(benches, decode);
criterion_main!(benches);

/// Writes a record of some kind, other for each index.
type MakeRecord = fn(usize) -> String;

fn decode(criterion: &mut Criterion) {
    let kinds: [(&str, usize, MakeRecord); 5] = [
        ("empty", 0, keys_only),
        ("keys-only", 1000, keys_only),
        ("300-byte-item", 1000, one_small_image),
        ("1k-both-images", 1000, both_images),
        ("10k-both-images", 100, both_large_images),
    ];
    for (kind, count, record) in kinds {
        let body = page(count, record);
        let mut group = criterion.benchmark_group(format!("decode/{kind}"));
        group.sample_size(30).throughput(Throughput::Elements(count.max(1) as u64));
        if let Some(bytes_per_record) = body.len().checked_div(count) {
            println!("decode/{kind}: {count} records of {bytes_per_record} bytes");
        }
        ours(&mut group, "ours", &body, |page| {
            black_box(page.records.len());
        });
        ours(&mut group, "ours+keys", &body, read_keys);
        ours(&mut group, "ours+images", &body, read_images);
        ours(&mut group, "ours-to-sdk", &body, convert);
        let decoder = SdkDecoder::new();
        let bytes = Bytes::from(body);
        group.bench_function("sdk", |bencher| {
            bencher.iter(|| drop(black_box(decoder.decode(bytes.clone()).expect("a page"))));
        });
        group.finish();
    }
}

/// Times decoding and what is done with the page. The body is the only reference to its bytes, as from a connection.
fn ours(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, body: &str, read: fn(&Page)) {
    group.bench_function(name, |bencher| {
        bencher.iter_batched(
            || Bytes::from(body.to_owned()),
            |body| read(&Page::decode(body).expect("a page")),
            BatchSize::PerIteration,
        );
    });
}

fn read_keys(page: &Page) {
    for record in &page.records {
        black_box(record.keys());
    }
}

fn read_images(page: &Page) {
    for record in &page.records {
        black_box((record.new_image().expect("an item"), record.old_image().expect("an item")));
    }
}

fn convert(page: &Page) {
    for record in &page.records {
        black_box(record.to_sdk().expect("a record"));
    }
}

fn page(count: usize, record: MakeRecord) -> String {
    let records: Vec<String> = (0..count).map(record).collect();
    format!(r#"{{"NextShardIterator":"{}","Records":[{}]}}"#, "A".repeat(300), records.join(","))
}

fn keys_only(index: usize) -> String {
    record(index, "KEYS_ONLY", "")
}

fn one_small_image(index: usize) -> String {
    let note = "n".repeat(150);
    let image = format!(
        r#""NewImage":{{"Company":{{"S":"company-{index:08}"}},"Model":{{"S":"model-{index}"}},"Size":{{"N":"{index}"}},"Colors":{{"SS":["red","green","blue"]}},"Note":{{"S":"{note}"}}}},"#
    );
    record(index, "NEW_IMAGE", &image)
}

fn both_images(index: usize) -> String {
    let images = format!(r#""NewImage":{},"OldImage":{},"#, image(index, 30), image(index + 1, 30));
    record(index, "NEW_AND_OLD_IMAGES", &images)
}

fn both_large_images(index: usize) -> String {
    let images = format!(r#""NewImage":{},"OldImage":{},"#, image(index, 4600), image(index + 1, 4600));
    record(index, "NEW_AND_OLD_IMAGES", &images)
}

/// An item of nine attributes with a nested list and a map, and a text of `length` letters.
fn image(index: usize, length: usize) -> String {
    let text = "t".repeat(length);
    format!(
        r#"{{"Company":{{"S":"company-{index:08}"}},"Model":{{"S":"model-{index}"}},"Size":{{"N":"{index}"}},"Price":{{"N":"199.99"}},"New":{{"BOOL":true}},"Gone":{{"NULL":true}},"Tags":{{"L":[{{"S":"a"}},{{"N":"1"}}]}},"More":{{"M":{{"x":{{"S":"y"}},"z":{{"N":"2"}}}}}},"Text":{{"S":"{text}"}}}}"#
    )
}

fn record(index: usize, view_type: &str, images: &str) -> String {
    format!(
        r#"{{"eventID":"{index:032x}","eventName":"MODIFY","eventVersion":"1.1","eventSource":"aws:dynamodb","awsRegion":"eu-central-1","dynamodb":{{"ApproximateCreationDateTime":1763727600,"Keys":{{"Company":{{"S":"company-{index:08}"}},"Model":{{"S":"model-{index}"}}}},{images}"SequenceNumber":"{:028}","SizeBytes":59,"StreamViewType":"{view_type}"}}}}"#,
        4421584500000000017450439091_u128 + index as u128
    )
}
