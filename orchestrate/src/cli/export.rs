//! `export`: a layer leaves this host, on standard output, as a file or in an image.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use orchestrate::{Error, ExportTo, Exported, Host, full, log, reference};
use unpack::Compression;

use crate::cli::print::text::safe;
use crate::cli::say::say;

/// Write what an activation has changed since its image as a layer: `docker commit` for a block device. Nobody may have
/// the activation open meanwhile.
#[derive(FromArgs)]
#[argh(subcommand, name = "export")]
pub(crate) struct Export {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// the file for the layer, made whole or not at all; without it, or by -, the layer goes to standard output
    #[argh(option, short = 'o')]
    pub(crate) output: Option<PathBuf>,
    /// make an image of the activation's image and the layer: oci:DIR:TAG, a layout that has the activation's image
    #[argh(option)]
    pub(crate) image: Option<String>,
    /// compress the layer by gzip
    #[argh(switch)]
    pub(crate) gzip: bool,
    /// compress the layer by zstd
    #[argh(switch)]
    pub(crate) zstd: bool,
}

/// Where it goes, and how: judged before anything is opened.
fn wanted(args: &Export) -> Result<(ExportTo, Compression), Error> {
    let compression = match (args.gzip, args.zstd) {
        (false, false) => Compression::Plain,
        (true, false) => Compression::Gzip,
        (false, true) => Compression::Zstd,
        (true, true) => return Err(Error::Usage("--gzip and --zstd: one of them".into())),
    };
    let output = args.output.as_ref().filter(|path| path.as_os_str() != "-");
    if output.is_some_and(|path| path.as_os_str().is_empty()) {
        return Err(Error::Usage("-o: the name of the file is empty".into()));
    }
    if args.output.is_some() && args.image.is_some() {
        return Err(Error::Usage("-o and --image: one of them".into()));
    }
    let to = match (output, &args.image) {
        (Some(path), _) => ExportTo::File(path.clone()),
        (None, Some(image)) => {
            let cwd = std::env::current_dir().unwrap_or_default();
            ExportTo::Image(reference(image)?.absolute(&cwd))
        }
        (None, None) if io::stdout().is_terminal() => {
            let text = "a layer is no text for a terminal: name a file by -o FILE, or send standard output into a pipe";
            return Err(Error::Usage(text.into()));
        }
        (None, None) if full::output_was_closed() => {
            let text =
                "standard output is closed, so the layer would go nowhere: name a file by -o FILE";
            return Err(Error::Usage(text.into()));
        }
        (None, None) => {
            let out = io::stdout().as_fd().try_clone_to_owned().map_err(|source| Error::Io {
                doing: "use",
                path: full::STANDARD_OUTPUT.into(),
                source,
            })?;
            ExportTo::Stream(out.into())
        }
    };
    Ok((to, compression))
}

/// Refuses what cannot be meant, before a host is opened.
pub(crate) fn check(args: &Export) -> Result<(), Error> {
    orchestrate::check_name(&args.name)?;
    wanted(args).map(drop)
}

pub(crate) fn export(
    host: &mut Host,
    args: &Export,
    talks: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (to, compression) = wanted(args)?;
    let to_stdout = matches!(to, ExportTo::Stream(_));
    let done = host.export(&args.name, to, compression)?;
    let text = match json {
        true => log::harmless(serde_json::to_string(&done)? + "\n"),
        false => exported(&done),
    };
    if !to_stdout {
        say(&text)?;
    } else if json || talks {
        // The layer is on standard output, and nothing else. Who does not take this has the layer all the same.
        drop(io::stderr().write_all(text.as_bytes()));
    }
    Ok(ExitCode::SUCCESS)
}

fn exported(done: &Exported) -> String {
    let Exported { added, changed, removed, bytes, .. } = done;
    let to = done.to.as_ref().map_or_else(String::new, |to| format!(" to {}", safe(to)));
    let mut text = format!(
        "exported {}{to}: {bytes} bytes, {added} added, {changed} changed, {removed} removed\n{}\n",
        safe(&done.name),
        done.diff_id
    );
    if let Some(manifest) = &done.manifest {
        text.push_str(&format!("the image is {manifest}\n"));
    }
    if done.sockets > 0 {
        text.push_str(&format!("{} sockets are left out: a layer has none\n", done.sockets));
    }
    if done.attributes > 0 {
        text.push_str(&format!(
            "{} extended attributes that no layer can hold are left out\n",
            done.attributes
        ));
    }
    text
}
