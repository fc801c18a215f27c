//! `shardkeeper local --data`: tables and streams that outlive the process.

use crate::support::local_service::{LocalService, Written};

#[test]
fn data_in_a_folder_outlives_the_process() {
    let folder = std::env::temp_dir().join(format!("shardkeeper-local-data-{}", std::process::id()));
    // Leftovers of an interrupted run with the same id are none of this one's.
    let _ = std::fs::remove_dir_all(&folder);
    let flags = format!("--shards 2 --data {}", folder.display());
    let service = LocalService::start(&flags);
    service.create_table("Phones", true);
    let mut written = Written::default();
    service.write("Phones", &mut written, 100);
    let before: Vec<_> = service.shards("Phones").into_iter().map(|shard| (shard.id, shard.records)).collect();
    service.stop();

    let service = LocalService::start(&flags);
    let after: Vec<_> = service.shards("Phones").into_iter().map(|shard| (shard.id, shard.records)).collect();
    assert_eq!(after, before);
    service.write("Phones", &mut written, 1);
    let records: usize = service.shards("Phones").iter().map(|shard| shard.records.len()).sum();
    assert_eq!(records, 101);
    drop(service);
    std::fs::remove_dir_all(&folder).expect("a folder");
}
