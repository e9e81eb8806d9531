//! Cutting an IPv4 packet into fragments (RFC 791 sections 2.3 and 3.2).
use crate::{checksum, parse_ip};
use penstock_model::DropReason;
use std::ops::Deref;

/// Length of a header without options, and of the longest.
const HEADER: usize = 20;
const LONGEST: usize = 60;
const MORE: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;
const OFFSET: u16 = 0x1fff;

/// The pieces of an IPv4 packet that does not fit a way of `mtu` bytes and may be cut: each with its own header, and its
/// payload a piece of `packet`. The first has all options, the others those that say so of themselves (RFC 791 section 3.1).
///
/// # Errors
/// It may not be cut, is not IPv4, its options are not such, or `mtu` leaves no room for payload.
pub fn fragments(packet: &[u8], mtu: usize) -> Result<Fragments<'_>, DropReason> {
    let h = parse_ip(packet)?;
    if !h.is_v4() {
        return Err(DropReason::TooLarge);
    }
    let packet = packet.get(..h.end as usize).ok_or(DropReason::TruncatedIpv4)?;
    let (header, payload) = packet.split_at_checked(usize::from(h.l4)).ok_or(DropReason::TruncatedIpv4)?;
    let first = Header::whole(header).ok_or(DropReason::BadIpv4Header)?;
    let field = u16::from_be_bytes([first[6], first[7]]);
    // The first header is the longest.
    if field & DONT_FRAGMENT != 0 || mtu < first.len() + 8 {
        return Err(DropReason::TooLarge);
    }
    let later = if first.len() == HEADER { first } else { first.of_later().ok_or(DropReason::BadIpv4Header)? };
    Ok(Fragments { first, later, field, payload, done: 0, mtu })
}

/// An IPv4 header: dereferences to its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

impl Header {
    fn whole(header: &[u8]) -> Option<Self> {
        let mut this = Self { bytes: [0; LONGEST], len: HEADER };
        this.bytes.get_mut(..header.len())?.copy_from_slice(header);
        this.len = header.len().max(HEADER);
        Some(this)
    }

    /// With the options that are copied into each fragment alone; `None` if one reaches beyond the header.
    fn of_later(&self) -> Option<Self> {
        const END_OF_OPTIONS: u8 = 0;
        const NOP: u8 = 1;
        const COPIED: u8 = 0x80;
        let mut later = Self { bytes: [0; LONGEST], len: HEADER };
        later.bytes.get_mut(..HEADER)?.copy_from_slice(self.get(..HEADER)?);
        let mut rest = self.get(HEADER..)?;
        while let Some(&kind) = rest.first() {
            let len = match kind {
                END_OF_OPTIONS => break,
                NOP => 1,
                _ => rest.get(1).copied().filter(|len| *len >= 2)?.into(),
            };
            let (option, behind) = rest.split_at_checked(len)?;
            if kind & COPIED != 0 {
                later.bytes.get_mut(later.len..later.len + len)?.copy_from_slice(option);
                later.len += len;
            }
            rest = behind;
        }
        // What is missing to the next four bytes is zero, which is the end of options.
        later.len = later.len.next_multiple_of(4);
        later.bytes[0] = 0x40 | (later.len / 4) as u8;
        Some(later)
    }

    /// For a piece of `payload` bytes.
    fn finished(mut self, payload: usize, field: u16) -> Option<Self> {
        let total = u16::try_from(self.len + payload).ok()?.to_be_bytes();
        self.bytes[2..4].copy_from_slice(&total);
        self.bytes[6..8].copy_from_slice(&field.to_be_bytes());
        self.bytes[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&self, 0)).to_be_bytes();
        self.bytes[10..12].copy_from_slice(&sum);
        Some(self)
    }
}

/// See [`fragments`].
#[derive(Debug, Clone)]
pub struct Fragments<'a> {
    first: Header,
    later: Header,
    /// Flags and offset of the whole.
    field: u16,
    payload: &'a [u8],
    done: usize,
    mtu: usize,
}

impl<'a> Iterator for Fragments<'a> {
    /// Header and payload of a piece.
    type Item = (Header, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.payload.get(self.done..).filter(|rest| !rest.is_empty())?;
        let header = if self.done == 0 { self.first } else { self.later };
        let room = self.mtu.saturating_sub(header.len()) / 8 * 8;
        let piece = rest.get(..room).unwrap_or(rest);
        let is_last = piece.len() == rest.len();
        let more = if is_last { self.field & MORE } else { MORE };
        let offset = (self.field & OFFSET) + u16::try_from(self.done / 8).ok()?;
        self.done += piece.len();
        Some((header.finished(piece.len(), more | (offset & OFFSET))?, piece))
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

    /// `packet` with these options, which are a multiple of four bytes.
    fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
        let mut packet = [&packet[..20], options, &packet[20..]].concat();
        packet[0] += (options.len() / 4) as u8;
        let total = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&total);
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&packet[..20 + options.len()], 0)).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet
    }

    /// Record route (7), which is in the first fragment only; router alert (148, RFC 2113), which is in each.
    const OPTIONS: [u8; 12] = [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0];

    #[test]
    fn options_with_the_copy_bit_are_in_every_piece_and_the_others_in_the_first() {
        let whole = with_options(&packet(&[7; 3000], 0), &OPTIONS);
        let pieces: Vec<_> = fragments(&whole, 1400).unwrap().collect();
        assert_eq!(pieces[0].0[20..], OPTIONS);
        assert!(pieces.len() == 3 && pieces[1..].iter().all(|(h, _)| h[0] == 0x46 && h[20..] == [148, 4, 0, 0]));
        let mut body = Vec::new();
        for (header, piece) in &pieces {
            let bytes = [header, *piece].concat();
            assert!(bytes.len() <= 1400 && checksum::fold(checksum::sum(header, 0)) == 0xffff);
            assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), bytes.len());
            let field = u16::from_be_bytes([header[6], header[7]]);
            assert_eq!(usize::from(field & OFFSET) * 8, body.len());
            assert_eq!(field & MORE == 0, body.len() + piece.len() == whole.len() - 32);
            body.extend_from_slice(piece);
        }
        assert_eq!(body, whole[32..]);
        let alone = with_options(&packet(&[7; 3000], 0), &[7, 3, 4, 0]);
        assert!(fragments(&alone, 1400).unwrap().skip(1).all(|(header, _)| header[0] == 0x45 && header.len() == 20));
    }

    #[test]
    fn options_that_reach_beyond_the_header_are_refused() {
        for options in [[148, 5, 0, 0], [148, 1, 0, 0], [148, 0, 0, 0], [1, 1, 1, 148]] {
            let bad = with_options(&packet(&[1; 3000], 0), &options);
            assert_eq!(fragments(&bad, 1400).err(), Some(DropReason::BadIpv4Header), "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn any_options_leave_pieces_that_fit_and_parse(
            options in prop::collection::vec(any::<u32>(), 0..=10),
            mtu in 68usize..1500,
        ) {
            let options: Vec<u8> = options.iter().flat_map(|o| o.to_be_bytes()).collect();
            let whole = with_options(&packet(&[3; 2000], 0), &options);
            for (header, piece) in fragments(&whole, mtu).into_iter().flatten() {
                let bytes = [&header[..], piece].concat();
                prop_assert!(bytes.len() <= mtu);
                let h = parse_ip(&bytes).unwrap();
                prop_assert_eq!((usize::from(h.l4), h.end as usize), (header.len(), bytes.len()));
            }
        }

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
