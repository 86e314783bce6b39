//! Builds the image families that tests and demos use: real Debian packages as OCI layers, in the shape of the reference bucket
//! (three families of five layers, most of them shared).
//!
//! The lists are `tests/images/*.recipe`; the parser is [`recipe`], packages come from [`debs`], one layer is written by [`changeset`].
//! Nothing here knows how a layer is unpacked.

mod changeset;
mod debs;
mod header;
mod recipe;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use changeset::Changeset;
pub use changeset::Counts;
use debs::{Deb, DebTar, Debs, Hashed};
use recipe::{Extra, Recipe, Whiteout};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tree::Tree;

/// Goes up when the same recipe and packages would give other bytes.
const WRITER: u32 = 1;

/// Which set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// 40-60 MiB distinct.
    Small,
    /// At least 1.3 GiB distinct, more than 2 GiB when stored whole.
    Full,
}

impl Set {
    /// The folder it is built in.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Full => "full",
        }
    }

    fn recipe(self) -> &'static str {
        match self {
            Self::Small => include_str!("../images/small.recipe"),
            Self::Full => include_str!("../images/full.recipe"),
        }
    }
}

/// One distinct layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layer {
    /// sha256 of the tar, hex.
    pub sha256: String,
    /// Bytes of the tar.
    pub size: u64,
    /// Entries of the tar, extension headers not counted.
    pub entries: u64,
    /// The families that have it.
    pub families: Vec<String>,
    /// Its number in them.
    pub number: u32,
    /// The objects, `<family>/<n>.tar`: hard links of one file.
    pub objects: Vec<String>,
    /// What it holds.
    pub counts: Counts,
    /// The packages that it adds, `name=version`.
    pub packages: Vec<String>,
}

/// A program of a family, to be run in a chroot of its image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The family.
    pub family: String,
    /// argv.
    pub argv: Vec<String>,
    /// Its stdout contains this.
    pub prints: String,
}

/// `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// `small` or `full`.
    pub kind: String,
    /// What it was built from: sha256 of the recipe and the writer's version. Another value here means: build again.
    pub recipe: String,
    /// Bytes of the distinct layers.
    pub distinct_bytes: u64,
    /// Bytes of all objects.
    pub total_bytes: u64,
    /// The distinct layers, parents first.
    pub layers: Vec<Layer>,
    /// The programs.
    pub runs: Vec<Run>,
}

fn recipe_key(set: Set) -> String {
    let mut hash = Sha256::new();
    hash.update(WRITER.to_le_bytes());
    hash.update(set.recipe());
    debs::hex(&hash.finalize())[..16].to_owned()
}

/// The set that is built already under `out`, if it is this recipe's and all its files are there with the right sizes.
#[must_use]
pub fn built(set: Set, out: &Path) -> Option<Manifest> {
    let folder = out.join(set.name());
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).ok()?).ok()?;
    let whole = manifest.recipe == recipe_key(set)
        && manifest.layers.iter().all(|layer| {
            layer.objects.iter().all(|object| {
                fs::metadata(folder.join(object)).is_ok_and(|meta| meta.len() == layer.size)
            })
        });
    whole.then_some(manifest)
}

/// Builds the set under `out`, or takes what is there. `refresh` asks apt for the newest versions.
///
/// # Errors
/// apt or dpkg-deb is missing or fails, the recipe does not fit the packages, or a write fails.
pub fn build(set: Set, out: &Path, refresh: bool) -> Result<Manifest> {
    if !refresh && let Some(manifest) = built(set, out) {
        return Ok(manifest);
    }
    fs::create_dir_all(out)?;
    let folder = out.join(set.name());
    let work = out.join(format!(".{}.new", set.name()));
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let manifest = build_in(set, &work, refresh)?;
    // A set is there whole or not at all.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::rename(&work, &folder)?;
    Ok(manifest)
}

