//! Who reaches whom, and who does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use penstock_gateway_proto::*;
use penstock_model::*;
use penstock_policy::*;
use penstock_wire::TcpFlags;
use std::sync::Arc;

const SYN: u8 = TcpFlags::SYN;
const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
const ACK: u8 = TcpFlags::ACK;

#[test]
fn tenants_with_identical_addresses_meet_only_their_own_in_every_direction() {
    let mut gw = Gateway::new(&goal());
    for round in 0..2 {
        let (opens, answers) = if round == 0 { (SYN, SYN_ACK) } else { (ACK, ACK) };
        for tenant in [1, 2] {
            let (verdict, frame) = gw.site_sends(tenant, &tcp(SITE, 4000, CONTAINER, 80, opens));
            assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
            let (host, got, mac, packet) = open(&frame);
            assert_eq!((host, got, mac), (ip(HOST), vni(tenant), container_mac(tenant)));
            assert_eq!(ttl(&packet), 63);

            let (verdict, packet) = gw.host_sends(tenant, &tcp(CONTAINER, 80, SITE, 4000, answers));
            assert_eq!(verdict, Verdict::Tunnel(TunnelId(tenant)), "round {round}");
            assert_eq!(packet[..2], [0x45, 0], "a bare IP packet goes to the tunnel");

            let (verdict, _) = gw.host_sends(tenant, &tcp(CONTAINER, 5000, SITE, 443, opens));
            assert_eq!(verdict, Verdict::Tunnel(TunnelId(tenant)));
            let (verdict, frame) = gw.site_sends(tenant, &tcp(SITE, 443, CONTAINER, 5000, answers));
            assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
            assert_eq!(open(&frame).1, vni(tenant));
        }
    }
    assert_eq!(gw.port.flows(), 8, "two flows with two directions for each tenant");
    assert_eq!(gw.port.resolved(), 4, "decided once, replayed after, the answers included");
    for tenant in [1, 2] {
        let (from, to) = Policy::counters_of(TunnelId(tenant));
        assert_eq!(gw.port.counters()[from as usize].packets, 4);
        assert_eq!(gw.port.counters()[to as usize].packets, 4);
    }
}

#[test]
fn what_comes_from_a_site_goes_by_the_appliance_of_the_gateways_subnet() {
    const FIREWALL: Mac = Mac([2, 0, 0, 2, 0, 1]);
    let mut goal = goal();
    let firewall = Endpoint {
        addr: Overlay(ip("10.1.0.9")),
        mac: FIREWALL,
        host: Underlay(ip("192.0.2.11")),
        acl: None,
        network_interface: "firewall".into(),
    };
    let chain = |next_hop| UserRoute { name: "chain".into(), prefix: "10.1.0.0/16".parse().unwrap(), next_hop };
    let table = |hop| RouteTable { name: "t".into(), subnets: vec![], from_sites: true, routes: vec![chain(hop)] };
    goal.networks[0].endpoints.push(firewall);
    goal.networks[0].tables = vec![table(UserHop::Appliances(vec![Overlay(ip("10.1.0.9"))]))];
    let mut gw = Gateway::new(&goal);
    for flags in [SYN, ACK] {
        let (verdict, frame) = gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, flags));
        assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
        let (host, network, mac, _) = open(&frame);
        assert_eq!((host, network, mac), (ip("192.0.2.11"), vni(1), FIREWALL));
        // The answer comes from the appliance's host or the container's own: both are the fabric's.
        assert_eq!(gw.host_sends(1, &tcp(CONTAINER, 80, SITE, 4000, flags | ACK)).0, Verdict::Tunnel(TunnelId(1)));
        // And so does the answer to what the container opens.
        assert_eq!(gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 443, flags)).0, Verdict::Tunnel(TunnelId(1)));
        let (_, frame) = gw.site_sends(1, &tcp(SITE, 443, CONTAINER, 5000, flags | ACK));
        assert_eq!(open(&frame).2, FIREWALL);
        let (_, frame) = gw.site_sends(2, &tcp(SITE, 4000, CONTAINER, 80, flags));
        assert_eq!(open(&frame).2, container_mac(2), "the other tenant has no such route");
    }
    let port = Policy::port_of(TunnelId(1));
    let told = explain(&gw.published.load(), &ethernet(&tcp(SITE, 1, CONTAINER, 80, SYN)), port);
    assert!(told.steps.iter().any(|s| s.text.contains("route \"chain\" leads")), "{told:?}");
    goal.networks[0].tables = vec![table(UserHop::Discard)];
    gw.publish(&goal);
    let (verdict, _) = gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, ACK));
    assert_eq!(verdict, Verdict::Drop(DropReason::RouteDiscard), "in mid-flow");
}

