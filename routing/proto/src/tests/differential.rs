//! Our codec against one that others wrote.
use super::pair::p;
use crate::prefix::{Family, Prefix};
use crate::wire::attributes::{Attributes, Community, Dialect, Origin};
use crate::wire::message::{self, HEADER};
use crate::wire::open::{Capabilities, GracefulRestart, Open};
use crate::wire::update::{Agreed, Nlri, Update, announce, withdraw};
use bytes::BytesMut;
use proptest::prelude::*;
use rustbgpd_wire as other;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn agreed() -> Agreed {
    Agreed {
        dialect: Dialect { four_byte_as: true, external: false },
        families: Family::ALL.into(),
        extended_next_hop: true,
        paths_received: BTreeSet::new(),
        paths_sent: BTreeSet::new(),
    }
}

fn prefix4() -> impl Strategy<Value = Prefix> {
    (any::<u32>(), 0u8..=32).prop_map(|(a, l)| Prefix::new(IpAddr::V4(Ipv4Addr::from(a)), l).unwrap())
}

fn prefix6() -> impl Strategy<Value = Prefix> {
    (any::<u128>(), 0u8..=128).prop_map(|(a, l)| Prefix::new(IpAddr::V6(Ipv6Addr::from(a)), l).unwrap())
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let numbers = || prop::collection::vec(1u32.., 0..6);
    let words = || prop::collection::vec(any::<u32>(), 0..6);
    (numbers(), words(), words(), any::<Option<u32>>(), any::<u32>(), 0u8..3, any::<Option<u32>>()).prop_map(
        |(path, communities, clusters, med, preference, origin, originator)| {
            let mut a = Attributes::local(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
            a.as_path.0 = path;
            a.origin = [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(origin)];
            a.med = med;
            a.local_pref = Some(preference);
            a.large_communities = communities.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
            a.communities = communities.into_iter().map(Community).collect();
            a.cluster_list = clusters.into_iter().map(Ipv4Addr::from).collect();
            a.originator = originator.map(Ipv4Addr::from);
            a
        },
    )
}

fn routes(prefixes: Vec<Prefix>) -> Vec<Nlri> {
    prefixes.into_iter().map(|prefix| Nlri { prefix, path_id: 0 }).collect()
}

/// What the other codec reads in an UPDATE: prefixes with their text, and attributes as it names them.
fn read_by_other(message: &[u8]) -> other::UpdateMessage {
    let mut bytes = BytesMut::from(message).freeze();
    match other::decode_message(&mut bytes, 4096) {
        Ok(other::Message::Update(update)) => update,
        strange => panic!("{strange:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_we_announce_we_read_back_and_the_other_reads_the_same(
        a in attributes(), list in prop::collection::vec(prefix4(), 1..40)
    ) {
        let list = routes(list);
        let (message, taken) = announce(&a, &list, &agreed()).unwrap();
        prop_assert_eq!(taken, list.len());
        let update = Update::decode(&message[HEADER..], &agreed()).unwrap();
        prop_assert_eq!(update.malformed, None);
        prop_assert_eq!(&*update.announced[0].0, &a);
        prop_assert_eq!(&update.announced[0].1, &list);

        let parsed = read_by_other(&message).parse(true, false, &[]).unwrap();
        let theirs: Vec<String> = parsed.announced.iter().map(|n| n.prefix.to_string()).collect();
        let ours: Vec<String> = list.iter().map(|n| n.prefix.to_string()).collect();
        prop_assert_eq!(theirs, ours);
        let text = format!("{:?}", parsed.attributes);
        for asn in &a.as_path.0 {
            prop_assert!(text.contains(&asn.to_string()), "{} in {}", asn, text);
        }
        for community in &a.communities {
            prop_assert!(text.contains(&community.0.to_string()), "{} in {}", community.0, text);
        }
    }

    #[test]
    fn ipv6_and_withdrawals_are_read_back(
        a in attributes(), list in prop::collection::vec(prefix6(), 1..40), hop in any::<u128>()
    ) {
        let a = Attributes { next_hop: IpAddr::V6(Ipv6Addr::from(hop)).into(), ..a };
        let list = routes(list);
        let (message, _) = announce(&a, &list, &agreed()).unwrap();
        let update = Update::decode(&message[HEADER..], &agreed()).unwrap();
        prop_assert_eq!((&*update.announced[0].0, &update.announced[0].1), (&a, &list));
        prop_assert!(read_by_other(&message).parse(true, false, &[]).is_ok());
        let (message, taken) = withdraw(&list, &agreed());
        let update = Update::decode(&message[HEADER..], &agreed()).unwrap();
        prop_assert_eq!(&update.withdrawn[..], &list[..taken]);
        prop_assert!(read_by_other(&message).parse(true, false, &[]).is_ok());
    }

    /// No bytes make it panic, and of what is not understood nothing is announced.
    #[test]
    fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(update) = Update::decode(&bytes, &agreed()) {
            prop_assert!(update.malformed.is_none() || update.announced.is_empty());
        }
        let _ = Open::decode(&bytes);
        let _ = message::split(&bytes);
    }

    /// A message that one bit is changed in is understood by both, or at least does ours no harm.
    #[test]
    fn a_changed_bit_is_seen_alike(a in attributes(), list in prop::collection::vec(prefix4(), 1..4), at in 0usize..400, bit in 0u8..8) {
        let (mut message, _) = announce(&a, &routes(list), &agreed()).unwrap();
        let at = HEADER + at % (message.len() - HEADER);
        message[at] ^= 1 << bit;
        let ours = Update::decode(&message[HEADER..], &agreed());
        let mut bytes = BytesMut::from(&message[..]).freeze();
        let theirs = other::decode_message(&mut bytes, 4096);
        if let (Ok(ours), Ok(other::Message::Update(theirs))) = (&ours, &theirs)
            && let Ok(parsed) = theirs.parse(true, false, &[])
            && ours.malformed.is_none()
            && let Some((_, list)) = ours.announced.iter().find(|(_, l)| l[0].prefix.family() == Family::Ipv4)
        {
            let theirs: Vec<String> = parsed.announced.iter().map(|n| n.prefix.to_string()).collect();
            let ours: Vec<String> = list.iter().map(|n| n.prefix.to_string()).collect();
            prop_assert_eq!(theirs, ours);
        }
    }
}

#[test]
fn our_open_is_understood_by_the_other_codec() {
    let capabilities = Capabilities {
        families: Family::ALL.into(),
        four_byte_as: true,
        route_refresh: true,
        graceful_restart: Some(GracefulRestart {
            families: BTreeMap::from([(Family::Ipv4, true)]),
            seconds: 30,
            ..GracefulRestart::default()
        }),
        ..Capabilities::default()
    };
    let open = Open { asn: 4_200_000_000, hold_seconds: 90, id: Ipv4Addr::new(10, 0, 0, 1), capabilities };
    let mut bytes = BytesMut::from(&message::open(&open)[..]).freeze();
    let Ok(other::Message::Open(theirs)) = other::decode_message(&mut bytes, 4096) else { panic!("not an OPEN") };
    let text = format!("{theirs:?}");
    assert!(
        text.contains("4200000000") && text.contains("GracefulRestart") && text.contains("hold_time: 90"),
        "{text}"
    );
    assert_eq!(p("10.0.0.0/8").to_string(), "10.0.0.0/8");
}
