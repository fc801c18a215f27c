//! One GetRecords answer: checked whole, indexed once, its bytes kept.

use std::sync::Arc;

use bytes::Bytes;

use super::scan::{Scanner, Text};
use super::value::check_item;
use super::view::{EventName, UserIdentity};
use super::{DecodeError, PageSummary, RecordBatch};
use crate::model::sequence_number::{SequenceNumber, is_sequence_number};

/// A decoded GetRecords answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// The page's records, in the shard's order.
    pub records: RecordBatch,
    /// The facts of the records; `None` for an empty page.
    pub summary: Option<PageSummary>,
    /// The iterator of the next page. `None` is the service's word that these were the shard's last records.
    pub next_shard_iterator: Option<String>,
}

impl Page {
    /// Decodes the body of a successful GetRecords answer.
    ///
    /// The whole body is checked: one that is truncated or malformed anywhere, lacks its `Records` array, or holds a
    /// record without a sequence number, is an error and never a shorter page or an end of shard. Members that are not
    /// known are left alone; they stay in each record's raw JSON. A known member that stands twice in one object is an
    /// error, since decoders differ on which one counts.
    ///
    /// The page takes over the body's memory where it is the only owner of it, and copies it otherwise.
    pub fn decode(body: Bytes) -> Result<Page, DecodeError> {
        let mut text = own_text(body)?;
        let mut indexer = Indexer::new(&text);
        let next_shard_iterator = indexer.index_page()?;
        let Indexer { mut entries, unescaped, .. } = indexer;
        text.push_str(&unescaped);
        if text.capacity() - text.len() > text.len() / 4 {
            text.shrink_to_fit();
        }
        if entries.capacity() > entries.len() * 2 {
            entries.shrink_to_fit();
        }
        Ok(Page::new(RecordBatch::whole(Arc::new(PageData { text, entries })), next_shard_iterator))
    }

    fn new(records: RecordBatch, next_shard_iterator: Option<String>) -> Self {
        Self { summary: PageSummary::of(&records), records, next_shard_iterator }
    }

    /// The page without its records up to and including `position`; see [`RecordBatch::skip_through`].
    #[must_use]
    pub fn skip_through(self, position: &SequenceNumber) -> Self {
        let records = self.records.skip_through(position);
        if records.len() == self.records.len() { self } else { Self::new(records, self.next_shard_iterator) }
    }
}

/// The text and index that a page's records share.
#[derive(Default)]
pub(super) struct PageData {
    /// The body as received, and after it the values of those indexed strings that hold escapes.
    text: String,
    entries: Vec<Entry>,
}

impl PageData {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The text of a span; `None` for what the record does not have.
    #[inline]
    pub(super) fn text_of(&self, span: Span) -> Option<&str> {
        if span == Span::ABSENT {
            return None;
        }
        Some(&self.text[span.start as usize..span.end as usize])
    }

    /// A scanner over the page, at the start of a span.
    pub(super) fn scanner_at(&self, span: Span) -> Option<Scanner<'_>> {
        (span != Span::ABSENT).then(|| Scanner::new(&self.text, span.start as usize))
    }

    /// A scanner over the page, from a byte that [`Span::start`] has given out.
    pub(super) fn scanner_from(&self, start: usize) -> Scanner<'_> {
        Scanner::new(&self.text, start)
    }

    /// The heap that the page holds, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

/// A range of bytes of a page's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// No such member. Nothing that is indexed starts at byte 0: that is the page's own bracket.
    const ABSENT: Span = Span { start: 0, end: 0 };

    pub(super) fn start(self) -> usize {
        self.start as usize
    }

    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// The place of a record and of its most wanted parts. Parts that are seldom read are looked up in the record's JSON.
pub(super) struct Entry {
    pub(super) record: Span,
    pub(super) event_id: Span,
    pub(super) sequence_number: Span,
    pub(super) keys: Span,
    pub(super) new_image: Span,
    pub(super) old_image: Span,
    pub(super) user_identity: Span,
    /// [`NO_SIZE`] when absent.
    pub(super) size_bytes: u64,
    /// In epoch seconds; NaN when absent.
    pub(super) created_at: f64,
    pub(super) event_name: EventName,
}

/// Stands for the size of a record that has none.
pub(super) const NO_SIZE: u64 = u64::MAX;

impl Entry {
    fn blank() -> Self {
        Self {
            record: Span::ABSENT,
            event_id: Span::ABSENT,
            sequence_number: Span::ABSENT,
            keys: Span::ABSENT,
            new_image: Span::ABSENT,
            old_image: Span::ABSENT,
            user_identity: Span::ABSENT,
            size_bytes: NO_SIZE,
            created_at: f64::NAN,
            event_name: EventName::Other,
        }
    }
}

