//! Outbound NAT: which virtual IP and port a container's flow leaves by.
//!
//! A port serves as many flows as there are destinations: what has to be unique is (protocol, virtual IP, port, destination).
//! The flow table knows what is taken, as each flow has an entry for its answers there, so nothing is kept beside it.

use crate::decide::{HostFlow, peer_key};
use crate::policy::LocalPort;
use penstock_flow::{Flags, Transposition};
use penstock_model::{Addr16, FlowKey, PortId, Protocol};
use penstock_wire::icmp::is_echo_request;
use penstock_wire::{Fragment, Headers};

/// Ports that one claim looks at; with half of them taken, the odds that none is free are one in 2^128.
const MAX_TRIES: u32 = 128;
/// A claim that had to try more often was strained: one in 16 is while half of the ports are taken.
const EASY_TRIES: u32 = 4;

/// Leased ports of one address of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) dip: Addr16,
    pub(crate) vip: Addr16,
    pub(crate) first: u16,
    pub(crate) count: u16,
    pub(crate) protocol: Option<Protocol>,
}

impl Block {
    fn serves(&self, dip: Addr16, protocol: Protocol) -> bool {
        self.dip == dip && self.protocol.is_none_or(|p| p == protocol)
    }

    fn has(&self, vip: Addr16, port: u16) -> bool {
        self.vip == vip && port.checked_sub(self.first).is_some_and(|n| n < self.count)
    }
}

impl LocalPort {
    /// Ports with which flows of `protocol` from `dip` may leave.
    pub(crate) fn snat_ports(&self, dip: Addr16, protocol: Protocol) -> u32 {
        self.snat.iter().filter(|b| b.serves(dip, protocol)).map(|b| u32::from(b.count)).sum()
    }

    /// Whether the port is still leased to the address.
    pub(crate) fn has_snat(&self, dip: Addr16, protocol: Protocol, vip: Addr16, port: u16) -> bool {
        self.snat.iter().any(|b| b.serves(dip, protocol) && b.has(vip, port))
    }

    fn snat_port(&self, dip: Addr16, protocol: Protocol, nth: u32) -> Option<(Addr16, u16)> {
        let mut left = nth;
        for block in self.snat.iter().filter(|b| b.serves(dip, protocol)) {
            if left < u32::from(block.count) {
                return Some((block.vip, block.first + left as u16));
            }
            left -= u32::from(block.count);
        }
        None
    }
}

/// Whether the packet's flow can be told from others by a port: TCP, UDP, and echo requests by their identifier.
pub(crate) fn is_translatable(h: &Headers) -> bool {
    let has_port = [Protocol::TCP, Protocol::UDP].contains(&h.protocol) || is_echo_request(h);
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
}

impl Walk {
    pub(crate) fn new(claim: Claim, ports: u32, hash: u64) -> Self {
        let range = u64::from(ports.max(1).next_power_of_two());
        Self { claim, at: hash, step: hash >> 32 | 1, range, visited: 0, tries: 0 }
    }

    pub(crate) fn was_strained(&self) -> bool {
        self.tries > EASY_TRIES
    }

    pub(crate) fn next(
        &mut self,
        port: &LocalPort,
        key: &FlowKey,
        underlay: PortId,
    ) -> Option<(HostFlow, (FlowKey, HostFlow))> {
        while self.visited < self.range && self.tries < MAX_TRIES {
            let nth = self.at.wrapping_add(self.visited.wrapping_mul(self.step)) & (self.range - 1);
            self.visited += 1;
            if let Some((vip, vip_port)) = port.snat_port(key.src, key.protocol(), nth as u32) {
                self.tries += 1;
                return Some(translated(&self.claim, key, vip, vip_port, underlay));
            }
        }
        None
    }
}

/// The flow by a virtual IP and port, and its answers.
pub(crate) fn translated(
    claim: &Claim,
    key: &FlowKey,
    vip: Addr16,
    vip_port: u16,
    underlay: PortId,
) -> (HostFlow, (FlowKey, HostFlow)) {
    let out = claim.out.with_src(vip).with_src_port(vip_port);
    let back = claim.back.with_dst(key.src).with_dst_port(key.src_port).with_flag(Flags::REPLY);
    (HostFlow(out), (peer_key(key, &out, underlay), HostFlow(back)))
}
