//! A store of plain directories, for hosts without device-mapper: laptops, containers, tests by
//! the thousand. A snapshot is a copy, reflinked where the file system can.
//!
//! ```text
//!   PATH/veneer-store     identity, made once
//!   PATH/transaction      the transaction id, replaced by rename
//!   PATH/volumes/<id>     one tree a volume
//!   PATH/notes/<id>       what a sealed volume says of itself, or its origin's
//!   PATH/made/<id>        the transaction id at which we made that tree
//!   PATH/active/<name>    a symbolic link to ../volumes/<id>
//!   PATH/serials          the believed serials of catalogs, replaced by rename
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use registry::{StoreBinding, VolumeId};

use crate::error::Error;
use crate::plan::mapped::Mapped;
use crate::plan::{Mapping, epoch};
use crate::process::cancel::Cancel;
use crate::store::dir_files::{
    self, io_error, is_dir, is_no_file, is_there, linked, make_tree, put_number, read_own, remove,
    replace, tree_error, write_new,
};
use crate::store::dir_held;
use crate::store::dir_place::{
    LOCK, clear, is_empty, make_dir, make_private, making, own_dir, own_top,
};
use crate::store::dir_restore::{self, HEADER};
use crate::store::dir_work::{DirView, DirWork};
use crate::store::seam::{ByStart, Condition, Ground, Made, Reading, Space, Store, View, Work};
use crate::store::snapshot::Snapshot;

/// The file of the believed serials.
const SERIALS: &str = "serials";

/// Its directories.
const PARTS: [&str; 4] = ["volumes", "active", "notes", "made"];

/// A directory that is a store.
#[derive(Debug)]
pub struct DirStore {
    path: PathBuf,
    id: String,
    cancel: Cancel,
}

impl DirStore {
    /// Opens the store at `path`; makes it in a directory that is absent or empty. Whoever else makes one there
    /// is waited for so long, or until somebody asks to stop.
    ///
    /// # Errors
    /// [`Error::Usage`] for a directory that holds something else, or that somebody else can change.
    pub fn open(path: &Path, wait: Duration, cancel: &Cancel) -> Result<DirStore, Error> {
        make_dir(path)?;
        let path = path.canonicalize().map_err(io_error("find", path))?;
        let dir = own_top(&path)?;
        let header = path.join(HEADER);
        if !is_there(&header)? {
            dir_restore::never_was(&path)?;
            // Two processes may come to an empty directory at once.
            let making = making(&path, dir, wait, cancel)?;
            if !is_there(&header)? {
                let store = DirStore::make(path.clone(), cancel);
                drop(making);
                return store;
            }
        }
        let id = dir_restore::identity(&path)?;
        clear(&path);
        // Directories that came later, and one whose links recovery makes anew.
        for name in ["notes", "made", "active"] {
            make_dir(&path.join(name))?;
        }
        for name in PARTS {
            let part = path.join(name);
            // One that is gone is told by who needs it.
            if is_there(&part)? {
                own_dir(&part)?;
            }
        }
        Ok(DirStore { id, path, cancel: cancel.clone() })
    }

