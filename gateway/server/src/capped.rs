//! How many packets each cap has refused, since this process began.
use penstock_flow::Meter;
use penstock_gateway_proto::Direction;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The counts of all caps that are or were. A meter counts for itself, and is another one when its rate changes; its number goes
/// to another connection when its cap is taken away. So each count is that of a connection, by name, and goes on from meter to
/// meter.
#[derive(Debug, Default)]
pub(crate) struct Capped {
    ways: Vec<Way>,
    /// What was counted until the meters were last replaced.
    until_now: BTreeMap<(Arc<str>, Direction), u64>,
}

/// One way of a connection that has a cap.
#[derive(Debug)]
struct Way {
    tunnel: Arc<str>,
    direction: Direction,
    meter: u16,
    /// How far the count is ahead of the meter's own, modulo 2^64: behind, where the number was another's before.
    ahead: u64,
}

impl Capped {
    /// Keeps what `meters`, which are about to be replaced, have counted.
    pub(crate) fn close(&mut self, meters: &[Meter]) {
        for way in std::mem::take(&mut self.ways) {
            let count = way.count(meters);
            self.until_now.insert((way.tunnel, way.direction), count);
        }
    }

    /// Counts from now on by `meters`, which are numbered as `ways` say.
    pub(crate) fn open<'a>(&mut self, ways: impl Iterator<Item = (&'a str, Direction, u16)>, meters: &[Meter]) {
        self.ways.extend(ways.map(|(tunnel, direction, meter)| {
            let key = (Arc::from(tunnel), direction);
            let until_now = self.until_now.get(&key).copied().unwrap_or(0);
            Way { tunnel: key.0, direction, meter, ahead: until_now.wrapping_sub(refused(meters, meter)) }
        }));
    }

    /// Packets that each cap in force has refused.
    pub(crate) fn counts(&self, meters: &[Meter]) -> impl Iterator<Item = (Arc<str>, Direction, u64)> {
        self.ways.iter().map(|way| (Arc::clone(&way.tunnel), way.direction, way.count(meters)))
    }
}

impl Way {
    fn count(&self, meters: &[Meter]) -> u64 {
        self.ahead.wrapping_add(refused(meters, self.meter))
    }
}

