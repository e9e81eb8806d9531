//! Who asked for what, and what was decided: one line of JSON each. Each line holds the hash of the one before: a line that is changed
//! or taken out between two others shows. Lines cut off at the end do not, nor does a file that was made anew from its first line on:
//! against who may write here, copy the lines elsewhere as they come.
//!
//! `audit.log` grows to [`LARGEST`] and is then kept under its last number, the latest [`KEPT`] of them; the chain goes on.
use crate::access::Caller;
use crate::history::UnixMillis;
use crate::tokens::hex;
use penstock_clock::{MonotonicClock, WallClock};
use penstock_model::Nanos;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Lines that the API shows; the file has all.
const SHOWN: usize = 1000;
const BEGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Bytes of one file, and files beside it.
const LARGEST: u64 = 64 << 20;
const KEPT: usize = 16;
/// Bytes of a URL.
const LONGEST_URL: usize = 1024;
/// Of those that ask too often one line is written in so long.
const TOLD_EVERY: u64 = 1_000_000_000;
/// Who asks too often and is told of apart from others.
const REMEMBERED: usize = 1000;

#[derive(Debug)]
pub(crate) struct Audit(Mutex<Log>);

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    number: u64,
    last: String,
    recent: VecDeque<Value>,
    /// By who asks too often: when that was written last, and how often it was not written since.
    refused: BTreeMap<String, (Nanos, u64)>,
    largest: u64,
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
    /// Opens the file and goes on with its chain. A last line that was not written to its end (no space, no power) is cut off.
    ///
    /// # Errors
    /// It cannot be read or written, or its chain is broken.
    pub(crate) fn open(path: &Path) -> Result<Self, AuditError> {
        Self::with_largest(path, LARGEST)
    }

    fn with_largest(path: &Path, largest: u64) -> Result<Self, AuditError> {
        let failed = |error| AuditError::File { path: path.display().to_string(), error };
        let broken = |line, reason| AuditError::Broken { path: path.display().to_string(), line, reason };
        let (mut number, mut last) = match kept(path).map_err(failed)?.pop() {
            Some(before) => {
                end_of(&before).map_err(failed)?.ok_or_else(|| broken(0, "the file before it has no end"))?
            }
            None => (0, BEGIN.to_owned()),
        };
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        let mut recent = VecDeque::new();
        let (mut length, mut line) = (0, 0);
        let mut reader = BufReader::new(file.try_clone().map_err(failed)?);
        let mut text = Vec::new();
        loop {
            text.clear();
            let read = reader.read_until(b'\n', &mut text).map_err(failed)?;
            if text.last() != Some(&b'\n') {
                if read > 0 {
                    tracing::warn!(path = %path.display(), bytes = read, "the audit log's last line is not whole: it is cut off");
                    file.set_len(length).map_err(failed)?;
                }
                break;
            }
            (line, number) = (line + 1, number + 1);
            let entry: Value = serde_json::from_slice(&text).map_err(|_| broken(line, "it is no JSON"))?;
            last = checked(&entry, number, &last).map_err(|reason| broken(line, reason))?;
            length += read as u64;
            keep(&mut recent, entry);
        }
        let path = path.to_owned();
        Ok(Self(Mutex::new(Log { path, file, length, number, last, recent, refused: BTreeMap::new(), largest })))
    }

    /// Writes one line. What cannot be written is said in the log of the process.
    pub(crate) fn write(&self, deed: &Deed<'_>) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = log.due(deed, MonotonicClock::now()) else { return };
        let url = deed.url.get(..deed.url.floor_char_boundary(LONGEST_URL)).unwrap_or_default();
        let mut entry = json!({
            "number": log.number + 1,
            "time": UnixMillis::of(WallClock::now()).to_string(),
            "who": deed.caller.map(|c| c.name.as_str()),
            "role": deed.caller.map(|c| c.role.name()),
            "tenant": deed.caller.and_then(|c| c.tenant.as_deref()),
            "from": deed.from,
            "method": deed.method,
            "url": url,
            "status": deed.status,
            "decision": if is_denied(deed.status) { "denied" } else { "allowed" },
            "revision": deed.revision,
            "previous": log.last,
        });
        if let (Some(count), Some(map)) = (count, entry.as_object_mut()) {
            map.insert("count".to_owned(), json!(count));
        }
        let hash = hash(&entry);
        if let Some(map) = entry.as_object_mut() {
            map.insert("hash".to_owned(), json!(hash));
        }
        if let Err(error) = log.append(&format!("{entry}\n")) {
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

/// Whether nothing was done for want of a permission.
pub(crate) fn is_denied(status: u16) -> bool {
    matches!(status, 401 | 403 | 429)
}

impl Log {
    /// Whether to write it now; of those that ask too often with how many there were. A flood of requests is no flood of lines.
    fn due(&mut self, deed: &Deed<'_>, now: Nanos) -> Option<Option<u64>> {
        if deed.status != 429 {
            return Some(None);
        }
        let who = deed.caller.map(|c| c.name.clone()).unwrap_or_default();
        if self.refused.len() >= REMEMBERED && !self.refused.contains_key(&who) {
            let oldest = self.refused.iter().min_by_key(|(_, (at, _))| *at).map(|(who, _)| who.clone());
            oldest.map(|who| self.refused.remove(&who));
        }
        match self.refused.get_mut(&who) {
            Some((at, count)) if now.0 < at.0.saturating_add(TOLD_EVERY) => {
                *count += 1;
                None
            }
            Some((at, count)) => {
                *at = now;
                Some(Some(std::mem::take(count) + 1))
            }
            None => {
                self.refused.insert(who, (now, 0));
                Some(Some(1))
            }
        }
    }

    /// The whole line or nothing of it.
    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.length > 0 && self.length + line.len() as u64 > self.largest {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{:020}", self.number));
        match fs::rename(&self.path, name) {
            // It was put aside before, and then there was no new one to be had.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&self.path)?;
        self.length = 0;
        let files = kept(&self.path)?;
        for old in files.iter().take(files.len().saturating_sub(KEPT)) {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// The full files before `path`, the oldest first.
fn kept(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let of = entry.file_name();
        let number = of.to_str().and_then(|n| n.strip_prefix(name)?.strip_prefix('.'));
        if number.is_some_and(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit())) {
            out.push(entry.path());
        }
    }
    out.sort();
    Ok(out)
}

/// Number and hash of the last line of a full file.
fn end_of(path: &Path) -> io::Result<Option<(u64, String)>> {
    /// More than any line.
    const END: u64 = 64 << 10;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let line = text.strip_suffix(b"\n").and_then(|t| t.rsplit(|b| *b == b'\n').next()).unwrap_or_default();
    let entry: Value = serde_json::from_slice(line).unwrap_or_default();
    let number = entry.get("number").and_then(Value::as_u64);
    Ok(number.zip(entry.get("hash").and_then(Value::as_str).map(str::to_owned)))
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

    fn place(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pst-audit-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_line_that_is_changed_or_taken_out_shows() {
        let dir = place("chain");
        let path = dir.join("audit.log");
        for round in 0..2 {
            let audit = Audit::open(&path).unwrap();
            audit.write(&deed(&format!("/a{round}")));
            audit.write(&deed(&format!("/b{round}")));
            assert_eq!(audit.recent(1)[0]["url"], format!("/b{round}"));
            assert_eq!(audit.recent(9).len(), 2 * (round + 1));
        }
        let good = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = good.lines().collect();
        let without = format!("{}\n{}\n{}\n", lines[0], lines[1], lines[3]);
        for (text, line) in [(good.replace("/b0", "/c0"), 2), (without, 3), (good.replace("denied", "allowed"), 1)] {
            fs::write(&path, text).unwrap();
            let Err(AuditError::Broken { line: found, .. }) = Audit::open(&path) else { panic!("not seen") };
            assert_eq!(found, line);
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_line_that_was_not_written_to_its_end_is_cut_off_and_the_chain_goes_on() {
        let dir = place("torn");
        let path = dir.join("audit.log");
        Audit::open(&path).unwrap().write(&deed("/a"));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..40]].concat()).unwrap();
        let audit = Audit::open(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
        audit.write(&deed("/b"));
        assert_eq!(Audit::open(&path).unwrap().recent(9).len(), 2);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_chain_goes_on_in_the_next() {
        let dir = place("full");
        let path = dir.join("audit.log");
        let audit = Audit::with_largest(&path, 2000).unwrap();
        for i in 0..200 {
            audit.write(&deed(&format!("/{i}")));
        }
        let files = kept(&path).unwrap();
        assert_eq!(files.len(), KEPT);
        assert!(files.iter().chain([&path]).all(|f| fs::metadata(f).unwrap().len() <= 2000));
        let again = Audit::with_largest(&path, 2000).unwrap();
        assert_eq!(again.recent(1)[0]["number"], 200);
        again.write(&deed("/more"));
        assert_eq!(again.recent(1)[0]["number"], 201);
        fs::remove_file(files.last().unwrap()).unwrap();
        assert!(Audit::open(&path).is_err(), "a whole file that is taken out shows, too");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_flood_of_requests_that_are_refused_is_no_flood_of_lines() {
        let dir = place("flood");
        let audit = Audit::open(&dir.join("audit.log")).unwrap();
        let url = "/x".repeat(5000);
        for _ in 0..500 {
            audit.write(&Deed { status: 429, ..deed(&url) });
        }
        let first = audit.recent(9);
        assert!(first.len() <= 2, "one a second: {}", first.len());
        std::thread::sleep(std::time::Duration::from_millis(1050));
        audit.write(&Deed { status: 429, ..deed(&url) });
        let lines = audit.recent(9);
        assert_eq!(lines.iter().map(|l| l["count"].as_u64().unwrap()).sum::<u64>(), 501);
        assert_eq!(lines[0]["url"].as_str().unwrap().len(), LONGEST_URL);
        fs::remove_dir_all(&dir).unwrap();
    }
}
