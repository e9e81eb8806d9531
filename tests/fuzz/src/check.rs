//! What holds for every frame that leaves.
use penstock_model::Protocol;
use penstock_model::{Offload, Vni};
use penstock_wire::build::has_right_checksums;
use penstock_wire::{Fragment, Headers, VXLAN_PORT, parse, parse_gre, parse_vxlan};

/// A frame that a node took in or sent, read.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub outer: Headers,
    /// What is inside if it is VXLAN.
    pub inner: Option<(Vni, Headers)>,
    /// What is inside if it is GRE, and its key.
    pub gre: Option<(Option<u32>, Headers)>,
    /// All checksums are right, or absent.
    pub is_right: bool,
}

/// Reads `frame`; `None` if it is no packet.
#[must_use]
pub fn see(frame: &[u8]) -> Option<Seen> {
    let outer = parse(frame).ok()?;
    let is_vxlan = outer.protocol == Protocol::UDP && outer.dst_port == VXLAN_PORT && outer.fragment == Fragment::No;
    let inner = if is_vxlan { parse_vxlan(frame, &outer).ok() } else { None };
    let right = |h: &Headers| !h.is_ip() || has_right_checksums(frame, h);
    let is_gre = outer.protocol == Protocol::GRE && outer.fragment == Fragment::No;
    let gre = if is_gre { parse_gre(frame, &outer).ok().map(|(gre, inner)| (gre.key, inner)) } else { None };
    let mut inside = inner.map(|(_, inner)| inner).into_iter().chain(gre.map(|(_, inner)| inner));
    let is_right = right(&outer) && inside.all(|inner| right(&inner));
    Some(Seen { outer, inner, gre, is_right })
}

/// A frame that leaves is a packet, and has right checksums if the one that came had them.
///
/// Frames with offloads are left to the driver that completes or cuts them.
pub fn leaves_well(input: Option<&Seen>, output: &[u8], before: Offload, after: Offload) {
    let seen = see(output).expect("what leaves is a packet");
    let plain = before == Offload::default() && after == Offload::default();
    if plain && input.is_some_and(|i| i.is_right) {
        assert!(seen.is_right, "right checksums became wrong");
    }
}
