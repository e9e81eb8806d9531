//! ARP for IPv4 over Ethernet (RFC 826).

use crate::{Headers, ethertype};
use penstock_model::{DropReason, Mac};
use std::net::Ipv4Addr;

/// Bytes of an ARP frame without padding.
pub const FRAME_LEN: usize = 14 + 28;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Request,
    Reply,
}

/// An ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub operation: Operation,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    /// Zero in a request.
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

/// Reads the ARP packet of a frame that `parse` said is one.
///
/// # Errors
/// `TruncatedEthernet` if it ends early, `Unsupported` if it is not a request or reply for IPv4 over Ethernet.
pub fn parse(frame: &[u8], headers: &Headers) -> Result<Arp, DropReason> {
    if headers.ethertype != ethertype::ARP {
        return Err(DropReason::Unsupported);
    }
    let a = frame
        .get(usize::from(headers.l3)..)
        .and_then(|f| f.first_chunk::<28>())
        .ok_or(DropReason::TruncatedEthernet)?;
    // Hardware Ethernet, protocol IPv4, address lengths 6 and 4.
    if a[..6] != [0, 1, 8, 0, 6, 4] {
        return Err(DropReason::Unsupported);
    }
    let operation = match (a[6], a[7]) {
        (0, 1) => Operation::Request,
        (0, 2) => Operation::Reply,
        _ => return Err(DropReason::Unsupported),
    };
    Ok(Arp {
        operation,
        sender_mac: Mac([a[8], a[9], a[10], a[11], a[12], a[13]]),
        sender: Ipv4Addr::new(a[14], a[15], a[16], a[17]),
        target_mac: Mac([a[18], a[19], a[20], a[21], a[22], a[23]]),
        target: Ipv4Addr::new(a[24], a[25], a[26], a[27]),
    })
}

impl Arp {
    /// Who has `target`? An answer goes to `sender`.
    #[must_use]
    pub const fn request(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self { operation: Operation::Request, sender_mac, sender, target_mac: Mac::ZERO, target }
    }

    /// The answer to this request: `target` is at `mac`.
    #[must_use]
    pub const fn reply(&self, mac: Mac) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        }
    }

    /// The whole Ethernet frame: a request is broadcast, a reply goes to its target.
    #[must_use]
    pub fn to_frame(&self) -> [u8; FRAME_LEN] {
        let (to, operation) = match self.operation {
            Operation::Request => (Mac::BROADCAST, 1),
            Operation::Reply => (self.target_mac, 2),
        };
        let mut f = [0; FRAME_LEN];
        f[..6].copy_from_slice(&to.0);
        f[6..12].copy_from_slice(&self.sender_mac.0);
        f[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
        f[22..28].copy_from_slice(&self.sender_mac.0);
        f[28..32].copy_from_slice(&self.sender.octets());
        f[32..38].copy_from_slice(&self.target_mac.0);
        f[38..].copy_from_slice(&self.target.octets());
        f
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse as parse_frame;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_reply_answers_the_request_that_was_read_from_the_wire() {
        let sent = Arp::request(A, Ipv4Addr::new(10, 0, 0, 4), Ipv4Addr::new(10, 0, 0, 1));
        let frame = sent.to_frame();
        let read = parse(&frame, &parse_frame(&frame).unwrap()).unwrap();
        assert_eq!(read, sent);
        let answer = read.reply(B).to_frame();
        assert_eq!(answer[..6], A.0);
        let answer = parse(&answer, &parse_frame(&answer).unwrap()).unwrap();
        let expected = Arp {
            operation: Operation::Reply,
            sender_mac: B,
            sender: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: A,
            target: Ipv4Addr::new(10, 0, 0, 4),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn other_hardware_operations_and_short_packets_are_refused() {
        let frame = Arp::request(A, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST).to_frame();
        for (at, byte) in [(15, 6), (17, 0xdd), (18, 8), (21, 3)] {
            let mut bad = frame;
            bad[at] = byte;
            assert_eq!(parse(&bad, &parse_frame(&bad).unwrap()), Err(DropReason::Unsupported));
        }
        let short = &frame[..41];
        assert_eq!(parse(short, &parse_frame(short).unwrap()), Err(DropReason::TruncatedEthernet));
    }
}