/// Takes the body over as text. Half the reach of an offset is left for unescaped strings, which are never longer than
/// the strings that they come from.
fn own_text(body: Bytes) -> Result<String, DecodeError> {
    if body.len() > (u32::MAX / 2) as usize {
        return Err(DecodeError::new("answer of 2 GiB or more", 0));
    }
    String::from_utf8(Vec::from(body))
        .map_err(|error| DecodeError::new("invalid utf-8", error.utf8_error().valid_up_to()))
}

/// The one pass over a body.
struct Indexer<'a> {
    scanner: Scanner<'a>,
    body_len: usize,
    entries: Vec<Entry>,
    /// Values of indexed strings that hold escapes, to be appended to the body.
    unescaped: String,
}

impl<'a> Indexer<'a> {
    fn new(body: &'a str) -> Self {
        Self { scanner: Scanner::new(body, 0), body_len: body.len(), entries: Vec::new(), unescaped: String::new() }
    }

    /// Indexes the whole answer and returns the iterator that it ends with.
    fn index_page(&mut self) -> Result<Option<String>, DecodeError> {
        let mut seen_records = Once::default();
        let mut seen_iterator = Once::default();
        let mut next_shard_iterator = None;
        self.scanner.open(b'{', "expected an object")?;
        let mut first = true;
        while let Some(name) = self.scanner.next_member(&mut first)? {
            match &*self.scanner.value_of(name)? {
                "Records" => {
                    seen_records.mark(name)?;
                    self.index_records()?;
                }
                "NextShardIterator" => {
                    seen_iterator.mark(name)?;
                    next_shard_iterator = self.next_shard_iterator()?;
                }
                _ => self.scanner.skip_value()?,
            }
        }
        self.scanner.finish()?;
        if !seen_records.0 {
            return Err(self.scanner.error("answer without records"));
        }
        Ok(next_shard_iterator)
    }

    fn next_shard_iterator(&mut self) -> Result<Option<String>, DecodeError> {
        if self.scanner.null()? {
            return Ok(None);
        }
        let text = self.scanner.string("expected a string")?;
        if text.start == text.end {
            return Err(DecodeError::new("empty NextShardIterator", text.start));
        }
        Ok(Some(self.scanner.value_of(text)?.into_owned()))
    }

