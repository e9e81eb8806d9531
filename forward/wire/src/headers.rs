use penstock_model::{Addr16, DropReason, FlowKey, Protocol, TenantId, Vni};

/// UDP destination port of VXLAN (RFC 7348 section 8, IANA).
pub const VXLAN_PORT: u16 = 4789;
/// Length of the VXLAN header itself.
pub const VXLAN_HEADER_LEN: usize = 8;

/// IPv6 extension headers that are followed in one packet; RFC 8504 section 5.3 allows a limit.
const MAX_EXTENSION_HEADERS: usize = 8;

pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
    pub const IPV6: u16 = 0x86dd;
}

/// What a packet says about fragmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fragment {
    #[default]
    No,
    /// Offset 0, more to come: has the transport header.
    First,
    /// Has no transport header; ports are 0.
    Later,
}

/// TCP flags as on the wire (RFC 9293 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;

    #[must_use]
    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// The first packet of a connection: SYN without ACK.
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }
}

/// Where the headers of one packet are and what decisions need of them. Offsets count from the start of the frame.
///
/// All offsets are inside the frame: `l3 <= l4 <= payload <= end <= frame.len()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers {
    pub src: Addr16,
    pub dst: Addr16,
    /// Start of the Ethernet header; 0 but for an inner frame. Equal to `l3` if there is none.
    pub l2: u16,
    pub l3: u16,
    pub l4: u16,
    /// First byte after the transport header.
    pub payload: u16,
    /// End of the IP packet (Ethernet padding lies behind it). For a GSO frame: of the frame.
    pub end: u32,
    pub src_port: u16,
    pub dst_port: u16,
    pub ethertype: u16,
    pub protocol: Protocol,
    /// IPv4 type of service or IPv6 traffic class: DSCP and ECN.
    pub tos: u8,
    /// The same of the header in front of this one, for who has taken an encapsulation off and says so; else 0.
    pub outer_tos: u8,
    pub ttl: u8,
    pub tcp_flags: TcpFlags,
    pub icmp_type: u8,
    pub icmp_code: u8,
    pub fragment: Fragment,
}

impl Headers {
    #[must_use]
    #[inline]
    pub const fn is_v4(&self) -> bool {
        self.ethertype == ethertype::IPV4
    }

    #[must_use]
    #[inline]
    pub const fn is_v6(&self) -> bool {
        self.ethertype == ethertype::IPV6
    }

    #[must_use]
    pub const fn is_ip(&self) -> bool {
        self.is_v4() || self.is_v6()
    }

    /// The flow that the packet belongs to within `tenant`.
    #[must_use]
    #[inline]
    pub fn flow_key(&self, tenant: TenantId) -> FlowKey {
        FlowKey::new(tenant, self.src, self.dst, self.protocol, self.src_port, self.dst_port)
    }

    /// Where the transport checksum stands, if the packet carries one that can be seen.
    #[must_use]
    pub fn checksum_at(&self) -> Option<usize> {
        let offset = match (self.fragment, self.protocol) {
            (Fragment::Later, _) => return None,
            (_, Protocol::TCP) => 16,
            (_, Protocol::UDP) => 6,
            (_, Protocol::ICMP) if self.is_v4() => 2,
            (_, Protocol::ICMPV6) if self.is_v6() => 2,
            _ => return None,
        };
        Some(usize::from(self.l4) + offset)
    }
}

/// Reads an Ethernet frame.
///
/// # Errors
/// The reason why the frame is not a packet that can be forwarded. ARP gives `Ok` with `ethertype::ARP` and no addresses.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, DropReason> {
    let mut h = Headers::default();
    parse_into(frame, &mut h)?;
    Ok(h)
}

/// [`parse`] to where the headers are to stay: copying what was just written field by field would wait for the stores.
///
/// # Errors
/// As [`parse`]; the headers are of no use then.
#[inline]
pub fn parse_into(frame: &[u8], headers: &mut Headers) -> Result<(), DropReason> {
    if crate::usual::parse(frame, headers) {
        return Ok(());
    }
    parse_any(frame, headers)
}

/// Every frame, whatever its headers. Not inlined: the usual ones do not come here.
#[inline(never)]
pub(crate) fn parse_any(frame: &[u8], headers: &mut Headers) -> Result<(), DropReason> {
    parse_ethernet_at(frame, 0, headers)
}

