//! Outbound NAT: which virtual IP and port a container's flow leaves by.
//!
//! A port serves as many flows as there are destinations: what has to be unique is (protocol, virtual IP, port, destination).
//! The flow table knows what is taken, as each flow has an entry for its answers there, so nothing is kept beside it.

use crate::decide::HostFlow;
use crate::keys::answer_from_outside;
use crate::policy::LocalPort;
use penstock_flow::{Flags, Transposition};
use penstock_model::{Addr16, FlowKey, PortId, Protocol};
use penstock_wire::{Fragment, Headers};
use std::time::Duration;

/// Ports that one claim looks at; with half of them taken, the odds that none is free are one in 2^128.
pub(crate) const MAX_TRIES: u32 = 128;
/// A claim that had to try more often was strained: one in 16 is while half of the ports are taken.
pub(crate) const EASY_TRIES: u32 = 4;
/// How long an address has [`EASY_TRIES`] alone after it found no port: a container that goes on asking costs a host's worker
/// 100 long walks a second at most.
pub(crate) const TIRED: Duration = Duration::from_millis(10);

/// Leased ports of a virtual IP, `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block {
    pub(crate) vip: Addr16,
    pub(crate) first: u16,
    pub(crate) last: u16,
}

/// What is leased to one address of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leased {
    dip: Addr16,
    /// By [`class`].
    tables: [Table; CLASSES],
}

/// Leased ports for one protocol: the port of a number and the number of a port are found by halving.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Table {
    /// Sorted, apart from each other.
    blocks: Vec<Block>,
    /// How many ports there are up to the end of each block.
    ends: Vec<u32>,
}

/// Protocols with ports of their own.
pub(crate) const CLASSES: usize = 3;

/// Which of these `protocol` is.
pub(crate) fn class(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::TCP => Some(0),
        Protocol::UDP => Some(1),
        Protocol::ICMP | Protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

impl Leased {
    /// `blocks`: by [`class`]; they may overlap.
    pub(crate) fn new(dip: Addr16, blocks: [Vec<Block>; CLASSES]) -> Self {
        Self { dip, tables: blocks.map(Table::new) }
    }

    /// Whether `vip` is one of its virtual IPs.
    pub(crate) fn has_vip(&self, vip: Addr16) -> bool {
        self.tables.iter().any(|table| table.blocks.binary_search_by_key(&vip, |b| b.vip).is_ok())
    }
}

impl Table {
    fn new(mut blocks: Vec<Block>) -> Self {
        blocks.sort_unstable();
        let mut table = Self::default();
        for block in blocks {
            match table.blocks.last_mut() {
                Some(last) if last.vip == block.vip && u32::from(block.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(block.last);
                }
                _ => table.blocks.push(block),
            }
        }
        let mut end = 0;
        table.ends = table
            .blocks
            .iter()
            .map(|b| {
                end += u32::from(b.last - b.first) + 1;
                end
            })
            .collect();
        table
    }

    fn ports(&self) -> u32 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn has(&self, vip: Addr16, port: u16) -> bool {
        let after = self.blocks.partition_point(|b| (b.vip, b.first) <= (vip, port));
        after.checked_sub(1).and_then(|i| self.blocks.get(i)).is_some_and(|b| b.vip == vip && port <= b.last)
    }

    fn nth(&self, n: u32) -> Option<(Addr16, u16)> {
        let i = self.ends.partition_point(|end| *end <= n);
        let (block, end) = (self.blocks.get(i)?, self.ends.get(i)?);
        Some((block.vip, block.last - (end - 1 - n) as u16))
    }
}

impl LocalPort {
    pub(crate) fn leased_index(&self, dip: Addr16) -> Option<usize> {
        self.snat.binary_search_by_key(&dip, |leased| leased.dip).ok()
    }

    fn leased(&self, dip: Addr16, protocol: Protocol) -> Option<&Table> {
        self.snat.get(self.leased_index(dip)?)?.tables.get(class(protocol)?)
    }

    /// Ports with which flows of `protocol` from `dip` may leave.
    pub(crate) fn snat_ports(&self, dip: Addr16, protocol: Protocol) -> u32 {
        self.leased(dip, protocol).map_or(0, Table::ports)
    }

    /// Ports with which flows of any protocol may leave.
    pub(crate) fn most_snat_ports(&self, dip: Addr16) -> u32 {
        let leased = self.leased_index(dip).and_then(|i| self.snat.get(i));
        leased.and_then(|l| l.tables.iter().map(Table::ports).max()).unwrap_or(0)
    }

    /// Whether the port is still leased to the address.
    pub(crate) fn has_snat(&self, dip: Addr16, protocol: Protocol, vip: Addr16, port: u16) -> bool {
        self.leased(dip, protocol).is_some_and(|table| table.has(vip, port))
    }

    fn snat_port(&self, dip: Addr16, protocol: Protocol, nth: u32) -> Option<(Addr16, u16)> {
        self.leased(dip, protocol)?.nth(nth)
    }
}

/// Whether the packet's flow can be told from others by a port: TCP, UDP, and echo requests by their identifier.
pub(crate) fn is_translatable(h: &Headers) -> bool {
    let is_echo = matches!((h.protocol, h.icmp_type), (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128));
    let has_port = [Protocol::TCP, Protocol::UDP].contains(&h.protocol) || is_echo;
    // The first of them has made the flow that a later one belongs to.
    has_port && h.fragment != Fragment::Later
}

/// A flow that is to get a port: what becomes of it but for the port, and of its answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) port: PortId,
    /// Out to the destination.
    pub(crate) out: Transposition,
    /// Back to the container.
    pub(crate) back: Transposition,
    /// What it had: asked for before all others.
    pub(crate) first: Option<(Addr16, u16)>,
}

