//! Which of several images is for a machine (image-spec, image-index.md; containerd's platforms for the
//! spelling).

use std::fmt;

use serde::Deserialize;

/// An operating system and a processor, in Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `v8`; none where the architecture's first one is meant, or nothing is said.
    pub variant: Option<String>,
}

/// As it stands in a document.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Written {
    #[serde(default)]
    pub(super) os: Option<String>,
    #[serde(default)]
    pub(super) architecture: Option<String>,
    #[serde(default)]
    pub(super) variant: Option<String>,
}

impl Platform {
    /// In one spelling for each processor.
    pub(super) fn written(written: &Written) -> Platform {
        let text = |text: &Option<String>| text.clone().unwrap_or_default().to_ascii_lowercase();
        let variant = Some(text(&written.variant)).filter(|variant| !variant.is_empty());
        normal(text(&written.os), &text(&written.architecture), variant)
    }

    /// The machine that this program was built for. A variant above the first is not assumed: an image for
    /// amd64/v3 does not run on each amd64.
    pub fn own() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        normal("linux".to_owned(), architecture, None)
    }

    /// Whether it is what builders write for what is no image, such as an attestation.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// How well an image for `self` fits a machine that wants `wanted`: less is better, none is not at all.
    /// First the very variant, then lower ones downwards, then one that names no variant.
    pub fn fit(&self, wanted: &Platform) -> Option<u32> {
        if (self.os.as_str(), self.architecture.as_str())
            != (wanted.os.as_str(), wanted.architecture.as_str())
        {
            return None;
        }
        if wanted.variant == self.variant {
            return Some(0);
        }
        let level = |variant: Option<&str>| match variant {
            Some(variant) => level(variant),
            None => first(&self.architecture),
        };
        match (level(wanted.variant.as_deref()), level(self.variant.as_deref())) {
            (Some(wanted), Some(own)) if own <= wanted => Some(wanted - own),
            // What names no variant may be for all of them.
            (_, _) => self.variant.is_none().then_some(u32::MAX / 2),
        }
    }
}

/// The variant that an architecture without one has.
fn first(architecture: &str) -> Option<u32> {
    match architecture {
        "amd64" => Some(100),
        "arm64" => Some(800),
        _ => None,
    }
}

/// `v8` is 800 and `v8.1` is 801.
fn level(variant: &str) -> Option<u32> {
    let (major, minor) = variant.strip_prefix('v')?.split_once('.').unwrap_or((&variant[1..], "0"));
    let digits = |text: &str| match text.len() {
        1 | 2 if text.bytes().all(|b| b.is_ascii_digit()) => text.parse::<u32>().ok(),
        _ => None,
    };
    Some(digits(major)? * 100 + digits(minor)?)
}

pub(super) fn normal(os: String, architecture: &str, variant: Option<String>) -> Platform {
    let variant = variant.map(|text| match text.strip_prefix('v') {
        None if text.bytes().all(|b| b.is_ascii_digit()) => format!("v{text}"),
        Some(_) | None => text,
    });
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant.filter(|v| v != "v1")),
        ("aarch64" | "arm64", variant) => ("arm64", variant.filter(|v| v != "v8" && v != "v8.0")),
        ("i386", variant) => ("386", variant),
        ("armhf", _) | ("arm", None) => ("arm", Some("v7".to_owned())),
        ("armel", _) => ("arm", Some("v6".to_owned())),
        (other, variant) => (other, variant),
    };
    Platform { os, architecture: architecture.to_owned(), variant }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    /// Wanted, offered in this order, and which is taken.
    #[test]
    fn the_best_of_what_fits_is_taken() {
        for (wanted, offered, taken) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("linux/arm/v7", &["linux/arm/v6", "linux/arm/v7"], Some(1)),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7"], None),
            ("linux/arm/v6", &["linux/arm/v5", "linux/arm/v7"], Some(0)),
            ("linux/arm64/v8", &["linux/arm64"], Some(0)),
            ("linux/arm64", &["linux/arm64/v8"], Some(0)),
            ("linux/arm64/v8.1", &["linux/arm64", "linux/arm64/v8.1"], Some(1)),
            // Nobody is given code that the processor may not have.
            ("linux/amd64", &["linux/amd64/v3"], None),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64/v1"], Some(1)),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2"], Some(1)),
            ("linux/amd64", &["linux/386"], None),
            ("linux/x86_64", &["linux/amd64"], Some(0)),
            ("linux/aarch64", &["linux/arm64/v8.0"], Some(0)),
        ] {
            let wanted = platform(wanted);
            let fits = offered
                .iter()
                .enumerate()
                .filter_map(|(at, text)| platform(text).fit(&wanted).map(|fit| (fit, at)));
            assert_eq!(fits.min().map(|(_, at)| at), taken, "{wanted} of {offered:?}");
        }
    }

    #[test]
    fn what_is_no_platform_of_ours_is_refused() {
        for text in ["", "linux", "linux/", "/amd64", "windows/amd64", "linux/a/b/c", "linux/a b"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
