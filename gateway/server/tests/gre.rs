//! GRE with peers that we did not write: Open vSwitch at the sites, Scapy for what a router and an attacker send.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod lab;
use lab::*;
use penstock_gateway_proto::TunnelState;
use penstock_gateway_server::PacketIoMode;
use penstock_model::*;
use penstock_packet_io::netns;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const TOOLS: &[&str] = &["ip", "ovs-vswitchd", "ovsdb-server", "ovs-ofctl", "ping", PYTHON];
/// The one that Debian's packages are for.
const PYTHON: &str = "/usr/bin/python3";
const BULK: usize = 4 << 20;

#[test]
fn sites_behind_open_vswitch_meet_their_containers_by_af_xdp() {
    if possible(TOOLS) {
        everything(PacketIoMode::AfXdp);
    }
}

#[test]
fn sites_behind_open_vswitch_meet_their_containers_by_af_packet() {
    if possible(TOOLS) {
        everything(PacketIoMode::AfPacket);
    }
}

fn everything(packet_io: PacketIoMode) {
    let mut lab = Lab::start_gre(packet_io);
    eventually("all connections are up", || {
        let status = lab.status.borrow();
        status.tunnels.len() == 3 && status.tunnels.iter().all(|t| t.state == TunnelState::Connected)
    });
    pings(&lab);
    bulk(&lab);
    one_packet_that_needs_fragments(&lab);
    keepalive(&lab);
    storm(&lab);
    caps(&mut lab);
    let status = lab.status.borrow().clone();
    println!("{:?} {:?}", status.packet_io, status.ledger);
    let sums = |t: &penstock_gateway_proto::TunnelStatus| (t.received_bytes, t.transmitted_bytes);
    let [one, two] = [1, 2].map(|id| sums(status.tunnels.iter().find(|t| t.id == TunnelId(id)).unwrap()));
    assert!(one.0 > BULK as u64 && one.1 > BULK as u64, "{one:?}");
    assert!(two.0 > 0 && two.0 < 100_000 && two.1 < 100_000, "each connection counts for itself: {two:?}");
}

fn pings(lab: &Lab) {
    for tenant in ["1", "2"] {
        eventually("the switch knows its neighbour", || lab.ping(&format!("b{tenant}"), CONTAINER, &["-c", "1"]).0);
        for (from, to) in [("b", CONTAINER), ("c", SITE)] {
            let (ok, text) = lab.ping(&format!("{from}{tenant}"), to, &["-s", "1400"]);
            assert!(ok, "{from}{tenant} to {to}: {text}");
        }
    }
}

/// Both ways over TCP, to the container of the first tenant; the second one's has nothing on this port.
fn bulk(lab: &Lab) {
    let (ready, is_ready) = mpsc::channel();
    let ns = lab.ns("c1");
    let server = std::thread::spawn(move || {
        netns::run_in(&ns, || {
            let listener = TcpListener::bind((CONTAINER, 80)).unwrap();
            ready.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; BULK];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        })
        .unwrap();
    });
    is_ready.recv_timeout(Duration::from_secs(10)).unwrap();
    lab.run_in("b1", || {
        let started = Instant::now();
        let mut stream = connect().unwrap();
        let sent: Vec<u8> = (0..BULK).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut back = vec![0; BULK];
        let mut writer = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&sent).unwrap());
            stream.read_exact(&mut back).unwrap();
        });
        assert!(back == sent);
        println!("{} MiB there and back in {:?}", BULK >> 20, started.elapsed());
    });
    server.join().unwrap();
    let refused = lab.run_in("b2", || connect().unwrap_err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the other tenant's container of that address");
}

/// A download at 20 Mbit/s takes as long as that takes, through a policer that drops: TCP finds the rate.
fn caps(lab: &mut Lab) {
    const BYTES: usize = 3 << 20;
    const CAP: u64 = 20_000_000;
    lab.change(1, |g| g.tunnels[0].caps.transmitted = Some(CAP));
    let (ready, is_ready) = mpsc::channel();
    let ns = lab.ns("c1");
    let server = std::thread::spawn(move || {
        netns::run_in(&ns, || {
            let listener = TcpListener::bind((CONTAINER, 80)).unwrap();
            ready.send(()).unwrap();
            listener.accept().unwrap().0.write_all(&vec![7; BYTES]).unwrap();
        })
        .unwrap();
    });
    is_ready.recv_timeout(Duration::from_secs(10)).unwrap();
    let seconds = lab.run_in("b1", || {
        let mut stream = connect().unwrap();
        let started = Instant::now();
        stream.read_exact(&mut vec![0; BYTES]).unwrap();
        started.elapsed().as_secs_f64()
    });
    server.join().unwrap();
    let rate = BYTES as f64 * 8.0 / seconds;
    println!("{:.1} Mbit/s of {}", rate / 1e6, CAP / 1_000_000);
    assert!(rate < CAP as f64 * 1.1 && rate > CAP as f64 * 0.3, "{rate}");
    assert!(lab.status.borrow().ledger.dropped.contains_key("meter_exceeded"));
}

