//! JSON written in every way that JSON may be written.

/// A JSON value whose objects keep their members as they come.
#[derive(Clone, Debug)]
pub enum Json {
    Null,
    Bool(bool),
    /// A number's text.
    Number(String),
    String(String),
    /// A string that stands as it is in every style.
    Plain(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// A string.
pub fn string(text: &str) -> Json {
    Json::String(text.to_owned())
}

/// An object.
pub fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.map(|(name, value)| (name.to_owned(), value)).into())
}

/// Writes JSON in a style that follows from a seed: compact or with any whitespace, members in any order, characters
/// escaped or not.
pub struct Writer {
    state: u64,
    spaced: bool,
    escaping: u64,
    text: String,
}

impl Writer {
    /// A writer in the style of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, spaced: seed & 1 == 1, escaping: [0, 3, 30][(seed >> 1) as usize % 3], text: String::new() }
    }

    /// The text of `value`, with whitespace around it.
    pub fn write(mut self, value: &Json) -> String {
        self.space();
        self.value(value);
        self.space();
        self.text
    }

    /// The text of `value` alone.
    pub fn write_bare(mut self, value: &Json) -> String {
        self.value(value);
        self.text
    }

    fn value(&mut self, value: &Json) {
        match value {
            Json::Null => self.text.push_str("null"),
            Json::Bool(truth) => self.text.push_str(if *truth { "true" } else { "false" }),
            Json::Number(digits) => self.text.push_str(digits),
            Json::String(text) => self.string(text),
            Json::Plain(text) => self.text.push_str(&format!("\"{text}\"")),
            Json::Array(elements) => {
                self.list('[', ']', elements, |writer, element| writer.value(element));
            }
            Json::Object(members) => {
                let mut shuffled: Vec<&(String, Json)> = members.iter().collect();
                for last in (1..shuffled.len()).rev() {
                    let other = self.random(last as u64 + 1) as usize;
                    shuffled.swap(last, other);
                }
                self.list('{', '}', &shuffled, |writer, (name, value)| {
                    writer.string(name);
                    writer.space();
                    writer.text.push(':');
                    writer.space();
                    writer.value(value);
                });
            }
        }
    }

    fn list<T>(&mut self, opening: char, closing: char, all: &[T], write: impl Fn(&mut Self, &T)) {
        self.text.push(opening);
        self.space();
        for (index, element) in all.iter().enumerate() {
            if index > 0 {
                self.text.push(',');
                self.space();
            }
            write(self, element);
            self.space();
        }
        self.text.push(closing);
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for character in text.chars() {
            let must = matches!(character, '"' | '\\' | '\0'..='\u{1f}');
            if must || (self.escaping > 0 && self.random(100) < self.escaping) {
                self.escape(character);
            } else {
                self.text.push(character);
            }
        }
        self.text.push('"');
    }

    fn escape(&mut self, character: char) {
        let short = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '/' => "\\/",
            '\u{8}' => "\\b",
            '\u{c}' => "\\f",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            _ => "",
        };
        if !short.is_empty() && self.random(2) == 0 {
            self.text.push_str(short);
            return;
        }
        let upper_case = self.random(2) == 0;
        for unit in character.encode_utf16(&mut [0; 2]) {
            let escape = if upper_case { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
            self.text.push_str(&escape);
        }
    }

    fn space(&mut self) {
        while self.spaced && self.random(3) == 0 {
            let space = [' ', '\n', '\r', '\t'][self.random(4) as usize];
            self.text.push(space);
        }
    }

    /// A number below `bound` (splitmix64).
    fn random(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
