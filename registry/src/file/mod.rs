//! The database as a file: opened, migrated, checked, copied. No query of the product is here.

pub(crate) mod check;
pub(crate) mod copy;
pub(crate) mod pages;
pub(crate) mod place;
pub(crate) mod schema;
#[cfg(test)]
pub(crate) mod seen;
