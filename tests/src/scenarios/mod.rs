//! Every scenario, in the order of a whole run.

use crate::scenario::Scenario;

pub mod activate;
mod activation_load;
pub mod activation_log_writes;
pub mod activation_power_cut;
pub mod bench;
pub mod boot;
pub mod boots;
pub mod by_hand;
pub mod crash_clock;
pub mod crash_faulty;
mod crash_host;
pub mod crash_ioctls;
pub mod crash_log_writes;
pub mod crash_points;
pub mod crash_random;
pub mod demo;
pub mod disk;
pub mod disk_killed;
pub mod export;
pub mod foreign;
pub mod full;
pub mod given_away;
pub mod guides;
pub mod handover;
pub mod killed;
pub mod lost_registry;
pub mod naming;
pub mod operate;
pub mod oracle;
pub mod pool;
pub mod pool_backup;
pub mod pool_thresholds;
pub mod power_cut;
pub mod reboot;
pub mod refuse;
pub mod s3;
pub mod serve;
pub mod serve_grows;
pub mod sizes;
pub mod thin_full_data;
pub mod thin_grow;
pub mod thin_host_full;
mod thin_invariants;
pub mod thin_killed;
pub mod thin_latency;
mod thin_lives;
pub mod thin_log_writes;
pub mod thin_many_devices;
pub mod thin_needs_check;
pub mod thin_operate;
pub mod thin_power_cut;
pub mod thin_recycled;
pub mod thin_repair_grow;
pub mod thin_stuck;
pub mod thin_thousand;
pub mod thin_udev;
pub mod thin_verbs;
pub mod thin_wrong_metadata;
pub mod travel;
pub mod trim;
pub mod unsettled;
pub mod walls;
pub mod wedge;
mod wedge_harm;
mod wedge_host;
mod wedge_stop;
mod write_log;
pub mod written;

/// What every test run runs, and by [`Images::Full`](crate::scenario::Images::Full) what `just e2e-full`
/// does. A new one is a file, a `pub mod` line above, and a line here.
pub const ALL: &[Scenario] = &[
    boot::SCENARIO,
    pool::SCENARIO,
    s3::SCENARIO,
    oracle::SCENARIO,
    reboot::SCENARIO,
    activate::SCENARIO,
    handover::SCENARIO,
    export::SCENARIO,
    boots::SCENARIO,
    killed::SCENARIO,
    crash_clock::SCENARIO,
    crash_faulty::SCENARIO,
    activation_log_writes::SCENARIO,
    refuse::SCENARIO,
    written::SCENARIO,
    by_hand::SCENARIO,
    operate::SCENARIO,
    lost_registry::SCENARIO,
    unsettled::SCENARIO,
    given_away::SCENARIO,
    naming::SCENARIO,
    disk::SCENARIO,
    guides::SCENARIO,
    wedge::SCENARIO,
    sizes::SCENARIO,
    trim::SCENARIO,
    demo::SCENARIO,
    foreign::SCENARIO,
    full::SCENARIO,
    thin_grow::SCENARIO,
    thin_host_full::SCENARIO,
    thin_needs_check::SCENARIO,
    thin_operate::SCENARIO,
    thin_recycled::SCENARIO,
    thin_repair_grow::SCENARIO,
    thin_udev::SCENARIO,
    thin_verbs::SCENARIO,
    thin_wrong_metadata::SCENARIO,
    thin_full_data::SCENARIO,
    thin_killed::SCENARIO,
    thin_latency::SCENARIO,
    thin_log_writes::SCENARIO,
    thin_many_devices::SCENARIO,
    thin_stuck::SCENARIO,
    thin_power_cut::SCENARIO,
    thin_thousand::SCENARIO,
    walls::SCENARIO,
    serve::SCENARIO,
    serve_grows::SCENARIO,
    pool_backup::SCENARIO,
    pool_thresholds::SCENARIO,
];

/// What every test run also runs on the suite's other kernels: each kind of thing that we ask of one.
pub const SHORT: &[Scenario] = &[
    boot::SCENARIO,
    pool::SCENARIO,
    killed::SCENARIO,
    thin_grow::SCENARIO,
    thin_udev::SCENARIO,
    thin_verbs::SCENARIO,
    walls::SCENARIO,
];

/// Only by name, or with `--soak`: each takes minutes also in its short form.
pub const LONG: &[Scenario] = &[
    activation_power_cut::SCENARIO,
    crash_ioctls::SCENARIO,
    disk_killed::SCENARIO,
    travel::SCENARIO,
    crash_log_writes::SCENARIO,
    crash_points::SCENARIO,
    crash_random::SCENARIO,
    power_cut::SCENARIO,
];

/// Only by `just bench`, or by name: they measure.
pub const BENCHES: &[Scenario] = &[bench::SCENARIO, bench::FULL];

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().chain(LONG).chain(BENCHES).find(|scenario| scenario.name == name)
}