/// Builds the set a second time beside the first and compares every digest.
///
/// # Errors
/// As `build`; or the names of the layers that differ.
pub fn check(set: Set, out: &Path) -> Result<Manifest> {
    let first = build(set, out, false)?;
    let work = out.join(format!(".{}.check", set.name()));
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let second = build_in(set, &work, false)?;
    fs::remove_dir_all(&work)?;
    for (one, two) in first.layers.iter().zip(&second.layers) {
        ensure!(
            one.sha256 == two.sha256,
            "{:?} differs: {} and {}",
            one.objects,
            one.sha256,
            two.sha256
        );
    }
    for layer in &first.layers {
        for object in &layer.objects {
            let bytes = fs::read(out.join(set.name()).join(object))?;
            let found = debs::hex(&Sha256::digest(&bytes));
            ensure!(
                found == layer.sha256,
                "{object}: sha256 {found}, the manifest says {}",
                layer.sha256
            );
        }
    }
    Ok(first)
}

/// The layers that come before `index` in the chain that ends with it: those that every family of `index` has, by number.
fn chain(recipe: &Recipe, index: usize) -> Vec<usize> {
    let top = &recipe.layers[index];
    let mut chain: Vec<usize> = (0..index)
        .filter(|&below| {
            let layer = &recipe.layers[below];
            layer.number < top.number
                && top.families.iter().all(|family| layer.families.contains(family))
        })
        .collect();
    chain.push(index);
    chain
}

