-- Schema 3: runs that wait for their turn, what they gave, and whom to tell.
-- A CHECK cannot be altered, so the table is made anew; numbers that were given stay given.

CREATE TABLE runs_3(
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  verb        TEXT NOT NULL CHECK (verb IN ('ensure', 'activate', 'deactivate', 'rm', 'gc')),
  subject     TEXT NOT NULL,            -- the image's reference or the activation's name
  input       TEXT NOT NULL CHECK (json_valid(input)),  -- what taking it up again needs
  state       TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
  priority    INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),  -- higher goes first
  step        TEXT NOT NULL DEFAULT '', -- what it is at, or waits for; for people
  attempt     INTEGER NOT NULL CHECK (attempt >= 0),    -- begun so often since progress
  cancel      TEXT,                     -- why it is to stop; NULL: nobody asked
  class       TEXT, message TEXT,       -- of a failure
  result      TEXT CHECK (json_valid(result)),          -- what it gave, as the command prints it
  notify      TEXT,                     -- an address that is to hear of its end; NULL: none, or it has heard
  created_ms  INTEGER NOT NULL, updated_ms INTEGER NOT NULL, finished_ms INTEGER,
  CHECK ((state IN ('queued', 'running')) = (finished_ms IS NULL)),
  CHECK ((state = 'failed') = (class IS NOT NULL)),
  CHECK (attempt > 0 OR state <> 'running'),
  CHECK (result IS NULL OR state = 'done')
) STRICT;
INSERT INTO runs_3(id, verb, subject, input, state, step, attempt, cancel, class, message,
    created_ms, updated_ms, finished_ms)
  SELECT id, verb, subject, input, state, step, attempt, cancel, class, message,
    created_ms, updated_ms, finished_ms FROM runs;
INSERT INTO sqlite_sequence(name, seq)
  SELECT 'runs_3', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'runs_3');
UPDATE sqlite_sequence
  SET seq = max(seq, ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'runs'), 0))
  WHERE name = 'runs_3';
DROP TABLE runs;
ALTER TABLE runs_3 RENAME TO runs;
CREATE UNIQUE INDEX one_live_run ON runs(verb, subject) WHERE finished_ms IS NULL;
CREATE INDEX runs_subject ON runs(subject);
CREATE INDEX runs_to_tell ON runs(id) WHERE notify IS NOT NULL;

-- All but `notify`, which is forgotten when somebody was told of the end.
CREATE TRIGGER run_edges
  BEFORE UPDATE OF id, verb, subject, input, state, priority, step, attempt, cancel, class, message,
    result, created_ms, finished_ms
  ON runs WHEN OLD.finished_ms IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'a finished run is not rewritten'); END;
