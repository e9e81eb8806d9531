use penstock_model::{FlowKey, TunnelId, Vni};

/// By which way a packet came in: the tenant follows from it, so it is part of what identifies a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    Overlay(Vni),
    Tunnel(TunnelId),
    /// Made by the gateway itself for a virtual network (ICMP errors).
    Own(Vni),
}

/// A flow of one tenant *by one way in*. 48 bytes.
///
/// The way is part of the key, not of the value: a packet that arrives by another tunnel or network, whatever addresses it
/// carries, never finds an entry that was decided for somebody else, and so cannot skip the check of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C, align(8))]
pub struct GatewayKey {
    pub flow: FlowKey,
    /// 1 overlay, 2 tunnel, 3 the gateway itself; 0 is no key at all.
    kind: u32,
    id: u32,
}

const _: () = assert!(size_of::<GatewayKey>() == 48);

impl GatewayKey {
    #[must_use]
    pub fn new(way: Way, flow: FlowKey) -> Self {
        let (kind, id) = match way {
            Way::Overlay(vni) => (1, vni.get()),
            Way::Tunnel(tunnel) => (2, tunnel.0),
            Way::Own(vni) => (3, vni.get()),
        };
        Self { flow, kind, id }
    }

    /// Another flow by the same way in.
    #[must_use]
    pub(crate) fn with_flow(&self, flow: FlowKey) -> Self {
        Self { flow, ..*self }
    }

    /// The way in; `None` for the all-zero key of an empty slot.
    #[must_use]
    pub fn way(&self) -> Option<Way> {
        match self.kind {
            1 => Vni::new(self.id).ok().map(Way::Overlay),
            2 => Some(Way::Tunnel(TunnelId(self.id))),
            3 => Vni::new(self.id).ok().map(Way::Own),
            _ => None,
        }
    }

    /// Spreads the way over the hash of the flow.
    #[must_use]
    pub fn mix(&self, flow_hash: u64) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let way = (u64::from(self.kind) << 32) | u64::from(self.id);
        (flow_hash ^ way.wrapping_mul(ODD)).rotate_left(23).wrapping_mul(ODD)
    }
}
