//! The little that must be known of the tree that the layers below make: what is a directory, what is a link. No contents.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// What the layers so far have at a path. Only what later entries depend on is kept.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Dir { mode: u32, uid: u64, gid: u64, mtime: u64 },
    Symlink(String),
    Other,
}

/// The tree that the layers so far make.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<String, Kind>,
}

impl Tree {
    /// Follows symbolic links in all components but the last: `lib/x86_64-linux-gnu/libc.so.6` is in `usr/lib`.
    pub(super) fn resolve(&self, path: &str) -> Result<String> {
        let mut left: Vec<String> = path
            .split('/')
            .rev()
            .filter(|part| !part.is_empty() && *part != ".")
            .map(str::to_owned)
            .collect();
        let mut done: Vec<String> = Vec::new();
        let mut hops = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(part);
            if left.is_empty() {
                break;
            }
            if let Some(Kind::Symlink(target)) = self.nodes.get(&done.join("/")) {
                hops += 1;
                ensure!(hops < 40, "too many links in {path}");
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                left.extend(
                    target
                        .split('/')
                        .rev()
                        .filter(|part| !part.is_empty() && *part != ".")
                        .map(str::to_owned),
                );
            }
        }
        Ok(done.join("/"))
    }

    pub(super) fn remove_below(&mut self, path: &str) {
        let prefix = format!("{path}/");
        self.nodes.retain(|name, _| !name.starts_with(&prefix));
    }

    pub(super) fn set(&mut self, path: &str, kind: Kind) {
        if !matches!(kind, Kind::Dir { .. })
            && matches!(self.nodes.get(path), Some(Kind::Dir { .. }))
        {
            self.remove_below(path);
        }
        self.nodes.insert(path.to_owned(), kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_through_links_but_its_last_name_does_not() {
        let mut tree = Tree::default();
        tree.set("lib", Kind::Symlink("usr/lib".into()));
        tree.set("var/run", Kind::Symlink("/run".into()));
        tree.set("usr/lib/up", Kind::Symlink("../../etc".into()));
        assert_eq!(tree.resolve("lib/x/libc.so").unwrap(), "usr/lib/x/libc.so");
        assert_eq!(tree.resolve("var/run/lock").unwrap(), "run/lock");
        assert_eq!(tree.resolve("lib/up/hosts").unwrap(), "etc/hosts");
        assert_eq!(tree.resolve("lib").unwrap(), "lib");
        tree.set("loop", Kind::Symlink("loop".into()));
        assert!(tree.resolve("loop/x").is_err());
    }
}
