//! A real Alertmanager with the shipped inhibition rules, and the pager that it calls.

use std::collections::BTreeSet;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::prometheus_server::free_address;
use crate::support::http;
use crate::support::wait::wait_for;

const SHIPPED: &str = include_str!("../../../observability/prometheus/alertmanager.yml");

/// An Alertmanager that sends within a second what the shipped one sends within a minute.
pub struct Alertmanager {
    process: Child,
    pub address: SocketAddr,
    called: Arc<Mutex<BTreeSet<String>>>,
}

impl Alertmanager {
    pub fn start(program: &Path) -> Self {
        let address = free_address();
        let name = format!("alertmanager-{}-{}", std::process::id(), address.port());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("a folder of the test's own");
        let (pager, called) = pager();
        std::fs::write(folder.join("alertmanager.yml"), config(pager)).expect("it can be written");
        let process = Command::new(program)
            .arg(format!("--config.file={}", folder.join("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", folder.display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--cluster.listen-address=", "--log.level=error"])
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let alertmanager = Self { process, address, called };
        wait_for("Alertmanager to be ready", || TcpStream::connect(address).is_ok());
        alertmanager
    }

    /// The alerts that the pager was called for since this was last asked.
    pub fn take_calls(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.called.lock().expect("no thread panics with it"))
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The shipped configuration with an address for the receiver `pager`.
fn config(pager: SocketAddr) -> String {
    let mut config = SHIPPED.to_owned();
    for (line, more) in [
        ("  - name: pager\n", format!("    webhook_configs: [{{url: 'http://{pager}/'}}]\n")),
        ("  group_by: [app, table]\n", "  group_wait: 1s\n  group_interval: 1s\n".to_owned()),
    ] {
        assert!(config.contains(line), "no {line:?} in the configuration");
        config = config.replace(line, &format!("{line}{more}"));
    }
    config
}

/// A pager, and the names of the alerts that fired when it was called.
fn pager() -> (SocketAddr, Arc<Mutex<BTreeSet<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (address, called) = (listener.local_addr().expect("its address"), Arc::new(Mutex::default()));
    let shared = Arc::clone(&called);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let called = Arc::clone(&shared);
            std::thread::spawn(move || take_calls(stream, &called));
        }
    });
    (address, called)
}

fn take_calls(mut stream: TcpStream, called: &Mutex<BTreeSet<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some((_, call)) = http::read_call(&mut reader)? {
        let alerts = call["alerts"].as_array().expect("alerts").iter();
        let firing = alerts.filter(|alert| alert["status"] == "firing");
        let names = firing.map(|alert| alert["labels"]["alertname"].as_str().expect("a name").to_owned());
        called.lock().expect("no thread panics with it").extend(names);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
    Ok(())
}