/// Reads an IP packet without an Ethernet header (from a tunnel).
///
/// # Errors
/// The reason why it cannot be forwarded.
pub fn parse_ip(packet: &[u8]) -> Result<Headers, DropReason> {
    let mut h = Headers::default();
    match packet.first().map(|b| b >> 4) {
        Some(4) => parse_ipv4(packet, 0, 0, &mut h)?,
        Some(6) => parse_ipv6(packet, 0, 0, &mut h)?,
        Some(_) => return Err(DropReason::UnknownEtherType),
        None => return Err(DropReason::TruncatedIpv4),
    }
    Ok(h)
}

/// Reads the VXLAN header and the inner frame behind the UDP header of `outer` (RFC 7348 section 5).
///
/// # Errors
/// The reason why the encapsulation or the inner frame is wrong. Whether the packet is VXLAN at all (UDP to
/// [`VXLAN_PORT`], not a fragment) is the caller's to check.
#[inline]
pub fn parse_vxlan(frame: &[u8], outer: &Headers) -> Result<(Vni, Headers), DropReason> {
    const FLAG_VNI_VALID: u8 = 0x08;
    let at = usize::from(outer.payload);
    let end = outer.end as usize;
    let h = frame.get(at..end).and_then(|p| p.first_chunk::<8>()).ok_or(DropReason::TruncatedTunnel)?;
    if h[0] & FLAG_VNI_VALID == 0 {
        return Err(DropReason::BadTunnelHeader);
    }
    let vni = Vni::from_be_bytes([h[4], h[5], h[6]]);
    let inner_frame = frame.get(..end).ok_or(DropReason::TruncatedTunnel)?;
    let mut inner = Headers::default();
    parse_ethernet_at(inner_frame, at + VXLAN_HEADER_LEN, &mut inner)?;
    Ok((vni, inner))
}

/// Reads the GRE header and the inner IP packet behind the IP header of `outer`. The inner headers have as much room before them
/// as an Ethernet header takes: [`Headers::l2`] stands there although those bytes are not one.
///
/// # Errors
/// The reason why the encapsulation or the inner packet is wrong; `NotOurs` if it carries something else than IP.
#[inline]
pub fn parse_gre(frame: &[u8], outer: &Headers) -> Result<(crate::gre::Gre, Headers), DropReason> {
    let at = usize::from(outer.l4);
    let packet = frame.get(..outer.end as usize).ok_or(DropReason::TruncatedTunnel)?;
    let gre = crate::gre::parse(packet.get(at..).ok_or(DropReason::TruncatedTunnel)?)?;
    let l3 = at + gre.len;
    let l2 = l3.checked_sub(14).ok_or(DropReason::TruncatedTunnel)?;
    let mut inner = Headers::default();
    match gre.protocol {
        ethertype::IPV4 => parse_ipv4(packet, l2, l3, &mut inner)?,
        ethertype::IPV6 => parse_ipv6(packet, l2, l3, &mut inner)?,
        _ => return Err(DropReason::NotOurs),
    }
    Ok((gre, inner))
}

#[inline]
pub(crate) fn parse_ethernet_at(frame: &[u8], l2: usize, h: &mut Headers) -> Result<(), DropReason> {
    let eth = frame.get(l2..).and_then(|f| f.first_chunk::<14>()).ok_or(DropReason::TruncatedEthernet)?;
    let mut kind = u16::from_be_bytes([eth[12], eth[13]]);
    let mut l3 = l2 + 14;
    for _ in 0..2 {
        if kind != ethertype::VLAN && kind != ethertype::QINQ {
            break;
        }
        let tag = frame.get(l3..).and_then(|f| f.first_chunk::<4>()).ok_or(DropReason::TruncatedEthernet)?;
        kind = u16::from_be_bytes([tag[2], tag[3]]);
        l3 += 4;
    }
    match kind {
        ethertype::IPV4 => parse_ipv4(frame, l2, l3, h),
        ethertype::IPV6 => parse_ipv6(frame, l2, l3, h),
        ethertype::ARP => {
            *h = Headers {
                l2: offset(l2)?,
                l3: offset(l3)?,
                l4: offset(l3)?,
                payload: offset(l3)?,
                end: frame.len() as u32,
                ethertype: ethertype::ARP,
                ..Headers::default()
            };
            Ok(())
        }
        _ => Err(DropReason::UnknownEtherType),
    }
}