/// A rule counts what it has decided in each network for itself, and goes on counting when the policy changes.
#[test]
fn rules_count_what_they_decide_and_note_what_is_logged() {
    let mut goal = goal();
    goal.acls[0].rules[0].log = true;
    let mut gw = Gateway::new(&goal);
    let (journal, notes) = AclJournal::new();
    gw.published.store(Arc::new(build(&goal, Some(&Policy::default().with_journal(journal))).unwrap()));
    for port in [4000, 4001] {
        gw.site_sends(1, &tcp(SITE, port, CONTAINER, 80, SYN));
        gw.site_sends(1, &tcp(SITE, port, CONTAINER, 80, ACK));
        gw.host_sends(2, &tcp(CONTAINER, port, SITE, 25, SYN));
    }
    let explained =
        explain(&gw.published.load(), &ethernet(&tcp(SITE, 1, CONTAINER, 80, SYN)), Policy::port_of(TunnelId(1)));
    assert!(explained.steps.iter().any(|s| s.text.contains("allows")), "{explained:?}");
    let decisions = |gw: &Gateway| -> Vec<String> {
        gw.published.load().acl_decisions().map(|(n, l, r, count)| format!("{n} {l} {r}: {count}")).collect()
    };
    assert_eq!(decisions(&gw), ["vnet1 web Inbound 80: 2", "vnet2 web Outbound 25: 2"], "and an explanation none");
    let noted: Vec<String> = notes.try_iter().map(|n| n.to_string()).collect();
    let one = |port| {
        format!(
            r#"rule "Inbound 80" of list "web" allows inbound in network "vnet1": tcp {SITE}:{port} -> {CONTAINER}:80"#
        )
    };
    assert_eq!(noted, [one(4000), one(4001)]);

    goal.acls[0].rules.insert(0, rule(AclAction::Deny, AclDirection::Inbound, 81));
    gw.publish(&goal);
    gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, ACK));
    assert_eq!(decisions(&gw)[0], "vnet1 web Inbound 80: 3");
    assert_eq!(notes.try_iter().count(), 1);
}

#[test]
fn the_answer_of_one_tenant_does_not_open_the_other() {
    let mut gw = Gateway::new(&goal());
    assert_eq!(gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 443, SYN)).0, Verdict::Tunnel(TunnelId(1)));
    let answer = tcp(SITE, 443, CONTAINER, 5000, SYN_ACK);
    assert_eq!(gw.site_sends(2, &answer).0, Verdict::Drop(DropReason::AclDenied));
    assert_eq!(gw.site_sends(1, &answer).0, Verdict::Transmit(UNDERLAY));
}

#[test]
fn a_site_cannot_send_with_an_address_that_is_not_its_own_even_along_a_known_flow() {
    let mut gw = Gateway::new(&goal());
    assert_eq!(gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 443, SYN)).0, Verdict::Tunnel(TunnelId(1)));
    let spoofed = tcp(CONTAINER, 5000, SITE, 443, ACK);
    assert_eq!(gw.site_sends(1, &spoofed).0, Verdict::Drop(DropReason::NotInAllowedPrefixes));
    let elsewhere = tcp("10.201.0.1", 1, CONTAINER, 80, SYN);
    assert_eq!(gw.site_sends(1, &elsewhere).0, Verdict::Drop(DropReason::NotInAllowedPrefixes));
}

#[test]
fn a_container_cannot_send_with_an_address_that_is_not_its_own_even_along_a_known_flow() {
    let mut gw = Gateway::new(&goal());
    assert_eq!(gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, SYN)).0, Verdict::Transmit(UNDERLAY));
    let spoofed = tcp(SITE, 4000, CONTAINER, 80, ACK);
    assert_eq!(gw.host_sends(1, &spoofed).0, Verdict::Drop(DropReason::SpoofedSource));
}

