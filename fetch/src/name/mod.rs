//! Names that people and documents give: of an image, and of the bytes of a layer or document. Text in, values or a
//! refusal out; nothing is looked up.

pub(crate) mod locator;
pub(crate) mod reference;
