//! Where a registry may lead: its own server, the server of its tokens, and what it sends on to.
//!
//! A registry chooses all of them, so that it could choose what only this machine can reach, or who gets to see a
//! password. How that went wrong elsewhere: CVE-2020-15157 (credentials followed a URL of a manifest), and registries
//! whose token server was an address of a cloud's metadata.

use crate::distribution::url::{Url, Where, is_listed, may_be_plain};
use crate::error::Error;
use crate::image::authfile::HUB;
use crate::s3::endpoint::Endpoint;
use crate::s3::options::Options;

/// Where Docker Hub is: the name in references is `docker.io` (distribution's `reference` package and moby's
/// `registry` package).
const HUB_SERVER: &str = "registry-1.docker.io";

/// The server of a registry's host: https, but plain http on this machine (unless its port is 443) and where a
/// setting says so.
///
/// # Errors
/// [`Error::Setting`] for a host that is no server.
pub(crate) fn server(host: &str, options: &Options) -> Result<Endpoint, Error> {
    if HUB.contains(&host) {
        return Endpoint::parse(&format!("https://{HUB_SERVER}"));
    }
    let plain = Endpoint::parse(&format!("http://{host}"));
    match plain {
        Ok(plain) if plain.port() != 443 && may_be_plain(&plain, &options.registry_http) => {
            Ok(plain)
        }
        Ok(_) | Err(_) => Endpoint::parse(&format!("https://{host}")),
    }
}

/// The token server that a registry names, if it is asked.
///
/// # Errors
/// The rule that forbids it.
pub(crate) fn realm(
    registry: &Endpoint,
    named: &str,
    options: &Options,
) -> Result<Url, &'static str> {
    let url = Url::parse(named)?;
    let server = &url.server;
    let is_https = server.is_https();
    if registry.is_https() && !is_https {
        return Err("it leads from https to plain http");
    }
    if !is_https && !may_be_plain(server, &options.registry_http) {
        return Err(
            "it is reached over plain http, which is allowed for this machine only; if that is intended, list it with \
             --registry-http",
        );
    }
    if server.host() == registry.host() || is_listed(server, &options.registry_realms) {
        return Ok(url);
    }
    match Where::of(server.host()) {
        Where::Here if Where::of(registry.host()) == Where::Here => Ok(url),
        Where::Here => Err(
            "it is on this machine, and the registry is not; if that is intended, list it with --registry-realm",
        ),
        Where::Private => Err(
            "it is an address of a private network, and not the registry's own; if that is intended, list it with \
             --registry-realm",
        ),
        Where::Odd => Err("its host is a number but not an IP address in the usual notation"),
        Where::Elsewhere if is_https => Ok(url),
        Where::Elsewhere => Err(
            "it is another host over plain http; if that is intended, list it with --registry-realm as well",
        ),
    }
}

