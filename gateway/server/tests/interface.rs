//! A gateway whose interface goes away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use penstock_gateway_proto::{GatewayGoal, GatewayStatus};
use penstock_gateway_server::{BgpConfig, GatewayConfig, PacketIoMode};
use penstock_model::Revision;
use penstock_packet_io::netns;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const ADDRESS: &str = "192.0.2.21";

/// Removes the namespace when dropped.
struct Namespace(String);

impl Namespace {
    /// With `g0`, an end of a veth pair; `None`, and says so, without the rights.
    fn new(tag: &str) -> Option<Self> {
        let id = Command::new("id").arg("-u").output().unwrap();
        if id.stdout != b"0\n" {
            println!("skipped: needs root to make network namespaces");
            return None;
        }
        let this = Self(format!("pst-gi{tag}{}", std::process::id()));
        ip(&format!("netns add {}", this.0));
        this.ip("link add g0 mtu 1600 type veth peer name g1 mtu 1600");
        this.ip(&format!("addr add {ADDRESS}/24 dev g0"));
        this.ip("link set g0 up");
        this.ip("link set g1 up");
        Some(this)
    }

    fn ip(&self, args: &str) {
        ip(&format!("-n {} {args}", self.0));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

fn ip(args: &str) {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
}

fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !look() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_gateway_whose_interface_is_removed_ends_with_an_error() {
    for (tag, packet_io) in [("p", PacketIoMode::AfPacket), ("x", PacketIoMode::AfXdp)] {
        let Some(namespace) = Namespace::new(tag) else { return };
        let goal = GatewayGoal { revision: Revision(7), ..GatewayGoal::default() };
        let (_goals, goals) = watch::channel(Some(Arc::new(goal)));
        let (sender, status) = watch::channel(GatewayStatus::default());
        let (_stop, stop) = watch::channel(false);
        let config = GatewayConfig {
            interface: "g0".into(),
            underlay_address: ADDRESS.parse().unwrap(),
            packet_io,
            flow_capacity: 4096,
            tenant_flow_capacity: None,
            bgp: BgpConfig::default(),
        };
        let name = namespace.0.clone();
        let gateway = std::thread::spawn(move || {
            netns::enter(&name).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(penstock_gateway_server::run(config, goals, sender, stop))
        });
        wait_for("the goal in force", || status.borrow().applied == Revision(7) || gateway.is_finished());
        namespace.ip("link del g0");
        wait_for("the end", || gateway.is_finished());
        let error = gateway.join().unwrap().unwrap_err().to_string();
        println!("{error}");
        assert!(error.starts_with("the worker has ended") || error == "the interface \"g0\" was removed", "{error}");
    }
}
