use crate::Headers;

const FRAGMENT: u8 = 44;

/// The identification of a packet that was cut (RFC 791 section 3.1, RFC 8200 section 4.5). `None` if it says none.
#[must_use]
pub fn fragment_id(frame: &[u8], headers: &Headers) -> Option<u32> {
    let l3 = usize::from(headers.l3);
    if headers.is_v4() {
        let id = frame.get(l3 + 4..)?.first_chunk::<2>()?;
        return Some(u16::from_be_bytes(*id).into());
    }
    let (mut kind, mut at) = (*frame.get(l3 + 6)?, l3 + 40);
    // Each header takes eight bytes at least, and all of them stand before the transport's.
    while at + 8 <= usize::from(headers.l4) {
        let header = frame.get(at..)?.first_chunk::<8>()?;
        if kind == FRAGMENT {
            return Some(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
        }
        at += (usize::from(header[1]) + 1) * 8;
        kind = header[0];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fragment, parse};

    fn v6(extensions: &[u8], next: u8, offset_more: u16) -> Vec<u8> {
        let mut f = vec![2; 12];
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        let transport = [0, 7, 0, 53, 0, 8, 0, 0];
        f.extend(((extensions.len() + 8 + transport.len()) as u16).to_be_bytes());
        f.extend([next, 64]);
        f.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        f.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        f.extend(extensions);
        let [a, b] = offset_more.to_be_bytes();
        f.extend([17, 0, a, b, 0xde, 0xad, 0xbe, 0xef]);
        f.extend(transport);
        f
    }

    #[test]
    fn the_identification_is_found_behind_other_extension_headers() {
        for (offset_more, fragment) in [(1, Fragment::First), (8 << 3, Fragment::Later)] {
            // Destination options of 16 bytes before it.
            let options = [44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            for frame in [v6(&[], 44, offset_more), v6(&options, 60, offset_more)] {
                let h = parse(&frame).unwrap();
                assert_eq!((h.fragment, fragment_id(&frame, &h)), (fragment, Some(0xdead_beef)));
            }
        }
    }

    #[test]
    fn cut_short_or_whole_it_says_none() {
        let frame = v6(&[], 44, 1);
        let h = parse(&frame).unwrap();
        for len in 0..frame.len() {
            let _ = fragment_id(&frame[..len], &h);
        }
        let whole = [&frame[..20], &[17], &frame[21..54], &frame[62..]].concat();
        let mut whole = whole;
        whole[18..20].copy_from_slice(&8u16.to_be_bytes());
        let h = parse(&whole).unwrap();
        assert_eq!(fragment_id(&whole, &h), None);
    }
}
