//! Which proxy leads to a server, by the usual variables. Pure but for building ureq's type.
//!
//! `HTTPS_PROXY` is for https, `HTTP_PROXY` for http, `ALL_PROXY` for both, `NO_PROXY` for neither;
//! each also in lower case, which wins, even where it is set to nothing: that is how one of them is switched
//! off for a command (Python's urllib, and so boto3, has it so; curl takes such a one for unset).

use std::net::IpAddr;

use crate::error::Error;
use crate::s3::endpoint::Endpoint;
use crate::text::base64;

/// The proxy for `endpoint`, if any.
///
/// # Errors
/// [`Error::Setting`] names the variable that holds no proxy, or one of a kind that is not spoken; its value may
/// have a password in it and is not repeated.
pub(crate) fn find(
    endpoint: &Endpoint,
    look: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<ureq::Proxy>, Error> {
    // The lower one as it is, the upper one unless it is empty.
    let get = |[lower, upper]: [&'static str; 2]| {
        let other = || Some((upper, look(upper).filter(|value| !value.is_empty())?));
        look(lower).map(|value| (lower, value)).or_else(other)
    };
    let own = if endpoint.is_https() {
        ["https_proxy", "HTTPS_PROXY"]
    } else {
        ["http_proxy", "HTTP_PROXY"]
    };
    let Some((name, url)) = get(own).or_else(|| get(["all_proxy", "ALL_PROXY"])) else {
        return Ok(None);
    };
    if url.is_empty() {
        return Ok(None);
    }
    if let Some((name, list)) = get(["no_proxy", "NO_PROXY"]) {
        if let Some(entry) = entries(&list).find(|entry| is_bad_network(entry)) {
            let why =
                "it is no network: expected an address and the bits that count, such as 10.0.0.0/8";
            return Err(Error::Setting { name, value: entry.to_owned(), why });
        }
        if goes_around(&list, endpoint) {
            return Ok(None);
        }
    }
    let bad = |why| Error::Setting { name, value: "***".to_owned(), why };
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    if scheme.to_ascii_lowercase().starts_with("socks") {
        return Err(bad("SOCKS proxies are not supported: name an http:// or https:// proxy, or \
                        put the server into NO_PROXY"));
    }
    if !has_plain_authority(&url) {
        return Err(bad(
            "expected http://host:port or http://name:password@host:port: the port from 1 to 65535, \
                        and / ? # @ in a name or password as %2F %3F %23 %40",
        ));
    }
    let proxy =
        ureq::Proxy::new(&url).map_err(|_| bad("it is no proxy such as http://host:port"))?;
    match proxy.protocol() {
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Ok(Some(proxy)),
        _ => Err(bad("it is no proxy of http:// or https://")),
    }
}

/// Whether the host and the port of a proxy's URL are what they look like, since ureq takes 80 for a port that
/// is none, and ends the host at the first slash of a password.
fn has_plain_authority(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, path) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
    if path.contains('@') {
        return false;
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.rsplit_once(':') {
        Some((name, _)) if name.starts_with('[') && !name.ends_with(']') => true,
        Some((_, port)) => port.parse::<u16>().is_ok_and(|port| port > 0),
        None => true,
    }
}

/// What proves to a proxy who asks (RFC 7617); none where the variable names nobody.
pub(crate) fn credentials(proxy: &ureq::Proxy) -> Option<String> {
    if proxy.username().is_none() && proxy.password().is_none() {
        return None;
    }
    let pair = format!(
        "{}:{}",
        proxy.username().unwrap_or_default(),
        proxy.password().unwrap_or_default()
    );
    Some(format!("Basic {}", base64::encoded(pair.as_bytes())))
}

/// What a list has between commas and blanks.
fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty())
}

/// Whether an entry looks like a network and is none: nobody would notice that it covers nothing.
fn is_bad_network(entry: &str) -> bool {
    let Some((network, bits)) = entry.split_once('/') else { return false };
    let network = network.trim_matches(['[', ']']);
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    if !network.contains(':') && !network.chars().all(digits) {
        return false;
    }
    // A URL has a colon before its slashes and nothing between them.
    if bits.starts_with('/') {
        return false;
    }
    let width = network.parse().map(|network| match network {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    });
    width.is_err() || !bits.parse::<u32>().is_ok_and(|bits| width.is_ok_and(|width| bits <= width))
}

