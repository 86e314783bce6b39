-- Schema 11: images with a manifest and a config of their own.

-- What an image says of how it is to be run, as it came; by the sha256 of these bytes.
CREATE TABLE configs(
  digest      TEXT PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
  content     TEXT NOT NULL CHECK (json_valid(content) AND length(content) <= 4194304)
) STRICT, WITHOUT ROWID;

-- The sha256 of its manifest, where it has one, and of its config; both NULL for numbered layers. `found` is what
-- the place answered for the name: the digest of the manifest, or of the index that it was chosen from.
ALTER TABLE images ADD COLUMN found TEXT;
ALTER TABLE images ADD COLUMN manifest TEXT;
ALTER TABLE images ADD COLUMN config TEXT;
ALTER TABLE images ADD COLUMN platform TEXT;
-- The entity tag of the index.json that names it, in a bucket: whoever asks again asks only whether it is another.
ALTER TABLE images ADD COLUMN index_etag TEXT;
CREATE INDEX images_config ON images(config) WHERE config IS NOT NULL;
CREATE INDEX images_manifest ON images(manifest) WHERE manifest IS NOT NULL;

-- Those of the image that an activation was made of: the image itself may be another by now.
ALTER TABLE activations ADD COLUMN manifest TEXT;
ALTER TABLE activations ADD COLUMN config TEXT;
CREATE INDEX activations_config ON activations(config) WHERE config IS NOT NULL;

-- To whom its device is given (NULL: left as it is), and the path of a second node of it with the device that it was
-- made to lead to, `major:minor` (NULL: there is none now).
ALTER TABLE activations ADD COLUMN device_uid INTEGER CHECK (device_uid BETWEEN 0 AND 4294967294);
ALTER TABLE activations ADD COLUMN device_gid INTEGER CHECK (device_gid BETWEEN 0 AND 4294967294);
ALTER TABLE activations ADD COLUMN device_mode INTEGER CHECK (device_mode BETWEEN 0 AND 511);
ALTER TABLE activations ADD COLUMN node TEXT;
ALTER TABLE activations ADD COLUMN node_dev TEXT;
