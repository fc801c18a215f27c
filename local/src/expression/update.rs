//! UpdateExpression: what an UpdateItem changes.

use std::borrow::Cow;

use super::path::{self, Path, Step};
use super::placeholders::Placeholders;
use super::syntax::{FunctionSyntax, Leaf, OperandSyntax, Resolver};
use super::update_syntax::{self, ActionSyntax, SetSyntax};
use super::{ExpressionError, ExpressionKind};
use crate::number::NumberError;
use crate::value::{AttributeValue, Item, check_nesting};

const KIND: ExpressionKind = ExpressionKind::UpdateExpression;

/// A parsed and checked UpdateExpression.
#[derive(Clone, Debug)]
pub struct Update {
    /// No path contains another.
    actions: Vec<(Path, Action)>,
    /// Whether it comes from `AttributeUpdates`, whose messages differ.
    is_legacy: bool,
}

#[derive(Clone, Debug)]
enum Action {
    Set(SetValue),
    Remove,
    /// Adds a number, or the elements of a set.
    Add(AttributeValue),
    /// Takes elements out of a set.
    Delete(AttributeValue),
}

#[derive(Clone, Debug)]
enum SetValue {
    Operand(Operand),
    Sum(Operand, Operand),
    Difference(Operand, Operand),
}

#[derive(Clone, Debug)]
enum Operand {
    Path(Path),
    Value(AttributeValue),
    IfNotExists(Path, Box<Operand>),
    ListAppend(Box<Operand>, Box<Operand>),
}

/// The effect of an action on one item.
enum Change {
    Put(AttributeValue),
    Remove,
    Nothing,
}

impl Update {
    /// Parses and checks an update.
    ///
    /// # Errors
    /// With the service's message: wrong syntax, reserved words, unknown functions or placeholders, operands that can
    /// never be right, paths that overlap, limits exceeded.
    pub fn parse(text: &str, placeholders: &Placeholders) -> Result<Self, ExpressionError> {
        let written = update_syntax::parse(text)?;
        let resolver = Resolver { kind: KIND, placeholders };
        check_defined(&written, resolver)?;
        let targets = written.iter().map(|action| resolver.path(action.target())).collect::<Result<Vec<_>, _>>()?;
        path::check_apart(KIND, &targets.iter().collect::<Vec<_>>())?;
        let actions = written.iter().map(|action| resolver.action(action)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { actions: targets.into_iter().zip(actions).collect(), is_legacy: false })
    }

    /// No changes yet, of `AttributeUpdates`.
    pub(super) fn legacy() -> Self {
        Self { actions: Vec::new(), is_legacy: true }
    }

    pub(super) fn set(&mut self, path: Path, value: AttributeValue) {
        self.actions.push((path, Action::Set(SetValue::Operand(Operand::Value(value)))));
    }

    pub(super) fn add(&mut self, path: Path, value: AttributeValue) {
        self.actions.push((path, Action::Add(value)));
    }

    /// Appends to a list, which may be missing.
    pub(super) fn append(&mut self, path: Path, list: AttributeValue) {
        let nothing = Operand::Value(AttributeValue::L(Vec::new()));
        let current = Operand::IfNotExists(path.clone(), Box::new(nothing));
        let appended = Operand::ListAppend(Box::new(current), Box::new(Operand::Value(list)));
        self.actions.push((path, Action::Set(SetValue::Operand(appended))));
    }

    pub(super) fn remove(&mut self, path: Path) {
        self.actions.push((path, Action::Remove));
    }

    pub(super) fn delete(&mut self, path: Path, elements: AttributeValue) {
        self.actions.push((path, Action::Delete(elements)));
    }

    /// Refuses changes of key attributes. The service does so before it looks at the item or at a condition.
    ///
    /// # Errors
    /// There is one.
    pub fn check_keys(&self, key_names: &[&str]) -> Result<(), ExpressionError> {
        for (path, _) in &self.actions {
            if key_names.contains(&path.attribute.as_str()) {
                return Err(ExpressionError(format!(
                    "One or more parameter values were invalid: Cannot update attribute {}. \
                     This attribute is part of the key",
                    path.attribute
                )));
            }
        }
        Ok(())
    }

