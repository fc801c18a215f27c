//! Dead letters in a file: a line of JSON each, appended and synced before a letter counts as kept.
//!
//! One process at a time writes to a file: it holds a lock on `FILE.lock` for as long as it has the file open. Others
//! may look. The last line that names a letter counts; a line `{"removed":…}` takes one out, until the file is written
//! anew without it. What a crash left of a line that was never finished is cut off.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::future::Future;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::json;

use crate::consumer::{BoxError, DeadLetterQueue};
use crate::dead_letters::letter::{DeadLetter, LetterId};

/// What tells a letter from all others: its stream, and its id there.
pub type Identity = (String, LetterId);

/// A file that this process has to itself. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct FileStore {
    open: Arc<Mutex<Open>>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    index: Index,
    /// Held until the end.
    _lock: File,
}

/// Where in a file the letters are.
#[derive(Debug, Default)]
pub struct Index {
    /// Offset and length of each letter's line, in bytes.
    lines: BTreeMap<Identity, (u64, usize)>,
    /// Everything before this is whole lines.
    end: u64,
    /// Whether something stands in the file that is no letter: lines that were taken out or have newer ones.
    has_waste: bool,
    /// Whether the last line lacks its line break.
    lacks_break: bool,
    /// Lines that cannot be read, with what is wrong with them.
    bad: Vec<String>,
}

impl Index {
    /// The letters' names, by stream and place.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.lines.keys()
    }

    /// Lines that cannot be read, each with its place and what is wrong.
    pub fn bad(&self) -> &[String] {
        &self.bad
    }
}

/// ReaderEvents the letters in a file, without changing it.
///
/// # Errors
/// When it cannot be read.
pub fn look(path: &Path) -> Result<(File, Index), anyhow::Error> {
    let file = File::open(path).with_context(|| format!("cannot open the dead letters in {}", path.display()))?;
    let index = index(&file, path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((file, index))
}

/// Reads one of the letters that were found in a file.
///
/// # Errors
/// When it cannot be read; nothing when the file never had it.
pub fn read(file: &File, index: &Index, identity: &Identity) -> Result<Option<DeadLetter>, anyhow::Error> {
    let Some((offset, length)) = index.lines.get(identity) else { return Ok(None) };
    let line = read_line(file, *offset, *length)?;
    Ok(Some(DeadLetter::from_json(&line)?))
}

impl FileStore {
    /// Opens a file, or makes it, and keeps all other processes from writing to it.
    ///
    /// # Errors
    /// When another process has it, it holds a line that is no dead letter, or the operating system refuses.
    pub fn open(path: &Path) -> Result<Self, anyhow::Error> {
        let lock = lock(path)?;
        let place = || format!("cannot keep dead letters in {}", path.display());
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.with_context(place)?;
        if is_new {
            sync_folder(path).with_context(place)?;
        }
        let index = index(&file, path).with_context(place)?;
        if !index.bad.is_empty() {
            bail!("{}; mend or remove what is no dead letter: {}", place(), index.bad.join("; "));
        }
        let mut open = Open { path: path.to_owned(), file, index, _lock: lock };
        open.mend().with_context(place)?;
        Ok(Self { open: Arc::new(Mutex::new(open)) })
    }

    /// Keeps a letter, unless it is there already. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, letter: &DeadLetter) -> io::Result<()> {
        let mut open = self.lock();
        let is_kept = open.index.lines.contains_key(&identity(letter));
        if is_kept { Ok(()) } else { open.append(letter) }
    }

    /// Replaces what is kept of a letter; does nothing when it is not there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, letter: &DeadLetter) -> io::Result<()> {
        let mut open = self.lock();
        let is_kept = open.index.lines.contains_key(&identity(letter));
        if is_kept { open.append(letter) } else { Ok(()) }
    }

    /// Takes a letter out: it is out on the disk when this returns.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn remove(&self, identity: &Identity) -> io::Result<()> {
        let mut open = self.lock();
        if !open.index.lines.contains_key(identity) {
            return Ok(());
        }
        let (stream_arn, id) = identity;
        open.append_line(&json!({"removed": id.to_string(), "stream_arn": stream_arn}).to_string())?;
        open.index.lines.remove(identity);
        open.index.has_waste = true;
        Ok(())
    }

    /// Takes letters out, all at once, and writes the file anew.
    ///
    /// # Errors
    /// When it cannot be written; then all of them are still there.
    pub fn remove_all(&self, identities: &[Identity]) -> io::Result<()> {
        let mut open = self.lock();
        for identity in identities {
            open.index.lines.remove(identity);
            open.index.has_waste = true;
        }
        open.compact()
    }

    /// Writes the file anew if anything in it is of no more use.
    ///
    /// # Errors
    /// When it cannot be written; the file is as it was.
    pub fn compact(&self) -> io::Result<()> {
        self.lock().compact()
    }

    /// The letters' names, by stream and place.
    pub fn identities(&self) -> Vec<Identity> {
        self.lock().index.identities().cloned().collect()
    }

    /// A letter, if it is there.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, identity: &Identity) -> Result<Option<DeadLetter>, anyhow::Error> {
        let open = self.lock();
        read(&open.file, &open.index, identity)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeadLetterQueue for FileStore {
    fn put<'a>(&'a self, letter: &'a DeadLetter) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>> {
        let (file, letter) = (self.clone(), letter.clone());
        Box::pin(async move { Ok(tokio::task::spawn_blocking(move || file.keep(&letter)).await??) })
    }
}

