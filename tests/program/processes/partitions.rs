//! Workers that can reach one half of the service and not the other.

use std::collections::BTreeMap;

use crate::support::deliveries::Deliveries;
use crate::support::fixture::{Fixture, TABLE, Worker};
use crate::support::local_service::Written;
use crate::support::proxy::Proxy;
use crate::support::wait::wait_for;

/// Two workers with two shards each. The first one's calls go by proxies, one for the tables and one for the stream.
struct Pair {
    fixture: Fixture,
    deliveries: Deliveries,
    written: Written,
    tables: Proxy,
    stream: Proxy,
    first: Worker,
    second: Worker,
}

impl Pair {
    /// A pair that has delivered and checkpointed some records.
    fn new(flags: &str) -> Pair {
        let fixture = Fixture::new("--shards 4");
        let mut deliveries = fixture.deliveries("audit");
        let mut written = Written::default();
        let (tables, stream) = (Proxy::to(fixture.service.address()), Proxy::to(fixture.service.address()));
        let first = fixture.proxied_worker("audit", "a", &deliveries, [&tables, &stream], flags);
        let second = fixture.worker("audit", "b", &deliveries, flags);
        wait_for("two shards each", || fixture.service.shares("audit") == two_each());
        fixture.service.write(TABLE, &mut written, 400);
        deliveries.wait_for_all(&written);
        fixture.wait_for_checkpoints("audit");
        Pair { fixture, deliveries, written, tables, stream, first, second }
    }

    /// Writes some records and waits for their delivery.
    fn write_and_wait(&mut self) {
        self.fixture.service.write(TABLE, &mut self.written, 400);
        self.deliveries.wait_for_all(&self.written);
    }

    /// Both stop, with everything delivered.
    fn end(mut self) {
        self.deliveries.assert_complete(&self.written, &self.fixture.service.shards(TABLE));
        assert_eq!([self.first.stop(), self.second.stop()], [0, 0]);
    }
}

fn two_each() -> BTreeMap<String, usize> {
    BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 2)])
}

#[test]
fn a_worker_cut_off_from_the_tables_alone_delivers_nothing_once_others_have_its_shards() {
    let mut pair = Pair::new("");
    pair.tables.cut();
    wait_for("all shards to be taken over", || pair.fixture.service.shares("audit").get("b") == Some(&4));
    // It still reads the stream, and these records are there for it.
    pair.write_and_wait();
    pair.fixture.wait_for_checkpoints("audit");
    assert!(pair.first.runs(), "{}", pair.first.log());
    assert_eq!(pair.deliveries.repeats(), [], "delivered by both");
    pair.tables.mend();
    wait_for("two shards each again", || pair.fixture.service.shares("audit") == two_each());
    pair.write_and_wait();
    assert_eq!(pair.deliveries.repeats(), []);
    pair.end();
}

#[test]
fn a_worker_cut_off_from_the_stream_alone_keeps_its_shards_and_goes_on_where_it_was() {
    // Nobody dies here, so that a lease may be long: none is lost on a busy machine.
    let mut pair = Pair::new("--lease-duration 15s");
    pair.stream.cut();
    pair.fixture.service.write(TABLE, &mut pair.written, 400);
    let own: Vec<String> = {
        let leases = pair.fixture.service.leases("audit");
        leases.into_iter().filter(|(_, row)| row.owner.as_deref() == Some("b")).map(|(shard, _)| shard).collect()
    };
    let shards = pair.fixture.service.shards(TABLE);
    wait_for("the other worker's records", || {
        let delivered: Vec<String> =
            pair.deliveries.refresh().iter().map(|delivery| delivery.sequence_number.clone()).collect();
        let of_other = shards.iter().filter(|shard| own.contains(&shard.id));
        of_other.flat_map(|shard| &shard.records).all(|number| delivered.contains(number))
    });
    pair.first.wait_for_log("reading failed, retrying");
    assert!(!pair.deliveries.has_all(&pair.written), "its shards wait");
    assert_eq!(pair.fixture.service.shares("audit"), two_each(), "it lives, and so do its leases");
    pair.stream.mend();
    pair.write_and_wait();
    assert_eq!(pair.deliveries.repeats(), []);
    pair.end();
}
