use super::fixture::*;
use crate::explain;
use penstock_engine::{Ending, Explanation};
use penstock_model::{BackendId, DropReason, PortId};
use std::sync::Arc;

fn layers(e: &Explanation) -> Vec<&str> {
    e.steps.iter().map(|s| s.layer.as_str()).collect()
}

fn text<'a>(e: &'a Explanation, layer: &str) -> &'a str {
    e.steps.iter().find(|s| s.layer == layer).map_or("", |s| &s.text)
}

#[test]
fn an_explanation_names_each_step_and_the_engine_does_what_it_says() {
    let policy = Arc::new(build(&goal(&[1, 2, 3])));
    let mut mux = Mux::new(&goal(&[1, 2, 3]));
    for n in 0..50 {
        let frame = tcp(client(n), VIP, 80, SYN);
        let e = explain(&policy, &frame, PortId(0));
        assert_eq!(layers(&e), ["vip", "rule", "slot", "table", "backend", "encapsulation"]);
        let sent = mux.send(&frame).unwrap();
        let name = format!("web-{}", sent.backend());
        assert!(text(&e, "backend").starts_with(&name) && text(&e, "table").contains(&name), "{e:?}");
        assert_eq!(text(&e, "rule"), "loadBalancers/lb/loadBalancingRules/r1: tcp port 80");
        assert_eq!((e.ending, e.frame), (Ending::Transmit(PortId(0)), sent.frame));
    }
}

#[test]
fn an_explanation_says_why_a_moving_slot_goes_to_whom() {
    let before = goal(&[1, 2]);
    let after = changed(&before, &[1, 2, 3], &[1, 2]);
    let policy = Arc::new(build(&after));
    let n = (0..)
        .find(|n| layers(&explain(&policy, &tcp(client(*n), VIP, 80, SYN), PortId(0))).contains(&"affinity"))
        .unwrap();
    let new = explain(&policy, &tcp(client(n), VIP, 80, SYN), PortId(0));
    assert!(text(&new, "affinity").contains("opens a connection"), "{new:?}");
    assert!(text(&new, "backend").starts_with("web-3"));
    let old = explain(&policy, &tcp(client(n), VIP, 80, ACK), PortId(0));
    assert!(text(&old, "affinity").contains("previous owner"), "{old:?}");
    assert_ne!(text(&old, "backend"), text(&new, "backend"));
}

#[test]
fn an_explanation_of_a_drop_names_the_reason() {
    let policy = Arc::new(build(&goal(&[])));
    let e = explain(&policy, &tcp(client(1), VIP, 80, SYN), PortId(0));
    assert_eq!(
        (e.ending.clone(), text(&e, "backend")),
        (Ending::Drop(DropReason::NoHealthyBackend), "the pool has no healthy backend")
    );
    let e = explain(&policy, &[1, 2, 3], PortId(0));
    assert_eq!((e.ending.clone(), layers(&e)), (Ending::Drop(DropReason::TruncatedEthernet), vec!["parse"]));
    let e = explain(&policy, &tcp(client(1), "9.9.9.9", 80, SYN), PortId(0));
    assert_eq!((e.ending.clone(), text(&e, "vip")), (Ending::Pass, "9.9.9.9 is no virtual IP of this mux"));
    assert_eq!(policy.backend(BackendId(99)), None);
}
