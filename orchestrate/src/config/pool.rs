//! At which marks of a pool what is done, and that they stand in their order.

use std::time::Duration;

use crate::config::Config;
use crate::error::Error;
use crate::host::settings::Copies;
use crate::plan::guard::{Marks, Part, Thresholds};

impl Config {
    /// # Errors
    /// [`Error::Usage`] naming the two settings that are the wrong way round.
    pub(super) fn pool(&self) -> Result<Thresholds, Error> {
        Ok(Thresholds {
            data: self.marks(Part::Data)?,
            metadata: self.marks(Part::Metadata)?,
            pause_time: Duration::from_secs(self.number("pool.pause_s").unwrap_or_default()),
        })
    }

    pub(super) fn copies(&self) -> Copies {
        Copies {
            every: Duration::from_secs(self.number("pool.backup_every").unwrap_or_default()),
            keep: self.number("pool.backup_keep").unwrap_or(1),
        }
    }

    fn marks(&self, part: Part) -> Result<Marks, Error> {
        let part = part.word();
        let of = |level: &str| self.number(&format!("pool.{level}_{part}")).unwrap_or(100);
        let marks =
            Marks { warn: of("warn"), grow: of("grow"), refuse: of("refuse"), pause: of("pause") };
        match marks.disorder() {
            None => Ok(marks),
            Some([(first, lower), (second, upper)]) => {
                let (first, second) = (first.word(), second.word());
                Err(Error::Usage(format!(
                    "pool.{first}_{part} = {lower} is above pool.{second}_{part} = {upper}: of a pool that fills the \
                     marks to warn, grow, refuse and pause have to come in this order"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Flags};
    use crate::plan::class::class;

    #[test]
    fn marks_the_wrong_way_round_are_refused_by_their_names() {
        let settings = |text: &str| {
            let file = Some((Path::new("/f"), text));
            Config::resolve(&Flags::new(), &|_| None, file).and_then(|config| config.settings())
        };
        let pool = settings("[pool]\nwarn_data = 50\npause_s = 7").unwrap().pool;
        assert_eq!((pool.data.warn, pool.data.pause, pool.metadata.warn), (50, 97, 70));
        assert_eq!(pool.pause_time.as_secs(), 7);
        for (text, wanted) in [
            ("refuse_data = 98", "pool.refuse_data = 98 is above pool.pause_data = 97"),
            ("warn_metadata = 80", "pool.warn_metadata = 80 is above pool.grow_metadata = 75"),
            ("grow_data = 0", "expected a whole number from 1 to 100"),
            ("pause_data = 101", "expected a whole number from 1 to 100"),
        ] {
            let error = settings(&format!("[pool]\n{text}")).expect_err(text);
            assert!(error.to_string().contains(wanted), "{text}: {error}");
            assert_eq!(class(&error).exit_code(), 100);
        }
    }
}
