-- Schema 10: objects that were read, and the blobs that they were, have an age and a number, too.

-- The oldest first, and who refers to a blob that is to go.
CREATE INDEX sources_seen ON sources(seen_ms);
CREATE INDEX sources_digest ON sources(digest);
CREATE INDEX blobs_seen ON blobs(seen_ms);
CREATE INDEX image_layers_digest ON image_layers(digest);
CREATE INDEX volumes_blob ON volumes(blob) WHERE blob IS NOT NULL;
