use crate::Random;
use crate::fabric::{
    CONTAINERS, HOSTS, MUXES, Members, Near, TENANTS, dip, host_address, host_goal, intent, mac, mux_address, mux_goal,
    name, port, vip,
};
use arc_swap::ArcSwap;
use penstock_engine::{Port, Resolver};
use penstock_flow::{FlowHasher, FlowTable};
use penstock_model::{DropReason, HEADROOM, Mac, Nanos, Packet, PortId, Protocol, Underlay, Verdict};
use penstock_mux_proto::{Foreign, MuxGoal, MuxResolver, NextHopInfo, Policy as MuxPolicy};
use penstock_slb_host::{HostResolver, Policy as HostPolicy, ROUTER_MAC, Surroundings, flow_table};
use penstock_slb_proto::{Health, Planner};
use penstock_wire::TcpFlags;
use penstock_wire::build::FrameBuilder;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const UNDERLAY: PortId = PortId(0);
/// Changes of its pool over which a connection is followed.
const CHANGES: u32 = 3;
const CONNECTIONS: usize = 300;

/// What a run has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub opened: u64,
    pub packets: u64,
    pub lost: u64,
    pub doubled: u64,
    pub changes: u64,
    pub restarts: u64,
    /// Connections that were opened while all containers of a tenant drained.
    pub refused: u64,
    /// Packets that a host passed to another container.
    pub passed_on: u64,
}

struct Mux {
    engine: Port<MuxResolver>,
    published: Arc<ArcSwap<MuxPolicy>>,
}

struct Host {
    engine: Port<HostResolver>,
    published: Arc<ArcSwap<HostPolicy>>,
}

struct Connection {
    tenant: usize,
    client: SocketAddr,
    container: usize,
    opened_at: u32,
}

/// The fabric, its clients, and the model of what must be.
pub struct World {
    seed: u64,
    random: Random,
    now: Nanos,
    planner: Planner,
    members: Members,
    goal: MuxGoal,
    muxes: Vec<Mux>,
    hosts: Vec<Host>,
    connections: Vec<Connection>,
    /// Changes of each tenant's pool so far.
    changed: [u32; TENANTS],
    clients: u32,
    counts: Counts,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl World {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let members: Members = std::array::from_fn(|_| BTreeMap::from([(0, 1), (1, 1), (2, 1)]));
        let mut planner = Planner::default();
        let now = Nanos::from_secs(1000);
        let plan = planner.plan(&intent(&members), &Health::default(), now).unwrap();
        let goal = mux_goal(&plan, seed);
        let muxes = (0..MUXES).map(|n| mux(&goal, n, seed)).collect();
        let hosts = (0..HOSTS).map(|n| host(n, &members)).collect();
        let (random, changed, counts) = (Random(seed), [0; TENANTS], Counts::default());
        let connections = Vec::new();
        Self { seed, random, now, planner, members, goal, muxes, hosts, connections, changed, clients: 0, counts }
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { passed_on: self.hosts.iter().map(|h| h.engine.resolver().passed_on()).sum(), ..self.counts }
    }

    /// One transition.
    ///
    /// # Panics
    /// Something that must hold does not; the message names the seed.
    pub fn step(&mut self) {
        self.now = Nanos(self.now.0 + self.random.next() % 20_000_000);
        match self.random.below(1000) {
            0..2 => self.change(),
            2..5 => self.restart(),
            5..180 => self.open(),
            180..200 => self.forget(),
            _ => self.send(),
        }
        let balanced = self.muxes.iter().all(|m| m.engine.ledger().balances())
            && self.hosts.iter().all(|h| h.engine.ledger().balances());
        assert!(balanced, "seed {}: a ledger does not balance", self.seed);
    }

    /// Another set of members or other weights, at all muxes and hosts at once. Some drain, now and then all.
    fn change(&mut self) {
        let tenant = self.random.below(TENANTS);
        let mut members = BTreeMap::new();
        for container in 0..CONTAINERS {
            if self.random.one_in(2) {
                members.insert(container, self.random.below(5) as u32);
            }
        }
        members.entry(self.random.below(CONTAINERS)).or_insert(1);
        if self.random.one_in(6) {
            members.values_mut().for_each(|weight| *weight = 0);
        }
        self.members[tenant] = members;
        self.changed[tenant] += 1;
        let plan = self.planner.plan(&intent(&self.members), &Health::default(), self.now).unwrap();
        self.goal = mux_goal(&plan, self.seed);
        for (n, mux) in self.muxes.iter().enumerate() {
            let next = mux_policy(&self.goal, n).succeed(&mux.published.load());
            mux.published.store(Arc::new(next));
        }
        for (n, host) in self.hosts.iter().enumerate() {
            let next = host_policy(n, &self.members, &host.published.load());
            host.published.store(Arc::new(next));
        }
        let changed = self.changed;
        self.connections.retain(|c| changed[c.tenant] - c.opened_at <= CHANGES);
        self.counts.changes += 1;
    }

