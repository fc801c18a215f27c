//! Chromium, driven by `tests/browser/driver.mjs`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::support::dynamodb_local::required_in_ci;
use crate::support::tools;
use crate::support::wait::wait_for;

/// The `node_modules` with playwright-core and axe-core.
const VARIABLE: &str = "SHARDKEEPER_TEST_BROWSER";

/// The folder, from the package's own, that pictures of the page are written into.
const PICTURES: &str = "SHARDKEEPER_TEST_PICTURES";

/// A browser with one page. It ends with this value.
pub struct Browser {
    driver: Child,
    /// The browser ends with it.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts the browser. Without it the caller skips its test, with a message; in CI that is a failure.
    pub fn start() -> Option<Browser> {
        let modules = required_in_ci(VARIABLE)?;
        let (node, chromium) = (tools::find("node")?, tools::find("chromium")?);
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/driver.mjs");
        let mut command = Command::new(node);
        command.arg(driver).arg(modules).env("SHARDKEEPER_TEST_CHROMIUM", chromium);
        let mut driver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts");
        let stdin = driver.stdin.take();
        let stdout = BufReader::new(driver.stdout.take().expect("a pipe"));
        Some(Browser { driver, stdin, stdout })
    }

    /// Carries out a command of the driver.
    pub fn run(&mut self, command: &str, mut options: Value) -> Value {
        options["command"] = command.into();
        let stdin = self.stdin.as_mut().expect("it is open");
        writeln!(stdin, "{options}").expect("the driver reads");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("the driver answers");
        let mut answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{command}: the driver ended"));
        assert!(answer["error"].is_null(), "{command} {options}: {}", answer["error"]);
        answer["value"].take()
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) {
        self.run("open", json!({"url": url}));
    }

    /// The texts of all elements that match.
    pub fn texts(&mut self, selector: &str) -> Vec<String> {
        strings(&self.run("read", json!({"selector": selector})))
    }

    /// The text of the only element that matches.
    pub fn text(&mut self, selector: &str) -> String {
        let mut texts = self.texts(selector);
        assert_eq!(texts.len(), 1, "{selector}");
        texts.remove(0)
    }

    /// An attribute of the only element that matches.
    pub fn attribute(&mut self, selector: &str, name: &str) -> String {
        let found = strings(&self.run("read", json!({"selector": selector, "attribute": name})));
        assert_eq!(found.len(), 1, "{selector}");
        found[0].clone()
    }

    /// Waits until the text of the only element that matches is as wanted.
    pub fn wait_for_text(&mut self, selector: &str, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        wait_for(&format!("{selector} to show {what}"), || {
            last = self.text(selector);
            is_so(&last)
        });
        last
    }

    /// The errors in the page's console.
    pub fn errors(&mut self) -> Vec<String> {
        strings(&self.run("errors", json!({})))
    }

    /// The faults that the accessibility checker finds.
    pub fn violations(&mut self) -> Vec<String> {
        strings(&self.run("axe", json!({})))
    }

    /// Writes a picture of the page for the documents, if the environment names a folder for pictures.
    pub fn picture(&mut self, name: &str) {
        if let Some(folder) = std::env::var_os(PICTURES) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(format!("{name}.png"));
            self.run("screenshot", json!({"path": path}));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.driver.wait();
    }
}

fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().expect("an array").iter();
    texts.map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
}
