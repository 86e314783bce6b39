//! The layers of an image that is numbered objects below a prefix, or one object.

use crate::client::Client;
use crate::error::Error;
use crate::error::kind::Kind;
use crate::http::retry::may_retry;
use crate::http::sign::Op;
use crate::http::vigil::Waiting;
use crate::s3::listing;
use crate::s3::object::{ImageRef, Layer, Object, ObjectRef};

impl Client {
    /// The layers of an image, base first, each with size and (where the server has them) ETag.
    ///
    /// # Errors
    /// [`Error::EmptyPrefix`], [`Error::Gap`], [`Error::Stranger`] (names the key), [`Error::Layout`],
    /// [`Error::Duplicate`], [`Error::TooManyLayers`]; else as any request.
    pub fn layers(&self, image: &ImageRef) -> Result<Vec<Layer>, Error> {
        let (bucket, prefix) = match image {
            ImageRef::Object(object) => {
                let object = self.head_or_hint(object)?;
                return Ok(vec![Layer { number: 1, object }]);
            }
            ImageRef::Prefix { bucket, prefix } => (bucket, prefix),
        };
        let objects = self.layer_objects(bucket, prefix)?;
        let mut layers = listing::layers(bucket, prefix, objects)?;
        if layers.len() > self.inner.options.layers_max {
            let layers_max = self.inner.options.layers_max;
            return Err(Error::TooManyLayers {
                subject: format!("s3://{bucket}/{prefix}"),
                layers_max,
            });
        }
        for layer in &mut layers {
            // Not every server puts ETags into listings; without them nothing could be pinned.
            if layer.object.etag.is_none() {
                let object = self.head(&layer.object.object)?;
                if object.size != layer.object.size {
                    let subject = object.object.to_string();
                    let (want, got) = (layer.object.size.to_string(), object.size.to_string());
                    return Err(Error::Changed { subject, field: "size", want, got });
                }
                layer.object = object;
            }
        }
        Ok(layers)
    }

    /// The layers of an image of which the caller knows the objects already, base first: as [`Client::layers`] without a
    /// request.
    ///
    /// # Errors
    /// As [`Client::layers`]; [`Error::Stranger`] for an object that is not the image's, [`Error::Malformed`] for an
    /// entity tag that no header carries.
    pub fn layers_of(&self, image: &ImageRef, objects: Vec<Object>) -> Result<Vec<Layer>, Error> {
        for Object { object, etag, .. } in &objects {
            object.check()?;
            let is_its = match image {
                ImageRef::Prefix { bucket, prefix } => {
                    object.bucket == *bucket && object.key.starts_with(prefix)
                }
                ImageRef::Object(own) => object == own,
            };
            if !is_its {
                return Err(Error::Stranger { subject: object.to_string() });
            }
            if let Some(tag) = etag
                && let Err(why) = listing::entity_tag(tag)
            {
                let (subject, got) = (object.to_string(), tag.clone());
                return Err(Error::Malformed { subject, why, got });
            }
        }
        let layers_max = self.inner.options.layers_max;
        if objects.len() > layers_max {
            return Err(Error::TooManyLayers { subject: image.to_string(), layers_max });
        }
        match image {
            ImageRef::Prefix { bucket, prefix } => listing::layers(bucket, prefix, objects),
            ImageRef::Object(_) if objects.is_empty() => {
                Err(Error::EmptyPrefix { subject: image.to_string() })
            }
            ImageRef::Object(own) if objects.len() > 1 => {
                Err(Error::Duplicate { number: 1, first: own.to_string(), second: own.to_string() })
            }
            ImageRef::Object(_) => {
                Ok(objects.into_iter().map(|object| Layer { number: 1, object }).collect())
            }
        }
    }

    /// What lies under the prefix of an image; no more is read of it than an image may have.
    fn layer_objects(&self, bucket: &str, prefix: &str) -> Result<Vec<Object>, Error> {
        let layers_max = self.inner.options.layers_max;
        let mut objects = Vec::new();
        self.pages(bucket, prefix, |page| {
            objects.extend(page);
            // The prefix itself may be there, as what a console makes of a folder.
            if objects.len() <= layers_max.saturating_add(1) {
                return Ok(());
            }
            // What is no layer at all is the better word.
            let strange = listing::layers(bucket, prefix, std::mem::take(&mut objects)).err();
            Err(match strange {
                Some(error @ (Error::Stranger { .. } | Error::Layout { .. })) => error,
                Some(_) | None => {
                    Error::TooManyLayers { subject: format!("s3://{bucket}/{prefix}"), layers_max }
                }
            })
        })?;
        Ok(objects)
    }

    /// The only layer of an image that is one object. Where there is none and something lies below it, the
    /// reference lacks its last slash: some servers say 404 to that, and some 500, however often.
    fn head_or_hint(&self, object: &ObjectRef) -> Result<Object, Error> {
        let subject = object.to_string();
        let waiting = Waiting::begin(&self.inner.options, &self.inner.http, &subject);
        let error = match self.head_once(&subject, object) {
            Ok((found, _)) => return Ok(found),
            Err(error) => error,
        };
        let suspect = error.kind() == Kind::NotFound
            || matches!(&error, Error::Answer { answer, .. } if answer.status == 500);
        let prefix = format!("{}/", object.key);
        if suspect && self.has_any(&object.bucket, &prefix) {
            return Err(Error::NoSlash { subject });
        }
        drop(waiting);
        match may_retry(&error) {
            true => self.head(object),
            false => Err(error),
        }
    }

    /// Whether there is an object below the prefix, as far as one request tells.
    fn has_any(&self, bucket: &str, prefix: &str) -> bool {
        let subject = format!("s3://{bucket}/{prefix}");
        let listed = self
            .send(&subject, bucket, Op::List { prefix, token: None, encoded: true })
            .and_then(|response| self.document(&subject, response))
            .and_then(|document| listing::page(&document, bucket, prefix, true));
        listed.is_ok_and(|page| !page.objects.is_empty())
    }
}