    fn make(path: PathBuf, cancel: &Cancel) -> Result<DirStore, Error> {
        // The header comes last, so a killed run may have left any of these.
        let ours = |entry: &fs::DirEntry| match entry.file_name().to_str() {
            Some(
                "lost+found" | "transaction" | ".transaction.new" | ".veneer-store.new" | LOCK,
            ) => Ok(true),
            Some(name) if PARTS.contains(&name) => {
                own_dir(&entry.path())?;
                is_empty(&entry.path()).map_err(io_error("list", &entry.path()))
            }
            Some(_) | None => Ok(false),
        };
        let list = |source| io_error("list", &path)(source);
        for entry in fs::read_dir(&path).map_err(list)? {
            // What cannot be read is not what somebody else has put there.
            if !ours(&entry.map_err(list)?)? {
                return Err(Error::Usage(format!(
                    "--store dir:{}: not empty and not a veneer store; name an empty directory",
                    path.display()
                )));
            }
        }
        for name in PARTS {
            let part = path.join(name);
            make_dir(&part)?;
            make_private(&own_dir(&part)?, &part)?;
        }
        let mut random = [0; 16];
        let source = Path::new("/dev/urandom");
        fs::File::open(source)
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut random))
            .map_err(io_error("read", source))?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let store = DirStore { path, id, cancel: cancel.clone() };
        store.replace("transaction", "0")?;
        store.replace("veneer-store", &store.id)?;
        Ok(store)
    }

    fn volume(&self, id: VolumeId) -> PathBuf {
        self.path.join("volumes").join(id.to_string())
    }

    /// Whether a volume's place has a directory of its own: neither a link, which leads to what is not
    /// ours, nor anything else.
    fn is_tree(&self, id: VolumeId) -> Result<bool, Error> {
        is_dir(&self.volume(id))
    }

    fn root(&self, id: VolumeId) -> Result<unpack::Root, Error> {
        let tree = self.volume(id);
        if self.has(id)? && !self.is_tree(id)? {
            return Err(Error::NotOurs { id });
        }
        unpack::Root::open(&tree).map_err(tree_error("open a volume"))
    }

    /// A link whose tree is gone leads nowhere.
    fn linked_tree(&self, id: VolumeId) -> Mapping {
        // One that cannot be looked at keeps nobody from the others.
        if self.is_tree(id).unwrap_or(false) { Mapping::Live } else { Mapping::Half }
    }

    /// Makes the directory of a volume, and the record that we did: the record first, so that a kill
    /// leaves no volume of ours without one.
    fn make_volume(&self, id: VolumeId) -> Result<(), Error> {
        let (tree, record) = (self.volume(id), self.path.join("made").join(id.to_string()));
        // An id is given once, so what lies under it in any of the places was put there by others.
        let seal_record = self.path.join("notes").join(id.to_string());
        if self.has(id)? || is_there(&seal_record)? || is_there(&record)? {
            return Err(Error::NotOurs { id });
        }
        let transaction = self.transaction_id()?;
        write_new(&record, transaction.to_string().as_bytes())?;
        match make_tree(&tree) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&record).map_err(io_error("remove", &record))?;
                Err(Error::NotOurs { id })
            }
            made => made,
        }
    }

    fn replace(&self, name: &str, text: &str) -> Result<(), Error> {
        replace(&self.path, name, text.as_bytes())
    }
}

impl Store for DirStore {
    fn binding(&self) -> StoreBinding {
        StoreBinding { kind: "dir".into(), id: self.id.clone() }
    }

    fn transaction_id(&self) -> Result<u64, Error> {
        dir_restore::number(&self.path)
    }

    fn set_transaction_id(&self, current: u64, next: u64) -> Result<(), Error> {
        let store = self.transaction_id()?;
        if store != current {
            return Err(epoch::apart(next, store));
        }
        put_number(&self.path, next)
    }

    fn has(&self, id: VolumeId) -> Result<bool, Error> {
        is_there(&self.volume(id))
    }

    fn made_at(&self, id: VolumeId) -> Result<Made, Error> {
        if !self.has(id)? {
            return Ok(Made::Never);
        }
        if !self.is_tree(id)? {
            return Ok(Made::Foreign);
        }
        let record = match read_own(&self.path.join("made").join(id.to_string())) {
            // What is no file says nothing; one that cannot be read now may say that it is ours.
            Err(Error::Io { source, .. }) if is_no_file(&source) => None,
            read => read?,
        };
        let number = record.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        Ok(number.map_or(Made::Unknown, Made::At))
    }

    fn ids(&self) -> Result<Vec<VolumeId>, Error> {
        let path = self.path.join("volumes");
        let entries = fs::read_dir(&path).map_err(io_error("list", &path))?;
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error("list", &path))?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<VolumeId>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn keeps_made(&self) -> bool {
        true
    }

    fn make_template(&self, id: VolumeId, bytes: u64) -> Result<u64, Error> {
        self.make_volume(id)?;
        unpack::sync(&self.root(id)?).map_err(tree_error("sync the template"))?;
        Ok(bytes)
    }

