//! Against a real registry, distribution's own (`docker-registry` of Debian, which `./bootstrap` gets): open, with
//! passwords, and with tokens. The others of `registry_*.rs` try what it never does.

mod fault;
mod registry;
mod tokens;

use std::env;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fault::noise;
use fetch::image::{Digest, Manifest, RegistryRef};
use fetch::{BlobRef, Client, Expect, Kind, Options, Which};
use registry::{NAME, options, with_logins};
use tokens::{ISSUER, SERVICE, Tokens};

/// `alice:sesame`, by bcrypt.
const HTPASSWD: &str = "alice:$2y$05$nvgWR28gUIxqc/8PbEJCrO2AhsOhuD0zhSL2MaiVQvOeWxCva4/.G\n";
const ALICE: &str = r#"{"auth":"YWxpY2U6c2VzYW1l"}"#;
const BASIC: &str = "Basic YWxpY2U6c2VzYW1l";

#[allow(unreachable_pub)]
#[path = "../../tests/src/port.rs"]
mod port;

use port::Port;

fn program() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let path = cache.join("veneer/registry/docker-registry");
    assert!(path.is_file(), "no registry at {}: run ./bootstrap", path.display());
    path
}

/// Whom a registry lets in.
enum Door<'a> {
    Open,
    Passwords,
    Tokens(&'a Tokens),
}

/// A registry that ends with the test.
struct Real {
    child: Child,
    port: u16,
    /// The repository of the test, and the header of who pushes to it.
    name: &'static str,
    pusher: String,
    _claimed: Port,
}

impl Drop for Real {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Real {
    fn start(dir: &Path, door: &Door<'_>) -> Real {
        let claimed = Port::claim().expect("a port of the loopback");
        let port = claimed.number;
        let at = dir.display();
        let auth = match door {
            Door::Open => String::new(),
            Door::Passwords => {
                let passwords = dir.join("htpasswd");
                std::fs::write(&passwords, HTPASSWD).unwrap();
                format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display())
            }
            Door::Tokens(tokens) => {
                let roots = dir.join("roots.pem");
                std::fs::write(&roots, &tokens.certificate).unwrap();
                format!(
                    "auth: {{token: {{realm: \"{}\", service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {}}}}}\n",
                    tokens.realm(),
                    roots.display()
                )
            }
        };
        std::fs::write(
            dir.join("config.yml"),
            format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\n\
                 http: {{addr: \"127.0.0.1:{port}\"}}\n{auth}"
            ),
        )
        .unwrap();
        let child = Command::new(program())
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the registry");
        let pusher = BASIC.to_owned();
        let real = Real { child, port, name: NAME, pusher, _claimed: claimed };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        real
    }

    fn at(&self) -> RegistryRef {
        RegistryRef::parse(&format!("127.0.0.1:{}/{}:v1", self.port, self.name)).unwrap()
    }

    fn push_blob(&self, bytes: &[u8]) -> String {
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        let url = format!("http://127.0.0.1:{}/v2/{}/blobs/uploads/", self.port, self.name);
        let begun = agent.post(&url).header("Authorization", &self.pusher).send_empty().unwrap();
        let to = begun.headers()["location"].to_str().unwrap().to_owned();
        let digest = Digest::of(bytes).to_string();
        let joint = if to.contains('?') { '&' } else { '?' };
        let put =
            agent.put(format!("{to}{joint}digest={digest}")).header("Authorization", &self.pusher);
        put.content_type("application/octet-stream").send(bytes).unwrap();
        digest
    }

    /// An image `v1` with these layers.
    fn push(&self, layers: &[&[u8]]) -> Vec<u8> {
        let config = self.push_blob(b"{}");
        let layers: Vec<String> = layers
            .iter()
            .map(|layer| {
                format!(
                    r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}"#,
                    self.push_blob(layer),
                    layer.len()
                )
            })
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{}]}}"#,
            layers.join(",")
        );
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        let url = format!("http://127.0.0.1:{}/v2/{}/manifests/v1", self.port, self.name);
        let put = agent.put(&url).header("Authorization", &self.pusher);
        put.content_type("application/vnd.oci.image.manifest.v1+json").send(&manifest).unwrap();
        manifest.into_bytes()
    }
}

