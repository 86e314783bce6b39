-- Schema 14: what operators say of an activation.

-- By the activation's id, which a new name leaves as it is.
CREATE TABLE labels(
  activation  INTEGER NOT NULL REFERENCES activations(id) ON DELETE CASCADE ON UPDATE CASCADE,
  key         TEXT NOT NULL CHECK (length(key) BETWEEN 1 AND 63),
  value       TEXT NOT NULL CHECK (length(value) <= 63),
  PRIMARY KEY (activation, key)
) STRICT, WITHOUT ROWID;

-- For how long it is kept (NULL: until somebody removes it), and since when that counts, by the wall clock.
ALTER TABLE activations ADD COLUMN ttl_s INTEGER CHECK (ttl_s > 0);
ALTER TABLE activations ADD COLUMN ttl_from_ms INTEGER;
-- Whether its device refuses writes.
ALTER TABLE activations ADD COLUMN read_only INTEGER NOT NULL DEFAULT 0 CHECK (read_only IN (0, 1));
-- The name that its device or link may still have, from before it was renamed.
ALTER TABLE activations ADD COLUMN former TEXT;
