//! On which terms an activation is asked for: whether they go together, and what a run keeps of them.

use serde_json::{Value, json};

use crate::error::Error;
use crate::verbs::activate::ActivateOptions;
use crate::verbs::label::check_labels;
use crate::verbs::ttl::check_ttl;

impl ActivateOptions {
    /// Whether what is asked for can be had together.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_labels(&self.labels)?;
        check_ttl(self.ttl_s)?;
        match self.read_only && self.bytes.is_some() {
            true => Err(Error::Usage(
                "a read-only activation has the size of its image's volume: leave out --size or --read-only".into(),
            )),
            false => Ok(()),
        }
    }

    /// What a run keeps of it.
    pub(crate) fn to_json(&self, reference: &str) -> Value {
        let ActivateOptions { bytes, no_fetch, ref copies, ref labels, ttl_s, read_only, .. } =
            *self;
        let mut input = json!({"image": reference, "bytes": bytes, "no_fetch": no_fetch});
        if !copies.is_empty() {
            input["copies"] = json!(copies);
        }
        if !labels.is_empty() {
            input["labels"] = json!(labels);
        }
        if ttl_s.is_some() {
            input["ttl_s"] = json!(ttl_s);
        }
        if read_only {
            input["read_only"] = json!(true);
        }
        if self.no_journal {
            input["no_journal"] = json!(true);
        }
        input
    }

    /// What a run was asked for, without its files.
    pub(crate) fn of_run(input: &Value) -> ActivateOptions {
        let label = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.into()));
        let labels = input["labels"].as_object().into_iter().flatten();
        ActivateOptions {
            bytes: input["bytes"].as_u64(),
            no_fetch: input["no_fetch"] == true,
            dry_run: false,
            copies: Vec::new(),
            labels: labels.filter_map(label).collect(),
            ttl_s: input["ttl_s"].as_u64(),
            read_only: input["read_only"] == true,
            no_journal: input["no_journal"] == true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_keeps_the_terms_that_it_was_asked_for() {
        let labels = [("app".to_owned(), "web".to_owned())].into();
        let asked = ActivateOptions {
            labels,
            ttl_s: Some(7),
            read_only: true,
            no_journal: true,
            ..Default::default()
        };
        let input = asked.to_json("s3://b/a/");
        let kept = ActivateOptions::of_run(&input);
        assert_eq!((&kept.labels, kept.ttl_s, kept.read_only), (&asked.labels, Some(7), true));
        assert!(kept.no_journal);
        assert_eq!(kept.to_json("s3://b/a/"), input);
        // What nobody asked for is not there, as in a run of an older program.
        let none = ActivateOptions::default().to_json("s3://b/a/");
        assert_eq!(none, json!({"image": "s3://b/a/", "bytes": null, "no_fetch": false}));
        let sized = ActivateOptions { bytes: Some(1), read_only: true, ..Default::default() };
        assert!(sized.check().unwrap_err().to_string().contains("--size"));
    }
}
