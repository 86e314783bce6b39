//! URLs that registries name: a server, and what stands after it. Nothing is decoded or resolved, and what could be
//! read in two ways is refused.

use std::net::{IpAddr, Ipv4Addr};

use crate::s3::endpoint::Endpoint;

/// No URL is longer; signed ones have some kilobytes.
const URL_BYTES_MAX: usize = 16 << 10;

/// A URL that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) server: Endpoint,
    /// From the `/` on, with its query.
    pub(crate) path: String,
}

impl Url {
    /// Reads `http[s]://host[:port][/..][?..]`.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(crate) fn parse(text: &str) -> Result<Url, &'static str> {
        if text.len() > URL_BYTES_MAX {
            return Err("it is longer than 16 KiB");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err("it has a character that no URL has");
        }
        let (scheme, rest) = text.split_once("://").ok_or("it is not an absolute URL")?;
        if rest.contains('#') {
            return Err("it has a fragment, which no server gets to see");
        }
        let cut = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(cut);
        let scheme = scheme.to_ascii_lowercase();
        if authority.contains('@') {
            return Err("it has a name or a password in it");
        }
        let server = Endpoint::parse(&format!("{scheme}://{authority}"))
            .map_err(|_| "it names no server that is asked by http or https")?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { server, path })
    }

    /// The whole.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.server.url(), self.path)
    }

    /// The same with more in its query.
    #[must_use]
    pub(crate) fn with(mut self, pairs: &[(&str, &str)]) -> Url {
        let query = form(pairs);
        if !query.is_empty() {
            let joint = match (self.path.contains('?'), self.path.ends_with(['?', '&'])) {
                (false, _) => "?",
                (true, true) => "",
                (true, false) => "&",
            };
            self.path.push_str(joint);
            self.path.push_str(&query);
        }
        self
    }
}

/// Pairs as a query or a form has them: what is not unreserved (RFC 3986 2.3) is escaped, a blank too.
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| -> String {
        let byte = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect()
    };
    let pairs = pairs.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// What a host's name says of where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// This machine: `localhost` and what is below it (RFC 6761 6.3), 127.0.0.0/8, `::1`.
    Here,
    /// An address of a network that is somebody's own: RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291 2.5.6.
    Private,
    /// A number that is an address in no usual spelling, but one to resolvers: `0x7f.1`, `2130706433`.
    Odd,
    /// A name, or an address of everybody's network.
    Elsewhere,
}

impl Where {
    /// Of a host without its port, as [`Endpoint::host`] has it.
    pub(crate) fn of(host: &str) -> Where {
        let host = host.strip_suffix('.').unwrap_or(host);
        if host == "localhost" || host.ends_with(".localhost") {
            return Where::Here;
        }
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => Where::of_v4(address),
            Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(inner) => Where::of_v4(inner),
                None if address.is_loopback() => Where::Here,
                None if address.is_unspecified()
                    || address.is_unique_local()
                    || address.is_unicast_link_local() =>
                {
                    Where::Private
                }
                None => Where::Elsewhere,
            },
            // A name whose last part is a number is an address (WHATWG URL, "ends in a number").
            Err(_) => {
                let last = host.rsplit('.').next().unwrap_or_default();
                let number = last.bytes().all(|byte| byte.is_ascii_digit())
                    || last
                        .strip_prefix("0x")
                        .is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
                if number { Where::Odd } else { Where::Elsewhere }
            }
        }
    }

    fn of_v4(address: Ipv4Addr) -> Where {
        let [first, second, ..] = address.octets();
        let shared = first == 100 && (64..128).contains(&second);
        if address.is_loopback() {
            Where::Here
        } else if address.is_private() || address.is_link_local() || shared || first == 0 {
            Where::Private
        } else {
            Where::Elsewhere
        }
    }
}

/// Whether a server may be spoken to in plain http: this machine, and what a setting has.
pub(crate) fn may_be_plain(server: &Endpoint, listed: &[String]) -> bool {
    Where::of(server.host()) == Where::Here || is_listed(server, listed)
}

