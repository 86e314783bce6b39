-- Schema 8: what two actors, a replay and a long life need.

-- 1. Catalogs and verdicts.

-- Seconds since 1970 after which it is too old; NULL: never.
ALTER TABLE catalogs ADD COLUMN expires_s INTEGER;
-- Whether `catalog_images` has what it lists; not of one that an older program believed, or a rebuild
-- found again.
ALTER TABLE catalogs ADD COLUMN listed INTEGER NOT NULL DEFAULT 0 CHECK (listed IN (0, 1));
-- The serial that the store itself was told of, so that a rebuild knows it; NULL: none yet.
ALTER TABLE catalogs ADD COLUMN stored INTEGER;

-- What the catalog that is believed lists: each image with a digest over what it is made of.
CREATE TABLE catalog_images(
  url         TEXT NOT NULL,
  image       TEXT NOT NULL,            -- what stands after the bucket
  content     TEXT NOT NULL,
  PRIMARY KEY (url, image)
) STRICT, WITHOUT ROWID;
CREATE INDEX catalog_images_content ON catalog_images(url, content);

-- The volume of a pool that holds the believed serials: no layer, and in use by nobody.
CREATE TABLE serial_volume(
  one         INTEGER PRIMARY KEY CHECK (one = 1),
  id          INTEGER NOT NULL UNIQUE CHECK (id BETWEEN 1 AND 16777215),
  reserved_at INTEGER                   -- the store's transaction id then; NULL: found by a rebuild
) STRICT;

-- A verdict is one scanner's: by its command as it is set, whatever its report calls itself.
ALTER TABLE findings RENAME TO findings_7;
ALTER TABLE scans RENAME TO scans_7;
CREATE TABLE scans(
  chain       TEXT NOT NULL CHECK (length(chain) = 64 AND chain NOT GLOB '*[^0-9a-f]*'),
  command     TEXT NOT NULL,            -- the scanner: its words; '': kept by an older program
  scanner     TEXT NOT NULL,            -- as its report names itself, else its program
  version     TEXT, database TEXT,      -- of the scanner, as far as it says; NULL: it does not
  policy      TEXT NOT NULL CHECK (policy IN ('off', 'report', 'required', 'unknown')),
  format      TEXT NOT NULL CHECK (format IN ('trivy', 'sarif')),
  critical INTEGER NOT NULL CHECK (critical >= 0), high INTEGER NOT NULL CHECK (high >= 0),
  medium   INTEGER NOT NULL CHECK (medium >= 0),   low  INTEGER NOT NULL CHECK (low >= 0),
  unknown  INTEGER NOT NULL CHECK (unknown >= 0),
  at_ms       INTEGER NOT NULL,
  seq         INTEGER NOT NULL,         -- grows with each scan: which was the last, without a clock
  PRIMARY KEY (chain, command)
) STRICT, WITHOUT ROWID;
INSERT INTO scans(chain, command, scanner, policy, format, critical, high, medium, low, unknown, at_ms, seq)
  SELECT chain, '', scanner, 'unknown', format, critical, high, medium, low, unknown, at_ms, 0 FROM scans_7;
CREATE TABLE findings(
  chain       TEXT NOT NULL,
  command     TEXT NOT NULL,
  pos         INTEGER NOT NULL CHECK (pos >= 0),
  id          TEXT NOT NULL,            -- CVE-2024-1
  severity    TEXT NOT NULL CHECK (severity IN ('critical', 'high', 'medium', 'low', 'unknown')),
  package     TEXT NOT NULL, installed TEXT NOT NULL, fixed TEXT NOT NULL,
  title       TEXT NOT NULL,
  PRIMARY KEY (chain, command, pos),
  FOREIGN KEY (chain, command) REFERENCES scans ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
INSERT INTO findings(chain, command, pos, id, severity, package, installed, fixed, title)
  SELECT chain, '', pos, id, severity, package, installed, fixed, title FROM findings_7;
DROP TABLE findings_7;
DROP TABLE scans_7;

-- 2. Runs, and who is told of their ends.

-- Who is to hear of a run's end: one row for each request that named somebody, until it was told or
-- given up. `ended` is set by the run's end, so that what is due is found without a look at what is not.
CREATE TABLE webhooks(
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  run         INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
  address     TEXT NOT NULL,
  ended       INTEGER NOT NULL DEFAULT 0 CHECK (ended IN (0, 1)),
  UNIQUE (run, address)
) STRICT;
CREATE INDEX webhooks_due ON webhooks(address, id) WHERE ended;
INSERT INTO webhooks(run, address, ended)
  SELECT id, notify, finished_ms IS NOT NULL FROM runs WHERE notify IS NOT NULL;
DROP INDEX runs_to_tell;
ALTER TABLE runs DROP COLUMN notify;
CREATE TRIGGER run_ended AFTER UPDATE OF finished_ms ON runs
  WHEN NEW.finished_ms IS NOT NULL AND OLD.finished_ms IS NULL
  BEGIN UPDATE webhooks SET ended = 1 WHERE run = NEW.id; END;
-- An end that somebody has yet to hear of is not forgotten, whoever prunes.
CREATE TRIGGER untold_runs_stay BEFORE DELETE ON runs
  WHEN EXISTS (SELECT 1 FROM webhooks WHERE run = OLD.id)
  BEGIN SELECT RAISE(IGNORE); END;
-- What has not ended, by its subject.
CREATE INDEX live_runs ON runs(subject, id) WHERE finished_ms IS NULL;

-- The order of listings: what was listed later is what an image is, whoever comes to its end last.
ALTER TABLE meta ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;

-- 3. The registry's own file, beside a rebuild and a backup.

-- 4. Age and number of what is kept of the past.

-- Each query of a loop walks rows that it gives back, and no others.
CREATE INDEX runs_state ON runs(state, id);
CREATE INDEX runs_finished ON runs(finished_ms) WHERE finished_ms IS NOT NULL;
CREATE INDEX runs_last ON runs(verb, finished_ms) WHERE state IN ('done', 'failed');
CREATE INDEX scans_at ON scans(at_ms, chain);
CREATE INDEX scans_of ON scans(chain, seq);
CREATE INDEX quarantine_at ON quarantine(at_ms);
CREATE INDEX quarantine_rules ON quarantine(unpacker, digest);
CREATE INDEX etag_doubts_at ON etag_doubts(at_ms) WHERE etag <> '';
ALTER TABLE refused_sources ADD COLUMN at_ms INTEGER NOT NULL DEFAULT 0;
UPDATE refused_sources SET at_ms = ifnull(
  (SELECT max(q.at_ms) FROM quarantine q WHERE q.digest = refused_sources.digest), 0);
CREATE INDEX refused_sources_at ON refused_sources(at_ms);

-- When the past was last pruned, by the wall clock and by the time since the host came up, and when the
-- wall clock was last seen to have been set: an age across that says nothing.
CREATE TABLE clock(
  only        INTEGER PRIMARY KEY CHECK (only = 1),
  wall_ms     INTEGER NOT NULL,
  boot        TEXT NOT NULL,
  up_ms       INTEGER NOT NULL,
  set_ms      INTEGER
) STRICT;
