//! Images of layouts and archives, by the real program on a `dir:` store: every form of one image is one stack,
//! and every document that lies is refused with nothing left behind.

mod bucket;
mod crash;
#[path = "../serve/daemon.rs"]
#[allow(dead_code)]
mod daemon;
mod layout;
mod life;
mod peers;
mod pipe;
mod signed;
mod table;
