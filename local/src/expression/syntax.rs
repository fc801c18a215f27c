//! The parser, and the parts that all expressions are written in: paths, values and functions.
//!
//! They are checked in the service's order, which shows when an expression has several faults: first the
//! syntax and parentheses, then functions and reserved words, then placeholders, then operands.

use super::path::{Path, Step};
use super::placeholders::Placeholders;
use super::reserved::is_reserved;
use super::token::{TokenKind, Tokens};
use super::{ExpressionError, ExpressionKind};
use crate::value::AttributeValue;

/// The most operators and functions in an expression ("Limits, Expression parameters").
const MAX_OPERATORS: usize = 300;
/// The most parentheses and functions that may be open at once: the parser recurses, and must end before its stack does.
/// The service has no such limit of its own beside that of operators, but no useful expression comes near this one.
const MAX_DEPTH: usize = 100;
/// The most steps in a path, its attribute among them.
const MAX_PATH_LEVELS: usize = 32;
/// The greatest list index.
const MAX_INDEX: usize = 2_147_483_647;

/// A document path as written: names or `#name` placeholders, and list indexes.
#[derive(Clone, Debug)]
pub(super) struct PathSyntax<'t> {
    attribute: &'t str,
    steps: Vec<StepSyntax<'t>>,
}

#[derive(Clone, Debug)]
enum StepSyntax<'t> {
    Attribute(&'t str),
    Index(&'t str),
}

/// An operand as written.
#[derive(Clone, Debug)]
pub(super) enum OperandSyntax<'t> {
    Path(PathSyntax<'t>),
    /// A `:value` placeholder.
    Value(&'t str),
    Function(FunctionSyntax<'t>),
}

/// A function call as written; the function may not exist.
#[derive(Clone, Debug)]
pub(super) struct FunctionSyntax<'t> {
    pub(super) name: &'t str,
    pub(super) arguments: Vec<OperandSyntax<'t>>,
}

/// A parser at some place of an expression.
pub(super) struct Parser<'t> {
    pub(super) tokens: Tokens<'t>,
    /// The number of open parentheses and functions.
    depth: usize,
}

/// Turns the written form into the resolved one.
#[derive(Clone, Copy)]
pub(super) struct Resolver<'p> {
    pub(super) kind: ExpressionKind,
    pub(super) placeholders: &'p Placeholders,
}

impl<'t> Parser<'t> {
    pub(super) fn new(kind: ExpressionKind, expression: &'t str) -> Result<Self, ExpressionError> {
        Ok(Self { tokens: Tokens::of(kind, expression)?, depth: 0 })
    }

