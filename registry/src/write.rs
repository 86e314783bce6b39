//! Changes to the registry: each is one transaction of state, facts and history.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Params, Transaction, TransactionBehavior};

use crate::digest::Digest;
use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::{RunId, VolumeId};
use crate::rows::{Blob, Image, Role, StoreBinding, Volume};
use crate::state::{ActivationState, VolumeState};

/// A volume to reserve an id for.
#[derive(Clone, Debug)]
pub struct NewVolume<'a> {
    /// What it is for.
    pub role: Role,
    /// The volume it is a snapshot of; none for the template.
    pub parent: Option<VolumeId>,
    /// What is built on the parent.
    pub build: &'a str,
    /// Size in bytes.
    pub bytes: u64,
}

/// An activation to reserve an id for.
#[derive(Clone, Debug, Default)]
pub struct NewActivation<'a> {
    /// Chosen by the caller.
    pub name: &'a str,
    /// The image that was asked for.
    pub reference: &'a str,
    /// The sealed volume it will be a snapshot of.
    pub origin: VolumeId,
    /// Size in bytes.
    pub bytes: u64,
    /// The server that the image came from, where that is known.
    pub endpoint: Option<&'a str>,
    /// For how long it is kept, seconds; none: until somebody removes it.
    pub ttl_s: Option<u64>,
    /// Whether its device is to refuse writes.
    pub read_only: bool,
    /// Whether its file system is to have no journal.
    pub no_journal: bool,
    /// What is said of it, by key.
    pub labels: &'a [(String, String)],
}

/// An id that was reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// It is in no other row, and never was.
    pub id: VolumeId,
    /// Ids before it that the store has and no row knows: they are somebody else's, and stay so.
    pub skipped: Vec<VolumeId>,
}

/// An open write transaction: all of it lands, or none.
#[derive(Debug)]
pub struct Write<'a> {
    pub(crate) tx: Transaction<'a>,
}

impl Registry {
    /// Runs `change` in one `BEGIN IMMEDIATE` transaction and commits it when it returns `Ok`.
    ///
    /// # Errors
    /// What `change` returned, or [`Error::Sqlite`]; then nothing was written.
    pub fn write<T>(
        &mut self,
        change: impl FnOnce(&Write<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.stands {
            return Err(Error::NoRoom { path: self.path.clone() });
        }
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Error::sqlite("begin a transaction"))?;
        let value = {
            let write = Write { tx };
            let value = change(&write)?;
            write.tx.commit().map_err(Error::sqlite("commit"))?;
            value
        };
        self.bound_log();
        Ok(value)
    }

    /// Commits a change that changes nothing, so that it is known whether a commit comes to disk.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn touch(&mut self) -> Result<(), Error> {
        self.write(|write| write.run("UPDATE meta SET next_id = next_id", []).map(drop))
    }

    /// Ties this registry to a store, once. `transaction_id` is the store's own; `next_id` is
    /// above every id that the store already has. Where no id is above, the first that is free does:
    /// ids of others are passed over.
    ///
    /// # Errors
    /// [`Error::OtherStore`] when it is tied to another.
    pub fn bind(
        &mut self,
        store: &StoreBinding,
        transaction_id: u64,
        next_id: VolumeId,
    ) -> Result<(), Error> {
        match self.store()? {
            Some(bound) if bound == *store => Ok(()),
            Some(bound) => Err(Error::OtherStore {
                bound: format!("{}:{}", bound.kind, bound.id),
                offered: format!("{}:{}", store.kind, store.id),
            }),
            None => self.write(|write| {
                let next_id = if next_id > VolumeId::MAX { VolumeId::new(1) } else { next_id };
                write.run(
                    "UPDATE meta SET store_kind = ?1, store_id = ?2, transaction_id = ?3,
                       next_id = max(next_id, ?4) WHERE store_kind IS NULL",
                    (&store.kind, &store.id, transaction_id, next_id),
                )?;
                write.event("store", None, Some("bound"), &format!("{}:{}", store.kind, store.id))
            }),
        }
    }
}