    /// The item as the update leaves it. All operands are read from the item as it was.
    ///
    /// # Errors
    /// With the service's message: a key attribute would change, an operand is missing or of the wrong type, a path
    /// leads into nothing, a number or the nesting exceeds its limits.
    pub fn apply(&self, item: &Item, key_names: &[&str]) -> Result<Item, ExpressionError> {
        self.check_keys(key_names)?;
        let mut puts = Vec::new();
        let mut removals = Vec::new();
        for (path, action) in &self.actions {
            let change = action.on(path.find(item), item).map_err(|error| {
                let is_mismatch = self.is_legacy && error == wrong_operand();
                if is_mismatch { ExpressionError("Type mismatch for attribute to update".to_owned()) } else { error }
            })?;
            check_place(path, item)?;
            match change {
                Change::Put(value) => puts.push((path, value)),
                Change::Remove => removals.push(path),
                Change::Nothing => {}
            }
        }
        // Positions in lists are those of the item as it was: elements behind a list's end are appended in the
        // order of their positions, and elements go last, from behind.
        puts.sort_by_key(|(path, _)| *path);
        removals.sort_by(|left, right| right.cmp(left));
        let mut updated = item.clone();
        for (path, value) in puts {
            check_nesting(path.steps.len() + value.nesting())?;
            put(&mut updated, path, value)?;
        }
        for path in removals {
            remove(&mut updated, path)?;
        }
        Ok(updated)
    }

    /// The part of an item, old or new, that the update names: what UPDATED_OLD and UPDATED_NEW return.
    pub fn project_touched(&self, item: &Item) -> Item {
        path::project(self.actions.iter().map(|(path, _)| path), item)
    }
}

impl Action {
    /// Its effect, given the current value at its path.
    fn on(&self, current: Option<&AttributeValue>, item: &Item) -> Result<Change, ExpressionError> {
        match self {
            Self::Set(value) => Ok(Change::Put(value.value(item)?)),
            Self::Remove if current.is_some() => Ok(Change::Remove),
            Self::Remove => Ok(Change::Nothing),
            Self::Add(addend) => match current {
                Some(current) => Ok(Change::Put(sum(current, addend)?)),
                None => Ok(Change::Put(addend.clone())),
            },
            Self::Delete(elements) => match current {
                Some(current) => without(current, elements),
                None => Ok(Change::Nothing),
            },
        }
    }
}

impl SetValue {
    fn value(&self, item: &Item) -> Result<AttributeValue, ExpressionError> {
        let (left, right, operation) = match self {
            Self::Operand(operand) => return Ok(operand.value(item)?.into_owned()),
            Self::Sum(left, right) => (left, right, true),
            Self::Difference(left, right) => (left, right, false),
        };
        match (&*left.value(item)?, &*right.value(item)?) {
            (AttributeValue::N(left), AttributeValue::N(right)) if operation => {
                Ok(AttributeValue::N(left.add(*right)?))
            }
            (AttributeValue::N(left), AttributeValue::N(right)) => Ok(AttributeValue::N(left.sub(*right)?)),
            _ => Err(wrong_operand()),
        }
    }
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Item) -> Result<Cow<'a, AttributeValue>, ExpressionError> {
        match self {
            Self::Value(value) => Ok(Cow::Borrowed(value)),
            Self::Path(path) => path.find(item).map(Cow::Borrowed).ok_or_else(|| {
                ExpressionError(
                    "The provided expression refers to an attribute that does not exist in the item".to_owned(),
                )
            }),
            Self::IfNotExists(path, otherwise) => match path.find(item) {
                Some(value) => Ok(Cow::Borrowed(value)),
                None => otherwise.value(item),
            },
            Self::ListAppend(first, second) => match (&*first.value(item)?, &*second.value(item)?) {
                (AttributeValue::L(first), AttributeValue::L(second)) => {
                    let both = first.iter().chain(second).cloned();
                    Ok(Cow::Owned(AttributeValue::L(both.collect())))
                }
                _ => Err(wrong_operand()),
            },
        }
    }

    /// The type of a value given with the request.
    fn given_type(&self) -> Option<&'static str> {
        match self {
            Self::Value(value) => Some(value.type_name()),
            _ => None,
        }
    }
}

