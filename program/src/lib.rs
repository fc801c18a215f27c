//! Nothing: the manifest turns on the features of the program for commands that name none, such as `cargo run`.
