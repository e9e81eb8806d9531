use super::*;
use penstock_model::{Dip, Mac, Overlay, Vni};

const T0: Nanos = Nanos::from_secs(1000);

fn vip(n: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, n])
}

fn plan(members: u32) -> Plan {
    let backend = |n: u32| BackendPlan {
        id: BackendId(n),
        name: format!("b{n}"),
        network_interface: format!("b{n}"),
        dip: Dip { vni: Vni::new(1).unwrap(), addr: Overlay(IpAddr::from(n.to_be_bytes())) },
        mac: Mac([2; 6]),
        host: Underlay(vip(200)),
    };
    Plan { backends: (0..members).map(backend).collect(), ..Plan::default() }
}

fn rule(vips: &[u8], members: impl IntoIterator<Item = u32>) -> OutboundIntent {
    OutboundIntent {
        name: "out".to_owned(),
        vips: vips.iter().map(|n| vip(*n)).collect(),
        members: members.into_iter().map(|n| format!("b{n}")).collect(),
    }
}

struct World {
    members: u32,
    host: u8,
    leases: Leases,
    services: BTreeSet<(IpAddr, u16)>,
    demand: BTreeMap<BackendId, Demand>,
    now: Nanos,
}

impl World {
    fn new() -> Self {
        let (members, host) = (600, 200);
        Self { members, host, leases: Leases::default(), services: BTreeSet::new(), demand: BTreeMap::new(), now: T0 }
    }

    fn step(&mut self, rules: &[OutboundIntent]) -> LeasePlan {
        let mut plan = plan(self.members);
        plan.backends.iter_mut().for_each(|b| b.host = Underlay(vip(self.host)));
        let plan = self.leases.update(rules, &self.services, &plan, &self.demand, self.now);
        let places: BTreeSet<_> = plan.leases.iter().map(|l| (l.vip, l.first)).collect();
        assert_eq!(places.len(), plan.leases.len(), "a block is leased twice");
        let kept = serde_json::to_string(&self.leases).unwrap();
        assert_eq!(serde_json::from_str::<Leases>(&kept).unwrap(), self.leases);
        plan
    }
}

fn of(plan: &LeasePlan, backend: u32) -> Vec<Lease> {
    plan.leases.iter().filter(|l| l.backend == BackendId(backend)).copied().collect()
}

#[test]
fn members_are_given_ports_at_first_by_their_number_and_keep_them() {
    let mut w = World::new();
    let first = w.step(&[rule(&[1], 0..3)]);
    assert!((0..3).all(|n| of(&first, n).len() == 16) && first.changed && first.short.is_empty());
    assert_eq!((first.leases[0].first, first.free[&vip(1)]), (1024, 1008 - 48));
    let again = w.step(&[rule(&[1], 0..3)]);
    assert_eq!((again.leases.clone(), again.changed), (first.leases, false));
    let more = w.step(&[rule(&[1], 0..120)]);
    assert!((0..3).all(|n| of(&more, n) == of(&again, n)), "who has more keeps it");
    assert!((3..120).all(|n| of(&more, n).len() == 4));
}

#[test]
fn several_virtual_ips_are_used_alike_and_ports_of_services_never() {
    let mut w = World::new();
    w.services.extend([(vip(1), 1030), (vip(2), 65_535), (vip(1), 443)]);
    let plan = w.step(&[rule(&[1, 2], 0..50)]);
    let count = |n| plan.leases.iter().filter(|l| l.vip == vip(n)).count();
    assert_eq!((count(1), count(2)), (400, 400));
    assert!(plan.leases.iter().all(|l| (l.vip, l.first) != (vip(1), 1024)));
    w.services.insert((vip(1), plan.leases[0].first + 7));
    let moved = w.step(&[rule(&[1, 2], 0..50)]);
    assert!(!moved.leases.contains(&plan.leases[0]) && moved.leases.len() == 800);
}

