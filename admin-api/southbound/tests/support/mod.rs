use penstock_model::Revision;
use penstock_mux_proto::{MuxGoal, MuxStatus};
use penstock_southbound::pki::{DEFAULT_VALIDITY, Pki, Request};
use penstock_southbound::{
    CredentialFiles, Credentials, GoalSource, Identity, Lead, Link, Mux, NodeGoal, NodeReport, NodeRole, Server,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

pub const SOON: Duration = Duration::from_secs(10);

pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("pst-link-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority of its own in a directory of its own.
pub struct Authority {
    pub dir: TempDir,
    pki: Pki,
}

impl Authority {
    pub fn new() -> Self {
        let dir = TempDir::new();
        let pki = Pki::init(dir.path(), SystemTime::now()).unwrap();
        Self { dir, pki }
    }

    pub fn files(&self, name: &str, roles: &str) -> CredentialFiles {
        let identity = Identity::new(name.to_owned(), roles).unwrap();
        let request = Request { identity, addresses: vec![], names: vec![], validity: DEFAULT_VALIDITY };
        let issued = self.pki.issue(&request, SystemTime::now()).unwrap();
        CredentialFiles { ca: self.pki.ca(), cert: issued.cert, key: issued.key }
    }

    pub fn credentials(&self, name: &str, roles: &str) -> Credentials {
        self.files(name, roles).load().unwrap()
    }
}

type GoalSender = watch::Sender<Option<Arc<NodeGoal>>>;

/// A controller that knows the nodes it was told of and writes down what it hears.
#[derive(Debug, Default)]
pub struct Hub {
    nodes: Mutex<HashMap<(NodeRole, String), GoalSender>>,
    pub heard: watch::Sender<Vec<(String, NodeReport)>>,
    /// Changes of who is there.
    pub present: watch::Sender<Vec<(NodeRole, String, bool)>>,
    pub lead: Leads,
}

/// One that leads.
#[derive(Debug)]
pub struct Leads(pub watch::Sender<Option<Lead>>);

impl Default for Leads {
    fn default() -> Self {
        Self(watch::Sender::new(Some(Lead { site: "test".into(), term: 1 })))
    }
}

impl GoalSource for Hub {
    fn lead(&self) -> watch::Receiver<Option<Lead>> {
        self.lead.0.subscribe()
    }

    fn subscribe(&self, role: NodeRole, node: &str) -> Option<watch::Receiver<Option<Arc<NodeGoal>>>> {
        self.nodes.lock().unwrap().get(&(role, node.to_owned())).map(watch::Sender::subscribe)
    }

    fn report(&self, node: &str, report: NodeReport) {
        self.heard.send_modify(|heard| heard.push((node.to_owned(), report)));
    }

    fn connected(&self, role: NodeRole, node: &str, connected: bool) {
        let now = (role, node.to_owned(), connected);
        self.present.send_if_modified(|present| {
            let news = present.iter().rev().find(|p| (p.0, &p.1) == (role, &now.1)).is_none_or(|p| p.2 != connected);
            if news {
                present.push(now);
            }
            news
        });
    }
}

impl Hub {
    pub fn set_mux(&self, node: &str, revision: u64) {
        let goal = Some(Arc::new(NodeGoal::Mux(goal(revision))));
        let mut nodes = self.nodes.lock().unwrap();
        nodes.entry((NodeRole::Mux, node.to_owned())).or_insert_with(|| watch::Sender::new(None)).send_replace(goal);
    }

    pub async fn hears(&self, what: impl Fn(&[(String, NodeReport)]) -> bool) {
        let mut heard = self.heard.subscribe();
        tokio::time::timeout(SOON, heard.wait_for(|h| what(h))).await.expect("a report in time").unwrap();
    }

    pub async fn sees(&self, expected: &[(NodeRole, &str, bool)]) {
        let mut present = self.present.subscribe();
        let is = |p: &[(NodeRole, String, bool)]| {
            p.iter().map(|(role, node, up)| (*role, node.as_str(), *up)).eq(expected.iter().copied())
        };
        let seen = tokio::time::timeout(SOON, present.wait_for(|p| is(p))).await.map(|r| r.map(|_| ()));
        assert!(seen.is_ok(), "expected {expected:?}, saw {:?}", *self.present.borrow());
    }
}

pub fn goal(revision: u64) -> MuxGoal {
    MuxGoal { revision: Revision(revision), ..MuxGoal::default() }
}

pub struct Controller {
    pub address: SocketAddr,
    pub hub: Arc<Hub>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Controller {
    pub fn start(credentials: &Credentials, listen: SocketAddr) -> Self {
        Self::with_hub(credentials, listen, Arc::default())
    }

    pub fn with_hub(credentials: &Credentials, listen: SocketAddr, hub: Arc<Hub>) -> Self {
        let server = Server::bind(listen, credentials).unwrap();
        let address = server.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(server.run(hub.clone(), stopped));
        Self { address, hub, stop, task }
    }

    pub async fn stop(self) -> Arc<Hub> {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        self.hub
    }
}

/// A mux without a data plane: it says at once that it has applied its goal, as long as `works`.
pub struct Node {
    pub goals: watch::Receiver<Option<Arc<MuxGoal>>>,
    pub status: watch::Sender<MuxStatus>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(), penstock_southbound::LinkError>>,
}

impl Node {
    pub fn start(controller: SocketAddr, credentials: &Credentials, state: &Path, works: bool) -> Self {
        Self::following(&[controller], credentials, state, works)
    }

    pub fn following(controllers: &[SocketAddr], credentials: &Credentials, state: &Path, works: bool) -> Self {
        let controllers = controllers.iter().map(ToString::to_string).collect();
        let link = Link::new(controllers, credentials, state.to_owned()).unwrap();
        let (goal_tx, goals) = watch::channel(None::<Arc<MuxGoal>>);
        let (status, status_rx) = watch::channel(MuxStatus::default());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { link.run::<Mux>(goal_tx, status_rx, stopped).await });
        let (mut applying, applied) = (goals.clone(), status.clone());
        tokio::spawn(async move {
            while works && applying.changed().await.is_ok() {
                let revision = applying.borrow_and_update().as_ref().map(|g| g.revision).unwrap_or_default();
                applied.send_modify(|s| s.applied = revision);
            }
        });
        Self { goals, status, stop, task }
    }

    pub async fn gets(&mut self, revision: u64) {
        let wanted = |g: &Option<Arc<MuxGoal>>| g.as_ref().is_some_and(|g| g.revision == Revision(revision));
        tokio::time::timeout(SOON, self.goals.wait_for(wanted)).await.expect("a goal in time").unwrap();
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}
