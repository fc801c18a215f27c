//! The pages of the documentation, taken apart into blocks of code and code in sentences.

use std::path::{Path, PathBuf};

/// A block of code, fenced or indented.
pub struct Block {
    /// The page and the line.
    pub place: String,
    /// The word behind the fence; `sh` for an indented block of commands.
    pub language: String,
    pub text: String,
    /// The preparation, from the comment before the block.
    pub directive: Directive,
}

/// The comment `<!-- test: … -->` before a block, which readers of the page don't see. Its first line has the words, and
/// each other line is a step that is carried out first.
#[derive(Clone, Debug, Default)]
pub struct Directive {
    /// `skip REASON`.
    pub skip: Option<String>,
    /// `afresh`: on another service, without what the blocks before have made.
    pub is_afresh: bool,
    /// `alternatives`: each command on another service, after the same steps.
    pub has_alternatives: bool,
    pub steps: Vec<String>,
}

/// The pages whose commands readers follow.
pub fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("local/README.md")];
    for folder in ["docs", "docs/runbooks"] {
        let entries =
            std::fs::read_dir(root.join(folder)).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut found: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
        found.sort();
        pages.extend(found);
    }
    pages
}

/// The blocks of a page, in their order.
pub fn blocks(page: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(page).expect("a page");
    let name = page.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("a page of this package").display().to_string();
    let mut blocks = Vec::new();
    let mut directive = Directive::default();
    let mut lines = text.lines().enumerate().peekable();
    let mut is_after_blank = true;
    while let Some((at, line)) = lines.next() {
        if line.trim_start().starts_with("<!-- test: ") {
            let mut comment = vec![line];
            while !comment[comment.len() - 1].ends_with("-->") {
                comment.push(lines.next().expect("a comment ends").1);
            }
            directive = Directive::parse(&comment);
        } else if let Some(language) = line.trim_start().strip_prefix("```") {
            let margin = line.len() - line.trim_start().len();
            let body = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.trim_start().starts_with("```"));
            let text: Vec<&str> = body.map(|line| line.get(margin..).unwrap_or_default()).collect();
            let (place, language) = (format!("{name}:{}", at + 1), language.to_owned());
            blocks.push(Block { place, language, text: text.join("\n"), directive: std::mem::take(&mut directive) });
        } else if let Some(first) = line.strip_prefix("    ").filter(|_| is_after_blank) {
            let mut text = vec![first];
            while let Some(rest) = lines.peek().and_then(|(_, line)| line.strip_prefix("    ")) {
                text.push(rest);
                lines.next();
            }
            let is_commands = text.iter().any(|line| line.starts_with("shardkeeper ") || line.starts_with("kubectl "));
            let language = if is_commands { "sh" } else { "text" }.to_owned();
            let place = format!("{name}:{}", at + 1);
            blocks.push(Block { place, language, text: text.join("\n"), directive: std::mem::take(&mut directive) });
        }
        is_after_blank = line.trim().is_empty();
    }
    blocks
}

impl Directive {
    fn parse(comment: &[&str]) -> Self {
        let clean =
            |line: &str| line.trim_start().trim_start_matches("<!-- test: ").trim_end_matches("-->").trim().to_owned();
        let mut lines = comment.iter().map(|line| clean(line)).filter(|line| !line.is_empty());
        let words = lines.next().expect("words after `test:`");
        let steps = lines.collect();
        match &*words {
            "afresh" => Self { is_afresh: true, steps, ..Self::default() },
            "alternatives" => Self { has_alternatives: true, steps, ..Self::default() },
            "after" => Self { steps, ..Self::default() },
            words => {
                let reason = words.strip_prefix("skip ").unwrap_or_else(|| panic!("unknown directive {words:?}"));
                Self { skip: Some(reason.to_owned()), ..Self::default() }
            }
        }
    }
}

/// The commands of a block: a line each, joined where a backslash or an open quotation continues it; without comments.
pub fn commands(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut open = String::new();
    for line in text.replace("\\\n", " ").lines() {
        let line = match line.find(" #").filter(|_| !line.contains('\'')) {
            _ if line.trim_start().starts_with('#') && open.is_empty() => continue,
            Some(at) => &line[..at],
            None => line,
        };
        if !open.is_empty() {
            open.push('\n');
        }
        open.push_str(line.trim_end());
        if open.matches('\'').count().is_multiple_of(2) {
            commands.push(std::mem::take(&mut open).trim().to_owned());
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

/// The code in a page's sentences.
pub fn spans(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).expect("a page");
    let prose = text.split("```").step_by(2);
    let sentences = prose.flat_map(str::lines).filter(|line| !line.starts_with("    "));
    let sentences = sentences.collect::<Vec<_>>().join(" ");
    let spans = sentences.split('`').skip(1).step_by(2);
    spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
