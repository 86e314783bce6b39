-- Schema 18: activations that were made without a journal.

-- Whether its file system has no journal because somebody asked for none.
ALTER TABLE activations ADD COLUMN no_journal INTEGER NOT NULL DEFAULT 0 CHECK (no_journal IN (0, 1));
