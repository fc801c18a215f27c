//! `shardkeeper dead-letters` as an operator meets it: letters in a table and in a file, listed, shown, replayed and
//! purged.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use shardkeeper::internals::dead_letters::file::FileStore;
use shardkeeper::internals::dead_letters::letter::DeadLetter;
use shardkeeper::internals::dead_letters::table::DeadLetterTable;

use crate::support::services::Service;
use crate::support::wait::eventually;
use crate::support::{Finished, finish, http, run_in, sdk, shardkeeper};

const ARN: &str = "arn:aws:dynamodb:us-east-1:000000000000:table/Phones/stream/2026-01-31T12:00:00.000";
const APP: &str = "audit";

/// A service, its table of dead letters, and a folder of the test's own.
struct Harness {
    service: Service,
    table: DeadLetterTable,
    folder: PathBuf,
}

impl Harness {
    async fn new(test: &str) -> Harness {
        let service = Service::shardkeeper_local("");
        let table = DeadLetterTable::new(sdk::tables(&service.url()), APP);
        table.ensure(true).await.expect("it is made");
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dead-letters-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Harness { service, table, folder }
    }

    async fn put(&self, letters: &[DeadLetter]) {
        for letter in letters {
            self.table.put(letter).await.expect("it is kept");
        }
    }

    fn command(&self) -> Command {
        let mut command = shardkeeper();
        command
            .current_dir(&self.folder)
            .env("SHARDKEEPER_APP", APP)
            .env("SHARDKEEPER_ENDPOINT_URL", self.service.url())
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .stdin(Stdio::null())
            .arg("dead-letters");
        command
    }

    fn run(&self, line: &str) -> Finished {
        finish(self.command().args(line.split(' ')))
    }

    /// Standard output of a line that must go well.
    fn good(&self, line: &str) -> String {
        let finished = self.run(line);
        assert_eq!(finished.code, 0, "{line}: {}", finished.stderr);
        finished.stdout
    }

