//! Whose keys are sent, and where to: held against boto3, whose answer for each shape of configuration is in
//! `tests/boto/table.tsv` (`just boto-table` makes it anew; the shapes are in `shapes.txt` beside it).
//!
//! Either ours is boto3's answer, or it is a refusal that is listed here, with what it says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::http::sign::{Op, Target, sign};
use crate::keys::configured::Configured;
use crate::keys::sts::Ask;
use crate::keys::{Outside, find};
use crate::s3::endpoint::Endpoint;
use crate::s3::keys::Keys;
use crate::s3::options::{CredentialsFrom, Options};

const SHAPES: &str = include_str!("../../tests/boto/shapes.txt");
const TABLE: &str = include_str!("../../tests/boto/table.tsv");

/// Where ours refuses and boto3 does not: it goes on without keys, to fail for that, or does more.
const REFUSED: [(&str, &str); 8] = [
    ("empty secret", "/.aws/credentials\", line 2, aws_access_key_id: the secret key is empty"),
    (
        "capital section",
        "/.aws/credentials\", line 2, aws_access_key_id: there are keys for [Default]",
    ),
    ("section DEFAULT alone", "line 2, aws_access_key_id: there are keys for [DEFAULT]"),
    ("profile without keys", "AWS_PROFILE"),
    (
        "config section of credentials style and default",
        "/.aws/config\", line 2, aws_access_key_id",
    ),
    (
        "only another profile",
        "/.aws/credentials\", line 2, aws_access_key_id: there are keys for [p]",
    ),
    ("credentials file not there", "AWS_SHARED_CREDENTIALS_FILE="),
    ("accelerate", "line 3, use_accelerate_endpoint"),
];

/// Where boto3 refuses and ours does not.
const TAKEN: [&str; 1] = ["role session of one letter"];

#[derive(Default)]
struct Shape {
    env: BTreeMap<String, String>,
    profile: Option<String>,
    files: BTreeMap<String, String>,
}

fn shapes() -> Vec<(String, Shape)> {
    let mut shapes: Vec<(String, Shape)> = Vec::new();
    let mut file = String::new();
    for line in SHAPES.lines() {
        if let Some(name) = line.strip_prefix("= ") {
            shapes.push((name.to_owned(), Shape::default()));
            continue;
        }
        let Some((_, shape)) = shapes.last_mut() else { continue };
        if let Some((name, value)) = line.strip_prefix("> ").and_then(|line| line.split_once('=')) {
            shape.env.insert(name.to_owned(), value.to_owned());
        } else if let Some(profile) = line.strip_prefix("! profile=") {
            shape.profile = Some(profile.to_owned());
        } else if let Some(name) = line.strip_prefix("--- ") {
            file = name.to_owned();
            shape.files.insert(file.clone(), String::new());
        } else if let Some(text) = shape.files.get_mut(&file) {
            text.push_str(line);
            text.push('\n');
        }
    }
    shapes
}

