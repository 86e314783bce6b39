-- Schema 17: by which keys images with a manifest were found to be signed.

-- The sha256 of the manifest, and that of the public key (as DER) with which a signature of it was verified once. What was
-- signed is the manifest itself, or the index that it was chosen from.
CREATE TABLE signatures(
  manifest    TEXT NOT NULL CHECK (length(manifest) = 64 AND manifest NOT GLOB '*[^0-9a-f]*'),
  key         TEXT NOT NULL CHECK (length(key) = 64 AND key NOT GLOB '*[^0-9a-f]*'),
  signed      TEXT NOT NULL CHECK (length(signed) = 64 AND signed NOT GLOB '*[^0-9a-f]*'),
  seen_ms     INTEGER NOT NULL,
  PRIMARY KEY (manifest, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX activations_manifest ON activations(manifest) WHERE manifest IS NOT NULL;