    /// `name`, followed by any number of `.name` and `[index]`.
    pub(super) fn path(&mut self) -> Result<PathSyntax<'t>, ExpressionError> {
        let attribute = self.name()?;
        let mut steps = Vec::new();
        loop {
            if self.tokens.take_symbol(".") {
                steps.push(StepSyntax::Attribute(self.name()?));
            } else if self.tokens.take_symbol("[") {
                if self.tokens.peek().kind != TokenKind::Integer {
                    return Err(self.tokens.unexpected());
                }
                steps.push(StepSyntax::Index(self.tokens.take().text));
                self.tokens.expect_symbol("]")?;
            } else {
                return Ok(PathSyntax { attribute, steps });
            }
        }
    }

    /// A path, a value or a function, possibly in parentheses.
    pub(super) fn operand(&mut self) -> Result<OperandSyntax<'t>, ExpressionError> {
        if !self.tokens.take_symbol("(") {
            return self.bare_operand();
        }
        self.enter()?;
        let redundant = self.tokens.at_symbol("(");
        let operand = self.operand()?;
        self.leave(redundant)?;
        Ok(operand)
    }

    /// A path, a value or a function.
    pub(super) fn bare_operand(&mut self) -> Result<OperandSyntax<'t>, ExpressionError> {
        let second = self.tokens.peek_second();
        let opens = second.kind == TokenKind::Symbol && second.text == "(";
        match self.tokens.peek().kind {
            TokenKind::ValuePlaceholder => Ok(OperandSyntax::Value(self.tokens.take().text)),
            TokenKind::Identifier if opens => Ok(OperandSyntax::Function(self.function()?)),
            _ => Ok(OperandSyntax::Path(self.path()?)),
        }
    }

    /// A `:value` placeholder.
    pub(super) fn value(&mut self) -> Result<&'t str, ExpressionError> {
        match self.tokens.peek().kind {
            TokenKind::ValuePlaceholder => Ok(self.tokens.take().text),
            _ => Err(self.tokens.unexpected()),
        }
    }

    /// One or more of something with commas between.
    pub(super) fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, ExpressionError>,
    ) -> Result<Vec<T>, ExpressionError> {
        let mut elements = vec![element(self)?];
        while self.tokens.take_symbol(",") {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// Goes one level deeper, within the limit.
    pub(super) fn enter(&mut self) -> Result<(), ExpressionError> {
        self.depth += 1;
        if self.depth <= MAX_DEPTH {
            return Ok(());
        }
        Err(redundant_parentheses(self.tokens.kind))
    }

    /// Leaves a level with the parenthesis that closes it. All that stood within the pair may have been another pair,
    /// which makes this one redundant: the service refuses it.
    pub(super) fn leave(&mut self, redundant: bool) -> Result<(), ExpressionError> {
        self.depth -= 1;
        self.tokens.expect_symbol(")")?;
        if redundant {
            return Err(redundant_parentheses(self.tokens.kind));
        }
        Ok(())
    }

    fn function(&mut self) -> Result<FunctionSyntax<'t>, ExpressionError> {
        let name = self.tokens.take().text;
        self.tokens.expect_symbol("(")?;
        self.enter()?;
        let arguments = self.list(Self::operand)?;
        self.leave(false)?;
        Ok(FunctionSyntax { name, arguments })
    }

    fn name(&mut self) -> Result<&'t str, ExpressionError> {
        match self.tokens.peek().kind {
            TokenKind::Identifier | TokenKind::NamePlaceholder => Ok(self.tokens.take().text),
            _ => Err(self.tokens.unexpected()),
        }
    }
}

impl<'t> PathSyntax<'t> {
    /// Refuses reserved words and indexes out of range.
    pub(super) fn check_words(&self, kind: ExpressionKind) -> Result<(), ExpressionError> {
        if let Some(name) = self.names().find(|name| is_reserved(name)) {
            return Err(kind.invalid(format_args!("Attribute name is a reserved keyword; reserved keyword: {name}")));
        }
        for step in &self.steps {
            if let StepSyntax::Index(digits) = step {
                index(kind, digits)?;
            }
        }
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = &'t str> {
        let inner = self.steps.iter().filter_map(|step| match step {
            StepSyntax::Attribute(name) => Some(*name),
            StepSyntax::Index(_) => None,
        });
        std::iter::once(self.attribute).chain(inner)
    }
}

impl<'t> OperandSyntax<'t> {
    /// The number of functions in it.
    pub(super) fn operators(&self) -> usize {
        match self {
            Self::Path(_) | Self::Value(_) => 0,
            Self::Function(function) => function.operators(),
        }
    }

    /// Visits the paths and values in it.
    pub(super) fn for_each_leaf(
        &self,
        visit: &mut impl FnMut(Leaf<'_, 't>) -> Result<(), ExpressionError>,
    ) -> Result<(), ExpressionError> {
        match self {
            Self::Path(path) => visit(Leaf::Path(path)),
            Self::Value(value) => visit(Leaf::Value(value)),
            Self::Function(function) => {
                function.arguments.iter().try_for_each(|argument| argument.for_each_leaf(visit))
            }
        }
    }
}

impl FunctionSyntax<'_> {
    /// The number of functions in it, itself included.
    pub(super) fn operators(&self) -> usize {
        1 + self.arguments.iter().map(OperandSyntax::operators).sum::<usize>()
    }
}