/// The cells of the table for one shape, as we have them.
fn ours(shape: &Shape, home: &Path) -> Result<Vec<String>, Error> {
    let dir = home.to_str().unwrap();
    let here = |text: &str| text.replace("{dir}", dir);
    for (name, text) in &shape.files {
        let path = home.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, here(text)).unwrap();
    }
    let look = |name: &str| match name {
        "HOME" => Some(dir.to_owned()),
        "AWS_EC2_METADATA_DISABLED" => Some("true".to_owned()),
        name => shape.env.get(name).map(|value| here(value)),
    };
    let asked = RefCell::new(Vec::new());
    let sts = |ask: &Ask| {
        let mut form: Vec<String> = ask
            .form
            .iter()
            .map(|(name, value)| match value.starts_with("veneer-fetch-") {
                true => format!("{name}=*"),
                false => format!("{name}={value}"),
            })
            .collect();
        form.sort();
        let key = ask.keys.as_ref().map_or("-", |keys| &keys.access_key);
        let region = if ask.keys.is_some() { &ask.region } else { "-" };
        let url = ask.endpoint.url();
        asked.borrow_mut().push(format!("{} {url}/ {key} {region} {}", ask.action, form.join(",")));
        let mut keys = Keys::new(&format!("ROLE{}", asked.borrow().len()), "S", Some("LENT"));
        keys.expires = Some(4_070_908_800);
        Ok(keys)
    };
    let hidden = |name: &str| {
        let endpoint = name.starts_with("AWS_ENDPOINT_URL");
        match endpoint
            && crate::keys::configured::hides_endpoints(shape.profile.as_deref(), &look).ok()?
        {
            true => None,
            false => look(name),
        }
    };
    let mut options = Options::from_lookup(&hidden)?;
    if let Some(name) = &shape.profile {
        options.credentials = CredentialsFrom::Profile(name.clone());
    }
    let settled = Configured::read(&options, &look)?.settle(&options)?;
    let keys = find(&options, &Outside { look: &look, sts: &sts })?;
    let region = settled.region.clone().unwrap();
    let endpoint = Endpoint::parse(settled.endpoint.as_deref().unwrap())?;
    let target = Target { endpoint, region: region.clone(), addressing: settled.addressing };
    let op = Op::Get { key: "k", range: None, hold: crate::http::sign::Hold::default() };
    let url = sign(&target, "bkt", op, keys.as_ref(), &options)?.url;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let asked = asked.into_inner().join(" | ");
    Ok(vec![
        or_none(keys.as_ref().map(|keys| keys.access_key.clone())),
        or_none(keys.as_ref().and_then(|keys| keys.session_token.clone())),
        url,
        if keys.is_some() { region } else { "-".to_owned() },
        or_none(settled.ca_file.map(|path| path.display().to_string())),
        if asked.is_empty() { "-".to_owned() } else { asked },
    ])
}

/// Two names of one server: boto3 has the older ones for us-east-1, and the bucket in the path where an endpoint
/// of Amazon's is named.
fn plain(cell: &str) -> String {
    cell.replace("//bkt.s3.amazonaws.com/", "//bkt.s3.us-east-1.amazonaws.com/")
        .replace("https://sts.amazonaws.com/", "https://sts.us-east-1.amazonaws.com/")
        .replace(
            "https://s3.eu-west-1.amazonaws.com/bkt/",
            "https://bkt.s3.eu-west-1.amazonaws.com/",
        )
}

#[test]
fn identity_and_server_are_those_of_boto3_or_refused_by_name() {
    let table: BTreeMap<&str, Vec<&str>> = TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut cells = line.split('\t');
            (cells.next().unwrap(), cells.collect())
        })
        .collect();
    let shapes = shapes();
    assert_eq!(table.len(), shapes.len(), "run `just boto-table`");
    let mut wrong = Vec::new();
    for (name, shape) in &shapes {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().to_str().unwrap();
        let theirs: Vec<String> = table[name.as_str()].iter().map(|cell| plain(cell)).collect();
        let refused = REFUSED.iter().find(|(shape, _)| shape == name);
        match (ours(shape, home.path()), refused) {
            (Err(error), Some((_, says))) if error.to_string().contains(says) => {}
            (Err(_), None) if theirs[0].starts_with("error ") => {}
            (Ok(_), None) if TAKEN.contains(&name.as_str()) => {}
            (Ok(cells), None) => {
                let cells: Vec<String> =
                    cells.iter().map(|cell| plain(&cell.replace(dir, "{dir}"))).collect();
                if cells != theirs {
                    wrong.push(format!("{name}:\n  ours   {cells:?}\n  boto3's {theirs:?}"));
                }
            }
            (ours, _) => wrong.push(format!("{name}:\n  ours   {ours:?}\n  boto3's {theirs:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is refused says where: the file, the line and the key.
#[test]
fn refusals_of_the_shared_files_name_the_line() {
    let mut seen = 0;
    for (name, shape) in shapes() {
        let home = tempfile::tempdir().unwrap();
        match ours(&shape, home.path()) {
            Err(error @ Error::Shared(_)) => {
                let said = error.to_string();
                assert!(said.contains(", line ") && said.contains("/.aws/"), "{name}: {said}");
                seen += 1;
            }
            Err(Error::Credentials { .. } | Error::Setting { .. }) | Ok(_) => {}
            Err(other) => panic!("{name}: {other}"),
        }
    }
    assert!(seen > 20, "{seen}");
}