fn build_in(set: Set, work: &Path, refresh: bool) -> Result<Manifest> {
    let recipe = Recipe::parse(set.recipe())?;
    let key = recipe_key(set);
    let debs = Debs::open()?;
    let chains: Vec<Vec<usize>> =
        (0..recipe.layers.len()).map(|index| chain(&recipe, index)).collect();
    let asked: Vec<Vec<Vec<String>>> = chains
        .iter()
        .map(|chain| chain.iter().map(|&index| recipe.layers[index].packages.clone()).collect())
        .collect();
    let resolved = debs.resolve(&key, &asked, &recipe.skip, refresh)?;
    let all: BTreeSet<Deb> = resolved.iter().flatten().flatten().cloned().collect();
    debs.download(&all)?;

    fs::create_dir_all(work)?;
    let mut trees: Vec<Tree> = Vec::new();
    let mut layers = Vec::new();
    let mut database: BTreeMap<String, String> = BTreeMap::new();
    for (index, layer) in recipe.layers.iter().enumerate() {
        let parents = &chains[index][..chains[index].len() - 1];
        let mut tree = parents.last().map_or_else(Tree::default, |&parent| trees[parent].clone());
        let added = resolved[index].last().context("a chain has its own layer")?;
        let below: Vec<&Deb> = resolved[index].iter().flatten().collect();
        let file = work.join("layer.tar");
        let mut changeset = Changeset::new(
            &mut tree,
            Hashed::create(&file)?,
            layer.format,
            recipe.epoch,
            &recipe.drop,
        );
        changeset.expect(&layer.xattrs, &layer.after);
        for whiteout in
            layer.whiteouts.iter().filter(|whiteout| !matches!(whiteout, Whiteout::OpaqueLate(_)))
        {
            changeset.whiteout(whiteout)?;
        }
        let (late, early): (Vec<&Extra>, Vec<&Extra>) = layer
            .before
            .iter()
            .partition(|extra| matches!(extra, Extra::Symlink { .. }) && !is_usr_merge(extra));
        early.iter().try_for_each(|extra| changeset.extra(extra))?;
        for deb in added {
            let path = debs.path(deb);
            package(&mut changeset, deb, &path, &mut database)
                .with_context(|| format!("package {}", path.display()))?;
        }
        late.into_iter().chain(&layer.after).try_for_each(|extra| changeset.extra(extra))?;
        if !added.is_empty() {
            changeset.generated("var/lib/dpkg/status", status(&below, &database).as_bytes())?;
        }
        for whiteout in
            layer.whiteouts.iter().filter(|whiteout| matches!(whiteout, Whiteout::OpaqueLate(_)))
        {
            changeset.whiteout(whiteout)?;
        }
        let (out, counts) = changeset
            .finish()
            .with_context(|| format!("layer {} of {:?}", layer.number, layer.families))?;
        let (sha256, size) = out.finish()?;
        let objects: Vec<String> =
            layer.families.iter().map(|family| format!("{family}/{}.tar", layer.number)).collect();
        for object in &objects {
            let path = work.join(object);
            fs::create_dir_all(path.parent().context("an object has a family")?)?;
            fs::hard_link(&file, &path)?;
        }
        fs::remove_file(&file)?;
        trees.push(tree);
        eprintln!("images: {} {} bytes, {} entries", objects.join(" "), size, counts.entries);
        layers.push(Layer {
            sha256,
            size,
            entries: counts.entries,
            families: layer.families.clone(),
            number: layer.number,
            objects,
            counts,
            packages: added.iter().map(Deb::name_and_version).collect(),
        });
    }
    let runs = recipe.runs.iter().map(|run| Run {
        family: run.family.clone(),
        argv: run.argv.clone(),
        prints: run.prints.clone(),
    });
    let manifest = Manifest {
        kind: set.name().to_owned(),
        recipe: key,
        distinct_bytes: layers.iter().map(|layer| layer.size).sum(),
        total_bytes: layers.iter().map(|layer| layer.size * layer.objects.len() as u64).sum(),
        layers,
        runs: runs.collect(),
    };
    fs::write(work.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
    Ok(manifest)
}

/// The links of the merged /usr must be there before a package's `/lib` goes through them; other links may be in directories, or stand
/// in the place of files, that packages bring.
fn is_usr_merge(extra: &Extra) -> bool {
    matches!(extra, Extra::Symlink { path, target } if !path.contains('/') && target.starts_with("usr/"))
}

/// A package's files, and its control files where dpkg keeps them.
fn package(
    changeset: &mut Changeset<'_, Hashed>,
    deb: &Deb,
    path: &Path,
    database: &mut BTreeMap<String, String>,
) -> Result<()> {
    let (child, mut stdout) = DebTar::files(path)?;
    changeset.package(&mut stdout, |name| Some(name.to_owned()))?;
    child.finish(stdout)?;

    let (child, mut stdout) = DebTar::control(path)?;
    let mut control = Vec::new();
    stdout.read_to_end(&mut control)?;
    child.finish(stdout)?;
    let paragraph = control_paragraph(&control)?;
    // dpkg adds the architecture to the name of a package that may be installed for several.
    let several = paragraph.lines().any(|line| line == "Multi-Arch: same");
    let stem = if several { format!("{}:amd64", deb.name) } else { deb.name.clone() };
    changeset.package(&control[..], |name| match name {
        "" | "control" => None,
        name => Some(format!("var/lib/dpkg/info/{stem}.{name}")),
    })?;
    database.insert(deb.name.clone(), paragraph);
    Ok(())
}

/// The `control` member of a control tar.
fn control_paragraph(control: &[u8]) -> Result<String> {
    for entry in tar::Archive::new(control).entries()? {
        let mut entry = entry?;
        if entry.path_bytes().as_ref() == b"./control" {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            return Ok(text.trim_end().to_owned());
        }
    }
    anyhow::bail!("a package without a control file")
}

/// dpkg's status file of all packages so far: a real image replaces it in every layer that installs something.
fn status(debs: &[&Deb], database: &BTreeMap<String, String>) -> String {
    let mut names: Vec<&str> = debs.iter().map(|deb| deb.name.as_str()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for paragraph in names.iter().filter_map(|name| database.get(*name)) {
        let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        text.push_str(&format!("{first}\nStatus: install ok installed\n{rest}\n\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_recipes_have_the_sharing_of_the_reference_bucket() {
        for set in [Set::Small, Set::Full] {
            let recipe = Recipe::parse(set.recipe()).unwrap();
            let shape: Vec<(u32, Vec<&str>)> = recipe
                .layers
                .iter()
                .map(|layer| (layer.number, layer.families.iter().map(String::as_str).collect()))
                .collect();
            let mut wanted =
                vec![(1, vec!["golang", "node", "python"]), (2, vec!["golang", "node", "python"])];
            wanted.extend([
                (3, vec!["golang", "node", "python"]),
                (4, vec!["golang"]),
                (5, vec!["golang"]),
            ]);
            wanted.extend([(4, vec!["node", "python"]), (5, vec!["node"]), (5, vec!["python"])]);
            assert_eq!(shape, wanted, "{set:?}");
            let python = chain(&recipe, 7);
            assert_eq!(
                python,
                [0, 1, 2, 5, 7],
                "python stands on the shared layers and the one it has with node"
            );
        }
    }
}
