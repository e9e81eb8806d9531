//! Whole frames with right lengths and checksums, for tests, probes and benches. Allocates; not for the packet loop.

use crate::checksum::{finish, fold, sum};
use crate::rewrite::pseudo_header_sum;
use crate::{Fragment, Headers, VXLAN_PORT, ethertype, parse, vxlan};
use penstock_model::{Addr16, Mac, Protocol, Vni};
use std::net::{IpAddr, SocketAddr};

/// Builds one Ethernet frame with an IPv4 or IPv6 packet.
#[derive(Debug, Clone)]
pub struct FrameBuilder {
    eth_src: Mac,
    eth_dst: Mac,
    src: IpAddr,
    dst: IpAddr,
    src_port: u16,
    dst_port: u16,
    protocol: Protocol,
    tcp_flags: u8,
    tcp_options: Vec<u8>,
    seq: u32,
    ttl: u8,
    tos: u8,
    identification: u16,
    payload: Vec<u8>,
    vlan: Option<u16>,
    checksum: Checksum,
    pad: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    Full,
    Partial,
    None,
}

/// # Panics
/// The constructors panic on text that is not an address, and if the two are not of one family: they are for literals.
impl FrameBuilder {
    #[must_use]
    #[track_caller]
    pub fn tcp(src: &str, dst: &str) -> Self {
        Self::between(socket(src), socket(dst), Protocol::TCP)
    }

    #[must_use]
    #[track_caller]
    pub fn udp(src: &str, dst: &str) -> Self {
        Self::between(socket(src), socket(dst), Protocol::UDP)
    }

    /// An echo request.
    #[must_use]
    #[track_caller]
    pub fn echo(src: &str, dst: &str, identifier: u16) -> Self {
        let src = socket(&bracketed(src));
        let protocol = if src.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
        let mut builder = Self::between(src, socket(&bracketed(dst)), protocol);
        builder.src_port = identifier;
        builder
    }