/// Pulls an image and compares it with what was pushed.
fn pull(real: &Real, options: &Options, layers: &[&[u8]]) {
    let pushed = real.push(layers);
    let client = Client::registry(options, &real.at()).unwrap();
    let digest = client.head_manifest("v1").unwrap().expect("a tag");
    assert_eq!(digest, Digest::of(&pushed));
    let fetched = client.manifest(&Which::Digest(digest)).unwrap();
    assert_eq!(fetched.bytes, pushed);
    let manifest = Manifest::read(&fetched.bytes, Some(&fetched.media_type)).unwrap();
    for (layer, due) in manifest.layers.iter().zip(layers) {
        let expect = Expect { size: Some(layer.size), ..Expect::default() };
        let place = BlobRef::new(&real.at(), layer.digest);
        let mut bytes = Vec::new();
        client.open(&place, &expect).unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == *due, "{place}");
        let dir = tempfile::tempdir().unwrap();
        let options = Options { jobs: Some(1), spool_min: 0, ..options.clone() };
        let client = Client::registry(&options, &real.at()).unwrap();
        let half = due.len() / 2;
        let mut begun = client.open_spooled(&place, &Expect::default(), dir.path()).unwrap();
        begun.read_exact(&mut vec![0; half]).unwrap();
        drop(begun);
        let mut again = client.open_spooled(&place, &Expect::default(), dir.path()).unwrap();
        let mut bytes = Vec::new();
        again.read_to_end(&mut bytes).unwrap();
        assert!(bytes == *due && again.summary().unwrap().reused >= half as u64, "{place}");
    }
    assert_eq!(client.head_manifest("v2").unwrap(), None);
    let absent = BlobRef::new(&real.at(), Digest::of(b"nothing of the kind"));
    let error = client.open(&absent, &Expect::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[test]
fn an_image_of_a_real_registry_is_what_was_pushed() {
    let dir = tempfile::tempdir().unwrap();
    let real = Real::start(dir.path(), &Door::Open);
    pull(&real, &options(), &[&noise(1000, 1), &noise(17_000_001, 2)]);
}

#[test]
fn a_real_registry_with_passwords_lets_in_who_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let real = Real::start(dir.path(), &Door::Passwords);
    let host = format!("127.0.0.1:{}", real.port);
    let (alice, _file) = with_logins(&[(host.clone(), ALICE)]);
    pull(&real, &alice, &[&noise(1000, 3), &noise(300_000, 4)]);
    let (wrong, _file) = with_logins(&[(host, r#"{"auth":"YWxpY2U6eA=="}"#)]);
    for options in [options(), wrong] {
        let client = Client::registry(&options, &real.at()).unwrap();
        assert_eq!(client.head_manifest("v1").unwrap_err().kind(), Kind::Denied);
    }
}

#[test]
fn a_real_registry_with_tokens_lets_in_whom_its_token_server_knows() {
    let (dir, tokens) = (tempfile::tempdir().unwrap(), Tokens::start());
    let mut real = Real::start(dir.path(), &Door::Tokens(&tokens));
    let host = format!("127.0.0.1:{}", real.port);
    let (alice, _file) = with_logins(&[(host.clone(), ALICE)]);
    real.pusher = tokens.bearer("repository:team/app:pull,push");
    pull(&real, &alice, &[&noise(1000, 5), &noise(300_000, 6)]);
    let asked = tokens.asked();
    assert_eq!(asked[1], "alice repository:team/app:pull", "{asked:?}");
    // A wrong password is told to the token server, which says no; nobody gets a token that opens nothing.
    let (wrong, _file) = with_logins(&[(host, r#"{"auth":"YWxpY2U6eA=="}"#)]);
    for (options, who) in [(options(), "nobody"), (wrong, "somebody")] {
        let client = Client::registry(&options, &real.at()).unwrap();
        assert_eq!(client.head_manifest("v1").unwrap_err().kind(), Kind::Denied);
        let asked = tokens.asked();
        assert_eq!(*asked.last().unwrap(), format!("{who} repository:team/app:pull"));
    }
    // What everybody may have, nobody needs a login for.
    real.name = "public/app";
    real.pusher = tokens.bearer("repository:public/app:pull,push");
    pull(&real, &options(), &[&noise(1000, 7), &noise(300_000, 8)]);
}
