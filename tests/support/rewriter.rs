//! A proxy between a process and a service that changes what is asked or answered, as an emulator has it.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::Value;

use crate::support::http::{self, Answer};

/// Carries an operation with its body out, by calling the service or not.
type Carry = dyn Fn(&str, &Value) -> Answer + Send + Sync;

/// A port that passes calls on through a function. It serves until the test's process ends.
pub struct Rewriter(SocketAddr);

impl Rewriter {
    /// A proxy whose every call is carried out by `carry`.
    pub fn new(carry: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let carry: Arc<Carry> = Arc::new(carry);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let carry = Arc::clone(&carry);
                thread::spawn(move || serve(&connection, &*carry));
            }
        });
        Self(address)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

fn serve(connection: &TcpStream, carry: &Carry) -> io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection.try_clone()?;
    while let Some((operation, body)) = http::read_call(&mut reader)? {
        let Answer { status, body } = carry(&operation, &body);
        let body = body.to_string();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} Rewritten\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {length}\r\n\r\n"
        );
        writer.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    }
    Ok(())
}
