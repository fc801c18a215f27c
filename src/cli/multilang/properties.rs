//! Properties files as the JVM reads them (`java.util.Properties.load`): Latin-1 with `\\uXXXX`, comments, lines that are
//! continued, three kinds of separators.

/// The entries of a file. Of a key that is given twice, the last value counts.
#[derive(Debug, Default)]
pub struct Properties {
    /// In the order of the file.
    pub entries: Vec<Property>,
    /// Escapes that are none, each with its line.
    pub mistakes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    pub key: String,
    pub value: String,
    /// The number of its first line.
    pub line: usize,
}

impl Properties {
    pub fn parse(content: &[u8]) -> Self {
        // The JVM's default for a stream of bytes; its characters are the first of Unicode.
        let text: String = content.iter().map(|byte| char::from(*byte)).collect();
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut properties = Self::default();
        let mut lines = text.split('\n').zip(1..);
        while let Some((first, line)) = lines.next() {
            let mut logical = trim_start(first).to_owned();
            if logical.is_empty() || logical.starts_with(['#', '!']) {
                continue;
            }
            while is_continued(&logical) {
                logical.pop();
                let Some((next, _)) = lines.next() else { break };
                logical.push_str(trim_start(next));
            }
            properties.add(&logical, line);
        }
        properties
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Property> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn add(&mut self, logical: &str, line: usize) {
        let (key, value) = split(logical);
        match (unescape(key), unescape(value)) {
            (Ok(key), Ok(value)) => {
                self.entries.retain(|entry| entry.key != key);
                self.entries.push(Property { key, value, line });
            }
            (Err(escape), _) | (_, Err(escape)) => {
                self.mistakes.push(format!("{line}: {escape:?} is no escape: four hexadecimal digits follow \\u"));
            }
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn trim_start(text: &str) -> &str {
    text.trim_start_matches(is_blank)
}

/// Whether the line ends in an odd number of backslashes.
fn is_continued(line: &str) -> bool {
    line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

/// Splits at the first separator that is not escaped: blanks, `=` or `:`, or blanks around one of those.
fn split(line: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let end = line.find(|c: char| {
        let ends = !is_escaped && (is_blank(c) || matches!(c, '=' | ':'));
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = trim_start(rest);
    (key, rest.strip_prefix(['=', ':']).map_or(rest, trim_start))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut units: Vec<u16> = Vec::new();
    let mut buffer = [0; 2];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                    units.push(unit.ok_or_else(|| format!("\\u{digits}"))?);
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some(other) => other,
                None => break,
            },
            c => c,
        };
        units.extend_from_slice(c.encode_utf16(&mut buffer));
    }
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_the_jvm_reads_it() {
        let file =
            b"# comment\n  ! another\n\nexecutableName = python  app.py \napplicationName:name\nstreamName\tTable\r\n\
            long = one, \\\r\n   two \\\\\n\tpath\\ with\\=signs = c:\\\\x\\ty\nempty\nsign==:\n\
            accent = \xe9 \\u00e9 \\ud83d\\ude00\nempty = last\\";
        let expected = [
            ("executableName", "python  app.py ", 4),
            ("applicationName", "name", 5),
            ("streamName", "Table", 6),
            ("long", "one, two \\", 7),
            ("path with=signs", "c:\\x\ty", 9),
            ("sign", "=:", 11),
            ("accent", "\u{e9} \u{e9} \u{1f600}", 12),
            ("empty", "last", 13),
        ];
        let expected = expected.map(|(key, value, line)| Property { key: key.into(), value: value.into(), line });
        let properties = Properties::parse(file);
        assert_eq!(properties.entries, expected);
        assert!(properties.mistakes.is_empty());
        assert_eq!(Properties::parse(b"a = \\u00g0").mistakes.len(), 1);
    }
}
