//! A JSON scanner that checks as it goes and returns spans instead of values.
//!
//! It walks over a text once, accepts exactly the grammar of RFC 8259 (with a limit on nesting, paired surrogates and
//! finite numbers), and copies nothing. What stands on it decides which spans to keep.

use std::borrow::Cow;

use super::DecodeError;

/// The most objects and arrays open at once. One less than 128, where other decoders (serde_json, the AWS SDK) fail:
/// DynamoDB's own limit of 32 levels needs some 70.
pub(in crate::model) const MAX_DEPTH: u32 = 127;

/// The longest number that is certainly finite when it has no exponent.
const LONGEST_PLAIN_NUMBER: usize = 300;

/// Strings up to this many words of eight bytes are passed in line.
const WORDS_OF_A_SHORT_STRING: usize = 4;

/// The inside of a JSON string, without its quotes.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Text {
    pub(in crate::model) start: usize,
    pub(in crate::model) end: usize,
    /// Whether it holds escapes, so that its bytes are not yet its value.
    pub(in crate::model) escaped: bool,
}

/// A position in a text, and how deep it is in objects and arrays.
#[derive(Clone, Copy)]
pub(in crate::model) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    /// Starts at byte `at` of `text`; offsets in errors count from the start of `text`.
    pub(in crate::model) fn new(text: &'a str, at: usize) -> Self {
        Self { text, at, depth: 0 }
    }

    /// The position, in bytes.
    pub(in crate::model) fn at(&self) -> usize {
        self.at
    }

    /// The number of objects and arrays open here.
    pub(in crate::model) fn depth(&self) -> u32 {
        self.depth
    }

    /// Passes what is left of the objects and arrays that were opened below `depth`.
    ///
    /// Only for text that was checked before: what is passed is not looked at.
    pub(in crate::model) fn leave(&mut self, depth: u32) -> Result<(), DecodeError> {
        while self.depth > depth {
            match self.peek()? {
                b'"' => {
                    self.string("")?;
                    continue;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    /// The text between two offsets that this scanner has given out.
    pub(in crate::model) fn slice(&self, start: usize, end: usize) -> &'a str {
        &self.text[start..end]
    }

    /// An error at the present position.
    pub(in crate::model) fn error(&self, what: &'static str) -> DecodeError {
        DecodeError::new(what, self.at)
    }

    /// Passes whitespace and says which byte comes next, without taking it.
    #[inline(always)]
    pub(in crate::model) fn peek(&mut self) -> Result<u8, DecodeError> {
        match self.text.as_bytes().get(self.at) {
            Some(&byte) if byte > b' ' => Ok(byte),
            _ => self.peek_after_whitespace(),
        }
    }

    fn peek_after_whitespace(&mut self) -> Result<u8, DecodeError> {
        while let Some(&byte) = self.text.as_bytes().get(self.at) {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                _ => return Ok(byte),
            }
        }
        Err(self.error("truncated json"))
    }

    /// Makes sure that only whitespace is left.
    pub(in crate::model) fn finish(&mut self) -> Result<(), DecodeError> {
        match self.peek() {
            Ok(_) => Err(self.error("bytes after the end of the json")),
            Err(_) => Ok(()),
        }
    }

    /// Takes `{` or `[`.
    #[inline(always)]
    pub(in crate::model) fn open(&mut self, bracket: u8, otherwise: &'static str) -> Result<(), DecodeError> {
        if self.peek()? != bracket {
            return Err(self.error(otherwise));
        }
        if self.depth == MAX_DEPTH {
            return Err(self.error("json nested too deep"));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Takes the next member's name and colon, or the object's end (`None`). `first` starts as true for each object.
    #[inline(always)]
    pub(in crate::model) fn next_member(&mut self, first: &mut bool) -> Result<Option<Text>, DecodeError> {
        if !self.next_in(b'}', first, "expected `,` or `}`")? {
            return Ok(None);
        }
        let name = self.string("expected a member name")?;
        if self.peek()? != b':' {
            return Err(self.error("expected `:`"));
        }
        self.at += 1;
        Ok(Some(name))
    }

    /// Moves to the next element of an array; false at its end. `first` starts as true for each array.
    #[inline(always)]
    pub(in crate::model) fn next_element(&mut self, first: &mut bool) -> Result<bool, DecodeError> {
        self.next_in(b']', first, "expected `,` or `]`")
    }

    #[inline(always)]
    fn next_in(&mut self, closing: u8, first: &mut bool, otherwise: &'static str) -> Result<bool, DecodeError> {
        let byte = self.peek()?;
        if byte == b',' && !*first {
            self.at += 1;
            return Ok(true);
        }
        if byte == closing {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        if *first {
            *first = false;
            return Ok(true);
        }
        Err(self.error(otherwise))
    }

    /// Takes `null` if it comes next.
    pub(in crate::model) fn null(&mut self) -> Result<bool, DecodeError> {
        if self.peek()? != b'n' {
            return Ok(false);
        }
        self.literal("null")?;
        Ok(true)
    }

    /// Takes `true` or `false`.
    pub(in crate::model) fn boolean(&mut self) -> Result<bool, DecodeError> {
        match self.peek()? {
            b't' => self.literal("true").map(|()| true),
            b'f' => self.literal("false").map(|()| false),
            _ => Err(self.error("expected a boolean")),
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), DecodeError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("expected a json value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Takes a string.
    #[inline(always)]
    pub(in crate::model) fn string(&mut self, otherwise: &'static str) -> Result<Text, DecodeError> {
        if self.peek()? != b'"' {
            return Err(self.error(otherwise));
        }
        self.at += 1;
        let start = self.at;
        self.pass_plain();
        if self.text.as_bytes().get(self.at) == Some(&b'"') {
            let end = self.at;
            self.at += 1;
            return Ok(Text { start, end, escaped: false });
        }
        self.rest_of_string(start)
    }

    /// The part of a string from its first escape (or what else stands there) on.
    fn rest_of_string(&mut self, start: usize) -> Result<Text, DecodeError> {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => {
                    let end = self.at;
                    self.at += 1;
                    return Ok(Text { start, end, escaped: true });
                }
                Some(b'\\') => {
                    self.escape()?;
                }
                Some(_) => return Err(self.error("control character in a string")),
                None => return Err(self.error("truncated json")),
            }
            self.pass_plain();
        }
    }

    /// Moves to the next quote, backslash or control character, or to the end of the text: a word of eight bytes at a
    /// time, since most strings here are names and values of a few bytes.
    #[inline(always)]
    fn pass_plain(&mut self) {
        let mut at = self.at;
        for _ in 0..WORDS_OF_A_SHORT_STRING {
            let Some(word) = self.text.as_bytes().get(at..).and_then(|rest| rest.first_chunk::<8>()) else { break };
            let stops = stops_in(u64::from_le_bytes(*word));
            if stops != 0 {
                self.at = at + (stops.trailing_zeros() / 8) as usize;
                return;
            }
            at += 8;
        }
        self.at = at;
        self.pass_plain_of_long_string();
    }

    /// The same for what is longer: twice over it, with vector instructions, is still faster than once without.
    #[inline(never)]
    fn pass_plain_of_long_string(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        let plain = &rest[..memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
        let least = plain.iter().copied().fold(u8::MAX, u8::min);
        let control = if least < b' ' { plain.iter().position(|&byte| byte < b' ') } else { None };
        self.at += control.unwrap_or(plain.len());
    }

    /// Takes one escape (two, for a surrogate pair) and says which character it stands for.
    fn escape(&mut self) -> Result<char, DecodeError> {
        let Some(&letter) = self.text.as_bytes().get(self.at + 1) else {
            return Err(DecodeError::new("truncated json", self.text.len()));
        };
        let plain = match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return Err(self.error("unknown escape in a string")),
        };
        self.at += 2;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Result<char, DecodeError> {
        let start = self.at;
        let lone = || DecodeError::new("unpaired surrogate in a string", start);
        let first = self.hex_escape()?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).ok_or_else(lone);
        }
        if first >= 0xdc00 || !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
            return Err(lone());
        }
        let second = self.hex_escape()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(lone());
        }
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        char::from_u32(code).ok_or_else(lone)
    }

    /// Takes `\uXXXX`, of which `\u` has been seen.
    fn hex_escape(&mut self) -> Result<u32, DecodeError> {
        let Some(digits) = self.text.as_bytes().get(self.at + 2..self.at + 6) else {
            return Err(DecodeError::new("truncated json", self.text.len()));
        };
        let mut code = 0;
        for &digit in digits {
            let Some(value) = char::from(digit).to_digit(16) else {
                return Err(self.error("malformed \\u escape in a string"));
            };
            code = code * 16 + value;
        }
        self.at += 6;
        Ok(code)
    }

    /// The value of a string: borrowed where it holds no escape.
    #[inline(always)]
    pub(in crate::model) fn value_of(&self, text: Text) -> Result<Cow<'a, str>, DecodeError> {
        if text.escaped {
            self.unescape(text).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(&self.text[text.start..text.end]))
        }
    }

    #[cold]
    fn unescape(&self, text: Text) -> Result<String, DecodeError> {
        let mut inside = Scanner::new(&self.text[..text.end], text.start);
        let mut value = String::with_capacity(text.end - text.start);
        loop {
            let start = inside.at;
            inside.pass_plain();
            value.push_str(&inside.text[start..inside.at]);
            if inside.at == text.end {
                return Ok(value);
            }
            value.push(inside.escape()?);
        }
    }

    /// Takes a number and returns its text.
    #[inline]
    pub(in crate::model) fn number(&mut self) -> Result<&'a str, DecodeError> {
        self.peek()?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        if bytes[self.at] == b'-' {
            self.at += 1;
        }
        match bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        let has_exponent = matches!(bytes.get(self.at), Some(b'e' | b'E'));
        if has_exponent {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let number = &self.text[start..self.at];
        let certainly_finite = !has_exponent && number.len() <= LONGEST_PLAIN_NUMBER;
        if !certainly_finite && !number.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(DecodeError::new("number out of range", start));
        }
        Ok(number)
    }

    /// Takes one digit or more.
    fn digits(&mut self) -> Result<(), DecodeError> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            let what = if rest.is_empty() { "truncated json" } else { "expected a digit" };
            return Err(self.error(what));
        }
        self.at += count;
        Ok(())
    }

    /// Moves to the value of the member `wanted` of the object that comes next.
    pub(in crate::model) fn enter_member(&mut self, wanted: &str) -> Result<Option<()>, DecodeError> {
        self.open(b'{', "expected an object")?;
        let mut first = true;
        while let Some(name) = self.next_member(&mut first)? {
            if *self.value_of(name)? == *wanted {
                return Ok(Some(()));
            }
            self.skip_value()?;
        }
        Ok(None)
    }

    /// Passes one value of any kind.
    pub(in crate::model) fn skip_value(&mut self) -> Result<(), DecodeError> {
        match self.peek()? {
            b'"' => self.string("").map(drop),
            b'{' => self.skip_object(),
            b'[' => self.skip_array(),
            b't' | b'f' => self.boolean().map(drop),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            _ => Err(self.error("expected a json value")),
        }
    }

    fn skip_object(&mut self) -> Result<(), DecodeError> {
        self.open(b'{', "expected an object")?;
        let mut first = true;
        while self.next_member(&mut first)?.is_some() {
            self.skip_value()?;
        }
        Ok(())
    }

    fn skip_array(&mut self) -> Result<(), DecodeError> {
        self.open(b'[', "expected an array")?;
        let mut first = true;
        while self.next_element(&mut first)? {
            self.skip_value()?;
        }
        Ok(())
    }
}