#[test]
fn only_the_hosts_of_the_fabric_may_speak_for_a_tenant() {
    let mut gw = Gateway::new(&goal());
    let packet = tcp(CONTAINER, 5000, SITE, 443, SYN);
    let (verdict, _) = gw.send(&vxlan("192.0.2.66", 1, &packet), UNDERLAY);
    assert_eq!(verdict, Verdict::Drop(DropReason::UntrustedUnderlaySource));
    let (verdict, _) = gw.send(&vxlan(HOST, 77, &packet), UNDERLAY);
    assert_eq!(verdict, Verdict::Drop(DropReason::UnknownVni));
    let (verdict, _) = gw.send(&ethernet(&packet), Policy::port_of(TunnelId(9)));
    assert_eq!(verdict, Verdict::Drop(DropReason::UnknownPort));
}

#[test]
fn access_rules_hold_in_both_directions_and_answers_pass() {
    let mut gw = Gateway::new(&goal());
    let denied = Verdict::Drop(DropReason::AclDenied);
    assert_eq!(gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 22, SYN)).0, denied);
    assert_eq!(gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 25, SYN)).0, denied);
    assert_eq!(gw.site_sends(1, &tcp(SITE, 443, CONTAINER, 5000, SYN_ACK)).0, denied, "no flow asked for it");
    assert_eq!(gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 443, SYN)).0, Verdict::Tunnel(TunnelId(1)));
    assert_eq!(gw.site_sends(1, &tcp(SITE, 443, CONTAINER, 5000, SYN_ACK)).0, Verdict::Transmit(UNDERLAY));
}

#[test]
fn a_changed_rule_takes_effect_in_mid_flow_for_its_tenant_alone() {
    let mut goal = goal();
    let mut gw = Gateway::new(&goal);
    for tenant in [1, 2] {
        assert_eq!(gw.site_sends(tenant, &tcp(SITE, 4000, CONTAINER, 80, SYN)).0, Verdict::Transmit(UNDERLAY));
    }
    let resolved = gw.port.resolved();
    goal.networks[0].epoch = Epoch(2);
    goal.acls[0].rules[0].action = AclAction::Deny;
    gw.publish(&goal);
    let denied = Verdict::Drop(DropReason::AclDenied);
    assert_eq!(gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, ACK)).0, denied);
    assert_eq!(
        gw.host_sends(1, &tcp(CONTAINER, 80, SITE, 4000, ACK)).0,
        denied,
        "the answers of a denied flow end with it"
    );
    assert_eq!(gw.site_sends(2, &tcp(SITE, 4000, CONTAINER, 80, ACK)).0, Verdict::Transmit(UNDERLAY));
    assert_eq!(gw.port.resolved(), resolved + 2, "the other tenant's flow is replayed");

    goal.networks[0].epoch = Epoch(3);
    goal.acls[0].rules[0].action = AclAction::Allow;
    gw.publish(&goal);
    assert_eq!(gw.host_sends(1, &tcp(CONTAINER, 80, SITE, 4000, ACK)).0, Verdict::Tunnel(TunnelId(1)));
}

#[test]
fn an_answer_is_still_an_answer_after_the_policy_changed() {
    let mut goal = goal();
    let mut gw = Gateway::new(&goal);
    assert_eq!(gw.host_sends(1, &tcp(CONTAINER, 5000, SITE, 443, SYN)).0, Verdict::Tunnel(TunnelId(1)));
    goal.networks[0].epoch = Epoch(9);
    gw.publish(&goal);
    assert_eq!(gw.site_sends(1, &tcp(SITE, 443, CONTAINER, 5000, SYN_ACK)).0, Verdict::Transmit(UNDERLAY));
}

#[test]
fn a_moved_container_is_followed_and_other_flows_keep_their_encapsulation() {
    let mut goal = goal();
    let mut gw = Gateway::new(&goal);
    for tenant in [1, 2] {
        gw.site_sends(tenant, &tcp(SITE, 4000, CONTAINER, 80, SYN));
    }
    goal.networks[0].epoch = Epoch(2);
    goal.networks[0].endpoints[0].host = Underlay(ip("192.0.2.5"));
    gw.publish(&goal);
    let (_, frame) = gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, ACK));
    assert_eq!(open(&frame).0, ip("192.0.2.5"));
    let (_, frame) = gw.site_sends(2, &tcp(SITE, 4000, CONTAINER, 80, ACK));
    let (host, got, ..) = open(&frame);
    assert_eq!((host, got), (ip(HOST), vni(2)));
}

