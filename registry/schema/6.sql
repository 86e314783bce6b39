-- Schema 6: what is not as it should be, and what is to be done later.

-- Why a sealed volume is never built on or handed out again; NULL: nothing was found wrong with it.
-- A condemned volume gives up its chain id, so that a sound one may have it: `chain` is then a name
-- of its own, and `sealed_chain` what it was.
ALTER TABLE volumes ADD COLUMN condemned TEXT;
ALTER TABLE volumes ADD COLUMN sealed_chain TEXT;

-- The store's transaction id with which an id was reserved: a thin that is older is not ours.
ALTER TABLE volumes ADD COLUMN reserved_at INTEGER;
ALTER TABLE activations ADD COLUMN reserved_at INTEGER;

-- The boot of the kernel in which the device was last seen up, and whether it was up in an earlier
-- boot that ended without its being taken down: nobody has looked at its file system since.
ALTER TABLE activations ADD COLUMN boot TEXT;
ALTER TABLE activations ADD COLUMN unchecked INTEGER NOT NULL DEFAULT 0 CHECK (unchecked IN (0, 1));

-- What is to become of it as soon as nobody has its device open; NULL: nothing.
ALTER TABLE activations ADD COLUMN when_closed TEXT CHECK (when_closed IN ('rm', 'deactivate'));