impl Resolver<'_> {
    fn action(self, action: &ActionSyntax<'_>) -> Result<Action, ExpressionError> {
        match action {
            ActionSyntax::Set(_, value) => Ok(Action::Set(self.set_value(value)?)),
            ActionSyntax::Remove(_) => Ok(Action::Remove),
            ActionSyntax::Add(_, placeholder) => {
                let value = self.value(placeholder)?;
                self.check_section_operand("ADD", &value)?;
                Ok(Action::Add(value))
            }
            ActionSyntax::Delete(_, placeholder) => {
                let value = self.value(placeholder)?;
                self.check_section_operand("DELETE", &value)?;
                Ok(Action::Delete(value))
            }
        }
    }

    fn set_value(self, value: &SetSyntax<'_>) -> Result<SetValue, ExpressionError> {
        match value {
            SetSyntax::Operand(operand) => Ok(SetValue::Operand(self.update_operand(operand)?)),
            SetSyntax::Sum(left, right) => {
                let (left, right) = self.given_operands("+", "N", [left, right])?;
                Ok(SetValue::Sum(left, right))
            }
            SetSyntax::Difference(left, right) => {
                let (left, right) = self.given_operands("-", "N", [left, right])?;
                Ok(SetValue::Difference(left, right))
            }
        }
    }

    fn update_operand(self, operand: &OperandSyntax<'_>) -> Result<Operand, ExpressionError> {
        match operand {
            OperandSyntax::Path(path) => Ok(Operand::Path(self.path(path)?)),
            OperandSyntax::Value(placeholder) => Ok(Operand::Value(self.value(placeholder)?)),
            OperandSyntax::Function(function) => self.update_function(function),
        }
    }

    fn update_function(self, function: &FunctionSyntax<'_>) -> Result<Operand, ExpressionError> {
        let [first, second] = &function.arguments[..] else {
            return Err(self.wrong_count(function.name, function.arguments.len()));
        };
        if function.name == "list_append" {
            let (first, second) = self.given_operands(function.name, "L", [first, second])?;
            return Ok(Operand::ListAppend(Box::new(first), Box::new(second)));
        }
        // The syntax has no third function.
        let OperandSyntax::Path(path) = first else {
            return Err(self.path_required(function.name));
        };
        let otherwise = self.update_operand(second)?;
        Ok(Operand::IfNotExists(self.path(path)?, Box::new(otherwise)))
    }

    /// Two operands that must be of one type, as far as they are given with the request.
    fn given_operands(
        self,
        operator: &str,
        wanted: &str,
        operands: [&OperandSyntax<'_>; 2],
    ) -> Result<(Operand, Operand), ExpressionError> {
        let [left, right] = operands;
        let (left, right) = (self.update_operand(left)?, self.update_operand(right)?);
        for given in [&left, &right].into_iter().filter_map(Operand::given_type) {
            if given != wanted {
                return Err(self.wrong_type(operator, given));
            }
        }
        Ok((left, right))
    }

    /// Refuses what can be neither added to nor taken out of anything.
    fn check_section_operand(self, section: &str, value: &AttributeValue) -> Result<(), ExpressionError> {
        let wrong = match value {
            AttributeValue::N(_) if section == "DELETE" => "NUMBER",
            AttributeValue::S(_) => "STRING",
            AttributeValue::B(_) => "BINARY",
            AttributeValue::Bool(_) => "BOOLEAN",
            AttributeValue::Null => "NULL",
            AttributeValue::L(_) => "LIST",
            AttributeValue::M(_) => "MAP",
            _ => return Ok(()),
        };
        Err(self.kind.invalid(format_args!(
            "Incorrect operand type for operator or function; operator: {section}, \
             operand type: {wrong}, typeSet: ALLOWED_FOR_{section}_OPERAND"
        )))
    }
}

impl From<NumberError> for ExpressionError {
    fn from(error: NumberError) -> Self {
        Self(error.to_string())
    }
}

