//! Waiting for a condition, with a limit that only a fault reaches.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Far more than any wait takes on a slow and busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `is_so` holds; `what` names it when that never happens.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || is_so().then_some(()));
}

/// Waits until `attempt` returns something; `what` names it when that never happens.
#[expect(clippy::disallowed_methods, reason = "a test that watches processes uses the machine's clock")]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(started.elapsed() < LIMIT, "waited {LIMIT:?} in vain for {what}");
        pause();
    }
}

/// The time of day, which programs and services take from the machine.
#[expect(clippy::disallowed_methods, reason = "a test that watches processes uses the machine's clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// The pause between two polls of a state that other processes change.
#[expect(clippy::disallowed_methods, reason = "a test's thread has nothing else to do")]
pub fn pause() {
    thread::sleep(POLL_INTERVAL);
}

/// Sleeps through a period that the test is about, such as an outage that is longer than a lease.
#[expect(clippy::disallowed_methods, reason = "the length of time is what is tested")]
pub fn let_last(duration: Duration) {
    thread::sleep(duration);
}
