//! Attribute values and items.
