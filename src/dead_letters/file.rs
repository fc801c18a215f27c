//! Dead letters in a file: one line of JSON each, appended and synced before a letter counts as kept.
//!
//! Only one process at a time writes to a file: it holds a lock on `FILE.lock` while the file is open. Other processes
//! may read. The last line of a letter counts. A line `{"removed":…}` deletes a letter, until compaction drops both. An
//! unfinished last line, left by a crash, is cut off.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::json;

use super::letter::{DeadLetter, LetterId};
use super::queue::{DeadLetterQueue, QueueFuture};

/// A letter's stream and its id there, which together identify it.
pub type Identity = (String, LetterId);

/// A file of dead letters. Clones share it.
#[derive(Clone, Debug)]
pub struct FileStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: File,
    index: Index,
    /// Keeps other processes from writing.
    _lock: Option<File>,
}

#[derive(Debug, Default)]
struct Index {
    /// Offset and length of each letter's line, in bytes.
    lines: BTreeMap<Identity, (u64, usize)>,
    /// The end of the last complete line.
    end: u64,
    /// Whether compaction would drop lines.
    has_waste: bool,
    lacks_final_line_break: bool,
    /// The numbers of unreadable lines, each with the reason.
    unreadable: Vec<String>,
}

impl FileStore {
    /// Opens a file for reading. Unreadable lines are ignored, with a warning.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open_read_only(path: &Path) -> Result<Self, anyhow::Error> {
        let file = File::open(path).with_context(|| format!("cannot open the dead letters in {}", path.display()))?;
        let index = index(&file, path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in &index.unreadable {
            tracing::warn!(line, "no dead letter, line ignored");
        }
        Ok(Self::new(State { path: path.to_owned(), file, index, _lock: None }))
    }

    /// Opens a file for reading and writing, and makes it when it is missing.
    ///
    /// # Errors
    /// When another process has it open for writing, a line is unreadable, or the operating system refuses.
    pub fn open(path: &Path) -> Result<Self, anyhow::Error> {
        let lock = lock(path)?;
        let context = || format!("cannot keep dead letters in {}", path.display());
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.with_context(context)?;
        if is_new {
            sync_folder(path).with_context(context)?;
        }
        let index = index(&file, path).with_context(context)?;
        if !index.unreadable.is_empty() {
            bail!(
                "{}; correct or remove the lines that are no dead letters: {}",
                context(),
                index.unreadable.join("; ")
            );
        }
        let mut state = State { path: path.to_owned(), file, index, _lock: Some(lock) };
        state.repair_end().with_context(context)?;
        Ok(Self::new(state))
    }

    fn new(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Keeps a letter, unless it is there already. The letter is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, letter: &DeadLetter) -> io::Result<()> {
        let mut state = self.lock();
        let is_kept = state.index.lines.contains_key(&identity(letter));
        if is_kept { Ok(()) } else { state.append(letter) }
    }

    /// Replaces a letter; does nothing when it is not there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, letter: &DeadLetter) -> io::Result<()> {
        let mut state = self.lock();
        let is_kept = state.index.lines.contains_key(&identity(letter));
        if is_kept { state.append(letter) } else { Ok(()) }
    }

    /// Deletes a letter. The deletion is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove(&self, identity: &Identity) -> io::Result<()> {
        let mut state = self.lock();
        if !state.index.lines.contains_key(identity) {
            return Ok(());
        }
        let (stream_arn, id) = identity;
        state.append_line(&json!({"removed": id.to_string(), "stream_arn": stream_arn}).to_string())?;
        state.index.lines.remove(identity);
        state.index.has_waste = true;
        Ok(())
    }

    /// Deletes letters, all at once, and compacts the file.
    ///
    /// # Errors
    /// When the file cannot be written; then no letter is deleted.
    pub fn remove_all(&self, identities: &[Identity]) -> io::Result<()> {
        let mut state = self.lock();
        for identity in identities {
            state.index.lines.remove(identity);
            state.index.has_waste = true;
        }
        state.compact()
    }

    /// Rewrites the file without the lines that no longer count, if there are any.
    ///
    /// # Errors
    /// When the file cannot be written; then it is unchanged.
    pub fn compact(&self) -> io::Result<()> {
        self.lock().compact()
    }

    /// The identities of all letters, in order.
    pub fn identities(&self) -> Vec<Identity> {
        self.lock().index.lines.keys().cloned().collect()
    }

    /// A letter, if it is there.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, identity: &Identity) -> Result<Option<DeadLetter>, anyhow::Error> {
        let state = self.lock();
        let Some((offset, length)) = state.index.lines.get(identity) else { return Ok(None) };
        let line = read_line(&state.file, *offset, *length)?;
        Ok(Some(DeadLetter::from_json(&line)?))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeadLetterQueue for FileStore {
    fn put<'a>(&'a self, letter: &'a DeadLetter) -> QueueFuture<'a> {
        let (file, letter) = (self.clone(), letter.clone());
        Box::pin(async move { Ok(tokio::task::spawn_blocking(move || file.keep(&letter)).await??) })
    }
}

