//! A table or a file of dead letters, for commands that read, replace and delete letters.

use anyhow::{anyhow, bail};
use tokio::time::{Duration, Instant};

use super::file::{FileStore, Identity, identity};
use super::letter::{DeadLetter, LetterId};
use super::table::{DeadLetterTable, Entry, LetterKey};
use super::target::DeadLetterTarget;
use crate::aws::clients::{self, Endpoints};
use crate::aws::{TableError, credentials};
use crate::model::lease::ShardId;

/// The time between two reports of progress with a large table.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
const FILE_PAGE: usize = 200;

/// A store of dead letters.
pub enum LetterStore {
    /// A table.
    Table(DeadLetterTable),
    /// A file.
    File(FileStore),
}

/// The key of a letter in its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterRef {
    /// In a table.
    Table(LetterKey),
    /// In a file.
    File(Identity),
}

/// A letter in its store.
pub struct StoredLetter {
    /// Its key.
    pub at: LetterRef,
    /// The letter, or the reason why it cannot be read.
    pub letter: Result<DeadLetter, String>,
}

impl StoredLetter {
    /// The letter's id, or the key of an item in a table that has none.
    pub fn name(&self) -> String {
        match (&self.letter, &self.at) {
            (Ok(letter), _) => letter.id().to_string(),
            (Err(_), LetterRef::File((_, id))) => id.to_string(),
            (Err(_), LetterRef::Table(key)) => match key.letter_id() {
                Some(id) => id.to_string(),
                None => format!("{} {}", key.shard(), key.position()),
            },
        }
    }
}

impl LetterStore {
    /// Opens a store for reading.
    ///
    /// # Errors
    /// When the AWS environment lacks something, or the file cannot be read.
    pub async fn open_read_only(
        target: &DeadLetterTarget,
        app: &str,
        endpoints: &Endpoints,
    ) -> Result<Self, anyhow::Error> {
        match target {
            DeadLetterTarget::File(path) => Ok(Self::File(FileStore::open_read_only(path)?)),
            _ => Self::open_table(app, endpoints).await,
        }
    }

    /// Opens a store for reading and writing.
    ///
    /// # Errors
    /// As [`LetterStore::open_read_only`], and when another process writes to the file.
    pub async fn open(target: &DeadLetterTarget, app: &str, endpoints: &Endpoints) -> Result<Self, anyhow::Error> {
        match target {
            DeadLetterTarget::File(path) if !path.exists() => {
                bail!("there are no dead letters in {}: there is no such file", path.display())
            }
            DeadLetterTarget::File(path) => Ok(Self::File(FileStore::open(path)?)),
            _ => Self::open_table(app, endpoints).await,
        }
    }

    async fn open_table(app: &str, endpoints: &Endpoints) -> Result<Self, anyhow::Error> {
        let config = clients::load(endpoints).await?;
        credentials::check(&config).await?;
        let table = DeadLetterTable::from_config(&config, app);
        table.check().await?;
        Ok(Self::Table(table))
    }

    /// Calls `visit` with all letters, or those of one shard, page by page; each shard's together and in order.
    ///
    /// # Errors
    /// When a page cannot be read, and the errors of `visit`.
    pub async fn scan(
        &self,
        shard: Option<&ShardId>,
        visit: &mut impl FnMut(Vec<StoredLetter>) -> Result<(), anyhow::Error>,
    ) -> Result<(), anyhow::Error> {
        match self {
            Self::Table(table) => {
                let (mut next, mut letters, mut reported) = (None, 0, Instant::now());
                loop {
                    let page = table.page(shard, next).await.map_err(table_error)?;
                    letters += page.entries.len();
                    visit(page.entries.into_iter().map(from_table).collect())?;
                    next = page.next;
                    if next.is_none() {
                        return Ok(());
                    }
                    if reported.elapsed() >= PROGRESS_INTERVAL {
                        reported = Instant::now();
                        tracing::info!(letters, "reading the dead letters");
                    }
                }
            }
            Self::File(file) => {
                let mut identities = file.identities();
                identities.retain(|(_, id)| shard.is_none_or(|shard| id.shard_id == *shard));
                for page in identities.chunks(FILE_PAGE) {
                    let page = page.iter().filter_map(|identity| read_file(file, identity).transpose());
                    visit(page.collect::<Result<_, _>>()?)?;
                }
                Ok(())
            }
        }
    }

