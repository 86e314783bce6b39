//! Whether a redirect is followed, and where to. Pure.
//!
//! To the same server or to one that the operator listed, for the same path, never from https to
//! http. The request is signed anew for where it goes; a signature of one server is never shown to
//! another.

use crate::endpoint::Endpoint;
use crate::sign::Target;

/// More is a loop.
pub(crate) const HOPS_MAX: usize = 3;

/// The target that `location` leads to, for a request that was sent to `url`.
///
/// # Errors
/// The rule that forbids it.
pub(crate) fn follow(
    target: &Target,
    bucket: &str,
    url: &str,
    location: &str,
    listed: &[String],
) -> Result<Target, &'static str> {
    let (scheme, rest) = location.split_once("://").ok_or("it is not an absolute URL")?;
    let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(cut);
    let sent = url.split_once("://").map_or("", |(_, rest)| rest);
    let (sent_authority, sent_path) = sent.split_at(sent.find('/').unwrap_or(sent.len()));
    if target.endpoint.is_https() && scheme != "https" {
        return Err("it leads from https to something else");
    }
    if path != sent_path {
        return Err("it leads to another path");
    }
    let known = authority == sent_authority
        || listed.iter().any(|host| host.eq_ignore_ascii_case(authority));
    if !known {
        return Err("the host is neither the same nor listed by --redirect-to");
    }
    let virtual_host = !target.endpoint.path_style(target.addressing, bucket);
    let server = if virtual_host {
        authority
            .strip_prefix(bucket)
            .and_then(|rest| rest.strip_prefix('.'))
            .ok_or("the host does not begin with the bucket")?
    } else {
        authority
    };
    let endpoint = Endpoint::parse(&format!("{scheme}://{server}"))
        .map_err(|_| "it leads to something that is no S3 server")?;
    if endpoint == target.endpoint {
        return Err("it leads to itself");
    }
    let addressing = if virtual_host {
        crate::options::Addressing::VirtualHost
    } else {
        crate::options::Addressing::Path
    };
    Ok(Target { endpoint, region: target.region.clone(), addressing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Addressing;

    fn lead(from: &str, location: &str, listed: &[&str]) -> Result<String, &'static str> {
        let endpoint = Endpoint::parse(from).unwrap();
        let target = Target { endpoint, region: "r".into(), addressing: Addressing::Path };
        let listed: Vec<String> = listed.iter().map(|host| (*host).to_owned()).collect();
        let url = format!("{from}/bkt/k");
        follow(&target, "bkt", &url, location, &listed).map(|target| target.endpoint.url())
    }

    #[test]
    fn only_listed_hosts_and_the_same_path() {
        let go = |to: &str| lead("http://h:9000", to, &["other:9000", "secure", "169.254.169.254"]);
        assert_eq!(go("http://other:9000/bkt/k").as_deref(), Ok("http://other:9000"));
        assert_eq!(go("https://secure/bkt/k").as_deref(), Ok("https://secure"));
        assert_eq!(go("https://h:9000/bkt/k").as_deref(), Ok("https://h:9000"));
        for to in [
            "http://h:9000/bkt/k",
            "http://evil/bkt/k",
            "http://other/bkt/k",
            "/bkt/k",
            "",
            "http://other:9000/bkt/other",
            "http://other:9000/bkt/k?x",
            "file:///bkt/k",
            "http://other:9000@evil/bkt/k",
            "http://other:9000#@evil/bkt/k",
            "http://169.254.169.254/bkt/k",
            "gopher://other:9000/bkt/k",
        ] {
            assert!(go(to).is_err(), "{to}");
        }
        assert!(lead("https://h", "http://h/bkt/k", &["h"]).is_err());
    }

    #[test]
    fn with_the_bucket_in_the_host() {
        let target = Target {
            endpoint: Endpoint::parse("https://s3.a").unwrap(),
            region: "r".into(),
            addressing: Addressing::VirtualHost,
        };
        let listed = ["bkt.s3.b".to_owned(), "s3.b".to_owned()];
        let go = |to| follow(&target, "bkt", "https://bkt.s3.a/k", to, &listed);
        assert_eq!(go("https://bkt.s3.b/k").unwrap().endpoint.url(), "https://s3.b");
        assert!(go("https://s3.b/k").is_err());
    }
}