impl State {
    /// Cuts off an unfinished last line, and ends one that lacks only its line break.
    fn repair_end(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length > self.index.end {
            let bytes = length - self.index.end;
            tracing::warn!(path = %self.path.display(), bytes, "unfinished last line cut off");
            self.file.set_len(self.index.end)?;
            self.file.sync_data()?;
        }
        if self.index.lacks_final_line_break {
            self.file.seek(SeekFrom::Start(self.index.end))?;
            self.file.write_all(b"\n")?;
            self.file.sync_data()?;
            self.index.end += 1;
            self.index.lacks_final_line_break = false;
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

    /// Writes a line behind the last complete one, over the remains of a failed attempt, and syncs it.
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

    /// Writes the letters to a new file, then renames it to this one's name.
    fn compact(&mut self) -> io::Result<()> {
        if !self.index.has_waste {
            return Ok(());
        }
        let beside = with_suffix(&self.path, ".new");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).clone();
        let mut file = options.open(&beside)?;
        let mut index = Index::default();
        let mut by_offset: Vec<(&Identity, &(u64, usize))> = self.index.lines.iter().collect();
        by_offset.sort_by_key(|(_, (offset, _))| *offset);
        for (identity, (offset, length)) in by_offset {
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

/// The identity of a letter.
pub fn identity(letter: &DeadLetter) -> Identity {
    (letter.stream_arn.clone(), letter.id())
}

/// A line that deletes a letter.
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
        match index_line(&mut index, text) {
            Ok(()) => index.lacks_final_line_break = is_last,
            Err(_) if is_last => break, // unfinished after a crash, or being written now
            Err(reason) => index.unreadable.push(format!("{}:{number}: {reason}", path.display())),
        }
        index.end += length;
    }
    Ok(index)
}

fn index_line(index: &mut Index, line: &[u8]) -> Result<(), String> {
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

/// Makes a new name in a folder survive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()), // other systems cannot open folders as files
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
    fn a_letter_put_twice_is_kept_once_even_after_reopening_the_file() {
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
    fn an_unfinished_last_line_is_cut_off_and_a_complete_one_without_its_break_is_kept() {
        let folder = Folder::new("torn");
        let (first, second) = (letter(1, "no").to_json(), letter(2, "no").to_json());
        for cut in [1, second.len() / 2, second.len() - 1] {
            std::fs::write(folder.file(), format!("{first}\n{}", &second[..cut])).expect("a file");
            let snapshot = FileStore::open_read_only(&folder.file()).expect("it can be read");
            assert_eq!(snapshot.identities().len(), 1);
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
    fn an_unreadable_line_is_reported_with_its_number_and_left_alone() {
        let folder = Folder::new("bad-line");
        let text = format!("{}\n\n{{}}\n{}\n", letter(1, "no").to_json(), letter(2, "no").to_json());
        std::fs::write(folder.file(), &text).expect("a file");
        let error = FileStore::open(&folder.file()).expect_err("it is not opened").to_string();
        assert!(error.contains("letters.jsonl:3: missing field"), "{error}");
        let snapshot = FileStore::open_read_only(&folder.file()).expect("it can be read");
        assert_eq!(snapshot.identities().len(), 2);
        assert_eq!(std::fs::read_to_string(folder.file()).expect("the file"), text);
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_gone() {
        let folder = Folder::new("two-writers");
        let first = FileStore::open(&folder.file()).expect("it opens");
        first.keep(&letter(1, "no")).expect("it is kept");
        let error = FileStore::open(&folder.file()).expect_err("it is locked").to_string();
        assert!(error.contains("another process keeps its dead letters in"), "{error}");
        assert_eq!(FileStore::open_read_only(&folder.file()).expect("reading is allowed").identities().len(), 1);
        drop(first);
        FileStore::open(&folder.file()).expect("it opens");
    }

    #[test]
    fn a_deleted_letter_stays_deleted_before_and_after_compaction() {
        let folder = Folder::new("taken-out");
        let file = FileStore::open(&folder.file()).expect("it opens");
        (1..=4).for_each(|number| file.keep(&letter(number, "no")).expect("it is kept"));
        file.remove(&identity(&letter(2, ""))).expect("it is deleted");
        file.replace(&letter(3, "still no")).expect("it is replaced");
        file.replace(&letter(9, "never kept")).expect("nothing is done");
        drop(file); // killed
        assert_eq!(folder.lines().len(), 6);
        let file = FileStore::open(&folder.file()).expect("it opens");
        assert_eq!(file.read(&identity(&letter(3, ""))).expect("it reads"), Some(letter(3, "still no")));
        file.remove_all(&[identity(&letter(4, ""))]).expect("it is deleted");
        assert_eq!(folder.lines(), [letter(1, "no").to_json(), letter(3, "still no").to_json()]);
        file.keep(&letter(2, "again")).expect("it is kept");
        assert_eq!(folder.lines().len(), 3);
        assert_eq!(file.identities().len(), 3);
    }
}
