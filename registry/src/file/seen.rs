//! The statements that a test has had run: below the queries, which note themselves, so that the test above them
//! can look at their plans.

use std::cell::RefCell;

use rusqlite::{Statement, StatementStatus};

thread_local! {
    static SEEN: RefCell<Vec<(String, i32)>> = const { RefCell::new(Vec::new()) };
}

/// Remembers a statement that was run, and its steps.
pub(crate) fn note(sql: &str, statement: &Statement<'_>) {
    let steps = statement.get_status(StatementStatus::VmStep);
    SEEN.with_borrow_mut(|seen| seen.push((sql.to_owned(), steps)));
}

/// What this thread has run since it was last asked.
pub(crate) fn seen() -> Vec<(String, i32)> {
    SEEN.with_borrow_mut(std::mem::take)
}
