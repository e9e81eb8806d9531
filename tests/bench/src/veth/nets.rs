use super::DUT_CPU;
use penstock_model::Mac;
use penstock_packet_io::{Interface, netns};
use std::io::Write;
use std::process::{Child, Command, Stdio};

pub(crate) const GENERATOR_PORT: &str = "gen0";
pub(crate) const GENERATOR_ADDRESS: &str = "192.0.2.1";
pub(crate) const DUT_ADDRESS: &str = "192.0.2.2";
const PREFIX: &str = "pst-bench-";

/// Whether this process may and can.
pub(crate) fn possible() -> Result<(), String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0")) {
        return Err("needs root for network namespaces".to_owned());
    }
    if std::thread::available_parallelism().map_or(1, usize::from) <= DUT_CPU {
        return Err("needs two processors".to_owned());
    }
    for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        if Command::new(tool).arg("-V").stdout(Stdio::null()).status().is_err() {
            return Err(format!("needs `{tool}` (apt-get install {package})"));
        }
    }
    Ok(())
}

/// Two namespaces and the veth between them. A process of its own waits for the end of this one, however it ends, and removes
/// the namespaces.
#[derive(Debug)]
pub(crate) struct Nets {
    generator: String,
    dut: String,
    dut_port: String,
    pub(crate) generator_mac: Mac,
    pub(crate) dut_mac: Mac,
    keeper: Child,
}

impl Nets {
    pub(crate) fn new() -> Self {
        let pid = std::process::id();
        let (generator, dut) = (format!("{PREFIX}{pid}-gen"), format!("{PREFIX}{pid}-dut"));
        let keeper = keeper(&[&generator, &dut]);
        // The name is in that of the interface's NAPI thread, which is found by it among those of the whole machine.
        let dut_port = format!("d{pid}");
        ip(&format!("netns add {generator}"));
        ip(&format!("netns add {dut}"));
        let mut nets = Self { generator, dut, dut_port, generator_mac: Mac::ZERO, dut_mac: Mac::ZERO, keeper };
        nets.link();
        nets
    }

    pub(crate) fn generator(&self) -> &str {
        &self.generator
    }

    pub(crate) fn dut(&self) -> &str {
        &self.dut
    }

    pub(crate) fn dut_port(&self) -> &str {
        &self.dut_port
    }

    fn link(&mut self) {
        let (generator, dut, port) = (&self.generator, &self.dut, &self.dut_port);
        for ns in [generator, dut] {
            netns::run_in(ns, || {
                // Nothing but what is measured: no neighbour discovery, no redirects.
                for (key, value) in [
                    ("ipv6/conf/all/disable_ipv6", "1"),
                    ("ipv6/conf/default/disable_ipv6", "1"),
                    ("ipv4/ip_forward", "1"),
                    ("ipv4/conf/all/send_redirects", "0"),
                    ("ipv4/conf/default/send_redirects", "0"),
                    ("ipv4/conf/all/rp_filter", "0"),
                    ("ipv4/conf/default/rp_filter", "0"),
                ] {
                    std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap();
                }
            })
            .unwrap();
        }
        ip(&format!(
            "link add {GENERATOR_PORT} netns {generator} mtu 1600 type veth peer name {port} netns {dut} mtu 1600"
        ));
        let mac = |ns: &str, name: &str| netns::run_in(ns, || Interface::open(name).unwrap().mac().unwrap()).unwrap();
        (self.generator_mac, self.dut_mac) = (mac(generator, GENERATOR_PORT), mac(dut, port));
        for (ns, name, address, peer, peer_mac) in [
            (generator, GENERATOR_PORT, GENERATOR_ADDRESS, DUT_ADDRESS, self.dut_mac),
            (dut, port.as_str(), DUT_ADDRESS, GENERATOR_ADDRESS, self.generator_mac),
        ] {
            ip(&format!("-n {ns} link set {name} up"));
            ip(&format!("-n {ns} addr add {address}/24 dev {name}"));
            ip(&format!("-n {ns} neigh replace {peer} lladdr {peer_mac} dev {name} nud permanent"));
        }
        ip(&format!("-n {dut} route add default via {GENERATOR_ADDRESS}"));
    }
}

impl Drop for Nets {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Reads until its input ends, which also a kill of this process ends, then removes the namespaces.
pub(crate) fn keeper(names: &[&str]) -> Child {
    let remove: String = names.iter().map(|n| format!("ip netns del {n} 2>/dev/null;")).collect();
    Command::new("sh")
        .args(["-c", &format!("trap '' INT TERM HUP; cat >/dev/null; {remove}")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')), None);
}

/// In a namespace, with its own view of `/sys`.
pub(crate) fn shell_in(ns: &str, script: &str, input: Option<&str>) {
    run(Command::new("ip").args(["netns", "exec", ns, "sh", "-c", script]), input);
}

fn run(command: &mut Command, input: Option<&str>) {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.unwrap_or_default().as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
