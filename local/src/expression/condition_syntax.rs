//! The grammar of conditions: comparisons and functions, joined by NOT, AND and OR, in this order of strength.

use super::syntax::{FunctionSyntax, OperandSyntax, Parser, check_operators, misused_function, unknown_function};
use super::token::{Keyword, TokenKind};
use super::{ExpressionError, ExpressionKind};

/// The functions that are conditions by themselves; `size` is the one that is an operand.
const CONDITION_FUNCTIONS: [&str; 5] =
    ["attribute_exists", "attribute_not_exists", "attribute_type", "begins_with", "contains"];

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A condition as written.
#[derive(Clone, Debug)]
pub(super) enum ConditionSyntax<'t> {
    /// Two or more, with OR between.
    Any(Vec<ConditionSyntax<'t>>),
    /// Two or more, with AND between.
    All(Vec<ConditionSyntax<'t>>),
    /// A condition behind this many NOTs, at least one.
    Not(usize, Box<ConditionSyntax<'t>>),
    Compare(OperandSyntax<'t>, Comparator, OperandSyntax<'t>),
    /// The operand, the lower and the upper bound.
    Between(Box<[OperandSyntax<'t>; 3]>),
    In(OperandSyntax<'t>, Vec<OperandSyntax<'t>>),
    Function(FunctionSyntax<'t>),
}

impl Comparator {
    /// As it is written.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// Whether it needs values that have an order.
    pub(super) fn is_ordering(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    /// The comparator that says the same with its operands exchanged.
    pub(super) fn mirrored(self) -> Self {
        match self {
            Self::Equal | Self::NotEqual => self,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        [Self::Equal, Self::NotEqual, Self::Less, Self::LessOrEqual, Self::Greater, Self::GreaterOrEqual]
            .into_iter()
            .find(|comparator| comparator.text() == text)
    }
}

impl<'t> ConditionSyntax<'t> {
    /// Parses a whole expression and checks its words.
    pub(super) fn parse(kind: ExpressionKind, text: &'t str) -> Result<Self, ExpressionError> {
        let mut parser = Parser::new(kind, text)?;
        let condition = match any(&mut parser)?.part {
            Part::Condition(condition) => condition,
            Part::Operand(operand) => as_condition(&parser, operand)?,
        };
        parser.tokens.expect_end()?;
        condition.check_words(kind)?;
        check_operators(kind, condition.operators())?;
        Ok(condition)
    }

    /// Refuses unknown and misplaced functions and reserved words, in the order in which they are written.
    fn check_words(&self, kind: ExpressionKind) -> Result<(), ExpressionError> {
        match self {
            Self::Any(parts) | Self::All(parts) => parts.iter().try_for_each(|part| part.check_words(kind)),
            Self::Not(_, part) => part.check_words(kind),
            Self::Compare(left, _, right) => {
                [left, right].into_iter().try_for_each(|operand| check_operand(kind, operand))
            }
            Self::Between(operands) => operands.iter().try_for_each(|operand| check_operand(kind, operand)),
            Self::In(operand, candidates) => {
                std::iter::once(operand).chain(candidates).try_for_each(|operand| check_operand(kind, operand))
            }
            Self::Function(function) if function.name == "size" => Err(misused_function(kind, function.name)),
            Self::Function(function) => check_function(kind, function),
        }
    }

    fn operators(&self) -> usize {
        let inner = |operands: &[OperandSyntax<'_>]| -> usize { operands.iter().map(OperandSyntax::operators).sum() };
        match self {
            Self::Any(parts) | Self::All(parts) => parts.len() - 1 + parts.iter().map(Self::operators).sum::<usize>(),
            Self::Not(times, part) => times + part.operators(),
            Self::Compare(left, _, right) => 1 + left.operators() + right.operators(),
            Self::Between(operands) => 1 + inner(&operands[..]),
            Self::In(operand, candidates) => 1 + operand.operators() + inner(candidates),
            Self::Function(function) => function.operators(),
        }
    }
}

/// The outcome of parsing where the grammar allows a condition or, in parentheses, an operand.
enum Part<'t> {
    Condition(ConditionSyntax<'t>),
    /// A lone operand: the only content of the parentheses, a function, or a mistake.
    Operand(OperandSyntax<'t>),
}

/// A part, and whether it is all in one pair of parentheses.
struct Parsed<'t> {
    part: Part<'t>,
    parenthesised: bool,
}

impl<'t> From<ConditionSyntax<'t>> for Parsed<'t> {
    fn from(condition: ConditionSyntax<'t>) -> Self {
        Self { part: Part::Condition(condition), parenthesised: false }
    }
}

fn any<'t>(parser: &mut Parser<'t>) -> Result<Parsed<'t>, ExpressionError> {
    joined(parser, Keyword::Or, all, ConditionSyntax::Any)
}

fn all<'t>(parser: &mut Parser<'t>) -> Result<Parsed<'t>, ExpressionError> {
    joined(parser, Keyword::And, not, ConditionSyntax::All)
}

/// One or more parts with a keyword between.
fn joined<'t>(
    parser: &mut Parser<'t>,
    keyword: Keyword,
    part: fn(&mut Parser<'t>) -> Result<Parsed<'t>, ExpressionError>,
    join: fn(Vec<ConditionSyntax<'t>>) -> ConditionSyntax<'t>,
) -> Result<Parsed<'t>, ExpressionError> {
    let first = part(parser)?;
    if parser.tokens.peek().kind != TokenKind::Keyword(keyword) {
        return Ok(first);
    }
    let mut parts = vec![into_condition(parser, first.part)?];
    while parser.tokens.take_keyword(keyword) {
        let next = part(parser)?;
        parts.push(into_condition(parser, next.part)?);
    }
    Ok(join(parts).into())
}

fn not<'t>(parser: &mut Parser<'t>) -> Result<Parsed<'t>, ExpressionError> {
    let mut times = 0;
    while parser.tokens.take_keyword(Keyword::Not) {
        times += 1;
    }
    let inner = primary(parser)?;
    if times == 0 {
        return Ok(inner);
    }
    let condition = into_condition(parser, inner.part)?;
    Ok(ConditionSyntax::Not(times, Box::new(condition)).into())
}

/// A condition in parentheses, or an operand, possibly in parentheses, with what follows it.
fn primary<'t>(parser: &mut Parser<'t>) -> Result<Parsed<'t>, ExpressionError> {
    if !parser.tokens.take_symbol("(") {
        let operand = parser.bare_operand()?;
        return comparison(parser, operand, false);
    }
    parser.enter()?;
    let inner = any(parser)?;
    parser.leave(inner.parenthesised)?;
    match inner.part {
        Part::Condition(condition) => Ok(Parsed { part: Part::Condition(condition), parenthesised: true }),
        Part::Operand(operand) => comparison(parser, operand, true),
    }
}