    /// The letters with these ids.
    ///
    /// # Errors
    /// When they cannot be read, or an id names no letter.
    pub async fn find(&self, ids: &[LetterId]) -> Result<Vec<StoredLetter>, anyhow::Error> {
        let (mut all, mut unknown) = (Vec::new(), Vec::new());
        for id in ids {
            let before = all.len();
            match self {
                Self::Table(table) => {
                    all.extend(table.find(id).await.map_err(table_error)?.into_iter().map(from_table));
                }
                Self::File(file) => {
                    for identity in file.identities().iter().filter(|(_, known)| known == id) {
                        all.extend(read_file(file, identity)?);
                    }
                }
            }
            if all.len() == before {
                unknown.push(id.to_string());
            }
        }
        match unknown.is_empty() {
            true => Ok(all),
            false => bail!("there is no dead letter {}, and nothing was done", unknown.join(", ")),
        }
    }

    /// The letter with this key, if it is still there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, at: &LetterRef) -> Result<Option<StoredLetter>, anyhow::Error> {
        match (self, at) {
            (Self::Table(table), LetterRef::Table(key)) => {
                Ok(table.read(key).await.map_err(table_error)?.map(from_table))
            }
            (Self::File(file), LetterRef::File(identity)) => read_file(file, identity),
            _ => Ok(None),
        }
    }

    /// Replaces a letter, except its record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn replace(&self, letter: &DeadLetter) -> Result<(), anyhow::Error> {
        match self {
            Self::Table(table) => Ok(table.put(letter).await?),
            Self::File(file) => Ok(file.replace(letter)?),
        }
    }

    /// Deletes a letter.
    ///
    /// # Errors
    /// When it is not known whether the letter is deleted.
    pub async fn delete(&self, at: &LetterRef) -> Result<(), anyhow::Error> {
        match (self, at) {
            (Self::Table(table), LetterRef::Table(key)) => drop(table.delete(key).await?),
            (Self::File(file), LetterRef::File(identity)) => file.remove(identity)?,
            _ => {}
        }
        Ok(())
    }

    /// Deletes letters.
    ///
    /// # Errors
    /// When it is not known whether all of them are deleted.
    pub async fn delete_all(&self, letters: &[LetterRef]) -> Result<(), anyhow::Error> {
        if let Self::File(file) = self {
            let identities = letters.iter().filter_map(|at| match at {
                LetterRef::File(identity) => Some(identity.clone()),
                LetterRef::Table(_) => None,
            });
            return Ok(file.remove_all(&identities.collect::<Vec<_>>())?);
        }
        let mut reported = Instant::now();
        for (deleted, at) in letters.iter().enumerate() {
            if reported.elapsed() >= PROGRESS_INTERVAL {
                reported = Instant::now();
                tracing::info!(deleted, of = letters.len(), "deleting dead letters");
            }
            self.delete(at).await?;
        }
        Ok(())
    }

    /// Drops what deletions have left in a file.
    ///
    /// # Errors
    /// When the file cannot be rewritten.
    pub fn compact(&self) -> Result<(), anyhow::Error> {
        match self {
            Self::Table(_) => Ok(()),
            Self::File(file) => Ok(file.compact()?),
        }
    }
}

fn from_table(entry: Entry) -> StoredLetter {
    StoredLetter { at: LetterRef::Table(entry.key), letter: entry.letter }
}

fn read_file(file: &FileStore, at: &Identity) -> Result<Option<StoredLetter>, anyhow::Error> {
    let letter = file.read(at)?;
    // Another process may have rewritten a file that is open only for reading.
    let check = |letter| if identity(&letter) == *at { Ok(letter) } else { Err("its line has changed".to_owned()) };
    Ok(letter.map(|letter| StoredLetter { at: LetterRef::File(at.clone()), letter: check(letter) }))
}

fn table_error(error: TableError) -> anyhow::Error {
    match error {
        TableError::Missing { table, .. } => anyhow!(
            "there are no dead letters here: table {table} does not exist. Check --app, and the region and endpoint in \
             use; with letters in a file, give --from file:PATH"
        ),
        error => error.into(),
    }
}
