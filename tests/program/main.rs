//! The program in processes of its own, on the local service and on the official DynamoDB Local: flags and files,
//! workers that fail, stop and share a stream, an operator's commands, and the tables that it keeps.

#![cfg(all(unix, feature = "cli", feature = "local"))]

mod admin;
mod certificates;
mod check;
mod configuration;
#[cfg(feature = "sqs")]
mod dead_letter_queue;
mod dead_letter_table;
mod dead_letters;
#[cfg(target_os = "linux")]
mod demo;
mod documents;
mod effectively_once;
mod field;
mod indexed_table;
mod kcl_table;
mod local_data;
mod local_page;
mod multilang;
mod night;
mod operator;
#[cfg(feature = "otlp")]
mod otlp;
mod page;
mod permissions;
mod processes;
mod prometheus_server;
mod reference;
mod reload;
mod surroundings;
#[cfg(target_os = "linux")]
mod systemd;
mod versions;
mod walkthrough;

#[path = "../support/mod.rs"]
mod support;
