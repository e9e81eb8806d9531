//! Frames of every kind that can reach a mux, usual and malformed, from a seed.

use std::net::IpAddr;

pub(crate) const VIPS: [&str; 4] = ["203.0.113.10", "203.0.113.20", "2001:db8:100::10", "2001:db8:100::20"];
pub(crate) const PORTS: [u16; 4] = [80, 443, 7777, 9];

/// splitmix64.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.word() as u8).collect()
    }
}

/// A frame that is well-formed but for what is done to it on purpose, and in a third of the cases damaged.
pub(crate) fn frame(dice: &mut Dice) -> Vec<u8> {
    let vip: IpAddr = dice.pick(&VIPS).parse().unwrap();
    let mut frame = if vip.is_ipv4() { ipv4(dice, vip) } else { ipv6(dice, vip) };
    let tags = if dice.one_in(5) { 1 + dice.below(3) } else { 0 };
    for _ in 0..tags {
        let kind = dice.pick(&[0x8100u16, 0x88a8]).to_be_bytes();
        let tag = [kind[0], kind[1], 0, dice.word() as u8];
        frame.splice(12..12, tag);
    }
    if dice.one_in(4) {
        let padding = dice.below(40);
        frame.resize(frame.len().max(60) + padding, dice.word() as u8);
    }
    if dice.one_in(3) {
        damage(dice, &mut frame);
    }
    frame
}

fn damage(dice: &mut Dice, frame: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(frame.len().min(100));
        frame[at] = dice.word() as u8;
    }
    if dice.one_in(4) {
        frame.truncate(14 + dice.below(frame.len() - 13));
    }
    if dice.one_in(2) && frame[12..14] == [8, 0] && frame.len() >= 34 {
        let len = (usize::from(frame[14] & 15) * 4).max(20).min(frame.len() - 14);
        repair(&mut frame[14..14 + len]);
    }
}

