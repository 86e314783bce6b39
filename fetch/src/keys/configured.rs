//! What the AWS tools' environment and shared files say of the server: endpoint, region, addressing, authorities.
//!
//! As botocore has it, so that keys of a private server go to that server and nowhere else. What cannot be done
//! here is refused by its place, never passed over. Keys themselves are `keys/mod.rs`'s.

use std::path::PathBuf;

use crate::error::Error;
use crate::keys::shared::{Section, Shared, Value, expand};
use crate::s3::endpoint::{Addressing, Endpoint, Variant, check_region};
use crate::s3::keys::Lookup;
use crate::s3::options::{CredentialsFrom, Options};

/// Where none is said.
const REGION: &str = "us-east-1";

/// The profile that counts, and who named it; none is the default one.
pub(crate) fn profile_name(options: &Options, look: Lookup<'_>) -> Option<(String, &'static str)> {
    if let CredentialsFrom::Profile(name) = &options.credentials {
        return Some((name.clone(), "--profile"));
    }
    // In this order: botocore's.
    ["AWS_DEFAULT_PROFILE", "AWS_PROFILE"]
        .into_iter()
        .find_map(|variable| Some((look(variable).filter(|name| !name.is_empty())?, variable)))
}

/// All of it for one profile.
pub(crate) struct Configured<'a> {
    pub(crate) shared: Shared,
    pub(crate) profile: Section,
    /// Who named the profile.
    pub(crate) named: Option<(String, &'static str)>,
    look: Lookup<'a>,
}

impl<'a> Configured<'a> {
    /// Reads the files.
    ///
    /// # Errors
    /// As [`Shared::read`]; [`Error::Credentials`] for a profile that is named and not there.
    pub(crate) fn read(options: &Options, look: Lookup<'a>) -> Result<Configured<'a>, Error> {
        let shared = Shared::read(look)?;
        let named = profile_name(options, look);
        if let Some((name, by)) = &named
            && !shared.has(name)
        {
            return Err(Error::Credentials {
                place: format!("profile {name} (named by {by})"),
                why: "no such profile in the shared files of the AWS tools",
            });
        }
        let name = named.as_ref().map_or("default", |(name, _)| name);
        let profile = shared.profile(name);
        Ok(Configured { shared, profile, named, look })
    }

    pub(crate) fn name(&self) -> &str {
        self.named.as_ref().map_or("default", |(name, _)| name)
    }

    fn get(&self, variable: &str) -> Option<String> {
        (self.look)(variable).filter(|value| !value.is_empty())
    }

    /// A switch of the environment, else of the profile; none where neither says.
    fn switch(&self, variable: &'static str, key: &str) -> Result<Option<bool>, Error> {
        if let Some(text) = self.get(variable) {
            return match text.to_ascii_lowercase().as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(setting(variable, &text, "expected true or false")),
            };
        }
        self.profile.get(key).map(Value::switch).transpose()
    }

    /// Whether endpoints of environment and files are to be passed over.
    pub(crate) fn ignores_endpoints(&self) -> Result<bool, Error> {
        let on =
            self.switch("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "ignore_configured_endpoint_urls");
        Ok(on? == Some(true))
    }

    /// The endpoint that the files give to a service (`s3`, `sts`): its own, else that of all.
    pub(crate) fn endpoint(&self, service: &str) -> Result<Option<Endpoint>, Error> {
        if self.ignores_endpoints()? {
            return Ok(None);
        }
        let own = match self.profile.get("services") {
            None => None,
            Some(name) => {
                let section = self.shared.services.get(name.plain()?);
                let section = section.filter(|section| !section.is_empty()).ok_or_else(|| {
                    name.refused("the config file has no such section [services NAME]")
                })?;
                section.get(service).and_then(|below| below.below("endpoint_url"))
            }
        };
        let filled = |value: &&Value| !value.text.is_empty();
        let Some(value) =
            own.filter(filled).or_else(|| self.profile.get("endpoint_url").filter(filled))
        else {
            return Ok(None);
        };
        Endpoint::parse(value.plain()?).map(Some).map_err(|error| match error {
            Error::Setting { why, .. } => value.refused(why),
            other => other,
        })
    }

    /// Where roles are taken on: as the tools have it, a private server is asked for that, too.
    ///
    /// # Errors
    /// An endpoint or a region that is none.
    pub(crate) fn token_service(&self, options: &Options) -> Result<Endpoint, Error> {
        if !self.ignores_endpoints()? {
            for variable in ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"] {
                if let Some(url) = self.get(variable) {
                    return Endpoint::parse(&url);
                }
            }
        }
        if let Some(endpoint) = self.endpoint("sts")? {
            return Ok(endpoint);
        }
        let (region, fips) = self.region(options)?;
        Ok(Endpoint::amazon("sts", &region, self.variant(fips, None)?))
    }