    /// A mux forgets all that it has learnt.
    fn restart(&mut self) {
        let n = self.random.below(MUXES);
        self.muxes[n] = mux(&self.goal, n, self.random.next());
        self.counts.restarts += 1;
    }

    fn forget(&mut self) {
        if !self.connections.is_empty() {
            let n = self.random.below(self.connections.len());
            self.connections.swap_remove(n);
        }
    }

    /// A handshake: SYN, the container's answer straight to the client, ACK.
    fn open(&mut self) {
        if self.connections.len() == CONNECTIONS {
            return;
        }
        self.clients += 1;
        let tenant = self.random.below(TENANTS);
        let [_, a, b, c] = (self.clients / 60_000).to_be_bytes();
        let client = SocketAddr::new(IpAddr::from([100, 64 + a, b, c]), 1024 + (self.clients % 60_000) as u16);
        if self.members[tenant].values().all(|weight| *weight == 0) {
            return self.refuse(tenant, client);
        }
        let (to, container) = self.deliver(tenant, client, TcpFlags::SYN);
        assert_eq!(to, tenant, "seed {}: a connection came to another tenant", self.seed);
        let weight = self.members[tenant].get(&container);
        assert!(weight.is_some_and(|w| *w > 0), "seed {}: a SYN came to nobody who takes it: {weight:?}", self.seed);
        self.answer(tenant, container, client);
        self.counts.opened += 1;
        let connection = Connection { tenant, client, container, opened_at: self.changed[tenant] };
        self.check(&connection);
        self.connections.push(connection);
    }

    /// Nobody takes new connections, whichever mux is asked.
    fn refuse(&mut self, tenant: usize, client: SocketAddr) {
        let target = SocketAddr::new(vip(tenant), 80);
        let frame = FrameBuilder::between(client, target, Protocol::TCP).flags(TcpFlags::SYN).build();
        let mux = &mut self.muxes[self.random.below(MUXES)];
        let (verdict, _) = run(&mut mux.engine, UNDERLAY, &frame, self.now);
        assert_eq!(verdict, Verdict::Drop(DropReason::NoHealthyBackend), "seed {}: all drain", self.seed);
        self.counts.refused += 1;
    }

    /// A segment of some connection, which may be lost on its way or come twice.
    fn send(&mut self) {
        if self.connections.is_empty() {
            return;
        }
        let n = self.random.below(self.connections.len());
        if self.random.one_in(20) {
            self.counts.lost += 1;
            return;
        }
        let connection = self.connections.swap_remove(n);
        self.check(&connection);
        if self.random.one_in(10) {
            self.counts.doubled += 1;
            self.check(&connection);
        }
        if self.random.one_in(3) {
            self.answer(connection.tenant, connection.container, connection.client);
        }
        self.connections.push(connection);
    }

    fn check(&mut self, c: &Connection) {
        let arrived = self.deliver(c.tenant, c.client, TcpFlags::ACK);
        assert_eq!(arrived, (c.tenant, c.container), "seed {}: {} changed its container", self.seed, c.client);
    }

    /// By a mux drawn anew to a host, and on from host to host. Returns tenant and container that got it.
    fn deliver(&mut self, tenant: usize, client: SocketAddr, flags: u8) -> (usize, usize) {
        self.counts.packets += 1;
        let target = SocketAddr::new(vip(tenant), 80);
        let frame = FrameBuilder::between(client, target, Protocol::TCP).flags(flags).payload(b"x").build();
        let mux = &mut self.muxes[self.random.below(MUXES)];
        let (verdict, mut frame) = run(&mut mux.engine, UNDERLAY, &frame, self.now);
        assert_eq!(verdict, Verdict::Transmit(UNDERLAY), "seed {}: the mux does not send", self.seed);
        for _ in 0..=CHANGES + 1 {
            let to = penstock_wire::parse(&frame).unwrap().dst.to_ip();
            let n = (0..HOSTS).find(|n| host_address(*n) == to).expect("a packet goes to a host");
            let (verdict, out) = run(&mut self.hosts[n].engine, UNDERLAY, &frame, self.now);
            match verdict {
                Verdict::Transmit(UNDERLAY) => frame = out,
                Verdict::Transmit(to) => return self.owner(n, to, &out, client),
                other => panic!("seed {}: host {n} ended a packet of {client}: {other:?}", self.seed),
            }
        }
        panic!("seed {}: a packet of {client} goes round", self.seed)
    }

