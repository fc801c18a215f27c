//! The protocol of systemd's service manager (sd_notify(3)): one datagram for each change of the service's state.
//!
//! Without `NOTIFY_SOCKET` in the environment, nothing is sent.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::socket::Socket;
use crate::telemetry::WorkerTelemetry;

/// Interval at which the worker's state is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// The way to the service manager, if there is one.
#[derive(Clone)]
pub struct Notifier(Option<Arc<Inner>>);

struct Inner {
    socket: Socket,
    /// The time within which the service manager wants to hear from the service.
    watchdog: Option<Duration>,
    phase: Mutex<Phase>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Starting,
    Ready,
    Stopping,
}

impl Notifier {
    /// The socket and the watchdog that the environment names.
    pub fn from_environment() -> Self {
        let Some(socket) = std::env::var_os("NOTIFY_SOCKET").and_then(|name| Socket::open(Path::new(&name))) else {
            return Self(None);
        };
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|length_us| is_ours && *length_us > 0);
        let watchdog = watchdog.map(Duration::from_micros);
        Self(Some(Arc::new(Inner { socket, watchdog, phase: Mutex::new(Phase::Starting) })))
    }

    /// Tells the service manager about the worker for as long as it runs: readiness when it first is ready, its state,
    /// and for the watchdog that its loops come round.
    pub async fn follow(self, telemetry: WorkerTelemetry) {
        let Some(inner) = self.0 else { return };
        let mut shown = String::new();
        let mut alive_at: Option<Instant> = None;
        loop {
            let health = telemetry.health();
            if *inner.phase() == Phase::Starting && health.is_ready() && telemetry.probe().await.is_ready() {
                inner.advance(Phase::Ready, "READY=1");
            }
            let status = match health.not_ready_reasons.first() {
                None => format!("reading {} shards", telemetry.shards()),
                Some(reason) => format!("not ready: {}", reason.replace('\n', " ")),
            };
            if status != shown {
                inner.socket.send(&format!("STATUS={status}"));
                shown = status;
            }
            if let Some(limit) = inner.watchdog
                && alive_at.is_none_or(|at| at.elapsed() >= limit / 4)
                && telemetry.loops_come_round(limit / 2)
            {
                inner.socket.send("WATCHDOG=1");
                alive_at = Some(Instant::now());
            }
            tokio::time::sleep(INTERVAL.min(inner.watchdog.map_or(INTERVAL, |limit| limit / 8))).await;
        }
    }

    /// Tells that the configuration is being read again, until the returned value is dropped.
    pub fn reloading(&self) -> Reloading {
        let inner = self.0.clone().filter(|inner| *inner.phase() == Phase::Ready);
        if let Some(inner) = &inner {
            inner.socket.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", socket::monotonic_us()));
        }
        Reloading(inner)
    }

    /// Tells that the worker is about to end.
    pub fn stopping(&self) {
        if let Some(inner) = &self.0 {
            inner.advance(Phase::Stopping, "STOPPING=1");
        }
    }
}

/// A reload that the service manager knows of.
pub struct Reloading(Option<Arc<Inner>>);

impl Drop for Reloading {
    fn drop(&mut self) {
        if let Some(inner) = &self.0
            && *inner.phase() == Phase::Ready
        {
            inner.socket.send("READY=1");
        }
    }
}

impl Inner {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a later phase, once.
    fn advance(&self, later: Phase, message: &str) {
        let mut phase = self.phase();
        if *phase < later {
            *phase = later;
            self.socket.send(message);
        }
    }
}

#[cfg(unix)]
mod socket {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::path::Path;
    use std::time::Duration;

    /// The wait for a manager that is slow to read: what it misses of readiness and reloads, it would wait for.
    const LONGEST_SEND: Duration = Duration::from_millis(500);

    /// The service manager's socket.
    pub struct Socket {
        own: UnixDatagram,
        manager: SocketAddr,
    }

    impl Socket {
        /// The socket of this path, or of the abstract name that follows an @.
        pub fn open(name: &Path) -> Option<Self> {
            let manager = match name.as_os_str().as_bytes() {
                [b'@', name @ ..] => abstract_address(name)?,
                _ => SocketAddr::from_pathname(name).ok()?,
            };
            let own = UnixDatagram::unbound().ok()?;
            own.set_write_timeout(Some(LONGEST_SEND)).ok()?;
            Some(Self { own, manager })
        }

        /// Sends a message. A manager that is gone or does not read is no failure of the worker.
        pub fn send(&self, message: &str) {
            let _ = self.own.send_to_addr(message.as_bytes(), &self.manager);
        }
    }

    #[cfg(target_os = "linux")]
    fn abstract_address(name: &[u8]) -> Option<SocketAddr> {
        use std::os::linux::net::SocketAddrExt;
        SocketAddr::from_abstract_name(name).ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn abstract_address(_: &[u8]) -> Option<SocketAddr> {
        None
    }

    /// The clock by which the service manager orders reloads.
    pub fn monotonic_us() -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
    }
}

#[cfg(not(unix))]
mod socket {
    use std::path::Path;

    pub struct Socket;

    impl Socket {
        pub fn open(_: &Path) -> Option<Self> {
            None
        }

        pub fn send(&self, _: &str) {}
    }

    pub fn monotonic_us() -> i64 {
        0
    }
}
