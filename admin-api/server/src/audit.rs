//! Who asked for what, and what was decided: one line of JSON each, in a file that only grows. Each line holds the hash of the one
//! before: what is taken out or changed later shows.
use crate::access::Caller;
use crate::history::UnixMillis;
use crate::tokens::hex;
use penstock_clock::WallClock;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Lines that the API shows; the file has all.
const SHOWN: usize = 1000;
const BEGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[derive(Debug)]
pub(crate) struct Audit(Mutex<Log>);

#[derive(Debug)]
struct Log {
    file: File,
    number: u64,
    last: String,
    recent: VecDeque<Value>,
}

/// What is written down of a request.
#[derive(Debug)]
pub(crate) struct Deed<'a> {
    pub caller: Option<&'a Caller>,
    pub from: Option<std::net::IpAddr>,
    pub method: &'a str,
    pub url: &'a str,
    pub status: u16,
    /// Of the resources afterwards: the history has them before and after.
    pub revision: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("audit log {path}: {error}")]
    File { path: String, error: std::io::Error },
    #[error("audit log {path}, line {line}: {reason}: it was changed after it was written")]
    Broken { path: String, line: u64, reason: &'static str },
}

impl Audit {
    /// Opens the file and goes on with its chain.
    ///
    /// # Errors
    /// It cannot be read or written, or its chain is broken.
    pub(crate) fn open(path: &Path) -> Result<Self, AuditError> {
        let failed = |error| AuditError::File { path: path.display().to_string(), error };
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        let (mut number, mut last, mut recent) = (0, BEGIN.to_owned(), VecDeque::new());
        for line in BufReader::new(file.try_clone().map_err(failed)?).lines() {
            let line = line.map_err(failed)?;
            number += 1;
            let broken = |reason| AuditError::Broken { path: path.display().to_string(), line: number, reason };
            let entry: Value = serde_json::from_str(&line).map_err(|_| broken("it is no JSON"))?;
            last = checked(&entry, number, &last).map_err(broken)?;
            keep(&mut recent, entry);
        }
        Ok(Self(Mutex::new(Log { file, number, last, recent })))
    }

    /// Writes one line. What cannot be written is said in the log of the process.
    pub(crate) fn write(&self, deed: &Deed<'_>) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entry = json!({
            "number": log.number + 1,
            "time": UnixMillis::of(WallClock::now()).to_string(),
            "who": deed.caller.map(|c| c.name.as_str()),
            "role": deed.caller.map(|c| c.role.name()),
            "tenant": deed.caller.and_then(|c| c.tenant.as_deref()),
            "from": deed.from,
            "method": deed.method,
            "url": deed.url,
            "status": deed.status,
            "decision": if matches!(deed.status, 401 | 403 | 429) { "denied" } else { "allowed" },
            "revision": deed.revision,
            "previous": log.last,
        });
        let hash = hash(&entry);
        if let Some(map) = entry.as_object_mut() {
            map.insert("hash".to_owned(), json!(hash));
        }
        if let Err(error) = writeln!(log.file, "{entry}") {
            tracing::error!(%error, "the audit log cannot be written");
            return;
        }
        log.number += 1;
        log.last = hash;
        keep(&mut log.recent, entry);
    }

    /// The latest first.
    pub(crate) fn recent(&self, most: usize) -> Vec<Value> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.recent.iter().rev().take(most).cloned().collect()
    }
}

fn keep(recent: &mut VecDeque<Value>, entry: Value) {
    if recent.len() >= SHOWN {
        recent.pop_front();
    }
    recent.push_back(entry);
}

/// Over everything but the hash itself, members in order of their names.
fn hash(entry: &Value) -> String {
    let mut entry = entry.clone();
    if let Some(map) = entry.as_object_mut() {
        map.remove("hash");
    }
    hex(digest(&SHA256, entry.to_string().as_bytes()).as_ref())
}

/// The hash of a line that follows `previous`.
fn checked(entry: &Value, number: u64, previous: &str) -> Result<String, &'static str> {
    let text = |name| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    if entry.get("number").and_then(Value::as_u64) != Some(number) {
        return Err("a line is missing before it");
    }
    if text("previous") != previous {
        return Err("it does not follow the line before it");
    }
    let hash = hash(entry);
    if text("hash") != hash { Err("its hash is another") } else { Ok(hash) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deed(url: &str) -> Deed<'_> {
        Deed { caller: None, from: None, method: "PUT", url, status: 403, revision: 7 }
    }

    #[test]
    fn a_line_that_is_changed_or_taken_out_shows() {
        let dir = std::env::temp_dir().join(format!("pst-audit-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("audit.log");
        for round in 0..2 {
            let audit = Audit::open(&path).unwrap();
            audit.write(&deed(&format!("/a{round}")));
            audit.write(&deed(&format!("/b{round}")));
            assert_eq!(audit.recent(1)[0]["url"], format!("/b{round}"));
            assert_eq!(audit.recent(9).len(), 2 * (round + 1));
        }
        let good = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = good.lines().collect();
        let without = format!("{}\n{}\n{}\n", lines[0], lines[1], lines[3]);
        for (text, line) in [(good.replace("/b0", "/c0"), 2), (without, 3), (good.replace("denied", "allowed"), 1)] {
            std::fs::write(&path, text).unwrap();
            let Err(AuditError::Broken { line: found, .. }) = Audit::open(&path) else { panic!("not seen") };
            assert_eq!(found, line);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
