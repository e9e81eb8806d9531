//! Geneve (RFC 8926) with one option of our own: to whom a host passes a packet for which it has no flow.

use crate::Headers;
use crate::headers::parse_ethernet_at;
use penstock_model::{Addr16, DropReason, Vni};

/// RFC 8926 section 3.3.
pub const GENEVE_PORT: u16 = 6081;
/// Without options.
pub const GENEVE_HEADER_LEN: usize = 8;
/// Longest header that is written: an option with [`MAX_NEXT_OWNERS`] IPv6 addresses.
pub const MAX_GENEVE_LEN: usize = GENEVE_HEADER_LEN + OPTION_LEN + MAX_NEXT_OWNERS * 16;
/// Owners that one packet names.
pub const MAX_NEXT_OWNERS: usize = 3;

/// Trans Ether Bridging: the payload is an Ethernet frame.
const ETHERNET: u16 = 0x6558;
/// Of the range for experiments (RFC 8926 section 7); "P" in its low byte.
const CLASS: u16 = 0xff50;
/// Not critical (the top bit): who does not know the option keeps the packet.
const NEXT_OWNERS_V4: u8 = 0x04;
const NEXT_OWNERS_V6: u8 = 0x06;
const OPTION_LEN: usize = 4;

/// Containers that may have the packet's flow if the one that it was sent to has not, in the order in which they are asked.
/// Overlay addresses of the packet's own network, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NextOwners {
    list: [Addr16; MAX_NEXT_OWNERS],
    len: u8,
}

impl NextOwners {
    /// The first owners that fit; those of another family than the first are left out.
    #[must_use]
    pub fn new(owners: impl IntoIterator<Item = Addr16>) -> Self {
        let mut next = Self::default();
        for owner in owners {
            let is_kin = next.as_slice().first().is_none_or(|first| first.is_v4() == owner.is_v4());
            if let Some(place) = next.list.get_mut(usize::from(next.len)).filter(|_| is_kin) {
                *place = owner;
                next.len += 1;
            }
        }
        next
    }

