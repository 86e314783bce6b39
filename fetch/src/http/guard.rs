//! Names are resolved here, so that none may lead to an address where clouds keep the credentials of the
//! machine. What a name may be is in `endpoint.rs`.

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::error::forbidden::Forbidden;
use crate::s3::endpoint::is_metadata;

/// The system's resolver, less what no bucket has.
///
/// `ureq::unversioned` may change with any release of ureq; the compiler would tell.
#[derive(Debug, Default)]
pub(crate) struct Guard(DefaultResolver);

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = self.0.resolve(uri, config, timeout)?;
        // One bad address among good ones is no accident either.
        match addresses.iter().map(|address| address.ip()).find(|ip| is_metadata(*ip)) {
            Some(ip) => Err(ureq::Error::Other(Box::new(Forbidden(ip)))),
            None => Ok(addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::Agent;
    use ureq::unversioned::transport::DefaultConnector;

    /// getaddrinfo stands in for a hostile DNS: it takes this number for an address.
    #[test]
    fn what_a_name_leads_to_counts_not_its_spelling() {
        let config = Agent::config_builder().proxy(None).build();
        let agent = Agent::with_parts(config, DefaultConnector::new(), Guard::default());
        let error = agent.get("http://0xa9fea9fe/latest/meta-data/").call().unwrap_err();
        let ureq::Error::Other(inner) = error else { panic!("{error}") };
        assert_eq!(inner.downcast_ref(), Some(&Forbidden([169, 254, 169, 254].into())));
    }
}
