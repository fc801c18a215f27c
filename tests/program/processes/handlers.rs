//! Workers that hand their records to a handler over HTTP: the example in Python, and one that fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE, Worker};
use crate::support::http::Answer;
use crate::support::local_service::Written;
use crate::support::rewriter::Rewriter;
use crate::support::wait::wait_for;
use crate::support::{finish, shardkeeper};

const SECRET: &str = "a secret of some length";

#[test]
fn failures_that_the_next_attempt_heals_leave_a_line_each_time_that_their_number_has_doubled() {
    let fixture = Fixture::new("--shards 1");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 300);
    let calls = AtomicUsize::new(0);
    let handler = Rewriter::new(move |_, _| Answer {
        status: if calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { 500 } else { 200 },
        body: json!({"error": "each second call"}),
    });
    let deliveries = fixture.deliveries("audit");
    let flags = format!("--to {} --batch-size 10 --until-caught-up", handler.url());
    let mut worker = fixture.worker("audit", "w", &deliveries, &flags);
    assert_eq!(worker.exit_code(), 0, "{}", worker.log());
    let log = worker.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("processor failed, retrying")).collect();
    assert!((2..=8).contains(&lines.len()), "{log}");
    assert!(lines.iter().all(|line| line.contains("WARN") && line.contains("each second call")), "{log}");
}

/// A handler's process. It is killed with this value.
struct PythonHandler {
    process: Child,
    url: String,
    lines: std::sync::mpsc::Receiver<String>,
    /// The lines printed so far, by key: each `n` in the order of its first arrival.
    arrived: BTreeMap<String, Vec<u64>>,
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/handlers/python")
}

impl PythonHandler {
    /// The example, with some Python of the test's own between its definitions and its start.
    fn start(fixture: &Fixture, change: &str) -> PythonHandler {
        let program = format!(
            "import handler\n{change}\nserver = handler.Server(('127.0.0.1', 0), handler.Handler)\n\
             print(server.server_port, flush=True)\nserver.serve_forever()\n"
        );
        let log = File::create_new(fixture.log("handler")).expect("a log of its own");
        let mut process = Command::new("python3")
            .args(["-B", "-c", &program])
            .current_dir(example())
            .env("SHARDKEEPER_HTTP_SECRET", SECRET)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("python3 starts");
        let stdout: ChildStdout = process.stdout.take().expect("a pipe was asked for");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        let port = lines.recv().expect("the handler says where it is");
        PythonHandler { process, url: format!("http://127.0.0.1:{port}/"), lines, arrived: BTreeMap::new() }
    }

    /// Reads the lines that have arrived, such as `INSERT {"key": {"S": "key-00"}, "n": {"N": "1"}}`.
    fn arrived(&mut self) -> &BTreeMap<String, Vec<u64>> {
        for line in self.lines.try_iter() {
            let (event, image) = line.split_once(' ').expect("an event and an image");
            assert!(["INSERT", "MODIFY"].contains(&event), "{line}");
            let image: Value = serde_json::from_str(image).expect("json");
            let key = image["key"]["S"].as_str().expect("a key").to_owned();
            let n = image["n"]["N"].as_str().expect("a number").parse().expect("whole");
            let arrived = self.arrived.entry(key).or_default();
            if !arrived.contains(&n) {
                arrived.push(n);
            }
        }
        &self.arrived
    }

    /// Waits until each key has all of its records, and checks that they came in order first.
    fn wait_for_all(&mut self, written: &Written) {
        let count = |arrived: &BTreeMap<String, Vec<u64>>| arrived.values().map(Vec::len).sum::<usize>() as u64;
        let wanted: u64 = written.0.values().sum();
        wait_for("everything to arrive at the handler", || count(self.arrived()) >= wanted);
        for (key, n) in &written.0 {
            assert_eq!(self.arrived[key], (1..=*n).collect::<Vec<_>>(), "{key}");
        }
    }
}

impl Drop for PythonHandler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn worker(fixture: &Fixture, handler: &PythonHandler, flags: &str) -> Worker {
    let flags = format!("--to {} {flags}", handler.url);
    fixture.worker_on(&format!("--table {TABLE}"), "handled", "w", Stdio::null(), &flags)
}

