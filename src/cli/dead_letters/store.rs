//! Dead letters where they are kept, for commands that look at them and take them out.

use std::fs::File;
use std::path::Path;

use anyhow::{anyhow, bail};
use tokio::time::{Duration, Instant};

use super::config::Selection;
use super::place::{self, Place};
use crate::aws::TableError;
use crate::cli::run_config::AwsOptions;
use crate::dead_letters::file::{self, FileStore, Identity, Index, identity};
use crate::dead_letters::letter::{DeadLetter, LetterId};
use crate::dead_letters::table::{self, DeadLetterTable};

/// How often somebody who waits for a large table is told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Letters of a file that are read at once.
const FILE_PAGE: usize = 200;

/// A store of dead letters.
pub enum Store {
    /// A table.
    Table(DeadLetterTable),
    /// A file that is only looked at.
    Seen(File, Index),
    /// A file that this process has to itself.
    Held(FileStore),
}

/// Where in its store a letter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterRef {
    /// In a table.
    Table(table::Place),
    /// In a file.
    File(Identity),
}

/// What was found in a store.
pub struct Found {
    /// Where it is.
    pub spot: LetterRef,
    /// The letter, or why it cannot be read.
    pub letter: Result<DeadLetter, String>,
}

impl Found {
    /// The letter's id, or what stands for that of something that is none.
    pub fn name(&self) -> String {
        match (&self.letter, &self.spot) {
            (Ok(letter), _) => letter.id().to_string(),
            (Err(_), LetterRef::File((_, id))) => id.to_string(),
            (Err(_), LetterRef::Table(place)) => match id_of(place) {
                Some(id) => id.to_string(),
                None => format!("{} {}", place.shard(), place.position()),
            },
        }
    }
}

/// The id in a table's keys.
fn id_of(place: &table::Place) -> Option<LetterId> {
    let digits = place.position().split('/').next()?.trim_start_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    Some(LetterId { shard_id: place.shard().into(), sequence_number: digits.parse().ok()? })
}

