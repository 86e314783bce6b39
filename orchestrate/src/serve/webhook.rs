//! Who asked to hear of a run's end is told: one POST with the run, sealed with an HMAC, tried again a
//! few times, and never to an address that belongs to the host or its cloud.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::daemon::Daemon;
use crate::Error;
use crate::log::{self, Level};
use crate::metrics::LIFE;

/// Bytes of an address.
const ADDRESS_MAX: usize = 1024;

/// For one try, name and answer included.
const TRY: Duration = Duration::from_secs(10);

/// After each failed try; when all have passed it is given up.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
];

/// Runs that are told of in one go.
const BATCH: u32 = 16;

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

/// Why an address is not told: it is the host's own, or leads to where clouds keep their secrets.
fn forbidden(ip: IpAddr, loopback: bool) -> Option<&'static str> {
    // 100.100.100.200 and fd00:ec2::254 are metadata services.
    let metadata6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip.to_canonical() {
        ip if ip.is_loopback() => (!loopback).then_some("a loopback address"),
        ip if ip.is_unspecified() => Some("no address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("a broadcast address"),
        IpAddr::V4(ip) if ip.octets() == [100, 100, 100, 200] => Some("a metadata service"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(ip) if ip == metadata6 => Some("a metadata service"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
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
        match found.iter().find_map(|address| forbidden(address.ip(), self.loopback)) {
            Some(why) => Err(ureq::Error::Other(format!("it leads to {why}: refused").into())),
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

/// Tells of ends from now on, those that an earlier daemon left included.
pub(super) fn start(daemon: &Arc<Daemon>) {
    let shared = daemon.clone();
    let started = thread::Builder::new().name("webhooks".into()).spawn(move || {
        let mut tries = HashMap::new();
        while !shared.is_stopping() {
            let seen = shared.news();
            let next = tell(&shared, &mut tries);
            shared.wait_for_news(seen, next);
        }
    });
    if let Err(error) = started {
        log::line(Level::Error, &format!("webhooks: cannot start: {error}"), &[]);
    }
}

/// One round. Gives the time after which there is something to try again.
fn tell(daemon: &Daemon, tries: &mut HashMap<u64, (usize, Instant)>) -> Option<Duration> {
    // A registry that does not answer now is asked again at the next news.
    let due = daemon.with_registry(|registry| registry.to_tell(BATCH)).ok()?;
    tries.retain(|id, _| due.iter().any(|(other, _)| other == id));
    for (id, address) in due {
        let (tried, not_before) = tries.get(&id).copied().unwrap_or((0, Instant::now()));
        if not_before > Instant::now() || daemon.is_stopping() {
            continue;
        }
        let outcome = post(daemon, id, &address);
        let detail = match (&outcome, PAUSES.get(tried)) {
            (Ok(()), _) => {
                LIFE.webhooks_sent.fetch_add(1, Ordering::Relaxed);
                "its end was told".to_owned()
            }
            (Err(why), None) => {
                LIFE.webhooks_failed.fetch_add(1, Ordering::Relaxed);
                format!("its end could not be told: {why}")
            }
            (Err(_), Some(pause)) => {
                tries.insert(id, (tried + 1, Instant::now() + *pause));
                continue;
            }
        };
        tries.remove(&id);
        // Where this is not recorded it is told once more; who listens has the run's number.
        drop(daemon.with_registry(|registry| registry.write(|w| w.told_run(id, &detail))));
    }
    let next = tries.values().map(|(_, at)| at.saturating_duration_since(Instant::now())).min();
    next.map(|time| time.max(Duration::from_millis(10)))
}

fn post(daemon: &Daemon, id: u64, address: &str) -> Result<(), String> {
    let line = daemon.run(id).map_err(|error| error.to_string())?;
    let body = serde_json::to_vec(&line).map_err(|error| error.to_string())?;
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
        Ok(answer) => Err(format!("its server answered {}", answer.status().as_u16())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_addresses_and_those_of_its_cloud_are_never_told() {
        for bad in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(forbidden(bad.parse().unwrap(), false).is_some(), "{bad}");
        }
        for good in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "100.100.100.201"] {
            assert_eq!(forbidden(good.parse().unwrap(), false), None, "{good}");
        }
        assert_eq!(forbidden("127.0.0.1".parse().unwrap(), true), None);
        assert!(forbidden("169.254.169.254".parse().unwrap(), true).is_some());
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
