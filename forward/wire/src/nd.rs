//! IPv6 neighbour discovery, the two messages that resolve an address (RFC 4861 sections 4.3 and 4.4).

use crate::checksum::{finish, fold, sum};
use crate::rewrite::pseudo_header_sum;
use crate::{Headers, parse};
use penstock_model::{Addr16, DropReason, Mac, Protocol};
use std::net::Ipv6Addr;

/// Bytes of a solicitation or advertisement with a link-layer address option.
pub const FRAME_LEN: usize = 14 + 40 + 24 + 8;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;

/// "Who has `target`?"
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// Unspecified when the asker probes whether it may use the address (RFC 4862 section 5.4.2).
    pub sender: Ipv6Addr,
    /// Link-layer address of the asker: of its option, else of the Ethernet header.
    pub sender_mac: Mac,
    pub target: Ipv6Addr,
}

/// Whether the packet is a neighbour solicitation, by type alone.
#[must_use]
pub fn is_solicitation(headers: &Headers) -> bool {
    headers.protocol == Protocol::ICMPV6 && headers.icmp_type == SOLICITATION
}

/// Reads a solicitation and checks what RFC 4861 section 7.1.1 asks: hop limit 255 (so it was not forwarded), code 0, checksum,
/// length, target not multicast, options not of length 0.
///
/// # Errors
/// `Unsupported` if it is no solicitation, `BadIpv6Header` or `TruncatedTransport` if it is not a valid one.
pub fn parse_solicitation(frame: &[u8], headers: &Headers) -> Result<Solicitation, DropReason> {
    if !is_solicitation(headers) {
        return Err(DropReason::Unsupported);
    }
    let message = message(frame, headers)?;
    let target = message.get(8..).and_then(|m| m.first_chunk::<16>()).ok_or(DropReason::TruncatedTransport)?;
    let target = Ipv6Addr::from(*target);
    if target.is_multicast() {
        return Err(DropReason::BadIpv6Header);
    }
    let eth = frame.get(usize::from(headers.l2)..).and_then(|f| f.first_chunk::<12>());
    let eth_src = eth.map(|e| Mac([e[6], e[7], e[8], e[9], e[10], e[11]])).ok_or(DropReason::TruncatedEthernet)?;
    let option = link_layer_option(message.get(24..).unwrap_or_default(), OPTION_SOURCE)?;
    Ok(Solicitation { sender: Ipv6Addr::from(headers.src.0), sender_mac: option.unwrap_or(eth_src), target })
}

/// Reads an advertisement: the address and where it is.
///
/// # Errors
/// As [`parse_solicitation`].
pub fn parse_advertisement(frame: &[u8], headers: &Headers) -> Result<(Ipv6Addr, Option<Mac>), DropReason> {
    if headers.protocol != Protocol::ICMPV6 || headers.icmp_type != ADVERTISEMENT {
        return Err(DropReason::Unsupported);
    }
    let message = message(frame, headers)?;
    let target = message.get(8..).and_then(|m| m.first_chunk::<16>()).ok_or(DropReason::TruncatedTransport)?;
    let mac = link_layer_option(message.get(24..).unwrap_or_default(), OPTION_TARGET)?;
    Ok((Ipv6Addr::from(*target), mac))
}

fn message<'a>(frame: &'a [u8], headers: &Headers) -> Result<&'a [u8], DropReason> {
    let message = frame.get(usize::from(headers.l4)..headers.end as usize).ok_or(DropReason::TruncatedTransport)?;
    let is_right = fold(sum(message, pseudo_header_sum(headers, message.len()))) == 0xffff;
    if headers.ttl != 255 || headers.icmp_code != 0 || !is_right {
        return Err(DropReason::BadIpv6Header);
    }
    Ok(message)
}

fn link_layer_option(mut options: &[u8], kind: u8) -> Result<Option<Mac>, DropReason> {
    while let [found, eights, ..] = *options {
        let len = usize::from(eights) * 8;
        let option = options.get(..len).filter(|o| !o.is_empty()).ok_or(DropReason::BadIpv6Header)?;
        if found == kind
            && let Some(o) = option.first_chunk::<8>()
        {
            return Ok(Some(Mac([o[2], o[3], o[4], o[5], o[6], o[7]])));
        }
        options = &options[len..];
    }
    Ok(None)
}

