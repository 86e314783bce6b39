//! What a live pool notes beside itself of the thins that are made, sized and deleted.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::format::units::ThinId;
use crate::pool::Pool;
use crate::pool::metadata::ThinRecord;
use crate::pool::notes::{Line, Note, Notes, read};

impl Pool {
    /// From here on keeps notes below `dir` (see [`dir`]) in the name of `owner`.
    #[must_use]
    pub fn with_notes(mut self, dir: &Path, owner: &str) -> Pool {
        let file = dir.join(format!("{}.ndjson", self.id));
        self.notes = Some(Notes { file, owner: owner.to_owned() });
        self
    }

    /// The note of each of these thins that has one.
    pub fn notes(&self, records: &[ThinRecord]) -> HashMap<ThinId, Note> {
        let Some(notes) = &self.notes else { return HashMap::new() };
        let text = fs::read_to_string(&notes.file).unwrap_or_default();
        let known = read(&text);
        let same = |record: &ThinRecord| {
            let note = known.get(&record.id)?;
            (note.transaction_id == record.transaction_id).then(|| (record.id, note.clone()))
        };
        records.iter().filter_map(same).collect()
    }

    /// How long the thin was when it was last active, if that is noted.
    pub(crate) fn noted_sectors(&self, id: ThinId) -> Result<Option<u64>, Error> {
        if self.notes.is_none() {
            return Ok(None);
        }
        let mut records = self.ids()?;
        records.retain(|record| record.id == id);
        Ok(self.notes(&records).get(&id).and_then(|note| note.sectors))
    }

    pub(crate) fn note_made(&self, id: ThinId, parent: Option<ThinId>, transaction_id: u64) {
        let Some(notes) = &self.notes else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let made_at = now.map_or(0, |since| since.as_secs());
        let owner = notes.owner.clone();
        let note = Note { id, parent, made_at, owner, transaction_id, sectors: None };
        notes.add(&Line::Made(note));
    }

    pub(crate) fn note_size(&self, id: ThinId, sectors: u64) {
        if let Some(notes) = &self.notes {
            notes.add(&Line::Sized { id, sectors });
        }
    }

    pub(crate) fn note_gone(&self, id: ThinId) {
        if let Some(notes) = &self.notes {
            notes.add(&Line::Gone { id });
        }
    }
}
