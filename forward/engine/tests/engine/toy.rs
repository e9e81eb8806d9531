use penstock_engine::{Class, EncapTemplate, Port, Prior, Resolution, Resolver, Step, Why};
use penstock_flow::{FlowHasher, FlowTable, Transposition};
use penstock_model::{
    DropReason, Epoch, FlowKey, HEADROOM, Ledger, Mac, Nanos, Packet, PortId, TenantId, Underlay, Verdict, Vni,
};
use penstock_wire::{Headers, ethertype, parse_vxlan};
use std::collections::BTreeMap;

pub(crate) const UPLINK: PortId = PortId(9);
/// Packets to this port are decided without the flow table.
pub(crate) const DIRECT: u16 = 53;
/// Packets to this port go to the kernel.
pub(crate) const KERNEL: u16 = 22;

/// A product for tests: a decision for each destination port, made anew under each epoch. VXLAN is opened.
pub(crate) struct Toy {
    pub epoch: Epoch,
    pub rules: BTreeMap<u16, Transposition>,
    pub direct: Transposition,
    pub encap: EncapTemplate,
    /// Decisions on request, with whether an older one was known.
    pub asked: Vec<bool>,
    pub with_peer: bool,
    pub refreshed: usize,
    hasher: FlowHasher,
}

pub(crate) fn template() -> EncapTemplate {
    let (a, b) = (Underlay("10.9.0.1".parse().unwrap()), Underlay("10.9.0.2".parse().unwrap()));
    EncapTemplate::vxlan(a, b, Vni::new(77).unwrap(), Mac([2; 6]), Mac([4; 6]), UPLINK).unwrap()
}

impl Toy {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Epoch(1),
            rules: BTreeMap::new(),
            direct: Transposition::to_port(UPLINK),
            encap: template(),
            asked: Vec::new(),
            with_peer: false,
            refreshed: 0,
            hasher: FlowHasher::new([3; 16]),
        }
    }

    pub(crate) fn rule(mut self, port: u16, t: Transposition) -> Self {
        self.rules.insert(port, t);
        self
    }

    pub(crate) fn port(self) -> Port<Toy> {
        let mut port = Port::new(self, FlowTable::with_probation(1024, 1024));
        port.ensure_counters(4);
        port
    }

    fn decide(&self, key: &FlowKey, why: &mut impl Why) -> Result<Transposition, DropReason> {
        let rule = self.rules.get(&key.dst_port).copied().ok_or(DropReason::NoServiceOnPort);
        why.because("toy", || format!("port {}: {}", key.dst_port, if rule.is_ok() { "a rule" } else { "no rule" }));
        rule
    }

    fn install(&self, key: &FlowKey, why: &mut impl Why) -> Resolution<FlowKey, Transposition> {
        match self.decide(key, why) {
            Ok(value) => {
                let back = Transposition::to_port(PortId(1)).with_flag(penstock_flow::Flags::REPLY);
                let peer = self.with_peer.then(|| (key.reversed(), back));
                Resolution::Install { value, peer, idle_seconds: 60 }
            }
            Err(reason) => Resolution::Drop(reason),
        }
    }
}

impl Resolver for Toy {
    type Key = FlowKey;
    type Value = Transposition;

    fn refresh(&mut self, _: Nanos) {
        self.refreshed += 1;
    }

    fn classify(&mut self, packet: &Packet<'_>, headers: &mut Headers) -> Class<FlowKey> {
        if headers.ethertype == ethertype::ARP {
            return Class::Local;
        }
        if headers.dst_port == penstock_wire::VXLAN_PORT {
            match parse_vxlan(packet.frame(), headers) {
                Ok((_, inner)) => *headers = inner,
                Err(reason) => return Class::Drop(reason),
            }
        }
        let key = headers.flow_key(TenantId(u32::from(packet.port.0)));
        let hash = self.hasher.hash(&key);
        match headers.dst_port {
            DIRECT => Class::Direct { token: 7, hash },
            KERNEL => Class::Pass,
            _ => Class::Flow { key, hash, epoch: self.epoch },
        }
    }

    fn direct(&self, token: u64, _: u64, _: &Headers) -> Result<&Transposition, DropReason> {
        assert_eq!(token, 7);
        Ok(&self.direct)
    }

    fn resolve(
        &mut self,
        key: &FlowKey,
        _: u64,
        _: &Packet<'_>,
        _: &Headers,
        prior: Option<Prior<'_>>,
        _: Nanos,
    ) -> Resolution<FlowKey, Transposition> {
        self.asked.push(prior.is_some());
        self.install(key, &mut ())
    }

    fn explain_resolve(
        &mut self,
        key: &FlowKey,
        _: u64,
        _: &Packet<'_>,
        _: &Headers,
        _: Option<Prior<'_>>,
        _: Nanos,
        why: &mut Vec<Step>,
    ) -> Resolution<FlowKey, Transposition> {
        self.install(key, why)
    }

    fn transposition<'a>(&'a self, value: &'a Transposition) -> &'a Transposition {
        value
    }

    fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash(key)
    }

    fn encap(&self, id: u32) -> Result<&EncapTemplate, DropReason> {
        if id == 0 { Ok(&self.encap) } else { Err(DropReason::NextHopUnresolved) }
    }

    fn local(&mut self, _: &mut Packet<'_>, _: &Headers, _: Nanos) -> Verdict {
        Verdict::Consumed
    }

    fn peer_of(&self, key: &FlowKey, _: &Transposition) -> Option<FlowKey> {
        self.with_peer.then(|| key.reversed())
    }
}

/// Sends one frame in by port 1 and gives what came of it.
pub(crate) fn send(port: &mut Port<Toy>, frame: &[u8], seconds: u64) -> (Verdict, Vec<u8>) {
    let mut buffer = vec![0xaa; HEADROOM + frame.len() + 64];
    buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    let mut packet = Packet::new(&mut buffer, HEADROOM, frame.len(), PortId(1)).unwrap();
    port.process(std::slice::from_mut(&mut packet), Nanos::from_secs(seconds));
    assert!(port.ledger().balances());
    (packet.verdict, packet.frame().to_vec())
}

/// A ledger by what is not zero in it.
pub(crate) fn ledger(
    received: (u64, u64),
    transmitted: (u64, u64),
    others: [u64; 3],
    drops: &[(DropReason, u64)],
) -> Ledger {
    let mut l = Ledger {
        received: received.0,
        received_bytes: received.1,
        transmitted: transmitted.0,
        transmitted_bytes: transmitted.1,
        tunnelled: others[0],
        passed: others[1],
        consumed: others[2],
        ..Ledger::default()
    };
    for (reason, n) in drops {
        l.dropped[*reason as usize] = *n;
    }
    l
}
