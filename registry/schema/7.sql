-- Schema 7: what is remembered is kept under all that it depended on.

-- A refusal holds for the bytes; below those layers ('any': whatever is below; 'template'; or a chain
-- id); under limits that are no larger (NULL: under any); and by one version of the unpacker's rules.
-- 0 is a version before this schema: such a row is listed and not believed.
DROP TRIGGER count_refused;
ALTER TABLE quarantine RENAME TO quarantine_6;
DROP INDEX quarantine_source;
CREATE TABLE quarantine(
  digest      TEXT NOT NULL CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
  below       TEXT NOT NULL,
  limits      TEXT CHECK (json_valid(limits)),
  unpacker    INTEGER NOT NULL CHECK (unpacker >= 0),
  size        INTEGER NOT NULL CHECK (size >= 0),
  key         TEXT NOT NULL,
  message     TEXT NOT NULL,
  at_ms       INTEGER NOT NULL,
  PRIMARY KEY (digest, below)
) STRICT, WITHOUT ROWID;
INSERT INTO quarantine(digest, below, unpacker, size, key, message, at_ms)
  SELECT digest, 'any', 0, size, key, message, at_ms FROM quarantine_6;
CREATE TRIGGER count_refused AFTER INSERT ON quarantine
  WHEN NOT EXISTS (SELECT 1 FROM quarantine WHERE digest = NEW.digest AND below <> NEW.below) BEGIN
  INSERT INTO counters VALUES ('blobs_refused_total', '', 1)
    ON CONFLICT DO UPDATE SET value = value + 1;
END;

-- Which bytes that were refused an object was, when it was itself read: one key's row says nothing of
-- another key.
CREATE TABLE refused_sources(
  endpoint TEXT NOT NULL, bucket TEXT NOT NULL, key TEXT NOT NULL, etag TEXT NOT NULL,
  size     INTEGER NOT NULL,
  digest   TEXT NOT NULL,
  PRIMARY KEY (endpoint, bucket, key, etag, size)
) STRICT, WITHOUT ROWID;
CREATE INDEX refused_sources_digest ON refused_sources(digest);
INSERT INTO refused_sources(endpoint, bucket, key, etag, size, digest)
  SELECT endpoint, bucket, key, etag, size, digest FROM quarantine_6
  WHERE endpoint IS NOT NULL AND bucket IS NOT NULL AND etag IS NOT NULL;
DROP TABLE quarantine_6;

-- Whether the ETag was the MD5 of the bytes that were read; NULL: nobody looked. Only such a row may
-- speak for another key of its bucket.
ALTER TABLE sources ADD COLUMN md5 INTEGER CHECK (md5 IN (0, 1));

-- Where an ETag did not stand for one content. etag '': no ETag of that bucket is taken for content.
CREATE TABLE etag_doubts(
  endpoint TEXT NOT NULL, bucket TEXT NOT NULL, etag TEXT NOT NULL,
  why      TEXT NOT NULL,
  at_ms    INTEGER NOT NULL,
  PRIMARY KEY (endpoint, bucket, etag)
) STRICT, WITHOUT ROWID;

-- The server that an activation's image came from; NULL: made by an older program, or found again.
ALTER TABLE activations ADD COLUMN endpoint TEXT;