/// The comparison that the operand begins, or the operand alone.
fn comparison<'t>(
    parser: &mut Parser<'t>,
    operand: OperandSyntax<'t>,
    parenthesised: bool,
) -> Result<Parsed<'t>, ExpressionError> {
    let next = parser.tokens.peek();
    if next.kind == TokenKind::Symbol
        && let Some(comparator) = Comparator::from_text(next.text)
    {
        parser.tokens.take();
        let right = parser.operand()?;
        return Ok(ConditionSyntax::Compare(operand, comparator, right).into());
    }
    if parser.tokens.take_keyword(Keyword::Between) {
        let low = parser.operand()?;
        if !parser.tokens.take_keyword(Keyword::And) {
            return Err(parser.tokens.unexpected());
        }
        let high = parser.operand()?;
        return Ok(ConditionSyntax::Between(Box::new([operand, low, high])).into());
    }
    if parser.tokens.take_keyword(Keyword::In) {
        parser.tokens.expect_symbol("(")?;
        let candidates = parser.list(Parser::operand)?;
        parser.tokens.expect_symbol(")")?;
        return Ok(ConditionSyntax::In(operand, candidates).into());
    }
    Ok(Parsed { part: Part::Operand(operand), parenthesised })
}

fn into_condition<'t>(parser: &Parser<'t>, part: Part<'t>) -> Result<ConditionSyntax<'t>, ExpressionError> {
    match part {
        Part::Condition(condition) => Ok(condition),
        Part::Operand(operand) => as_condition(parser, operand),
    }
}

/// A lone operand as a condition: only a function is one. Otherwise a comparison should have come next.
fn as_condition<'t>(parser: &Parser<'t>, operand: OperandSyntax<'t>) -> Result<ConditionSyntax<'t>, ExpressionError> {
    match operand {
        OperandSyntax::Function(function) => Ok(ConditionSyntax::Function(function)),
        _ => Err(parser.tokens.unexpected()),
    }
}

/// Checks what stands beside an operator or in a function: of the functions, only `size` may.
fn check_operand(kind: ExpressionKind, operand: &OperandSyntax<'_>) -> Result<(), ExpressionError> {
    match operand {
        OperandSyntax::Path(path) => path.check_words(kind),
        OperandSyntax::Value(_) => Ok(()),
        OperandSyntax::Function(function) if CONDITION_FUNCTIONS.contains(&function.name) => {
            Err(misused_function(kind, function.name))
        }
        OperandSyntax::Function(function) => check_function(kind, function),
    }
}

fn check_function(kind: ExpressionKind, function: &FunctionSyntax<'_>) -> Result<(), ExpressionError> {
    if function.name != "size" && !CONDITION_FUNCTIONS.contains(&function.name) {
        return Err(unknown_function(kind, function.name));
    }
    function.arguments.iter().try_for_each(|argument| check_operand(kind, argument))
}