    /// The file system below is shared with others: it is asked when it is full, not before.
    fn admit(&self, _volumes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn snapshot(&self, Snapshot { id, origin }: Snapshot) -> Result<(), Error> {
        if !self.is_tree(origin)? {
            return Err(Error::Lost { volume: origin });
        }
        self.make_volume(id)?;
        // As on a thin volume, a snapshot begins with its origin's seal record.
        if let Some(seal_record) = self.seal_record(origin)? {
            write_new(&self.path.join("notes").join(id.to_string()), &seal_record)?;
        }
        let (from, to) = (self.root(origin)?, self.root(id)?);
        unpack::clone_tree(&from, &to, &self.cancel.stop())
            .map_err(tree_error("copy the parent's tree"))?;
        Ok(())
    }

    fn open(&self, id: VolumeId, bytes: u64, _judge: ByStart<'_>) -> Result<Box<dyn Work>, Error> {
        Ok(Box::new(DirWork { root: self.root(id)?, bytes, id, notes: self.path.join("notes") }))
    }

    fn read(&self, id: VolumeId, _bytes: u64, _ground: Ground) -> Result<Box<dyn Reading>, Error> {
        if !self.is_tree(id)? {
            return Err(Error::Lost { volume: id });
        }
        Ok(Box::new(DirView(self.root(id)?, self.volume(id))))
    }

    fn read_activation(
        &self,
        id: VolumeId,
        name: &str,
        bytes: u64,
    ) -> Result<Box<dyn Reading>, Error> {
        match self.held(id)? {
            None => self.read(id, bytes, Ground::Mounted),
            Some(by) => Err(Error::Held { what: name.into(), by }),
        }
    }

    fn look(&self, id: VolumeId, _bytes: u64) -> Result<Box<dyn View>, Error> {
        if !self.is_tree(id)? {
            return Err(Error::Lost { volume: id });
        }
        Ok(Box::new(DirView(self.root(id)?, self.volume(id))))
    }

    fn put_seal_record(&self, id: VolumeId, _bytes: u64, seal_record: &[u8]) -> Result<(), Error> {
        replace(&self.path.join("notes"), &id.to_string(), seal_record)
    }

    fn seal_record(&self, id: VolumeId) -> Result<Option<Vec<u8>>, Error> {
        read_own(&self.path.join("notes").join(id.to_string()))
    }

    fn serials_need_volume(&self) -> bool {
        false
    }

    fn make_serials(&self, id: VolumeId) -> Result<(), Error> {
        Err(Error::NotOurs { id })
    }

    fn serials(&self, _volume: Option<VolumeId>) -> Result<Vec<Vec<u8>>, Error> {
        Ok(read_own(&self.path.join(SERIALS))?.into_iter().collect())
    }

    /// The rename keeps the older until the newer is whole.
    fn put_serials(&self, _: Option<VolumeId>, _copy: usize, bytes: &[u8]) -> Result<(), Error> {
        replace(&self.path, SERIALS, bytes)
    }

    fn delete(&self, id: VolumeId) -> Result<(), Error> {
        if let Some(mapped) = self.mapped_as(id)? {
            self.unmap(id, &mapped.name)?;
        }
        // An id may be given and nothing made under it: what lies there then was put there by others.
        let record = self.path.join("made").join(id.to_string());
        if !self.has(id)? && !is_there(&record)? {
            return Ok(());
        }
        // Nothing is removed through a link or a mount that somebody put in its place.
        if let Some(by) = self.held(id)? {
            return Err(Error::Held { what: format!("volume {id}"), by });
        }
        if self.has(id)? && !self.is_tree(id)? {
            return Err(Error::NotOurs { id });
        }
        // The second is what a killed run had not renamed yet.
        for name in [id.to_string(), format!(".{id}.new")] {
            remove(&self.path.join("notes").join(name))?;
        }
        let tree = self.volume(id);
        if self.has(id)? {
            let stop = self.cancel.stop_soon();
            unpack::remove_tree_until(&self.root(id)?, &stop)
                .map_err(tree_error("remove a volume"))?;
            fs::remove_dir(&tree).map_err(io_error("remove", &tree))?;
        }
        // Last: what is there without it would not be known for ours.
        remove(&record)
    }

    fn purge(&self, id: VolumeId) -> Result<(), Error> {
        match self.mapped_as(id)? {
            Some(mapped) => {
                let by = format!("the link {}", mapped.name);
                Err(Error::Taken { name: format!("volume {id}"), by })
            }
            // The link or file itself, as it was asked for by its number, and nothing behind it.
            None if self.has(id)? && !self.is_tree(id)? => remove(&self.volume(id)),
            None => self.delete(id),
        }
    }

    fn rename(&self, id: VolumeId, former: &str, new: &str) -> Result<(), Error> {
        let (from, to) = (self.path(former), self.path(new));
        // In one step, for which there is room in a full file system, too.
        if linked(&from)? == Some(id) && self.is_tree(id)? {
            let flags = RenameFlags::RENAME_NOREPLACE;
            if renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags).is_ok() {
                return Ok(());
            }
        }
        if self.mapped_as(id)?.is_some() {
            // A tree that is gone has no new link, and the old one goes with the rest of it.
            self.map(id, new, 0, false)?;
            self.unlink(id, former)?;
        }
        Ok(())
    }

