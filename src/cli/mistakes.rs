//! What is wrong with a command line, its environment and its configuration file: collected, then told at once.

use std::fmt;

/// Every mistake found, each with its place. The program exits with 64 and starts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes {
    found: Vec<String>,
}

impl Mistakes {
    /// No mistake yet.
    pub fn none() -> Mistakes {
        Mistakes::default()
    }

    /// A single mistake.
    pub fn one(mistake: impl Into<String>) -> Mistakes {
        Mistakes { found: vec![mistake.into()] }
    }

    /// Adds a mistake: one sentence that begins with its place.
    pub fn add(&mut self, mistake: impl Into<String>) {
        self.found.push(mistake.into());
    }

    /// Whether nothing was found wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.found.len() {
            1 => f.write_str("a mistake was found, and nothing was started:")?,
            count => write!(f, "{count} mistakes were found, and nothing was started:")?,
        }
        for mistake in &self.found {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// `; did you mean "…"?` for the nearest of `known`, or nothing when none is near.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let nearest =
        known.into_iter().map(|name| (edit_distance(written, name), name)).min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, name)) if distance <= name.chars().count().div_ceil(3) => {
            format!("; did you mean \"{name}\"?")
        }
        _ => String::new(),
    }
}

/// Insertions, deletions and replacements that turn `from` into `to` (Levenshtein), letter case and the choice of
/// dash or underscore aside.
fn edit_distance(from: &str, to: &str) -> usize {
    let plain = |text: &str| -> Vec<char> {
        let dashed = text.replace('_', "-");
        dashed.to_lowercase().chars().collect()
    };
    let (from, to) = (plain(from), plain(to));
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_letter_changes() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("lease_duration", "Lease-Duration"), 0);
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["checkpoint-interval", "table"];
        let near = did_you_mean("chekpoint-interval", known);
        assert_eq!(near, "; did you mean \"checkpoint-interval\"?");
        assert_eq!(did_you_mean("verbosity", known), "");
    }
}