fn refused(meters: &[Meter], number: u16) -> u64 {
    meters.get(usize::from(number)).map_or(0, Meter::refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::TunnelTable;
    use crate::worker::Path;
    use arc_swap::ArcSwap;
    use penstock_engine::{Port, Resolver};
    use penstock_flow::FlowHasher;
    use penstock_gateway_proto::*;
    use penstock_model::*;
    use penstock_policy::*;
    use penstock_wire::build::FrameBuilder;
    use penstock_wire::{checksum, gre::GreOptions};
    use std::net::IpAddr;

    const OWN: &str = "192.0.2.1";
    const PEER: &str = "198.51.100.9";
    const HOST: &str = "192.0.2.10";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A meter that has refused so many packets.
    fn meter(refused: u64) -> Meter {
        let mut meter = Meter::new(8, 1, Nanos(0));
        assert!(meter.admit(1, Nanos(0)));
        for _ in 0..refused {
            assert!(!meter.admit(1, Nanos(0)));
        }
        meter
    }

    fn counts(capped: &Capped, meters: &[Meter]) -> Vec<(String, u64)> {
        capped.counts(meters).map(|(tunnel, _, n)| (tunnel.to_string(), n)).collect()
    }

    /// From these meters to those.
    fn replace(capped: &mut Capped, old: &[Meter], ways: &[(&str, u16)], new: &[Meter]) {
        capped.close(old);
        capped.open(ways.iter().map(|(name, n)| (*name, Direction::Received, *n)), new);
        assert_eq!(counts(capped, new).len(), ways.len());
    }

    fn of(name: &str, count: u64) -> (String, u64) {
        (name.to_owned(), count)
    }

    #[test]
    fn a_count_goes_on_when_its_cap_changes_and_is_nobody_elses_when_the_number_is() {
        let mut capped = Capped::default();
        replace(&mut capped, &[], &[("a", 0), ("b", 1)], &[meter(0), meter(0)]);
        assert_eq!(counts(&capped, &[meter(5), meter(1)]), [of("a", 5), of("b", 1)]);
        // Another cap is another meter; that of `b` stays.
        replace(&mut capped, &[meter(5), meter(1)], &[("a", 0), ("b", 1)], &[meter(0), meter(1)]);
        assert_eq!(counts(&capped, &[meter(2), meter(3)]), [of("a", 7), of("b", 3)]);
        // The cap of `a` is taken away, and its number goes to `c`, whose rate is the same: the meter is as it was.
        replace(&mut capped, &[meter(2), meter(3)], &[("c", 0), ("b", 1)], &[meter(2), meter(3)]);
        assert_eq!(counts(&capped, &[meter(3), meter(3)]), [of("c", 1), of("b", 3)]);
        // And `a` has one again.
        replace(&mut capped, &[meter(3), meter(3)], &[("c", 0), ("a", 2)], &[meter(3), meter(3), meter(0)]);
        assert_eq!(counts(&capped, &[meter(4), meter(3), meter(1)]), [of("c", 2), of("a", 8)]);
        // Its numbers may end before the last one does.
        replace(&mut capped, &[meter(4), meter(3), meter(1)], &[("b", 0)], &[meter(0)]);
        assert_eq!(counts(&capped, &[meter(1)]), [of("b", 4)]);
    }

    /// One container, and one site by GRE that may send so many bits a second.
    fn goal(received: u64) -> GatewayGoal {
        let (vni, mac) = (Vni::new(5000).unwrap(), Mac([2, 0, 0, 0, 0, 4]));
        let prefix: ipnetwork::IpNetwork = "10.200.0.0/16".parse().unwrap();
        let network = VirtualNetwork {
            name: "vnet".into(),
            tenant: TenantId(1),
            vni,
            epoch: Epoch(1),
            prefixes: vec!["10.1.0.0/16".parse().unwrap()],
            subnets: vec!["10.1.0.0/24".parse().unwrap()],
            endpoints: vec![Endpoint {
                addr: Overlay(ip("10.1.0.4")),
                mac,
                host: Underlay(ip(HOST)),
                acl: None,
                network_interface: "nic".into(),
            }],
            routes: vec![Route { prefix, next_hop: NextHop::Tunnel(TunnelId(1)) }],
            tables: Vec::new(),
        };
        let tunnel = Tunnel {
            id: TunnelId(1),
            name: "site".into(),
            tenant: TenantId(1),
            prefixes: vec![prefix],
            kind: TunnelKind::Gre { peer: Underlay(ip(PEER)), key: Some(7), checksum: false },
            caps: Caps { received: Some(received), transmitted: None },
            nat: TunnelNat::default(),
        };
        GatewayGoal { networks: vec![network], tunnels: vec![tunnel], ..GatewayGoal::default() }
    }

    /// 1,000 bytes in GRE from the site to the container.
    fn frame() -> Vec<u8> {
        let inner = FrameBuilder::udp("10.200.0.7:1", "10.1.0.4:2").payload(&[7; 972]).build().split_off(14);
        let mut gre = vec![0; 8];
        gre.extend(inner);
        assert!(GreOptions { key: Some(7), checksum: false }.write(&mut gre, 0x0800));
        let [hi, lo] = (20 + gre.len() as u16).to_be_bytes();
        let mut outer = vec![0x45, 0, hi, lo, 0, 1, 0x40, 0, 64, Protocol::GRE.0, 0, 0, 198, 51, 100, 9, 192, 0, 2, 1];
        let sum = checksum::finish(checksum::sum(&outer, 0)).to_be_bytes();
        outer[10..12].copy_from_slice(&sum);
        [&[0; 12][..], &[8, 0], &outer, &gre].concat()
    }

    #[test]
    fn a_path_goes_on_counting_when_a_cap_changes() {
        let hop = |_: IpAddr| Some(UnderlayHop { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]) });
        let build = |goal: &GatewayGoal, previous: Option<&Policy>| {
            Policy::build(goal, Underlay(ip(OWN)), crate::ports::UNDERLAY, hop, previous).unwrap()
        };
        let published = Arc::new(ArcSwap::from_pointee(build(&goal(1000), None)));
        let tunnels = TunnelTable::new(ip(OWN), Arc::new(hop));
        let resolver = GatewayResolver::new(Arc::clone(&published), FlowHasher::new([3; 16]), tunnels);
        let mut path = Path::new(Port::new(resolver, flow_table(64, 64)));
        path.follow_policy(Nanos(0));
        // A tenth of a second of the rate, but at least 30,000 bytes at once.
        for (round, refused) in [70, 170, 240, 340].into_iter().enumerate() {
            if round == 2 {
                let next = build(&goal(2000), Some(&published.load()));
                published.store(Arc::new(next));
                path.engine.resolver_mut().refresh(Nanos(0));
                path.follow_policy(Nanos(0));
            }
            for _ in 0..100 {
                let frame = frame();
                let mut buffer = vec![0; HEADROOM + frame.len() + 64];
                buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(&frame);
                let packet = Packet::new(&mut buffer, HEADROOM, frame.len(), crate::ports::UNDERLAY).unwrap();
                path.handle_batch(&mut [packet], Nanos(0));
            }
            assert_eq!(path.capped().collect::<Vec<_>>(), [("site".into(), Direction::Received, refused)]);
        }
    }
}
