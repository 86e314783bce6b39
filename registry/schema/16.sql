-- Schema 16: disks that arrive from another host, and what tells a point from every other anywhere.

-- Of a point that was received: what the sender's point has; NULL: made here, and told by where it was made.
ALTER TABLE points ADD COLUMN identity TEXT CHECK (length(identity) = 64);

-- A disk that arrives: a volume of its own, and no activation's before all of it is here and was compared. The id is
-- the thin id; it is never used again.
CREATE TABLE arrivals(
  name        TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100), -- of the activation that it is to be, or to be put on
  id          INTEGER NOT NULL UNIQUE CHECK (id BETWEEN 1 AND 16777215),
  reference   TEXT NOT NULL,
  origin      INTEGER NOT NULL REFERENCES volumes,
  bytes       INTEGER NOT NULL CHECK (bytes >= 0),
  stream      TEXT NOT NULL CHECK (length(stream) = 64),
  base        INTEGER,                                        -- the point it stands on; NULL: none
  state       TEXT NOT NULL CHECK (state IN ('reserved', 'arriving', 'deleting')),
  next_block  INTEGER NOT NULL DEFAULT 0 CHECK (next_block >= 0), -- all blocks below it are on disk
  created_ms  INTEGER NOT NULL,
  touched_ms  INTEGER NOT NULL,                               -- when something of it came last
  reserved_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX arrivals_origin ON arrivals(origin);
CREATE TRIGGER arrival_edges BEFORE UPDATE OF state ON arrivals
  WHEN NOT (OLD.state = NEW.state OR NEW.state = 'deleting' OR (OLD.state = 'reserved' AND NEW.state = 'arriving'))
  BEGIN SELECT RAISE(ABORT, 'no such edge between the states of an arrival'); END;
