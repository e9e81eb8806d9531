//! Cutting an IPv4 packet into fragments (RFC 791 section 3.2).
use crate::{checksum, parse_ip};
use penstock_model::DropReason;

const HEADER: usize = 20;
const MORE: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;
const OFFSET: u16 = 0x1fff;

/// The pieces of an IPv4 packet that does not fit a way of `mtu` bytes and may be cut: each with its own header, and its
/// payload a piece of `packet`.
///
/// # Errors
/// It may not be cut, is not IPv4, carries options (nobody's packets do, and some would have to stand in each piece), or `mtu`
/// leaves no room for payload.
pub fn fragments(packet: &[u8], mtu: usize) -> Result<Fragments<'_>, DropReason> {
    let h = parse_ip(packet)?;
    let packet = packet.get(..h.end as usize).ok_or(DropReason::TruncatedIpv4)?;
    let (header, payload) = packet.split_first_chunk::<HEADER>().ok_or(DropReason::TruncatedIpv4)?;
    let field = u16::from_be_bytes([header[6], header[7]]);
    let room = mtu.saturating_sub(HEADER) / 8 * 8;
    if !h.is_v4() || header[0] != 0x45 || field & DONT_FRAGMENT != 0 || room == 0 {
        return Err(DropReason::TooLarge);
    }
    Ok(Fragments { header: *header, field, payload, done: 0, room })
}

/// See [`fragments`].
#[derive(Debug, Clone)]
pub struct Fragments<'a> {
    header: [u8; HEADER],
    /// Flags and offset of the whole.
    field: u16,
    payload: &'a [u8],
    done: usize,
    room: usize,
}

impl<'a> Iterator for Fragments<'a> {
    /// Header and payload of a piece.
    type Item = ([u8; HEADER], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.payload.get(self.done..).filter(|rest| !rest.is_empty())?;
        let piece = rest.get(..self.room).unwrap_or(rest);
        let is_last = piece.len() == rest.len();
        let more = if is_last { self.field & MORE } else { MORE };
        let offset = (self.field & OFFSET) + u16::try_from(self.done / 8).ok()?;
        self.done += piece.len();
        let mut header = self.header;
        let total = u16::try_from(HEADER + piece.len()).ok()?.to_be_bytes();
        header[2..4].copy_from_slice(&total);
        header[6..8].copy_from_slice(&(more | (offset & OFFSET)).to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&header, 0)).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        Some((header, piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::FrameBuilder;
    use proptest::prelude::*;

    fn packet(payload: &[u8], flags: u8) -> Vec<u8> {
        let mut packet = FrameBuilder::udp("10.0.0.1:1", "10.0.0.2:2").payload(payload).build().split_off(14);
        packet[6] = flags;
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&packet[..20], 0)).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        assert_eq!(fragments(&packet(&[1; 3000], 0x40), 1400).err(), Some(DropReason::TooLarge));
        assert_eq!(fragments(&packet(&[1; 3000], 0), 27).err(), Some(DropReason::TooLarge), "no room for 8 bytes");
        let six = FrameBuilder::udp("[2001:db8::1]:1", "[2001:db8::2]:2").payload(&[1; 100]).build().split_off(14);
        assert_eq!(fragments(&six, 100).err(), Some(DropReason::TooLarge), "RFC 8200 section 5: only the source may");
    }

    proptest! {
        #[test]
        fn pieces_fit_parse_and_make_the_whole_again(
            payload in prop::collection::vec(any::<u8>(), 0..4000),
            mtu in 28usize..1500,
            again in 28usize..1500,
        ) {
            let whole = packet(&payload, 0);
            let mut body = vec![None; whole.len() - 20];
            let mut ends = 0;
            for (header, piece) in fragments(&whole, mtu).unwrap() {
                let first = [&header[..], piece].concat();
                prop_assert!(first.len() <= mtu);
                // A piece may have to be cut again on a narrower way.
                for (header, piece) in fragments(&first, again).unwrap() {
                    let bytes = [&header[..], piece].concat();
                    prop_assert!(bytes.len() <= again && checksum::fold(checksum::sum(&header, 0)) == 0xffff);
                    prop_assert_eq!(&header[12..], &whole[12..20]);
                    let field = u16::from_be_bytes([header[6], header[7]]);
                    ends += usize::from(field & MORE == 0);
                    for (i, byte) in piece.iter().enumerate() {
                        prop_assert_eq!(body[usize::from(field & OFFSET) * 8 + i].replace(*byte), None);
                    }
                }
            }
            let body: Option<Vec<u8>> = body.into_iter().collect();
            prop_assert_eq!(body.as_deref(), Some(&whole[20..]));
            prop_assert_eq!(ends, 1);
        }
    }
}
