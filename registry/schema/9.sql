-- Schema 9: how the processes of a run died.

-- Of each run that has not ended: the boot in which its last process began, where that had come, and the
-- death before it. What died twice in one place and one boot, without coming forward, is not taken up.
CREATE TABLE lives(
  run         INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
  boot        TEXT NOT NULL,            -- '': not known
  place       TEXT NOT NULL DEFAULT '', -- the step; '': before the first
  spool       TEXT NOT NULL DEFAULT '', -- how the files begin that tell how much of it has come; '': none
  died_boot   TEXT,                     -- NULL: no process of it has died, or it has come forward since
  died_place  TEXT,
  died_mark   INTEGER,                  -- how far it was in that place
  died_ms     INTEGER
) STRICT;
INSERT INTO lives(run, boot) SELECT id, '' FROM runs WHERE state = 'running';
CREATE TRIGGER run_over AFTER UPDATE OF finished_ms ON runs
  WHEN NEW.finished_ms IS NOT NULL AND OLD.finished_ms IS NULL
  BEGIN DELETE FROM lives WHERE run = NEW.id; END;
