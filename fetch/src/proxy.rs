//! Which proxy leads to a server, by the usual variables. Pure but for building ureq's type.
//!
//! `HTTPS_PROXY` is for https, `HTTP_PROXY` for http, `ALL_PROXY` for both, `NO_PROXY` for neither;
//! each also in lower case, which wins (curl(1), ENVIRONMENT).

use crate::endpoint::Endpoint;
use crate::error::Error;

/// The proxy for `endpoint`, if any.
///
/// # Errors
/// [`Error::Setting`] if the variable holds no proxy; its value may have a password in it and is
/// not repeated.
pub(crate) fn find(
    endpoint: &Endpoint,
    look: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<ureq::Proxy>, Error> {
    let get = |lower: &str, upper: &str| {
        look(lower).or_else(|| look(upper)).filter(|value| !value.is_empty())
    };
    if get("no_proxy", "NO_PROXY").is_some_and(|list| goes_around(&list, endpoint)) {
        return Ok(None);
    }
    let own = if endpoint.is_https() {
        get("https_proxy", "HTTPS_PROXY")
    } else {
        get("http_proxy", "HTTP_PROXY")
    };
    let Some(url) = own.or_else(|| get("all_proxy", "ALL_PROXY")) else { return Ok(None) };
    let why = "it is no proxy such as http://host:port";
    let bad = |_| Error::Setting { name: "proxy variable", value: "***".to_owned(), why };
    ureq::Proxy::new(&url).map(Some).map_err(bad)
}

/// Entries are hosts, which cover their subdomains, optionally with a port, or `*`.
fn goes_around(list: &str, endpoint: &Endpoint) -> bool {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let (entry, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse::<u16>().ok())
            }
            _ => (entry, None),
        };
        if port.is_some_and(|port| port != endpoint.port()) {
            return false;
        }
        let bare = |name: &str| name.trim_matches(['[', ']']).to_ascii_lowercase();
        let (host, entry) = (bare(endpoint.host()), bare(entry));
        let entry = entry.trim_start_matches('*').trim_start_matches('.');
        entry.is_empty() || host == entry || host.ends_with(&format!(".{entry}"))
    })
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
    fn a_bad_proxy_is_not_repeated() {
        let look = |name: &str| (name == "http_proxy").then(|| "gopher://u:hunter2@h".to_owned());
        let error = find(&Endpoint::parse("http://h").unwrap(), &look).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
