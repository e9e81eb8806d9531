use super::fixture::*;
use crate::{MuxGoal, Policy, SnatBlock, explain};
use penstock_model::{BackendId, DropReason, PortId, Protocol, Underlay, Verdict};
use std::net::SocketAddr;
use std::sync::Arc;

const ONLY_OUT: &str = "203.0.113.77";

fn block(vip: &str, first: u16, backend: u32) -> SnatBlock {
    SnatBlock { vip: ip(vip), first, shift: 6, backend: BackendId(backend) }
}

fn leased() -> MuxGoal {
    let snat = vec![block(VIP, 1024, 3), block(VIP, 1088, 4), block(ONLY_OUT, 65_472, 5), block(VIP6, 2048, 6)];
    MuxGoal { snat, ..goal(&[1, 2]) }
}

fn server(n: u32) -> SocketAddr {
    SocketAddr::new(client(n).ip(), 443)
}

#[test]
fn answers_go_to_the_container_that_has_leased_their_port() {
    let mut mux = Mux::new(&leased());
    for (port, backend) in [(1024, 3), (1087, 3), (1088, 4), (1151, 4)] {
        for frame in [tcp(server(9), VIP, port, ACK), udp(server(9), VIP, port)] {
            assert_eq!(mux.backend(&frame), BackendId(backend), "port {port}");
        }
    }
    assert_eq!(mux.backend(&tcp(server(9), ONLY_OUT, 65_535, ACK)), BackendId(5));
    let far6 = SocketAddr::new(client6(9).ip(), 443);
    assert_eq!(mux.backend(&tcp(far6, VIP6, 2050, ACK)), BackendId(6));
    assert_eq!(mux.port.flows(), 0, "nothing is remembered");
    assert!(build(&leased()).vips().contains(&ip(ONLY_OUT)), "announced and steered like any other");
}

/// "Too big" about what left by a leased port towards the server.
fn too_big(port: u16) -> Vec<u8> {
    let sent = tcp(SocketAddr::new(ip(VIP), port), &server(9).ip().to_string(), 443, ACK);
    let message = [&[3, 4, 0, 0, 0, 0, 5, 20], &sent[14..14 + 28]].concat();
    packet(ip("198.18.0.1"), ip(VIP), Protocol::ICMP, message, Some(2))
}

#[test]
fn an_error_about_what_left_by_a_leased_port_goes_to_the_container_that_has_it() {
    let mut mux = Mux::new(&leased());
    assert_eq!(mux.backend(&too_big(1030)), BackendId(3));
    assert_eq!(mux.backend(&too_big(1100)), BackendId(4));
    assert_eq!(mux.send(&too_big(1152)), Err(DropReason::NoReverseMapping));
    let told = explain(&Arc::new(build(&leased())), &too_big(1030), PortId(0));
    assert!(told.steps.iter().any(|s| s.layer == "icmp" && s.text.contains("web-3")), "{:?}", told.steps);
}

#[test]
fn ports_that_nobody_has_leased_lead_nowhere_and_services_come_first() {
    let mut mux = Mux::new(&leased());
    for port in [1023, 1152, 2048] {
        assert_eq!(mux.send(&tcp(server(9), VIP, port, ACK)), Err(DropReason::NoServiceOnPort));
    }
    let mut taken = leased();
    taken.services[0].port = 1030;
    assert!(Mux::new(&taken).backend(&tcp(server(9), VIP, 1030, SYN)).0 < 3);
}

#[test]
fn an_echo_reply_goes_by_its_identifier_and_a_request_is_still_answered() {
    let mut mux = Mux::new(&leased());
    let echo = |kind: u8, id: u16| {
        let body = [vec![kind, 0, 0, 0], id.to_be_bytes().to_vec(), vec![0, 1]].concat();
        packet(server(9).ip(), ip(VIP), Protocol::ICMP, body, Some(2))
    };
    assert_eq!(mux.backend(&echo(0, 1090)), BackendId(4));
    assert_eq!(mux.run(&echo(8, 1090)).0, Verdict::Transmit(PortId(0)));
    assert_eq!(mux.run(&echo(0, 5000)).0, Verdict::Drop(DropReason::NoServiceOnPort));
}

#[test]
fn the_explanation_names_the_block_and_its_container() {
    let told = explain(&Arc::new(build(&leased())), &tcp(server(9), VIP, 1100, ACK), PortId(0));
    let step = told.steps.iter().find(|s| s.layer == "snat").unwrap();
    assert_eq!(step.text, "ports 1088 to 1151 are leased to web-4 (10.0.0.4)");
}

#[test]
fn blocks_that_contradict_each_other_are_refused() {
    let refused = |change: fn(&mut MuxGoal)| {
        let mut goal = leased();
        change(&mut goal);
        Policy::build(&goal, next_hop, Underlay(ip(OWN))).unwrap_err().to_string()
    };
    assert!(refused(|g| g.snat[1].first = 1024).contains("snat[1].first: 203.0.113.10 port 1024 is leased twice"));
    assert!(refused(|g| g.snat[1].shift = 5).contains("snat[1].shift"));
    assert!(refused(|g| g.snat[0].first = 1025).contains("snat[0].first: 1025 is not the first port"));
    assert!(refused(|g| g.snat[2].backend = BackendId(99)).contains("snat[2].backend: there is no backend 99"));
    assert!(refused(|g| g.snat[2].vip = ip(OWN)).contains("snat[2].vip"));
}
