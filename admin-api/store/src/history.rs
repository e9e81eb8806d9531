//! The table: one row a change. Runs on the store's own thread.
use crate::limits::check;
use crate::{Batch, Compare, Entry, Event, LeaseId, Limits, Operation, Range, Rev, StoreError, Txn, TxnResult};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::Path;
use std::time::Duration;

/// What is committed at once is held in memory once: 64 MiB.
pub(crate) const LIMITS: Limits = Limits { operations: 32_768, bytes: 64 << 20 };

/// Deletions are rows without a value. `sub` is the place within the transaction.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS history (
    rev INTEGER NOT NULL, sub INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
    create_rev INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER,
    PRIMARY KEY (rev, sub)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS history_by_key ON history (key, rev);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_ms INTEGER NOT NULL);
INSERT OR IGNORE INTO state VALUES ('rev', 1), ('compacted', 0), ('format', 1);
";

const COLUMNS: &str = "key, value, create_rev, rev, version, lease";

pub(crate) struct History {
    db: Connection,
    rev: Rev,
    compacted: Rev,
}

impl History {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Open { path: path.display().to_string(), error };
        let db = Connection::open(path).map_err(failed)?;
        let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0)).map_err(failed)?;
        if mode != "wal" {
            tracing::warn!(mode, "the store's file system has no write-ahead log");
        }
        db.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(failed)?;
        let check: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(failed)?;
        if check != "ok" {
            return Err(StoreError::Damaged(check));
        }
        db.execute_batch(SCHEMA).map_err(failed)?;
        let state = |name: &str| -> Result<u64, StoreError> {
            let value: i64 = db.query_row("SELECT value FROM state WHERE name = ?1", [name], |r| r.get(0))?;
            u64::try_from(value).map_err(|_| StoreError::Damaged(format!("{name} is {value}")))
        };
        if state("format")? != 1 {
            return Err(StoreError::Damaged("written by a later version".to_owned()));
        }
        let (rev, compacted) = (state("rev")?, state("compacted")?);
        Ok(Self { db, rev, compacted })
    }

    fn at(&self, at: Option<Rev>) -> Result<Rev, StoreError> {
        match at {
            None => Ok(self.rev),
            Some(asked) if asked > self.rev => Err(StoreError::Future { asked, current: self.rev }),
            Some(asked) if asked < self.compacted => Err(StoreError::Compacted { oldest: self.compacted }),
            Some(asked) => Ok(asked),
        }
    }

    pub(crate) fn get(&self, key: &str, at: Option<Rev>) -> Result<Option<Entry>, StoreError> {
        let at = self.at(at)?;
        let sql = format!("SELECT {COLUMNS} FROM history WHERE key = ?1 AND rev <= ?2 ORDER BY rev DESC LIMIT 1");
        let mut statement = self.db.prepare_cached(&sql)?;
        Ok(statement.query_row(params![key, signed(at)], event).optional()?.and_then(put))
    }

    pub(crate) fn range(&self, prefix: &str, at: Option<Rev>) -> Result<Range, StoreError> {
        let rev = self.at(at)?;
        let sql = format!(
            "SELECT {COLUMNS} FROM history h WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) AND rev <= ?3
             AND rev = (SELECT max(rev) FROM history WHERE key = h.key AND rev <= ?3) ORDER BY key"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let rows = statement.query_map(params![prefix, successor(prefix), signed(rev)], event)?;
        let mut entries = Vec::new();
        for row in rows {
            entries.extend(put(row?));
        }
        Ok(Range { rev, entries })
    }

    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<(TxnResult, Vec<Event>), StoreError> {
        check(txn, LIMITS)?;
        let mut succeeded = true;
        for compare in &txn.compares {
            succeeded &= self.holds(compare)?;
        }
        let operations = if succeeded { &txn.then } else { &txn.otherwise };
        let events = self.apply(operations)?;
        Ok((TxnResult { succeeded, rev: self.rev }, events))
    }

    fn holds(&self, compare: &Compare) -> Result<bool, StoreError> {
        Ok(match compare {
            Compare::ModRev { key, is } => self.get(key, None)?.map_or(0, |e| e.mod_rev) == *is,
            Compare::Version { key, is } => self.get(key, None)?.map_or(0, |e| e.version) == *is,
            Compare::Value { key, is } => self.get(key, None)?.is_some_and(|e| e.value == *is),
        })
    }

    fn apply(&mut self, operations: &[Operation]) -> Result<Vec<Event>, StoreError> {
        let rev = self.rev + 1;
        let mut events = Vec::with_capacity(operations.len());
        for operation in operations {
            let before = self.get(operation.key(), None)?;
            match (operation, before) {
                (Operation::Put { key, value, lease }, before) => events.push(Event::Put(Entry {
                    key: key.clone(),
                    value: value.clone(),
                    create_rev: before.as_ref().map_or(rev, |b| b.create_rev),
                    mod_rev: rev,
                    version: before.map_or(0, |b| b.version) + 1,
                    lease: *lease,
                })),
                (Operation::Delete { key }, Some(_)) => events.push(Event::Delete { key: key.clone() }),
                (Operation::Delete { .. }, None) => {}
            }
        }
        if !events.is_empty() {
            self.write(rev, &events)?;
            self.rev = rev;
        }
        Ok(events)
    }

    fn write(&mut self, rev: Rev, events: &[Event]) -> Result<(), StoreError> {
        let tx = self.db.transaction()?;
        {
            let mut insert = tx.prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            for (sub, event) in events.iter().enumerate() {
                let sub = i64::try_from(sub).unwrap_or(i64::MAX);
                match event {
                    Event::Put(e) => insert.execute(params![
                        signed(rev),
                        sub,
                        e.key,
                        e.value,
                        signed(e.create_rev),
                        signed(e.version),
                        e.lease.map(|l| l.0)
                    ])?,
                    Event::Delete { key } => {
                        insert.execute(params![signed(rev), sub, key, None::<Vec<u8>>, 0, 0, None::<i64>])?
                    }
                };
            }
            tx.execute("UPDATE state SET value = ?1 WHERE name = 'rev'", [signed(rev)])?;
        }
        Ok(tx.commit()?)
    }

    /// Batches from a revision on.
    pub(crate) fn since(&self, prefix: &str, from: Rev) -> Result<Vec<Batch>, StoreError> {
        if from <= self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        let sql = format!(
            "SELECT {COLUMNS} FROM history WHERE rev >= ?3 AND key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY rev, sub"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let rows = statement
            .query_map(params![prefix, successor(prefix), signed(from)], |r| Ok((r.get::<_, i64>(3)?, event(r)?)))?;
        let mut batches: Vec<Batch> = Vec::new();
        for row in rows {
            let (rev, event) = row?;
            let rev = unsigned(rev);
            match batches.last_mut() {
                Some(last) if last.rev == rev => last.events.push(event),
                _ => batches.push(Batch { rev, events: vec![event] }),
            }
        }
        Ok(batches)
    }

    pub(crate) fn compact(&mut self, rev: Rev) -> Result<(), StoreError> {
        let rev = self.at(Some(rev))?;
        let tx = self.db.transaction()?;
        // Of each key, what was already replaced at `rev`; and deletions up to then.
        tx.execute(
            "DELETE FROM history WHERE rev <= ?1 AND (value IS NULL OR EXISTS
             (SELECT 1 FROM history later WHERE later.key = history.key AND later.rev > history.rev AND later.rev <= ?1))",
            [signed(rev)],
        )?;
        tx.execute("UPDATE state SET value = ?1 WHERE name = 'compacted'", [signed(rev)])?;
        tx.commit()?;
        self.compacted = rev;
        Ok(())
    }

    pub(crate) fn add_lease(&mut self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.db.execute("INSERT INTO lease (ttl_ms) VALUES (?1)", [ms])?;
        Ok(LeaseId(self.db.last_insert_rowid()))
    }

    pub(crate) fn leases(&self) -> Result<Vec<(LeaseId, Duration)>, StoreError> {
        let mut statement = self.db.prepare("SELECT id, ttl_ms FROM lease")?;
        let rows = statement.query_map([], |r| Ok((LeaseId(r.get(0)?), Duration::from_millis(unsigned(r.get(1)?)))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Deletes the keys of a lease, then the lease.
    pub(crate) fn end_lease(&mut self, lease: LeaseId) -> Result<(Rev, Vec<Event>), StoreError> {
        let operations: Vec<Operation> = self
            .range("", None)?
            .entries
            .into_iter()
            .filter(|e| e.lease == Some(lease))
            .map(|e| Operation::delete(e.key))
            .collect();
        let events = self.apply(&operations)?;
        self.db.execute("DELETE FROM lease WHERE id = ?1", [lease.0])?;
        Ok((self.rev, events))
    }
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let key = row.get(0)?;
    Ok(match row.get(1)? {
        None => Event::Delete { key },
        Some(value) => Event::Put(Entry {
            key,
            value,
            create_rev: unsigned(row.get(2)?),
            mod_rev: unsigned(row.get(3)?),
            version: unsigned(row.get(4)?),
            lease: row.get::<_, Option<i64>>(5)?.map(LeaseId),
        }),
    })
}

fn put(event: Event) -> Option<Entry> {
    match event {
        Event::Put(entry) => Some(entry),
        Event::Delete { .. } => None,
    }
}

/// The first text after all that begin with `prefix`; none when there is no end.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The step over the surrogates, which are no characters.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
