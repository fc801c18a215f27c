//! ProjectionExpression: which parts of an item are returned.

use super::path::{self, Path};
use super::placeholders::Placeholders;
use super::syntax::{Parser, PathSyntax, Resolver};
use super::{ExpressionError, ExpressionKind};
use crate::value::Item;

const KIND: ExpressionKind = ExpressionKind::ProjectionExpression;

/// A parsed and checked ProjectionExpression.
#[derive(Clone, Debug)]
pub struct Projection {
    /// No path contains another.
    paths: Vec<Path>,
}

impl Projection {
    /// Reads paths with commas between.
    ///
    /// # Errors
    /// With the service's message: wrong syntax, reserved words, unknown placeholders, paths that overlap.
    pub fn parse(text: &str, placeholders: &Placeholders) -> Result<Self, ExpressionError> {
        let mut parser = Parser::new(KIND, text)?;
        let written: Vec<PathSyntax<'_>> = parser.list(Parser::path)?;
        parser.tokens.expect_end()?;
        for path in &written {
            path.check_words(KIND)?;
        }
        let resolver = Resolver { kind: KIND, placeholders };
        let paths = written.iter().map(|path| resolver.path(path)).collect::<Result<Vec<_>, _>>()?;
        path::check_apart(KIND, &paths.iter().collect::<Vec<_>>())?;
        Ok(Self { paths })
    }

    pub(super) fn of_paths(paths: Vec<Path>) -> Self {
        Self { paths }
    }

    /// The part of the item that the paths lead to; what does not exist is left out.
    pub fn project(&self, item: &Item) -> Item {
        path::project(self.paths.iter(), item)
    }

    /// The item's attributes that it reads.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(|path| path.attribute.as_str())
    }
}
