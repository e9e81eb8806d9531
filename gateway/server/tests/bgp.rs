//! Routes exchanged with sites, inside their tunnels: two tenants whose prefixes, peers and routers have equal addresses; FRR at
//! the one's site and BIRD at the other's, both behind `wireguard-go`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod lab;
use lab::*;
use penstock_gateway_proto::TenantRouter;
use penstock_gateway_server::PacketIoMode;
use penstock_model::{TunnelId, Vni};
use penstock_routing_proto::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

const ROUTER: &str = "10.1.0.254";
const OWN: &str = "10.1.0.0/16";
/// What both sites tell, and somebody there.
const TOLD: &str = "10.210.0.0/16";
const THERE: &str = "10.210.0.9";
const REFUSED: &str = "172.16.5.0/24";
const OUR_AS: u32 = 64512;
const SITE_AS: u32 = 65010;
const WAIT: Duration = Duration::from_secs(10);

fn frr() -> String {
    format!(
        "router bgp {SITE_AS}\n bgp router-id {SITE}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         neighbor {ROUTER} remote-as {OUR_AS}\n neighbor {ROUTER} ebgp-multihop 255\n neighbor {ROUTER} timers 3 9\n \
         neighbor {ROUTER} timers connect 1\n neighbor {ROUTER} update-source {SITE}\n address-family ipv4 unicast\n  \
         network {TOLD}\n  network {REFUSED}\n exit-address-family\n"
    )
}

fn bird() -> String {
    format!(
        "router id {SITE};\nprotocol device {{}}\nprotocol static {{ ipv4; route {TOLD} blackhole; }}\n\
         protocol bgp uplink {{ local {SITE} as {SITE_AS}; neighbor {ROUTER} as {OUR_AS}; multihop; hold time 9; \
         connect retry time 1; error wait time 1, 2; connect delay time 1; ipv4 {{ import all; export all; }}; }}\n"
    )
}

fn p(s: &str) -> Prefix {
    s.parse().unwrap()
}

fn router(tenant: u32, export: Set) -> TenantRouter {
    let accepting = |prefix: &str, set| {
        let matches = Match { prefixes: vec![PrefixRange::within(p(prefix))], ..Match::default() };
        Some(Policy { rules: vec![Rule { matches, accept: true, set }] })
    };
    let peer = PeerGoal {
        local_address: Some(ROUTER.parse().unwrap()),
        hold_seconds: 9,
        max_prefixes: Some(100),
        import: accepting("10.208.0.0/12", Set::default()),
        export: accepting(OWN, export),
        ..PeerGoal::new(format!("vgw{tenant}/peer"), SITE.parse().unwrap(), SITE_AS)
    };
    TenantRouter {
        name: format!("vgw{tenant}/router"),
        vni: Vni::new(vni(tenant)).unwrap(),
        sites: [(peer.name.clone(), TunnelId(tenant))].into(),
        goal: RouterGoal { local_as: OUR_AS, peers: vec![peer], ..RouterGoal::default() },
        own: [p(OWN)].into(),
    }
}

fn status(lab: &Lab, tenant: u32) -> RouterStatus {
    let name = format!("vgw{tenant}/router");
    let status = lab.status.borrow();
    status.routers.iter().find(|r| r.name == name).map(|r| r.status.clone()).unwrap_or_default()
}

fn is_up(lab: &Lab, tenant: u32) -> bool {
    status(lab, tenant).peers.iter().any(|p| p.state == SessionState::Established)
}

fn route(lab: &Lab, tenant: u32, prefix: &str) -> Option<RouteStatus> {
    status(lab, tenant).routes.into_iter().find(|r| r.prefix == p(prefix))
}

/// Which site a container reaches at the address that both have.
fn reached(lab: &Lab, tenant: u32) -> u8 {
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let site = scope.spawn(move || {
            lab.run_in(&format!("b{tenant}"), || {
                let listener = TcpListener::bind((THERE, 80)).unwrap();
                ready.send(()).unwrap();
                listener.accept().unwrap().0.write_all(&[tenant as u8]).unwrap();
            });
        });
        is_ready.recv_timeout(WAIT).unwrap();
        let got = lab.run_in(&format!("c{tenant}"), || {
            let to = SocketAddr::new(THERE.parse().unwrap(), 80);
            let mut stream = TcpStream::connect_timeout(&to, WAIT).unwrap();
            stream.set_read_timeout(Some(WAIT)).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            byte[0]
        });
        site.join().unwrap();
        got
    })
}