/// An operand that is no function.
pub(super) enum Leaf<'s, 't> {
    Path(&'s PathSyntax<'t>),
    Value(&'t str),
}

impl Resolver<'_> {
    /// The path with its placeholders replaced.
    pub(super) fn path(self, path: &PathSyntax<'_>) -> Result<Path, ExpressionError> {
        let attribute = self.name(path.attribute)?;
        let steps = path
            .steps
            .iter()
            .map(|step| match step {
                StepSyntax::Attribute(name) => Ok(Step::Attribute(self.name(name)?)),
                StepSyntax::Index(digits) => Ok(Step::Index(index(self.kind, digits)?)),
            })
            .collect::<Result<Vec<_>, ExpressionError>>()?;
        let levels = 1 + steps.len();
        if levels > MAX_PATH_LEVELS {
            return Err(self
                .kind
                .invalid(format_args!("The document path has too many nesting levels; nesting levels: {levels}")));
        }
        Ok(Path { attribute, steps })
    }

    /// The value behind a placeholder.
    pub(super) fn value(self, placeholder: &str) -> Result<AttributeValue, ExpressionError> {
        let value = self.placeholders.value(placeholder).ok_or_else(|| {
            self.kind.invalid(format_args!(
                "An expression attribute value used in expression is not defined; \
                 attribute value: {placeholder}"
            ))
        })?;
        Ok(value.clone())
    }

    /// The error that a function or operator has too few or too many operands.
    pub(super) fn wrong_count(self, operator: &str, operands: usize) -> ExpressionError {
        self.kind.invalid(format_args!(
            "Incorrect number of operands for operator or function; \
             operator or function: {operator}, number of operands: {operands}"
        ))
    }

    /// The error that an operand can never be right, with its type.
    pub(super) fn wrong_type(self, operator: &str, operand_type: &str) -> ExpressionError {
        self.kind.invalid(format_args!(
            "Incorrect operand type for operator or function; \
             operator or function: {operator}, operand type: {operand_type}"
        ))
    }

    /// The error that an operand has to be a path.
    pub(super) fn path_required(self, operator: &str) -> ExpressionError {
        self.kind
            .invalid(format_args!("Operator or function requires a document path; operator or function: {operator}"))
    }

    fn name(self, name: &str) -> Result<String, ExpressionError> {
        if !name.starts_with('#') {
            return Ok(name.to_owned());
        }
        let name = self.placeholders.name(name).ok_or_else(|| {
            self.kind.invalid(format_args!(
                "An expression attribute name used in the document path is not defined; \
                 attribute name: {name}"
            ))
        })?;
        Ok(name.to_owned())
    }
}

/// The error that a function does not exist.
pub(super) fn unknown_function(kind: ExpressionKind, name: &str) -> ExpressionError {
    kind.invalid(format_args!("Invalid function name; function: {name}"))
}

/// The error that a function stands where it may not.
pub(super) fn misused_function(kind: ExpressionKind, name: &str) -> ExpressionError {
    kind.invalid(format_args!("The function is not allowed to be used this way in an expression; function: {name}"))
}

/// Refuses more operators than the service allows; it stops counting at the first too many.
pub(super) fn check_operators(kind: ExpressionKind, operators: usize) -> Result<(), ExpressionError> {
    if operators <= MAX_OPERATORS {
        return Ok(());
    }
    Err(kind.invalid(format_args!("The expression contains too many operators; operator count: {}", MAX_OPERATORS + 1)))
}

fn redundant_parentheses(kind: ExpressionKind) -> ExpressionError {
    kind.invalid("The expression has redundant parentheses;")
}

fn index(kind: ExpressionKind, digits: &str) -> Result<usize, ExpressionError> {
    match digits.parse::<usize>() {
        Ok(index) if index <= MAX_INDEX => Ok(index),
        _ => Err(kind.invalid(format_args!("List index is not within the allowable range; index: [{digits}]"))),
    }
}
