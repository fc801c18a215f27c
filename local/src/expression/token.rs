//! Cuts an expression into tokens, and words syntax errors as the service does.

use super::{ExpressionError, ExpressionKind};

/// The longest expression ("Limits, Expression parameters": 4 KB).
const MAX_EXPRESSION_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// An attribute's or function's name.
    Identifier,
    /// `#name`
    NamePlaceholder,
    /// `:value`
    ValuePlaceholder,
    /// A list index, without leading zeros.
    Integer,
    /// A word of the grammar.
    Keyword(Keyword),
    /// Punctuation or an operator; the token's text says which.
    Symbol,
    /// A character that no token begins with.
    Unknown,
    /// The end of the expression.
    End,
}

/// The words of the grammar; they hold in all expressions and in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Set,
    Remove,
    Add,
    Delete,
    And,
    Or,
    Not,
    In,
    Between,
}

/// A piece of the expression.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: TokenKind,
    pub(super) text: &'t str,
    /// Offset in the expression, in bytes.
    start: usize,
}

/// The tokens of one expression and a place among them.
pub(super) struct Tokens<'t> {
    /// Named in messages.
    pub(super) kind: ExpressionKind,
    expression: &'t str,
    /// All tokens; the last and only the last is [`TokenKind::End`].
    tokens: Vec<Token<'t>>,
    /// The index of the next token.
    next: usize,
}

impl<'t> Tokens<'t> {
    /// Cuts the expression up.
    ///
    /// # Errors
    /// It is empty or too long. Characters that mean nothing become tokens, refused where the parser meets them.
    pub(super) fn of(kind: ExpressionKind, expression: &'t str) -> Result<Self, ExpressionError> {
        if expression.is_empty() {
            return Err(kind.invalid("The expression can not be empty;"));
        }
        if expression.len() > MAX_EXPRESSION_BYTES {
            return Err(kind.invalid(format_args!(
                "Expression size has exceeded the maximum allowed size; expression size: {}",
                expression.len()
            )));
        }
        Ok(Self { kind, expression, tokens: cut(expression), next: 0 })
    }

    /// The next token, without taking it.
    pub(super) fn peek(&self) -> Token<'t> {
        self.tokens[self.next]
    }

    /// The token behind the next one; the end again at the end.
    pub(super) fn peek_second(&self) -> Token<'t> {
        self.tokens[(self.next + 1).min(self.tokens.len() - 1)]
    }

    /// Takes the next token; the end stays where it is.
    pub(super) fn take(&mut self) -> Token<'t> {
        let token = self.peek();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    /// Takes the next token if it is this symbol.
    pub(super) fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.at_symbol(symbol);
        if found {
            self.take();
        }
        found
    }

    /// Takes the next token if it is this keyword.
    pub(super) fn take_keyword(&mut self, keyword: Keyword) -> bool {
        let found = self.peek().kind == TokenKind::Keyword(keyword);
        if found {
            self.take();
        }
        found
    }

    /// Takes this symbol, which must come now.
    pub(super) fn expect_symbol(&mut self, symbol: &str) -> Result<(), ExpressionError> {
        if self.take_symbol(symbol) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Refuses anything but the end of the expression.
    pub(super) fn expect_end(&self) -> Result<(), ExpressionError> {
        match self.peek().kind {
            TokenKind::End => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// Whether the next token is this symbol.
    pub(super) fn at_symbol(&self, symbol: &str) -> bool {
        let token = self.peek();
        token.kind == TokenKind::Symbol && token.text == symbol
    }

    /// The error that the next token does not fit. It shows the tokens before and behind it, too.
    pub(super) fn unexpected(&self) -> ExpressionError {
        let token = self.peek();
        let from = self.tokens[self.next.saturating_sub(1)].start;
        let last = self.peek_second();
        let near = &self.expression[from..last.start + last.text.len()];
        let text = match token.kind {
            TokenKind::End => "<EOF>",
            _ => token.text,
        };
        let near = if self.next == 0 && token.kind == TokenKind::End { self.expression } else { near };
        self.kind.invalid(format_args!("Syntax error; token: \"{text}\", near: \"{near}\""))
    }
}

fn cut(expression: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut start = 0;
    loop {
        let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let rest = expression[start..].trim_start_matches(blank);
        start = expression.len() - rest.len();
        if rest.is_empty() {
            tokens.push(Token { kind: TokenKind::End, text: "", start });
            return tokens;
        }
        let (kind, length) = first_token(rest);
        let text = &rest[..length];
        tokens.push(Token { kind, text, start });
        start += length;
    }
}

/// The first token of a text that is not empty, and its length in bytes.
fn first_token(text: &str) -> (TokenKind, usize) {
    let bytes = text.as_bytes();
    let word_end = |from: usize| {
        let part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
        from + bytes[from..].iter().take_while(part).count()
    };
    match bytes[0] {
        b'a'..=b'z' | b'A'..=b'Z' => {
            let end = word_end(1);
            let kind = keyword(&text[..end]).map_or(TokenKind::Identifier, TokenKind::Keyword);
            (kind, end)
        }
        b'#' if word_end(1) > 1 => (TokenKind::NamePlaceholder, word_end(1)),
        b':' if word_end(1) > 1 => (TokenKind::ValuePlaceholder, word_end(1)),
        b'0' => (TokenKind::Integer, 1),
        b'1'..=b'9' => {
            let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
            (TokenKind::Integer, digits.count())
        }
        b'<' if matches!(bytes.get(1), Some(b'=' | b'>')) => (TokenKind::Symbol, 2),
        b'>' if bytes.get(1) == Some(&b'=') => (TokenKind::Symbol, 2),
        b'(' | b')' | b'[' | b']' | b'.' | b',' | b'=' | b'<' | b'>' | b'+' | b'-' => (TokenKind::Symbol, 1),
        _ => (TokenKind::Unknown, text.chars().next().map_or(1, char::len_utf8)),
    }
}

fn keyword(word: &str) -> Option<Keyword> {
    let keywords = [
        ("SET", Keyword::Set),
        ("REMOVE", Keyword::Remove),
        ("ADD", Keyword::Add),
        ("DELETE", Keyword::Delete),
        ("AND", Keyword::And),
        ("OR", Keyword::Or),
        ("NOT", Keyword::Not),
        ("IN", Keyword::In),
        ("BETWEEN", Keyword::Between),
    ];
    keywords.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, keyword)| keyword)
}

