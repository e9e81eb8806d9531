//! The table as an MRT file (RFC 6396, TABLE_DUMP_V2; several paths of a peer by RFC 8050), a piece at a time.
//!
//! Paths that are used, as the import policy left them. The peers are those of when the dump began: paths of later ones are left
//! out, and a table that changes meanwhile is that of each piece's time.
use crate::prefix::{Family, Prefix};
use crate::rib::{Entry, Path, PeerId};
use crate::speaker::Speaker;
use crate::wire::attributes::{Attributes, Dialect, kind, put_next_hop, put_optional};
use crate::wire::message::counted;
use crate::wire::reader::with_length;
use crate::wire::update::put_address;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

const TABLE_DUMP_V2: u16 = 13;

mod subtype {
    pub(super) const PEER_INDEX_TABLE: u16 = 1;
    pub(super) const IPV4_UNICAST: u16 = 2;
    pub(super) const IPV6_UNICAST: u16 = 4;
    pub(super) const IPV4_UNICAST_ADDPATH: u16 = 8;
    pub(super) const IPV6_UNICAST_ADDPATH: u16 = 10;
}

/// Bytes after which a piece ends with the record that it is in.
const PIECE: usize = 32 * 1024;
/// Prefixes in a piece, at most.
const SCAN: usize = 4096;

/// A dump that is under way. `next_piece` until `None`; the pieces after one another are the file.
#[derive(Debug, Default)]
pub struct Dump {
    /// Places of the peers in the first record; empty until that was made. Ourselves are the first.
    places: BTreeMap<Option<PeerId>, u16>,
    sequence: u32,
    done: Option<Prefix>,
}

impl Dump {
    /// `seconds`: since 1970, which records carry.
    pub fn next_piece(&mut self, speaker: &Speaker, seconds: u32) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        if self.places.is_empty() {
            self.peer_index(speaker, seconds, &mut out);
            return Some(out);
        }
        let (first, mut left) = (self.done, SCAN);
        for (prefix, entry) in speaker.rib().from(first).filter(|(p, _)| first != Some(*p)) {
            if out.len() >= PIECE || left == 0 {
                return Some(out);
            }
            self.entry(prefix, entry, seconds, &mut out);
            self.done = Some(prefix);
            left -= 1;
        }
        (!out.is_empty()).then_some(out)
    }

    /// RFC 6396, 4.3.1.
    fn peer_index(&mut self, speaker: &Speaker, seconds: u32, out: &mut Vec<u8>) {
        const IPV6: u8 = 1;
        const FOUR_BYTE_AS: u8 = 2;
        let own = (None, speaker.own_id(), IpAddr::V4(Ipv4Addr::UNSPECIFIED), speaker.own_as());
        let peers = speaker.peers().map(|(id, goal)| {
            let told = speaker.remote_id(id).unwrap_or(Ipv4Addr::UNSPECIFIED);
            (Some(id), told, goal.address, goal.remote_as)
        });
        let all: Vec<_> = std::iter::once(own).chain(peers).take(usize::from(u16::MAX)).collect();
        self.places = (0..).zip(&all).map(|(n, (id, ..))| (*id, n)).collect();
        record(subtype::PEER_INDEX_TABLE, seconds, out, |out| {
            out.extend_from_slice(&speaker.own_id().octets());
            // No name of a view.
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&u16::try_from(all.len()).unwrap_or(u16::MAX).to_be_bytes());
            for (_, id, address, asn) in &all {
                out.push(FOUR_BYTE_AS | if address.is_ipv6() { IPV6 } else { 0 });
                out.extend_from_slice(&id.octets());
                match address {
                    IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
                    IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
                }
                out.extend_from_slice(&asn.to_be_bytes());
            }
        });
    }

    /// RFC 6396, 4.3.2; RFC 8050, 4.
    fn entry(&mut self, prefix: Prefix, entry: &Entry, seconds: u32, out: &mut Vec<u8>) {
        let known = |(path, used)| Some((*self.places.get(&Path::peer(path))?, path.path_id, used));
        let paths: Vec<(u16, u32, &Attributes)> =
            entry.usable().map(|(path, used)| (path, &**used)).filter_map(known).take(usize::from(u16::MAX)).collect();
        if paths.is_empty() {
            return;
        }
        let several = paths.iter().any(|(_, id, _)| *id != 0);
        let subtype = match (prefix.family(), several) {
            (Family::Ipv4, false) => subtype::IPV4_UNICAST,
            (Family::Ipv4, true) => subtype::IPV4_UNICAST_ADDPATH,
            (Family::Ipv6, false) => subtype::IPV6_UNICAST,
            (Family::Ipv6, true) => subtype::IPV6_UNICAST_ADDPATH,
        };
        record(subtype, seconds, out, |out| {
            out.extend_from_slice(&self.sequence.to_be_bytes());
            put_address(out, prefix);
            out.extend_from_slice(&u16::try_from(paths.len()).unwrap_or(u16::MAX).to_be_bytes());
            for (peer, path_id, attributes) in paths {
                out.extend_from_slice(&peer.to_be_bytes());
                out.extend_from_slice(&seconds.to_be_bytes());
                if several {
                    out.extend_from_slice(&path_id.to_be_bytes());
                }
                counted(out, |out| put_attributes(out, prefix, attributes));
            }
        });
        self.sequence = self.sequence.wrapping_add(1);
    }
}

/// With four-byte AS numbers; of MP_REACH the next hop alone (RFC 6396, 4.3.4).
fn put_attributes(out: &mut Vec<u8>, prefix: Prefix, attributes: &Attributes) {
    let classic = match (prefix.family(), attributes.next_hop.global) {
        (Family::Ipv4, IpAddr::V4(a)) => Some(a),
        _ => None,
    };
    attributes.encode(Dialect { four_byte_as: true, external: false }, classic, out);
    if classic.is_none() {
        put_optional(out, kind::MP_REACH, |out| put_next_hop(out, attributes.next_hop));
    }
}

fn record(subtype: u16, seconds: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&seconds.to_be_bytes());
    out.extend_from_slice(&TABLE_DUMP_V2.to_be_bytes());
    out.extend_from_slice(&subtype.to_be_bytes());
    with_length::<4>(out, body);
}