/// Whether a setting has this server, as `host` where its port is the scheme's own, else as `host:port`.
pub(crate) fn is_listed(server: &Endpoint, listed: &[String]) -> bool {
    let own = [server.authority(), format!("{}:{}", server.host(), server.port())];
    listed.iter().any(|entry| own.iter().any(|own| own.eq_ignore_ascii_case(entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_server_and_what_stands_after_it() {
        for (text, due) in [
            ("https://A.example/token", "https://a.example/token"),
            ("HTTPS://a.example:443", "https://a.example/"),
            ("http://127.0.0.1:5000?x=1", "http://127.0.0.1:5000/?x=1"),
            ("https://[::1]:1/a/../b?%2F", "https://[::1]:1/a/../b?%2F"),
        ] {
            assert_eq!(Url::parse(text).unwrap().text(), due);
        }
        let long = format!("https://a/{}", "x".repeat(URL_BYTES_MAX));
        for text in [
            "",
            "/token",
            "//a/token",
            "a/token",
            "ftp://a/",
            "https://",
            "https://u:p@a/",
            "https://a#@b/",
            "https://a/#x",
            "https://a\\@b/",
            "https://a/ b",
            "https://a/\r\nHost:x",
            "https://a:0/",
            "https://169.254.169.254/",
            "https://[fe80::1]/",
            "https://a:x/",
            "https://é/",
            &long,
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_query_is_added_to_what_is_there() {
        let with = |text: &str| Url::parse(text).unwrap().with(&[("a b", "c&d=/é")]).text();
        assert_eq!(with("https://a/t"), "https://a/t?a%20b=c%26d%3D%2F%C3%A9");
        assert_eq!(with("https://a/t?x=1"), "https://a/t?x=1&a%20b=c%26d%3D%2F%C3%A9");
        assert_eq!(with("https://a/t?"), "https://a/t?a%20b=c%26d%3D%2F%C3%A9");
        assert_eq!(Url::parse("https://a/t").unwrap().with(&[]).text(), "https://a/t");
    }

    #[test]
    fn where_a_host_is_by_its_name() {
        for (host, due) in [
            ("localhost", Where::Here),
            ("a.localhost.", Where::Here),
            ("127.9.9.9", Where::Here),
            ("[::1]", Where::Here),
            ("[::ffff:127.0.0.1]", Where::Here),
            ("10.0.0.1", Where::Private),
            ("172.31.0.1", Where::Private),
            ("192.168.1.1", Where::Private),
            ("100.64.0.1", Where::Private),
            ("0.0.0.0", Where::Private),
            ("[fd00::1]", Where::Private),
            ("[::]", Where::Private),
            ("[::ffff:10.0.0.1]", Where::Private),
            ("2130706433", Where::Odd),
            ("0x7f.1", Where::Odd),
            ("127.1", Where::Odd),
            ("a.0x7f", Where::Odd),
            ("010.0.0.1", Where::Odd),
            ("8.8.8.8", Where::Elsewhere),
            ("[2001:db8::1]", Where::Elsewhere),
            ("r.example", Where::Elsewhere),
            ("localhost.evil.example", Where::Elsewhere),
            ("notlocalhost", Where::Elsewhere),
        ] {
            assert_eq!(Where::of(host), due, "{host}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_and_what_is_listed() {
        let may = |url: &str, listed: &[&str]| {
            let listed: Vec<String> = listed.iter().map(|entry| (*entry).to_owned()).collect();
            may_be_plain(&Endpoint::parse(url).unwrap(), &listed)
        };
        assert!(may("http://localhost:5000", &[]) && may("http://127.0.0.1", &[]));
        assert!(!may("http://r.lan:5000", &[]) && !may("http://10.0.0.1", &[]));
        assert!(may("http://r.lan:5000", &["R.lan:5000"]) && may("http://r.lan", &["r.lan"]));
        assert!(may("http://r.lan", &["r.lan:80"]) && !may("http://r.lan:5000", &["r.lan"]));
    }
}