/// Entries, between commas or blanks, are hosts, which cover their subdomains, optionally with a port; networks
/// (`10.0.0.0/8`); or `*`.
fn goes_around(list: &str, endpoint: &Endpoint) -> bool {
    let bare =
        |name: &str| name.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let host = bare(endpoint.host());
    let address = host.parse::<IpAddr>().ok();
    entries(list).any(|entry| {
        if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
            return bare(network).parse().is_ok_and(|network| is_within(address, network, bits));
        }
        let (entry, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse::<u16>().ok())
            }
            _ => (entry, None),
        };
        if port.is_some_and(|port| port != endpoint.port()) {
            return false;
        }
        let entry = bare(entry);
        if let (Some(address), Ok(entry)) = (address, entry.parse::<IpAddr>()) {
            return address == entry;
        }
        let entry = entry.trim_start_matches('*').trim_start_matches('.');
        // An address is no name below another.
        let below = address.is_none() && host.ends_with(&format!(".{entry}"));
        entry.is_empty() || host == entry || below
    })
}

/// Whether the first `bits` of both are the same.
fn is_within(address: IpAddr, network: IpAddr, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else { return false };
    let same = |a: u128, b: u128, width: u32| {
        bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str, pairs: &[(&str, &str)]) -> Option<String> {
        let look =
            |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let proxy = find(&Endpoint::parse(url).unwrap(), &look).unwrap();
        proxy.map(|proxy| proxy.host().to_owned())
    }

    #[test]
    fn each_scheme_has_its_own() {
        let both = [("HTTP_PROXY", "http://a:1"), ("https_proxy", "http://b:2")];
        assert_eq!(proxy("http://h", &both).as_deref(), Some("a"));
        assert_eq!(proxy("https://h", &both).as_deref(), Some("b"));
        assert_eq!(proxy("https://h", &both[..1]), None);
        assert_eq!(proxy("https://h", &[("ALL_PROXY", "http://c:3")]).as_deref(), Some("c"));
    }

    #[test]
    fn a_port_that_is_none_is_refused_and_not_80() {
        for url in
            ["http://p:99999", "http://p:91o3", "http://p:", "http://u:a/b@p:1", "http://u:a?b@p:1"]
        {
            let look = |name: &str| (name == "HTTP_PROXY").then(|| url.to_owned());
            let told = find(&Endpoint::parse("http://h").unwrap(), &look);
            assert!(
                matches!(told, Err(Error::Setting { name: "HTTP_PROXY", .. })),
                "{url}: {told:?}"
            );
        }
        for url in [
            "http://p:1",
            "p:1",
            "http://p",
            "http://u:a%2Fb@p:1/",
            "http://[::1]:3",
            "http://[::1]",
        ] {
            assert!(proxy("http://h", &[("HTTP_PROXY", url)]).is_some(), "{url}");
        }
    }

    #[test]
    fn no_proxy_goes_around() {
        for (list, around) in [
            ("*", true),
            ("s3.example.com", true),
            (".example.com", true),
            ("example.com", true),
            ("other, example.com:9000", true),
            ("example.com:80", false),
            ("ample.com", false),
            ("", false),
            ("*.example.com", true),
        ] {
            let pairs = [("HTTP_PROXY", "http://a:1"), ("NO_PROXY", list)];
            assert_eq!(proxy("http://s3.example.com:9000", &pairs).is_none(), around, "{list}");
        }
        let pairs = [("HTTP_PROXY", "http://a:1"), ("NO_PROXY", "::1")];
        assert_eq!(proxy("http://[::1]:9000", &pairs), None);
    }

    #[test]
    fn no_proxy_knows_networks_and_addresses() {
        for (url, list, around) in [
            ("http://10.1.2.3", "10.0.0.0/8", true),
            ("http://11.1.2.3", "10.0.0.0/8", false),
            ("http://192.168.1.77:9000", "localhost 192.168.1.64/26", true),
            ("http://192.168.1.7", "192.168.1.64/26", false),
            ("http://10.1.2.3", "10.1.2.3/32,x", true),
            ("http://10.1.2.3", "0.0.0.0/0", true),
            ("http://10.1.2.3", "2.3", false),
            ("http://10.1.2.3:80", "10.1.2.3:80", true),
            ("http://10.1.2.3:81", "10.1.2.3:80", false),
            ("http://[fd00::1]", "fd00::/8", true),
            ("http://[fd00::1]:9000", "[fd00::]/8", true),
            ("http://[fe00::1]", "fd00::/8", false),
            ("http://[fd00::1]:9000", "[fd00::1]:9000", true),
            ("http://[fd00::1]", "10.0.0.0/8", false),
            ("http://host.example", "10.0.0.0/8,example.", true),
        ] {
            let pairs = [("HTTP_PROXY", "http://a:1"), ("NO_PROXY", list)];
            assert_eq!(proxy(url, &pairs).is_none(), around, "{url} {list}");
        }
    }

    #[test]
    fn a_network_that_is_none_is_named() {
        let told = |name: &'static str, list: &str| {
            let look = |asked: &str| match asked {
                "HTTP_PROXY" => Some("http://a:1".to_owned()),
                _ => (asked == name).then(|| list.to_owned()),
            };
            find(&Endpoint::parse("http://10.1.2.3").unwrap(), &look)
        };
        for bad in [
            "10.0.0.0/99",
            "10.0.0.0/x",
            "10.0.0.0/",
            "10.0.0/8",
            "fd00::/129",
            "[fd00::]/x",
            "fd00:/8",
        ] {
            for name in ["NO_PROXY", "no_proxy"] {
                let list = format!("localhost,{bad}");
                match told(name, &list) {
                    Err(Error::Setting { name: said, value, .. }) => {
                        assert_eq!((said, value.as_str()), (name, bad))
                    }
                    other => panic!("{bad}: {other:?}"),
                }
            }
        }
        for fine in
            ["10.0.0.0/8", "fd00::/8", "[fd00::]/8", "http://10.0.0.1/", "host/8", "0.0.0.0/0"]
        {
            assert!(told("NO_PROXY", fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_lower_case_one_wins_even_if_it_is_empty() {
        let with = |pairs: &[(&str, &str)]| proxy("http://h", pairs);
        let upper = [("HTTP_PROXY", "http://a:1"), ("ALL_PROXY", "http://b:2"), ("NO_PROXY", "h")];
        assert_eq!(with(&upper[..2]).as_deref(), Some("a"));
        assert_eq!(with(&[upper[0], upper[1], ("http_proxy", "")]), None);
        assert_eq!(with(&[upper[1], ("http_proxy", "")]), None);
        assert_eq!(with(&[upper[1], ("all_proxy", "")]), None);
        assert_eq!(with(&[upper[0], ("all_proxy", "")]).as_deref(), Some("a"));
        assert_eq!(with(&[upper[0], upper[2]]), None);
        assert_eq!(with(&[upper[0], upper[2], ("no_proxy", "")]).as_deref(), Some("a"));
        // An upper-case one that is empty is as if it were not there.
        assert_eq!(with(&[("HTTP_PROXY", ""), upper[1]]).as_deref(), Some("b"));
    }

    #[test]
    fn a_proxy_that_is_not_spoken_is_named_and_not_repeated() {
        for url in ["gopher://u:hunter2@h", "socks5://u:hunter2@h:1", "socks5h://h", "SOCKS4://h"] {
            let look = |name: &str| (name == "ALL_PROXY").then(|| url.to_owned());
            for server in ["http://h", "https://h"] {
                let error = find(&Endpoint::parse(server).unwrap(), &look).unwrap_err().to_string();
                assert!(!error.contains("hunter2") && error.contains("ALL_PROXY"), "{error}");
                assert_eq!(error.contains("SOCKS"), !url.starts_with("gopher"), "{error}");
            }
        }
    }

    #[test]
    fn proxies_are_told_who_asks() {
        let proxy = ureq::Proxy::new("http://Aladdin:open%20sesame@h:1").unwrap();
        assert_eq!(credentials(&proxy).as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert_eq!(credentials(&ureq::Proxy::new("http://h:1").unwrap()), None);
    }
}
