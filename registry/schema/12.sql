-- Schema 12: what is on the device of a sealed volume, where the store keeps images.

-- The sha256 of the list of its chunks; NULL for volumes in directories, and for those that were sealed before.
ALTER TABLE volumes ADD COLUMN blocks TEXT CHECK (length(blocks) = 64 AND blocks NOT GLOB '*[^0-9a-f]*');
