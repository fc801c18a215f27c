//! Programs that some tests need and that come with the operating system.

use std::path::PathBuf;

/// Finds a program on the PATH. Without it the caller skips its test, with a message; in CI that is a failure.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!in_ci, "{program} is not installed, and CI skips no tests");
        eprintln!("SKIPPED: {program} is not installed (.ci/run sees to that)");
    }
    found
}
