//! The grammar of updates: SET, REMOVE, ADD and DELETE sections, each at most once, in any order.

use super::syntax::{
    FunctionSyntax, OperandSyntax, Parser, PathSyntax, check_operators, misused_function, unknown_function,
};
use super::token::{Keyword, TokenKind};
use super::{ExpressionError, ExpressionKind};

const KIND: ExpressionKind = ExpressionKind::UpdateExpression;

/// The functions of conditions, which exist but not here.
const CONDITION_FUNCTIONS: [&str; 6] =
    ["attribute_exists", "attribute_not_exists", "attribute_type", "begins_with", "contains", "size"];

/// One change as written.
#[derive(Clone, Debug)]
pub(super) enum ActionSyntax<'t> {
    Set(PathSyntax<'t>, SetSyntax<'t>),
    Remove(PathSyntax<'t>),
    /// With a `:value` placeholder.
    Add(PathSyntax<'t>, &'t str),
    /// With a `:value` placeholder.
    Delete(PathSyntax<'t>, &'t str),
}

/// The right-hand side of a SET action.
#[derive(Clone, Debug)]
pub(super) enum SetSyntax<'t> {
    Operand(OperandSyntax<'t>),
    Sum(OperandSyntax<'t>, OperandSyntax<'t>),
    Difference(OperandSyntax<'t>, OperandSyntax<'t>),
}

/// Parses a whole expression and checks its words.
pub(super) fn parse(text: &str) -> Result<Vec<ActionSyntax<'_>>, ExpressionError> {
    let mut parser = Parser::new(KIND, text)?;
    let mut sections = Vec::new();
    loop {
        let token = parser.tokens.peek();
        let TokenKind::Keyword(keyword) = token.kind else {
            break;
        };
        let action = match keyword {
            Keyword::Set => set,
            Keyword::Remove => remove,
            Keyword::Add => add,
            Keyword::Delete => delete,
            _ => break,
        };
        parser.tokens.take();
        sections.push((keyword, parser.list(action)?));
    }
    if sections.is_empty() {
        return Err(parser.tokens.unexpected());
    }
    parser.tokens.expect_end()?;
    check_sections(&sections)?;
    let actions: Vec<_> = sections.into_iter().flat_map(|(_, actions)| actions).collect();
    check_operators(KIND, actions.iter().map(ActionSyntax::operators).sum())?;
    Ok(actions)
}

impl<'t> ActionSyntax<'t> {
    /// The path that it changes.
    pub(super) fn target(&self) -> &PathSyntax<'t> {
        match self {
            Self::Set(path, _) | Self::Remove(path) | Self::Add(path, _) | Self::Delete(path, _) => path,
        }
    }

    fn check_words(&self) -> Result<(), ExpressionError> {
        self.target().check_words(KIND)?;
        match self {
            Self::Set(_, value) => value.check_words(),
            _ => Ok(()),
        }
    }

    fn operators(&self) -> usize {
        match self {
            Self::Set(_, SetSyntax::Operand(operand)) => operand.operators(),
            Self::Set(_, SetSyntax::Sum(left, right) | SetSyntax::Difference(left, right)) => {
                1 + left.operators() + right.operators()
            }
            _ => 0,
        }
    }
}

impl<'t> SetSyntax<'t> {
    /// The operands, one or two.
    pub(super) fn operands(&self) -> impl Iterator<Item = &OperandSyntax<'t>> {
        let (first, second) = match self {
            Self::Operand(operand) => (operand, None),
            Self::Sum(left, right) | Self::Difference(left, right) => (left, Some(right)),
        };
        std::iter::once(first).chain(second)
    }

    /// `list_append` gives a list, so it stands alone; `if_not_exists` may stand anywhere.
    fn check_words(&self) -> Result<(), ExpressionError> {
        let alone = matches!(self, Self::Operand(_));
        self.operands().try_for_each(|operand| check_operand(operand, alone))
    }
}

/// A section comes once; all is checked in the order in which it is written.
fn check_sections(sections: &[(Keyword, Vec<ActionSyntax<'_>>)]) -> Result<(), ExpressionError> {
    for (index, (keyword, actions)) in sections.iter().enumerate() {
        if sections[..index].iter().any(|(earlier, _)| earlier == keyword) {
            return Err(KIND.invalid(format_args!(
                "The \"{}\" section can only be used once in an update expression;",
                format!("{keyword:?}").to_ascii_uppercase()
            )));
        }
        actions.iter().try_for_each(ActionSyntax::check_words)?;
    }
    Ok(())
}

fn check_operand(operand: &OperandSyntax<'_>, alone: bool) -> Result<(), ExpressionError> {
    match operand {
        OperandSyntax::Path(path) => path.check_words(KIND),
        OperandSyntax::Value(_) => Ok(()),
        OperandSyntax::Function(function) => check_function(function, alone),
    }
}

fn check_function(function: &FunctionSyntax<'_>, alone: bool) -> Result<(), ExpressionError> {
    match function.name {
        "if_not_exists" => {}
        "list_append" if alone => {}
        "list_append" => return Err(misused_function(KIND, function.name)),
        name if CONDITION_FUNCTIONS.contains(&name) => {
            return Err(
                KIND.invalid(format_args!("The function is not allowed in an update expression; function: {name}"))
            );
        }
        name => return Err(unknown_function(KIND, name)),
    }
    function.arguments.iter().try_for_each(|argument| check_operand(argument, false))
}

fn set<'t>(parser: &mut Parser<'t>) -> Result<ActionSyntax<'t>, ExpressionError> {
    let path = parser.path()?;
    parser.tokens.expect_symbol("=")?;
    Ok(ActionSyntax::Set(path, set_value(parser)?))
}

fn remove<'t>(parser: &mut Parser<'t>) -> Result<ActionSyntax<'t>, ExpressionError> {
    Ok(ActionSyntax::Remove(parser.path()?))
}

fn add<'t>(parser: &mut Parser<'t>) -> Result<ActionSyntax<'t>, ExpressionError> {
    Ok(ActionSyntax::Add(parser.path()?, parser.value()?))
}

fn delete<'t>(parser: &mut Parser<'t>) -> Result<ActionSyntax<'t>, ExpressionError> {
    Ok(ActionSyntax::Delete(parser.path()?, parser.value()?))
}

/// An operand, a sum or a difference, possibly in parentheses; sums of sums don't exist.
fn set_value<'t>(parser: &mut Parser<'t>) -> Result<SetSyntax<'t>, ExpressionError> {
    Ok(parsed_set_value(parser)?.0)
}

/// A SET value, and whether it is all in one pair of parentheses.
fn parsed_set_value<'t>(parser: &mut Parser<'t>) -> Result<(SetSyntax<'t>, bool), ExpressionError> {
    let (left, parenthesised) = if parser.tokens.take_symbol("(") {
        parser.enter()?;
        let (inner, inner_parenthesised) = parsed_set_value(parser)?;
        parser.leave(inner_parenthesised)?;
        match inner {
            SetSyntax::Operand(operand) => (operand, true),
            arithmetic => return Ok((arithmetic, true)),
        }
    } else {
        (parser.bare_operand()?, false)
    };
    if parser.tokens.take_symbol("+") {
        Ok((SetSyntax::Sum(left, parser.operand()?), false))
    } else if parser.tokens.take_symbol("-") {
        Ok((SetSyntax::Difference(left, parser.operand()?), false))
    } else {
        Ok((SetSyntax::Operand(left), parenthesised))
    }
}
