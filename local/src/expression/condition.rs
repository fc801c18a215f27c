//! ConditionExpression and FilterExpression.

use super::condition_syntax::{Comparator, ConditionSyntax};
use super::evaluate::order;
use super::path::Path;
use super::placeholders::Placeholders;
use super::syntax::{FunctionSyntax, OperandSyntax, Resolver};
use super::{ExpressionError, ExpressionKind};
use crate::value::{AttributeValue, Item};

/// The most candidates of an IN ("Limits, Expression parameters").
const MAX_IN_OPERANDS: usize = 100;
/// The type names that `attribute_type` knows.
const TYPE_NAMES: [&str; 10] = ["B", "NULL", "SS", "BOOL", "L", "BS", "N", "NS", "S", "M"];

/// A parsed and checked condition.
#[derive(Clone, Debug)]
pub struct Condition {
    test: Test,
}

/// A condition with its placeholders replaced, all checks passed.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Any(Vec<Test>),
    All(Vec<Test>),
    Not(Box<Test>),
    Compare(Operand, Comparator, Operand),
    /// The operand, the lower and the upper bound.
    Between(Box<[Operand; 3]>),
    In(Operand, Vec<Operand>),
    Exists(Path),
    NotExists(Path),
    HasType(Operand, String),
    BeginsWith(Operand, Operand),
    Contains(Operand, Operand),
}

/// An operand of a condition.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    Path(Path),
    Value(AttributeValue),
    /// The `size` of another.
    Size(Box<Operand>),
}

impl Condition {
    /// Parses and checks a condition; `kind` is the request's member, for messages.
    ///
    /// # Errors
    /// With the service's message: wrong syntax, reserved words, unknown functions or placeholders, operands that can
    /// never be right, limits exceeded.
    pub fn parse(kind: ExpressionKind, text: &str, placeholders: &Placeholders) -> Result<Self, ExpressionError> {
        let test = Test::parse(kind, text, placeholders)?;
        Ok(Self { test })
    }

    pub(super) fn of_test(test: Test) -> Self {
        Self { test }
    }

    /// Whether it holds for the item; without one, for an item without attributes.
    ///
    /// # Errors
    /// None at present: whatever the item has, a checked condition holds or does not.
    pub fn holds(&self, item: Option<&Item>) -> Result<bool, ExpressionError> {
        const NO_ITEM: &Item = &Item::new();
        Ok(self.test.holds(item.unwrap_or(NO_ITEM)))
    }

    /// Refuses key attributes, which a query's filter must leave to its key condition ("Filter expressions for the
    /// Query operation"). `member` names the filter in the message.
    ///
    /// # Errors
    /// There is one.
    pub fn check_no_keys(&self, member: &str, key_names: &[&str]) -> Result<(), ExpressionError> {
        match self.test.paths().into_iter().find(|path| key_names.contains(&path.attribute.as_str())) {
            None => Ok(()),
            Some(path) => Err(ExpressionError(format!(
                "{member} can only contain non-primary key attributes: Primary key attribute: {}",
                path.attribute
            ))),
        }
    }

    /// The item's attributes that it reads.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.test.paths().into_iter().map(|path| path.attribute.as_str())
    }
}

impl Test {
    /// Parses and checks a condition.
    pub(super) fn parse(
        kind: ExpressionKind,
        text: &str,
        placeholders: &Placeholders,
    ) -> Result<Self, ExpressionError> {
        let resolver = Resolver { kind, placeholders };
        resolver.test(&ConditionSyntax::parse(kind, text)?)
    }

    /// Every path that it looks at.
    fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Any(tests) | Self::All(tests) => tests.iter().flat_map(Self::paths).collect(),
            Self::Not(test) => test.paths(),
            Self::Exists(path) | Self::NotExists(path) => vec![path],
            Self::HasType(operand, _) => operand.paths().collect(),
            Self::Compare(left, _, right) | Self::BeginsWith(left, right) | Self::Contains(left, right) => {
                left.paths().chain(right.paths()).collect()
            }
            Self::Between(operands) => operands.iter().flat_map(Operand::paths).collect(),
            Self::In(operand, candidates) => {
                operand.paths().chain(candidates.iter().flat_map(Operand::paths)).collect()
            }
        }
    }
}