#[inline]
fn parse_ipv4(frame: &[u8], l2: usize, l3: usize, h: &mut Headers) -> Result<(), DropReason> {
    let ip = frame.get(l3..).and_then(|f| f.first_chunk::<20>()).ok_or(DropReason::TruncatedIpv4)?;
    let header_len = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header_len < 20 {
        return Err(DropReason::BadIpv4Header);
    }
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let available = frame.len() - l3;
    // A GSO frame may be longer than 65,535 bytes and then says 0 (BIG TCP); anything else must fit.
    let total = if total == 0 && available > usize::from(u16::MAX) { available } else { total };
    if total < header_len {
        return Err(DropReason::BadIpv4Header);
    }
    if total > available {
        return Err(DropReason::TruncatedIpv4);
    }
    let is_valid = if header_len == 20 {
        crate::checksum::is_valid_ipv4(ip)
    } else {
        let header = frame.get(l3..l3 + header_len).ok_or(DropReason::TruncatedIpv4)?;
        crate::checksum::fold(crate::checksum::sum(header, 0)) == 0xffff
    };
    if !is_valid {
        return Err(DropReason::BadIpv4Checksum);
    }
    let flags_offset = u16::from_be_bytes([ip[6], ip[7]]);
    let fragment = match (flags_offset & 0x1fff, flags_offset & 0x2000 != 0) {
        (0, false) => Fragment::No,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    let src = [ip[12], ip[13], ip[14], ip[15]];
    let dst = [ip[16], ip[17], ip[18], ip[19]];
    check_v4_addresses(src, dst)?;
    *h = Headers {
        src: Addr16::from_v4(src),
        dst: Addr16::from_v4(dst),
        l2: offset(l2)?,
        l3: offset(l3)?,
        l4: offset(l3 + header_len)?,
        end: (l3 + total) as u32,
        ethertype: ethertype::IPV4,
        protocol: Protocol(ip[9]),
        tos: ip[1],
        ttl: ip[8],
        fragment,
        ..Headers::default()
    };
    parse_transport(frame, h)
}

#[inline]
fn parse_ipv6(frame: &[u8], l2: usize, l3: usize, h: &mut Headers) -> Result<(), DropReason> {
    let ip = frame.get(l3..).and_then(|f| f.first_chunk::<40>()).ok_or(DropReason::TruncatedIpv6)?;
    if ip[0] >> 4 != 6 {
        return Err(DropReason::BadIpv6Header);
    }
    let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let available = frame.len() - l3 - 40;
    let length = if length == 0 && available > usize::from(u16::MAX) { available } else { length };
    if length > available {
        return Err(DropReason::TruncatedIpv6);
    }
    let mut src = [0u8; 16];
    let mut dst = [0u8; 16];
    src.copy_from_slice(&ip[8..24]);
    dst.copy_from_slice(&ip[24..40]);
    let (src, dst) = (Addr16(src), Addr16(dst));
    check_v6_addresses(src, dst)?;
    *h = Headers {
        src,
        dst,
        l2: offset(l2)?,
        l3: offset(l3)?,
        l4: offset(l3 + 40)?,
        end: (l3 + 40 + length) as u32,
        ethertype: ethertype::IPV6,
        protocol: Protocol(ip[6]),
        tos: (ip[0] << 4) | (ip[1] >> 4),
        ttl: ip[7],
        ..Headers::default()
    };
    skip_extension_headers(frame, h)?;
    parse_transport(frame, h)
}

/// Follows hop-by-hop, routing, destination options, fragment and authentication headers (RFC 8200 section 4).
#[inline]
fn skip_extension_headers(frame: &[u8], h: &mut Headers) -> Result<(), DropReason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let end = h.end as usize;
    for followed in 0.. {
        let kind = h.protocol.0;
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok(());
        }
        if followed == MAX_EXTENSION_HEADERS {
            break;
        }
        if kind == HOP_BY_HOP && usize::from(h.l4) != usize::from(h.l3) + 40 {
            return Err(DropReason::BadIpv6Header);
        }
        let at = usize::from(h.l4);
        let ext = frame.get(at..end).and_then(|f| f.first_chunk::<8>()).ok_or(DropReason::BadIpv6Header)?;
        let len = match kind {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(ext[1]) + 2) * 4,
            _ => (usize::from(ext[1]) + 1) * 8,
        };
        // RFC 5095 section 3: a type 0 routing header with segments left is not processed.
        let is_source_routed = kind == ROUTING && ext[2] == 0 && ext[3] != 0;
        if at + len > end || is_source_routed {
            return Err(DropReason::BadIpv6Header);
        }
        if kind == FRAGMENT {
            let offset_more = u16::from_be_bytes([ext[2], ext[3]]);
            h.fragment = match (offset_more >> 3, offset_more & 1) {
                (0, 0) => Fragment::No,
                (0, _) => Fragment::First,
                _ => Fragment::Later,
            };
        }
        h.protocol = Protocol(ext[0]);
        h.l4 = offset(at + len)?;
        if h.fragment == Fragment::Later {
            return Ok(());
        }
    }
    Err(DropReason::TooManyExtensionHeaders)
}

