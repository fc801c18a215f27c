//! Records that workers delivered, in the order of their arrival, compared with those that were written.
//!
//! All workers of an application append to one file, so that the order of arrival is the operating system's, exact
//! also between processes, and owes nothing to the pace of the test.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::local_service::{ShardContent, Written, sequence_number};
use crate::support::wait::wait_for;

/// The lines that the workers of one application wrote.
pub struct Deliveries {
    appending: File,
    reading: File,
    /// The end of the file as far as it is no whole line yet.
    rest: Vec<u8>,
    /// Everything that was delivered, repeats included.
    pub all: Vec<Delivery>,
    /// The next count that is due, by key.
    due: BTreeMap<String, u64>,
    /// First deliveries that came before an earlier record of their key.
    out_of_order: Vec<String>,
}

/// One delivered record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub key: String,
    pub n: u64,
    pub sequence_number: String,
    /// Whether it had been delivered before.
    pub is_repeat: bool,
}

impl Deliveries {
    /// Nothing delivered yet, to a new file.
    pub fn new(path: &Path) -> Deliveries {
        let appending = OpenOptions::new().create_new(true).append(true).open(path).expect("a file of the test's own");
        let reading = File::open(path).expect("it was just made");
        Deliveries {
            appending,
            reading,
            rest: Vec::new(),
            all: Vec::new(),
            due: BTreeMap::new(),
            out_of_order: Vec::new(),
        }
    }

    /// The standard output of one more worker.
    pub fn stdout(&self) -> Stdio {
        self.appending.try_clone().expect("the file can be shared").into()
    }

    /// Leaves what was written so far out of what is due: a delivery of it counts as a repeat.
    pub fn begin_after(&mut self, written: &Written) {
        self.refresh();
        for (key, n) in &written.0 {
            self.due.insert(key.clone(), n + 1);
        }
    }

    /// Takes in what has arrived.
    pub fn refresh(&mut self) -> &[Delivery] {
        let mut bytes = std::mem::take(&mut self.rest);
        self.reading.read_to_end(&mut bytes).expect("the file can be read");
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.rest = bytes.split_off(end);
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record = parse(line);
            self.take(&record);
        }
        &self.all
    }

    /// The number of different records delivered.
    pub fn firsts(&mut self) -> usize {
        self.refresh().iter().filter(|delivery| !delivery.is_repeat).count()
    }

    /// The deliveries that were not the first of their record.
    pub fn repeats(&mut self) -> Vec<Delivery> {
        self.refresh().iter().filter(|delivery| delivery.is_repeat).cloned().collect()
    }

    /// Waits until everything that was written is delivered, each key's records in order.
    pub fn wait_for_all(&mut self, written: &Written) {
        wait_for("everything written to be delivered", || self.has_all(written));
    }

    /// Whether everything that was written is delivered. Fails the test when an order was broken.
    pub fn has_all(&mut self, written: &Written) -> bool {
        self.refresh();
        assert!(self.out_of_order.is_empty(), "out of order: {:?}", self.out_of_order);
        written.0.iter().all(|(key, n)| self.due.get(key).is_some_and(|due| due > n))
    }

    /// Checks that everything that was written is delivered, each key's records in order, and no record of a shard
    /// before all of its parent's.
    pub fn assert_complete(&mut self, written: &Written, shards: &[ShardContent]) {
        assert!(self.has_all(written), "missing: due {:?}, written {written:?}", self.due);
        let first_at: HashMap<&str, usize> = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, delivery)| !delivery.is_repeat)
            .map(|(at, delivery)| (delivery.sequence_number.as_str(), at))
            .collect();
        let at = |number: &String| *first_at.get(number.as_str()).unwrap_or_else(|| panic!("{number} is missing"));
        let mut compared = 0;
        for child in shards {
            let Some(parent) = shards.iter().find(|shard| Some(&shard.id) == child.parent.as_ref()) else { continue };
            let last_of_parent = parent.records.iter().map(at).max();
            let first_of_child = child.records.iter().map(at).min();
            if let (Some(last), Some(first)) = (last_of_parent, first_of_child) {
                assert!(last < first, "shard {} was begun before its parent {} was done", child.id, parent.id);
                compared += 1;
            }
        }
        let has_lineage = shards.iter().any(|shard| shard.parent.is_some());
        assert!(compared > 0 || !has_lineage, "no parent and child with records: nothing was compared");
    }

    fn take(&mut self, record: &Value) {
        let image = &record["dynamodb"]["NewImage"];
        let key = image["key"]["S"].as_str().expect("a key").to_owned();
        let n: u64 = image["n"]["N"].as_str().expect("a count").parse().expect("a whole number");
        let due = self.due.entry(key.clone()).or_insert(1);
        let is_repeat = n < *due;
        if n > *due {
            self.out_of_order.push(format!("{key} {n}, {due} was due"));
        }
        *due = (*due).max(n + 1);
        self.all.push(Delivery { key, n, sequence_number: sequence_number(record), is_repeat });
    }
}

/// A line's record. A worker that was killed in the middle of a write leaves part of a line, which is no delivery, and
/// the next worker's first line follows it.
fn parse(line: &[u8]) -> Value {
    const START: &[u8] = b"{\"awsRegion\"";
    let whole = serde_json::from_slice(line).ok();
    let after_torn = || {
        let starts = (1..line.len()).rev().filter(|at| line[*at..].starts_with(START));
        starts.filter_map(|at| serde_json::from_slice(&line[at..]).ok()).next()
    };
    whole.or_else(after_torn).unwrap_or_else(|| panic!("no record: {}", String::from_utf8_lossy(line)))
}