    #[must_use]
    pub fn as_slice(&self) -> &[Addr16] {
        self.list.get(..usize::from(self.len)).unwrap_or_default()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is left to ask once one of `asked` has been: everything behind the last of them, so that no owner is asked
    /// twice, whatever the list says.
    #[must_use]
    pub fn after(&self, asked: impl Fn(&Addr16) -> bool) -> Self {
        match self.as_slice().iter().rposition(asked) {
            Some(at) => Self::new(self.as_slice().iter().skip(at + 1).copied()),
            None => *self,
        }
    }

    /// The first to ask, and the rest.
    #[must_use]
    pub fn split_first(&self) -> Option<(Addr16, Self)> {
        let (first, rest) = self.as_slice().split_first()?;
        Some((*first, Self::new(rest.iter().copied())))
    }
}

/// Writes a header to the front of `bytes` and returns its length; `None` if it does not fit.
#[must_use]
pub fn write_header(bytes: &mut [u8], vni: Vni, next: &NextOwners) -> Option<usize> {
    let is_v4 = next.as_slice().first().is_none_or(Addr16::is_v4);
    let each = if is_v4 { 4 } else { 16 };
    let data = each * next.as_slice().len();
    let options = if data == 0 { 0 } else { OPTION_LEN + data };
    let header = bytes.get_mut(..GENEVE_HEADER_LEN + options)?;
    let [a, b, c] = vni.to_be_bytes();
    let [p, q] = ETHERNET.to_be_bytes();
    // Version 0; the length of options counts words of four bytes.
    header[..GENEVE_HEADER_LEN].copy_from_slice(&[(options / 4) as u8, 0, p, q, a, b, c, 0]);
    if data > 0 {
        let [p, q] = CLASS.to_be_bytes();
        let kind = if is_v4 { NEXT_OWNERS_V4 } else { NEXT_OWNERS_V6 };
        header[GENEVE_HEADER_LEN..][..OPTION_LEN].copy_from_slice(&[p, q, kind, (data / 4) as u8]);
        for (place, owner) in header[GENEVE_HEADER_LEN + OPTION_LEN..].chunks_exact_mut(each).zip(next.as_slice()) {
            place.copy_from_slice(&owner.0[16 - each..]);
        }
    }
    Some(GENEVE_HEADER_LEN + options)
}

/// Reads the Geneve header and the inner frame behind the UDP header of `outer`. Whether the packet is Geneve at all (UDP to
/// [`GENEVE_PORT`], not a fragment) is the caller's to check.
///
/// # Errors
/// The reason why the encapsulation or the inner frame is wrong; `Unsupported` for control packets, critical options (RFC
/// 8926 section 3.5: who does not know one drops the packet) and payloads that are no Ethernet frames.
pub fn parse_geneve(frame: &[u8], outer: &Headers) -> Result<(Vni, Headers), DropReason> {
    const CONTROL_OR_CRITICAL: u8 = 0xc0;
    let (h, options) = header_of(frame, outer)?;
    if h[0] >> 6 != 0 {
        return Err(DropReason::BadTunnelHeader);
    }
    if h[1] & CONTROL_OR_CRITICAL != 0 || u16::from_be_bytes([h[2], h[3]]) != ETHERNET {
        return Err(DropReason::Unsupported);
    }
    let inner_frame = frame.get(..outer.end as usize).ok_or(DropReason::TruncatedTunnel)?;
    let mut inner = Headers::default();
    let at = usize::from(outer.payload) + GENEVE_HEADER_LEN + options.len();
    parse_ethernet_at(inner_frame, at, &mut inner)?;
    Ok((Vni::from_be_bytes([h[4], h[5], h[6]]), inner))
}

/// The owners that the options of a Geneve packet name; none if they are not well formed.
#[must_use]
pub fn next_owners(frame: &[u8], outer: &Headers) -> NextOwners {
    let Ok((_, mut options)) = header_of(frame, outer) else { return NextOwners::default() };
    while let Some((head, rest)) = options.split_first_chunk::<OPTION_LEN>() {
        let len = usize::from(head[3] & 0x1f) * 4;
        let Some((data, behind)) = rest.split_at_checked(len) else { break };
        match (u16::from_be_bytes([head[0], head[1]]), head[2]) {
            (CLASS, NEXT_OWNERS_V4) => {
                return NextOwners::new(data.as_chunks::<4>().0.iter().map(|a| Addr16::from_v4(*a)));
            }
            (CLASS, NEXT_OWNERS_V6) => return NextOwners::new(data.as_chunks::<16>().0.iter().map(|a| Addr16(*a))),
            _ => options = behind,
        }
    }
    NextOwners::default()
}

/// The fixed header and the options.
fn header_of<'a>(frame: &'a [u8], outer: &Headers) -> Result<(&'a [u8; GENEVE_HEADER_LEN], &'a [u8]), DropReason> {
    let payload = frame.get(usize::from(outer.payload)..outer.end as usize).ok_or(DropReason::TruncatedTunnel)?;
    let (h, rest) = payload.split_first_chunk::<GENEVE_HEADER_LEN>().ok_or(DropReason::TruncatedTunnel)?;
    let options = rest.get(..usize::from(h[0] & 0x3f) * 4).ok_or(DropReason::TruncatedTunnel)?;
    Ok((h, options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::FrameBuilder;

    fn v4(n: u8) -> Addr16 {
        Addr16::from_v4([10, 0, 0, n])
    }

    fn v6(n: u8) -> Addr16 {
        let mut a = [0; 16];
        (a[0], a[15]) = (0xfd, n);
        Addr16(a)
    }

    fn packet(next: &NextOwners) -> (Vec<u8>, Headers) {
        let mut header = [0xee; MAX_GENEVE_LEN];
        let len = write_header(&mut header, Vni::new(77).unwrap(), next).unwrap();
        let inner = FrameBuilder::udp("10.0.0.1:1", "10.0.0.2:2").payload(b"inside").build();
        let payload = [&header[..len], &inner].concat();
        let frame = FrameBuilder::udp("192.0.2.1:9", "192.0.2.2:6081").payload(&payload).build();
        let outer = crate::parse(&frame).unwrap();
        (frame, outer)
    }

    #[test]
    fn what_is_written_is_read_again() {
        for owners in [vec![], vec![v4(1)], vec![v4(1), v4(2), v4(3)], vec![v6(1), v6(2), v6(3)]] {
            let next = NextOwners::new(owners.clone());
            let (frame, outer) = packet(&next);
            let (vni, inner) = parse_geneve(&frame, &outer).unwrap();
            assert_eq!((vni.get(), inner.dst_port, inner.end as usize), (77, 2, frame.len()));
            assert_eq!(next_owners(&frame, &outer).as_slice(), owners);
        }
    }

    #[test]
    fn a_list_has_one_family_and_three_owners_at_most() {
        assert_eq!(NextOwners::new([v4(1), v6(2), v4(3), v4(4), v4(5)]).as_slice(), [v4(1), v4(3), v4(4)]);
    }

    #[test]
    fn who_was_asked_is_never_asked_again() {
        let next = NextOwners::new([v4(1), v4(2), v4(1)]);
        assert!(next.after(|a| *a == v4(1)).is_empty());
        assert_eq!(next.after(|a| *a == v4(2)).as_slice(), [v4(1)]);
        assert_eq!(next.after(|a| *a == v4(9)), next);
        assert_eq!(next.split_first(), Some((v4(1), NextOwners::new([v4(2), v4(1)]))));
    }

    #[test]
    fn foreign_options_are_skipped_and_damaged_ones_end_the_search() {
        let (mut frame, _) = packet(&NextOwners::new([v4(1)]));
        let outer = crate::parse(&frame).unwrap();
        let at = usize::from(outer.payload);
        frame[at + 8] = 0x01;
        assert!(next_owners(&frame, &outer).is_empty(), "of another class");
        frame[at + 8] = 0xff;
        frame[at + 11] = 0x1f;
        assert!(next_owners(&frame, &outer).is_empty(), "longer than the options");
    }

    #[test]
    fn control_packets_critical_options_and_other_payloads_are_refused() {
        let (frame, outer) = packet(&NextOwners::default());
        let at = usize::from(outer.payload);
        for (byte, value, reason) in [
            (at, 0x40, DropReason::BadTunnelHeader),
            (at, 0x3f, DropReason::TruncatedTunnel),
            (at + 1, 0x80, DropReason::Unsupported),
            (at + 1, 0x40, DropReason::Unsupported),
            (at + 3, 0, DropReason::Unsupported),
        ] {
            let mut bad = frame.clone();
            bad[byte] = value;
            assert_eq!(parse_geneve(&bad, &outer).err(), Some(reason));
        }
    }
}
