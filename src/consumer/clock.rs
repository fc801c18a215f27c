//! The clocks: the wall clock, for lag, ages and logs, and a stopwatch that counts the time of a suspension too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::millis;

/// A wall clock, real or simulated.
#[derive(Clone, Copy, Debug)]
pub enum WallClock {
    /// The machine's.
    System,
    /// One that runs with the runtime's clock, which may be simulated.
    Simulated {
        /// The wall-clock time at `start`, in milliseconds since the epoch.
        start_ms: u64,
        /// A moment of the runtime's clock.
        start: Instant,
        /// The time since then, in milliseconds, for which the machine was suspended and the runtime's clock stopped.
        suspended_ms: &'static AtomicU64,
    },
}

impl WallClock {
    /// Milliseconds since the epoch.
    pub fn now_ms(self) -> u64 {
        match self {
            Self::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
                let now = SystemTime::now();
                millis(now.duration_since(UNIX_EPOCH).unwrap_or_default())
            }
            Self::Simulated { start_ms, start, suspended_ms } => {
                start_ms + millis(start.elapsed()) + suspended_ms.load(Ordering::Acquire)
            }
        }
    }
}

/// The time since a moment, that of a suspended machine included. The runtime's clock leaves it out: on Linux it is
/// CLOCK_MONOTONIC, on macOS CLOCK_UPTIME_RAW.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    start: Instant,
    /// The same moment by the clock that counts suspension: the machine's, or the simulated clock.
    start_ms: u64,
    clock: WallClock,
}

impl Stopwatch {
    pub(super) fn start(clock: WallClock) -> Self {
        Self { start: Instant::now(), start_ms: counting_ms(clock), clock }
    }

    pub(super) fn elapsed(&self) -> Duration {
        let counted = Duration::from_millis(counting_ms(self.clock).saturating_sub(self.start_ms));
        self.start.elapsed().max(counted)
    }
}

/// Milliseconds since some moment, by a clock that never goes back and that a suspension doesn't stop.
fn counting_ms(clock: WallClock) -> u64 {
    match clock {
        WallClock::Simulated { .. } => clock.now_ms(),
        WallClock::System => boot_ms(),
    }
}

#[cfg(unix)]
fn boot_ms() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux", target_os = "openbsd"))]
    let clock = ClockId::Boottime;
    // On macOS it counts the time asleep; where no clock does, the time of the runtime's clock is all there is.
    #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux", target_os = "openbsd")))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    let ms = time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or_default()
}

/// Windows' clock behind the runtime's counts suspension itself.
#[cfg(not(unix))]
fn boot_ms() -> u64 {
    0
}
