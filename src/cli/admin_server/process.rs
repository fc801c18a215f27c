//! Gauges of this process's use of the machine, where the system reports it.

use crate::telemetry::catalogue;

/// Sets the process's metrics to what they are now.
pub fn record_gauges() {
    if let Some(seconds) = cpu_seconds() {
        catalogue::PROCESS_CPU.raise_to([], seconds);
    }
    if let Some(bytes) = resident_bytes() {
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory, far below 2^53")]
        catalogue::PROCESS_RESIDENT.set([], bytes as f64);
    }
}

#[cfg(unix)]
fn cpu_seconds() -> Option<u64> {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(used.tv_sec).ok()
}

#[cfg(not(unix))]
fn cpu_seconds() -> Option<u64> {
    None
}

/// Linux alone has this file.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_has_used_its_share_of_time() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpu_seconds().is_some());
    }
}
