-- Schema 4: counts that outlive processes, and what an outside scanner found.

-- Only ever grows; `label` is as the metrics' text has it. Lost with the registry, which a reader of
-- counters takes for a restart.
CREATE TABLE counters(
  name        TEXT NOT NULL,
  label       TEXT NOT NULL,
  value       INTEGER NOT NULL CHECK (value >= 0),
  PRIMARY KEY (name, label)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER count_sealed AFTER UPDATE OF state ON volumes
  WHEN NEW.state = 'sealed' AND NEW.role = 'layer' BEGIN
  INSERT INTO counters VALUES ('layers_total', 'how="built"', 1)
    ON CONFLICT DO UPDATE SET value = value + 1;
  INSERT INTO counters VALUES ('unpack_bytes_total', '', NEW.content_bytes)
    ON CONFLICT DO UPDATE SET value = min(value + excluded.value, 1 << 60);
  INSERT INTO counters VALUES ('unpack_entries_total', '', NEW.entries)
    ON CONFLICT DO UPDATE SET value = min(value + excluded.value, 1 << 60);
END;
CREATE TRIGGER count_removed AFTER UPDATE OF state ON volumes
  WHEN OLD.state = 'sealed' AND NEW.state = 'deleting' BEGIN
  INSERT INTO counters VALUES ('layers_removed_total', '', 1)
    ON CONFLICT DO UPDATE SET value = value + 1;
END;
CREATE TRIGGER count_refused AFTER INSERT ON quarantine BEGIN
  INSERT INTO counters VALUES ('blobs_refused_total', '', 1)
    ON CONFLICT DO UPDATE SET value = value + 1;
END;

-- What a scanner said of one stack, by its chain id: it stays true under whatever name.
CREATE TABLE scans(
  chain       TEXT PRIMARY KEY CHECK (length(chain) = 64 AND chain NOT GLOB '*[^0-9a-f]*'),
  scanner     TEXT NOT NULL,            -- as its report names itself, else its program
  format      TEXT NOT NULL CHECK (format IN ('trivy', 'sarif')),
  critical INTEGER NOT NULL CHECK (critical >= 0), high INTEGER NOT NULL CHECK (high >= 0),
  medium   INTEGER NOT NULL CHECK (medium >= 0),   low  INTEGER NOT NULL CHECK (low >= 0),
  unknown  INTEGER NOT NULL CHECK (unknown >= 0),
  at_ms       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The worst first; not more than a report may have.
CREATE TABLE findings(
  chain       TEXT NOT NULL REFERENCES scans ON DELETE CASCADE,
  pos         INTEGER NOT NULL CHECK (pos >= 0),
  id          TEXT NOT NULL,            -- CVE-2024-1
  severity    TEXT NOT NULL CHECK (severity IN ('critical', 'high', 'medium', 'low', 'unknown')),
  package     TEXT NOT NULL, installed TEXT NOT NULL, fixed TEXT NOT NULL,
  title       TEXT NOT NULL,
  PRIMARY KEY (chain, pos)
) STRICT, WITHOUT ROWID;