/// Marks the bytes of a word at which plain string text ends; the lowest mark is exact, those above it may be echoes.
#[inline(always)]
fn stops_in(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let is_quote = quote.wrapping_sub(ONES) & !quote;
    let is_backslash = backslash.wrapping_sub(ONES) & !backslash;
    let is_control = word.wrapping_sub(ONES * b' ' as u64) & !word;
    (is_quote | is_backslash | is_control) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(text: &str) -> Result<(), DecodeError> {
        let mut scanner = Scanner::new(text, 0);
        scanner.skip_value()?;
        scanner.finish()
    }

    #[test]
    fn strings_of_each_length_end_where_their_first_special_byte_is() {
        for length in 0..150 {
            for stop in ["\"", "\\n\"", "\u{1}"] {
                let text = format!("\"{}{stop} é\"", "ü".repeat(length / 2) + &"x".repeat(length % 2));
                let mut scanner = Scanner::new(&text, 1);
                scanner.pass_plain();
                assert_eq!(scanner.at(), 1 + length, "{text:?}");
            }
        }
        let mut unended = Scanner::new("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0);
        unended.pass_plain();
        assert_eq!(unended.at(), 73);
    }

    #[test]
    fn accepts_and_refuses_what_serde_json_does() {
        let texts = [
            "{}",
            "[]",
            " [ ] ",
            "{ }",
            "[1,2]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\":1,}",
            "{,}",
            "{\"a\"}",
            "{a:1}",
            "01",
            "-",
            "-0",
            "-01",
            "1.",
            "1.5",
            ".5",
            "1e5",
            "1E+5",
            "1e",
            "1e+",
            "1e999",
            "-1e-999",
            "nul",
            "null",
            "nullx",
            "true",
            "false",
            "tru",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\"",
            "\"\\ude00\"",
            "\"\\ud83d\\u0041\"",
            "\"\\ud83dx\"",
            "\"a\u{1}\"",
            "\"12345678\u{1f}\"",
            "\"12345678\n\"",
            "\"é😀\u{7f}\"",
            "",
            " ",
            "[",
            "{",
            "[1",
            "{\"a\":",
            "]",
            "}",
            "1 2",
            "\u{feff}1",
            "\u{a0}1",
            "[[]",
            "[]]",
            "{\"a\":[}]",
            "\"\\/\\b\\f\\n\\r\\t\\\\\"",
            "+1",
            "NaN",
            "1e-1",
            "\u{b}1",
        ];
        for text in texts {
            let expected = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(accepts(text).is_ok(), expected, "{text:?}: {:?}", accepts(text));
        }
    }

    #[test]
    fn a_stop_is_found_at_every_place_of_a_word() {
        for stop in ["\"", "\\", "\u{0}", "\u{1f}"] {
            for before in 0..40 {
                let text = format!("{}{stop}ab\u{7f}é cdefghijkl", "x é"[..1].repeat(before));
                let mut scanner = Scanner::new(&text, 0);
                scanner.pass_plain();
                assert_eq!(scanner.at, before);
            }
        }
    }

    #[test]
    fn nesting_is_accepted_up_to_the_limit_only() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(accepts(&nested(MAX_DEPTH as usize)).is_ok());
        assert!(accepts(&nested(MAX_DEPTH as usize + 1)).is_err());
        assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH as usize)).is_ok());
    }

    #[test]
    fn escapes_become_their_characters() {
        let text = r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é""#;
        let mut scanner = Scanner::new(text, 0);
        let span = scanner.string("").unwrap();
        let expected: String = serde_json::from_str(text).unwrap();
        assert_eq!(scanner.value_of(span).unwrap(), expected);
    }
}
