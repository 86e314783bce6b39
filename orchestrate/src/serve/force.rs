//! Which settings are in force. What a hangup reads again holds from the next run or request on; what
//! only a restart can change is told by its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::host::settings::Settings;
use crate::serve::auth::Allow;
use crate::serve::daemon::{Daemon, lock};
use crate::serve::in_force::InForce;
use crate::serve::options::Options;
use crate::serve::queue::Workers;
use crate::serve::settings::{needs_restart, shown};
use crate::serve::{fleet, workers};

/// What a hangup changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Renewed {
    /// Keys of settings that are other ones from now on.
    pub(super) in_force: Vec<&'static str>,
    /// Keys of settings that will be after a restart.
    pub(super) restart: Vec<&'static str>,
}

impl InForce {
    pub(super) fn new(settings: Settings, options: &Options) -> InForce {
        let (allow, values) = (options.allow.clone(), options.values.clone());
        InForce { settings, allow, values, restart: Vec::new(), age: 0 }
    }

    /// Takes over what may be, and says what is new.
    fn renew(&mut self, settings: Settings, options: &Options) -> Renewed {
        let mut renewed = Renewed::default();
        for (key, value) in &options.values {
            if self.values.get(key) == Some(value) {
                continue;
            }
            match needs_restart(key) {
                true => renewed.restart.push(key),
                false => {
                    self.values.insert(key, value.clone());
                    renewed.in_force.push(key);
                }
            }
        }
        let old = &self.settings;
        self.settings = Settings {
            state: old.state.clone(),
            store: old.store.clone(),
            growing: old.growing.clone(),
            cancel: old.cancel.clone(),
            talk: old.talk,
            new: old.new,
            ..settings
        };
        self.allow.clone_from(&options.allow);
        self.restart.clone_from(&renewed.restart);
        self.age += 1;
        renewed
    }
}

impl Daemon {
    /// The settings in force.
    pub(super) fn settings(&self) -> Settings {
        lock(&self.in_force).settings.clone()
    }

    /// Who may use the socket.
    pub(super) fn allow(&self) -> Vec<Allow> {
        lock(&self.in_force).allow.clone()
    }

    /// Settings that decide what comes out of a run, as they are in force.
    pub(super) fn deciding(&self) -> BTreeMap<String, String> {
        shown(&lock(&self.in_force).values)
    }

    /// Keys of settings that were read and need a restart.
    pub(super) fn needs_restart(&self) -> Vec<String> {
        lock(&self.in_force).restart.iter().map(|key| (*key).to_owned()).collect()
    }

    /// Tells what was opened under which settings.
    pub(super) fn age(&self) -> u64 {
        lock(&self.in_force).age
    }

    /// From now on these hold, as far as no restart is needed.
    pub(super) fn renew(self: &Arc<Self>, settings: Settings, options: &Options) -> Renewed {
        let renewed = lock(&self.in_force).renew(settings, options);
        if renewed.in_force.iter().any(|key| lets_through(key)) {
            // What was begun by what held before is put by and begun anew: none of it comes through late.
            self.put_by("the setting of what is let through was renewed");
        }
        // What is open was opened with what held before.
        lock(&self.hosts).clear();
        self.set_limits(options.limits);
        for workers in Workers::ALL {
            workers::start(self, workers);
        }
        fleet::start(self);
        renewed
    }
}

/// Whether a setting decides what is trusted or let through.
fn lets_through(key: &str) -> bool {
    ["bytes_max", "etag_dedup"].contains(&key)
        || ["catalog.", "scan.", "trust."].iter().any(|table| key.starts_with(table))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Flags};

    fn of(text: &str) -> (Settings, Options) {
        let file = Some((Path::new("/f"), text));
        let config = Config::resolve(&Flags::new(), &|_| None, file).unwrap();
        (config.settings().unwrap(), config.serve().unwrap())
    }

    #[test]
    fn what_is_read_again_is_in_force_or_said_to_need_a_restart() {
        let (settings, options) = of("state = \"/a\"");
        let mut in_force = InForce::new(settings, &options);
        let (settings, options) = of("state = \"/b\"\nbytes_max = 7\netag_dedup = false\n\
                                      [serve]\nallow = [\"user:root\"]\nlisten = \"127.0.0.1:1\"");
        let renewed = in_force.renew(settings, &options);
        assert_eq!(renewed.in_force, ["bytes_max", "etag_dedup", "serve.allow"]);
        assert_eq!(renewed.restart, ["serve.listen", "state"]);
        assert_eq!(in_force.settings.state, Path::new("/a"));
        assert_eq!((in_force.settings.limits.bytes_max, in_force.allow.len()), (7, 1));
        // What waits for a restart is said again as long as it does.
        let (settings, options) = of("state = \"/b\"");
        let renewed = in_force.renew(settings, &options);
        assert_eq!(renewed.in_force, ["bytes_max", "etag_dedup", "serve.allow"]);
        assert_eq!(renewed.restart, ["state"]);
        let (settings, options) = of("state = \"/a\"");
        assert_eq!(in_force.renew(settings, &options), Renewed::default());
    }
}