impl Write<'_> {
    /// Takes the next transaction id; the caller brings the store to it after the commit.
    pub fn next_transaction(&self) -> Result<u64, Error> {
        self.tx
            .query_row(
                "UPDATE meta SET transaction_id = transaction_id + 1 RETURNING transaction_id",
                [],
                |row| row.get(0),
            )
            .map_err(Error::sqlite("take a transaction id"))
    }

    /// Keeps the key of the store's seals.
    pub fn put_seal_key(&self, key: Digest) -> Result<(), Error> {
        self.run("UPDATE meta SET seal_key = ?1", [key.hex()]).map(drop)
    }

    /// Reserves an id for a volume; its state is Building. Counts one attempt of the build. `theirs` are
    /// ids that the store has: none of them is given.
    pub fn reserve_volume(
        &self,
        new: &NewVolume<'_>,
        theirs: &BTreeSet<VolumeId>,
    ) -> Result<Reserved, Error> {
        let Reserved { id, skipped } = self.next_id(theirs)?;
        // The caller takes the next transaction id with this very commit.
        self.run(
            "INSERT INTO volumes(id, role, parent, build, bytes, state, created_ms, reserved_at)
             VALUES (?1, ?2, ?3, ?4, ?5, 'building', ?6, (SELECT transaction_id + 1 FROM meta))",
            (id, new.role.word(), new.parent, new.build, new.bytes, now_ms()),
        )?;
        self.run(
            "INSERT INTO attempts(build, begun, at_ms) VALUES (?1, 1, ?2)
             ON CONFLICT DO UPDATE SET begun = begun + 1, at_ms = excluded.at_ms",
            (new.build, now_ms()),
        )?;
        self.event(&subject(id), None, Some("building"), new.build)?;
        Ok(Reserved { id, skipped })
    }

    /// Moves a volume along a checked edge, if it is still as `volume` says.
    ///
    /// # Errors
    /// [`Error::NoEdge`], or [`Error::Conflict`] when the row moved meanwhile.
    pub fn advance_volume(&self, volume: &Volume, next: &VolumeState) -> Result<(), Error> {
        self.advance_volume_told(volume, next, "")
    }

    /// [`Write::advance_volume`], whose event says more.
    ///
    /// # Errors
    /// As there.
    pub fn advance_volume_told(
        &self,
        volume: &Volume,
        next: &VolumeState,
        detail: &str,
    ) -> Result<(), Error> {
        let (subject, from) = (subject(volume.id), volume.state.word());
        if !volume.state.may_become(next) {
            return Err(Error::NoEdge { subject, from, to: next.word() });
        }
        let changed = match next {
            VolumeState::Sealed(seal) => self.run(
                "UPDATE volumes SET state = 'sealed', chain = ?3, diff = ?4, blob = ?5, tree = ?6,
                   own_bytes = ?7, entries = ?8, content_bytes = ?9, bytes = ?10, sealed_ms = ?11,
                   blocks = ?12 WHERE id = ?1 AND state = ?2",
                (
                    volume.id,
                    from,
                    seal.chain.map(|d| d.hex()),
                    seal.diff.map(|d| d.hex()),
                    seal.blob.map(|d| d.hex()),
                    seal.tree.map(|d| d.hex()),
                    seal.own_bytes,
                    seal.entries,
                    seal.content_bytes,
                    volume.bytes,
                    now_ms(),
                    seal.blocks.map(|d| d.hex()),
                ),
            )?,
            // The chain id is free for a new build as soon as this one is on its way out.
            VolumeState::Building | VolumeState::Deleting => self.run(
                "UPDATE volumes SET state = ?3, chain = NULL WHERE id = ?1 AND state = ?2",
                (volume.id, from, next.word()),
            )?,
        };
        self.expect_one(
            changed,
            &subject,
            from,
            "SELECT state FROM volumes WHERE id = ?1",
            volume.id,
        )?;
        if let VolumeState::Sealed(_) = next {
            self.run("DELETE FROM attempts WHERE build = ?1", [&volume.build])?;
        }
        self.event(&subject, Some(from), Some(next.word()), detail)
    }

    /// Drops the row of a deleting volume that the store no longer has.
    pub fn forget_volume(&self, id: VolumeId) -> Result<(), Error> {
        self.run("DELETE FROM volumes WHERE id = ?1", [id])?;
        self.event(&subject(id), Some("deleting"), None, "")
    }

    /// Reserves an id for an activation; its state is Reserved. `theirs` are ids that the store has: none
    /// of them is given.
    pub fn reserve_activation(
        &self,
        new: &NewActivation<'_>,
        theirs: &BTreeSet<VolumeId>,
    ) -> Result<Reserved, Error> {
        let Reserved { id, skipped } = self.next_id(theirs)?;
        self.run(
            "INSERT INTO activations(name, reference, origin, id, bytes, state, created_ms, reserved_at,
               endpoint, ttl_s, ttl_from_ms, read_only, no_journal)
             VALUES (?1, ?2, ?3, ?4, ?5, 'reserved', ?6, (SELECT transaction_id + 1 FROM meta), ?7, ?8, ?6,
               ?9, ?10)",
            (
                new.name,
                new.reference,
                new.origin,
                id,
                new.bytes,
                now_ms(),
                new.endpoint,
                new.ttl_s,
                new.read_only,
                new.no_journal,
            ),
        )?;
        new.labels.iter().try_for_each(|(key, value)| self.put_label(id, key, value))?;
        // Those of the image only if it is still what the activation is a snapshot of.
        self.run(
            "UPDATE activations SET (manifest, config) = (
               SELECT i.manifest, i.config FROM images i JOIN volumes v ON v.id = activations.origin
               WHERE i.reference = activations.reference AND i.chain = ifnull(v.sealed_chain, v.chain))
             WHERE name = ?1",
            [new.name],
        )?;
        let detail = format!("volume {id} of {}", new.reference);
        self.event(&format!("activation {}", new.name), None, Some("reserved"), &detail)?;
        Ok(Reserved { id, skipped })
    }

    /// Moves an activation along a checked edge, if it is still in `from`.
    ///
    /// # Errors
    /// [`Error::NoEdge`], or [`Error::Conflict`] when the row moved meanwhile.
    pub fn advance_activation(
        &self,
        name: &str,
        from: ActivationState,
        next: ActivationState,
    ) -> Result<(), Error> {
        let subject = format!("activation {name}");
        if !from.may_become(next) {
            return Err(Error::NoEdge { subject, from: from.word(), to: next.word() });
        }
        let changed = self.run(
            "UPDATE activations SET state = ?3 WHERE name = ?1 AND state = ?2",
            (name, from.word(), next.word()),
        )?;
        let query = "SELECT state FROM activations WHERE name = ?1";
        self.expect_one(changed, &subject, from.word(), query, name)?;
        self.event(&subject, Some(from.word()), Some(next.word()), "")
    }

    /// Drops the row of a deleting activation that the store no longer has.
    pub fn forget_activation(&self, name: &str) -> Result<(), Error> {
        self.run("DELETE FROM activations WHERE name = ?1", [name])?;
        self.drop_configs()?;
        self.event(&format!("activation {name}"), Some("deleting"), None, "")
    }

    /// Records a blob that was read to its end.
    pub fn put_blob(&self, blob: &Blob) -> Result<(), Error> {
        self.run(
            "INSERT INTO blobs(digest, diff, size, diff_size, seen_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET seen_ms = excluded.seen_ms",
            (blob.digest.hex(), blob.diff.hex(), blob.size, blob.diff_size, now_ms()),
        )
        .map(drop)
    }

    /// Publishes an image, or moves its reference to a new stack.
    pub fn put_image(&self, image: &Image) -> Result<(), Error> {
        let subject = format!("image {}", image.reference);
        let before: Option<String> = self
            .tx
            .query_row("SELECT chain FROM images WHERE reference = ?1", [&image.reference], |row| {
                row.get(0)
            })
            .optional()
            .map_err(Error::sqlite("read an image"))?;
        self.run(
            "INSERT INTO images(reference, endpoint, chain, created_ms, updated_ms)
             VALUES (?1, ?2, ?3, ?4, ?4)
             ON CONFLICT DO UPDATE SET endpoint = excluded.endpoint, chain = excluded.chain,
               updated_ms = excluded.updated_ms, found = NULL, manifest = NULL, config = NULL,
               platform = NULL",
            (&image.reference, &image.endpoint, image.chain.hex(), now_ms()),
        )?;
        self.run("DELETE FROM image_layers WHERE reference = ?1", [&image.reference])?;
        for (pos, layer) in image.layers.iter().enumerate() {
            self.run(
                "INSERT INTO image_layers(reference, pos, key, etag, size, digest, volume)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    &image.reference,
                    pos,
                    &layer.key,
                    &layer.etag,
                    layer.size,
                    layer.digest.hex(),
                    layer.volume,
                ),
            )?;
        }
        if before.as_deref() == Some(&image.chain.hex()) {
            return Ok(());
        }
        let from = before.is_some().then_some("published");
        self.event(&subject, from, Some("published"), &image.chain.to_string())
    }

    /// The number of a listing that is about to be asked for: a later one has a higher number.
    pub fn next_listing(&self) -> Result<u64, Error> {
        let listed = self.ask("UPDATE meta SET listed = listed + 1 RETURNING listed", [])?;
        listed.ok_or_else(|| Error::Corrupt { subject: "meta".into(), what: "no row".into() })
    }

    /// Whether an image is what a later listing than this has said.
    pub fn was_listed_after(&self, reference: &str, listed: u64) -> Result<bool, Error> {
        let last: Option<u64> =
            self.ask("SELECT listed FROM images WHERE reference = ?1", [reference])?;
        Ok(last.is_some_and(|last| last > listed))
    }

    /// By which listing an image is what it is.
    pub fn put_listing(&self, reference: &str, listed: u64) -> Result<(), Error> {
        self.run("UPDATE images SET listed = ?2 WHERE reference = ?1", (reference, listed))
            .map(drop)
    }

    /// The image was asked for just now.
    pub fn use_image(&self, reference: &str) -> Result<(), Error> {
        self.run(
            "UPDATE images SET used = (SELECT ifnull(max(seq), 0) FROM events) WHERE reference = ?1",
            [reference],
        )
        .map(drop)
    }

    /// Keeps an image whatever room is needed, or no longer. Returns whether there is one.
    pub fn pin_image(&self, reference: &str, pinned: bool) -> Result<bool, Error> {
        let changed =
            self.run("UPDATE images SET pinned = ?2 WHERE reference = ?1", (reference, pinned))?;
        if changed == 1 {
            // Who pins it has asked for it, and that stays so.
            self.run(
                "UPDATE images SET asked = 'both' WHERE reference = ?1 AND asked = 'document'",
                [reference],
            )?;
            let detail = if pinned { "pinned" } else { "unpinned" };
            self.event(
                &format!("image {reference}"),
                Some("published"),
                Some("published"),
                detail,
            )?;
        }
        Ok(changed == 1)
    }

    /// Forgets an image; its layers stay until something removes them.
    pub fn forget_image(&self, reference: &str) -> Result<bool, Error> {
        let changed = self.run("DELETE FROM images WHERE reference = ?1", [reference])?;
        if changed == 1 {
            self.drop_configs()?;
            self.event(&format!("image {reference}"), Some("published"), None, "")?;
        }
        Ok(changed == 1)
    }

    /// The next id that is not among `theirs`; those before it are never given either.
    pub(crate) fn next_id(&self, theirs: &BTreeSet<VolumeId>) -> Result<Reserved, Error> {
        let first: VolumeId = self
            .tx
            .query_row("SELECT next_id FROM meta", [], |row| row.get(0))
            .map_err(Error::sqlite("read the next id"))?;
        let mut left = (first.get()..=VolumeId::MAX.get()).map(VolumeId::new);
        let free = left.find(|id| !theirs.contains(id));
        let id = free.ok_or(Error::IdsExhausted)?;
        self.run("UPDATE meta SET next_id = ?1", [id.next()])?;
        let skipped = (first.get()..id.get()).map(VolumeId::new).collect();
        Ok(Reserved { id, skipped })
    }

    pub(crate) fn last_run_id(&self) -> Result<RunId, Error> {
        let id = u64::try_from(self.tx.last_insert_rowid());
        id.map(RunId::new).map_err(|_| Error::IdsExhausted)
    }

    pub(crate) fn run(&self, sql: &str, params: impl Params) -> Result<usize, Error> {
        self.tx
            .prepare(sql)
            .and_then(|mut statement| {
                let done = statement.execute(params);
                #[cfg(test)]
                crate::file::seen::note(sql, &statement);
                done
            })
            .map_err(Error::sqlite("write a row"))
    }

    /// The first column of the first row.
    pub(crate) fn ask<T: rusqlite::types::FromSql>(
        &self,
        sql: &str,
        params: impl Params,
    ) -> Result<Option<T>, Error> {
        self.tx
            .prepare(sql)
            .and_then(|mut statement| {
                let found = statement.query_row(params, |row| row.get(0)).optional();
                #[cfg(test)]
                crate::file::seen::note(sql, &statement);
                found
            })
            .map_err(Error::sqlite("write a row"))
    }

    pub(crate) fn expect_one(
        &self,
        changed: usize,
        subject: &str,
        expected: &'static str,
        query: &str,
        key: impl rusqlite::ToSql,
    ) -> Result<(), Error> {
        if changed == 1 {
            return Ok(());
        }
        let found = self
            .tx
            .query_row(query, [key], |row| row.get(0))
            .optional()
            .map_err(Error::sqlite("read a state"))?;
        Err(Error::Conflict { subject: subject.into(), expected, found })
    }
}

fn subject(id: VolumeId) -> String {
    format!("volume {id}")
}

/// For people; a clock before 1970 reads as 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
