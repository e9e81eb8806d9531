//! Answers to `ping` of a virtual IP: the mux speaks for it.

use penstock_model::{DropReason, Packet, Protocol, Verdict};
use penstock_wire::{Fragment, Headers, checksum};

/// TTL of answers (the IANA default).
const TTL: u8 = 64;

pub(crate) fn is_echo_request(h: &Headers) -> bool {
    let asks =
        (h.protocol == Protocol::ICMP && h.icmp_type == 8) || (h.protocol == Protocol::ICMPV6 && h.icmp_type == 128);
    asks && h.icmp_code == 0 && h.fragment == Fragment::No
}

/// Turns an echo request into its reply, in place (RFC 792, RFC 4443 section 4.2), and sends it back to the station that
/// brought it. The reply is as long as the request, so nothing is amplified; a broken checksum stays broken.
pub(crate) fn answer(packet: &mut Packet<'_>, h: &Headers) -> Verdict {
    if packet.offload.partial_checksum {
        return Verdict::Drop(DropReason::Unsupported);
    }
    let port = packet.port;
    match reply(packet.frame_mut(), h) {
        Some(()) => Verdict::Transmit(port),
        None => Verdict::Drop(DropReason::TruncatedTransport),
    }
}

fn reply(frame: &mut [u8], h: &Headers) -> Option<()> {
    let l3 = usize::from(h.l3);
    let kind = if h.is_v4() { 0u8 } else { 129 };
    let (src, len, ttl) = if h.is_v4() { (l3 + 12, 4, l3 + 8) } else { (l3 + 8, 16, l3 + 7) };

    let icmp = frame.get_mut(usize::from(h.l4)..)?.first_chunk_mut::<4>()?;
    let sum = u16::from_be_bytes([icmp[2], icmp[3]]);
    let sum = checksum::update(sum, &[icmp[0], icmp[1]], &[kind, icmp[1]]).to_be_bytes();
    *icmp = [kind, icmp[1], sum[0], sum[1]];

    if h.is_v4() {
        let ip = frame.get_mut(l3..)?.first_chunk_mut::<12>()?;
        let sum = checksum::update(u16::from_be_bytes([ip[10], ip[11]]), &[ip[8], ip[9]], &[TTL, ip[9]]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    *frame.get_mut(ttl)? = TTL;
    swap(frame, src, len)?;
    swap(frame, usize::from(h.l2), 6)
}

/// Swaps `len` bytes at `at` with the `len` bytes behind them.
fn swap(frame: &mut [u8], at: usize, len: usize) -> Option<()> {
    let (a, b) = frame.get_mut(at..at + 2 * len)?.split_at_mut(len);
    a.swap_with_slice(b);
    Some(())
}