    /// Which of Amazon's endpoints; S3 has a key of its own for the versions of IP.
    fn variant(&self, fips: bool, own: Option<&Value>) -> Result<Variant, Error> {
        let wants = self.switch("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint")?;
        let dual = self.switch("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint")?;
        let dual = dual.map_or_else(|| own.map_or(Ok(false), Value::switch), Ok)?;
        Ok(Variant { fips: fips || wants == Some(true), dual })
    }

    /// The region, and whether its name asks for FIPS: older settings have `fips-us-east-1` for a region.
    fn region(&self, options: &Options) -> Result<(String, bool), Error> {
        let own = self.profile.get("region").filter(|value| !value.text.is_empty());
        let region = match (&options.region, own) {
            (Some(region), _) => region.clone(),
            (None, Some(value)) => {
                let region = value.plain()?;
                check_region(region).map_err(|_| {
                    value.refused("a region has only a-z, 0-9 and \"-\", such as us-east-1")
                })?;
                region.to_owned()
            }
            (None, None) => REGION.to_owned(),
        };
        check_region(&region)?;
        let plain = region.strip_prefix("fips-").or_else(|| region.strip_suffix("-fips"));
        Ok(match plain {
            Some(plain) => (plain.to_owned(), true),
            None if region == "aws-global" => (REGION.to_owned(), false),
            None => (region, false),
        })
    }

    /// The options with all that environment and files say where they themselves say nothing: afterwards they
    /// have an endpoint and a region.
    ///
    /// # Errors
    /// [`Error::Setting`] and [`Error::Shared`] for what cannot be done as it is said.
    pub(crate) fn settle(&self, options: &Options) -> Result<Options, Error> {
        let mut settled = options.clone();
        let (region, fips) = self.region(options)?;
        let named = match &options.endpoint {
            Some(text) => Some(Endpoint::parse(text)?),
            None => self.endpoint("s3")?,
        };
        let s3 = |key: &str| self.profile.get("s3").and_then(|s3| s3.below(key));
        if let Some(value) = s3("use_accelerate_endpoint")
            && value.switch()?
        {
            return Err(value.refused("S3 Transfer Acceleration is not supported: leave it out"));
        }
        let variant = self.variant(fips, s3("use_dualstack_endpoint"))?;
        // An endpoint that is named is the one, whatever is wanted of Amazon's own.
        let endpoint = named.unwrap_or_else(|| Endpoint::amazon("s3", &region, variant));
        settled.endpoint = Some(endpoint.url());
        settled.region = Some(region);
        if options.addressing == Addressing::Auto
            && let Some(value) = s3("addressing_style")
        {
            settled.addressing = match value.text.as_str() {
                "path" => Addressing::Path,
                "virtual" => Addressing::VirtualHost,
                "auto" => Addressing::Auto,
                _ => return Err(value.refused("expected auto, path or virtual")),
            };
        }
        if settled.ca_file.is_none() {
            settled.ca_file = self.authorities()?;
        }
        Ok(settled)
    }

    /// The authorities to trust, where something says so.
    fn authorities(&self) -> Result<Option<PathBuf>, Error> {
        let given = match self.get("AWS_CA_BUNDLE") {
            Some(path) => Some(path),
            None => match self.profile.get("ca_bundle").filter(|value| !value.text.is_empty()) {
                Some(value) => Some(value.plain()?.to_owned()),
                // botocore's last resort.
                None => self.get("REQUESTS_CA_BUNDLE"),
            },
        };
        Ok(given.map(|path| expand(&path, self.look)))
    }
}

fn setting(name: &'static str, value: &str, why: &'static str) -> Error {
    Error::Setting { name, value: value.to_owned(), why }
}

/// The environment as the AWS tools see it: without the endpoints that it, or the profile, says to ignore.
///
/// # Errors
/// As [`Configured::read`].
pub(crate) fn hides_endpoints(profile: Option<&str>, look: Lookup<'_>) -> Result<bool, Error> {
    let mut options = Options::default();
    if let Some(name) = profile {
        options.credentials = CredentialsFrom::Profile(name.to_owned());
    }
    Configured::read(&options, look)?.ignores_endpoints()
}