impl Solicitation {
    /// The frame that asks, to the solicited-node multicast address of the target (RFC 4291 section 2.7.1).
    #[must_use]
    pub fn to_frame(&self) -> [u8; FRAME_LEN] {
        let [.., a, b, c] = self.target.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
        let to = Mac([0x33, 0x33, 0xff, a, b, c]);
        let option = (OPTION_SOURCE, self.sender_mac);
        frame((self.sender_mac, to), (self.sender, group), [SOLICITATION, 0], self.target, option)
    }

    /// The frame that answers: the target is at `mac`. To the asker, or to all nodes if the asker has no address yet
    /// (RFC 4861 section 7.2.4).
    #[must_use]
    pub fn answer(&self, mac: Mac) -> [u8; FRAME_LEN] {
        const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        const SOLICITED: u8 = 0x40;
        const OVERRIDE: u8 = 0x20;
        let option = (OPTION_TARGET, mac);
        if self.sender.is_unspecified() {
            let to = Mac([0x33, 0x33, 0, 0, 0, 1]);
            return frame((mac, to), (self.target, ALL_NODES), [ADVERTISEMENT, OVERRIDE], self.target, option);
        }
        let flags = SOLICITED | OVERRIDE;
        frame((mac, self.sender_mac), (self.target, self.sender), [ADVERTISEMENT, flags], self.target, option)
    }
}

fn frame(
    (eth_src, eth_dst): (Mac, Mac),
    (src, dst): (Ipv6Addr, Ipv6Addr),
    [kind, flags]: [u8; 2],
    target: Ipv6Addr,
    (option, mac): (u8, Mac),
) -> [u8; FRAME_LEN] {
    let mut f = [0; FRAME_LEN];
    f[..6].copy_from_slice(&eth_dst.0);
    f[6..12].copy_from_slice(&eth_src.0);
    f[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, Protocol::ICMPV6.0, 255]);
    f[22..38].copy_from_slice(&src.octets());
    f[38..54].copy_from_slice(&dst.octets());
    f[54] = kind;
    f[58] = flags;
    f[62..78].copy_from_slice(&target.octets());
    f[78] = option;
    f[79] = 1;
    f[80..].copy_from_slice(&mac.0);
    let pseudo = Headers {
        src: Addr16(src.octets()),
        dst: Addr16(dst.octets()),
        protocol: Protocol::ICMPV6,
        ethertype: crate::ethertype::IPV6,
        ..Headers::default()
    };
    let checksum = finish(sum(&f[54..], pseudo_header_sum(&pseudo, 32)));
    f[56..58].copy_from_slice(&checksum.to_be_bytes());
    debug_assert!(parse(&f).is_ok() || src.is_multicast() || src.to_ipv4_mapped().is_some() || src.is_loopback());
    f
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OWNER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn solicitation(sender: &str) -> Solicitation {
        Solicitation { sender: sender.parse().unwrap(), sender_mac: ASKER, target: "fd00::1:2:3".parse().unwrap() }
    }

    #[test]
    fn an_answer_is_sent_to_the_asker_and_says_where_the_target_is() {
        let asked = solicitation("fd00::9");
        let frame = asked.to_frame();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x02, 0x00, 0x03]);
        let read = parse_solicitation(&frame, &parse(&frame).unwrap()).unwrap();
        assert_eq!(read, asked);
        let answer = read.answer(OWNER);
        let h = parse(&answer).unwrap();
        assert_eq!(answer[..6], ASKER.0);
        assert_eq!(h.dst.to_ip(), std::net::IpAddr::V6(asked.sender));
        assert_eq!(parse_advertisement(&answer, &h), Ok((asked.target, Some(OWNER))));
    }

    #[test]
    fn a_probe_for_a_duplicate_address_is_answered_to_all_nodes() {
        let asked = solicitation("::");
        let frame = asked.to_frame();
        let answer = parse_solicitation(&frame, &parse(&frame).unwrap()).unwrap().answer(OWNER);
        assert_eq!(parse(&answer).unwrap().dst.to_ip(), "ff02::1".parse::<std::net::IpAddr>().unwrap());
    }

    #[test]
    fn a_forwarded_damaged_or_empty_option_message_is_refused() {
        let frame = solicitation("fd00::9").to_frame();
        for (at, byte) in [(21, 254), (55, 1), (70, 0xaa), (79, 0)] {
            let mut bad = frame;
            bad[at] = byte;
            let h = parse(&bad).unwrap();
            assert_eq!(parse_solicitation(&bad, &h), Err(DropReason::BadIpv6Header), "byte {at}");
        }
    }
}
