//! `--chunks` and `--block-digest`: the list of an image's chunks, kept in a file beside it, and held against it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use unpack::{Applied, Chunks, ImageError, Stop};

use crate::cli::flags::{Flags, Usage};
use crate::cli::open::readable;
use crate::cli::said::sha256;

/// What a list begins with.
const FIRST: &[u8] = b"veneer chunks ";

/// The file for an image's list, and what was in it before the layer.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    /// The file that takes its place; it goes by itself if nothing comes of it.
    new: (PathBuf, File),
    before: Option<Chunks>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // It is not there any more where it took the other's place.
        match std::fs::remove_file(&self.new.0) {
            Ok(()) | Err(_) => {}
        }
    }
}

impl Kept {
    /// Looks at the file before a layer is applied. What is there and no list is left alone; a list that is not
    /// that of the image is of no use, and will be replaced.
    pub(crate) fn open(path: &Path, image: &File) -> anyhow::Result<Kept> {
        let named = || format!("--chunks {path:?}");
        if std::fs::metadata(path).is_ok_and(|is| !is.is_file()) {
            let text = "it is no regular file, and was left alone";
            return Err(anyhow!(Usage(text.into()))).with_context(named);
        }
        let before = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(named),
            Ok(file) => {
                let mut first = Vec::new();
                file.take(FIRST.len() as u64).read_to_end(&mut first).with_context(named)?;
                if !first.is_empty() && first != FIRST {
                    let text = "the file is there and is no list of chunks; it was left alone";
                    return Err(anyhow!(Usage(text.into()))).with_context(named);
                }
                read(path).ok()
            }
        };
        let before = match before {
            Some(list) if list.fits(image)? => Some(list),
            Some(_) | None => None,
        };
        // Before the layer, so that a place in which nothing can be made costs nothing.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        let new = path.with_file_name(name);
        let mut options = OpenOptions::new();
        // What a killed process of that number left there is ours.
        options.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&new).with_context(named)?;
        Ok(Kept { path: path.to_owned(), new: (new, file), before })
    }

    /// Writes the list of the image with the layer in it, in place of the file: all of it or nothing. Says the
    /// block digest.
    pub(crate) fn replace(&self, image: &File, applied: &Applied) -> anyhow::Result<[u8; 32]> {
        let below = self.before.as_ref().map(|list| (list, &applied.chunks));
        let list = Chunks::of(image, below, &Stop::default()).map_err(plain)?;
        self.write(&list).with_context(|| format!("--chunks {:?}", self.path))?;
        Ok(list.digest())
    }

    fn write(&self, list: &Chunks) -> anyhow::Result<()> {
        let (new, file) = &self.new;
        let mut out = BufWriter::new(file);
        list.write(&mut out).and_then(|()| out.flush())?;
        drop(out);
        Ok(std::fs::rename(new, &self.path)?)
    }
}

/// An error of an image, as the program knows them.
fn plain(error: ImageError) -> anyhow::Error {
    match error {
        ImageError::Unfit(unfit) => unfit.into(),
        ImageError::Layer(error) => error.into(),
    }
}

fn read(path: &Path) -> anyhow::Result<Chunks> {
    let mut file = BufReader::new(File::open(path)?);
    Chunks::parse(&mut file).map_err(|error| match error {
        unpack::ChunksError::Io(source) => source.into(),
        unpack::ChunksError::Line { .. } => anyhow!(Usage(error.to_string())),
    })
}

/// The image or the device, to be read.
fn image(flags: &Flags) -> anyhow::Result<File> {
    let path = match (&flags.image, &flags.device) {
        (Some(path), None) | (None, Some(path)) => path,
        (Some(_), Some(_)) | (None, None) => {
            return Err(anyhow!(Usage("--image or --device: one of them".into())));
        }
    };
    readable(path)
}

/// Whether the image is what the list says: with `--verify`.
pub(crate) fn verify(flags: &Flags, list: &Path) -> anyhow::Result<bool> {
    let image = image(flags)?;
    let list = read(list).with_context(|| format!("--chunks {list:?}"))?;
    let compared = list.compare(&image, &Stop::default())?;
    let equal = compared.differ == 0;
    if flags.json {
        let value = serde_json::json!({
            "equal": equal,
            "block_digest": sha256(list.digest()),
            "chunks_differ": compared.differ,
            "first": compared.first,
        });
        writeln!(io::stdout(), "{value}")?;
    } else if !flags.quiet {
        let first: Vec<String> = compared.first.iter().map(u64::to_string).collect();
        match compared.differ {
            0 => note!("unpack: equal: {}", sha256(list.digest())),
            1 => note!("unpack: not equal: 1 chunk of 1 MiB differs, number {}", first[0]),
            n => note!(
                "unpack: not equal: {n} chunks of 1 MiB differ, the first are numbers {}",
                first.join(", ")
            ),
        }
    }
    Ok(equal)
}

/// Prints the block digest of the image as it is. The answer is always yes.
pub(crate) fn block_digest(flags: &Flags) -> anyhow::Result<bool> {
    let image = image(flags)?;
    let kept = flags.chunks.as_ref().map(|path| Kept::open(path, &image)).transpose()?;
    let list = Chunks::of(&image, None, &Stop::default()).map_err(plain)?;
    if let Some(kept) = kept {
        kept.write(&list).with_context(|| format!("--chunks {:?}", kept.path))?;
    }
    let digest = sha256(list.digest());
    match flags.json {
        true => {
            writeln!(io::stdout(), "{}", serde_json::json!({ "block_digest": digest }))?;
        }
        false => writeln!(io::stdout(), "{digest}")?,
    }
    Ok(true)
}
