use super::pair::p;
use crate::rib::{Path, PeerFacts, PeerId, Rib, Source};
use crate::wire::attributes::{Attributes, Origin};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

fn path(peer: u8, change: impl FnOnce(&mut Attributes)) -> Path {
    let mut a = Attributes::local(IpAddr::V4(Ipv4Addr::new(192, 0, 2, peer)));
    a.as_path.0 = vec![65000 + u32::from(peer)];
    change(&mut a);
    let facts = PeerFacts {
        peer: PeerId(u32::from(peer)),
        external: peer < 100,
        client: false,
        id: Ipv4Addr::new(10, 0, 0, peer),
        address: a.next_hop.global,
    };
    let told = Arc::new(a);
    Path { source: Source::Peer(Arc::new(facts)), path_id: 0, used: Ok(told.clone()), told, stale: false }
}

/// Which peer's path is chosen, and why not the others, in whatever order they come.
fn chosen(paths: &[Path]) -> (u32, Vec<String>) {
    let mut answers = Vec::new();
    for turn in 0..paths.len() {
        let mut rib = Rib::default();
        for i in 0..paths.len() {
            rib.insert(p("10.0.0.0/8"), paths[(turn + i) % paths.len()].clone());
        }
        let entry = rib.entry(p("10.0.0.0/8")).unwrap();
        let best = entry.best().unwrap().source.peer().unwrap().0;
        let mut why: Vec<String> = entry.paths().iter().filter_map(|x| entry.why_not(x)).map(str::to_owned).collect();
        why.sort();
        answers.push((best, why));
    }
    assert!(answers.windows(2).all(|w| w[0] == w[1]), "the order plays a part: {answers:?}");
    answers.remove(0)
}

#[test]
fn each_step_decides_in_its_turn() {
    let worse = |change: fn(&mut Attributes), why: &str| {
        // The first is better by its identifier, but for the change.
        assert_eq!(chosen(&[path(1, change), path(2, |_| ())]), (2, vec![why.to_owned()]));
    };
    worse(|a| a.local_pref = Some(99), "lower local preference");
    worse(|a| a.as_path.0.push(65100), "longer AS path");
    worse(|a| a.origin = Origin::Incomplete, "worse origin");
    worse(
        |a| {
            a.as_path.0 = vec![65002];
            a.med = Some(1);
        },
        "higher MED from the same AS",
    );
    assert_eq!(chosen(&[path(1, |_| ()), path(2, |_| ())]), (1, vec!["higher BGP identifier".to_owned()]));
    assert_eq!(chosen(&[path(101, |_| ()), path(2, |_| ())]), (2, vec!["from an internal peer".to_owned()]));
    let reflected = |n, cluster: usize| {
        path(n, |a| {
            a.originator = Some(Ipv4Addr::new(10, 0, 0, 1));
            a.cluster_list = vec![Ipv4Addr::new(10, 9, 9, 9); cluster];
        })
    };
    assert_eq!(chosen(&[reflected(101, 2), reflected(102, 1)]), (102, vec!["reflected more often".to_owned()]));
}

#[test]
fn meds_of_different_ases_are_not_compared_whatever_the_order() {
    let med = |n, neighbour: u32, med| {
        path(n, move |a| {
            a.as_path.0 = vec![neighbour];
            a.med = Some(med);
        })
    };
    // RFC 3345's kind of circle: 1 beats 2 by MED, 2 beats 3 and 3 beats 1 by identifier only.
    let (best, _) = chosen(&[med(3, 65010, 1), med(1, 65010, 5), med(2, 65020, 0)]);
    assert_eq!(best, 2);
}

#[test]
fn equal_paths_are_all_for_packets_to_be_spread_over() {
    let mut rib = Rib::default();
    for n in 1..=3 {
        rib.insert(p("10.0.0.0/8"), path(n, |a| a.as_path.0 = vec![65001]));
    }
    rib.insert(p("10.0.0.0/8"), path(4, |a| a.as_path.0 = vec![65001, 65001]));
    let entry = rib.entry(p("10.0.0.0/8")).unwrap();
    let mut spread: Vec<u32> = entry.multipath().filter_map(|x| x.source.peer()).map(|id| id.0).collect();
    spread.sort_unstable();
    assert_eq!(spread, [1, 2, 3]);
}
