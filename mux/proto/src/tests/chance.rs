use super::fixture::*;
use crate::explain;
use penstock_model::{BackendId, PortId, Underlay};
use std::sync::Arc;

fn ids<const N: usize>(list: [u32; N]) -> Vec<BackendId> {
    list.map(BackendId).to_vec()
}

/// A client whose slot the change to `goal` takes from `old` to 5.
fn moved(goal: &crate::MuxGoal, old: u32) -> u32 {
    let (mut new, mut earlier) = (Mux::new(goal), Mux::new(goal));
    let to = |mux: &mut Mux, n, flags| mux.backend(&tcp(client(n), VIP, 80, flags)).0;
    (0..5_000).find(|n| to(&mut new, *n, SYN) == 5 && to(&mut earlier, *n, ACK) == old).unwrap()
}

#[test]
fn what_may_be_an_older_flow_goes_to_the_previous_owner_and_names_the_one_of_now() {
    let after = changed(&goal(&[1, 3]), &[1, 3, 5], &[1, 3]);
    let n = moved(&after, 1);
    let mut mux = Mux::new(&after);
    let sent = mux.send(&tcp(client(n), VIP, 80, ACK)).unwrap();
    assert_eq!((sent.backend(), &sent.next), (BackendId(1), &ids([5])));
    assert_eq!(sent.vni, backend(1).dip.vni);
    let again = mux.send(&tcp(client(n), VIP, 80, ACK)).unwrap();
    assert_eq!(again.next, ids([5]), "its entry knows both");
}

#[test]
fn what_opens_a_connection_needs_no_second_chance_and_is_plain_vxlan() {
    let after = changed(&goal(&[1, 3]), &[1, 3, 5], &[1, 3]);
    let n = moved(&after, 3);
    let mut mux = Mux::new(&after);
    for flags in [SYN, ACK] {
        let sent = mux.send(&tcp(client(n), VIP, 80, flags)).unwrap();
        assert_eq!((sent.backend(), sent.outer.dst_port), (BackendId(5), 4789));
    }
}

#[test]
fn a_slot_that_moved_twice_names_all_of_its_owners() {
    let once = changed(&goal(&[1]), &[1, 3], &[1]);
    let twice = changed_again(&once, &[5, 7], &[1, 3]);
    let mut mux = Mux::new(&twice);
    let lists: std::collections::BTreeSet<Vec<u32>> = (0..3_000)
        .map(|n| mux.send(&tcp(client(n), VIP, 80, ACK)).unwrap())
        .map(|s| [vec![s.backend().0], s.next.iter().map(|b| b.0).collect()].concat())
        .collect();
    // The slots of 1 go to one of the new ones, those that 3 had from 1 to the other.
    assert_eq!(lists, [vec![1, 7], vec![3, 1, 5]].into_iter().collect());
}

#[test]
fn only_backends_of_one_network_are_named_together() {
    // Backends 1 and 2 are in different networks.
    let after = changed(&goal(&[1]), &[2], &[1]);
    let sent = Mux::new(&after).send(&tcp(client(1), VIP, 80, ACK)).unwrap();
    assert_eq!((sent.backend(), sent.next, sent.outer.dst_port), (BackendId(1), ids([]), 4789));
}

#[test]
fn an_entry_keeps_its_second_chance_after_the_change_has_settled_and_loses_the_dead() {
    let after = changed(&goal(&[1, 3]), &[1, 3, 5], &[1, 3]);
    let n = moved(&after, 3);
    let ack = tcp(client(n), VIP, 80, ACK);
    let mut mux = Mux::new(&after);
    for _ in 0..2 {
        assert_eq!(mux.send(&ack).unwrap().next, ids([5]));
    }
    mux.publish(&settled(&after));
    let sent = mux.send(&ack).unwrap();
    assert_eq!((sent.backend(), sent.next), (BackendId(3), ids([5])));
    // Other pools' changes give new numbers to new lists only.
    let mut other = changed(&settled(&after), &[1, 3, 7], &[1, 3]);
    mux.publish(&other);
    let sent = mux.send(&ack).unwrap();
    assert_eq!((sent.backend(), sent.next), (BackendId(3), ids([])), "5 serves no more");
    other = changed(&other, &[7], &[7]);
    mux.publish(&other);
    assert_eq!(mux.backend(&ack), BackendId(7));
}

#[test]
fn the_second_chance_follows_the_next_hop() {
    let after = changed(&goal(&[1, 3]), &[1, 3, 5], &[1, 3]);
    let n = moved(&after, 1);
    let blind = crate::Policy::build(&after, |_| None, Underlay(ip(OWN))).unwrap();
    let frame = tcp(client(n), VIP, 80, ACK);
    let ending = |policy| explain(&Arc::new(policy), &frame, PortId(0));
    let drop = penstock_engine::Ending::Drop(penstock_model::DropReason::NextHopUnresolved);
    assert_eq!(ending(blind.with_next_hops(|_| None)).ending, drop);
    let seen = ending(blind.with_next_hops(next_hop));
    assert_eq!(seen.ending, penstock_engine::Ending::Transmit(PortId(0)));
    let step = seen.steps.iter().find(|s| s.layer == "second chance").unwrap();
    assert!(step.text.ends_with("passes it to web-5 (10.0.0.5)"), "{step:?}");
}

#[test]
fn a_flow_keeps_its_second_chance_while_its_packets_go_by_it_however_long_and_often_slots_change() {
    const HOUR: u64 = 3600;
    let mut goal = changed(&goal(&[1, 3]), &[1, 3, 5], &[1, 3]);
    let n = moved(&goal, 3);
    let ack = tcp(client(n), VIP, 80, ACK);
    let mut mux = Mux::new(&goal);
    for hour in 1..20 {
        mux.now = penstock_model::Nanos::from_secs(hour * HOUR);
        for _ in 0..2 {
            let sent = mux.send(&ack).unwrap();
            assert_eq!((sent.backend(), sent.next), (BackendId(3), ids([5])), "hour {hour}");
        }
        // 7 comes and goes: lists of its own, whose numbers are given back and taken anew.
        goal = settled(&goal);
        mux.publish(&goal);
        let members: &[u32] = if hour % 2 == 1 { &[1, 3, 5, 7] } else { &[1, 3, 5] };
        goal = changed(&goal, members, &[1, 3, 5]);
        mux.publish(&goal);
    }
}

#[test]
fn an_entry_that_loses_one_of_three_keeps_the_others_though_no_slot_names_them_so() {
    let once = changed(&goal(&[1]), &[1, 3], &[1]);
    let twice = changed_again(&once, &[5, 7], &[1, 3]);
    let mut mux = Mux::new(&twice);
    let all = ids([1, 5]);
    let ack = (0..3_000).map(|n| tcp(client(n), VIP, 80, ACK)).find(|f| mux.send(f).unwrap().next == all).unwrap();
    let sent = mux.send(&ack).unwrap();
    assert_eq!((sent.backend(), sent.next), (BackendId(3), all));
    // 5 is gone. Slots name 1 before 3.
    mux.publish(&changed(&twice, &[3, 7], &[1, 7]));
    let sent = mux.send(&ack).unwrap();
    assert_eq!((sent.backend(), sent.next), (BackendId(3), ids([1])));
}