    /// Whose the port is; the packet is addressed to it and comes from the client.
    fn owner(&self, host: usize, to: PortId, frame: &[u8], client: SocketAddr) -> (usize, usize) {
        let all = (0..TENANTS).flat_map(|t| (0..CONTAINERS).map(move |c| (t, c)));
        let (t, c) =
            all.into_iter().find(|(t, c)| c % HOSTS == host && port(*t, *c) == to).expect("a container's port");
        let h = penstock_wire::parse(frame).unwrap();
        assert_eq!((h.src.to_ip(), h.src_port), (client.ip(), client.port()), "seed {}", self.seed);
        assert_eq!((h.dst.to_ip(), h.dst_port), (dip(c), 8080), "seed {}", self.seed);
        assert!(penstock_wire::build::is_intact(frame), "seed {}: checksums", self.seed);
        (t, c)
    }

    /// What the container sends leaves its host for the client, from the virtual IP.
    fn answer(&mut self, tenant: usize, container: usize, client: SocketAddr) {
        let from = SocketAddr::new(dip(container), 8080);
        let frame = FrameBuilder::between(from, client, Protocol::TCP).eth(mac(tenant, container), ROUTER_MAC).build();
        let host = &mut self.hosts[container % HOSTS];
        let (verdict, out) = run(&mut host.engine, port(tenant, container), &frame, self.now);
        assert_eq!(verdict, Verdict::Transmit(UNDERLAY), "seed {}: an answer to {client}", self.seed);
        let h = penstock_wire::parse(&out).unwrap();
        assert_eq!((h.src.to_ip(), h.src_port), (vip(tenant), 80), "seed {}: the answer's source", self.seed);
    }
}

fn run<R: Resolver>(engine: &mut Port<R>, port: PortId, frame: &[u8], now: Nanos) -> (Verdict, Vec<u8>) {
    let mut buffer = vec![0; HEADROOM];
    buffer.extend_from_slice(frame);
    let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), port).unwrap();
    engine.process(std::slice::from_mut(&mut packet), now);
    engine.maintain(now);
    (packet.verdict, packet.frame().to_vec())
}

fn mux_policy(goal: &MuxGoal, n: usize) -> MuxPolicy {
    let hop = NextHopInfo { eth_src: Mac([2; 6]), eth_dst: Mac([4; 6]), out: UNDERLAY };
    MuxPolicy::build(goal, |_| Some(hop), Underlay(mux_address(n))).unwrap()
}

fn mux(goal: &MuxGoal, n: usize, secret: u64) -> Mux {
    let published = Arc::new(ArcSwap::from_pointee(mux_policy(goal, n)));
    let resolver = MuxResolver::new(published.clone(), [secret, n as u64], Foreign::Drop);
    Mux { engine: Port::new(resolver, FlowTable::with_probation(4096, 4096)), published }
}

fn host_policy(n: usize, members: &Members, previous: &HostPolicy) -> HostPolicy {
    let local: Vec<(PortId, String)> = (0..TENANTS)
        .flat_map(|t| (0..CONTAINERS).filter(|c| c % HOSTS == n).map(move |c| (port(t, c), name(t, c))))
        .collect();
    let here = Surroundings {
        local_ports: &local,
        own: host_address(n),
        underlay_port: UNDERLAY,
        fib: Arc::new(Near),
        fib_generation: 1,
    };
    HostPolicy::build(&host_goal(n, members), &here, previous).unwrap()
}

fn host(n: usize, members: &Members) -> Host {
    let empty = HostPolicy::empty(host_address(n), UNDERLAY, Arc::new(Near));
    let published = Arc::new(ArcSwap::from_pointee(host_policy(n, members, &empty)));
    let resolver = HostResolver::new(published.clone(), FlowHasher::new([n as u8; 16]));
    let ports = TENANTS * CONTAINERS / HOSTS;
    Host { engine: Port::new(resolver, flow_table(16_384, ports)), published }
}
