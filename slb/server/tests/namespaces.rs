//! The host agent with real packets: containers in namespaces, kernel VXLAN as the other host and the mux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_model::{Epoch, Protocol, Revision};
use penstock_policy::{Acl, AclAction, AclDirection, AclId, AclRule, PortRange};
use penstock_slb_host::{Probe, ProbeKind};
use std::time::Duration;

#[test]
fn containers_are_reached_by_the_overlay_by_a_vip_and_by_each_other() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("reach");
    for c in ["c1", "c2", "c3"] {
        lab.serve(c);
    }
    let agent = Agent::start(&lab, goal());
    agent.ready(3);
    for to in ["10.0.0.1", "fd00::1", "10.0.0.12", "fd00::12", "10.0.0.3", "fd00::3"] {
        assert!(lab.ping("c1", to), "c1 to {to}");
    }
    // Each tenant's peer finds its own container behind the same address.
    for (from, container) in [("p", "c1"), ("q", "c3")] {
        for host in ["10.0.0.2", "[fd00::2]"] {
            let body = lab.get(from, &format!("http://{host}:8080/"));
            assert_eq!(body, Ok(container.as_bytes().to_vec()), "{from} to {host}");
        }
    }
    assert!(!lab.ping("c3", "10.0.0.3"), "tenant 2 has no such endpoint");
    let content = large();
    let (received, sent) = (lab.counter("m", "vx", "rx_packets"), lab.counter("m", "vx", "tx_packets"));
    for vip in ["198.51.100.1", "[2001:db8:f::1]"] {
        assert_eq!(lab.get("m", &format!("http://{vip}/")), Ok(b"c1".to_vec()), "{vip}");
        assert!(lab.get("m", &format!("http://{vip}/large")) == Ok(content.clone()), "{vip}/large");
    }
    assert_eq!(lab.counter("m", "vx", "rx_packets"), received, "answers do not come back by the mux's overlay device");
    assert!(lab.counter("m", "vx", "tx_packets") > sent);
    assert!(lab.get("p", "http://10.0.0.2:8080/large") == Ok(content.clone()), "by the overlay");
    assert!(lab.get("c2", "http://10.0.0.2:8080/large") == Ok(content), "on the same host");
    agent.wait("status", Duration::from_secs(3), |s| s.ports[0].from_container_packets > 0 && s.flows > 0);
    println!("{:#?}", *agent.status.borrow());
    agent.stop().unwrap();
}

#[test]
fn a_container_that_has_the_virtual_ip_itself_serves_all_of_its_ports() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("float");
    lab.serve("c1");
    lab.ip("c1", "addr add 198.51.100.1/32 dev lo");
    lab.ip("c1", "addr add 2001:db8:f::1/128 dev lo nodad");
    let mut goal = goal();
    for rule in &mut goal.nat_rules {
        (rule.floating, rule.vip_port, rule.dip_port) =
            (true, penstock_slb_host::ALL_PORTS, penstock_slb_host::ALL_PORTS);
    }
    let agent = Agent::start(&lab, goal);
    agent.ready(3);
    let content = large();
    for vip in ["198.51.100.1", "[2001:db8:f::1]"] {
        assert_eq!(lab.get("m", &format!("http://{vip}:8080/")), Ok(b"c1".to_vec()), "{vip}");
        assert!(lab.get("m", &format!("http://{vip}:8080/large")) == Ok(content.clone()), "{vip}/large");
        let closed = lab.exec("m", &format!("curl -sS -g --max-time 10 http://{vip}:8081/"));
        assert_eq!(closed.status.code(), Some(7), "refused by the container's own kernel, not lost");
    }
}

#[test]
fn a_probe_finds_out_that_a_container_dies_and_comes_back() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("probe");
    let server = lab.serve("c1");
    let agent = Agent::start(&lab, goal());
    let health = |name: &'static str, healthy: bool| {
        move |s: &penstock_slb_host::HostStatus| {
            s.probes.iter().any(|p| p.name == name && p.healthy == healthy && p.changes > 0)
        }
    };
    agent.wait("healthy", Duration::from_secs(5), health("http4", true));
    agent.wait("healthy by TCP", Duration::from_secs(5), health("tcp6", true));
    agent.wait("a verdict", Duration::from_secs(5), |s| s.probes.iter().any(|p| p.name == "missing"));
    let missing = agent.status.borrow().probes.iter().find(|p| p.name == "missing").cloned().unwrap();
    assert!(!missing.healthy && missing.detail.starts_with("404"), "{missing:?}");
    lab.kill(server);
    // Two failures, a second apart, and up to a second until the first.
    let took = agent.wait("unhealthy", Duration::from_secs(4), health("http4", false));
    assert!(took >= Duration::from_millis(900), "one failure is not enough: {took:?}");
    let seen = agent.status.borrow().probes.iter().find(|p| p.name == "http4").cloned().unwrap();
    assert_eq!(seen.detail, "connection refused");
    let server = lab.serve("c1");
    agent.wait("healthy again", Duration::from_secs(3), health("http4", true));
    let link = String::from_utf8(lab.exec("h", "ip -o link show vc1").stdout).unwrap();
    let index = link.split(':').next().unwrap().to_owned();
    lab.ip("h", "link del vc1");
    agent.wait("gone", Duration::from_secs(5), health("http4", false));
    agent.wait("detached", Duration::from_secs(3), |s| s.ports[0].device.is_none());
    let gone = agent.status.borrow().probes.iter().find(|p| p.name == "http4").cloned().unwrap();
    assert_eq!(gone.detail, "the container's device is not there");
    // The container comes back as a new namespace with a new device, of the same index by chance.
    lab.kill(server);
    lab.remove_container(0);
    lab.add_container_by(0, &format!("index {index}"));
    lab.serve("c1");
    agent.wait("attached again", Duration::from_secs(5), |s| s.ports[0].device.is_some());
    agent.wait("healthy after its return", Duration::from_secs(5), health("http4", true));
    assert_eq!(lab.get("m", "http://198.51.100.1/"), Ok(b"c1".to_vec()));
}

