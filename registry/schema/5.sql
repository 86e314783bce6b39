-- Schema 5: the newest signed catalog that was believed, so that an older one is not.
CREATE TABLE catalogs(
  url         TEXT PRIMARY KEY,
  serial      INTEGER NOT NULL CHECK (serial >= 0),
  digest      TEXT NOT NULL CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
  seen_ms     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
