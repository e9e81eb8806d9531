use super::notification::{Notification, code};
use super::reader::{Reader, Short, with_length};
use crate::prefix::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Stands in the two-byte field for an AS of four (RFC 6793).
pub(crate) const AS_TRANS: u16 = 23456;

/// What a speaker says of itself first (RFC 4271, 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The four-byte one if there is a capability for it.
    pub asn: u32,
    pub hold_seconds: u16,
    pub id: Ipv4Addr,
    pub capabilities: Capabilities,
}

/// RFC 5492, as a whole: what is said twice counts once, what is unknown is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Multiprotocol (RFC 4760). Of a speaker that says nothing: IPv4.
    pub families: BTreeSet<Family>,
    pub four_byte_as: bool,
    pub route_refresh: bool,
    /// IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    pub graceful_restart: Option<GracefulRestart>,
    /// RFC 7911: whether it would receive, and send, several paths.
    pub add_path: BTreeMap<Family, AddPath>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddPath {
    pub receive: bool,
    pub send: bool,
}

/// RFC 4724, with the flag of RFC 8538.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// The speaker has just restarted.
    pub restarting: bool,
    /// Notifications keep routes as well.
    pub notification: bool,
    pub seconds: u16,
    /// Families that are kept, and whether their forwarding state was.
    pub families: BTreeMap<Family, bool>,
}

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_BYTE_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const UNICAST: u8 = 1;

impl Open {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(4);
        out.extend_from_slice(&u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
        out.extend_from_slice(&self.hold_seconds.to_be_bytes());
        out.extend_from_slice(&self.id.octets());
        with_length::<1>(out, |out| {
            out.push(2);
            with_length::<1>(out, |out| self.capabilities.encode(self.asn, out));
        });
    }

    /// # Errors
    /// What to tell the peer (RFC 4271, 6.2). Whether AS and identifier are the expected ones is for the session to say.
    pub fn decode(body: &[u8]) -> Result<Self, Notification> {
        let malformed = |_: Short| Notification::new(code::OPEN, 0);
        let mut r = Reader(body);
        let version = r.u8().map_err(malformed)?;
        if version != 4 {
            return Err(Notification::with(code::OPEN, 1, &[0, 4]));
        }
        let two_byte = r.u16().map_err(malformed)?;
        let hold_seconds = r.u16().map_err(malformed)?;
        let id = r.v4().map_err(malformed)?;
        if matches!(hold_seconds, 1 | 2) {
            return Err(Notification::new(code::OPEN, 6));
        }
        if id.is_unspecified() || id.is_multicast() || id.is_broadcast() {
            return Err(Notification::new(code::OPEN, 3));
        }
        let mut four_byte = None;
        let mut capabilities = Capabilities::default();
        parameters(r, |kind, value| match kind {
            2 => capabilities.decode(Reader(value), &mut four_byte).map_err(malformed),
            _ => Err(Notification::new(code::OPEN, 4)),
        })?;
        if capabilities.families.is_empty() {
            capabilities.families.insert(Family::Ipv4);
        }
        let asn = four_byte.unwrap_or(u32::from(two_byte));
        if asn == 0 {
            return Err(Notification::new(code::OPEN, 2));
        }
        Ok(Self { asn, hold_seconds, id, capabilities })
    }
}

/// Optional parameters, with one-byte lengths or the longer ones of RFC 9072.
fn parameters(
    mut r: Reader<'_>,
    mut each: impl FnMut(u8, &[u8]) -> Result<(), Notification>,
) -> Result<(), Notification> {
    let malformed = |_: Short| Notification::new(code::OPEN, 0);
    let length = r.u8().map_err(malformed)?;
    let extended = length != 0 && r.0.first() == Some(&255);
    let mut list = if extended {
        r.u8().map_err(malformed)?;
        let length = r.u16().map_err(malformed)?;
        Reader(r.take(usize::from(length)).map_err(malformed)?)
    } else {
        Reader(r.take(usize::from(length)).map_err(malformed)?)
    };
    if !r.is_empty() {
        return Err(Notification::new(code::OPEN, 0));
    }
    while !list.is_empty() {
        let kind = list.u8().map_err(malformed)?;
        let length = if extended {
            usize::from(list.u16().map_err(malformed)?)
        } else {
            usize::from(list.u8().map_err(malformed)?)
        };
        each(kind, list.take(length).map_err(malformed)?)?;
    }
    Ok(())
}

impl Capabilities {
    fn encode(&self, asn: u32, out: &mut Vec<u8>) {
        for family in &self.families {
            let [a, b] = family.afi().to_be_bytes();
            out.extend_from_slice(&[MULTIPROTOCOL, 4, a, b, 0, UNICAST]);
        }
        if self.route_refresh {
            out.extend_from_slice(&[ROUTE_REFRESH, 0]);
        }
        if self.extended_next_hop {
            out.extend_from_slice(&[EXTENDED_NEXT_HOP, 6, 0, 1, 0, UNICAST, 0, 2]);
        }
        if self.four_byte_as {
            out.extend_from_slice(&[FOUR_BYTE_AS, 4]);
            out.extend_from_slice(&asn.to_be_bytes());
        }
        if let Some(restart) = &self.graceful_restart {
            out.push(GRACEFUL_RESTART);
            with_length::<1>(out, |out| restart.encode(out));
        }
        if !self.add_path.is_empty() {
            out.push(ADD_PATH);
            with_length::<1>(out, |out| {
                for (family, how) in &self.add_path {
                    out.extend_from_slice(&family.afi().to_be_bytes());
                    out.extend_from_slice(&[UNICAST, u8::from(how.receive) | u8::from(how.send) << 1]);
                }
            });
        }
    }

