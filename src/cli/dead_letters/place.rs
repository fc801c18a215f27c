//! Where dead letters are kept: the setting, and the stores that it names.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::aws::clients;
use crate::cli::run_config::AwsOptions;
use crate::cli::value;
use crate::consumer::DeadLetterQueue;
use crate::dead_letters::file::FileStore;
use crate::dead_letters::table::DeadLetterTable;

/// Where dead letters are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the application's table for them.
    Table,
    /// In this file, a line of JSON each.
    File(PathBuf),
    /// In the SQS queue with this URL.
    #[cfg(feature = "sqs")]
    Sqs(String),
}

/// What comes behind the application's name in the table's.
const TABLE_SUFFIX: &str = "-DeadLetters";
/// Calls for dead letters are about no lease, so they may take longer than others: a record of full size is written, or
/// read, in one call.
const CALL_LIMIT: Duration = Duration::from_secs(10);

impl Place {
    /// Reads `table`, `file:PATH` or `sqs:URL`.
    ///
    /// # Errors
    /// What is wrong with the text, and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "table" => Ok(Self::Table),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            #[cfg(feature = "sqs")]
            Some(("sqs", url)) => value::url(url).map(Self::Sqs),
            #[cfg(not(feature = "sqs"))]
            Some(("sqs", url)) => {
                value::url(url)?;
                Err("this program was built without SQS; build it with `--features sqs`".to_owned())
            }
            _ => Err(format!("{text:?} is no place for dead letters; write table, file:PATH or sqs:URL")),
        }
    }

    /// What is wrong with an application's name for this place, if anything.
    pub fn mistake_in_name(&self, app: &str) -> Option<String> {
        const LONGEST: usize = value::TABLE_NAME_MAX - TABLE_SUFFIX.len();
        let is_in_table = !matches!(self, Self::File(_));
        (is_in_table && app.len() > LONGEST).then(|| {
            format!(
                "{app:?} has {} characters; with the table {TABLE_SUFFIX} of its dead letters behind it, a name may \
                 have {LONGEST}",
                app.len()
            )
        })
    }

    /// Opens the store for a worker.
    ///
    /// # Errors
    /// When the AWS environment lacks something, or the file cannot be had.
    pub async fn open(&self, app: &str, aws: &AwsOptions) -> Result<Arc<dyn DeadLetterQueue>, anyhow::Error> {
        Ok(match self {
            Self::Table => Arc::new(table(app, aws).await?),
            Self::File(path) => Arc::new(FileStore::open(path)?),
            #[cfg(feature = "sqs")]
            Self::Sqs(url) => {
                let config = clients::load(&aws.endpoints()).await?;
                let table = DeadLetterTable::new(table_client(&config, aws), app);
                Arc::new(crate::dead_letters::sqs::SqsQueue::new(&config, url, table))
            }
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("table"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            #[cfg(feature = "sqs")]
            Self::Sqs(url) => write!(f, "sqs:{url}"),
        }
    }
}

/// The table of an application's dead letters.
///
/// # Errors
/// When the AWS environment lacks something.
pub async fn table(app: &str, aws: &AwsOptions) -> Result<DeadLetterTable, anyhow::Error> {
    let config = clients::load(&aws.endpoints()).await?;
    Ok(DeadLetterTable::new(table_client(&config, aws), app))
}

fn table_client(config: &clients::SdkConfig, aws: &AwsOptions) -> clients::TableClient {
    // A call's share of the lease duration is a quarter.
    clients::clients(config, &aws.endpoints(), CALL_LIMIT * 4, "dead-letters").tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_as_they_are_written_and_others_are_told_what_to_write() {
        for text in ["table", "file:letters.jsonl", "file:/var/lib/x:y"] {
            assert_eq!(Place::parse(text).expect(text).to_string(), text);
        }
        for wrong in ["", "Table", "file:", "letters.jsonl", "s3://bucket"] {
            assert!(Place::parse(wrong).unwrap_err().contains("write table, file:PATH or sqs:URL"), "{wrong}");
        }
        assert!(Place::parse("sqs:nowhere").is_err());
    }

    #[test]
    fn a_name_must_leave_room_for_the_table() {
        assert_eq!(Place::Table.mistake_in_name(&"a".repeat(243)), None);
        assert!(Place::Table.mistake_in_name(&"a".repeat(244)).is_some());
        assert_eq!(Place::File("x".into()).mistake_in_name(&"a".repeat(249)), None);
    }
}
