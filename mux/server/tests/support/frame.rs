//! A reader of VXLAN frames of its own: it shares no line with what it checks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone)]
pub struct Vxlan {
    pub eth_dst: [u8; 6],
    pub eth_src: [u8; 6],
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub src_port: u16,
    pub vni: u32,
    pub inner: Inner,
}

#[derive(Debug, Clone)]
pub struct Inner {
    pub eth_dst: [u8; 6],
    pub eth_src: [u8; 6],
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub hop_limit: u8,
    pub dst_port: u16,
    pub flags: u8,
    pub payload: Vec<u8>,
}

fn be(b: &[u8], at: usize) -> u16 {
    u16::from(b[at]) << 8 | u16::from(b[at + 1])
}

fn mac(b: &[u8]) -> [u8; 6] {
    b[..6].try_into().unwrap()
}

/// The one's complement sum; 0xffff for bytes with their right checksum inside.
fn ones(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum as u16
}

/// Reads a VXLAN frame over IPv4. `None` if it is something else; panics if it claims to be one and is wrong.
pub fn read(f: &[u8]) -> Option<Vxlan> {
    if f.len() < 64 || be(f, 12) != 0x0800 || f[23] != 17 || be(f, 36) != 4789 {
        return None;
    }
    assert_eq!(f[14], 0x45, "outer IPv4 without options");
    assert_eq!(ones(&[&f[14..34]]), 0xffff, "outer header checksum");
    assert_eq!(usize::from(be(f, 16)) + 14, f.len(), "outer IP length");
    assert_eq!(usize::from(be(f, 38)) + 34, f.len(), "outer UDP length");
    assert_eq!(be(f, 20) & 0x4000, 0x4000, "do not fragment");
    assert_eq!((f[42], &f[43..46], f[49]), (8, &[0, 0, 0][..], 0), "VXLAN flags and reserved fields");
    Some(Vxlan {
        eth_dst: mac(f),
        eth_src: mac(&f[6..]),
        src: Ipv4Addr::new(f[26], f[27], f[28], f[29]),
        dst: Ipv4Addr::new(f[30], f[31], f[32], f[33]),
        src_port: be(f, 34),
        vni: u32::from(be(f, 46)) << 8 | u32::from(f[48]),
        inner: inner(&f[50..]),
    })
}

fn inner(f: &[u8]) -> Inner {
    let (src, dst, protocol, hop_limit, l4, pseudo): (IpAddr, IpAddr, u8, u8, &[u8], Vec<u8>) = match be(f, 12) {
        0x0800 => {
            let header = usize::from(f[14] & 15) * 4;
            assert_eq!(ones(&[&f[14..14 + header]]), 0xffff, "inner header checksum");
            let end = 14 + usize::from(be(f, 16));
            let a = |at: usize| IpAddr::from([f[at], f[at + 1], f[at + 2], f[at + 3]]);
            (a(26), a(30), f[23], f[22], &f[14 + header..end], f[26..34].to_vec())
        }
        0x86dd => {
            let a = |at: usize| IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(&f[at..at + 16]).unwrap()));
            (a(22), a(38), f[20], f[21], &f[54..54 + usize::from(be(f, 18))], f[22..54].to_vec())
        }
        other => panic!("inner ethertype {other:#x}"),
    };
    let length = (l4.len() as u16).to_be_bytes();
    assert_eq!(ones(&[&pseudo, &[0, protocol], &length, l4]), 0xffff, "transport checksum of protocol {protocol}");
    let header = if protocol == 6 { usize::from(l4[12] >> 4) * 4 } else { 8 };
    Inner {
        eth_dst: mac(f),
        eth_src: mac(&f[6..]),
        src,
        dst,
        protocol,
        hop_limit,
        dst_port: be(l4, 2),
        flags: if protocol == 6 { l4[13] } else { 0 },
        payload: l4[header..].to_vec(),
    }
}

/// A capture file (pcap, microseconds, Ethernet).
pub fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for f in frames {
        for word in [0, 0, f.len() as u32, f.len() as u32] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(f);
    }
    out
}