impl Open {
    /// Cuts off a line that was never finished, and ends one that only lacks its break.
    fn mend(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length > self.index.end {
            let bytes = length - self.index.end;
            tracing::warn!(path = %self.path.display(), bytes, "cutting off a line that was never finished");
            self.file.set_len(self.index.end)?;
            self.file.sync_data()?;
        }
        if self.index.lacks_break {
            self.file.seek(SeekFrom::Start(self.index.end))?;
            self.file.write_all(b"\n")?;
            self.file.sync_data()?;
            self.index.end += 1;
            self.index.lacks_break = false;
        }
        Ok(())
    }

    fn append(&mut self, letter: &DeadLetter) -> io::Result<()> {
        let line = letter.to_json();
        let offset = self.index.end;
        self.append_line(&line)?;
        let before = self.index.lines.insert(identity(letter), (offset, line.len()));
        self.index.has_waste |= before.is_some();
        Ok(())
    }

    /// Writes a line at the end of the last whole one, whatever a failed attempt has left there, and syncs it.
    fn append_line(&mut self, line: &str) -> io::Result<()> {
        if self.file.metadata()?.len() != self.index.end {
            self.file.set_len(self.index.end)?;
        }
        self.file.seek(SeekFrom::Start(self.index.end))?;
        self.file.write_all([line, "\n"].concat().as_bytes())?;
        self.file.sync_data()?;
        self.index.end += line.len() as u64 + 1;
        Ok(())
    }

    /// Writes the letters to a new file, which then takes this one's name.
    fn compact(&mut self) -> io::Result<()> {
        if !self.index.has_waste {
            return Ok(());
        }
        let beside = with_suffix(&self.path, ".new");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).clone();
        let mut file = options.open(&beside)?;
        let mut index = Index::default();
        let mut by_place: Vec<(&Identity, &(u64, usize))> = self.index.lines.iter().collect();
        by_place.sort_by_key(|(_, (offset, _))| *offset);
        for (identity, (offset, length)) in by_place {
            let line = read_line(&self.file, *offset, *length)?;
            file.write_all([&*line, "\n"].concat().as_bytes())?;
            index.lines.insert(identity.clone(), (index.end, *length));
            index.end += *length as u64 + 1;
        }
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        sync_folder(&self.path)?;
        (self.file, self.index) = (file, index);
        Ok(())
    }
}

/// A letter's identity.
pub fn identity(letter: &DeadLetter) -> Identity {
    (letter.stream_arn.clone(), letter.id())
}

/// A line that takes a letter out.
#[derive(Deserialize)]
struct Removed {
    removed: String,
    stream_arn: String,
}

fn index(file: &File, path: &Path) -> io::Result<Index> {
    let mut index = Index::default();
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            break;
        }
        let is_last = line.last() != Some(&b'\n');
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        match note_line(&mut index, text) {
            Ok(()) => index.lacks_break = is_last,
            Err(_) if is_last => break, // what a crash left, or somebody writes at this moment
            Err(reason) => index.bad.push(format!("{}:{number}: {reason}", path.display())),
        }
        index.end += length;
    }
    Ok(index)
}

fn note_line(index: &mut Index, line: &[u8]) -> Result<(), String> {
    let line = str::from_utf8(line).map_err(|error| error.to_string())?;
    if line.trim().is_empty() {
        return Ok(());
    }
    if let Ok(Removed { removed, stream_arn }) = serde_json::from_str(line) {
        let id = removed.parse().map_err(|error| format!("{error}"))?;
        index.lines.remove(&(stream_arn, id));
        index.has_waste = true;
        return Ok(());
    }
    let letter = DeadLetter::from_json(line).map_err(|error| error.to_string())?;
    let before = index.lines.insert(identity(&letter), (index.end, line.len()));
    index.has_waste |= before.is_some();
    Ok(())
}

fn read_line(mut file: &File, offset: u64, length: usize) -> io::Result<String> {
    let mut line = vec![0; length];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut line)?;
    String::from_utf8(line).map_err(io::Error::other)
}

