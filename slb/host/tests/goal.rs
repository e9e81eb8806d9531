//! Which goal states are refused, and what a new one leaves alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::*;
use penstock_model::*;
use penstock_policy::{AclId, NextHop, Route};
use penstock_slb_host::{AddressRange, HostGoal, Probe, ProbeKind};

#[test]
fn a_bad_goal_is_refused_by_the_name_of_its_field() {
    type Spoil = fn(&mut HostGoal);
    let cases: [(&str, Spoil); 18] = [
        ("networks[1].vni", |g| g.networks[1].vni = g.networks[0].vni),
        ("networks[0].routes[2].next_hop", |g| {
            g.networks[0]
                .routes
                .push(Route { prefix: "0.0.0.0/0".parse().unwrap(), next_hop: NextHop::Tunnel(TunnelId(1)) });
        }),
        ("networks.vnet1.endpoints[3].addr", |g| g.networks[0].endpoints[3].addr = g.networks[0].endpoints[1].addr),
        ("networks[0].endpoints[0].host", |g| g.networks[0].endpoints[0].host = Underlay(ip("2001:db8::1"))),
        // Another tenant's container, and one of the tenant's own that has another address.
        ("networks[0].endpoints[0].network_interface", |g| {
            g.networks[0].endpoints[..2].iter_mut().for_each(|e| e.network_interface = "t2-c2".to_owned());
        }),
        ("networks[1].endpoints[2].network_interface", |g| {
            for e in &mut g.networks[1].endpoints[2..4] {
                (e.network_interface, e.mac) = ("t2-c2".to_owned(), mac(2, 2));
            }
        }),
        ("networks[0].endpoints[3].network_interface", |g| g.ports[1].addresses.truncate(1)),
        ("site[0]", |g| g.site.push(AddressRange { first: ip("10.0.0.2"), last: ip("10.0.0.1") })),
        ("nat_exemptions[0]", |g| g.nat_exemptions.push(AddressRange { first: ip("10.0.0.2"), last: ip("::1") })),
        ("ports[0].vni", |g| g.ports[0].vni = Vni::new(1).unwrap()),
        ("ports[0].tenant", |g| g.ports[0].tenant = TenantId(2)),
        ("ports[0].acl", |g| g.ports[0].acl = Some(AclId(3))),
        ("ports[0].addresses", |g| g.ports[0].addresses.push("192.168.0.2/24".parse().unwrap())),
        ("ports[1].mac", |g| g.ports[1].mac = g.ports[0].mac),
        ("nat_rules[0].dip", |g| g.nat_rules[0].dip = Overlay(ip("10.0.0.3"))),
        ("nat_rules[1].vip", |g| g.nat_rules[1].vip = ip("198.51.100.1")),
        ("nat_rules[2].vip_port", |g| g.nat_rules.push(g.nat_rules[0].clone())),
        ("probes[0].dip", |g| {
            g.probes.push(Probe {
                name: "p".into(),
                network_interface: "t1-c2".into(),
                dip: Overlay(ip("10.0.0.3")),
                port: 1,
                kind: ProbeKind::Tcp,
                interval_seconds: 1,
                count: 1,
                rise: 1,
                hold_down_seconds: 0,
            });
        }),
    ];
    for (field, spoil) in cases {
        let mut bad = goal();
        spoil(&mut bad);
        assert_eq!(build(&bad, &empty(), false, 1).unwrap_err().field, field);
    }
    assert!(build(&goal(), &empty(), false, 1).is_ok());
}

#[test]
fn an_encapsulation_of_another_tenant_keeps_working_when_a_host_goes() {
    let mut host = Host::new(&goal());
    let frame = tcp(mac(2, 2), penstock_slb_host::ROUTER_MAC, "10.0.0.2:1", "10.0.0.12:2", ACK);
    let before = host.sent(port(2, 2), &frame, UNDERLAY);
    let resolved = host.engine.resolved();
    let mut smaller = goal();
    smaller.networks[0].endpoints.retain(|e| e.host.0 == ip(HOST));
    smaller.networks[0].routes.clear();
    smaller.networks[0].epoch = Epoch(2);
    host.publish(&smaller);
    let after = host.sent(port(2, 2), &frame, UNDERLAY);
    assert_eq!(unwrap_vxlan(&before), unwrap_vxlan(&after));
    assert_eq!(host.engine.resolved(), resolved);
}

#[test]
fn before_the_first_goal_nothing_passes_and_the_reason_says_so() {
    let mut host = Host::new(&HostGoal::default());
    let inner = tcp(mac(1, 12), mac(1, 2), "10.0.0.12:1", "10.0.0.2:2", SYN);
    assert_eq!(host.dropped(UNDERLAY, &vxlan(OTHER_HOST, vni(1), &inner)), DropReason::NoPolicy);
    assert_eq!(host.dropped(port(1, 2), &inner), DropReason::UnknownPort);
}
