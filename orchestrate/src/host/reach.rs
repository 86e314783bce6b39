//! How much a run may reach for.

/// What a run may need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Names that are here, or an image as it is here.
    Here,
    /// A listing besides, of what is sealed.
    Listing,
    /// Whatever it takes.
    #[default]
    Fetching,
}