#[test]
fn two_sites_of_a_tenant_reach_each_other() {
    let mut goal = goal();
    goal.tunnels.push(Tunnel { id: TunnelId(3), prefixes: vec!["10.210.0.0/16".parse().unwrap()], ..tunnel(1) });
    let TunnelKind::WireGuard { peer_public_key, .. } = &mut goal.tunnels[2].kind else { panic!() };
    *peer_public_key = [9; 32];
    goal.networks[0]
        .routes
        .push(Route { prefix: "10.210.0.0/16".parse().unwrap(), next_hop: NextHop::Tunnel(TunnelId(3)) });
    let mut gw = Gateway::new(&goal);
    assert_eq!(gw.site_sends(1, &tcp(SITE, 1, "10.210.0.1", 2, SYN)).0, Verdict::Tunnel(TunnelId(3)));
    assert_eq!(gw.site_sends(3, &tcp("10.210.0.1", 2, SITE, 1, SYN_ACK)).0, Verdict::Tunnel(TunnelId(1)));
    assert_eq!(gw.site_sends(1, &tcp(SITE, 1, SITE, 2, SYN)).0, Verdict::Drop(DropReason::NoRoute));
    assert_eq!(gw.site_sends(2, &tcp(SITE, 1, "10.210.0.1", 2, SYN)).0, Verdict::Drop(DropReason::NoRoute));
}

#[test]
fn a_host_whose_neighbour_is_not_resolved_is_said_so() {
    let published = std::sync::Arc::new(arc_swap::ArcSwap::from_pointee(
        Policy::build(&goal(), Underlay(ip(GATEWAY)), UNDERLAY, |_| None, None).unwrap(),
    ));
    let mut gw = Gateway::new(&goal());
    gw.published.store(published.load_full());
    let (verdict, _) = gw.site_sends(1, &tcp(SITE, 4000, CONTAINER, 80, SYN));
    assert_eq!(verdict, Verdict::Drop(DropReason::NextHopUnresolved));
    assert_eq!(gw.published.load().destinations().into_iter().collect::<Vec<_>>(), [ip(HOST)]);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut gw = Gateway::new(&goal());
    assert_eq!(gw.send(&ethernet(&tcp(HOST, 1, GATEWAY, 22, SYN)), UNDERLAY).0, Verdict::Pass);
    let other = gw.send(&ethernet(&tcp(HOST, 1, "192.0.2.99", 22, SYN)), UNDERLAY).0;
    assert_eq!(other, Verdict::Drop(DropReason::NotOurs));
}

#[test]
fn ipv6_goes_the_same_ways() {
    let mut goal = goal();
    let (container, site) = ("fd01::4", "fd99::7");
    for n in [0, 1] {
        let network = &mut goal.networks[n];
        let mut endpoint = network.endpoints[0].clone();
        endpoint.addr = Overlay(ip(container));
        network.endpoints.push(endpoint);
        let next_hop = NextHop::Tunnel(TunnelId(n as u32 + 1));
        network.routes.push(Route { prefix: "fd99::/48".parse().unwrap(), next_hop });
        goal.tunnels[n].prefixes.push("fd99::/48".parse().unwrap());
    }
    let mut gw = Gateway::new(&goal);
    for tenant in [1, 2] {
        let (verdict, frame) = gw.site_sends(tenant, &tcp6(site, 4000, container, 80, SYN));
        assert_eq!(verdict, Verdict::Transmit(UNDERLAY));
        let (_, got, mac, packet) = open(&frame);
        assert_eq!((got, mac, packet[7]), (vni(tenant), container_mac(tenant), 63));
        let (verdict, packet) = gw.host_sends(tenant, &tcp6(container, 80, site, 4000, SYN_ACK));
        assert_eq!((verdict, packet[0] >> 4), (Verdict::Tunnel(TunnelId(tenant)), 6));
        let denied = gw.site_sends(tenant, &tcp6(site, 4000, container, 22, SYN)).0;
        assert_eq!(denied, Verdict::Drop(DropReason::AclDenied));
        let spoofed = gw.site_sends(tenant, &tcp6("fd98::1", 4000, container, 80, SYN)).0;
        assert_eq!(spoofed, Verdict::Drop(DropReason::NotInAllowedPrefixes));
    }
}