    /// From any addresses; `protocol` is TCP, UDP, ICMP or ICMPv6.
    #[must_use]
    #[track_caller]
    pub fn between(src: SocketAddr, dst: SocketAddr, protocol: Protocol) -> Self {
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "{src} and {dst} are of two families");
        Self {
            eth_src: Mac([2, 0, 0, 0, 0, 0xa]),
            eth_dst: Mac([2, 0, 0, 0, 0, 0xb]),
            src: src.ip(),
            dst: dst.ip(),
            src_port: src.port(),
            dst_port: dst.port(),
            protocol,
            tcp_flags: crate::TcpFlags::ACK,
            tcp_options: Vec::new(),
            seq: 1,
            ttl: 64,
            tos: 0,
            identification: 0,
            payload: Vec::new(),
            vlan: None,
            checksum: Checksum::Full,
            pad: false,
        }
    }

    #[must_use]
    pub fn eth(mut self, src: Mac, dst: Mac) -> Self {
        (self.eth_src, self.eth_dst) = (src, dst);
        self
    }

    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.tcp_flags = flags;
        self
    }

    #[must_use]
    pub fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }

    /// Options of TCP, a multiple of 4 bytes, at most 40.
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        self.tcp_options = options.to_vec();
        self
    }

    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    #[must_use]
    pub fn identification(mut self, id: u16) -> Self {
        self.identification = id;
        self
    }

    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan = Some(id);
        self
    }

    /// The transport checksum holds only the pseudo-header sum, as a sender leaves it for its interface.
    #[must_use]
    pub fn partial_checksum(mut self) -> Self {
        self.checksum = Checksum::Partial;
        self
    }

    /// The transport checksum is 0: "none" for UDP.
    #[must_use]
    pub fn no_checksum(mut self) -> Self {
        self.checksum = Checksum::None;
        self
    }

    /// At least 60 bytes, the Ethernet minimum without its check sequence.
    #[must_use]
    pub fn padded(mut self) -> Self {
        self.pad = true;
        self
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128 + self.payload.len());
        frame.extend_from_slice(&self.eth_dst.0);
        frame.extend_from_slice(&self.eth_src.0);
        if let Some(id) = self.vlan {
            frame.extend_from_slice(&ethertype::VLAN.to_be_bytes());
            frame.extend_from_slice(&id.to_be_bytes());
        }
        let kind = if self.src.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 };
        frame.extend_from_slice(&kind.to_be_bytes());
        let transport = self.transport(kind);
        self.ip(&mut frame, transport.len());
        frame.extend_from_slice(&transport);
        if self.pad && frame.len() < 60 {
            frame.resize(60, 0);
        }
        frame
    }

    fn ip(&self, frame: &mut Vec<u8>, len: usize) {
        let at = frame.len();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend_from_slice(&[0x45, self.tos]);
                frame.extend_from_slice(&u16::try_from(len + 20).unwrap_or(0).to_be_bytes());
                frame.extend_from_slice(&self.identification.to_be_bytes());
                frame.extend_from_slice(&[0x40, 0, self.ttl, self.protocol.0, 0, 0]);
                frame.extend_from_slice(&src.octets());
                frame.extend_from_slice(&dst.octets());
                let checksum = finish(sum(&frame[at..], 0));
                frame[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend_from_slice(&[0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
                frame.extend_from_slice(&u16::try_from(len).unwrap_or(0).to_be_bytes());
                frame.extend_from_slice(&[self.protocol.0, self.ttl]);
                frame.extend_from_slice(&src.octets());
                frame.extend_from_slice(&dst.octets());
            }
            _ => {}
        }
    }

    fn transport(&self, kind: u16) -> Vec<u8> {
        let mut t = Vec::with_capacity(60 + self.payload.len());
        match self.protocol {
            Protocol::TCP => {
                t.extend_from_slice(&self.src_port.to_be_bytes());
                t.extend_from_slice(&self.dst_port.to_be_bytes());
                t.extend_from_slice(&self.seq.to_be_bytes());
                let words = 5 + self.tcp_options.len() / 4;
                t.extend_from_slice(&[0, 0, 0, 1, (words as u8) << 4, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
                t.extend_from_slice(&self.tcp_options);
            }
            Protocol::UDP => {
                t.extend_from_slice(&self.src_port.to_be_bytes());
                t.extend_from_slice(&self.dst_port.to_be_bytes());
                t.extend_from_slice(&u16::try_from(8 + self.payload.len()).unwrap_or(0).to_be_bytes());
                t.extend_from_slice(&[0, 0]);
            }
            protocol => {
                t.extend_from_slice(&[if protocol == Protocol::ICMP { 8 } else { 128 }, 0, 0, 0]);
                t.extend_from_slice(&self.src_port.to_be_bytes());
                t.extend_from_slice(&[0, 1]);
            }
        }
        t.extend_from_slice(&self.payload);
        let headers = Headers {
            src: Addr16::from(self.src),
            dst: Addr16::from(self.dst),
            protocol: self.protocol,
            ethertype: kind,
            ..Headers::default()
        };
        if let Some(at) = headers.checksum_at() {
            let pseudo = if self.protocol == Protocol::ICMP { 0 } else { pseudo_header_sum(&headers, t.len()) };
            let field = match self.checksum {
                Checksum::Full if self.protocol == Protocol::UDP => nonzero(finish(sum(&t, pseudo))),
                Checksum::Full => finish(sum(&t, pseudo)),
                Checksum::Partial => fold(pseudo),
                Checksum::None => 0,
            };
            t[at..at + 2].copy_from_slice(&field.to_be_bytes());
        }
        t
    }
}

fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[track_caller]
#[allow(clippy::panic, reason = "for literals in tests, as documented")]
fn socket(text: &str) -> SocketAddr {
    match text.parse() {
        Ok(address) => address,
        Err(_) => panic!("\"{text}\" is not an address with a port"),
    }
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:0") } else { format!("{ip}:0") }
}

/// `inner` in VXLAN between two underlay addresses.
#[must_use]
#[track_caller]
pub fn vxlan_frame(src: IpAddr, dst: IpAddr, vni: Vni, inner: &[u8]) -> Vec<u8> {
    let payload = [&vxlan::header(vni)[..], inner].concat();
    FrameBuilder::between(SocketAddr::new(src, 50_000), SocketAddr::new(dst, VXLAN_PORT), Protocol::UDP)
        .payload(&payload)
        .no_checksum()
        .build()
}

/// Whether the IPv4 header checksum and the transport checksum of a packet are right (or absent, for UDP).
#[must_use]
pub fn has_right_checksums(frame: &[u8], headers: &Headers) -> bool {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let Some(segment) = frame.get(l4..headers.end as usize) else { return false };
    if headers.is_v4() && frame.get(l3..l4).is_none_or(|header| fold(sum(header, 0)) != 0xffff) {
        return false;
    }
    let Some(at) = headers.checksum_at().filter(|_| headers.fragment == Fragment::No) else { return true };
    let is_absent = frame.get(at..at + 2) == Some(&[0, 0]);
    if headers.protocol == Protocol::UDP && is_absent {
        return true;
    }
    let pseudo = if headers.protocol == Protocol::ICMP { 0 } else { pseudo_header_sum(headers, segment.len()) };
    fold(sum(segment, pseudo)) == 0xffff
}

/// [`has_right_checksums`] of a frame as it is.
#[must_use]
pub fn is_intact(frame: &[u8]) -> bool {
    parse(frame).is_ok_and(|h| has_right_checksums(frame, &h))
}
