//! Whether a redirect is followed, and where to; and where a bucket is by the region that the server names.
//!
//! To the same server or to one that the operator listed, for the same path, never from https to
//! http. The request is signed anew for where it goes; a signature of one server is never shown to
//! another.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::http::sign::Target;
use crate::s3::endpoint::{Endpoint, Variant, check_region};

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
        crate::s3::endpoint::Addressing::VirtualHost
    } else {
        crate::s3::endpoint::Addressing::Path
    };
    Ok(Target { endpoint, region: target.region.clone(), addressing })
}

impl Target {
    /// The same server in another region: another host where it is Amazon's own for this one, else only another
    /// signature.
    ///
    /// # Errors
    /// What the server named is no region.
    pub(crate) fn in_region(&self, region: &str) -> Result<Target, Error> {
        check_region(region)?;
        let both = [false, true];
        let mut variants =
            both.into_iter().flat_map(|fips| both.map(|dual| Variant { fips, dual }));
        let own = variants.find(|v| Endpoint::amazon("s3", &self.region, *v) == self.endpoint);
        let endpoint = own.map(|variant| Endpoint::amazon("s3", region, variant));
        Ok(Target {
            endpoint: endpoint.unwrap_or_else(|| self.endpoint.clone()),
            region: region.to_owned(),
            addressing: self.addressing,
        })
    }
}

/// Where buckets were found to be, so that it is found out once.
#[derive(Debug, Default)]
pub(crate) struct Regions(Mutex<Vec<(String, Target)>>);

/// More are found out again.
const REGIONS_MAX: usize = 64;

impl Regions {
    fn all(&self) -> MutexGuard<'_, Vec<(String, Target)>> {
        // A panic while it was held left each whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the bucket is, if that was told.
    pub(crate) fn of(&self, bucket: &str) -> Option<Target> {
        self.all().iter().find(|(name, _)| name == bucket).map(|(_, target)| target.clone())
    }

    pub(crate) fn keep(&self, bucket: &str, target: &Target) {
        let mut all = self.all();
        all.retain(|(name, _)| name != bucket);
        all.truncate(REGIONS_MAX - 1);
        all.push((bucket.to_owned(), target.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::endpoint::Addressing;

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
    fn another_region_is_another_host_only_at_amazon() {
        let there = |url: &str| {
            let endpoint = Endpoint::parse(url).unwrap();
            let addressing = Addressing::Auto;
            let target = Target { endpoint, region: "us-east-1".into(), addressing };
            let there = target.in_region("eu-west-1").unwrap();
            assert!(target.in_region("evil.com/").is_err());
            (there.endpoint.url(), there.region)
        };
        let due = |url: &str| (url.to_owned(), "eu-west-1".to_owned());
        assert_eq!(
            there("https://s3.us-east-1.amazonaws.com"),
            due("https://s3.eu-west-1.amazonaws.com")
        );
        assert_eq!(
            there("https://s3-fips.dualstack.us-east-1.amazonaws.com"),
            due("https://s3-fips.dualstack.eu-west-1.amazonaws.com")
        );
        assert_eq!(there("http://h:9000"), due("http://h:9000"));
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