#[inline]
fn parse_transport(frame: &[u8], h: &mut Headers) -> Result<(), DropReason> {
    h.payload = h.l4;
    if h.fragment == Fragment::Later {
        return Ok(());
    }
    let l4 = usize::from(h.l4);
    let segment = frame.get(l4..h.end as usize).ok_or(DropReason::TruncatedTransport)?;
    match h.protocol {
        Protocol::TCP => {
            let t = segment.first_chunk::<20>().ok_or(DropReason::TruncatedTransport)?;
            let header_len = usize::from(t[12] >> 4) * 4;
            if header_len < 20 || header_len > segment.len() {
                return Err(DropReason::BadTcpHeader);
            }
            h.src_port = u16::from_be_bytes([t[0], t[1]]);
            h.dst_port = u16::from_be_bytes([t[2], t[3]]);
            h.tcp_flags = TcpFlags(t[13]);
            h.payload = offset(l4 + header_len)?;
        }
        Protocol::UDP => {
            let u = segment.first_chunk::<8>().ok_or(DropReason::TruncatedTransport)?;
            let length = usize::from(u16::from_be_bytes([u[4], u[5]]));
            // In a first fragment the length is that of the whole datagram. Only one that 16 bits cannot hold may say 0.
            let is_jumbo = length == 0 && segment.len() > usize::from(u16::MAX);
            if !is_jumbo && (length < 8 || (length > segment.len() && h.fragment == Fragment::No)) {
                return Err(DropReason::BadUdpLength);
            }
            h.src_port = u16::from_be_bytes([u[0], u[1]]);
            h.dst_port = u16::from_be_bytes([u[2], u[3]]);
            h.payload = offset(l4 + 8)?;
        }
        // ICMP of the other family's protocol number is opaque: neither stack would know it.
        Protocol::ICMP | Protocol::ICMPV6 if (h.protocol == Protocol::ICMP) == h.is_v4() => {
            let i = segment.first_chunk::<8>().ok_or(DropReason::TruncatedTransport)?;
            h.icmp_type = i[0];
            h.icmp_code = i[1];
            let is_echo = match h.protocol {
                Protocol::ICMP => matches!(i[0], 0 | 8),
                _ => matches!(i[0], 128 | 129),
            };
            if is_echo {
                let identifier = u16::from_be_bytes([i[4], i[5]]);
                h.src_port = identifier;
                h.dst_port = identifier;
            }
            h.payload = offset(l4 + 8)?;
        }
        _ => {}
    }
    Ok(())
}

/// RFC 1812 section 5.3.7, RFC 6890: addresses that never are the source or destination of a forwarded packet.
#[inline]
pub(crate) fn check_v4_addresses(src: [u8; 4], dst: [u8; 4]) -> Result<(), DropReason> {
    if src[0] == 127 || src[0] >= 224 {
        return Err(DropReason::MartianSource);
    }
    if dst[0] == 127 || dst[0] == 0 {
        return Err(DropReason::MartianDestination);
    }
    Ok(())
}

#[inline]
pub(crate) fn check_v6_addresses(src: Addr16, dst: Addr16) -> Result<(), DropReason> {
    const LOOPBACK: Addr16 = Addr16([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    if src.is_v4() || src.0[0] == 0xff || src == LOOPBACK {
        return Err(DropReason::MartianSource);
    }
    if dst.is_v4() || dst == LOOPBACK || dst == Addr16::default() {
        return Err(DropReason::MartianDestination);
    }
    Ok(())
}

#[inline]
fn offset(n: usize) -> Result<u16, DropReason> {
    u16::try_from(n).map_err(|_| DropReason::TooLarge)
}