    fn map(&self, id: VolumeId, name: &str, _bytes: u64, _: bool) -> Result<PathBuf, Error> {
        let link = self.path(name);
        let target = PathBuf::from("../volumes").join(id.to_string());
        if let Some(by) = self.stranger(Some(id), name)? {
            return Err(Error::Stranger { name: name.into(), by });
        }
        if !self.is_tree(id)? {
            return Err(Error::Gone { volume: id });
        }
        match fs::read_link(&link) {
            Ok(found) if found == target => return Ok(link),
            // It leads to another volume of this store, and this name is the row's.
            Ok(_) => fs::remove_file(&link).map_err(io_error("replace", &link))?,
            Err(_) => {}
        }
        std::os::unix::fs::symlink(&target, &link).map_err(io_error("make", &link))?;
        Ok(link)
    }

    /// Under its own name and any other: somebody may have renamed it.
    fn unmap(&self, id: VolumeId, _name: &str) -> Result<(), Error> {
        for mapped in self.mapped()?.into_iter().filter(|mapped| mapped.id == id) {
            let link = self.path(&mapped.name);
            match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &link)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn names_are_links(&self) -> bool {
        true
    }

    fn unlink(&self, id: VolumeId, name: &str) -> Result<bool, Error> {
        let link = self.path(name);
        match linked(&link)? {
            Some(found) if found == id => remove(&link).map(|()| true),
            Some(_) | None => Ok(false),
        }
    }

    fn held(&self, id: VolumeId) -> Result<Option<String>, Error> {
        dir_held::held(&self.volume(id))
    }

    fn read_only(&self, _id: VolumeId) -> Result<bool, Error> {
        Ok(false)
    }

    fn stranger(&self, _id: Option<VolumeId>, name: &str) -> Result<Option<String>, Error> {
        let link = self.path(name);
        match (linked(&link)?, fs::symlink_metadata(&link)) {
            (None, Ok(_)) => Ok(Some(link.display().to_string())),
            (Some(_), _) | (None, Err(_)) => Ok(None),
        }
    }

    fn device_bytes(&self, bytes: u64) -> u64 {
        bytes
    }

    fn boot(&self) -> Result<Option<String>, Error> {
        Ok(None)
    }

    fn grow(&self, _id: VolumeId, _name: &str, _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join("active").join(name)
    }

    fn tree(&self, id: VolumeId) -> Option<PathBuf> {
        Some(self.volume(id))
    }

    fn mapped(&self) -> Result<Vec<Mapped>, Error> {
        let path = self.path.join("active");
        let mut mapped = Vec::new();
        for entry in fs::read_dir(&path).map_err(io_error("list", &path))? {
            let entry = entry.map_err(io_error("list", &path))?;
            let id = linked(&entry.path())?;
            if let (Some(id), Ok(name)) = (id, entry.file_name().into_string()) {
                mapped.push(Mapped { name, id, mapping: self.linked_tree(id), bytes: 0 });
            }
        }
        Ok(mapped)
    }

    fn mapped_as(&self, id: VolumeId) -> Result<Option<Mapped>, Error> {
        Ok(self.mapped()?.into_iter().find(|mapped| mapped.id == id))
    }

    fn mapping(&self, id: VolumeId, name: &str) -> Result<Mapping, Error> {
        match linked(&self.path(name))? {
            Some(found) if found == id => Ok(self.linked_tree(id)),
            Some(_) | None => Ok(match self.mapped_as(id)? {
                Some(_) => Mapping::Astray,
                None => Mapping::Absent,
            }),
        }
    }

    fn space(&self) -> Result<Space, Error> {
        dir_files::space(&self.path)
    }

    fn condition(&self) -> Result<Condition, Error> {
        Ok(Condition {
            mode: "directory".into(),
            data: self.space()?,
            metadata: None,
            transaction_id: Some(self.transaction_id()?),
        })
    }

    fn alone(&self) -> bool {
        false
    }

    fn ioctls(&self) -> u64 {
        0
    }
}
