//! A world in which a page's commands run as they are written: a local service with the table of the examples, workers
//! in the background, a handler, and `kubectl` as far as it can be had without a cluster.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::prometheus_server::free_address;
use crate::support::dynamodb_local::required_in_ci;
use crate::support::http;
use crate::support::local_service::{LocalService, signal};
use crate::support::program::{command, environment};
use crate::support::wait::{eventually, let_last, pause, wait_for};

/// The table and the application of the examples.
pub const TABLE: &str = "Phones";
pub const APP: &str = "phone-audit";

/// Commands that need a thing which a test does not have.
const ELSEWHERE: [(&str, &str); 7] = [
    ("docker ", "needs a container engine"),
    ("kind ", "needs a container engine"),
    ("cargo ", "builds what is built here already"),
    ("aws cloudformation ", "creates resources in AWS"),
    ("aws lambda ", "asks for functions, in AWS"),
    ("amtool ", "needs an Alertmanager"),
    ("shardkeeper demo", "lasts a minute, and has a test of its own"),
];

/// The outcome of a command.
#[derive(Debug)]
pub enum Ran {
    /// It ended well.
    Done,
    /// Only its form was checked, by `kubectl` itself.
    Parsed,
    /// It did not run, for this reason.
    Skipped(&'static str),
}

/// A local service and everything that was started on it. All of it ends with this value.
pub struct World {
    pub service: LocalService,
    folder: PathBuf,
    variables: BTreeMap<String, String>,
    workers: Vec<Worker>,
    /// The number of workers that were started.
    started: u32,
    pub handler: Handler,
    /// An Alertmanager to call, if there is one.
    pub alertmanager: Option<SocketAddr>,
    /// The metrics address of the first worker.
    pub metrics: SocketAddr,
    others: Vec<Child>,
    written: Cell<u32>,
}

/// A worker in the background, with its log.
struct Worker {
    process: Child,
    command: String,
    log: PathBuf,
}

impl World {
    /// A world with the programs of this PATH.
    pub fn new(path: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("documents-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("a folder of the test's own");
        let program = Path::new(env!("CARGO_BIN_EXE_shardkeeper")).parent().expect("a folder").display();
        let service = LocalService::start("");
        let mut variables = environment(&service.url());
        variables.insert("PATH".into(), format!("{program}:{path}"));
        // All but the first, whose pages nobody asks for, would fight for one address.
        variables.insert("SHARDKEEPER_METRICS_ADDR".into(), "off".into());
        let handler = Handler::start();
        Self {
            service,
            folder,
            variables,
            workers: Vec::new(),
            started: 0,
            handler,
            alertmanager: None,
            metrics: free_address(),
            others: Vec::new(),
            written: Cell::new(0),
        }
    }

    /// Makes a table with the keys of the examples.
    pub fn create_table(&self, name: &str) {
        let request = json!({
            "TableName": name,
            "AttributeDefinitions": [
                {"AttributeName": "Company", "AttributeType": "S"}, {"AttributeName": "Model", "AttributeType": "S"}],
            "KeySchema": [
                {"AttributeName": "Company", "KeyType": "HASH"}, {"AttributeName": "Model", "KeyType": "RANGE"}],
            "BillingMode": "PAY_PER_REQUEST",
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        });
        self.service.call("CreateTable", &request);
        wait_for("the table to be active", || {
            self.service.call("DescribeTable", &json!({"TableName": name}))["Table"]["TableStatus"] == "ACTIVE"
        });
    }

    /// Carries out a step of a test's own, or a command of a page.
    pub fn step(&mut self, step: &str) -> Result<Ran, String> {
        match step.split(' ').collect::<Vec<_>>()[..] {
            ["table", name] => self.create_table(name),
            ["write", count] => self.write(count.parse().expect("a number")),
            ["handler", "fails"] => self.handler.set(Manner::Failing),
            ["handler", "works"] => self.handler.set(Manner::Well),
            ["letters"] => drop(self.letters()),
            ["stop"] => self.stop_workers(),
            _ => return self.run(step),
        }
        Ok(Ran::Done)
    }

    /// Runs a command as it is written. Words in capitals that stand for a name get one that is there.
    pub fn run(&mut self, written: &str) -> Result<Ran, String> {
        let built = ["cargo run --release -- ", "cargo run -- "].iter().find_map(|start| written.strip_prefix(start));
        let built = built.map(|arguments| format!("shardkeeper {arguments}"));
        let written = built.as_deref().unwrap_or(written);
        if let (Some(arguments), Some(address)) = (written.strip_prefix("amtool "), self.alertmanager) {
            let line = self.filled_in(&format!("amtool --alertmanager.url http://{address} {arguments}"));
            return self.finish(&line, false).map(|_| Ran::Done);
        }
        if let Some((_, reason)) = ELSEWHERE.iter().find(|(start, _)| written.starts_with(start)) {
            return Ok(Ran::Skipped(reason));
        }
        let line = self.filled_in(written);
        if line.starts_with("kubectl ") {
            return self.kubectl(&line);
        }
        if let Some(arguments) = line.strip_prefix("helm install ") {
            // Everything but the cluster's own answer.
            let Some(helm) = required_in_ci("SHARDKEEPER_TEST_HELM") else { return Ok(Ran::Skipped("needs helm")) };
            let line = format!("{} template {arguments}", helm.display());
            return self.finish(&line, false).map(|_| Ran::Parsed);
        }
        if line.contains(" --watch") || line.starts_with("shardkeeper local") {
            return self.finish(&format!("timeout --preserve-status --signal INT 4 {line}"), false).map(|_| Ran::Done);
        }
        if line.starts_with("curl -N ") {
            // It follows until it is told to stop.
            return self.finish(&format!("{line} --max-time 2 || [ $? = 28 ]"), false).map(|_| Ran::Done);
        }
        let is_short = ["--print-config", "--until-caught-up", "--help"].iter().any(|flag| line.contains(flag));
        if line.starts_with("shardkeeper run ") && !is_short {
            return self.start_worker(&line).map(|()| Ran::Done);
        }
        if line.starts_with("python3 ") {
            self.others.push(self.shell(&format!("exec {line}")).stdout(Stdio::null()).spawn().expect("it starts"));
            return Ok(Ran::Done);
        }
        let asks = ["shardkeeper lease ", "shardkeeper replay ", "shardkeeper dead-letters purge "];
        let is_asked = asks.iter().any(|start| line.starts_with(start)) && !line.contains("--dry-run");
        self.finish(&line, is_asked).map(|_| Ran::Done)
    }

    fn finish(&mut self, line: &str, is_asked: bool) -> Result<String, String> {
        let after = self.folder.join("variables");
        let output = match is_asked {
            // A terminal to ask on, on which somebody says yes.
            true => {
                let mut script = self.command("script");
                script.args(["--quiet", "--return", "--command", line, "/dev/null"]);
                let mut process =
                    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("script");
                process.stdin.as_mut().expect("a pipe").write_all(b"y\n").expect("it reads");
                process.wait_with_output().expect("it ends")
            }
            false => {
                let line = format!("{line}\nexport -p >{}", after.display());
                self.shell(&line).output().expect("bash starts")
            }
        };
        let Output { status, stdout, stderr } = output;
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        if !status.success() {
            return Err(format!("{line}\n{status}\n{stdout}{stderr}"));
        }
        if line.starts_with("export ") {
            self.keep_exports(&after);
        }
        Ok(stdout.into_owned())
    }

    /// Keeps what a command exported for those that follow.
    fn keep_exports(&mut self, file: &Path) {
        let text = std::fs::read_to_string(file).expect("the variables");
        for (name, value) in text.lines().filter_map(|line| line.strip_prefix("declare -x ")?.split_once('=')) {
            self.variables.insert(name.to_owned(), value.trim_matches('"').to_owned());
        }
    }

    /// Runs a program in Python with an argument; addresses in it are the world's.
    pub fn python(&self, program: &str, argument: &str) -> Result<(), String> {
        let program = program.replace("localhost:8000", &self.service.address().to_string());
        let output = self.command("python3").args(["-c", &program, argument]).output().expect("python3 starts");
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("{program}\n{said}")) }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program, &self.variables);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        command
    }

    fn shell(&self, line: &str) -> Command {
        let mut bash = self.command("bash");
        bash.args(["-euo", "pipefail", "-c", line]);
        bash
    }

    fn filled_in(&self, line: &str) -> String {
        let (service, handler) = (self.service.address(), self.handler.address);
        let mut line = line.to_owned();
        for address in ["localhost:8000", "127.0.0.1:8000"] {
            line = line.replace(address, &service.to_string());
        }
        for address in ["localhost:8080", "localhost:9000", "127.0.0.1:8080"] {
            line = line.replace(address, &handler.to_string());
        }
        line = line
            .replace("--port 8080", "--port 0")
            .replace("--port 8000", "--port 0")
            .replace("127.0.0.1:9464", &self.metrics.to_string());
        let words = line.split(' ').map(|word| match word {
            "APP" => APP.to_owned(),
            "URL" => format!("http://{handler}/"),
            "…" => format!("http://{handler}/"),
            "WORKER" => "worker-2".to_owned(),
            "SHARD" | "SHARD_ID" | "SHARD_ID…" | "shardId-…" => self.shard(),
            "ID…" => self.letter(),
            word if word.starts_with("shardId-") && word.contains('/') => self.letter(),
            word if word.contains("\"SHARD\"") => word.replace("SHARD", &self.shard()),
            word if word.ends_with("=APP") => word.replace("=APP", &format!("={APP}")),
            word => word.replace("APP-", &format!("{APP}-")),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// `shardkeeper status --json` of the application.
    pub fn status(&self) -> Option<Value> {
        let output = self.shell(&format!("shardkeeper status --app {APP} --json")).output().expect("it starts");
        serde_json::from_slice(&output.stdout).ok()
    }

    /// A shard of the application: one with records, if there is one.
    fn shard(&self) -> String {
        let status = self.status().expect("an application");
        let shards = status["shards"].as_array().expect("shards");
        let letters = self.list_letters();
        let with_letter = |shard: &&Value| letters.iter().any(|letter| letter["shard_id"] == shard["id"]);
        let found = shards.iter().find(with_letter).or(shards.first()).expect("a shard");
        found["id"].as_str().expect("an id").to_owned()
    }

    fn letter(&self) -> String {
        self.letters()[0]["id"].as_str().expect("an id").to_owned()
    }

    /// The dead letters, once there are some.
    pub fn letters(&self) -> Vec<Value> {
        eventually("dead letters", || Some(self.list_letters()).filter(|letters| !letters.is_empty()))
    }

    fn list_letters(&self) -> Vec<Value> {
        let line = format!("shardkeeper dead-letters list --app {APP} --json");
        let output = self.shell(&line).output().expect("it starts").stdout;
        String::from_utf8_lossy(&output).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Writes new items.
    pub fn write(&self, count: u32) {
        for _ in 0..count {
            let model = self.written.get() + 1;
            self.written.set(model);
            let item = json!({"Company": {"S": "Nokia"}, "Model": {"S": model.to_string()}});
            self.service.call("PutItem", &json!({"TableName": TABLE, "Item": item}));
        }
    }

    // Workers.

    fn start_worker(&mut self, line: &str) -> Result<(), String> {
        let log = self.folder.join(format!("worker-{}.log", self.started));
        self.started += 1;
        let stderr = std::fs::File::create(&log).expect("a log");
        let mut command = self.shell(&format!("exec {line}"));
        if self.workers.is_empty() {
            command.env("SHARDKEEPER_METRICS_ADDR", self.metrics.to_string());
        }
        let mut process = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("the worker starts");
        let read = || std::fs::read_to_string(&log).unwrap_or_default();
        let ended = eventually("a worker that works or ends", || match process.try_wait().expect("its state") {
            Some(status) => Some(Some(status)),
            None => {
                let is_working =
                    ["this worker leads the fleet", "lease taken"].iter().any(|words| read().contains(words));
                is_working.then_some(None)
            }
        });
        match ended {
            Some(status) => return Err(format!("{line}\n{status}\n{}", read())),
            None => self.workers.push(Worker { process, command: line.to_owned(), log }),
        }
        if line.contains(&format!("--app {APP}")) && !line.contains("--region ") {
            wait_for("a lease for each shard", || {
                self.status().is_some_and(|status| {
                    let remarks = status["remarks"].as_array();
                    status["shards"] != json!([]) && remarks.is_some_and(Vec::is_empty)
                })
            });
        }
        Ok(())
    }

    /// Stops all workers and waits for their end.
    pub fn stop_workers(&mut self) {
        let mut workers = std::mem::take(&mut self.workers);
        workers.iter().for_each(|worker| signal(&worker.process, "TERM"));
        workers.iter_mut().for_each(|worker| drop(worker.process.wait()));
    }

    /// Stops all workers and starts them again with further variables.
    fn restart_with(&mut self, settings: &str) -> Result<(), String> {
        let settings = settings.split_whitespace().filter_map(|setting| setting.split_once('='));
        self.variables.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let commands: Vec<String> = self.workers.iter().map(|worker| worker.command.clone()).collect();
        self.stop_workers();
        commands.iter().try_for_each(|command| self.start_worker(command))
    }

    /// Kills the worker whose command has these words.
    pub fn kill_worker(&mut self, words: &str) {
        let mut worker = self.take_worker(words);
        worker.process.kill().expect("it is our child");
        worker.process.wait().expect("it is our child");
    }

    /// Stops a worker as an orchestrator does, and waits for its end.
    pub fn stop_worker(&mut self, words: &str) {
        let mut worker = self.take_worker(words);
        signal(&worker.process, "TERM");
        worker.process.wait().expect("it is our child");
    }

    fn take_worker(&mut self, words: &str) -> Worker {
        let at = self.workers.iter().position(|worker| worker.command.contains(words)).expect("such a worker");
        self.workers.remove(at)
    }

    /// The logs of all workers that run.
    pub fn logs(&self) -> String {
        self.workers.iter().map(|worker| std::fs::read_to_string(&worker.log).unwrap_or_default()).collect()
    }

    // Kubernetes.

    /// The form by `kubectl` itself, which fails to reach a cluster only after it has understood everything. A command in
    /// a container runs here, with a container's variables; `scale` stops and starts workers, and `set env` restarts them.
    fn kubectl(&mut self, line: &str) -> Result<Ran, String> {
        let checked = line.replacen("kubectl ", "kubectl --server http://127.0.0.1:1 ", 1);
        let output = self.shell(&checked).env("KUBECONFIG", "/dev/null").output().expect("kubectl starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !said.contains("connection refused") {
            return Err(format!("{line}\n{said}"));
        }
        if let Some((_, inside)) = line.split_once(" -- ") {
            let inside = inside.replace("/usr/local/bin/", "");
            let handler = format!("http://{}/", self.handler.address);
            let variables = [("APP", APP), ("TABLE", TABLE), ("TO", &handler)];
            let settings = variables.map(|(name, value)| format!("export SHARDKEEPER_{name}={value}; "));
            return self.finish(&format!("{}{inside}", settings.concat()), false).map(|_| Ran::Done);
        }
        if let Some((_, settings)) = line.split_once(" set env deployment/shardkeeper ") {
            return self.restart_with(settings).map(|()| Ran::Done);
        }
        let replicas = line.split("--replicas ").nth(1).and_then(|count| count.trim().parse::<u32>().ok());
        match replicas {
            None => return Ok(Ran::Parsed),
            Some(0) => self.stop_workers(),
            Some(count) => {
                for number in 1..=count {
                    self.start_worker(&format!(
                        "shardkeeper run --table {TABLE} --app {APP} --worker-id pod-{number}"
                    ))?;
                }
            }
        }
        Ok(Ran::Done)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.process.kill();
            let _ = worker.process.wait();
            if std::thread::panicking() {
                let log = std::fs::read_to_string(&worker.log).unwrap_or_default();
                eprintln!("--- {}\n{log}", worker.command);
            }
        }
        for process in &mut self.others {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The manner in which a handler answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    Well,
    Failing,
    /// Well, but only after this time.
    Slow(Duration),
    /// Not at all, until this changes.
    Hanging,
}

/// A handler over HTTP that answers as it is told.
pub struct Handler {
    pub address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
}

impl Handler {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (address, manner) = (listener.local_addr().expect("its address"), Arc::new(Mutex::new(Manner::Well)));
        let shared = Arc::clone(&manner);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let manner = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &manner));
            }
        });
        Self { address, manner }
    }

    pub fn set(&self, manner: Manner) {
        *self.manner.lock().expect("no thread panics with it") = manner;
    }
}

/// Answers the requests of one connection until it closes.
fn answer(mut stream: TcpStream, manner: &Mutex<Manner>) -> std::io::Result<()> {
    let now = || *manner.lock().expect("no thread panics with it");
    let mut reader = BufReader::new(stream.try_clone()?);
    while http::read_call(&mut reader)?.is_some() {
        if let Manner::Slow(delay) = now() {
            let_last(delay);
        }
        while now() == Manner::Hanging {
            pause();
        }
        let status = if now() == Manner::Failing { "500 Internal Server Error" } else { "200 OK" };
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
    }
    Ok(())
}
