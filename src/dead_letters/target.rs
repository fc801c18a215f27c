//! The option that says where dead letters are kept.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::Uri;

use super::file::FileStore;
use super::queue::DeadLetterQueue;
use super::table::DeadLetterTable;
use crate::aws::clients::{self, Endpoints};

/// The table, file or queue that keeps dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterTarget {
    /// The application's dead letter table.
    Table,
    /// A file with this path.
    File(PathBuf),
    /// The SQS queue with this URL.
    #[cfg(feature = "sqs")]
    Sqs(String),
}

impl DeadLetterTarget {
    /// Reads `table`, `file:PATH` or `sqs:URL`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text, and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "table" => Ok(Self::Table),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            #[cfg(feature = "sqs")]
            Some(("sqs", url)) if is_http_url(url) => Ok(Self::Sqs(url.to_owned())),
            #[cfg(not(feature = "sqs"))]
            Some(("sqs", url)) if is_http_url(url) => {
                Err("this program was built without SQS; build it with `--features sqs`".to_owned())
            }
            Some(("sqs", url)) => Err(format!(
                "{url:?} is not a queue's URL; write one like https://sqs.eu-west-1.amazonaws.com/123456789012/letters"
            )),
            _ => Err(format!("{text:?} is no place for dead letters; write table, file:PATH or sqs:URL")),
        }
    }

    /// The reason why an application's name does not suit this target, if there is one.
    pub fn mistake_in_name(&self, app: &str) -> Option<String> {
        const LONGEST: usize = 255 - DeadLetterTable::SUFFIX.len();
        let is_in_table = !matches!(self, Self::File(_));
        (is_in_table && app.len() > LONGEST).then(|| {
            format!(
                "{app:?} has {} characters; a name may have {LONGEST}, because its dead letter table adds {:?} to it",
                app.len(),
                DeadLetterTable::SUFFIX
            )
        })
    }

    /// Opens the queue for a worker.
    ///
    /// # Errors
    /// When the AWS environment lacks something, or the file cannot be opened.
    pub async fn open(&self, app: &str, endpoints: &Endpoints) -> Result<Arc<dyn DeadLetterQueue>, anyhow::Error> {
        Ok(match self {
            Self::Table => Arc::new(DeadLetterTable::from_config(&clients::load(endpoints).await?, app)),
            Self::File(path) => Arc::new(FileStore::open(path)?),
            #[cfg(feature = "sqs")]
            Self::Sqs(url) => {
                let config = clients::load(endpoints).await?;
                let table = DeadLetterTable::from_config(&config, app);
                Arc::new(super::sqs::SqsQueue::new(&config, url, table))
            }
        })
    }
}

impl fmt::Display for DeadLetterTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("table"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            #[cfg(feature = "sqs")]
            Self::Sqs(url) => write!(f, "sqs:{url}"),
        }
    }
}

fn is_http_url(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_they_are_written_and_other_texts_are_refused_with_a_hint() {
        for text in ["table", "file:letters.jsonl", "file:/var/lib/x:y"] {
            assert_eq!(DeadLetterTarget::parse(text).expect(text).to_string(), text);
        }
        for wrong in ["", "Table", "file:", "letters.jsonl", "s3://bucket"] {
            let hint = DeadLetterTarget::parse(wrong).unwrap_err();
            assert!(hint.contains("write table, file:PATH or sqs:URL"), "{wrong}");
        }
        for wrong in ["sqs:", "sqs:nowhere", "sqs:ftp://host/queue", "sqs:http://"] {
            assert!(DeadLetterTarget::parse(wrong).unwrap_err().contains("is not a queue's URL"), "{wrong}");
        }
    }

    #[test]
    fn a_name_must_leave_room_for_the_table() {
        assert_eq!(DeadLetterTarget::Table.mistake_in_name(&"a".repeat(243)), None);
        assert!(DeadLetterTarget::Table.mistake_in_name(&"a".repeat(244)).is_some());
        assert_eq!(DeadLetterTarget::File("x".into()).mistake_in_name(&"a".repeat(249)), None);
    }
}