fn lock(path: &Path) -> Result<File, anyhow::Error> {
    let beside = with_suffix(path, ".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&beside);
    let file = file.with_context(|| format!("cannot make {}", beside.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(anyhow!(
            "another process keeps its dead letters in {}: give each worker a file of its own, or end the worker \
             before its letters are replayed or purged",
            path.display()
        )),
        Err(TryLockError::Error(error)) => {
            Err(anyhow::Error::new(error).context(format!("cannot lock {}", beside.display())))
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a new name in a folder outlast a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()), // no other system opens folders as files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("shardkeeper-{test}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder of the test's own");
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("letters.jsonl")
        }

        fn lines(&self) -> Vec<String> {
            let text = std::fs::read_to_string(self.file()).expect("the file");
            assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn letter(number: u32, error: &str) -> DeadLetter {
        let record = format!(r#"{{"dynamodb":{{"SequenceNumber":"{number}"}}, "x":"\n é"}}"#);
        let number = number.to_string().parse().expect("a sequence number");
        DeadLetter::new("arn:aws:dynamodb:r:1:table/T/stream/L", "shardId-1".into(), number, record, error, 5)
    }

    #[test]
    fn a_letter_put_twice_stands_once_also_when_the_file_was_opened_again() {
        let folder = Folder::new("twice");
        for _ in 0..2 {
            let file = FileStore::open(&folder.file()).expect("it opens");
            file.keep(&letter(1, "no")).expect("it is kept");
            file.keep(&letter(1, "again")).expect("it is kept");
            assert_eq!(file.read(&identity(&letter(1, ""))).expect("it reads"), Some(letter(1, "no")));
        }
        assert_eq!(folder.lines(), [letter(1, "no").to_json()]);
    }

    #[test]
    fn what_a_crash_left_of_a_line_is_cut_off_and_a_whole_one_without_its_break_is_kept() {
        let folder = Folder::new("torn");
        let (first, second) = (letter(1, "no").to_json(), letter(2, "no").to_json());
        for cut in [1, second.len() / 2, second.len() - 1] {
            std::fs::write(folder.file(), format!("{first}\n{}", &second[..cut])).expect("a file");
            let (_, index) = look(&folder.file()).expect("it can be looked at");
            assert!(index.identities().count() == 1 && index.bad().is_empty());
            let file = FileStore::open(&folder.file()).expect("it opens");
            file.keep(&letter(3, "no")).expect("it is kept");
            assert_eq!(folder.lines(), [first.clone(), letter(3, "no").to_json()]);
        }
        std::fs::write(folder.file(), format!("{first}\n{second}")).expect("a file");
        let file = FileStore::open(&folder.file()).expect("it opens");
        file.keep(&letter(3, "no")).expect("it is kept");
        assert_eq!(folder.lines(), [first, second, letter(3, "no").to_json()]);
    }

    #[test]
    fn a_line_that_is_no_letter_is_told_with_its_number_and_left_alone() {
        let folder = Folder::new("bad-line");
        let text = format!("{}\n\n{{}}\n{}\n", letter(1, "no").to_json(), letter(2, "no").to_json());
        std::fs::write(folder.file(), &text).expect("a file");
        let error = FileStore::open(&folder.file()).expect_err("it is not opened").to_string();
        assert!(error.contains("letters.jsonl:3: missing field"), "{error}");
        let (_, index) = look(&folder.file()).expect("it can be looked at");
        assert_eq!((index.identities().count(), index.bad().len()), (2, 1));
        assert_eq!(std::fs::read_to_string(folder.file()).expect("the file"), text);
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_gone() {
        let folder = Folder::new("two-writers");
        let first = FileStore::open(&folder.file()).expect("it opens");
        first.keep(&letter(1, "no")).expect("it is kept");
        let error = FileStore::open(&folder.file()).expect_err("it is locked").to_string();
        assert!(error.contains("another process keeps its dead letters in"), "{error}");
        assert_eq!(look(&folder.file()).expect("looking is allowed").1.identities().count(), 1);
        drop(first);
        FileStore::open(&folder.file()).expect("it opens");
    }

    #[test]
    fn what_was_taken_out_stays_out_before_and_after_the_file_is_written_anew() {
        let folder = Folder::new("taken-out");
        let file = FileStore::open(&folder.file()).expect("it opens");
        (1..=4).for_each(|number| file.keep(&letter(number, "no")).expect("it is kept"));
        file.remove(&identity(&letter(2, ""))).expect("it is taken out");
        file.replace(&letter(3, "still no")).expect("it is replaced");
        file.replace(&letter(9, "never kept")).expect("nothing is done");
        drop(file); // killed
        assert_eq!(folder.lines().len(), 6);
        let file = FileStore::open(&folder.file()).expect("it opens");
        assert_eq!(file.read(&identity(&letter(3, ""))).expect("it reads"), Some(letter(3, "still no")));
        file.remove_all(&[identity(&letter(4, ""))]).expect("it is taken out");
        assert_eq!(folder.lines(), [letter(1, "no").to_json(), letter(3, "still no").to_json()]);
        file.keep(&letter(2, "again")).expect("it is kept");
        assert_eq!(folder.lines().len(), 3);
        assert_eq!(file.identities().len(), 3);
    }
}
