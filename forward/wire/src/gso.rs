//! Frames that a sender left whole for its interface to cut: cut in software.
//!
//! What Linux does in `tcp_gso_segment` and `__udp_gso_segment`: each segment gets the headers of the whole with its own
//! lengths, sequence number, identification and checksums.

use crate::checksum::{finish, sum};
use crate::rewrite::pseudo_header_sum;
use crate::{Fragment, Headers, TcpFlags};
use penstock_model::{DropReason, Protocol};

/// Congestion window reduced: told once, by the first segment (RFC 3168 section 6.1.2).
const CWR: u8 = 0x80;

/// Cuts a TCP or UDP super-frame into frames with at most `size` bytes of payload. Each is written to `buffer` at `at` and
/// handed to `each` with its length; after that the same bytes are used for the next. Returns the number of frames.
///
/// Checksums are computed afresh, whatever the whole frame's field holds. `headers` must be of `frame`; the bytes before
/// `headers.l2` are left out.
///
/// # Errors
/// `BadOffload` if the frame is not TCP or UDP, is a fragment, or `size` is 0; `NoBuffer` if a segment does not fit behind
/// `at`. `each` has not been called then.
pub fn segment(
    frame: &[u8],
    headers: &Headers,
    size: usize,
    buffer: &mut [u8],
    at: usize,
    mut each: impl FnMut(&mut [u8], usize),
) -> Result<usize, DropReason> {
    let plan = Plan::new(frame, headers, size)?;
    let longest = plan.head.len() + size.min(plan.payload.len());
    if at.checked_add(longest).is_none_or(|end| end > buffer.len()) || longest > usize::from(u16::MAX) {
        return Err(DropReason::NoBuffer);
    }
    // An empty payload (a bare acknowledgement with a stray mark) is still one frame.
    let count = plan.payload.len().div_ceil(size).max(1);
    for i in 0..count {
        let from = i * size;
        let payload = &plan.payload[from..plan.payload.len().min(from + size)];
        let len = plan.head.len() + payload.len();
        let out = &mut buffer[at..at + len];
        plan.write(out, payload, i, i + 1 == count);
        each(buffer, len);
    }
    Ok(count)
}

/// The parts of the whole, checked.
struct Plan<'a> {
    /// Everything before the payload.
    head: &'a [u8],
    payload: &'a [u8],
    /// Of the segments: offsets count from their own start.
    headers: Headers,
    size: usize,
}

impl<'a> Plan<'a> {
    fn new(frame: &'a [u8], headers: &Headers, size: usize) -> Result<Self, DropReason> {
        let is_known = matches!(headers.protocol, Protocol::TCP | Protocol::UDP) && headers.is_ip();
        if !is_known || headers.fragment != Fragment::No || size == 0 {
            return Err(DropReason::BadOffload);
        }
        let (l2, payload) = (usize::from(headers.l2), usize::from(headers.payload));
        let head = frame.get(l2..payload).ok_or(DropReason::BadOffload)?;
        let payload = frame.get(payload..headers.end as usize).ok_or(DropReason::BadOffload)?;
        let mut own = *headers;
        own.l2 = 0;
        own.l3 = headers.l3.checked_sub(headers.l2).ok_or(DropReason::BadOffload)?;
        own.l4 = headers.l4.checked_sub(headers.l2).ok_or(DropReason::BadOffload)?;
        let least_ip = if headers.is_v4() { 20 } else { 40 };
        let least_l4 = if headers.protocol == Protocol::TCP { 20 } else { 8 };
        if usize::from(own.l4) < usize::from(own.l3) + least_ip || head.len() < usize::from(own.l4) + least_l4 {
            return Err(DropReason::BadOffload);
        }
        Ok(Self { head, payload, headers: own, size })
    }

    fn write(&self, out: &mut [u8], payload: &[u8], index: usize, is_last: bool) {
        let (head, body) = out.split_at_mut(self.head.len());
        head.copy_from_slice(self.head);
        body.copy_from_slice(payload);
        self.write_ip(out, index);
        match self.headers.protocol {
            Protocol::TCP => self.write_tcp(out, index, is_last),
            _ => self.write_udp(out),
        }
    }

