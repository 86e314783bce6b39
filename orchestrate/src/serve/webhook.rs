//! One POST with a run that has ended, sealed with an HMAC, and never to an address that belongs to the
//! host or its cloud. Who is told when is in `deliveries`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use registry::RunId;
use sha2::Sha256;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::error::Error;
use crate::serve::daemon::Daemon;

/// Bytes of an address.
const ADDRESS_MAX: usize = 1024;

/// For one try, name and answer included.
const TRY: Duration = Duration::from_secs(10);

/// An address that may be told, by its form; where it leads is looked at when it is told.
pub(super) fn check(address: &str) -> Result<&str, Error> {
    let bad = |why: &str| {
        let shown: String = address.chars().take(80).collect();
        Err(Error::Usage(format!("webhook {shown:?}: {why}")))
    };
    if address.len() > ADDRESS_MAX {
        return bad("longer than 1024 bytes");
    }
    let Ok(uri) = address.parse::<Uri>() else { return bad("not a URL") };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return bad("expected http:// or https://");
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') => Ok(address),
        Some(_) => bad("a name and password do not belong there"),
        None => bad("no host in it"),
    }
}

/// Why an address is not told: it is the host's own, or leads to where clouds keep their secrets. `own` are the
/// addresses of this host's interfaces.
fn forbidden(ip: IpAddr, loopback: bool, own: &[IpAddr]) -> Option<&'static str> {
    // Those of Alibaba, Azure and Oracle, and Amazon's of version 6.
    const METADATA: [Ipv4Addr; 3] = [
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(192, 0, 0, 192),
    ];
    const METADATA6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let ip = within(ip);
    match ip {
        ip if ip.is_loopback() => (!loopback).then_some("a loopback address"),
        ip if ip.is_unspecified() => Some("no address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some("an address of this host's own network"),
        IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("a broadcast address"),
        IpAddr::V4(ip) if METADATA.contains(&ip) => Some("a metadata service"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(ip) if ip == METADATA6 => Some("a metadata service"),
        // Whoever may use the loopback ones may reach all of the host's.
        ip if !loopback && own.contains(&ip) => Some("an address of this host"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The address of version 4 that one of version 6 stands for: mapped or compatible (RFC 4291 2.5.5), by NAT64
/// (RFC 6052 2.1, RFC 8215) or 6to4 (RFC 3056); else the address.
fn within(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = ip else { return ip };
    let (segments, octets) = (six.segments(), six.octets());
    let four =
        |at: usize| IpAddr::from([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    match segments {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => {
            four(12)
        }
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => four(12),
        [0x2002, ..] => four(2),
        _ => ip,
    }
}

/// The addresses of this host's interfaces, as they are now: one that is down is not reached either.
fn own_addresses() -> Vec<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = all.filter_map(|interface| {
        let address = interface.address?;
        let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| within(IpAddr::V6(six.ip()))))
    });
    addresses.collect()
}

/// The system's resolver; what it gives is judged, and that very address is connected to.
#[derive(Debug)]
struct Judged {
    system: DefaultResolver,
    loopback: bool,
}

impl Resolver for Judged {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.system.resolve(uri, config, timeout)?;
        // One bad address among good ones is no accident either.
        let own = own_addresses();
        match found.iter().find_map(|address| forbidden(address.ip(), self.loopback, &own)) {
            Some(why) => Err(ureq::Error::Other(Box::new(Forbidden(why)))),
            None => Ok(found),
        }
    }
}

/// `sha256=<hex>` of `<timestamp>.<body>` under the secret.
fn seal(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    let bytes = mac.finalize().into_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// Why an end was not told.
#[derive(Debug)]
pub(super) struct Untold {
    pub(super) why: String,
    /// Whether it is no use to try again.
    pub(super) for_good: bool,
}

impl From<String> for Untold {
    fn from(why: String) -> Untold {
        Untold { why, for_good: false }
    }
}

/// Where an address leads that is never told.
#[derive(Debug)]
struct Forbidden(&'static str);

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it leads to {}: refused", self.0)
    }
}

impl std::error::Error for Forbidden {}

/// Whom an address reaches, in words that two addresses of one server have in common.
pub(super) fn host(address: &str) -> String {
    let uri = address.parse::<Uri>().ok();
    uri.and_then(|uri| Some(uri.authority()?.as_str().to_ascii_lowercase())).unwrap_or_default()
}

/// One try to tell `address` of a run's end.
pub(super) fn post(daemon: &Daemon, id: RunId, address: &str) -> Result<(), Untold> {
    let line = daemon.run(id).map_err(|error| error.to_string())?;
    let body = serde_json::to_string(&line).map_err(|error| error.to_string())?;
    let body = crate::process::log::harmless(body).into_bytes();
    let timestamp = daemon.now_s().to_string();
    let config = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .timeout_global(Some(TRY))
        .user_agent(concat!("veneer/", env!("CARGO_PKG_VERSION")))
        .build();
    let loopback = daemon.options.webhook_loopback;
    let resolver = Judged { system: DefaultResolver::default(), loopback };
    let agent = Agent::with_parts(config, DefaultConnector::new(), resolver);
    let mut request = agent
        .post(address)
        .header("Content-Type", "application/json")
        .header("Veneer-Run", id.to_string())
        .header("Veneer-Timestamp", &timestamp);
    if let Some(secret) = &daemon.options.webhook_secret {
        request = request.header("Veneer-Signature", seal(secret, &timestamp, &body));
    }
    match request.send(&body) {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("its server answered {}", answer.status().as_u16()).into()),
        Err(ureq::Error::Other(inner)) if inner.is::<Forbidden>() => {
            Err(Untold { why: inner.to_string(), for_good: true })
        }
        Err(error) => Err(error.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_addresses_and_those_of_its_cloud_are_never_told() {
        let own = ["198.51.100.7", "2001:db8::7"].map(|text| text.parse().unwrap());
        for bad in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "64:ff9b::169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::168.63.129.16",
            "64:ff9b:1:2:3:4:127.0.0.1",
            "::127.0.0.1",
            "2002:7f00:1::",
            "198.51.100.7",
            "::ffff:198.51.100.7",
            "64:ff9b::198.51.100.7",
            "2001:db8::7",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(forbidden(bad.parse().unwrap(), false, &own).is_some(), "{bad}");
        }
        for good in
            ["10.0.0.1", "192.0.2.1", "2001:db8::1", "100.100.100.201", "64:ff9b::192.0.2.1"]
        {
            assert_eq!(forbidden(good.parse().unwrap(), false, &own), None, "{good}");
        }
        assert_eq!(forbidden("127.0.0.1".parse().unwrap(), true, &own), None);
        assert!(forbidden("169.254.169.254".parse().unwrap(), true, &own).is_some());
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert!(own_addresses().contains(&loopback), "its own interfaces are looked at");
    }

    #[test]
    fn an_address_is_a_plain_url() {
        for good in ["http://h/", "https://h:8443/a?b=c", "http://[2001:db8::1]/"] {
            assert!(check(good).is_ok(), "{good}");
        }
        let long = format!("http://h/{}", "a".repeat(ADDRESS_MAX));
        for bad in ["", "h", "ftp://h/", "file:///etc/passwd", "http://u:p@h/", "http:///x", &long]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    /// The value was computed with openssl: `printf '1.{}' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn the_seal_is_that_of_other_programs() {
        assert_eq!(seal(b"key", "1", b"{}"), SEAL);
    }

    const SEAL: &str = "sha256=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224";
}
