//! Clusters of the real etcd, one for each test that asks. Also used by other crates' tests, by path.
#![allow(dead_code, reason = "each test uses a part")]
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// One etcd process.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) client: String,
    arguments: Vec<String>,
    /// What the command begins with: `ip netns exec NAME`, say.
    within: Vec<String>,
    child: Option<Child>,
}

/// Ended, and its data removed, when it is dropped.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    dir: PathBuf,
}

pub(crate) fn is_installed() -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: there is no etcd (Debian's etcd-server)");
    }
    found
}

fn free_ports(n: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|l| l.local_addr().unwrap().port()).collect()
}

impl Cluster {
    /// On this machine's loopback, by ports.
    pub(crate) fn start(size: usize) -> Self {
        Self::start_with(size, &[])
    }

    /// The same with more arguments for each.
    pub(crate) fn start_with(size: usize, more: &[&str]) -> Self {
        let ports = free_ports(2 * size);
        let place = |i: usize| (Vec::new(), "127.0.0.1".to_owned(), ports[2 * i], ports[2 * i + 1]);
        Self::start_all((0..size).map(place).collect(), more)
    }

    /// Each member with what its command begins with, its address, and its ports for clients and for members.
    pub(crate) fn start_at(places: Vec<(Vec<String>, String, u16, u16)>) -> Self {
        Self::start_all(places, &[])
    }

    fn start_all(places: Vec<(Vec<String>, String, u16, u16)>, more: &[&str]) -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        // In memory: many disks take longer to sync than an election lasts.
        let base = if PathBuf::from("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
        let dir = base.join(format!("pst-etcd-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let peer =
            |i: usize, (_, host, _, port): &(Vec<String>, String, u16, u16)| format!("m{i}=http://{host}:{port}");
        let all: Vec<String> = places.iter().enumerate().map(|(i, p)| peer(i, p)).collect();
        let mut members = Vec::new();
        for (i, (within, host, client, peer)) in places.into_iter().enumerate() {
            let (name, client) = (format!("m{i}"), format!("http://{host}:{client}"));
            let peer = format!("http://{host}:{peer}");
            let data = dir.join(&name).display().to_string();
            let arguments: Vec<String> = [
                ("name", name.as_str()),
                ("data-dir", &data),
                ("listen-client-urls", &client),
                ("advertise-client-urls", &client),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
                ("initial-cluster", &all.join(",")),
                ("heartbeat-interval", "50"),
                ("election-timeout", "500"),
                ("log-level", "error"),
            ]
            .iter()
            .map(|(k, v)| format!("--{k}={v}"))
            .chain(more.iter().map(|a| (*a).to_owned()))
            .collect();
            members.push(Member { name, client, arguments, within, child: None });
        }
        let mut cluster = Self { members, dir };
        cluster.members.iter_mut().for_each(Member::start);
        cluster
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.client.clone()).collect()
    }
}

impl Cluster {
    /// The data of all members, which do not run, are lost.
    pub(crate) fn forget(&self) {
        for member in &self.members {
            std::fs::remove_dir_all(self.dir.join(&member.name)).unwrap();
        }
    }
}

impl Member {
    /// It dies with the test, however that ends.
    pub(crate) fn start(&mut self) {
        let mut words = self.within.clone();
        words.extend(["setpriv", "--pdeathsig", "KILL", "etcd"].map(str::to_owned));
        let (program, rest) = words.split_first().unwrap();
        let mut command = Command::new(program);
        command.args(rest).args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    /// As by a power cut.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Its process, which `ip netns exec` and `setpriv` have become.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Tries until it is done.
pub(crate) async fn until<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(mut f: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match f().await {
            Ok(done) => return done,
            Err(error) if Instant::now() > deadline => panic!("not in 60 s: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
