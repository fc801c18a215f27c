//! The `shardkeeper` program.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shardkeeper::main()
}
