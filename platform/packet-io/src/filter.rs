//! Which frames an AF_PACKET socket receives: a classic BPF program made from a list of kinds.
use libc::sock_filter;

/// A kind of frame. VLAN tags and IPv6 extension headers are not looked behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// An Ethernet type, such as 0x0806 for ARP.
    EtherType(u16),
    /// UDP over IPv4 or IPv6 to this port; first or only fragments.
    UdpDestination(u16),
    /// An IP protocol, over IPv4 or IPv6.
    IpProtocol(u8),
    /// With this mark, which a program of the kernel has given it.
    Mark(u32),
}

const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const LD_W_ABS: u16 = 0x20;
const LD_H_IND: u16 = 0x48;
const LDX_B_MSH: u16 = 0xb1;
const JEQ: u16 = 0x15;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;
const ACCEPT: sock_filter = op(RET, u32::MAX);
const REJECT: sock_filter = op(RET, 0);

const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const UDP: u32 = 17;
/// `SKF_AD_OFF + SKF_AD_MARK` of linux/filter.h: not a place in the frame.
const MARK: u32 = 0xffff_f000 + 20;
/// The 13 bits of the fragment offset (RFC 791 section 3.1).
const FRAGMENT_OFFSET: u32 = 0x1fff;

const fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// `jt` and `jf` count instructions to skip.
const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// A program that accepts the frames of any of `kinds`. Each kind is a block that accepts or falls to the next.
pub(crate) fn accept_any(kinds: &[FrameKind]) -> Vec<sock_filter> {
    let mut program: Vec<sock_filter> = kinds.iter().flat_map(|kind| block(*kind)).collect();
    program.push(REJECT);
    program
}

/// A program that accepts nothing.
pub(crate) fn reject_all() -> Vec<sock_filter> {
    vec![REJECT]
}

fn block(kind: FrameKind) -> Vec<sock_filter> {
    match kind {
        FrameKind::EtherType(ether_type) => {
            vec![op(LD_H_ABS, 12), jump(JEQ, u32::from(ether_type), 0, 1), ACCEPT]
        }
        FrameKind::Mark(mark) => vec![op(LD_W_ABS, MARK), jump(JEQ, mark, 0, 1), ACCEPT],
        FrameKind::IpProtocol(protocol) => {
            let protocol = u32::from(protocol);
            vec![
                op(LD_H_ABS, 12),
                jump(JEQ, IPV4, 0, 2),
                op(LD_B_ABS, 23),
                jump(JEQ, protocol, 3, 4),
                jump(JEQ, IPV6, 0, 3),
                op(LD_B_ABS, 20),
                jump(JEQ, protocol, 0, 1),
                ACCEPT,
            ]
        }
        FrameKind::UdpDestination(port) => {
            let port = u32::from(port);
            vec![
                op(LD_H_ABS, 12),
                // IPv4: protocol, fragment offset 0, port behind the header length.
                jump(JEQ, IPV4, 0, 7),
                op(LD_B_ABS, 23),
                jump(JEQ, UDP, 0, 11),
                op(LD_H_ABS, 20),
                jump(JSET, FRAGMENT_OFFSET, 9, 0),
                op(LDX_B_MSH, 14),
                op(LD_H_IND, 16),
                jump(JEQ, port, 5, 6),
                // IPv6: next header, port behind the fixed header.
                jump(JEQ, IPV6, 0, 5),
                op(LD_B_ABS, 20),
                jump(JEQ, UDP, 0, 3),
                op(LD_H_ABS, 56),
                jump(JEQ, port, 0, 1),
                ACCEPT,
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Classic BPF as the kernel runs it, for the instructions used here.
    fn run(program: &[sock_filter], frame: &[u8]) -> bool {
        let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
        let half = |at: usize| frame.get(at..at + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])));
        loop {
            let i = program[pc];
            pc += 1;
            let loaded = match i.code {
                LD_H_ABS => half(i.k as usize),
                LD_H_IND => half((i.k + x) as usize),
                LD_B_ABS => frame.get(i.k as usize).map(|b| u32::from(*b)),
                LDX_B_MSH => {
                    x = frame.get(i.k as usize).map_or(0, |b| u32::from(b & 15) * 4);
                    Some(a)
                }
                JEQ | JSET => {
                    let yes = if i.code == JEQ { a == i.k } else { a & i.k != 0 };
                    pc += usize::from(if yes { i.jt } else { i.jf });
                    Some(a)
                }
                RET => return i.k != 0,
                other => panic!("instruction {other:#x}"),
            };
            match loaded {
                Some(value) => a = value,
                None => return false,
            }
        }
    }

    fn v4(protocol: u8, options: usize, fragment: u16, port: u16) -> Vec<u8> {
        let mut f = vec![0u8; 14 + 20 + options + 8];
        f[12..14].copy_from_slice(&[0x08, 0x00]);
        f[14] = 0x40 | ((20 + options) / 4) as u8;
        f[20..22].copy_from_slice(&fragment.to_be_bytes());
        f[23] = protocol;
        f[14 + 20 + options + 2..][..2].copy_from_slice(&port.to_be_bytes());
        f
    }

    fn v6(next: u8, port: u16) -> Vec<u8> {
        let mut f = vec![0u8; 14 + 40 + 8];
        f[12..14].copy_from_slice(&[0x86, 0xdd]);
        f[20] = next;
        f[56..58].copy_from_slice(&port.to_be_bytes());
        f
    }

    #[test]
    fn only_udp_to_the_port_is_accepted() {
        let p = accept_any(&[FrameKind::UdpDestination(4789)]);
        assert!(run(&p, &v4(17, 0, 0, 4789)));
        assert!(run(&p, &v4(17, 8, 0x4000, 4789)), "with options, do-not-fragment set");
        assert!(run(&p, &v6(17, 4789)));
        assert!(!run(&p, &v4(17, 0, 0, 4790)));
        assert!(!run(&p, &v4(6, 0, 0, 4789)));
        assert!(!run(&p, &v4(17, 0, 185, 4789)), "a later fragment has no ports");
        assert!(!run(&p, &v6(17, 4790)));
        assert!(!run(&p, &v6(6, 4789)));
        assert!(!run(&p, &[0u8; 60]));
    }

    #[test]
    fn kinds_add_up() {
        let p = accept_any(&[FrameKind::EtherType(0x0806), FrameKind::IpProtocol(1), FrameKind::UdpDestination(53)]);
        let mut arp = vec![0u8; 42];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert!(run(&p, &arp));
        assert!(run(&p, &v4(1, 0, 0, 9)));
        assert!(run(&p, &v6(1, 9)));
        assert!(run(&p, &v4(17, 0, 0, 53)));
        assert!(!run(&p, &v4(6, 0, 0, 53)));
        assert!(!run(&p, &v6(6, 53)));
    }

    #[test]
    fn an_empty_list_and_reject_all_accept_nothing() {
        assert!(!run(&accept_any(&[]), &v4(17, 0, 0, 1)));
        assert!(!run(&reject_all(), &v4(17, 0, 0, 1)));
    }
}
