//! What the job promises, held against the real program on a `dir:` store and a real S3 server: the
//! whole job, crashes at every point, failures of every call, damaged files, kills at random, races.
//! Needs root, since layers have owners, and the server that `./bootstrap` installs.

mod bench;
mod cancel;
mod catalog;
mod damage;
mod dir_store;
mod gc_race;
mod life;
mod log;
mod matrix;
mod metrics;
mod network;
mod race;
mod scan;
mod storm;
mod sweep;
mod upgrade;