/// Where a redirect leads that a registry, or what it sent on to, has answered with. What comes from there is judged
/// by its digest, and nothing is shown to it that tells who asks.
///
/// # Errors
/// The rule that forbids it.
pub(crate) fn redirect(
    registry: &Endpoint,
    from: &Endpoint,
    location: &str,
    options: &Options,
) -> Result<Url, &'static str> {
    let own = location.starts_with('/') && !location.starts_with("//");
    let url = match own {
        true => Url::parse(&format!("{}{location}", from.url()))?,
        false => Url::parse(location)?,
    };
    let server = &url.server;
    if from.is_https() && !server.is_https() {
        return Err("it leads from https to plain http");
    }
    if !server.is_https() && !may_be_plain(server, &options.registry_http) {
        return Err(
            "it leads to plain http, which is allowed for this machine only; if that is intended, list the host with \
             --registry-http",
        );
    }
    match Where::of(server.host()) {
        Where::Here if Where::of(registry.host()) != Where::Here => {
            Err("it leads to this machine, and the registry is not on it")
        }
        Where::Odd => Err("its host is a number but not an IP address in the usual notation"),
        Where::Here | Where::Private | Where::Elsewhere => Ok(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(plain: &[&str], realms: &[&str]) -> Options {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Options { registry_http: list(plain), registry_realms: list(realms), ..Options::default() }
    }

    #[test]
    fn the_server_of_a_host() {
        let none = options(&[], &[]);
        for (host, due) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("index.docker.io", "https://registry-1.docker.io"),
            ("ghcr.io", "https://ghcr.io"),
            ("r.lan:5000", "https://r.lan:5000"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000"),
            ("localhost:5000", "http://localhost:5000"),
            ("localhost", "http://localhost"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("localhost:443", "https://localhost"),
        ] {
            assert_eq!(server(host, &none).unwrap().url(), due, "{host}");
        }
        assert_eq!(
            server("r.lan:5000", &options(&["r.lan:5000"], &[])).unwrap().url(),
            "http://r.lan:5000"
        );
        assert!(server("169.254.169.254", &none).is_err());
    }

    #[test]
    fn a_token_server_is_the_registrys_own_or_somebody_by_https() {
        let none = options(&[], &[]);
        let may = |registry: &str, named: &str, options: &Options| {
            realm(&Endpoint::parse(registry).unwrap(), named, options).map(|url| url.text())
        };
        for (registry, named) in [
            ("https://r.example", "https://auth.example/token?x=1"),
            ("https://r.example", "https://r.example:8443/token"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
            ("http://127.0.0.1:5000", "http://localhost:1/token"),
            ("http://127.0.0.1:5000", "https://auth.example/token"),
            ("https://10.0.0.1:5000", "https://10.0.0.1/token"),
        ] {
            assert_eq!(may(registry, named, &none).as_deref(), Ok(named));
        }
        for (registry, named) in [
            ("https://r.example", "http://r.example/token"),
            ("https://r.example", "http://localhost:1/token"),
            ("https://r.example", "https://localhost:1/token"),
            ("https://r.example", "https://127.0.0.1/token"),
            ("https://r.example", "https://10.0.0.1/token"),
            ("https://r.example", "https://[fd00::1]/token"),
            ("https://r.example", "https://169.254.169.254/token"),
            ("https://r.example", "https://2852039166/token"),
            ("https://r.example", "https://0x7f.1/token"),
            ("https://r.example", "https://u:p@auth.example/token"),
            ("https://r.example", "https://r.example@evil.example/token"),
            ("https://r.example", "/token"),
            ("http://127.0.0.1:5000", "http://auth.example/token"),
            ("http://127.0.0.1:5000", "https://10.0.0.1/token"),
        ] {
            assert!(may(registry, named, &none).is_err(), "{registry} {named}");
        }
        let listed = options(&["auth.lan:80", "r.lan"], &["10.0.0.1:5001", "auth.lan"]);
        for (registry, named) in [
            ("https://r.example", "https://10.0.0.1:5001/token"),
            ("http://r.lan", "http://auth.lan/token"),
            ("http://r.lan", "http://r.lan/token"),
        ] {
            assert!(may(registry, named, &listed).is_ok(), "{registry} {named}");
        }
        assert!(may("https://r.example", "http://auth.lan/token", &listed).is_err());
    }

    #[test]
    fn a_redirect_leads_to_no_place_of_this_machine() {
        let may = |registry: &str, from: &str, to: &str, plain: &[&str]| {
            let (registry, from) =
                (Endpoint::parse(registry).unwrap(), Endpoint::parse(from).unwrap());
            redirect(&registry, &from, to, &options(plain, &[])).map(|url| url.text())
        };
        let far = "https://r.example";
        for (to, due) in [
            ("https://store.example/x?sig=1", "https://store.example/x?sig=1"),
            ("/v2/other", "https://r.example/v2/other"),
            ("https://10.0.0.1:9000/x", "https://10.0.0.1:9000/x"),
        ] {
            assert_eq!(may(far, far, to, &[]).as_deref(), Ok(due));
        }
        for to in [
            "http://store.example/x",
            "https://localhost/x",
            "https://127.0.0.1/x",
            "https://169.254.169.254/latest",
            "https://[fe80::1]/",
            "https://0xa9fea9fe/",
            "//store.example/x",
            "x",
            "ftp://store.example/",
            "https://u@store.example/",
            "",
        ] {
            assert!(may(far, far, to, &["store.example"]).is_err(), "{to}");
        }
        let here = "http://127.0.0.1:5000";
        assert!(may(here, here, "http://127.0.0.1:9000/x", &[]).is_ok());
        assert!(may(here, here, "http://store.lan/x", &[]).is_err());
        assert!(may(here, here, "http://store.lan/x", &["store.lan"]).is_ok());
        assert!(may(here, "https://store.example", "http://127.0.0.1:9000/x", &[]).is_err());
    }
}
