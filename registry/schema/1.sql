-- Schema 1. One row is one fact; a state and its facts stand in one row.
-- Times are milliseconds since 1970 UTC, for people only: nothing is ordered by them.

CREATE TABLE meta(
  only        INTEGER PRIMARY KEY CHECK (only = 1),
  store_kind  TEXT,                     -- 'thin' or 'dir'; NULL until the first store is bound
  store_id    TEXT,                     -- the pool's or the directory's identity
  transaction_id INTEGER NOT NULL DEFAULT 0 CHECK (transaction_id >= 0),
  next_id     INTEGER NOT NULL DEFAULT 1 CHECK (next_id BETWEEN 1 AND 16777216)
) STRICT;
INSERT INTO meta(only) VALUES (1);

-- A blob that was read to its end.
CREATE TABLE blobs(
  digest      TEXT PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
  diff        TEXT NOT NULL CHECK (length(diff) = 64 AND diff NOT GLOB '*[^0-9a-f]*'),
  size        INTEGER NOT NULL CHECK (size >= 0),
  diff_size   INTEGER NOT NULL CHECK (diff_size >= 0),
  seen_ms     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which blob an object was, at an ETag. The key is not part of the identity: equal ETag and size
-- in one bucket are taken for equal bytes ('etag'), unless the object itself was read ('read').
CREATE TABLE sources(
  endpoint TEXT NOT NULL, bucket TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
  key      TEXT NOT NULL,
  digest   TEXT NOT NULL REFERENCES blobs,
  known_by TEXT NOT NULL CHECK (known_by IN ('read', 'etag')),
  seen_ms  INTEGER NOT NULL,
  PRIMARY KEY (endpoint, bucket, etag, size, key)
) STRICT, WITHOUT ROWID;

-- The template and the layers. The id is the thin id; it is never used again.
CREATE TABLE volumes(
  id          INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 16777215),
  role        TEXT NOT NULL CHECK (role IN ('template', 'layer')),
  parent      INTEGER REFERENCES volumes,
  build       TEXT NOT NULL,            -- what is being built on the parent: names the build lock
  bytes       INTEGER NOT NULL CHECK (bytes >= 0),   -- size of the volume
  state       TEXT NOT NULL CHECK (state IN ('building', 'sealed', 'deleting')),
  chain       TEXT UNIQUE, diff TEXT, blob TEXT, tree TEXT,
  own_bytes   INTEGER, entries INTEGER, content_bytes INTEGER,
  created_ms  INTEGER NOT NULL, sealed_ms INTEGER,
  CHECK ((role = 'template') = (parent IS NULL)),
  CHECK (state <> 'sealed' OR (own_bytes IS NOT NULL AND sealed_ms IS NOT NULL)),
  CHECK (state <> 'building' OR (chain IS NULL AND sealed_ms IS NULL)),
  CHECK (state <> 'sealed' OR role = 'template' OR (chain IS NOT NULL AND diff IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX one_template ON volumes(role) WHERE role = 'template' AND state = 'sealed';
CREATE INDEX volumes_parent ON volumes(parent);

CREATE TABLE images(
  reference   TEXT PRIMARY KEY,         -- s3://bucket/prefix/
  endpoint    TEXT NOT NULL,
  chain       TEXT NOT NULL,
  created_ms  INTEGER NOT NULL, updated_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE image_layers(
  reference   TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
  pos         INTEGER NOT NULL CHECK (pos >= 0),
  key         TEXT NOT NULL,
  etag        TEXT,
  size        INTEGER NOT NULL CHECK (size >= 0),
  digest      TEXT NOT NULL REFERENCES blobs,
  volume      INTEGER NOT NULL REFERENCES volumes,
  PRIMARY KEY (reference, pos)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layers_volume ON image_layers(volume);

CREATE TABLE activations(
  name        TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100),
  reference   TEXT NOT NULL,            -- what was asked for; the image itself may be gone
  origin      INTEGER NOT NULL REFERENCES volumes,
  id          INTEGER NOT NULL UNIQUE CHECK (id BETWEEN 1 AND 16777215),
  bytes       INTEGER NOT NULL CHECK (bytes >= 0),
  state       TEXT NOT NULL CHECK (state IN ('reserved', 'active', 'inactive', 'deleting')),
  created_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX activations_origin ON activations(origin);

-- How often one build was begun without an end: committed before the step, so that a step that
-- kills the process cannot be tried for ever.
CREATE TABLE attempts(
  build       TEXT PRIMARY KEY,
  begun       INTEGER NOT NULL CHECK (begun > 0),
  at_ms       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- History, for people; nothing is decided by it.
CREATE TABLE events(
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms       INTEGER NOT NULL,
  subject     TEXT NOT NULL,            -- 'volume 7', 'activation web-1', 'image s3://b/p/'
  from_state  TEXT, to_state TEXT,
  detail      TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX events_subject ON events(subject);

-- The answer to a stray UPDATE by hand: the edges hold in the file itself.
CREATE TRIGGER volume_edges BEFORE UPDATE OF state ON volumes
  WHEN NOT ((OLD.state = 'building' AND NEW.state IN ('sealed', 'deleting'))
         OR (OLD.state = 'sealed' AND NEW.state = 'deleting'))
  BEGIN SELECT RAISE(ABORT, 'no such edge between volume states'); END;
CREATE TRIGGER activation_edges BEFORE UPDATE OF state ON activations
  WHEN NOT ((OLD.state = 'reserved' AND NEW.state IN ('active', 'deleting'))
         OR (OLD.state = 'active' AND NEW.state IN ('inactive', 'deleting'))
         OR (OLD.state = 'inactive' AND NEW.state IN ('active', 'deleting')))
  BEGIN SELECT RAISE(ABORT, 'no such edge between activation states'); END;
CREATE TRIGGER volumes_go_by_deleting BEFORE DELETE ON volumes WHEN OLD.state <> 'deleting'
  BEGIN SELECT RAISE(ABORT, 'a volume is forgotten only when deleting'); END;
CREATE TRIGGER activations_go_by_deleting BEFORE DELETE ON activations WHEN OLD.state <> 'deleting'
  BEGIN SELECT RAISE(ABORT, 'an activation is forgotten only when deleting'); END;
CREATE TRIGGER events_stay BEFORE UPDATE ON events
  BEGIN SELECT RAISE(ABORT, 'history is not rewritten'); END;
