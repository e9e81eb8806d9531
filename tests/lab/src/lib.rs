//! How do tests drive the lab? Real namespaces, real processes, real traffic, through `deploy/lab/lab`.
//!
//! [`Lab::shared`] brings one lab up for the test process and takes it down when the process ends, also after a crash.
//! On a machine without root it is `None`, and a line says so; with `CI=true` that is a failure.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says why and stops"
)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: String,
}

impl Lab {
    /// The lab of this test process, declared and serving; `None` without root.
    pub fn shared() -> Option<&'static Lab> {
        static LAB: OnceLock<Option<Lab>> = OnceLock::new();
        LAB.get_or_init(|| {
            if !is_root() {
                assert!(std::env::var_os("CI").is_none(), "CI must run the lab as root");
                println!("skipped: the lab needs root and network namespaces");
                return None;
            }
            Some(Lab::up())
        })
        .as_ref()
    }

    fn up() -> Lab {
        let lab = Lab { name: format!("t{}", std::process::id()) };
        lab.take_down_when_this_process_ends();
        lab.script(&["up"]);
        lab.script(&["apply"]);
        lab.wait_until(Duration::from_secs(10), "the virtual IP serves", || {
            lab.ok("client", "curl -sf -m 1 http://203.0.113.10/")
        });
        lab
    }

    /// A process of its own waits for this one, so that nothing is left behind however the tests end.
    #[expect(clippy::zombie_processes, reason = "it outlives this process on purpose")]
    fn take_down_when_this_process_ends(&self) {
        let script = script();
        let watch = format!(
            "while kill -0 {pid} 2>/dev/null; do sleep 0.2; done; {script} down --name {name}",
            pid = std::process::id(),
            script = script.display(),
            name = self.name
        );
        Command::new("setsid")
            .args(["sh", "-c", &watch])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setsid starts");
    }

    /// Runs the lab script and returns what it printed; fails the test if it fails.
    pub fn script(&self, args: &[&str]) -> String {
        let out = self.command(args).output().expect("the lab script starts");
        assert!(out.status.success(), "lab {args:?}: {}", text(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg("180").arg(script()).arg(args[0]).args(["--name", &self.name]).args(&args[1..]);
        command
    }

    /// Runs a shell line in a box and gives its output, whatever it was.
    pub fn run(&self, place: &str, line: &str) -> Output {
        self.command(&["in", place, "bash", "-c", line]).output().expect("the lab script starts")
    }

    /// Whether a shell line succeeds in a box.
    pub fn ok(&self, place: &str, line: &str) -> bool {
        self.run(place, line).status.success()
    }

    /// What a shell line prints in a box; fails the test if it fails.
    pub fn out(&self, place: &str, line: &str) -> String {
        let out = self.run(place, line);
        assert!(out.status.success(), "in {place}: {line}: {}", text(&out));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Starts a shell line in a box and lets it run.
    pub fn start(&self, place: &str, line: &str) -> Child {
        self.command(&["in", place, "bash", "-c", line])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the lab script starts")
    }

    /// The CLI as the operator, whatever comes of it.
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut all = vec!["cli"];
        all.extend(args);
        self.command(&all).output().expect("the lab script starts")
    }

    /// The CLI's `--json` output; fails the test if the command fails.
    pub fn cli_json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let out = self.cli(&all);
        assert!(out.status.success(), "penstock {all:?}: {}", text(&out));
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("penstock {all:?}: {e}: {}", text(&out)))
    }

    /// Writes a file that the CLI can be given.
    pub fn file(&self, name: &str, content: &Value) -> PathBuf {
        let path = self.state().join(name);
        std::fs::write(&path, serde_json::to_vec_pretty(content).expect("a value is JSON"))
            .expect("the file is written");
        path
    }

    /// Where the lab keeps its logs, certificates and declaration.
    pub fn state(&self) -> PathBuf {
        Path::new("/run/penstock-lab").join(&self.name)
    }

    /// Waits until `condition` holds; fails the test after `limit`. Returns how long it took.
    pub fn wait_until(&self, limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < limit, "{what}: not within {limit:?}; logs are in {}", self.state().display());
            std::thread::sleep(Duration::from_millis(50));
        }
        start.elapsed()
    }

    /// A sum of all samples of a Prometheus metric on a node, over those whose line contains `with`.
    pub fn metric(&self, node: &str, name: &str, with: &str) -> f64 {
        let page = self.out(node, "curl -sf http://$(hostname -I | tr ' ' '\\n' | grep '^10\\.1\\.'):9090/metrics");
        page.lines()
            .filter(|l| l.starts_with(name) && l[name.len()..].starts_with(['{', ' ']) && l.contains(with))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Processor time that a node's process has used since its start.
    pub fn processor_time(&self, node: &str) -> Duration {
        let pid = std::fs::read_to_string(self.state().join("pid").join(node)).expect("the node has a pid");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).expect("the node runs");
        // proc_pid_stat(5): after the name, which is in parentheses, utime and stime are fields 12 and 13, in ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|i| fields[*i].parse::<u64>().expect("a number of ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Captures what passes a router interface while `during` runs; the path of the capture file.
    pub fn capture(&self, interface: &str, filter: &str, during: impl FnOnce()) -> PathBuf {
        let path = self.state().join(format!("{interface}.pcap"));
        let _ = std::fs::remove_file(&path);
        let mut tcpdump = self.start(
            "router",
            &format!("exec tcpdump -U --immediate-mode -ni {interface} -w {} '{filter}'", path.display()),
        );
        self.wait_until(Duration::from_secs(10), "tcpdump starts", || path.exists());
        std::thread::sleep(Duration::from_millis(300));
        during();
        std::thread::sleep(Duration::from_millis(500));
        self.run("router", &format!("pkill -INT -f '^tcpdump.*{}'", path.display()));
        tcpdump.wait().expect("tcpdump ends");
        path
    }
}

/// Fields of each packet of a capture, as tshark dissects them.
pub fn tshark(capture: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).args(["-Y", filter, "-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let out = command.output().expect("tshark starts");
    assert!(out.status.success(), "tshark: {}", text(&out));
    String::from_utf8_lossy(&out.stdout).lines().map(|l| l.split('|').map(str::to_owned).collect()).collect()
}

/// Standard output and error of a command, for a message.
pub fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/lab/lab").canonicalize().expect("the lab script is there")
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}