fn connect() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&format!("{CONTAINER}:80").parse().unwrap(), Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// 1,500 bytes that may be fragmented do not fit; the gateway cuts them.
fn one_packet_that_needs_fragments(lab: &Lab) {
    let (ok, text) = lab.ping("c1", SITE, &["-s", "1472", "-M", "dont"]);
    assert!(ok, "{text}");
    let (ok, text) = lab.ping("c1", SITE, &["-s", "1472", "-M", "do"]);
    assert!(!ok && text.contains("Frag needed") || text.contains("too long"), "{text}");
    // With the option to record the route, which only the first piece has.
    let (ok, text) = lab.ping("c1", SITE, &["-s", "1432", "-M", "dont", "-R"]);
    assert!(ok && text.contains("RR:"), "{text}");
}

/// What Scapy does in a namespace; its last line is `ok` or what went wrong.
fn scapy(lab: &Lab, role: &str, script: &str) {
    let head = format!(
        "import random, sys\nfrom scapy.all import *\nconf.verb = 0\nGW, ME, HOST = '{GATEWAY}', '{PEER}', '{CONTAINER}'\nconf.iface = 'eth0'\nmac = getmacbyip(GW)\n"
    );
    let script = head + script;
    let out = lab.run_in(role, || Command::new(PYTHON).args(["-c", &script]).output().unwrap());
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(text.trim(), "ok", "{}", String::from_utf8_lossy(&out.stderr));
}

/// A ping with key and sequence number, which has to come back with the key; a keepalive as IOS sends it.
fn keepalive(lab: &Lab) {
    scapy(
        lab,
        "p",
        "
outer = Ether(dst=mac)/IP(src=ME, dst=GW)
ping = GRE(key_present=1, key=9, seqnum_present=1, sequence_number=5)/IP(src='10.203.0.1', dst=HOST)/ICMP(id=77)/Raw(b'x'*300)
is_answer = lambda p: GRE in p and p[IP].src == GW and ICMP in p and p[ICMP].type in (0, 3)
sniffer = AsyncSniffer(iface='eth0', lfilter=is_answer, count=1, timeout=5); sniffer.start(); time.sleep(0.5)
sendp(outer/ping); sniffer.join()
got = sniffer.results
assert len(got) == 1 and got[0][ICMP].type == 0 and got[0][GRE].key == 9 and got[0][ICMP].id == 77, got
question = IP(src=GW, dst=ME, id=4711)/GRE(key_present=1, key=9, proto=0)
is_back = lambda p: IP in p and p[IP].id == 4711 and p[Ether].src == mac
sniffer = AsyncSniffer(iface='eth0', lfilter=is_back, count=1, timeout=5); sniffer.start(); time.sleep(0.5)
sendp(outer/GRE(key_present=1, key=9)/question); sniffer.join()
got = sniffer.results
assert len(got) == 1 and bytes(got[0][IP])[:28] == bytes(question)[:28], got
print('ok')
",
    );
}

/// Unknown keys, spoofed sources, other versions, noise; the kernel must not answer any of it.
fn storm(lab: &Lab) {
    scapy(
        lab,
        "p",
        "
outer = Ether(dst=mac)/IP(src=ME, dst=GW, proto=47)
inner = IP(src='10.203.0.1', dst=HOST)/TCP(dport=80)
random.seed(1)
frames = [outer/GRE(key_present=1, key=k)/inner for k in (7, 8, 10, 0)] + [outer/GRE()/inner]
frames += [outer/GRE(key_present=1, key=9)/IP(src=HOST, dst=HOST)/UDP(dport=80)]
frames += [outer/GRE(key_present=1, key=9, version=1)/inner, outer/GRE(key_present=1, key=9, proto=0x6558)/Ether()/inner]
frames += [outer/Raw(random.randbytes(n)) for n in (0, 1, 3, 4, 7, 8, 12, 30, 100) for _ in range(50)]
bad = GRE(chksum_present=1, key_present=1, key=9)/inner
bad = bytes(bad)[:4] + b'\\xde\\xad' + bytes(bad)[6:]
frames += [outer/Raw(bad)]
is_icmp = lambda p: IP in p and p[IP].src == GW and ICMP in p and GRE not in p
sniffer = AsyncSniffer(iface='eth0', lfilter=is_icmp, timeout=2); sniffer.start(); time.sleep(0.5)
sendp(frames); sniffer.join()
assert len(sniffer.results) == 0, sniffer.results.summary()
print('ok')
",
    );
    for tenant in [1, 2] {
        let (ok, text) = lab.ping(&format!("b{tenant}"), CONTAINER, &[]);
        assert!(ok, "after the storm: {text}");
    }
    eventually("each of it is counted for what it is", || {
        let dropped = lab.status.borrow().ledger.dropped.clone();
        let reasons = ["unknown_peer", "bad_tunnel_header", "bad_tunnel_checksum", "truncated_tunnel", "not_ours"];
        reasons.iter().all(|r| dropped.contains_key(*r)) && dropped.contains_key("not_in_allowed_prefixes")
    });
}
