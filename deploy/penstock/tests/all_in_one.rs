//! Controller and mux as one process, in a namespace of its own: the mux follows the controller beside it without a network.
//! Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{must, run};

const SOON: Duration = Duration::from_secs(20);
const BINARY: &str = env!("CARGO_BIN_EXE_penstock");

/// A namespace with a veth, a directory with keys, and what runs there.
struct Appliance {
    ns: String,
    dir: PathBuf,
    process: Option<Child>,
}

impl Appliance {
    fn new() -> Option<Self> {
        if must("id -u").trim() != "0" {
            println!("skipped: needs root");
            return None;
        }
        let ns = format!("pst-one-{}", std::process::id());
        let dir = std::env::temp_dir().join(&ns);
        std::fs::create_dir_all(&dir).unwrap();
        must(&format!("ip netns add {ns}"));
        let one = Self { ns: ns.clone(), dir, process: None };
        must(&format!("ip -n {ns} link add eth0 type veth peer name far"));
        must(&format!("ip -n {ns} addr add 10.1.1.2/24 dev eth0"));
        for device in ["lo", "eth0", "far"] {
            must(&format!("ip -n {ns} link set {device} up"));
        }
        let dir = one.dir.display();
        must(&format!("{BINARY} pki init --dir {dir}"));
        must(&format!("{BINARY} pki issue --role controller,mux --name edge1 --ip 127.0.0.1 --dir {dir}"));
        must(&format!("{BINARY} pki issue --role operator --name op --dir {dir}"));
        Some(one)
    }

    fn start(&mut self) {
        let dir = self.dir.display();
        let config = format!(
            "[node]\nname = \"edge1\"\nca = \"{dir}/ca.pem\"\ncertificate = \"{dir}/edge1.pem\"\nkey = \"{dir}/edge1.key\"\n\
             state_dir = \"{dir}/state\"\n[controller]\nlisten = \"127.0.0.1:8443\"\nsouthbound_listen = \"127.0.0.1:8444\"\n\
             [mux]\ninterface = \"eth0\"\nunderlay_address = \"10.1.1.2\"\n"
        );
        std::fs::write(self.dir.join("one.toml"), config).unwrap();
        let process = Command::new("ip")
            .args(["netns", "exec", &self.ns, BINARY, "run", "--config", &format!("{dir}/one.toml")])
            .stderr(Stdio::from(std::fs::File::create(self.dir.join("log")).unwrap()))
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn cli(&self, args: &str) -> Output {
        let dir = self.dir.display();
        run(&format!(
            "ip netns exec {} {BINARY} --server https://127.0.0.1:8443 --ca {dir}/ca.pem --cert {dir}/op.pem --key {dir}/op.key {args}",
            self.ns
        ))
    }

    fn wait(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            let ended = self.process.as_mut().and_then(|p| p.try_wait().unwrap());
            assert!(ended.is_none() && start.elapsed() < SOON, "{what}: {ended:?} {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The one node of the status.
    fn node(&self) -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_slice(&self.cli("status --json").stdout).unwrap_or_default();
        status["nodes"][0].clone()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        run(&format!("ip netns del {}", self.ns));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_mux_beside_its_controller_gets_its_goals_and_reports_without_a_connection() {
    let Some(mut one) = Appliance::new() else { return };
    one.start();
    one.wait("the controller answers", |one| one.cli("status").status.success());
    let mux = serde_json::json!({"resources": [{"resourceRef": "/loadBalancerMuxes/edge1", "properties": {"underlayAddress": "10.1.1.2"}}]});
    let file = one.dir.join("mux.json");
    std::fs::write(&file, mux.to_string()).unwrap();
    let out = one.cli(&format!("apply -f {}", file.display()));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    one.wait("the mux has applied its goal", |one| one.node()["inSync"] == true);
    let node = one.node();
    assert_eq!((&node["name"], &node["role"]), (&"edge1".into(), &"mux".into()), "{node}");
    assert!(node["packetIo"].as_array().is_some_and(|p| !p.is_empty()), "a report of its data plane: {node}");
    let log = one.log();
    assert!(log.contains("follows the controller in this process"), "{log}");
    assert!(!log.contains("node connected"), "it came by the network: {log}");
    let Some(mut process) = one.process.take() else { panic!("it runs") };
    must(&format!("kill -TERM {}", process.id()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > SOON {
            process.kill().unwrap();
            panic!("it does not end after SIGTERM: {}", one.log());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0), "{}", one.log());
}
