//! What the program adds to the library: its flags and its words.

/// Says something on standard error; where nobody takes it, what was done is done all the same.
macro_rules! note {
    ($($text:tt)*) => {
        match std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($text)*))) {
            Ok(()) | Err(_) => {}
        }
    };
}

pub(crate) mod chunks;
pub(crate) mod diff;
pub(crate) mod digest;
pub(crate) mod flags;
pub(crate) mod image;
pub(crate) mod misplaced;
pub(crate) mod open;
pub(crate) mod run;
pub(crate) mod said;
