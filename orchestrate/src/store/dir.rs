//! A store of plain directories, for hosts without device-mapper: laptops, containers, tests by
//! the thousand. A snapshot is a copy, reflinked where the file system can.
//!
//! ```text
//!   PATH/veneer-store     identity, made once
//!   PATH/transaction      the transaction id, replaced by rename
//!   PATH/volumes/<id>     one tree a volume
//!   PATH/notes/<id>       what a sealed volume says of itself, or its origin's
//!   PATH/active/<name>    a symbolic link to ../volumes/<id>
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use registry::StoreBinding;

use crate::Error;
use crate::plan::Mapping;
use crate::store::{Condition, Mapped, Space, Store, Tree, View, Work};

/// A directory that is a store.
#[derive(Debug)]
pub struct DirStore {
    path: PathBuf,
    id: String,
}

impl DirStore {
    /// Opens the store at `path`; makes it in a directory that is absent or empty.
    ///
    /// # Errors
    /// [`Error::Usage`] for a directory that holds something else.
    pub fn open(path: &Path) -> Result<DirStore, Error> {
        make_dir(path)?;
        let path = path.canonicalize().map_err(io_error("find", path))?;
        // Two processes may come to an empty directory at once.
        let lock = fs::File::open(&path).map_err(io_error("open", &path))?;
        lock.lock().map_err(io_error("lock", &path))?;
        let header = path.join("veneer-store");
        match fs::read_to_string(&header) {
            Ok(id) if !id.trim().is_empty() => {
                make_dir(&path.join("notes"))?;
                Ok(DirStore { id: id.trim().into(), path })
            }
            Ok(_) => {
                Err(Error::Usage(format!("{} is empty; name another --store", header.display())))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => DirStore::make(path),
            Err(source) => Err(Error::Io { doing: "read", path: header, source }),
        }
    }

    fn make(path: PathBuf) -> Result<DirStore, Error> {
        // The header comes last, so a killed run may have left any of these.
        let ours = |entry: &fs::DirEntry| match entry.file_name().to_str() {
            Some("lost+found" | "transaction" | ".transaction.new" | ".veneer-store.new") => {
                Ok(true)
            }
            Some("volumes" | "active" | "notes") => match fs::read_dir(entry.path()) {
                Ok(mut inside) => inside.next().transpose().map(|first| first.is_none()),
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
                Err(error) => Err(error),
            },
            Some(_) | None => Ok(false),
        };
        let all_ours = || -> io::Result<bool> {
            for entry in fs::read_dir(&path)? {
                if !ours(&entry?)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        // What cannot be read is not what somebody else has put there.
        if !all_ours().map_err(io_error("list", &path))? {
            return Err(Error::Usage(format!(
                "--store dir:{}: not empty and not a veneer store; name an empty directory",
                path.display()
            )));
        }
        for name in ["volumes", "active", "notes"] {
            make_dir(&path.join(name))?;
        }
        let mut random = [0; 16];
        let source = Path::new("/dev/urandom");
        fs::File::open(source)
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut random))
            .map_err(io_error("read", source))?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let store = DirStore { path, id };
        store.replace("transaction", "0")?;
        store.replace("veneer-store", &store.id)?;
        Ok(store)
    }

    fn volume(&self, id: u32) -> PathBuf {
        self.path.join("volumes").join(id.to_string())
    }

    fn root(&self, id: u32) -> Result<unpack::Root, Error> {
        let tree = self.volume(id);
        unpack::Root::open(&tree).map_err(tree_error("open a volume"))
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
        let path = self.path.join("transaction");
        let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        text.trim().parse().map_err(|_| {
            Error::Usage(format!("{}: {text:?} is not a transaction id", path.display()))
        })
    }

    fn set_transaction_id(&self, current: u64, next: u64) -> Result<(), Error> {
        let store = self.transaction_id()?;
        if store != current {
            return Err(Error::Fence { registry: next, store });
        }
        self.replace("transaction", &next.to_string())
    }

    fn ids(&self) -> Result<Vec<u32>, Error> {
        let path = self.path.join("volumes");
        let entries = fs::read_dir(&path).map_err(io_error("list", &path))?;
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error("list", &path))?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn make_template(&self, id: u32, bytes: u64) -> Result<u64, Error> {
        self.delete(id)?;
        make_tree(&self.volume(id))?;
        unpack::sync(&self.root(id)?).map_err(tree_error("sync the template"))?;
        Ok(bytes)
    }

    /// The file system below is shared with others: it is asked when it is full, not before.
    fn admit(&self, _volumes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn snapshot(&self, id: u32, origin: u32) -> Result<(), Error> {
        self.delete(id)?;
        // As on a thin volume, a snapshot begins with its origin's note.
        if let Some(note) = self.note(origin)? {
            let path = self.path.join("notes").join(id.to_string());
            fs::write(&path, note).map_err(io_error("write", &path))?;
        }
        make_tree(&self.volume(id))?;
        let (from, to) = (self.root(origin)?, self.root(id)?);
        unpack::clone_tree(&from, &to).map_err(tree_error("copy the parent's tree"))?;
        Ok(())
    }

    fn open(&self, id: u32, bytes: u64) -> Result<Box<dyn Work>, Error> {
        Ok(Box::new(DirWork { root: self.root(id)?, bytes, id, notes: self.path.join("notes") }))
    }

    fn look(&self, id: u32, _bytes: u64) -> Result<Box<dyn View>, Error> {
        Ok(Box::new(DirView(self.root(id)?, self.volume(id))))
    }

    fn put_note(&self, id: u32, _bytes: u64, note: &[u8]) -> Result<(), Error> {
        replace(&self.path.join("notes"), &id.to_string(), note)
    }

    fn note(&self, id: u32) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path.join("notes").join(id.to_string());
        match fs::read(&path) {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { doing: "read", path, source }),
        }
    }

