//! What the job promises, held against the real program on a `dir:` store and a real S3 server: the
//! whole job, crashes at every point, failures of every call, damaged files, kills at random, races.
//! Needs root, since layers have owners, and the server that `./bootstrap` installs.

mod actors;
mod belief;
mod bench;
mod cancel;
mod catalog;
mod condemned;
mod copies;
mod damage;
mod deaths;
mod dir_store;
mod disks;
mod foreign;
mod full;
mod gc_race;
mod handover;
mod heard;
mod hints;
mod images;
mod interleave;
mod life;
mod log;
mod lost;
mod matrix;
mod memory;
mod metrics;
mod naming;
mod network;
mod order;
mod places;
mod race;
mod rebuild;
mod restored;
mod revoked;
mod runtime;
mod scan;
mod scan_walls;
mod storm;
mod strangers;
mod sweep;
mod tenants;
mod unsettled;
mod upgrade;
mod walls;
mod wedge;
