//! Why an activation may not be up.

use crate::trust::cosign::Unsigned;
use crate::trust::keys::Distrust;

/// Why an activation may not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What speaks against it.
    pub why: Why,
    /// Whether it is taken down where it runs.
    pub goes: bool,
}

/// What speaks against an activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The catalog lists its image no longer.
    Revoked {
        /// The image.
        image: String,
        /// The catalog's serial.
        serial: u64,
        /// What differs.
        what: String,
    },
    /// What the believed catalog lists is not known here: a rebuild found its serial and no more.
    Unread {
        /// The image.
        image: String,
        /// The catalog's serial.
        serial: u64,
    },
    /// A key of cosign's must have signed its image, and none that is trusted is known to have.
    Unsigned(Unsigned),
    /// The scanner found what the policy does not let through.
    Blocked {
        /// The image.
        image: String,
        /// What was found.
        counts: [u64; 5],
    },
    /// The scanner that is required has not looked at it.
    Unscanned {
        /// The image.
        image: String,
    },
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Revoked { image, serial, what } => {
                let (image, serial, why) = (image.clone(), *serial, what.clone());
                Distrust::Revoked { image, serial, why }.fmt(f)
            }
            Why::Unread { image, serial } => write!(
                f,
                "whether the catalog of serial {serial} lists {} is not known here any more: `orchestrate \
                 catalog` reads it again",
                image.escape_debug()
            ),
            Why::Unsigned(unsigned) => unsigned.fmt(f),
            Why::Blocked { image, counts } => write!(
                f,
                "{} is blocked by the scan policy: {}; `orchestrate scan --show {0}` shows all",
                image.escape_debug(),
                crate::trust::scan::Counts::from(*counts)
            ),
            Why::Unscanned { image } => write!(
                f,
                "{} was not scanned by the scanner that is required: `orchestrate scan {0}`, or \
                 `orchestrate recover`, does so",
                image.escape_debug()
            ),
        }
    }
}

impl Why {
    /// Whether somebody has spoken against it; else nobody has looked.
    pub fn is_verdict(&self) -> bool {
        match self {
            Why::Revoked { .. } | Why::Blocked { .. } => true,
            Why::Unsigned(unsigned) => unsigned.is_verdict(),
            Why::Unscanned { .. } | Why::Unread { .. } => false,
        }
    }
}