#[test]
fn two_tenants_of_equal_addresses_exchange_routes_with_their_sites() {
    if !possible(&["ip", "wg", "wireguard-go", "ping", "vtysh", "/usr/lib/frr/bgpd", "/usr/sbin/bird"]) {
        return;
    }
    let mut lab = Lab::start(PacketIoMode::AfPacket);
    for tenant in [1, 2] {
        lab.ip(&format!("b{tenant}"), &format!("addr add {THERE}/32 dev lo"));
        lab.ip(&format!("b{tenant}"), "link set lo up");
    }
    lab.frr("b1", &frr());
    lab.bird("b2", &bird());
    assert!(!lab.ping("c1", THERE, &["-c", "1"]).0, "nothing leads there yet");
    lab.change(1, |g| {
        g.routers = vec![router(1, Set { med: Some(50), prepend: 2, ..Set::default() }), router(2, Set::default())];
    });

    for tenant in [1, 2] {
        eventually(&format!("the session of tenant {tenant}"), || is_up(&lab, tenant));
        eventually(&format!("tenant {tenant} reaches what its site has told"), || {
            lab.ping(&format!("c{tenant}"), THERE, &["-c", "1"]).0
        });
        assert_eq!(reached(&lab, tenant), tenant as u8, "its own site");
    }
    told_with_policy(&lab);
    what_is_refused_is_shown(&lab);
    a_change_of_policy_keeps_the_session(&mut lab);

    // One site's router dies: its routes go, and nobody else's.
    lab.kill_bgpd("b1");
    eventually("the route is withdrawn", || !lab.ping("c1", THERE, &["-c", "1"]).0);
    assert!(lab.ping("c1", SITE, &[]).0, "the site itself is reached as before");
    assert!(lab.ping("c2", THERE, &[]).0, "and the other tenant's route stands");
    assert!(is_up(&lab, 2) && !is_up(&lab, 1));

    // A router that is taken away takes its routes along, after a word to the peer.
    lab.change(2, |g| g.routers.retain(|r| r.name == "vgw1/router"));
    eventually("its routes are gone", || !lab.ping("c2", THERE, &["-c", "1"]).0);
    eventually("the peer was told", || {
        lab.birdc("b2", "show protocols all uplink").contains("Administrative shutdown")
    });
}

fn told_with_policy(lab: &Lab) {
    let json = || -> serde_json::Value {
        serde_json::from_str(&lab.vtysh("b1", &format!("show bgp ipv4 unicast {OWN} json"))).unwrap_or_default()
    };
    eventually("FRR has the tenant's network", || json()["paths"].as_array().is_some_and(|p| !p.is_empty()));
    let path = &json()["paths"][0];
    assert_eq!(path["metric"], 50, "{path}");
    assert_eq!(path["aspath"]["string"], format!("{OUR_AS} {OUR_AS} {OUR_AS}"));
    assert_eq!(path["nexthops"][0]["ip"], ROUTER);
    eventually("BIRD has it", || {
        lab.birdc("b2", &format!("show route {OWN} all")).contains(&format!("BGP.as_path: {OUR_AS}\n"))
    });
}

fn what_is_refused_is_shown(lab: &Lab) {
    eventually("a refused route is shown", || route(lab, 1, REFUSED).is_some());
    let refused = route(lab, 1, REFUSED).unwrap();
    assert_eq!(refused.paths[0].why_not.as_deref(), Some("the import policy refuses it"));
    assert!(!lab.ping("c1", "172.16.5.1", &["-c", "1"]).0);
    let back = route(lab, 1, TOLD).unwrap();
    assert!(back.paths[0].best && back.advertised_to.is_empty());
    assert_eq!(back.not_advertised[0].1, "its path has the peer's AS in it");
}

fn a_change_of_policy_keeps_the_session(lab: &mut Lab) {
    let established = status(lab, 1).peers[0].established;
    assert!(established > 0);
    let original = lab.goal.routers[0].clone();
    lab.change(1, |g| g.routers[0].goal.peers[0].import = Some(Policy::default()));
    eventually("nothing is taken any more", || !lab.ping("c1", THERE, &["-c", "1"]).0);
    lab.change(1, |g| g.routers[0] = original);
    eventually("and taken again", || lab.ping("c1", THERE, &["-c", "1"]).0);
    assert_eq!(status(lab, 1).peers[0].established, established);
}