#[test]
fn who_runs_short_gets_twice_as_much_before_the_end() {
    let mut w = World::new();
    let rules = [rule(&[1], 0..2)];
    w.step(&rules);
    w.demand.insert(BackendId(0), Demand { claims: 80, strained: 10, exhausted: 0 });
    assert!(!w.step(&rules).changed, "one in eight is usual");
    w.demand.insert(BackendId(0), Demand { claims: 160, strained: 30, exhausted: 0 });
    let grown = w.step(&rules);
    assert_eq!((of(&grown, 0).len(), of(&grown, 1).len()), (32, 16));
    assert!(!w.step(&rules).changed, "the same counts are no new demand");
    w.demand.insert(BackendId(0), Demand { claims: 3, strained: 0, exhausted: 1 });
    assert_eq!(of(&w.step(&rules), 0).len(), 64, "a host that started anew counts from 0");
}

#[test]
fn a_few_claims_say_nothing_unless_one_found_no_port() {
    let mut w = World::new();
    let rules = [rule(&[1], 0..2)];
    w.step(&rules);
    let of_claims = |claims, strained, exhausted| Demand { claims, strained, exhausted };
    for n in 1..64 {
        w.demand.insert(BackendId(0), of_claims(n, n, 0));
        assert!(!w.step(&rules).changed, "{n} of {n}");
    }
    w.demand.insert(BackendId(0), of_claims(64, 64, 0));
    assert_eq!(of(&w.step(&rules), 0).len(), 32, "few at a time are judged together");
    w.demand.insert(BackendId(0), of_claims(65, 64, 1));
    assert_eq!(of(&w.step(&rules), 0).len(), 64);
}

#[test]
fn who_has_not_been_given_what_it_should_have_does_not_wish_for_more() {
    let mut w = World::new();
    let everybody = 0..600;
    w.step(&[rule(&[1], everybody.clone())]);
    let others = everybody.clone().take(408);
    w.demand = others.map(|n| (BackendId(n), Demand { claims: 9, strained: 0, exhausted: 9 })).collect();
    assert_eq!(w.step(&[rule(&[1], everybody.clone())]).free[&vip(1)], 0);
    for n in 1..10 {
        w.demand.insert(BackendId(599), Demand { claims: n, strained: 0, exhausted: n });
        let plan = w.step(&[rule(&[1], everybody.clone())]);
        assert_eq!((of(&plan, 599).len(), plan.short["out"]), (1, 1));
    }
    let wider = w.step(&[rule(&[1, 2], everybody.clone())]);
    assert_eq!((of(&wider, 599).len(), wider.free[&vip(2)]), (2, 1007), "what it is owed, and no more");
    w.demand.insert(BackendId(599), Demand { claims: 11, strained: 0, exhausted: 11 });
    assert_eq!(of(&w.step(&[rule(&[1, 2], everybody)]), 599).len(), 4, "that is not enough either");
}

/// As many blocks of the first virtual IP are left, from the first on.
fn leave(w: &mut World, blocks: u16) {
    let last = FIRST_PORT / BLOCK + blocks..=u16::MAX / BLOCK;
    w.services.extend(last.map(|block| (vip(1), block * BLOCK)));
}

#[test]
fn nobody_grows_before_all_have_some() {
    let mut w = World::new();
    leave(&mut w, 8);
    let plan = w.step(&[rule(&[1], 0..3)]);
    assert_eq!([0, 1, 2].map(|n| of(&plan, n).len()), [6, 1, 1], "a block for each, then the rest");
    let mut w = World::new();
    leave(&mut w, 32);
    w.step(&[rule(&[1], 0..1)]);
    w.demand.insert(BackendId(0), Demand { claims: 9, strained: 0, exhausted: 9 });
    let plan = w.step(&[rule(&[1], 0..2)]);
    assert_eq!([0, 1].map(|n| of(&plan, n).len()), [16, 16], "the second has come, the first wants more");
    assert_eq!(plan.short["out"], 1);
}

