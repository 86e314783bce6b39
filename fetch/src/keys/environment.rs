//! Options as the environment of whoever calls sets them, with what the AWS profile says of the server.

use crate::error::Error;
use crate::keys::configured::{self, Configured};
use crate::s3::endpoint::Endpoint;
use crate::s3::options::Options;

impl Options {
    /// The endpoint that is named, by an option or by the AWS profile, in its canonical spelling; none where
    /// Amazon's is meant.
    ///
    /// # Errors
    /// It is no `http[s]://host[:port]`; as [`crate::client::Client::new`] for the profile.
    pub fn named_endpoint(&self) -> Result<Option<String>, Error> {
        let look = |name: &str| std::env::var(name).ok();
        let named = match &self.endpoint {
            Some(text) => Some(Endpoint::parse(text)?),
            None => Configured::read(self, &look)?.endpoint("s3")?,
        };
        Ok(named.map(|endpoint| endpoint.url()))
    }

    /// A variable of the environment, as the AWS tools see it: where the variable
    /// `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS` or the profile says so, there are no endpoints in it.
    ///
    /// # Errors
    /// As [`crate::client::Client::new`] for the profile, if one of an endpoint is asked for.
    pub fn variable(name: &str, profile: Option<&str>) -> Result<Option<String>, Error> {
        let look = |name: &str| std::env::var(name).ok();
        let value = look(name);
        let endpoint = name == "AWS_ENDPOINT_URL" || name == "AWS_ENDPOINT_URL_S3";
        match endpoint && value.is_some() && configured::hides_endpoints(profile, &look)? {
            true => Ok(None),
            false => Ok(value),
        }
    }

    /// The defaults, overridden by the environment of whoever uses `profile`: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`,
    /// `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_CA_BUNDLE`, and `VENEER_FETCH_*` for the limits.
    ///
    /// # Errors
    /// [`Error::Setting`] names a variable that cannot be read.
    pub fn from_env(profile: Option<&str>) -> Result<Options, Error> {
        // Whether there are endpoints is found out once, with what is wrong about the profile.
        for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
            Options::variable(name, profile)?;
        }
        Options::from_lookup(&|name| Options::variable(name, profile).ok().flatten())
    }
}
