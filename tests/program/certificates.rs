//! TLS with authorities of one's own: a bundle for the services, and handlers behind a proxy.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::dynamodb_local::required_in_ci;
use crate::support::finish;
use crate::support::fixture::{Fixture, Worker, with_credentials};
use crate::support::tools::find;
use crate::surroundings::{Server, assert_reads, until_caught_up, written};

/// Ends TLS for an HTTP server, also behind a CONNECT, whose first line it prints.
const TERMINATOR: &str = r#"
import socket, ssl, sys, threading
certificate, key, host, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)

def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass

def serve(client):
    try:
        if client.recv(1, socket.MSG_PEEK) == b"C":
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            print(head.decode().splitlines()[0], flush=True)
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        secured = context.wrap_socket(client, server_side=True)
        server = socket.create_connection((host, port))
    except OSError:
        return
    threading.Thread(target=copy, args=(server, secured), daemon=True).start()
    copy(secured, server)

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// A TLS server before an HTTP server, with a certificate of an authority that nobody knows.
struct Secured {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    port: u16,
    authority: PathBuf,
}

impl Secured {
    /// Ends TLS for the server at `url` under these names.
    fn start(fixture: &Fixture, names: &str, url: &str) -> Option<Self> {
        let python = required_in_ci("SHARDKEEPER_TEST_PYTHON")?;
        let (authority, certificate) = certificates(fixture, names)?;
        let (host, port) = url.strip_prefix("http://").and_then(|place| place.rsplit_once(':')).expect("a URL");
        let mut command = Command::new(python);
        command.args(["-c", TERMINATOR]).arg(&certificate).arg(certificate.with_extension("key")).args([host, port]);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("Python runs");
        let mut output = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it says where it listens");
        let port = line.trim().parse().expect("a port");
        Some(Self { process, output, port, authority })
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The first line of the first CONNECT.
    fn connect(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it was asked to connect");
        line.trim().to_owned()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The certificates of an authority, and of a server with these names by it, whose key lies beside.
fn certificates(fixture: &Fixture, names: &str) -> Option<(PathBuf, PathBuf)> {
    let openssl = find("openssl")?;
    let folder = fixture.log("certificates");
    std::fs::create_dir_all(&folder).expect("a folder of the test's own");
    std::fs::write(folder.join("names"), format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n"))
        .expect("written");
    let run = |line: &str| {
        let mut command = Command::new(&openssl);
        let finished = finish(command.args(line.split(' ')).current_dir(&folder));
        assert_eq!(finished.code, 0, "{line}: {}", finished.stderr);
    };
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    run(&format!("req -x509 {curve} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    run(&format!("req -new {curve} -keyout server.key -out server.csr -subj /CN=server"));
    run("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names");
    Some((folder.join("ca.pem"), folder.join("server.pem")))
}

/// A worker's command for the services at `url`.
fn worker(fixture: &Fixture, url: &str) -> Command {
    let mut command = until_caught_up(fixture);
    with_credentials(&mut command).args(["--endpoint-url", url]).env("SHARDKEEPER_START_TIMEOUT", "10s");
    command
}

#[test]
fn a_bundle_of_authorities_counts_for_the_services_and_without_it_their_certificate_is_refused() {
    let fixture = written(20);
    let Some(secured) = Secured::start(&fixture, "DNS:localhost", &fixture.service.url()) else { return };
    let mut refused = worker(&fixture, &secured.url());
    let refused = finish(refused.args(["--start-timeout", "2s"]));
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.to_lowercase().contains("certificate"), "{}", refused.stderr);
    let mut trusting = worker(&fixture, &secured.url());
    assert_reads(&finish(trusting.env("AWS_CA_BUNDLE", &secured.authority)), 20);
}

#[test]
fn authorities_that_are_missing_are_named_before_anything_starts() {
    let fixture = written(1);
    for (variable, service, handler) in [
        ("AWS_CA_BUNDLE", "https://localhost:1".to_owned(), "http://localhost:1"),
        ("SSL_CERT_FILE", "https://localhost:1".to_owned(), "http://localhost:1"),
        ("SSL_CERT_FILE", fixture.service.url(), "https://localhost:1"),
        ("SSL_CERT_DIR", fixture.service.url(), "https://localhost:1"),
    ] {
        let mut command = worker(&fixture, &service);
        command.env(variable, "/nowhere/ca.pem").args(["--start-timeout", "1s", "--to", handler]);
        let finished = finish(&mut command);
        assert_eq!(finished.code, 1);
        let words = format!("{variable}: cannot read certificates from /nowhere/ca.pem: No such file");
        assert!(finished.stderr.contains(&words), "{}", finished.stderr);
        assert!(!finished.stderr.contains("WARN") && !finished.stderr.contains("retrying"), "{}", finished.stderr);
    }
}

#[test]
fn a_handler_whose_certificate_is_not_good_is_told_in_words() {
    let fixture = written(1);
    let handler = Server::start(|_| (200, String::new()));
    let Some(secured) = Secured::start(&fixture, "DNS:localhost", &handler.url) else { return };
    let mut command = worker(&fixture, &fixture.service.url());
    let mut worker = Worker::start(command.args(["--to", &secured.url()]), "w", fixture.log("w"));
    worker.wait_for_log("processor unavailable, retrying");
    assert!(worker.log().contains("invalid peer certificate: unknown issuer (SSL_CERT_FILE"), "{}", worker.log());
    worker.kill();
}

#[test]
fn a_handler_over_tls_is_reached_through_a_proxy() {
    let fixture = written(20);
    let handler = Server::start(|_| (200, String::new()));
    let Some(mut proxy) = Secured::start(&fixture, "DNS:handler.invalid", &handler.url) else { return };
    let mut command = worker(&fixture, &fixture.service.url());
    command.args(["--to", "https://handler.invalid/records"]).env("SSL_CERT_FILE", &proxy.authority);
    command.env("NO_PROXY", "127.0.0.1").env("HTTPS_PROXY", format!("http://127.0.0.1:{}", proxy.port));
    let finished = finish(&mut command);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(proxy.connect(), "CONNECT handler.invalid:443 HTTP/1.1");
    let requests = handler.requests();
    assert!(requests.iter().all(|request| request.starts_with("post /records ")), "{requests:?}");
    let records: usize = requests.iter().map(|request| request.matches("SequenceNumber").count()).sum();
    assert_eq!(records, 20);
}