/// Refuses undefined placeholders, names before values.
fn check_defined(actions: &[ActionSyntax<'_>], resolver: Resolver<'_>) -> Result<(), ExpressionError> {
    for action in actions {
        resolver.path(action.target())?;
        if let ActionSyntax::Set(_, value) = action {
            for operand in value.operands() {
                operand.for_each_leaf(&mut |leaf| match leaf {
                    Leaf::Path(path) => resolver.path(path).map(drop),
                    Leaf::Value(_) => Ok(()),
                })?;
            }
        }
    }
    for action in actions {
        match action {
            ActionSyntax::Set(_, value) => {
                for operand in value.operands() {
                    operand.for_each_leaf(&mut |leaf| match leaf {
                        Leaf::Path(_) => Ok(()),
                        Leaf::Value(placeholder) => resolver.value(placeholder).map(drop),
                    })?;
                }
            }
            ActionSyntax::Remove(_) => {}
            ActionSyntax::Add(_, placeholder) | ActionSyntax::Delete(_, placeholder) => {
                resolver.value(placeholder)?;
            }
        }
    }
    Ok(())
}

/// ADD to what is there.
fn sum(current: &AttributeValue, addend: &AttributeValue) -> Result<AttributeValue, ExpressionError> {
    match (current, addend) {
        (AttributeValue::N(left), AttributeValue::N(right)) => Ok(AttributeValue::N(left.add(*right)?)),
        (AttributeValue::Ss(left), AttributeValue::Ss(right)) => Ok(AttributeValue::Ss(left | right)),
        (AttributeValue::Ns(left), AttributeValue::Ns(right)) => Ok(AttributeValue::Ns(left | right)),
        (AttributeValue::Bs(left), AttributeValue::Bs(right)) => Ok(AttributeValue::Bs(left | right)),
        _ => Err(wrong_operand()),
    }
}

/// DELETE from what is there; a set that loses its last element goes, too.
fn without(current: &AttributeValue, elements: &AttributeValue) -> Result<Change, ExpressionError> {
    let (left, is_empty) = match (current, elements) {
        (AttributeValue::Ss(set), AttributeValue::Ss(out)) => {
            let left = set - out;
            (AttributeValue::Ss(left), set.is_subset(out))
        }
        (AttributeValue::Ns(set), AttributeValue::Ns(out)) => {
            let left = set - out;
            (AttributeValue::Ns(left), set.is_subset(out))
        }
        (AttributeValue::Bs(set), AttributeValue::Bs(out)) => {
            let left = set - out;
            (AttributeValue::Bs(left), set.is_subset(out))
        }
        _ => return Err(wrong_operand()),
    };
    Ok(if is_empty { Change::Remove } else { Change::Put(left) })
}

/// Refuses a path whose last step is not in an existing map or list.
fn check_place(path: &Path, item: &Item) -> Result<(), ExpressionError> {
    let Some((last, steps)) = path.steps.split_last() else {
        return Ok(());
    };
    let parent = Path { attribute: path.attribute.clone(), steps: steps.to_vec() };
    match (parent.find(item), last) {
        (Some(AttributeValue::M(_)), Step::Attribute(_)) | (Some(AttributeValue::L(_)), Step::Index(_)) => Ok(()),
        _ => Err(wrong_path()),
    }
}

fn put(item: &mut Item, path: &Path, value: AttributeValue) -> Result<(), ExpressionError> {
    match place(item, path)? {
        Place::Member(map, name) => {
            map.insert(name.to_owned(), value);
        }
        Place::Element(list, index) => match list.get_mut(index) {
            Some(element) => *element = value,
            None => list.push(value),
        },
    }
    Ok(())
}

fn remove(item: &mut Item, path: &Path) -> Result<(), ExpressionError> {
    match place(item, path)? {
        Place::Member(map, name) => {
            map.remove(name);
        }
        Place::Element(list, index) if index < list.len() => {
            list.remove(index);
        }
        Place::Element(..) => {}
    }
    Ok(())
}

/// The end of a path: a map or list, and the place in it.
enum Place<'i, 'p> {
    Member(&'i mut Item, &'p str),
    Element(&'i mut Vec<AttributeValue>, usize),
}

fn place<'i, 'p>(item: &'i mut Item, path: &'p Path) -> Result<Place<'i, 'p>, ExpressionError> {
    let mut place = Place::Member(item, &path.attribute);
    for step in &path.steps {
        let value = match place {
            Place::Member(map, name) => map.get_mut(name),
            Place::Element(list, index) => list.get_mut(index),
        };
        place = match (value, step) {
            (Some(AttributeValue::M(map)), Step::Attribute(name)) => Place::Member(map, name),
            (Some(AttributeValue::L(list)), Step::Index(index)) => Place::Element(list, *index),
            _ => return Err(wrong_path()),
        };
    }
    Ok(place)
}

fn wrong_operand() -> ExpressionError {
    ExpressionError("An operand in the update expression has an incorrect data type".to_owned())
}

fn wrong_path() -> ExpressionError {
    ExpressionError("The document path provided in the update expression is invalid for update".to_owned())
}
