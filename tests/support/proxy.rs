//! A proxy between one process and a service that can be cut: then packets vanish without an error on either side.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::wait::{let_last, pause};

/// In how many pieces a second a slow proxy passes answers on.
const PIECES_A_SECOND: usize = 10;

/// A port that passes connections on to another.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    is_over: AtomicBool,
}

impl Proxy {
    /// A proxy to the service at `target`.
    pub fn to(target: SocketAddr) -> Proxy {
        Self::throttled(target, usize::MAX)
    }

    /// A proxy through which answers come no faster than this.
    pub fn throttled(target: SocketAddr, bytes_per_second: usize) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::<State>::default();
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if accepting.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(service) = TcpStream::connect(target) else { continue };
                connect(&connection, &service, &accepting, usize::MAX);
                connect(&service, &connection, &accepting, bytes_per_second);
            }
        });
        Proxy { address, state }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nothing comes through, in either direction.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
    }

    /// Connections work again: new ones; those that were used meanwhile are broken.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        self.mend();
        let _ = TcpStream::connect(self.address); // so that the listener looks
    }
}

/// Passes on what comes from one side to the other, until either ends.
fn connect(from: &TcpStream, to: &TcpStream, state: &Arc<State>, bytes_per_second: usize) {
    let clones = (from.try_clone(), to.try_clone());
    let (Ok(mut from), Ok(mut to)) = clones else { return };
    let state = Arc::clone(state);
    thread::spawn(move || {
        let mut bytes = vec![0; (bytes_per_second / PIECES_A_SECOND).min(64 * 1024)];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if state.is_cut.load(Ordering::SeqCst) {
                while state.is_cut.load(Ordering::SeqCst) {
                    pause();
                }
                break; // what is missing is missed
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
            if bytes_per_second < usize::MAX {
                let_last(Duration::from_secs(1) / PIECES_A_SECOND as u32);
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}