/// The walk of one claim over all ports, in an order of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    claim: Claim,
    at: u64,
    step: u64,
    /// A power of two that is not below the number of ports, so that an odd step comes to each.
    range: u64,
    visited: u64,
    tries: u32,
    most: u32,
}

impl Walk {
    /// `most`: ports that it may look at.
    pub(crate) fn new(claim: Claim, ports: u32, hash: u64, most: u32) -> Self {
        let range = u64::from(ports.max(1).next_power_of_two());
        Self { claim, at: hash, step: hash >> 32 | 1, range, visited: 0, tries: 0, most }
    }

    pub(crate) fn was_strained(&self) -> bool {
        self.tries > EASY_TRIES
    }

    pub(crate) fn next(&mut self, port: &LocalPort, key: &FlowKey) -> Option<(HostFlow, (FlowKey, HostFlow))> {
        if let Some((vip, vip_port)) = self.claim.first.take()
            && port.has_snat(key.src, key.protocol(), vip, vip_port)
        {
            return Some(translated(&self.claim, key, vip, vip_port));
        }
        while self.visited < self.range && self.tries < self.most {
            let nth = self.at.wrapping_add(self.visited.wrapping_mul(self.step)) & (self.range - 1);
            self.visited += 1;
            if let Some((vip, vip_port)) = port.snat_port(key.src, key.protocol(), nth as u32) {
                self.tries += 1;
                return Some(translated(&self.claim, key, vip, vip_port));
            }
        }
        None
    }
}

/// The flow by a virtual IP and port, and its answers.
pub(crate) fn translated(claim: &Claim, key: &FlowKey, vip: Addr16, vip_port: u16) -> (HostFlow, (FlowKey, HostFlow)) {
    let out = claim.out.with_src(vip).with_src_port(vip_port);
    let back = claim.back.with_dst(key.src).with_dst_port(key.src_port).with_flag(Flags::REPLY);
    (HostFlow(out), (answer_from_outside(key, &out), HostFlow(back)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn block(vip: &str, first: u16, last: u16) -> Block {
        Block { vip: vip.parse::<IpAddr>().unwrap().into(), first, last }
    }

    #[test]
    fn a_table_numbers_each_port_once_and_finds_it_again() {
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        let table = Table::new(vec![
            block(b, 65_472, 65_535),
            block(a, 1088, 1151),
            block(a, 1024, 1087),
            block(a, 1100, 1100),
            block(b, 2000, 2000),
            block(a, 3000, 3009),
        ]);
        assert_eq!((table.ports(), table.blocks.len()), (128 + 10 + 1 + 64, 4));
        let all: std::collections::BTreeSet<_> = (0..table.ports()).map(|n| table.nth(n).unwrap()).collect();
        assert_eq!(all.len() as u32, table.ports());
        assert!(all.iter().all(|(vip, port)| table.has(*vip, *port)));
        assert_eq!(table.nth(table.ports()), None);
        let (a, b) = (block(a, 0, 0).vip, block(b, 0, 0).vip);
        for (vip, port) in [(a, 1023), (a, 1152), (a, 3010), (b, 1024), (b, 1999), (b, 2001)] {
            assert!(!table.has(vip, port), "{vip:?} {port}");
        }
        assert_eq!(Table::new(vec![]).nth(0), None);
    }
}