/// Whether a text is the given sign and a word: the form that the keys of placeholders have.
pub(super) fn is_placeholder(text: &str, sign: u8) -> bool {
    text.as_bytes().first() == Some(&sign)
        && matches!(
            first_token(text),
            (TokenKind::NamePlaceholder | TokenKind::ValuePlaceholder, length) if length == text.len()
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(expression: &str) -> Vec<&str> {
        cut(expression).iter().map(|token| token.text).collect()
    }

    #[test]
    fn expressions_are_cut_as_the_service_cuts_them() {
        assert_eq!(
            texts("SET #a.b[10]=:v-if_not_exists( x ,\t:y)"),
            ["SET", "#a", ".", "b", "[", "10", "]", "=", ":v", "-", "if_not_exists", "(", "x", ",", ":y", ")", ""]
        );
        assert_eq!(texts("a<>b<=c>=d<e>f"), ["a", "<>", "b", "<=", "c", ">=", "d", "<", "e", ">", "f", ""]);
        assert_eq!(texts("1a 00 _b é # ::c"), ["1", "a", "0", "0", "_", "b", "é", "#", ":", ":c", ""]);
    }

    #[test]
    fn an_expression_is_neither_empty_nor_longer_than_four_kilobytes() {
        let error = |text: &str| Tokens::of(ExpressionKind::FilterExpression, text).err().unwrap().0;
        assert_eq!(error(""), "Invalid FilterExpression: The expression can not be empty;");
        assert_eq!(
            error(&" ".repeat(5007)),
            "Invalid FilterExpression: Expression size has exceeded the maximum allowed size; expression size: 5007"
        );
        assert!(Tokens::of(ExpressionKind::FilterExpression, &"a".repeat(4096)).is_ok());
    }

    #[test]
    fn placeholders_are_a_sign_and_a_word() {
        for good in ["#a", "#0", "#_", "#a_1"] {
            assert!(is_placeholder(good, b'#'), "{good}");
        }
        for bad in ["", "a", "#", "#a-b", "#a#b", "#a.b", ":a", "#a "] {
            assert!(!is_placeholder(bad, b'#'), "{bad}");
        }
        assert!(is_placeholder(":v", b':'));
    }
}