    fn delete(&self, id: u32) -> Result<(), Error> {
        if let Some(mapped) = self.mapped_as(id)? {
            self.unmap(&mapped.name)?;
        }
        // The second is what a killed run had not renamed yet.
        for name in [id.to_string(), format!(".{id}.new")] {
            let note = self.path.join("notes").join(name);
            match fs::remove_file(&note) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &note)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let tree = self.volume(id);
        match fs::symlink_metadata(&tree) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(Error::Io { doing: "look at", path: tree, source }),
            Ok(_) => {}
        }
        unpack::remove_tree(&self.root(id)?).map_err(tree_error("remove a volume"))?;
        fs::remove_dir(&tree).map_err(io_error("remove", &tree))
    }

    fn map(&self, id: u32, name: &str, _bytes: u64) -> Result<PathBuf, Error> {
        let link = self.path(name);
        let target = PathBuf::from("../volumes").join(id.to_string());
        match fs::read_link(&link) {
            Ok(found) if found == target => return Ok(link),
            Ok(_) => fs::remove_file(&link).map_err(io_error("replace", &link))?,
            Err(_) => {}
        }
        std::os::unix::fs::symlink(&target, &link).map_err(io_error("make", &link))?;
        Ok(link)
    }

    fn unmap(&self, name: &str) -> Result<(), Error> {
        let link = self.path(name);
        match fs::remove_file(&link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(io_error("remove", &link)),
        }
    }

    fn grow(&self, _id: u32, _name: &str, _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join("active").join(name)
    }

    fn mapped(&self) -> Result<Vec<Mapped>, Error> {
        let path = self.path.join("active");
        let mut mapped = Vec::new();
        for entry in fs::read_dir(&path).map_err(io_error("list", &path))? {
            let entry = entry.map_err(io_error("list", &path))?;
            let id = linked(&entry.path())?;
            if let (Some(id), Ok(name)) = (id, entry.file_name().into_string()) {
                mapped.push(Mapped { name, id, mapping: Mapping::Live });
            }
        }
        Ok(mapped)
    }

    fn mapped_as(&self, id: u32) -> Result<Option<Mapped>, Error> {
        Ok(self.mapped()?.into_iter().find(|mapped| mapped.id == id))
    }

    fn mapping(&self, name: &str) -> Result<Mapping, Error> {
        Ok(linked(&self.path(name))?.map_or(Mapping::Absent, |_| Mapping::Live))
    }

    fn space(&self) -> Result<Space, Error> {
        let stat = nix::sys::statvfs::statvfs(&self.path)
            .map_err(|errno| io_error("measure", &self.path)(errno.into()))?;
        let block = stat.fragment_size();
        let (total, free) = (stat.blocks() * block, stat.blocks_available() * block);
        Ok(Space { total, used: total.saturating_sub(free), block })
    }

    fn condition(&self) -> Result<Condition, Error> {
        Ok(Condition {
            mode: "directory".into(),
            data: self.space()?,
            metadata: None,
            transaction_id: Some(self.transaction_id()?),
        })
    }

    fn exclusive(&self) -> Result<Option<Vec<(u32, u64)>>, Error> {
        Ok(None)
    }

    fn alone(&self) -> bool {
        false
    }

    fn ioctls(&self) -> u64 {
        0
    }
}

/// A tree that is open for one apply.
struct DirWork {
    root: unpack::Root,
    bytes: u64,
    id: u32,
    notes: PathBuf,
}

/// A sealed tree that is open to be read.
struct DirView(unpack::Root, PathBuf);

impl View for DirView {
    fn tree(&self) -> Tree<'_> {
        Tree::Directory(&self.1)
    }

    fn root(&self) -> &unpack::Root {
        &self.0
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

impl Work for DirWork {
    fn root(&self) -> &unpack::Root {
        &self.root
    }

    /// The file system below is shared with others: it is asked when it is full, not before.
    fn make_room(&mut self, _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn close(self: Box<Self>, note: Option<&[u8]>) -> Result<(), Error> {
        unpack::sync(&self.root).map_err(tree_error("sync the layer"))?;
        match note {
            Some(note) => replace(&self.notes, &self.id.to_string(), note),
            None => Ok(()),
        }
    }
}

/// The volume that a link of `active` leads to; none where there is no such link.
fn linked(link: &Path) -> Result<Option<u32>, Error> {
    match fs::read_link(link) {
        Ok(target) => Ok(target.file_name().and_then(|id| id.to_str()?.parse().ok())),
        // It is no link, so it is not ours.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("look at", link)(error)),
    }
}

/// Write, sync, rename, sync: the file is the old one or the new one.
fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<(), Error> {
    let (new, path) = (dir.join(format!(".{name}.new")), dir.join(name));
    let written = fs::File::create(&new)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path))
        .and_then(|()| fs::File::open(dir)?.sync_all());
    written.map_err(io_error("write", &path))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(io_error("make", path))
}

/// The root of a volume is a directory that no layer names: 0755 whatever the umask, of time 0.
fn make_tree(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let epoch = std::time::UNIX_EPOCH;
    let times = fs::FileTimes::new().set_accessed(epoch).set_modified(epoch);
    fs::create_dir(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::File::open(path)?.set_times(times))
        .map_err(io_error("make", path))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

fn tree_error(doing: &'static str) -> impl FnOnce(unpack::Error) -> Error {
    move |source| Error::Tree { doing, source }
}