    /// Capabilities of a wrong length are as if they were not there (RFC 5492, 5, asks for no more).
    fn decode(&mut self, mut r: Reader<'_>, asn: &mut Option<u32>) -> Result<(), Short> {
        while !r.is_empty() {
            let kind = r.u8()?;
            let length = r.u8()?;
            let mut value = Reader(r.take(usize::from(length))?);
            match (kind, length) {
                (MULTIPROTOCOL, 4) => {
                    let (family, [_, safi]) = (Family::from_afi(value.u16()?), value.array()?);
                    self.families.extend(family.filter(|_| safi == UNICAST));
                }
                (ROUTE_REFRESH, 0) => self.route_refresh = true,
                (FOUR_BYTE_AS, 4) => {
                    self.four_byte_as = true;
                    *asn = Some(value.u32()?);
                }
                (EXTENDED_NEXT_HOP, _) => {
                    while let Ok([0, 1, 0, UNICAST, 0, 2]) = value.array::<6>() {
                        self.extended_next_hop = true;
                    }
                }
                (GRACEFUL_RESTART, 2..) => self.graceful_restart = GracefulRestart::decode(value),
                (ADD_PATH, _) => {
                    while let Ok([a, b, safi, how]) = value.array() {
                        if let Some(family) = Family::from_afi(u16::from_be_bytes([a, b]))
                            && safi == UNICAST
                            && matches!(how, 1..=3)
                        {
                            self.add_path.insert(family, AddPath { receive: how & 1 != 0, send: how & 2 != 0 });
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl GracefulRestart {
    fn encode(&self, out: &mut Vec<u8>) {
        let flags = u16::from(self.restarting) << 15 | u16::from(self.notification) << 14;
        out.extend_from_slice(&(flags | (self.seconds & 0x0fff)).to_be_bytes());
        for (family, kept) in &self.families {
            out.extend_from_slice(&family.afi().to_be_bytes());
            out.extend_from_slice(&[UNICAST, u8::from(*kept) << 7]);
        }
    }

    fn decode(mut r: Reader<'_>) -> Option<Self> {
        let word = r.u16().ok()?;
        let mut families = BTreeMap::new();
        while let Ok([a, b, safi, flags]) = r.array() {
            if let Some(family) = Family::from_afi(u16::from_be_bytes([a, b]))
                && safi == UNICAST
            {
                families.insert(family, flags & 0x80 != 0);
            }
        }
        Some(Self {
            restarting: word & 0x8000 != 0,
            notification: word & 0x4000 != 0,
            seconds: word & 0x0fff,
            families,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message;

    fn full() -> Open {
        let restart = GracefulRestart {
            restarting: true,
            notification: true,
            seconds: 120,
            families: BTreeMap::from([(Family::Ipv4, true), (Family::Ipv6, false)]),
        };
        Open {
            asn: 4_200_000_001,
            hold_seconds: 9,
            id: Ipv4Addr::new(10, 0, 0, 1),
            capabilities: Capabilities {
                families: Family::ALL.into(),
                four_byte_as: true,
                route_refresh: true,
                extended_next_hop: true,
                graceful_restart: Some(restart),
                add_path: BTreeMap::from([(Family::Ipv4, AddPath { receive: true, send: false })]),
            },
        }
    }

    fn body(open: &Open) -> Vec<u8> {
        message::open(open)[message::HEADER..].to_vec()
    }

    #[test]
    fn everything_that_is_said_is_heard() {
        assert_eq!(Open::decode(&body(&full())), Ok(full()));
    }

    #[test]
    fn a_speaker_without_capabilities_speaks_ipv4() {
        let plain = [4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 2, 0];
        let open = Open::decode(&plain).unwrap();
        assert_eq!((open.asn, open.hold_seconds), (65001, 90));
        assert_eq!(open.capabilities, Capabilities { families: [Family::Ipv4].into(), ..Capabilities::default() });
    }

    #[test]
    fn extended_parameter_lengths_are_understood() {
        let short = body(&full());
        let parameters = &short[12..];
        let length = u16::try_from(parameters.len()).unwrap().to_be_bytes();
        let total = u16::try_from(parameters.len() + 3).unwrap().to_be_bytes();
        let long = [&short[..9], &[255, 255], &total, &[2], &length, parameters].concat();
        assert_eq!(Open::decode(&long), Ok(full()));
    }

    #[test]
    fn each_kind_of_bad_open_has_its_code() {
        let with = |at: usize, bytes: &[u8]| {
            let mut b = body(&full());
            b[at..at + bytes.len()].copy_from_slice(bytes);
            let n = Open::decode(&b).unwrap_err();
            (n.code, n.subcode)
        };
        assert_eq!(with(0, &[3]), (2, 1));
        assert_eq!(with(3, &[0, 2]), (2, 6));
        assert_eq!(with(5, &[0, 0, 0, 0]), (2, 3));
        assert_eq!(with(9, &[1]), (2, 0));
        assert_eq!(with(10, &[7]), (2, 4));
    }
}
