-- Schema 2: runs that outlive their process, refused blobs, pins, and the order of use.

-- What somebody asked for. A run that no process holds and that has not finished was killed.
CREATE TABLE runs(
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  verb        TEXT NOT NULL CHECK (verb IN ('ensure', 'activate', 'deactivate', 'rm', 'gc')),
  subject     TEXT NOT NULL,            -- the image's reference or the activation's name
  input       TEXT NOT NULL CHECK (json_valid(input)),  -- what taking it up again needs
  state       TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
  step        TEXT NOT NULL DEFAULT '', -- what it is at, or waits for; for people
  attempt     INTEGER NOT NULL DEFAULT 1 CHECK (attempt > 0),  -- begun so often since progress
  cancel      TEXT,                     -- why it is to stop; NULL: nobody asked
  class       TEXT, message TEXT,       -- of a failure
  created_ms  INTEGER NOT NULL, updated_ms INTEGER NOT NULL, finished_ms INTEGER,
  CHECK ((state = 'running') = (finished_ms IS NULL)),
  CHECK ((state = 'failed') = (class IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX one_live_run ON runs(verb, subject) WHERE finished_ms IS NULL;
CREATE INDEX runs_subject ON runs(subject);
CREATE TRIGGER run_edges BEFORE UPDATE ON runs WHEN OLD.state <> 'running'
  BEGIN SELECT RAISE(ABORT, 'a finished run is not rewritten'); END;

-- Blobs whose bytes were refused. The same bytes are never unpacked again, wherever they come from.
CREATE TABLE quarantine(
  digest      TEXT PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
  endpoint TEXT, bucket TEXT, etag TEXT, size INTEGER NOT NULL CHECK (size >= 0),
  key         TEXT NOT NULL,
  message     TEXT NOT NULL,
  at_ms       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX quarantine_source ON quarantine(etag, size);

-- The key under which sealed volumes say what they are: `registry rebuild` believes no other.
ALTER TABLE meta ADD COLUMN seal_key TEXT CHECK (length(seal_key) = 64);

-- A pinned image is no garbage. `used` is the history's number at the last use: order without a clock.
ALTER TABLE images ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1));
ALTER TABLE images ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
