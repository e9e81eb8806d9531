//! An interface that somebody else's XDP program has: it stays his, and he is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../packet-io/tests/common/mod.rs"]
mod common;

use common::{Nets, may_make_namespaces};
use penstock_bpf::{BpfError, Obstacle, Sink, SinkPoint, Steering, XdpMode, occupants};
use penstock_packet_io::{interface_index, netns};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What libxdp attaches for programs that share an interface, and a program that it attaches alone.
const DISPATCHER: &str = "/usr/lib/x86_64-linux-gnu/bpf/xdp-dispatcher.o";
const FILTER: &str = "/usr/lib/x86_64-linux-gnu/bpf/xdpfilt_alw_all.o";

fn pair() -> Nets {
    let nets = Nets::new(&["xdpo", "xdpp"]);
    nets.veth(0, "client", 1, "node");
    nets
}

/// A program of somebody else, made with the compiler that made Penstock's.
struct Firewall(PathBuf);

impl Firewall {
    fn compile() -> Self {
        let path = std::env::temp_dir().join(format!("pst-firewall-{}.o", std::process::id()));
        let source = "int firewall(void *ctx) __attribute__((section(\"xdp\"), used));\n\
                      int firewall(void *ctx) { return 2; }\n\
                      char LICENSE[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";
        let c = path.with_extension("c");
        std::fs::write(&c, source).unwrap();
        let clang = if Path::new("/usr/bin/clang-19").exists() { "clang-19" } else { "clang" };
        let done =
            Command::new(clang).args(["-O2", "-g", "-target", "bpf", "-c"]).arg(&c).arg("-o").arg(&path).status();
        assert!(done.unwrap().success());
        std::fs::remove_file(c).unwrap();
        Self(path)
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What Penstock says of an interface that it does not get; and who has it, before and after.
fn refused() -> Obstacle {
    let index = interface_index("node").unwrap();
    let before = occupants(index).unwrap();
    assert_eq!(before.len(), 1, "{before:?}");
    let error = Steering::attach(index).unwrap_err();
    let BpfError::Occupied { obstacle, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains(&obstacle.to_string()), "{error}");
    assert_eq!(occupants(index).unwrap(), before, "it has its interface still");
    println!("{error}");
    let expected = format!("id {}, {}", before[0].id, before[0].mode);
    assert!(obstacle.reason.starts_with("node has the XDP program"), "{obstacle}");
    assert!(obstacle.reason.contains(&expected), "{obstacle} says nothing of {expected}");
    obstacle.clone()
}

#[test]
fn a_program_of_somebody_else_keeps_its_interface_and_is_named_with_what_to_do() {
    if !may_make_namespaces() {
        return;
    }
    let (nets, firewall) = (pair(), Firewall::compile());
    for flag in ["xdpdrv", "xdpgeneric"] {
        nets.ip(1, &format!("link set dev node {flag} obj {} sec xdp", firewall.0.display()));
        netns::run_in(nets.name(1), || {
            let obstacle = refused();
            assert!(obstacle.reason.contains("\"firewall\""), "{obstacle}");
            assert!(obstacle.fix.unwrap().contains(&format!("ip link set dev node {flag} off")));
        })
        .unwrap();
        nets.ip(1, &format!("link set dev node {flag} off"));
        netns::run_in(nets.name(1), || {
            let index = interface_index("node").unwrap();
            assert_eq!(occupants(index).unwrap(), []);
            assert_eq!(Steering::attach(index).unwrap().mode(), XdpMode::Native, "what was said to help helps");
        })
        .unwrap();
    }
}

#[test]
fn another_process_of_penstock_keeps_its_interface() {
    if !may_make_namespaces() {
        return;
    }
    let nets = pair();
    netns::run_in(nets.name(1), || {
        let _other = Sink::attach(interface_index("node").unwrap(), SinkPoint::Xdp).unwrap();
        let obstacle = refused();
        assert!(obstacle.reason.contains("\"penstock_sink_x\" of Penstock"), "{obstacle}");
        assert!(obstacle.fix.unwrap().starts_with("stop the other Penstock process"));
    })
    .unwrap();
}

#[test]
fn programs_of_libxdp_keep_their_interface() {
    if !may_make_namespaces() {
        return;
    }
    if !Path::new(FILTER).exists() || !Path::new(DISPATCHER).exists() {
        println!("skipped: xdp-tools is not installed");
        return;
    }
    let nets = pair();
    nets.ip(1, &format!("link set dev node xdpdrv obj {DISPATCHER} sec xdp"));
    netns::run_in(nets.name(1), || {
        let obstacle = refused();
        assert!(obstacle.reason.contains("\"xdp_dispatcher\" of libxdp"), "{obstacle}");
        assert!(obstacle.fix.unwrap().contains("xdp-loader unload node --all"));
    })
    .unwrap();
    nets.ip(1, "link set dev node xdpdrv off");
    netns::run_in(nets.name(1), || {
        let loader = |args: &[&str]| assert!(Command::new("xdp-loader").args(args).status().unwrap().success());
        loader(&["load", "node", FILTER]);
        refused();
        loader(&["unload", "node", "--all"]);
        Steering::attach(interface_index("node").unwrap()).unwrap();
    })
    .unwrap();
}
