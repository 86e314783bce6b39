-- Schema 15: the disks of activations: forks, and points that a disk can be brought back to.

-- The activation whose disk it was made a snapshot of, by its name then; NULL: of the image's volume. And what the
-- file system on that snapshot was then.
ALTER TABLE activations ADD COLUMN forked_from TEXT;
ALTER TABLE activations ADD COLUMN disk_state TEXT
  CHECK (disk_state IN ('clean', 'after_replay', 'crash_consistent'));

-- A snapshot of an activation's disk. With a name it is a point; without one it is a disk that a restore makes,
-- or has put aside. The id is the thin id; it is never used again.
CREATE TABLE points(
  id          INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 16777215),
  activation  TEXT NOT NULL,
  name        TEXT CHECK (length(name) BETWEEN 1 AND 100),
  bytes       INTEGER NOT NULL CHECK (bytes >= 0),
  state       TEXT NOT NULL CHECK (state IN ('reserved', 'kept', 'deleting')),
  disk_state  TEXT CHECK (disk_state IN ('clean', 'after_replay', 'crash_consistent')),
  created_ms  INTEGER NOT NULL,
  reserved_at INTEGER
) STRICT;
CREATE UNIQUE INDEX points_name ON points(activation, name) WHERE name IS NOT NULL AND state <> 'deleting';

-- The points of an activation go with it, and follow its name.
CREATE TRIGGER points_go AFTER UPDATE OF state ON activations WHEN NEW.state = 'deleting'
  BEGIN UPDATE points SET state = 'deleting' WHERE activation = NEW.name; END;
CREATE TRIGGER points_follow AFTER UPDATE OF name ON activations WHEN NEW.name <> OLD.name
  BEGIN UPDATE points SET activation = NEW.name WHERE activation = OLD.name; END;
CREATE TRIGGER point_edges BEFORE UPDATE OF state ON points
  WHEN NOT (OLD.state = NEW.state OR NEW.state = 'deleting' OR (OLD.state = 'reserved' AND NEW.state = 'kept'))
  BEGIN SELECT RAISE(ABORT, 'no such edge between point states'); END;
CREATE TRIGGER points_go_by_deleting BEFORE DELETE ON points WHEN OLD.state <> 'deleting'
  BEGIN SELECT RAISE(ABORT, 'a point is forgotten only when deleting'); END;
