//! The options of `shardkeeper multilang`.

use clap::Args;

use super::run::RunArgs;
use super::value;

const EPILOGUE: &str = "All options of run may follow; they go before the properties. --print-config shows what a file \
                        comes to.\n\nExample:\n  shardkeeper multilang app.properties";

/// Run processors in any language by a properties file of KCL's MultiLangDaemon
///
/// Runs the processors of an application for KCL's MultiLangDaemon, in Python, Node, Ruby or .NET, by its properties
/// file, without a JVM: a child process for each shard, which gets records and answers on its standard input and output.
#[derive(Args)]
#[command(after_help = EPILOGUE, next_line_help = true)]
pub struct MultilangArgs {
    /// The properties file.
    #[arg(value_name = "FILE", value_parser = value::text)]
    properties: Option<String>,
    /// The properties file, as launchers give it.
    #[arg(long, short = 'p', value_name = "FILE", value_parser = value::text)]
    properties_file: Option<String>,
    /// Accepted for launchers, and not read: it configures the JVM's log.
    #[arg(long, short = 'l', value_name = "FILE", value_parser = value::text)]
    log_configuration: Option<String>,
    #[command(flatten)]
    pub run: RunArgs,
}
