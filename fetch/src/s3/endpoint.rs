//! Where requests go: scheme, host and port, checked, in one canonical spelling.
//!
//! Pure. rust-s3 takes any text for a region or an endpoint and makes a host of it, so nothing
//! reaches it but what passed here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::Error;

/// A server of S3's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    https: bool,
    /// Lower case; an IPv6 address has its brackets.
    host: String,
    port: u16,
}

/// Which of Amazon's endpoints of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variant {
    /// With validated cryptography.
    pub(crate) fips: bool,
    /// By both versions of IP.
    pub(crate) dual: bool,
}

/// Beginnings of regions, the end of their hosts' names, and that of hosts with both versions of IP: the
/// partitions of botocore's `partitions.json`. The last is everybody's.
const PARTITIONS: [(&str, &str, &str); 7] = [
    ("cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    ("us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    ("eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("", "amazonaws.com", "api.aws"),
];

fn partition(region: &str) -> (&'static str, &'static str, &'static str) {
    let [.., everybody] = PARTITIONS;
    PARTITIONS.into_iter().find(|(start, ..)| region.starts_with(start)).unwrap_or(everybody)
}

impl Endpoint {
    /// Amazon's own endpoint of a service (`s3`, `sts`) in a region.
    pub(crate) fn amazon(service: &str, region: &str, variant: Variant) -> Endpoint {
        let (_, suffix, dual) = partition(region);
        let fips = if variant.fips { "-fips" } else { "" };
        let host = match (variant.dual, service) {
            (false, _) => format!("{service}{fips}.{region}.{suffix}"),
            (true, "s3") => format!("s3{fips}.dualstack.{region}.{suffix}"),
            (true, _) => format!("{service}{fips}.{region}.{dual}"),
        };
        Endpoint { https: true, host, port: 443 }
    }

    /// Whether it is one of Amazon's own.
    fn is_amazon(&self) -> bool {
        PARTITIONS.iter().any(|(_, suffix, _)| {
            self.host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// Reads `http[s]://host[:port][/]`.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub(crate) fn parse(text: &str) -> Result<Endpoint, Error> {
        let bad = |why| Error::Setting { name: "endpoint", value: redact(text), why };
        let endpoint = parse(text).map_err(bad)?;
        if let Ok(address) = endpoint.host.trim_matches(['[', ']']).parse::<IpAddr>()
            && is_metadata(address)
        {
            return Err(bad("this address holds a machine's metadata, not objects"));
        }
        Ok(endpoint)
    }

    /// As [`Endpoint::parse`], for the services that do live on link-local addresses.
    pub(crate) fn parse_any(text: &str) -> Result<Endpoint, &'static str> {
        parse(text)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    /// Host name or address, without the port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `host` or `host:port`, as in the Host header.
    pub(crate) fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// The canonical spelling; the identity of a source of blobs.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Whether a bucket goes into the path rather than into the host. A dotted bucket does not
    /// match the wildcard certificate, and an address has no subdomains.
    pub(crate) fn path_style(&self, addressing: Addressing, bucket: &str) -> bool {
        match addressing {
            Addressing::Path => true,
            Addressing::VirtualHost => false,
            Addressing::Auto => bucket.contains('.') || !self.is_amazon(),
        }
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    let (https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err("expected http://host[:port] or https://host[:port]"),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("credentials do not belong into an endpoint");
    }
    if rest.contains(['/', '?', '#']) {
        return Err("an endpoint is a scheme, a host and a port, nothing after them");
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (address, port) = inner.split_once(']').ok_or("an address without its \"]\"")?;
            address.parse::<Ipv6Addr>().map_err(|_| "not an IPv6 address")?;
            (format!("[{}]", address.to_ascii_lowercase()), port)
        }
        None => match rest.find(':') {
            Some(at) => (rest[..at].to_ascii_lowercase(), &rest[at..]),
            None => (rest.to_ascii_lowercase(), ""),
        },
    };
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| "the port is not a number from 1 to 65535")?
        }
        Some(_) => return Err("the port is not a number from 1 to 65535"),
        None if port.is_empty() && https => 443,
        None if port.is_empty() => 80,
        None => return Err("expected a port after the address"),
    };
    let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if port == 0 {
        return Err("the port is not a number from 1 to 65535");
    }
    if host.is_empty() || host.len() > 253 || (!host.starts_with('[') && !host.bytes().all(named)) {
        return Err("not a host name");
    }
    Ok(Endpoint { https, host, port })
}

/// What stands before an `@` may be a password.
fn redact(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(end)) if start < end => {
            format!("{}://***{}", &text[..start], &text[end..])
        }
        _ => text.to_owned(),
    }
}

