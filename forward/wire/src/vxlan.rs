//! VXLAN's own eight bytes (RFC 7348 section 5); [`crate::parse_vxlan`] reads them.

use penstock_model::Vni;

/// The VXLAN header: flag I, reserved bits zero.
#[must_use]
pub const fn header(vni: Vni) -> [u8; crate::VXLAN_HEADER_LEN] {
    let [a, b, c] = vni.to_be_bytes();
    [0x08, 0, 0, 0, a, b, c, 0]
}