/// Gives an IPv4 header its right checksum.
fn repair(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !fold(add(0, header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn add(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(sum, |s, w| s + u64::from(w[0]) * 256 + u64::from(*w.get(1).unwrap_or(&0)))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn ethernet(dice: &mut Dice, kind: u16) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if dice.one_in(20) {
        f[0] = 0xff;
    }
    f.extend(kind.to_be_bytes());
    f
}

fn payload_length(dice: &mut Dice) -> usize {
    match dice.below(8) {
        0 => 0,
        1..=4 => dice.below(120),
        5 => 1400 + dice.below(200),
        6 => dice.below(3000),
        _ => dice.below(600),
    }
}

fn ipv4(dice: &mut Dice, vip: IpAddr) -> Vec<u8> {
    let IpAddr::V4(vip) = vip else { unreachable!() };
    let mut dst = vip.octets();
    if dice.one_in(10) {
        dst[3] ^= 1 << dice.below(8);
    }
    let mut src = [198, 18, dice.word() as u8, dice.word() as u8];
    if dice.one_in(20) {
        src[0] = dice.pick(&[0, 127, 224, 255, 1]);
    }
    let options = if dice.one_in(8) { dice.below(11) * 4 } else { 0 };
    let (protocol, segment) = transport(dice, &src, &dst, true);
    let mut f = ethernet(dice, 0x0800);
    let total = (20 + options + segment.len()) as u16;
    let fragment = if dice.one_in(12) { dice.pick(&[0x2000u16, 0x2001, 0x00b9, 0x8000, 0x4000]) } else { 0x4000 };
    let ttl = if dice.one_in(15) { dice.below(3) as u8 } else { 64 };
    let mut header = vec![0x40 | (5 + options / 4) as u8, dice.word() as u8];
    header.extend(total.to_be_bytes());
    header.extend(dice.bytes(2));
    header.extend(fragment.to_be_bytes());
    header.extend([ttl, protocol, 0, 0]);
    header.extend(src);
    header.extend(dst);
    header.extend(dice.bytes(options));
    if !dice.one_in(30) {
        repair(&mut header);
    }
    f.extend(header);
    f.extend(segment);
    f
}

fn ipv6(dice: &mut Dice, vip: IpAddr) -> Vec<u8> {
    let IpAddr::V6(vip) = vip else { unreachable!() };
    let mut dst = vip.octets();
    if dice.one_in(10) {
        dst[15] ^= 1 << dice.below(8);
    }
    let mut src = [0u8; 16];
    src[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    src[8..].copy_from_slice(&dice.bytes(8));
    if dice.one_in(20) {
        match dice.below(4) {
            0 => src[0] = 0xff,
            1 => src = std::array::from_fn(|i| u8::from(i == 15)),
            2 => src[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            _ => src = [0; 16],
        }
    }
    if dice.one_in(100) {
        dst = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 10];
    }
    let (protocol, segment) = transport(dice, &src, &dst, false);
    let (first, extensions) = extensions(dice, protocol);
    let mut f = ethernet(dice, 0x86dd);
    let length = (extensions.len() + segment.len()) as u16;
    let hops = if dice.one_in(15) { dice.below(3) as u8 } else { 64 };
    let class = dice.word() as u8;
    f.extend([0x60 | class >> 4, class << 4 | 3, 1, 2]);
    f.extend(length.to_be_bytes());
    f.extend([first, hops]);
    f.extend(src);
    f.extend(dst);
    f.extend(extensions);
    f.extend(segment);
    f
}

/// The number that begins the chain, and the chain.
fn extensions(dice: &mut Dice, transport: u8) -> (u8, Vec<u8>) {
    let count = if dice.one_in(4) { dice.below(11) } else { 0 };
    let kinds: Vec<u8> = (0..count)
        .map(|i| match dice.below(12) {
            0 if i == 0 || dice.one_in(3) => 0,
            1 => 44,
            2..=4 => 43,
            5..=6 => 51,
            _ => 60,
        })
        .collect();
    let mut bytes = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let next = kinds.get(i + 1).copied().unwrap_or(transport);
        let units = if dice.one_in(4) { dice.below(4) as u8 } else { 0 };
        match kind {
            44 => {
                let offset = dice.pick(&[[0, 0], [0, 1], [0, 9], [1, 0]]);
                bytes.extend([next, 0, offset[0], offset[1], 1, 2, 3, 4]);
            }
            51 => {
                bytes.extend([next, units]);
                bytes.extend(dice.bytes(usize::from(units) * 4 + 6));
            }
            _ => {
                let routing_left = u8::from(dice.one_in(4));
                bytes.extend([next, units, dice.pick(&[0, 2]), routing_left]);
                bytes.extend(dice.bytes(usize::from(units) * 8 + 4));
            }
        }
    }
    (kinds.first().copied().unwrap_or(transport), bytes)
}

/// A protocol and its segment, with a checksum that is right, left to the interface, absent or wrong.
fn transport(dice: &mut Dice, src: &[u8], dst: &[u8], is_v4: bool) -> (u8, Vec<u8>) {
    let icmp = if is_v4 { 1 } else { 58 };
    let protocol = dice.pick(&[6, 6, 6, 6, 6, 17, 17, 17, 17, icmp, 47]);
    let length = payload_length(dice);
    let payload = dice.bytes(length);
    let client = dice.word() as u16;
    let port = if dice.one_in(10) { dice.word() as u16 } else { dice.pick(&PORTS) };
    let mut s = Vec::new();
    s.extend(client.to_be_bytes());
    s.extend(port.to_be_bytes());
    let field = match protocol {
        6 => {
            let options = if dice.one_in(4) { dice.below(11) * 4 } else { 0 };
            s.extend(dice.bytes(8));
            let offset = if dice.one_in(40) { dice.word() as u8 } else { ((5 + options / 4) << 4) as u8 };
            s.extend([offset, dice.pick(&[0x02, 0x10, 0x18, 0x11, 0x04]), 1, 0, 0, 0, 0, 0]);
            s.extend(dice.bytes(options));
            16
        }
        17 => {
            let stated = (8 + payload.len()) as u16;
            let stated = if dice.one_in(40) { dice.word() as u16 } else { stated };
            s.extend(stated.to_be_bytes());
            s.extend([0, 0]);
            6
        }
        47 => return (protocol, [s, payload].concat()),
        _ => {
            let kind = dice.pick(if is_v4 { &[8, 0, 3, 11] } else { &[128, 129, 1, 2] });
            s = vec![kind, 0, 0, 0, 1, 2, 3, 4];
            2
        }
    };
    s.extend(payload);
    let pseudo = add(add(u64::from(protocol) + s.len() as u64, src), dst);
    let sum = match dice.below(8) {
        0..=2 => fold(pseudo),
        3 => dice.word() as u16,
        4 => 0,
        _ => !fold(add(pseudo, &s)),
    };
    s[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    (protocol, s)
}

/// Whether an IPv6 packet has a fragment header in its chain; that is, whether it is left to user space.
pub(crate) fn has_fragment_header(frame: &[u8], l3: usize, l4: usize) -> bool {
    let (mut kind, mut at) = (frame[l3 + 6], l3 + 40);
    while at < l4 {
        if kind == 44 {
            return true;
        }
        let units = usize::from(frame[at + 1]);
        let len = if kind == 51 { (units + 2) * 4 } else { (units + 1) * 8 };
        (kind, at) = (frame[at], at + len);
    }
    false
}