    /// The ids that `list` shows.
    fn ids(&self, from: &str) -> Vec<String> {
        let lines = self.good(&format!("list --json{from}"));
        lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn file(&self) -> PathBuf {
        self.folder.join("letters.jsonl")
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn record(number: u64, key: &str) -> String {
    format!(
        r#"{{"eventID":"e{number}","dynamodb":{{ "SequenceNumber":"{number}","Keys":{{"key":{{"S":"{key}"}}}} }}}}"#
    )
}

fn letter(shard: &str, number: u64, key: &str) -> DeadLetter {
    let position = number.to_string().parse().expect("a sequence number");
    DeadLetter::new(ARN, shard.into(), position, record(number, key), "the handler answered 500\nat length", 7_000)
}

#[tokio::test]
async fn letters_are_listed_and_shown_for_people_and_for_programs() {
    let harness = Harness::new("list").await;
    let nothing = harness.run("list");
    assert_eq!((nothing.code, &*nothing.stdout, &*nothing.stderr), (0, "", "no dead letters\n"));
    let letters = [letter("shardId-1", 1000, "a"), letter("shardId-1", 900, "b"), letter("shardId-2", 7, "c")];
    harness.put(&letters).await;

    let list = harness.good("list");
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines.len() == 4 && lines[0].starts_with("ID "), "{list}");
    let at = |id: &str| lines.iter().position(|line| line.starts_with(&format!("{id} "))).expect(id);
    assert!(at("shardId-1/900") < at("shardId-1/1000") && at("shardId-2/7") > 0, "{list}");
    assert!(lines[1].ends_with("attempts  the handler answered 500 …"), "{list}");
    assert_eq!(harness.good("list --shard shardId-2").lines().count(), 2);

    let shown = harness.good("show shardId-1/0900 shardId-2/7");
    for words in [&*letters[1].record, &*letters[2].record, "the handler answered 500\nat length", ARN] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
    assert_eq!(harness.good("show --json shardId-1/900"), format!("{}\n", letters[1].to_json()));
    let unknown = harness.run("show shardId-1/900 shardId-1/901 shardId-3/7");
    assert_eq!((unknown.code, &*unknown.stdout), (1, ""));
    assert!(unknown.stderr.contains("no dead letter shardId-1/901, shardId-3/7"), "{}", unknown.stderr);

    // The list as JSON is itself a file of letters.
    std::fs::write(harness.file(), harness.good("list --json")).expect("a file");
    assert_eq!(harness.good("list --from file:letters.jsonl").lines().count(), 4);
    assert_eq!(
        harness.good("show --json shardId-1/900 --from file:letters.jsonl"),
        format!("{}\n", letters[1].to_json())
    );
}

#[tokio::test]
async fn letters_are_replayed_in_the_order_of_their_changes_and_then_gone() {
    let harness = Harness::new("replay").await;
    let letters = [
        letter("shardId-2", 1000, "a"),
        letter("shardId-1", 999, "a"),
        letter("shardId-1", 5, "b"),
        letter("shardId-3", 1, "c"),
    ];
    harness.put(&letters).await;

    let plan = harness.good("replay --all --to stdout --dry-run");
    let order: Vec<&str> = plan.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(order[..4], ["shardId-3/1", "shardId-1/5", "shardId-1/999", "shardId-2/1000"], "{plan}");
    assert_eq!(harness.ids("").len(), 4, "nothing was done so far");

    let some = harness.run("replay shardId-3/1 --to stdout");
    assert_eq!((some.code, some.stdout), (0, format!("{}\n", letters[3].record)));
    assert_eq!(some.stderr, "shardId-3/1: replayed\n1 dead letter replayed\n", "standard output is for records");
    let rest = harness.run("replay --all --json --to stdout");
    let expected: String = [2, 1, 0].iter().map(|index: &usize| format!("{}\n", letters[*index].record)).collect();
    assert_eq!((rest.code, rest.stdout), (0, expected));
    let outcomes: Vec<Value> = rest.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(outcomes.len() == 3 && outcomes.iter().all(|outcome| outcome["outcome"] == "replayed"), "{outcomes:?}");
    assert_eq!(outcomes[2]["id"], "shardId-2/1000");
    assert!(harness.ids("").is_empty());
    assert_eq!(harness.good("replay --all --to null"), "no dead letters: nothing to replay\n");
}

#[tokio::test]
async fn a_replay_that_does_not_say_where_the_records_go_deletes_nothing() {
    let harness = Harness::new("nowhere").await;
    harness.put(&[letter("shardId-1", 1, "a")]).await;
    let finished = harness.run("replay --all");
    assert_eq!((finished.code, &*finished.stdout), (64, ""));
    assert!(finished.stderr.contains("--to stdout|null|URL|multilang:COMMAND is missing"), "{}", finished.stderr);
    assert_eq!(harness.ids(""), ["shardId-1/1"]);
}

#[tokio::test]
async fn what_fails_again_stays_with_its_latest_error() {
    let harness = Harness::new("fails").await;
    let mut broken = letter("shardId-1", 1, "a");
    broken.record = r#"{"dynamodb":{}}"#.into();
    harness.put(&[broken, letter("shardId-1", 2, "b")]).await;
    let finished = harness.run("replay --all --to null");
    assert_eq!(finished.code, 1);
    assert!(finished.stdout.contains("shardId-1/1: failed again"), "{}", finished.stdout);
    assert!(finished.stdout.contains("shardId-1/2: replayed"), "{}", finished.stdout);
    assert!(finished.stderr.contains("1 dead letter failed again and 0 were held back"), "{}", finished.stderr);
    assert_eq!(harness.ids(""), ["shardId-1/1"]);
}

#[tokio::test]
async fn a_replay_that_is_killed_loses_nothing() {
    let harness = Harness::new("killed").await;
    let large = |number| {
        let mut letter = letter("shardId-1", number, "a");
        letter.record = letter.record.replace("\"e", &format!("\"{}", "x".repeat(100_000)));
        letter
    };
    let letters: Vec<DeadLetter> = (1..=6).map(large).collect();
    harness.put(&letters).await;
    // The pipe holds less than a record, so the third one is never taken whole.
    let mut replay = harness
        .command()
        .args(["replay", "--all", "--to", "stdout"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut output = replay.stdout.take().expect("a pipe was asked for");
    let mut taken = vec![0; 2 * letters[0].record.len() + 1000];
    output.read_exact(&mut taken).expect("two records and some of the third");
    replay.kill().expect("it is our child");
    replay.wait().expect("it is our child");
    let left = harness.ids("");
    assert!((4..=6).contains(&left.len()), "{left:?}");

    let again = harness.good("replay --all --to stdout");
    let first = String::from_utf8(taken).expect("text");
    let delivered: BTreeSet<&str> = first.lines().take(2).chain(again.lines()).collect();
    assert_eq!(delivered, letters.iter().map(|letter| &*letter.record).collect());
    assert!(harness.ids("").is_empty());
}

#[tokio::test]
async fn letters_are_purged_when_that_is_confirmed_and_only_those_meant() {
    let harness = Harness::new("purge").await;
    harness.put(&[letter("shardId-1", 1, "a"), letter("shardId-1", 2, "a"), letter("shardId-2", 3, "b")]).await;
    let dry = harness.good("purge --all --dry-run");
    assert!(dry.contains("shardId-2/3\n") && dry.contains("3 dead letters would be deleted"), "{dry}");
    let unasked = harness.run("purge --all");
    assert_eq!(unasked.code, 1);
    assert!(unasked.stderr.contains("there is no terminal to ask on"), "{}", unasked.stderr);
    let unmeant = harness.run("purge --yes");
    assert_eq!(unmeant.code, 64);
    assert!(unmeant.stderr.contains("ID or --all or --shard SHARD_ID is missing"), "{}", unmeant.stderr);
    assert_eq!(harness.ids("").len(), 3, "nothing was deleted so far");

    assert!(harness.good("purge shardId-1/1 --yes").ends_with("1 dead letter deleted\n"));
    assert!(harness.good("purge --shard shardId-2 --yes").ends_with("1 dead letter deleted\n"));
    assert_eq!(harness.ids(""), ["shardId-1/2"]);
    harness.good("purge --all --yes");
    assert_eq!(harness.good("purge --all --yes"), "no dead letters: nothing to delete\n");
}

#[tokio::test]
async fn letters_in_a_file_are_treated_as_those_in_a_table() {
    let harness = Harness::new("file").await;
    let letters = [letter("shardId-1", 2, "a"), letter("shardId-1", 1, "a"), letter("shardId-2", 3, "b")];
    let file = FileStore::open(&harness.file()).expect("it opens");
    letters.iter().for_each(|letter| file.keep(letter).expect("it is kept"));
    let from = " --from file:letters.jsonl";
    assert_eq!(harness.ids(from), ["shardId-1/1", "shardId-1/2", "shardId-2/3"]);
    for line in ["replay --all --to stdout", "purge --all --yes"] {
        let refused = harness.run(&format!("{line}{from}"));
        assert_eq!(refused.code, 1);
        assert!(
            refused.stderr.contains("another process keeps its dead letters in letters.jsonl"),
            "{}",
            refused.stderr
        );
    }
    drop(file);

    let replayed = harness.good(&format!("replay --shard shardId-1 --to stdout{from}"));
    assert_eq!(replayed, format!("{}\n{}\n", letters[1].record, letters[0].record));
    let left = std::fs::read_to_string(harness.file()).expect("the file");
    assert_eq!(left, format!("{}\n", letters[2].to_json()));
    harness.good(&format!("purge --all --yes{from}"));
    assert_eq!(std::fs::read_to_string(harness.file()).expect("the file"), "");

    let bad = format!("not a letter\n{}\n", letters[0].to_json());
    append(&harness.file(), &bad);
    let list = harness.run(&format!("list{from}"));
    assert_eq!((list.code, list.stdout.lines().count()), (0, 2));
    assert!(list.stderr.contains("letters.jsonl:1: expected"), "{}", list.stderr);
    let refused = harness.run(&format!("purge --all --yes{from}"));
    assert!(refused.stderr.contains("correct or remove the lines that are no dead letters"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(harness.file()).expect("the file"), bad, "nothing was touched");
}

#[tokio::test]
async fn what_is_not_there_is_told_in_a_sentence() {
    let harness = Harness::new("nothing").await;
    for (line, words) in [
        ("list --app nobody", "table nobody-DeadLetters does not exist. Check --app"),
        ("replay --all --to null --app nobody", "table nobody-DeadLetters does not exist. Check --app"),
        ("purge --all --yes --app nobody", "table nobody-DeadLetters does not exist. Check --app"),
        ("list --from file:nowhere.jsonl", "cannot open the dead letters in nowhere.jsonl"),
        ("purge --all --yes --from file:nowhere.jsonl", "there is no such file"),
    ] {
        let finished = harness.run(line);
        assert_eq!((finished.code, &*finished.stdout), (1, ""), "{line}");
        assert!(finished.stderr.contains(words), "{line}: {}", finished.stderr);
    }
    let list = harness.run("list --shard shardId-x");
    assert_eq!((list.code, &*list.stdout, &*list.stderr), (0, "", "no dead letters of shard shardId-x\n"));
    let typo = harness.good("replay --shard shardId-x --to null");
    assert_eq!(typo, "no dead letters of shard shardId-x: nothing to replay\n");
    let help = run_in(Path::new("."), "dead-letters --help");
    for name in ["list", "show", "replay", "purge"] {
        assert!(help.code == 0 && help.stdout.contains(&format!("\n  {name} ")), "{}", help.stdout);
    }
}

#[tokio::test]
async fn a_poison_record_is_one_letter_byte_for_byte_and_is_delivered_once_when_the_handler_is_mended() {
    let harness = Harness::new("poison").await;
    let address = harness.service.address;
    harness.make_phones();
    for number in 0..200 {
        let key = if number == 77 { "poison".to_owned() } else { format!("key-{number}") };
        http::good(
            address,
            "PutItem",
            &json!({"TableName": "Phones", "Item": {"key": {"S": key}, "é": {"S": "\u{1}"}}}),
        );
    }
    let all = harness.worker("other", "--to stdout").stdout;
    let poison: Vec<&str> = all.lines().filter(|line| line.contains("poison")).collect();
    assert_eq!((all.lines().count(), poison.len()), (200, 1));

    let handler = Handler::start();
    for (app, place) in [("audit", ""), ("filed", " --dead-letters file:letters.jsonl")] {
        handler.is_mended.store(false, Ordering::SeqCst);
        let line = format!("--to {} --on-failure dead-letter --retry-attempts 2{place}", handler.url);
        let worked = harness.worker(app, &line);
        assert_eq!(worked.code, 0, "{}", worked.stderr);
        assert_eq!(handler.handled().len(), 199, "{app}: all but one are delivered");

        let from = if place.is_empty() { "" } else { " --from file:letters.jsonl" };
        let letters = harness.good(&format!("list --json --app {app}{from}"));
        let letter = DeadLetter::from_json(letters.trim_end()).expect("one letter");
        assert_eq!(letter.record, poison[0], "byte for byte");
        assert!(letter.attempts >= 3 && letter.error.contains("500"), "{letter:?}");
        assert!(letter.stream_arn.contains("/Phones/stream/") && !letter.worker.is_empty(), "{letter:?}");

        let replay = format!("replay --all --app {app} --to {}{from} --retry-attempts 0", handler.url);
        let failed = harness.run(&replay);
        assert_eq!(failed.code, 1);
        assert!(failed.stdout.contains("failed again: the handler answered 500"), "{}", failed.stdout);
        handler.is_mended.store(true, Ordering::SeqCst);
        let replayed = harness.good(&replay);
        assert!(replayed.ends_with(": replayed\n1 dead letter replayed\n"), "{replayed}");
        let handled = handler.handled();
        assert!(handled.len() == 1 && handled[0]["dynamodb"]["Keys"]["key"]["S"] == "poison", "{handled:?}");
        assert_eq!(harness.good(&format!("list --json --app {app}{from}")), "");
    }
}

#[tokio::test]
async fn workers_that_are_killed_while_they_give_records_up_leave_one_letter_of_each() {
    const POISON: usize = 60;
    const KILLS: usize = 10;
    let harness = Harness::new("kills").await;
    harness.make_phones();
    for number in 0..POISON {
        for key in [format!("poison-{number}"), format!("key-{number}")] {
            let put = json!({"TableName": "Phones", "Item": {"key": {"S": key}}});
            http::good(harness.service.address, "PutItem", &put);
        }
    }
    let handler = Handler::start();
    for (app, place, from) in
        [("audit", "", ""), ("filed", " --dead-letters file:letters.jsonl", " --from file:letters.jsonl")]
    {
        let line = format!("--to {} --on-failure dead-letter --retry-attempts 0{place} --worker-id w-1", handler.url);
        let list = format!("list --json --app {app}{from}");
        // The id, so that a letter that stands twice counts twice.
        let ids = || -> Vec<String> {
            let listed = harness.run(&list).stdout;
            let id = |line: &str| serde_json::from_str::<Value>(line).expect("a whole letter")["id"].to_string();
            listed.lines().map(id).collect()
        };
        for kill in 1..=KILLS {
            let mut worker = harness.worker_command(app, &line).stderr(Stdio::null()).spawn().expect("it starts");
            eventually("more letters", || {
                let is_far_enough = ids().len() >= (kill * POISON / (KILLS + 5)).min(POISON);
                (is_far_enough || worker.try_wait().expect("its state is known").is_some()).then_some(())
            });
            worker.kill().expect("it is our child");
            worker.wait().expect("it is our child");
        }
        let last = finish(&mut harness.worker_command(app, &line));
        assert_eq!(last.code, 0, "{}", last.stderr);
        let ids = ids();
        assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (POISON, POISON), "{app}");
        let handled: BTreeSet<String> =
            handler.handled().iter().map(|record| record["dynamodb"]["Keys"]["key"]["S"].to_string()).collect();
        assert_eq!(handled.len(), POISON, "{app}: all others are delivered");
    }
}

impl Harness {
    fn make_phones(&self) {
        let table = json!({
            "TableName": "Phones",
            "AttributeDefinitions": [{"AttributeName": "key", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "key", "KeyType": "HASH"}],
            "BillingMode": "PAY_PER_REQUEST",
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"},
        });
        http::good(self.service.address, "CreateTable", &table);
    }

    /// Runs a worker on the table `Phones` until it has delivered what is there.
    fn worker(&self, app: &str, line: &str) -> Finished {
        finish(&mut self.worker_command(app, line))
    }

    fn worker_command(&self, app: &str, line: &str) -> Command {
        let mut command = shardkeeper();
        command.current_dir(&self.folder).env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local");
        let url = self.service.url();
        let fixed = format!("run --table Phones --app {app} --endpoint-url {url} --until-caught-up --idle-poll 100ms");
        command.args(fixed.split(' ')).args(line.split(' ')).stdin(Stdio::null());
        command
    }
}

/// A handler over HTTP that fails for records whose key begins with `poison`, until it is mended.
struct Handler {
    url: String,
    is_mended: Arc<AtomicBool>,
    handled: Arc<Mutex<Vec<Value>>>,
}

impl Handler {
    fn start() -> Handler {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("its address"));
        let (is_mended, handled) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let handler = Handler { url, is_mended: Arc::clone(&is_mended), handled: Arc::clone(&handled) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A worker that is killed leaves its request half sent, or takes no answer.
                let _ = answer(stream.expect("a connection"), &is_mended, &handled);
            }
        });
        handler
    }

    /// The records that went well since this was asked last.
    fn handled(&self) -> Vec<Value> {
        std::mem::take(&mut *self.handled.lock().expect("no panic"))
    }
}

fn answer(mut stream: TcpStream, is_mended: &AtomicBool, handled: &Mutex<Vec<Value>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let event: Value = serde_json::from_slice(&body)?;
    let records = event["Records"].as_array().expect("records").clone();
    let is_poison = records.iter().any(is_poison_record);
    let status = if is_poison && !is_mended.load(Ordering::SeqCst) { "500 Internal Server Error" } else { "200 OK" };
    if status == "200 OK" {
        handled.lock().expect("no panic").extend(records);
    }
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())
}

fn is_poison_record(record: &Value) -> bool {
    record["dynamodb"]["Keys"]["key"]["S"].as_str().is_some_and(|key| key.starts_with("poison"))
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("the file");
    file.write_all(text.as_bytes()).expect("it is written");
}
