//! The messages of the BGP monitoring protocol (RFC 7854), version 3. Encoders alone: a collector never answers.
use crate::session::Ending;
use crate::wire::message;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const VERSION: u8 = 3;
/// RFC 7854, 4.1.
const HEADER: usize = 6;

mod kind {
    pub(super) const ROUTE_MONITORING: u8 = 0;
    pub(super) const STATISTICS: u8 = 1;
    pub(super) const PEER_DOWN: u8 = 2;
    pub(super) const PEER_UP: u8 = 3;
    pub(super) const INITIATION: u8 = 4;
    pub(super) const TERMINATION: u8 = 5;
}

/// Which of a peer's routes a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// As the peer told them, those that are refused among them.
    PrePolicy,
    /// As the import policy left them.
    PostPolicy,
}

/// RFC 7854, 4.2. Times are left out, as they may be: a collector knows when it heard of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    pub asn: u32,
    pub id: Ipv4Addr,
}

impl Peer {
    fn encode(&self, view: View, out: &mut Vec<u8>) {
        const IPV6: u8 = 0x80;
        const POST_POLICY: u8 = 0x40;
        let family = if self.address.is_ipv6() { IPV6 } else { 0 };
        let policy = if view == View::PostPolicy { POST_POLICY } else { 0 };
        // A global instance peer, without a distinguisher.
        out.extend_from_slice(&[0, family | policy]);
        out.extend_from_slice(&[0; 8]);
        address(self.address, out);
        out.extend_from_slice(&self.asn.to_be_bytes());
        out.extend_from_slice(&self.id.octets());
        out.extend_from_slice(&[0; 8]);
    }
}

/// Sixteen bytes; of an IPv4 address the last four.
fn address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(a) => {
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&a.octets());
        }
        IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
    }
}

fn encode(kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    body(&mut out);
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(header) = out.first_chunk_mut::<HEADER>() {
        *header = [VERSION, length[0], length[1], length[2], length[3], kind];
    }
    out
}

/// RFC 7854, 4.4. Longer values are cut.
fn information(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value.get(..usize::from(length)).unwrap_or_default());
}

/// The first message (RFC 7854, 4.3).
#[must_use]
pub fn initiation(name: &str, description: &str) -> Vec<u8> {
    encode(kind::INITIATION, |out| {
        information(1, description.as_bytes(), out);
        information(2, name.as_bytes(), out);
    })
}

/// The last one: monitoring was ended here, on purpose (RFC 7854, 4.5).
#[must_use]
pub fn termination(words: &str) -> Vec<u8> {
    const ADMINISTRATIVELY_CLOSED: u16 = 0;
    encode(kind::TERMINATION, |out| {
        information(1, &ADMINISTRATIVELY_CLOSED.to_be_bytes(), out);
        information(0, words.as_bytes(), out);
    })
}

/// A session is established; `sent` and `received` are the OPENs (RFC 7854, 4.10).
#[must_use]
pub fn peer_up(peer: &Peer, local: SocketAddr, remote: SocketAddr, sent: &[u8], received: &[u8]) -> Vec<u8> {
    encode(kind::PEER_UP, |out| {
        peer.encode(View::PrePolicy, out);
        address(local.ip(), out);
        out.extend_from_slice(&local.port().to_be_bytes());
        out.extend_from_slice(&remote.port().to_be_bytes());
        out.extend_from_slice(sent);
        out.extend_from_slice(received);
    })
}

/// RFC 7854, 4.9.
#[must_use]
pub fn peer_down(peer: &Peer, ending: &Ending) -> Vec<u8> {
    encode(kind::PEER_DOWN, |out| {
        peer.encode(View::PrePolicy, out);
        match ending {
            Ending::Sent(n) => {
                out.push(1);
                out.extend_from_slice(&message::notification(n));
            }
            Ending::Received(n) => {
                out.push(3);
                out.extend_from_slice(&message::notification(n));
            }
            Ending::Closed => out.push(4),
        }
    })
}

/// `update`: a whole BGP message, with four-byte AS numbers (RFC 7854, 4.6).
#[must_use]
pub fn route_monitoring(peer: &Peer, view: View, update: &[u8]) -> Vec<u8> {
    encode(kind::ROUTE_MONITORING, |out| {
        peer.encode(view, out);
        out.extend_from_slice(update);
    })
}

/// What is counted of a peer (RFC 7854, 4.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Routes that the import policy refused.
    pub refused_by_policy: u32,
    /// Routes with our own AS in their path.
    pub as_path_loops: u32,
    /// UPDATEs whose routes counted as withdrawn.
    pub treated_as_withdrawn: u32,
    /// Routes that the peer has told, now.
    pub received: u64,
}

#[must_use]
pub fn statistics(peer: &Peer, of: &Statistics) -> Vec<u8> {
    encode(kind::STATISTICS, |out| {
        peer.encode(View::PrePolicy, out);
        let counters = [(0, of.refused_by_policy), (4, of.as_path_loops), (11, of.treated_as_withdrawn)];
        const GAUGES: u32 = 1;
        out.extend_from_slice(&(counters.len() as u32 + GAUGES).to_be_bytes());
        for (kind, value) in counters {
            information(kind, &value.to_be_bytes(), out);
        }
        information(7, &of.received.to_be_bytes(), out);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::notification::Notification;

    const PEER: Peer =
        Peer { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), asn: 65001, id: Ipv4Addr::new(10, 0, 0, 1) };

    #[test]
    fn every_message_says_its_own_length_and_type() {
        let ends = ["192.0.2.2:179", "192.0.2.1:40000"].map(|s| s.parse().unwrap());
        let open = message::keepalive();
        let messages = [
            route_monitoring(&PEER, View::PrePolicy, &message::keepalive()),
            statistics(&PEER, &Statistics::default()),
            peer_down(&PEER, &Ending::Closed),
            peer_up(&PEER, ends[0], ends[1], &open, &open),
            initiation("mux-1", "Penstock"),
            termination("stops"),
        ];
        for (kind, m) in messages.iter().enumerate() {
            assert_eq!((m[0], usize::from(m[5])), (3, kind));
            assert_eq!(u32::from_be_bytes([m[1], m[2], m[3], m[4]]) as usize, m.len(), "type {kind}");
        }
    }

    #[test]
    fn the_peer_header_has_its_fields_where_the_rfc_has_them() {
        let six = Peer { address: "2001:db8::1".parse().unwrap(), ..PEER };
        let m = route_monitoring(&six, View::PostPolicy, &[]);
        assert_eq!(m.len(), 6 + 42);
        assert_eq!((m[6], m[7]), (0, 0xc0), "global, IPv6, after the policy");
        assert_eq!(m[16..20], [0x20, 1, 0xd, 0xb8]);
        assert_eq!((&m[32..36], &m[36..40]), (&65001_u32.to_be_bytes()[..], &[10, 0, 0, 1][..]));
        let m = route_monitoring(&PEER, View::PrePolicy, &[]);
        assert_eq!((m[7], &m[16..28], &m[28..32]), (0, &[0; 12][..], &[192, 0, 2, 1][..]));
    }

    #[test]
    fn an_ending_says_whose_word_it_was() {
        let n = Notification::new(6, 2);
        for (ending, reason, words) in
            [(Ending::Sent(n.clone()), 1, 21), (Ending::Received(n), 3, 21), (Ending::Closed, 4, 0)]
        {
            let m = peer_down(&PEER, &ending);
            assert_eq!((m[48], m.len() - 49), (reason, words));
        }
    }
}