#[test]
fn another_host_counts_anew() {
    let mut w = World::new();
    let rules = [rule(&[1], 0..2)];
    w.step(&rules);
    w.demand.insert(BackendId(0), Demand { claims: 1000, strained: 10, exhausted: 7 });
    assert_eq!(of(&w.step(&rules), 0).len(), 32);
    // By the old host's counts: 100 claims, none exhausted.
    w.host = 201;
    w.demand.insert(BackendId(0), Demand { claims: 1100, strained: 10, exhausted: 5 });
    assert_eq!(of(&w.step(&rules), 0).len(), 64, "five found none on the new host");
    assert!(!w.step(&rules).changed);
}

#[test]
fn only_who_can_be_given_more_may_grow() {
    let mut w = World::new();
    let rules = [rule(&[1], 0..2)];
    assert_eq!(w.step(&rules).may_grow, [0, 1].map(BackendId).into());
    for n in 1..=4 {
        w.demand.insert(BackendId(0), Demand { claims: n, strained: 0, exhausted: n });
        w.step(&rules);
    }
    let most = w.step(&rules);
    assert_eq!((of(&most, 0).len(), most.may_grow), (256, [BackendId(1)].into()));
    assert!(w.step(&[rule(&[1], 0..600)]).may_grow.len() > 500);
    for n in 0..600 {
        w.demand.insert(BackendId(n), Demand { claims: 9, strained: 0, exhausted: 9 });
    }
    let full = w.step(&[rule(&[1], 0..600)]);
    assert!(full.free[&vip(1)] == 0 && full.may_grow.is_empty(), "nothing is left");
}

#[test]
fn the_work_of_a_compile_grows_with_the_rules_and_no_faster() {
    let work = |rules: u32, first: bool| {
        let mut w = World::new();
        w.members = rules * 50;
        let of = |n: u32| OutboundIntent { name: format!("out{n}"), ..rule(&[n as u8], n * 50..n * 50 + 50) };
        let rules: Vec<_> = (0..rules).map(of).collect();
        let backends = plan(w.members);
        let mut update = || w.leases.update(&rules, &w.services, &backends, &w.demand, w.now);
        steps::take();
        let plan = update();
        assert_eq!((plan.leases.len(), plan.short.len()), (rules.len() * 50 * 16, 0));
        if !first {
            steps::take();
            assert!(!update().changed);
        }
        steps::take()
    };
    for first in [true, false] {
        let (ten, hundred) = (work(10, first), work(100, first));
        assert!(hundred <= ten * 11, "{ten} steps for 10 rules, {hundred} for 100");
        // A block is looked at a few times, whosever it is.
        assert!(hundred < 100 * (1008 + 50 * 16 * 4 + 50 * 5), "{hundred}");
    }
}

#[test]
fn what_a_member_leaves_is_leased_to_nobody_else_for_four_minutes() {
    let mut w = World::new();
    let both = [rule(&[1], 0..2)];
    let first = w.step(&both);
    let without = w.step(&[rule(&[1], 1..2)]);
    assert!(of(&without, 0).is_empty());
    let other = w.step(&[rule(&[1], 1..3)]);
    assert!(of(&other, 2).iter().all(|l| of(&first, 0).iter().all(|o| o.first != l.first)));
    assert_eq!(of(&w.step(&both), 0), of(&first, 0), "who comes back gets its own");
    w.step(&[rule(&[1], 1..2)]);
    assert_eq!(w.leases.poll_timeout(), Some(T0.plus(QUARANTINE)));
    w.now = T0.plus(QUARANTINE);
    let late = w.step(&[rule(&[1], [1, 3])]);
    assert_eq!(of(&late, 3)[0].first, 1024, "after that to anybody");
}

#[test]
fn a_virtual_ip_that_has_no_more_is_said_so_by_rule() {
    let mut w = World::new();
    let plan = w.step(&[rule(&[1], 0..500)]);
    assert_eq!((plan.short.len(), plan.free[&vip(1)]), (0, 508));
    for n in 0..500 {
        w.demand.insert(BackendId(n), Demand { claims: 10, strained: 0, exhausted: 5 });
    }
    let plan = w.step(&[rule(&[1], 0..500)]);
    assert_eq!(plan.leases.len(), 1000);
    let plan = w.step(&[rule(&[1], 0..520)]);
    assert_eq!((plan.short["out"], plan.free[&vip(1)]), (12, 0));
}
