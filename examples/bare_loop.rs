//! bare loop (scratch)
#![allow(missing_docs)]
use aws_sdk_dynamodbstreams as s;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[tokio::main]
async fn main() {
    let url = std::env::args().nth(1).unwrap();
    let arn = std::env::args().nth(2).unwrap();
    let cfg = aws_config::defaults(aws_config::BehaviorVersion::v2026_01_12())
        .http_client(
            aws_smithy_http_client::Builder::new()
                .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                    aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
                ))
                .build_https(),
        )
        .endpoint_url(url)
        .load()
        .await;
    let c = s::Client::new(&cfg);
    let mut shards = vec![];
    let mut after = None;
    loop {
        let d = c
            .describe_stream()
            .stream_arn(&arn)
            .set_exclusive_start_shard_id(after)
            .send()
            .await
            .unwrap()
            .stream_description
            .unwrap();
        shards.extend(d.shards.unwrap());
        after = d.last_evaluated_shard_id;
        if after.is_none() {
            break;
        }
    }
    let t = std::time::Instant::now();
    let n = Arc::new(AtomicU64::new(0));
    let ids: Vec<(String, Option<String>)> =
        shards.iter().map(|x| (x.shard_id.clone().unwrap(), x.parent_shard_id.clone())).collect();
    let mut done = std::collections::HashSet::new();
    let mut started = std::collections::HashSet::new();
    let mut set = tokio::task::JoinSet::new();
    loop {
        for (id, p) in &ids {
            if started.contains(id) {
                continue;
            }
            let ready = match p {
                Some(p) => done.contains(p) || !ids.iter().any(|(i, _)| i == p),
                None => true,
            };
            if ready {
                started.insert(id.clone());
                let (c, arn, id, n) = (c.clone(), arn.clone(), id.clone(), n.clone());
                set.spawn(async move {
                    let mut it = c
                        .get_shard_iterator()
                        .stream_arn(&arn)
                        .shard_id(&id)
                        .shard_iterator_type(s::types::ShardIteratorType::TrimHorizon)
                        .send()
                        .await
                        .unwrap()
                        .shard_iterator;
                    while let Some(i) = it {
                        let o = c.get_records().shard_iterator(i).send().await.unwrap();
                        let k = o.records().len();
                        n.fetch_add(k as u64, Ordering::Relaxed);
                        it = o.next_shard_iterator.clone();
                        if k == 0 && it.is_some() {
                            break;
                        }
                    }
                    id
                });
            }
        }
        match set.join_next().await {
            Some(Ok(id)) => {
                done.insert(id);
            }
            _ => break,
        }
    }
    println!("{} records in {:?}", n.load(Ordering::Relaxed), t.elapsed());
}