    fn index_records(&mut self) -> Result<(), DecodeError> {
        self.scanner.open(b'[', "expected an array of records")?;
        let mut first = true;
        while self.scanner.next_element(&mut first)? {
            let entry = self.record()?;
            if self.entries.is_empty() {
                // Records of a page are mostly of one size; and their count is not known before its end.
                let likely_count = self.body_len / entry.record.len().max(1) + 1;
                self.entries.reserve(likely_count.min(MOST_EXPECTED_RECORDS));
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    fn record(&mut self) -> Result<Entry, DecodeError> {
        let mut entry = Entry::blank();
        let mut seen_name = Once::default();
        let mut seen_stream_record = Once::default();
        let (mut seen_version, mut seen_source, mut seen_region) = (Once::default(), Once::default(), Once::default());
        self.scanner.open(b'{', "expected a record")?;
        let start = self.scanner.at() - 1;
        let mut first = true;
        while let Some(name) = self.scanner.next_member(&mut first)? {
            match &*self.scanner.value_of(name)? {
                "eventID" => self.indexed_string(&mut entry.event_id, name)?,
                "eventName" => {
                    seen_name.mark(name)?;
                    entry.event_name = self.event_name()?;
                }
                "dynamodb" => {
                    seen_stream_record.mark(name)?;
                    self.stream_record(&mut entry)?;
                }
                "userIdentity" => self.user_identity(&mut entry.user_identity, name)?,
                "eventVersion" => self.unindexed_string(&mut seen_version, name)?,
                "eventSource" => self.unindexed_string(&mut seen_source, name)?,
                "awsRegion" => self.unindexed_string(&mut seen_region, name)?,
                _ => self.scanner.skip_value()?,
            }
        }
        entry.record = self.span_from(start);
        if entry.sequence_number == Span::ABSENT {
            return Err(DecodeError::new("record without a sequence number", start));
        }
        Ok(entry)
    }

    /// The member `dynamodb`.
    fn stream_record(&mut self, entry: &mut Entry) -> Result<(), DecodeError> {
        let (mut seen_time, mut seen_size, mut seen_view) = (Once::default(), Once::default(), Once::default());
        self.scanner.open(b'{', "expected a stream record")?;
        let mut first = true;
        while let Some(name) = self.scanner.next_member(&mut first)? {
            match &*self.scanner.value_of(name)? {
                "Keys" => self.indexed(&mut entry.keys, name, check_item)?,
                "NewImage" => self.indexed(&mut entry.new_image, name, pass_object)?,
                "OldImage" => self.indexed(&mut entry.old_image, name, pass_object)?,
                "SequenceNumber" => {
                    self.indexed_string(&mut entry.sequence_number, name)?;
                    self.check_sequence_number(entry.sequence_number, name)?;
                }
                "ApproximateCreationDateTime" => {
                    seen_time.mark(name)?;
                    entry.created_at = self.created_at()?;
                }
                "SizeBytes" => {
                    seen_size.mark(name)?;
                    entry.size_bytes = self.size_bytes()?;
                }
                "StreamViewType" => self.unindexed_string(&mut seen_view, name)?,
                _ => self.scanner.skip_value()?,
            }
        }
        Ok(())
    }

    fn event_name(&mut self) -> Result<EventName, DecodeError> {
        if self.scanner.null()? {
            return Ok(EventName::Other);
        }
        let text = self.scanner.string("expected a string")?;
        Ok(EventName::from_wire(&self.scanner.value_of(text)?))
    }

    fn created_at(&mut self) -> Result<f64, DecodeError> {
        if self.scanner.null()? {
            return Ok(f64::NAN);
        }
        let number = self.scanner.number()?;
        number.parse().map_err(|_| self.scanner.error("expected a number"))
    }

    fn size_bytes(&mut self) -> Result<u64, DecodeError> {
        if self.scanner.null()? {
            return Ok(NO_SIZE);
        }
        let number = self.scanner.number()?;
        // The API's type is a signed one of 64 bits; a size is not negative.
        let size = number.parse().ok().filter(|size| i64::try_from(*size).is_ok());
        size.ok_or_else(|| self.scanner.error("expected a size in bytes"))
    }

    fn user_identity(&mut self, slot: &mut Span, name: Text) -> Result<(), DecodeError> {
        self.indexed(slot, name, |scanner| UserIdentity::decode(scanner).map(drop))
    }

    /// Notes where a value is, after `pass` has checked it; null counts as absent.
    #[inline(always)]
    fn indexed(
        &mut self,
        slot: &mut Span,
        name: Text,
        pass: fn(&mut Scanner<'a>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        if *slot != Span::ABSENT {
            return Err(twice(name));
        }
        if self.scanner.null()? {
            return Ok(());
        }
        let start = self.scanner.at();
        pass(&mut self.scanner)?;
        *slot = self.span_from(start);
        Ok(())
    }

    /// Notes where a string's value is; null counts as absent.
    #[inline(always)]
    fn indexed_string(&mut self, slot: &mut Span, name: Text) -> Result<(), DecodeError> {
        if *slot != Span::ABSENT {
            return Err(twice(name));
        }
        if self.scanner.null()? {
            return Ok(());
        }
        let text = self.scanner.string("expected a string")?;
        *slot = if text.escaped {
            let start = self.body_len + self.unescaped.len();
            self.unescaped.push_str(&self.scanner.value_of(text)?);
            span(start, self.body_len + self.unescaped.len())
        } else {
            span(text.start, text.end)
        };
        Ok(())
    }

    fn unindexed_string(&mut self, seen: &mut Once, name: Text) -> Result<(), DecodeError> {
        seen.mark(name)?;
        if self.scanner.null()? {
            return Ok(());
        }
        self.scanner.string("expected a string").map(drop)
    }

    /// A sequence number has 21 to 40 digits by the API; others come from other implementations of it.
    fn check_sequence_number(&self, number: Span, name: Text) -> Result<(), DecodeError> {
        if number == Span::ABSENT {
            return Ok(());
        }
        let start = number.start as usize;
        let digits = match start.checked_sub(self.body_len) {
            Some(start) => &self.unescaped[start..],
            None => self.scanner.slice(start, number.end as usize),
        };
        if !is_sequence_number(digits) {
            return Err(DecodeError::new("malformed sequence number", name.end));
        }
        Ok(())
    }

    fn span_from(&self, start: usize) -> Span {
        span(start, self.scanner.at())
    }
}

/// The most records that room is reserved for, however small the first one of a page is.
const MOST_EXPECTED_RECORDS: usize = 4096;

/// Whether a member has been seen in its object.
#[derive(Default)]
struct Once(bool);

impl Once {
    fn mark(&mut self, name: Text) -> Result<(), DecodeError> {
        if self.0 {
            return Err(twice(name));
        }
        self.0 = true;
        Ok(())
    }
}

fn twice(name: Text) -> DecodeError {
    DecodeError::new("member stands twice", name.start)
}

/// Offsets fit: [`own_text`] has limited the body.
fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}

fn pass_object(scanner: &mut Scanner<'_>) -> Result<(), DecodeError> {
    if scanner.peek()? != b'{' {
        return Err(scanner.error("expected an item"));
    }
    scanner.skip_value()
}