    fn write_ip(&self, out: &mut [u8], index: usize) {
        let (l3, l4) = (usize::from(self.headers.l3), usize::from(self.headers.l4));
        if self.headers.is_v4() {
            let len = (out.len() - l3) as u16;
            out[l3 + 2..l3 + 4].copy_from_slice(&len.to_be_bytes());
            let id = u16::from_be_bytes([out[l3 + 4], out[l3 + 5]]).wrapping_add(index as u16);
            out[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
            out[l3 + 10..l3 + 12].fill(0);
            let checksum = finish(sum(&out[l3..l4], 0));
            out[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let len = (out.len() - l3 - 40) as u16;
            out[l3 + 4..l3 + 6].copy_from_slice(&len.to_be_bytes());
        }
    }

    fn write_tcp(&self, out: &mut [u8], index: usize, is_last: bool) {
        let l4 = usize::from(self.headers.l4);
        let seq = u32::from_be_bytes([out[l4 + 4], out[l4 + 5], out[l4 + 6], out[l4 + 7]]);
        let seq = seq.wrapping_add((index * self.size) as u32);
        out[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
        if index > 0 {
            out[l4 + 13] &= !CWR;
        }
        if !is_last {
            out[l4 + 13] &= !(TcpFlags::FIN | TcpFlags::PSH);
        }
        self.write_checksum(out, l4 + 16);
    }

    fn write_udp(&self, out: &mut [u8]) {
        let l4 = usize::from(self.headers.l4);
        let len = (out.len() - l4) as u16;
        out[l4 + 4..l4 + 6].copy_from_slice(&len.to_be_bytes());
        self.write_checksum(out, l4 + 6);
    }

    fn write_checksum(&self, out: &mut [u8], at: usize) {
        let l4 = usize::from(self.headers.l4);
        out[at..at + 2].fill(0);
        let checksum = finish(sum(&out[l4..], pseudo_header_sum(&self.headers, out.len() - l4)));
        let checksum = if checksum == 0 && self.headers.protocol == Protocol::UDP { 0xffff } else { checksum };
        out[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{FrameBuilder, is_intact};
    use crate::parse;

    fn cut(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut buffer = [0xee; 2048];
        let mut out = Vec::new();
        let h = parse(frame).unwrap();
        let n = segment(frame, &h, size, &mut buffer, 100, |b, len| out.push(b[100..100 + len].to_vec())).unwrap();
        assert_eq!(n, out.len());
        out
    }

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn segments_carry_the_whole_stream_in_order_with_right_checksums() {
        for (src, dst) in [("192.0.2.1:1000", "198.51.100.1:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:80")] {
            let payload = bytes(5000);
            let whole = FrameBuilder::tcp(src, dst)
                .seq(0xffff_ff00)
                .identification(0xffff)
                .tcp_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
                .flags(TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN | CWR)
                .payload(&payload)
                .partial_checksum()
                .build();
            let segments = cut(&whole, 1448);
            assert_eq!(segments.len(), 4);
            let mut stream = Vec::new();
            for (i, s) in segments.iter().enumerate() {
                let h = parse(s).unwrap();
                assert!(is_intact(s));
                let l4 = usize::from(h.l4);
                let seq = u32::from_be_bytes([s[l4 + 4], s[l4 + 5], s[l4 + 6], s[l4 + 7]]);
                assert_eq!(seq, 0xffff_ff00u32.wrapping_add(stream.len() as u32));
                assert_eq!(h.tcp_flags.has(CWR), i == 0);
                assert_eq!(h.tcp_flags.has(TcpFlags::FIN), i == 3);
                assert_eq!(h.tcp_flags.has(TcpFlags::PSH), i == 3);
                if h.is_v4() {
                    let id = u16::from_be_bytes([s[18], s[19]]);
                    assert_eq!(id, 0xffffu16.wrapping_add(i as u16));
                }
                stream.extend_from_slice(&s[usize::from(h.payload)..]);
            }
            assert_eq!(stream, payload);
        }
    }

    #[test]
    fn datagrams_get_a_length_and_checksum_each() {
        let whole = FrameBuilder::udp("192.0.2.1:1000", "198.51.100.1:443").payload(&bytes(3000)).build();
        let segments = cut(&whole, 1200);
        let lengths: Vec<_> = segments.iter().map(|s| s.len() - 42).collect();
        assert_eq!(lengths, [1200, 1200, 600]);
        assert!(segments.iter().all(|s| is_intact(s)));
    }

    #[test]
    fn a_frame_that_fits_is_one_segment() {
        let whole = FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").payload(&bytes(10)).build();
        assert_eq!(cut(&whole, 1448), vec![whole]);
    }

    #[test]
    fn what_cannot_be_cut_is_refused_before_anything_is_handed_out() {
        let whole = FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").payload(&bytes(3000)).build();
        let h = parse(&whole).unwrap();
        let mut buffer = [0; 512];
        let never = |_: &mut [u8], _| panic!("called");
        assert_eq!(segment(&whole, &h, 0, &mut buffer, 0, never), Err(DropReason::BadOffload));
        assert_eq!(segment(&whole, &h, 1448, &mut buffer, 0, never), Err(DropReason::NoBuffer));
        assert_eq!(segment(&whole, &h, 400, &mut buffer, usize::MAX, never), Err(DropReason::NoBuffer));
        let echo = FrameBuilder::echo("192.0.2.1", "198.51.100.1", 1).build();
        let h = parse(&echo).unwrap();
        assert_eq!(segment(&echo, &h, 100, &mut buffer, 0, never), Err(DropReason::BadOffload));
    }
}