#[test]
fn a_probe_by_tls_wants_an_answer_and_no_signature() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("tls");
    lab.serve("c1");
    lab.serve_tls("c1", 8443, "-tls1_2");
    lab.serve_tls("c1", 8444, "-tls1_3");
    let mut goal = goal();
    let base = goal.probes.remove(0);
    let probe = |port: u16| Probe {
        name: format!("https{port}"),
        port,
        kind: ProbeKind::Https { path: "/".into() },
        ..base.clone()
    };
    goal.probes = [8443, 8444, 8080].map(probe).to_vec();
    let agent = Agent::start(&lab, goal);
    let verdict = |name: &'static str, healthy: bool| {
        move |s: &penstock_slb_host::HostStatus| s.probes.iter().any(|p| p.name == name && p.healthy == healthy)
    };
    agent.wait("TLS 1.2", Duration::from_secs(15), verdict("https8443", true));
    agent.wait("TLS 1.3", Duration::from_secs(15), verdict("https8444", true));
    // A server that does not speak TLS.
    agent.wait("no TLS", Duration::from_secs(15), verdict("https8080", false));
    let seen = |name: &str| agent.status.borrow().probes.iter().find(|p| p.name == name).unwrap().detail.clone();
    assert!(seen("https8443").starts_with("200"), "{}", seen("https8443"));
    assert!(seen("https8080").starts_with("TLS: ") || seen("https8080").contains("ended"), "{}", seen("https8080"));
}

#[test]
fn an_acl_takes_effect_in_mid_flow_and_a_bad_goal_changes_nothing() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("acl");
    lab.serve("c1");
    let agent = Agent::start(&lab, goal());
    agent.ready(3);
    assert!(lab.get("p", "http://10.0.0.2:8080/").is_ok());
    let mut closed = goal();
    closed.revision = Revision(2);
    closed.acls = vec![Acl {
        name: "closed".into(),
        rules: vec![AclRule {
            name: "no-web".into(),
            priority: 100,
            action: AclAction::Deny,
            direction: AclDirection::Inbound,
            protocol: Some(Protocol::TCP),
            src: vec![],
            dst: vec![],
            src_ports: PortRange::ANY,
            dst_ports: PortRange { first: 8080, last: 8080 },
            log: false,
        }],
    }];
    closed.ports[0].acl = Some(AclId(0));
    closed.networks[0].epoch = Epoch(2);
    agent.goal.send_replace(Some(std::sync::Arc::new(closed.clone())));
    agent.wait("closed", Duration::from_secs(2), |s| s.applied == Revision(2));
    let out = lab.exec("p", "curl -sS --max-time 1 http://10.0.0.2:8080/");
    assert!(!out.status.success());
    agent.wait("counted", Duration::from_secs(3), |s| s.ledger.dropped.get("acl_denied").is_some_and(|n| *n > 0));
    assert!(lab.ping("p", "10.0.0.2"), "what the list does not name, from the same network, passes");
    let mut bad = goal();
    bad.revision = Revision(3);
    bad.ports[0].acl = Some(AclId(9));
    agent.goal.send_replace(Some(std::sync::Arc::new(bad)));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(agent.status.borrow().applied, Revision(2));
    let mut open = goal();
    open.revision = Revision(4);
    open.networks[0].epoch = Epoch(3);
    agent.goal.send_replace(Some(std::sync::Arc::new(open)));
    agent.wait("open", Duration::from_secs(2), |s| s.applied == Revision(4));
    assert!(lab.get("p", "http://10.0.0.2:8080/").is_ok());
}

#[test]
fn an_underlay_that_is_too_small_is_refused_by_the_name_of_the_setting() {
    if !is_root() {
        return;
    }
    let lab = Lab::new("mtu");
    lab.ip("h", "link set eth0 mtu 1500");
    let agent = Agent::start(&lab, goal());
    std::thread::sleep(Duration::from_millis(500));
    let error = agent.stop().unwrap_err();
    assert!(error.contains("ip link set eth0 mtu 1550"), "{error}");
}