impl Store {
    /// A store to look at.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn look(place: &Place, app: &str, aws: &AwsOptions) -> Result<Self, anyhow::Error> {
        match place {
            Place::File(path) => {
                let (file, index) = file::look(path)?;
                for bad in index.bad() {
                    tracing::warn!("passed over: {bad}");
                }
                Ok(Self::Seen(file, index))
            }
            _ => Ok(Self::Table(place::table(app, aws).await?)),
        }
    }

    /// A store to take letters out of.
    ///
    /// # Errors
    /// When it cannot be had; for a file also while another process has it.
    pub async fn open(place: &Place, app: &str, aws: &AwsOptions) -> Result<Self, anyhow::Error> {
        match place {
            Place::File(path) if !Path::exists(path) => {
                bail!("there are no dead letters in {}: there is no such file", path.display())
            }
            Place::File(path) => Ok(Self::Held(FileStore::open(path)?)),
            _ => Ok(Self::Table(place::table(app, aws).await?)),
        }
    }

    /// Shows all that is selected to `visit`, page by page, those of a shard together and in order.
    ///
    /// # Errors
    /// When something cannot be read, an id names nothing, and what `visit` fails with.
    pub async fn each(
        &self,
        selection: &Selection,
        mut visit: impl FnMut(Vec<Found>) -> Result<(), anyhow::Error>,
    ) -> Result<(), anyhow::Error> {
        if let Selection::Ids(ids) = selection {
            return visit(self.named(ids).await?);
        }
        let shard = match selection {
            Selection::Shard(shard) => Some(shard),
            _ => None,
        };
        match self {
            Self::Table(table) => {
                let (mut next, mut count, mut told) = (None, 0, Instant::now());
                loop {
                    let page = table.page(shard, next).await.map_err(table_error)?;
                    count += page.entries.len();
                    visit(page.entries.into_iter().map(from_table).collect())?;
                    next = page.next;
                    if next.is_none() {
                        return Ok(());
                    }
                    if told.elapsed() >= PROGRESS_INTERVAL {
                        told = Instant::now();
                        eprintln!("{count} letters read so far");
                    }
                }
            }
            Self::Seen(..) | Self::Held(_) => {
                let mut identities = self.identities();
                identities.retain(|(_, id)| shard.is_none_or(|shard| id.shard_id == *shard));
                for page in identities.chunks(FILE_PAGE) {
                    let page: Result<Vec<Found>, _> =
                        page.iter().map(|identity| self.found_in_file(identity)).collect();
                    visit(page?)?;
                }
                Ok(())
            }
        }
    }

    /// What is at a spot now, if anything.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, spot: &LetterRef) -> Result<Option<Found>, anyhow::Error> {
        match (self, spot) {
            (Self::Table(table), LetterRef::Table(place)) => {
                Ok(table.read(place).await.map_err(table_error)?.map(from_table))
            }
            (_, LetterRef::File(identity)) if self.identities().contains(identity) => {
                self.found_in_file(identity).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Writes what is new of a letter.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn replace(&self, letter: &DeadLetter) -> Result<(), anyhow::Error> {
        match self {
            Self::Table(table) => Ok(table.put(letter).await?),
            Self::Held(file) => Ok(file.replace(letter)?),
            Self::Seen(..) => Ok(()),
        }
    }

    /// Takes a letter out, for good.
    ///
    /// # Errors
    /// When it is not known whether it is out.
    pub async fn delete(&self, spot: &LetterRef) -> Result<(), anyhow::Error> {
        match (self, spot) {
            (Self::Table(table), LetterRef::Table(place)) => drop(table.delete(place).await?),
            (Self::Held(file), LetterRef::File(identity)) => file.remove(identity)?,
            _ => {}
        }
        Ok(())
    }

    /// Takes letters out, for good.
    ///
    /// # Errors
    /// When it is not known of some of them whether they are out.
    pub async fn delete_all(&self, spots: &[LetterRef]) -> Result<(), anyhow::Error> {
        if let Self::Held(file) = self {
            let identities = spots.iter().filter_map(|spot| match spot {
                LetterRef::File(identity) => Some(identity.clone()),
                LetterRef::Table(_) => None,
            });
            return Ok(file.remove_all(&identities.collect::<Vec<_>>())?);
        }
        let mut told = Instant::now();
        for (count, spot) in spots.iter().enumerate() {
            self.delete(spot).await?;
            if told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                eprintln!("{} of {} letters deleted so far", count + 1, spots.len());
            }
        }
        Ok(())
    }

    /// Leaves nothing behind of what was taken out.
    ///
    /// # Errors
    /// When a file cannot be written anew.
    pub fn tidy(&self) -> Result<(), anyhow::Error> {
        match self {
            Self::Held(file) => Ok(file.compact()?),
            _ => Ok(()),
        }
    }

    /// The letters with these ids.
    async fn named(&self, ids: &[LetterId]) -> Result<Vec<Found>, anyhow::Error> {
        let (mut all, mut unknown) = (Vec::new(), Vec::new());
        for id in ids {
            let before = all.len();
            match self {
                Self::Table(table) => {
                    all.extend(table.find(id).await.map_err(table_error)?.into_iter().map(from_table));
                }
                _ => {
                    for identity in self.identities().iter().filter(|(_, known)| known == id) {
                        all.push(self.found_in_file(identity)?);
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

    fn identities(&self) -> Vec<Identity> {
        match self {
            Self::Table(_) => Vec::new(),
            Self::Seen(_, index) => index.identities().cloned().collect(),
            Self::Held(file) => file.identities(),
        }
    }

    fn found_in_file(&self, at: &Identity) -> Result<Found, anyhow::Error> {
        let letter = match self {
            Self::Table(_) => None,
            Self::Seen(file, index) => file::read(file, index, at)?,
            Self::Held(file) => file.read(at)?,
        };
        let letter = letter.filter(|letter| identity(letter) == *at).ok_or("its line has changed".to_owned());
        Ok(Found { spot: LetterRef::File(at.clone()), letter })
    }
}

fn from_table(entry: table::Entry) -> Found {
    Found { spot: LetterRef::Table(entry.place), letter: entry.letter }
}

fn table_error(error: TableError) -> anyhow::Error {
    match error {
        TableError::Missing { table } => anyhow!(
            "there are no dead letters here: table {table} does not exist. Check --app, and the region and endpoint in \
             use; with letters in a file, give --from file:PATH"
        ),
        error => error.into(),
    }
}