/// 169.254.0.0/16 (RFC 3927), where clouds keep instance metadata, fe80::/10 (RFC 4291), and
/// Amazon's IPv6 metadata address. No bucket lives there, but a hostile name may point there.
pub(crate) fn is_metadata(address: IpAddr) -> bool {
    // Beside the link-local ones: Alibaba's, Azure's and Oracle's, and Amazon's of version 6.
    const V4: [Ipv4Addr; 3] = [
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(192, 0, 0, 192),
    ];
    const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let v4 = |a: Ipv4Addr| a.is_link_local() || V4.contains(&a);
    match address {
        IpAddr::V4(a) => v4(a),
        IpAddr::V6(a) => a.is_unicast_link_local() || a == V6 || within(a).is_some_and(v4),
    }
}

/// The address of version 4 that one of version 6 stands for: mapped (RFC 4291 2.5.5.2), or by NAT64
/// (RFC 6052 2.1, RFC 8215).
fn within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let local = segments[..3] == [0x64, 0xff9b, 1];
    let nat64 = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || local;
    let [.., a, b, c, d] = address.octets();
    address.to_ipv4_mapped().or_else(|| nat64.then(|| Ipv4Addr::new(a, b, c, d)))
}

/// Checks a region's name, which becomes part of a host name and of the signature.
///
/// # Errors
/// [`Error::Setting`].
pub(crate) fn check_region(region: &str) -> Result<(), Error> {
    let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if region.is_empty() || region.len() > 63 || !region.bytes().all(named) {
        return Err(Error::Setting {
            name: "region",
            value: region.to_owned(),
            why: "a region has only a-z, 0-9 and \"-\", such as us-east-1",
        });
    }
    Ok(())
}

/// Where the bucket's name goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Into the host at Amazon (but for dotted buckets), else into the path.
    #[default]
    Auto,
    /// `host/bucket/key`.
    Path,
    /// `bucket.host/key`.
    VirtualHost,
}

impl FromStr for Addressing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Addressing, Error> {
        match text {
            "auto" => Ok(Addressing::Auto),
            "path" => Ok(Addressing::Path),
            "virtual-host" => Ok(Addressing::VirtualHost),
            _ => Err(Error::Setting {
                name: "addressing",
                value: text.to_owned(),
                why: "expected auto, path or virtual-host",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_one_server() {
        for (text, url) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("HTTPS://x".to_lowercase().as_str(), "https://x"),
            ("https://S3.Example.com:443/", "https://s3.example.com"),
            ("http://host:80", "http://host"),
            ("http://[::1]:9000", "http://[::1]:9000"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().url(), url);
        }
        assert_eq!(
            Endpoint::amazon("s3", "eu-west-1", Variant::default()).url(),
            "https://s3.eu-west-1.amazonaws.com"
        );
    }

    #[test]
    fn loose_endpoints_are_refused() {
        for text in [
            "",
            "host",
            "ftp://host",
            "http://",
            "http://h/p",
            "http://h?x",
            "http://h#x",
            "http://u:p@h",
            "http://h:0",
            "http://h:65536",
            "http://h:x",
            "http://h:+1",
            "http://[::1",
            "http://[zz]",
            "http://h h",
            "http://[::1]x",
            "http://h\n",
            "http://169.254.169.254",
            "http://[fe80::1]",
            "http://[::ffff:169.254.169.254]",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_an_endpoint_is_not_repeated() {
        let said = Endpoint::parse("http://me:hunter2@host").unwrap_err().to_string();
        assert!(!said.contains("hunter2"), "{said}");
    }

    #[test]
    fn buckets_go_into_the_host_only_where_that_works() {
        let amazon = Endpoint::amazon("s3", "us-east-1", Variant::default());
        assert!(!amazon.path_style(Addressing::Auto, "bkt"));
        let iso = Endpoint::amazon("s3", "us-iso-east-1", Variant { fips: true, dual: false });
        assert_eq!(iso.url(), "https://s3-fips.us-iso-east-1.c2s.ic.gov");
        assert!(!iso.path_style(Addressing::Auto, "bkt"));
        assert!(amazon.path_style(Addressing::Auto, "b.k.t"));
        let own = Endpoint::parse("http://localhost:9000").unwrap();
        assert!(own.path_style(Addressing::Auto, "bkt"));
        assert!(!own.path_style(Addressing::VirtualHost, "bkt"));
    }
}
