-- Schema 13: who has asked for what is here, a person or the document of a fleet.

-- A document takes away only what no person has asked for. Everything from before counts as a person's.
ALTER TABLE images ADD COLUMN asked TEXT NOT NULL DEFAULT 'person'
  CHECK (asked IN ('person', 'document', 'both'));
ALTER TABLE activations ADD COLUMN asked TEXT NOT NULL DEFAULT 'person'
  CHECK (asked IN ('person', 'document', 'both'));
