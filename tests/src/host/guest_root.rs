//! The programs of the guest that are not ours, with all they need, as `./bootstrap` has unpacked
//! them out of packages: what is installed on the host does not matter. /usr is merged in there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Where Debian has its libraries, and its loader among them.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Also there, for systemd's own.
const MORE_LIBRARIES: &str = "usr/lib/x86_64-linux-gnu/systemd";
/// The loader; programs name it as /lib64/ld-linux-x86-64.so.2.
pub const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// The unpacked root.
#[derive(Debug, Clone)]
pub struct GuestRoot(PathBuf);

impl GuestRoot {
    /// What `./bootstrap` has put into this folder.
    ///
    /// # Errors
    /// It has not.
    pub fn open(dir: PathBuf) -> Result<GuestRoot> {
        if !dir.join("made-of").is_file() {
            bail!("{} is not there: run ./bootstrap", dir.display());
        }
        Ok(GuestRoot(dir))
    }

    /// A file in it.
    #[must_use]
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.0.join(inside)
    }

    /// Where a program lies inside.
    ///
    /// # Errors
    /// It is not there.
    pub fn program(&self, name: &str) -> Result<String> {
        let mut places = ["usr/bin", "usr/sbin"].map(|dir| format!("{dir}/{name}")).into_iter();
        places
            .find(|place| self.path(place).is_file())
            .with_context(|| format!("no \"{name}\" in {}: run ./bootstrap", self.0.display()))
    }

    /// Runs a program on the host, with the libraries that it came with.
    ///
    /// # Errors
    /// It is not there.
    pub fn command(&self, name: &str) -> Result<Command> {
        let program = self.program(name)?;
        let mut command = self.loader();
        command.arg(self.path(program));
        Ok(command)
    }

    /// Where the shared libraries of a program lie inside; none for a static one.
    ///
    /// # Errors
    /// One is not there.
    pub fn libraries(&self, program: &str) -> Result<Vec<PathBuf>> {
        let output = self.loader().arg("--list").arg(self.path(program)).output();
        let output = output.context("run the guest's loader")?;
        let (text, said) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("{program} lacks a shared library: {}{}", text.escape_debug(), said.trim());
        }
        self.listed(&text).with_context(|| format!("the shared libraries of {program}"))
    }

    /// Lines such as "libc.so.6 => /.../usr/lib/x86_64-linux-gnu/libc.so.6 (0x7f..)".
    fn listed(&self, text: &str) -> Result<Vec<PathBuf>> {
        let mut libraries = Vec::new();
        for line in text.lines() {
            let Some((name, place)) = line.trim().split_once(" => ") else { continue };
            if name.contains("ld-linux") {
                continue;
            }
            let place = place.rsplit_once(" (").map_or(place, |(place, _)| place);
            let inside = Path::new(place).strip_prefix(&self.0);
            libraries.push(inside.with_context(|| format!("{name}: {place}"))?.to_owned());
        }
        Ok(libraries)
    }

    fn loader(&self) -> Command {
        let mut command = Command::new(self.path(LOADER));
        let places = [LIBRARIES, MORE_LIBRARIES].map(|dir| self.path(dir).display().to_string());
        command.arg("--inhibit-cache").arg("--library-path").arg(places.join(":"));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_of_the_host_is_none_of_the_guest() {
        let root = GuestRoot("/cache/guest".into());
        let own = "\tlinux-vdso.so.1 (0x7ffd)\n\
                   \tlibc.so.6 => /cache/guest/usr/lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 => /cache/guest/usr/lib/x86_64-linux-gnu/ld (0x7f)\n";
        let libraries = root.listed(own).expect("its own");
        assert_eq!(libraries, [Path::new("usr/lib/x86_64-linux-gnu/libc.so.6")]);
        assert!(root.listed("\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n").is_err());
    }
}
