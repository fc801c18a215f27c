//! Waiting for a condition, with a limit that only a fault reaches.

#![allow(dead_code)] // each test binary uses a part of it

use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything that is waited for takes on a slow and busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `is_so` holds; `what` names it when that never happens.
#[expect(clippy::disallowed_methods, reason = "a test that watches processes goes by the machine's clock")]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "waited {LIMIT:?} in vain for {what}");
        pause();
    }
}

/// The pause between two looks at something that other processes change.
#[expect(clippy::disallowed_methods, reason = "a test's thread has nothing else to do")]
pub fn pause() {
    thread::sleep(LOOK_INTERVAL);
}

/// Lets something last that a test is about, such as an outage that is longer than a lease.
#[expect(clippy::disallowed_methods, reason = "the length of time is what is tested")]
pub fn let_last(duration: Duration) {
    thread::sleep(duration);
}
