//! Who is to hear of a run's end: each request's own address, kept until it was told or given up.

use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::RunId;
use crate::rows::get;
use crate::write::Write;

/// Addresses that may wait for one run's end: requests that join it are strangers to each other.
const WEBHOOKS_MAX: u64 = 64;

/// An end that somebody is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Grows with each.
    pub id: u64,
    /// The run that has ended.
    pub run: RunId,
    /// Who is to hear of it.
    pub address: String,
}

impl Registry {
    /// The addresses after this one that are to hear of an end that has come, in their order.
    pub fn addresses_to_tell(&self, after: &str, limit: u32) -> Result<Vec<String>, Error> {
        // One step in the index for each address, however many ends it has not heard of.
        self.all(
            "WITH RECURSIVE due(address) AS (
               SELECT min(address) FROM webhooks WHERE ended AND address > ?1
               UNION ALL
               SELECT (SELECT min(address) FROM webhooks WHERE ended AND address > due.address)
                 FROM due WHERE due.address IS NOT NULL)
             SELECT address FROM due WHERE address IS NOT NULL LIMIT ?2",
            (after, limit),
            |row| get(row, 0, "webhook"),
        )
    }

    /// The last that this address is to hear of for now.
    pub fn last_to_tell(&self, address: &str) -> Result<Option<u64>, Error> {
        self.one("SELECT max(id) FROM webhooks WHERE ended AND address = ?1", [address], |row| {
            get(row, 0, "webhook")
        })
        .map(Option::flatten)
    }

    /// The first end that this address is to hear of, after this webhook.
    pub fn to_tell(&self, address: &str, after: u64) -> Result<Option<Webhook>, Error> {
        self.one(
            "SELECT id, run, address FROM webhooks WHERE ended AND address = ?1 AND id > ?2
             ORDER BY id LIMIT 1",
            (address, after),
            |row| {
                Ok(Webhook {
                    id: get(row, 0, "webhook")?,
                    run: get(row, 1, "webhook")?,
                    address: get(row, 2, "webhook")?,
                })
            },
        )
    }
}

impl Write<'_> {
    /// Has this address hear of the end of a run that has not ended; of two requests that name the
    /// same, it hears once. False when no more may.
    pub(crate) fn put_webhook(&self, run: RunId, address: Option<&str>) -> Result<bool, Error> {
        let Some(address) = address else { return Ok(true) };
        let sql = "SELECT count(*), ifnull(max(address = ?2), 0) FROM webhooks WHERE run = ?1";
        let (count, known): (u64, bool) = self
            .tx
            .query_row(sql, (run, address), |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(Error::sqlite("read webhooks"))?;
        if known {
            return Ok(true);
        }
        if count >= WEBHOOKS_MAX {
            return Ok(false);
        }
        self.run("INSERT INTO webhooks(run, address) VALUES (?1, ?2)", (run, address))?;
        Ok(true)
    }

    /// Somebody was told of an end, or cannot be: `detail` says which.
    pub fn told_end(&self, webhook: &Webhook, detail: &str) -> Result<(), Error> {
        self.run("DELETE FROM webhooks WHERE id = ?1", [webhook.id])?;
        self.event(&format!("run {}", webhook.run), None, None, detail)
    }
}