#[test]
fn bulk_tcp_flows_in_both_directions_with_default_offloads() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("bulk");
    lab.serve_iperf("c1");
    // iperf3 takes a probe's connection for a client.
    let mut goal = goal();
    goal.probes.clear();
    let agent = Agent::start(&lab, goal);
    agent.ready(3);
    std::thread::sleep(Duration::from_millis(300));
    for (what, from, to) in [
        ("by the VIP", "m", "198.51.100.1 -p 80"),
        ("by the IPv6 VIP", "m", "2001:db8:f::1 -p 80"),
        ("by the overlay", "p", "10.0.0.2 -p 8080"),
        ("on the same host", "c2", "10.0.0.2 -p 8080"),
    ] {
        for direction in ["", "-R"] {
            let out = lab.exec(from, &format!("timeout 30 iperf3 -c {to} -n 64M -i 0 -f m {direction}"));
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{what} {direction}: {text} {}", String::from_utf8_lossy(&out.stderr));
            let rate = text.lines().find(|l| l.contains("receiver")).unwrap_or_default().to_owned();
            println!("{what} {direction}: {rate}");
        }
    }
    let unsent = agent.status.borrow().ledger.dropped.clone();
    println!("{unsent:?}");
    assert!(!unsent.contains_key("bad_offload"), "{unsent:?}");
    for n in ["m", "p", "c1", "c2"] {
        assert_eq!(lab.checksum_errors(n), 0, "segments with wrong checksums arrived in {n}");
    }
}

/// Frames from and to the first container that were on its link and are not in the status.
fn uncounted(lab: &Lab, s: &penstock_slb_host::HostStatus) -> (u64, u64) {
    let (port, seen) = (&s.ports[0], |name| lab.counter("h", "vc1", name));
    (
        seen("rx_packets").wrapping_sub(port.from_container_packets),
        seen("tx_packets").wrapping_sub(port.to_container_packets),
    )
}

#[test]
fn every_frame_is_dealt_with_once_and_counted_with_and_without_the_kernel() {
    if !is_root() {
        return;
    }
    for kernel_replay in [true, false] {
        let mut lab = Lab::new(if kernel_replay { "count" } else { "plain" });
        lab.serve("c1");
        let mut goal = goal();
        goal.probes.clear();
        let agent = Agent::start_with(&lab, goal, penstock_slb_server::HostConfig { kernel_replay, ..config() });
        agent.ready(3);
        // What came before the port was attached. The status is told once a second.
        let mut before = (0, 0);
        agent.wait("silence", Duration::from_secs(30), |s| {
            let last = std::mem::replace(&mut before, uncounted(&lab, s));
            std::thread::sleep(Duration::from_millis(1200));
            last == before
        });
        for vip in ["198.51.100.1", "[2001:db8:f::1]"] {
            assert!(lab.get("m", &format!("http://{vip}/large")) == Ok(large()), "{vip}/large");
        }
        // Neighbour discovery may have been under way when either was looked at: few frames beside a thousand.
        let close = |a: u64, b: u64| a.abs_diff(b) <= 4;
        agent.wait("counted", Duration::from_secs(30), |s| {
            let now = uncounted(&lab, s);
            close(now.0, before.0) && close(now.1, before.1) && s.ports[0].from_container_packets > 500
        });
        let status = agent.status.borrow().clone();
        let (ledger, modes) = (&status.ledger, &status.packet_io);
        let dropped: u64 = ledger.dropped.values().sum();
        assert_eq!(ledger.received, ledger.transmitted + ledger.passed + ledger.consumed + dropped, "{ledger:?}");
        let expected = if kernel_replay { "vc1: af_packet, kernel replay" } else { "it is switched off" };
        assert!(modes.iter().any(|m| m.contains(expected)), "{modes:?}");
        agent.stop().unwrap();
    }
}

#[test]
fn datagrams_in_pieces_are_answered_in_pieces_by_a_virtual_ip() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("pieces");
    lab.echo("c1", 9000);
    let mut goal = goal();
    for rule in &mut goal.nat_rules {
        (rule.protocol, rule.vip_port, rule.dip_port) = (Protocol::UDP, 9000, 9000);
    }
    goal.probes.clear();
    let agent = Agent::start(&lab, goal);
    agent.ready(3);
    let sent = &large()[..4000];
    for (vip, kind) in [("198.51.100.1", "UDP4"), ("[2001:db8:f::1]", "UDP6")] {
        // The first may come before the echo listens, or before the way to the client is known.
        let answer = (0..10).map(|_| lab.ask("m", &format!("{kind}:{vip}:9000"), sent)).find(|a| !a.is_empty());
        assert!(answer.as_deref() == Some(sent), "{vip}: {:?} bytes", answer.map(|a| a.len()));
    }
    agent.wait("status", Duration::from_secs(3), |s| s.ports[0].from_container_packets >= 6);
}
