use crate::message::{NodeGoal, Role};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The last goal that a node's data plane applied, on disk: with it a node forwards again before it has found its controller.
///
/// A line `penstock-goal 1 <SHA-256 of the rest>`, then JSON. Mode 0600: a gateway's goal holds its tunnels' private keys.
/// Written to a temporary file, synced and renamed, so a reader sees the old one or the new one.
#[derive(Debug)]
pub struct GoalFile<R> {
    path: PathBuf,
    node: String,
    role: PhantomData<fn() -> R>,
}

#[derive(Debug, thiserror::Error)]
pub enum GoalFileError {
    #[error("goal state {}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("goal state {} is damaged ({what}) and was not used; the controller will send a new one", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("goal state {} belongs to node `{found}`, this is `{expected}`; it was not used", path.display())]
    Foreign { path: PathBuf, found: String, expected: String },
}

#[derive(Serialize, Deserialize)]
struct Content {
    node: String,
    goal: NodeGoal,
}

const FORMAT: &str = "penstock-goal 1 ";

impl<R: Role> GoalFile<R> {
    #[must_use]
    pub fn new(state_dir: &Path, node: &str) -> Self {
        Self { path: state_dir.join(format!("goal-{}.json", R::ROLE)), node: node.to_owned(), role: PhantomData }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The goal; `None` if the node never had one.
    ///
    /// # Errors
    /// Unreadable, damaged, or of another node or role.
    pub fn load(&self) -> Result<Option<R::Goal>, GoalFileError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.io(e)),
        };
        let body = self.verified_body(&bytes)?;
        let content: Content = serde_json::from_slice(body).map_err(|e| self.damaged(e))?;
        if content.node != self.node {
            let (found, expected) = (content.node, self.node.clone());
            return Err(GoalFileError::Foreign { path: self.path.clone(), found, expected });
        }
        let role = content.goal.role();
        R::goal(content.goal).map(Some).ok_or_else(|| self.damaged(format!("it is a goal for a {role}")))
    }

    /// Replaces the goal on disk.
    ///
    /// # Errors
    /// The directory cannot be written to, or is full; the old goal is then still there.
    pub fn save(&self, goal: &R::Goal) -> Result<(), GoalFileError> {
        let content = Content { node: self.node.clone(), goal: R::message(goal) };
        let body = serde_json::to_vec(&content).map_err(|e| self.damaged(e))?;
        self.replace(&body).map_err(|e| self.io(e))
    }

    fn replace(&self, body: &[u8]) -> std::io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let temporary = self.path.with_extension("json.new");
        // A leftover of a crash may have other permissions.
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{FORMAT}{}", sha256_hex(body))?;
        file.write_all(body)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        File::open(directory)?.sync_all()
    }

    fn verified_body<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], GoalFileError> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| self.damaged("no first line"))?;
        let (line, body) = (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default());
        let sum = line.strip_prefix(FORMAT.as_bytes()).ok_or_else(|| self.damaged("unknown format"))?;
        if sum != sha256_hex(body).as_bytes() {
            return Err(self.damaged("its checksum does not match"));
        }
        Ok(body)
    }

    fn io(&self, error: std::io::Error) -> GoalFileError {
        GoalFileError::Io { path: self.path.clone(), error }
    }

    fn damaged(&self, what: impl ToString) -> GoalFileError {
        GoalFileError::Damaged { path: self.path.clone(), what: what.to_string() }
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Host, Mux};
    use crate::testing::TempDir;
    use penstock_model::Revision;
    use penstock_mux_proto::MuxGoal;
    use std::os::unix::fs::PermissionsExt;

    fn goal(revision: u64) -> MuxGoal {
        MuxGoal { revision: Revision(revision), ..MuxGoal::default() }
    }

    #[test]
    fn what_was_saved_last_is_loaded_and_only_its_owner_can_read_it() {
        let dir = TempDir::new("goal-file");
        let file = GoalFile::<Mux>::new(dir.path(), "mux1");
        assert_eq!(file.load().unwrap(), None);
        for revision in [1, 2] {
            file.save(&goal(revision)).unwrap();
            assert_eq!(file.load().unwrap(), Some(goal(revision)));
        }
        assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn any_damaged_byte_and_any_cut_is_refused() {
        let dir = TempDir::new("goal-damage");
        let file = GoalFile::<Mux>::new(dir.path(), "mux1");
        file.save(&goal(1)).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(file.path(), &flipped).unwrap();
            assert!(matches!(file.load(), Err(GoalFileError::Damaged { .. })), "byte {at} flipped");
            std::fs::write(file.path(), &whole[..at]).unwrap();
            assert!(matches!(file.load(), Err(GoalFileError::Damaged { .. })), "cut at {at}");
        }
    }

    #[test]
    fn a_goal_of_another_node_or_role_is_refused() {
        let dir = TempDir::new("goal-foreign");
        GoalFile::<Mux>::new(dir.path(), "mux1").save(&goal(1)).unwrap();
        let other = GoalFile::<Mux>::new(dir.path(), "mux2").load();
        assert!(matches!(other, Err(GoalFileError::Foreign { .. })));
        let host = GoalFile::<Host>::new(dir.path(), "mux1");
        std::fs::rename(dir.path().join("goal-mux.json"), host.path()).unwrap();
        assert!(host.load().unwrap_err().to_string().contains("a goal for a mux"));
    }
}
