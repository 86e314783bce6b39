//! What the kernel and the disk say, as types. Pure: bytes or text in, values or a refusal out.

pub(crate) mod bitmaps;
pub(crate) mod block;
pub(crate) mod copy_head;
pub(crate) mod garbled;
pub(crate) mod holder;
pub(crate) mod kind;
pub(crate) mod made_maps;
pub(crate) mod ondisk;
pub(crate) mod quote;
pub(crate) mod room;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod units;
pub(crate) mod wire;
