//! The wall clock: for lag, ages and logs. No lease depends on it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

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
            Self::Simulated { start_ms, start } => start_ms + millis(start.elapsed()),
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