impl Operand {
    /// The type, where it is known before there is an item.
    fn known_type(&self) -> Option<&'static str> {
        match self {
            Self::Path(_) => None,
            Self::Value(value) => Some(value.type_name()),
            Self::Size(_) => Some("N"),
        }
    }

    /// The path in it, also within a `size`.
    fn paths(&self) -> std::option::IntoIter<&Path> {
        let mut operand = self;
        while let Self::Size(inner) = operand {
            operand = inner;
        }
        operand.path().into_iter()
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            _ => None,
        }
    }
}

impl Resolver<'_> {
    fn test(self, condition: &ConditionSyntax<'_>) -> Result<Test, ExpressionError> {
        let tests = |parts: &[ConditionSyntax<'_>]| -> Result<Vec<Test>, ExpressionError> {
            parts.iter().map(|part| self.test(part)).collect()
        };
        match condition {
            ConditionSyntax::Any(parts) => Ok(Test::Any(tests(parts)?)),
            ConditionSyntax::All(parts) => Ok(Test::All(tests(parts)?)),
            ConditionSyntax::Not(times, part) => {
                let inner = self.test(part)?;
                Ok((0..*times).fold(inner, |test, _| Test::Not(Box::new(test))))
            }
            ConditionSyntax::Compare(left, comparator, right) => {
                self.comparison(self.operand(left)?, *comparator, self.operand(right)?)
            }
            ConditionSyntax::Between(operands) => {
                let [value, low, high] = &**operands;
                self.between([self.operand(value)?, self.operand(low)?, self.operand(high)?])
            }
            ConditionSyntax::In(operand, candidates) => {
                let operand = self.operand(operand)?;
                self.membership(operand, self.operands(candidates)?)
            }
            ConditionSyntax::Function(function) => self.condition_function(function),
        }
    }

    fn comparison(self, left: Operand, comparator: Comparator, right: Operand) -> Result<Test, ExpressionError> {
        self.check_distinct(comparator.text(), &left, [&right])?;
        if comparator.is_ordering() {
            self.check_ordered(comparator.text(), [&left, &right])?;
        }
        Ok(Test::Compare(left, comparator, right))
    }

    fn between(self, operands: [Operand; 3]) -> Result<Test, ExpressionError> {
        let [value, low, high] = &operands;
        self.check_distinct("BETWEEN", value, [low, high])?;
        self.check_ordered("BETWEEN", [value, low, high])?;
        if let (Operand::Value(low), Operand::Value(high)) = (low, high) {
            let wrong = match order(low, high) {
                None => "same data type for lower and upper bounds",
                Some(std::cmp::Ordering::Greater) => "upper bound to be greater than or equal to lower bound",
                Some(_) => return Ok(Test::Between(Box::new(operands))),
            };
            return Err(self.kind.invalid(format_args!(
                "The BETWEEN operator requires {wrong}; lower bound operand: AttributeValue: {}, \
                 upper bound operand: AttributeValue: {}",
                shown(low),
                shown(high)
            )));
        }
        Ok(Test::Between(Box::new(operands)))
    }

    fn membership(self, operand: Operand, candidates: Vec<Operand>) -> Result<Test, ExpressionError> {
        if candidates.len() > MAX_IN_OPERANDS {
            return Err(self.kind.invalid(format_args!(
                "The IN operator is provided with too many operands; number of operands: {}",
                candidates.len()
            )));
        }
        self.check_distinct("IN", &operand, &candidates)?;
        Ok(Test::In(operand, candidates))
    }

    /// A function that is a condition.
    fn condition_function(self, function: &FunctionSyntax<'_>) -> Result<Test, ExpressionError> {
        let name = function.name;
        let operands = self.operands(&function.arguments)?;
        let count = operands.len();
        let wrong_count = |_| self.wrong_count(name, count);
        if matches!(name, "attribute_exists" | "attribute_not_exists") {
            let [operand] = <[Operand; 1]>::try_from(operands).map_err(wrong_count)?;
            return match operand {
                Operand::Path(path) if name == "attribute_exists" => Ok(Test::Exists(path)),
                Operand::Path(path) => Ok(Test::NotExists(path)),
                _ => Err(self.path_required(name)),
            };
        }
        let [first, second] = <[Operand; 2]>::try_from(operands).map_err(wrong_count)?;
        self.check_distinct(name, &first, [&second])?;
        match name {
            "attribute_type" => Ok(Test::HasType(first, self.type_name(&second)?)),
            "begins_with" => {
                for known in [&first, &second].into_iter().filter_map(Operand::known_type) {
                    if !matches!(known, "S" | "B") {
                        return Err(self.wrong_type(name, known));
                    }
                }
                Ok(Test::BeginsWith(first, second))
            }
            _ => Ok(Test::Contains(first, second)),
        }
    }

    /// The second operand of `attribute_type`.
    fn type_name(self, operand: &Operand) -> Result<String, ExpressionError> {
        match operand {
            Operand::Value(AttributeValue::S(name)) if TYPE_NAMES.contains(&name.as_str()) => Ok(name.clone()),
            Operand::Value(AttributeValue::S(name)) => Err(self.kind.invalid(format_args!(
                "Invalid attribute type name found; type: {name}, valid types: {{{}}}",
                TYPE_NAMES.join(",")
            ))),
            other => {
                Err(self.wrong_type("attribute_type", other.known_type().unwrap_or("{NS,SS,L,BS,N,M,B,BOOL,NULL,S}")))
            }
        }
    }

    fn operand(self, operand: &OperandSyntax<'_>) -> Result<Operand, ExpressionError> {
        match operand {
            OperandSyntax::Path(path) => Ok(Operand::Path(self.path(path)?)),
            OperandSyntax::Value(placeholder) => Ok(Operand::Value(self.value(placeholder)?)),
            OperandSyntax::Function(function) => self.size(function),
        }
    }

    fn operands(self, operands: &[OperandSyntax<'_>]) -> Result<Vec<Operand>, ExpressionError> {
        operands.iter().map(|operand| self.operand(operand)).collect()
    }

    /// `size`, the one function that is an operand; the syntax has no other one here.
    fn size(self, function: &FunctionSyntax<'_>) -> Result<Operand, ExpressionError> {
        let operands = self.operands(&function.arguments)?;
        let count = operands.len();
        let [operand] = <[Operand; 1]>::try_from(operands).map_err(|_| self.wrong_count("size", count))?;
        match operand.known_type() {
            Some(known @ ("N" | "BOOL" | "NULL")) => Err(self.wrong_type("size", known)),
            _ => Ok(Operand::Size(Box::new(operand))),
        }
    }

    /// Refuses to compare a path with itself.
    fn check_distinct<'o>(
        self,
        operator: &str,
        first: &Operand,
        others: impl IntoIterator<Item = &'o Operand>,
    ) -> Result<(), ExpressionError> {
        let Some(path) = first.path() else {
            return Ok(());
        };
        if others.into_iter().all(|other| other.path() != Some(path)) {
            return Ok(());
        }
        Err(self.kind.invalid(format_args!(
            "The first operand must be distinct from the remaining operands for this operator or \
             function; operator: {operator}, first operand: {path}"
        )))
    }

    /// Refuses operands known to have no order.
    fn check_ordered<'o>(
        self,
        operator: &str,
        operands: impl IntoIterator<Item = &'o Operand>,
    ) -> Result<(), ExpressionError> {
        let mut known = operands.into_iter().filter_map(Operand::known_type);
        match known.find(|known| !matches!(*known, "S" | "N" | "B")) {
            Some(wrong) => Err(self.wrong_type(operator, wrong)),
            None => Ok(()),
        }
    }
}

/// A scalar as the service's messages show it: `{N:5}`.
fn shown(value: &AttributeValue) -> String {
    let json = value.to_json();
    let payload = json[value.type_name()].as_str().unwrap_or_default();
    format!("{{{}:{payload}}}", value.type_name())
}