#[test]
fn the_python_example_gets_every_record_in_order_with_a_signature() {
    let fixture = Fixture::new("--shards 3");
    let mut handler = PythonHandler::start(&fixture, "");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 1_500);
    let secret = fixture.log("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).expect("a file of the test's own");
    let mut worker = worker(&fixture, &handler, &format!("--http-secret-file {}", secret.display()));
    handler.wait_for_all(&written);
    fixture.service.write(TABLE, &mut written, 300);
    handler.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert!(!worker.log().contains(SECRET));
}

#[test]
fn headers_and_secrets_are_read_again_when_their_files_change() {
    let fixture = Fixture::new("");
    let (secret, headers, wanted) = (fixture.log("secret"), fixture.log("headers"), fixture.log("wanted"));
    let token = |wanted_token: &str, header: &str| {
        std::fs::write(&wanted, wanted_token).expect("a file of the test's own");
        std::fs::write(&headers, format!("X-Token: {header}\n")).expect("a file of the test's own");
    };
    let change = format!(
        "
checks = handler.Handler.do_POST
def do_POST(self):
    if self.headers.get('X-Token') == open('{}').read():
        checks(self)
    else:
        self.rfile.read(int(self.headers['Content-Length']))
        self.answer(401, 'who are you?')
handler.Handler.do_POST = do_POST
",
        wanted.display()
    );
    let mut handler = PythonHandler::start(&fixture, &change);
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 50);
    std::fs::write(&secret, format!("{SECRET}\n")).expect("a file of the test's own");
    token("one", "one");
    let flags = format!("--http-secret-file {} --http-header-file {}", secret.display(), headers.display());
    // With one attempt, so that nothing may fail because of what is old.
    let flags = format!("{flags} --on-failure skip --retry-attempts 0");
    let mut worker = worker(&fixture, &handler, &flags);
    handler.wait_for_all(&written);
    token("two", "two");
    fixture.service.write(TABLE, &mut written, 50);
    handler.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_handler_that_wants_a_signature_refuses_what_has_none_and_the_log_says_so() {
    let fixture = Fixture::new("");
    let mut handler = PythonHandler::start(&fixture, "");
    fixture.service.write(TABLE, &mut Written::default(), 10);
    let worker = worker(&fixture, &handler, "");
    worker.wait_for_log("the handler answered 403");
    worker.wait_for_log("the signature is missing or wrong");
    assert!(handler.arrived().is_empty());
}

/// Some records fail when they are seen first.
const FAILING: &str = "
seen, works = set(), handler.handle
def fails_at_first(record):
    image = record['dynamodb']['NewImage']
    if image['n']['N'] == '4' and image['key']['S'].endswith('0') and record['eventID'] not in seen:
        seen.add(record['eventID'])
        raise ValueError('not yet')
    works(record)
handler.handle = fails_at_first
handler.SECRET = b''
";

#[test]
fn records_that_fail_come_again_and_none_overtakes_them() {
    let fixture = Fixture::new("--shards 2");
    let mut handler = PythonHandler::start(&fixture, FAILING);
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 240);
    let mut worker = worker(&fixture, &handler, "");
    handler.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert!(worker.log().contains("records failed, the first of them"), "{}", worker.log());
}

#[test]
fn the_secret_is_taken_from_the_environment_alone_and_shown_nowhere() {
    let line = "run --table Things --app handled --to http://localhost:1/ --print-config";
    let words = || line.split_whitespace();
    let shown = finish(shardkeeper().args(words()).env("SHARDKEEPER_HTTP_SECRET", SECRET));
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains("http://localhost:1/") && !shown.stdout.contains(SECRET), "{}", shown.stdout);

    let refused = finish(shardkeeper().args(words()).args(["--http-secret", SECRET]));
    assert_eq!(refused.code, 64);
    assert!(
        refused.stderr.contains("SHARDKEEPER_HTTP_SECRET") && !refused.stderr.contains(SECRET),
        "{}",
        refused.stderr
    );

    let file = ["--http-secret-file", "/no/such/file"];
    let twice = finish(shardkeeper().args(words()).args(file).env("SHARDKEEPER_HTTP_SECRET", "short"));
    assert_eq!(twice.code, 64);
    for expected in ["exclude each other", "/no/such/file", "needs at least 16"] {
        assert!(twice.stderr.contains(expected), "no {expected:?} in {}", twice.stderr);
    }
    assert!(!twice.stderr.contains("short\n"), "{}", twice.stderr);
}
