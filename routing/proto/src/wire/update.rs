use super::attributes::{Attributes, Dialect, NextHop, Parsed, kind, put_next_hop, put_optional};
use super::message::{HEADER, MAX_MESSAGE, MessageType, counted, encode};
use super::notification::{Notification, code};
use super::reader::{Reader, Short};
use crate::prefix::{Family, Prefix};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A prefix and, between speakers that send several paths, which of them (RFC 7911; 0 otherwise).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    pub prefix: Prefix,
    pub path_id: u32,
}

/// What the session has agreed on about UPDATEs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    pub dialect: Dialect,
    pub families: BTreeSet<Family>,
    pub extended_next_hop: bool,
    /// Families whose routes carry a path identifier, in each direction.
    pub paths_received: BTreeSet<Family>,
    pub paths_sent: BTreeSet<Family>,
}

/// What an UPDATE changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    pub withdrawn: Vec<Nlri>,
    /// Routes by their attributes: two groups at most.
    pub announced: Vec<(Arc<Attributes>, Vec<Nlri>)>,
    /// Nothing more of this family follows (RFC 4724).
    pub end_of_rib: Option<Family>,
    /// Why routes that were announced count as withdrawn (RFC 7606).
    pub malformed: Option<&'static str>,
}

impl Update {
    /// # Errors
    /// What to tell the peer: prefixes cannot be told apart from what is wrong (RFC 7606, 3).
    pub fn decode(body: &[u8], agreed: &Agreed) -> Result<Self, Notification> {
        let list = |_: Short| Notification::new(code::UPDATE, 1);
        let mut r = Reader(body);
        let length = r.u16().map_err(list)?;
        let withdrawn = r.take(usize::from(length)).map_err(list)?;
        let length = r.u16().map_err(list)?;
        let attributes = r.take(usize::from(length)).map_err(list)?;
        let network = |_| Notification::new(code::UPDATE, 10);
        let mut out = Self::default();
        let v4_paths = agreed.paths_received.contains(&Family::Ipv4);
        nlri(withdrawn, Family::Ipv4, v4_paths, &mut out.withdrawn).map_err(network)?;
        let mut classic = Vec::new();
        nlri(r.0, Family::Ipv4, v4_paths, &mut classic).map_err(network)?;
        if body == [0; 4] {
            out.end_of_rib = Some(Family::Ipv4);
            return Ok(out);
        }
        let parsed = Parsed::read(attributes, agreed.dialect)?;
        out.unreachable(&parsed, agreed, body.len())?;
        let reached = parsed.reach.map(|bytes| reach(bytes, agreed)).transpose()?.flatten();
        // Without a prefix that is announced, none may be there or all may be hidden by what is wrong (RFC 7606, 5.2).
        // Those of a family that is not agreed on are there.
        let foreign = parsed.reach.is_some() && reached.is_none();
        let nothing = classic.is_empty() && !foreign && reached.as_ref().is_none_or(|(_, list)| list.is_empty());
        if nothing && parsed.withdraw.is_some() {
            return Err(Notification::new(code::UPDATE, 1));
        }
        out.routes(parsed, classic, reached, agreed);
        if !agreed.families.contains(&Family::Ipv4) {
            out.withdrawn.retain(|n| n.prefix.family() != Family::Ipv4);
        }
        Ok(out)
    }

    fn unreachable(&mut self, parsed: &Parsed<'_>, agreed: &Agreed, whole: usize) -> Result<(), Notification> {
        let Some(bytes) = parsed.unreach else { return Ok(()) };
        let wrong = |_| Notification::new(code::UPDATE, 9);
        let mut r = Reader(bytes);
        let (afi, safi) = (r.u16().map_err(wrong)?, r.u8().map_err(wrong)?);
        let Some(family) = Family::from_afi(afi).filter(|f| safi == 1 && agreed.families.contains(f)) else {
            return Ok(());
        };
        nlri(r.0, family, agreed.paths_received.contains(&family), &mut self.withdrawn).map_err(wrong)?;
        // Two empty lists, and this attribute alone and empty, with either form of its length.
        if r.is_empty() && matches!(whole, 10 | 11) {
            self.end_of_rib = Some(family);
        }
        Ok(())
    }

    fn routes(
        &mut self,
        parsed: Parsed<'_>,
        classic: Vec<Nlri>,
        reached: Option<(NextHop, Vec<Nlri>)>,
        agreed: &Agreed,
    ) {
        let classic_hop = parsed.next_hop.map(|a| NextHop::from(IpAddr::V4(a)));
        let mut groups: Vec<(Option<NextHop>, Vec<Nlri>)> = Vec::new();
        if !classic.is_empty() && agreed.families.contains(&Family::Ipv4) {
            groups.push((classic_hop, classic));
        }
        groups.extend(reached.map(|(hop, list)| (Some(hop), list)));
        if groups.is_empty() {
            return;
        }
        let missing = groups.iter().any(|(hop, _)| hop.is_none()).then_some("NEXT_HOP is missing");
        let preference =
            (!agreed.dialect.external && parsed.rest.local_pref.is_none()).then_some("LOCAL_PREF is missing");
        let mut wrong = parsed.withdraw.or(missing).or(preference);
        let base = groups.iter().find_map(|(hop, _)| *hop).and_then(|hop| parsed.with_next_hop(hop));
        if base.is_none() {
            wrong = wrong.or(Some("ORIGIN or AS_PATH is missing"));
        }
        match (wrong, base) {
            (None, Some(base)) => {
                for (hop, list) in groups {
                    let next_hop = hop.unwrap_or(base.next_hop);
                    self.announced.push((Arc::new(Attributes { next_hop, ..base.clone() }), list));
                }
            }
            (wrong, _) => {
                self.malformed = wrong;
                self.withdrawn.extend(groups.into_iter().flat_map(|(_, list)| list));
            }
        }
    }
}

/// MP_REACH (RFC 4760, 3). `None`: of a family that is not agreed on.
fn reach(bytes: &[u8], agreed: &Agreed) -> Result<Option<(NextHop, Vec<Nlri>)>, Notification> {
    let wrong = |_| Notification::new(code::UPDATE, 9);
    let mut r = Reader(bytes);
    let (afi, safi, length) = (r.u16().map_err(wrong)?, r.u8().map_err(wrong)?, r.u8().map_err(wrong)?);
    let mut hop = Reader(r.take(usize::from(length)).map_err(wrong)?);
    r.u8().map_err(wrong)?;
    let Some(family) = Family::from_afi(afi).filter(|f| safi == 1 && agreed.families.contains(f)) else {
        return Ok(None);
    };
    let next_hop = match (family, length) {
        (Family::Ipv4, 4) => IpAddr::V4(hop.v4().map_err(wrong)?).into(),
        (Family::Ipv6, 16 | 32) => v6_hop(&mut hop).map_err(wrong)?,
        (Family::Ipv4, 16 | 32) if agreed.extended_next_hop => v6_hop(&mut hop).map_err(wrong)?,
        _ => return Err(wrong(Short)),
    };
    let mut list = Vec::new();
    nlri(r.0, family, agreed.paths_received.contains(&family), &mut list).map_err(wrong)?;
    Ok(Some((next_hop, list)))
}

fn v6_hop(r: &mut Reader<'_>) -> Result<NextHop, Short> {
    let global = IpAddr::V6(r.v6()?);
    Ok(NextHop { global, link_local: if r.is_empty() { None } else { Some(r.v6()?) } })
}

fn nlri(bytes: &[u8], family: Family, with_paths: bool, out: &mut Vec<Nlri>) -> Result<(), Short> {
    let mut r = Reader(bytes);
    while !r.is_empty() {
        let path_id = if with_paths { r.u32()? } else { 0 };
        let length = r.u8()?;
        let bytes = r.take(usize::from(length).div_ceil(8))?;
        let address: IpAddr = match family {
            Family::Ipv4 => IpAddr::from(padded::<4>(bytes)?),
            Family::Ipv6 => IpAddr::from(padded::<16>(bytes)?),
        };
        out.push(Nlri { prefix: Prefix::new(address, length).ok_or(Short)?, path_id });
    }
    Ok(())
}

fn padded<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Short> {
    let mut out = [0; N];
    out.get_mut(..bytes.len()).ok_or(Short)?.copy_from_slice(bytes);
    Ok(out)
}

fn put_nlri(out: &mut Vec<u8>, n: &Nlri, with_path: bool) {
    if with_path {
        out.extend_from_slice(&n.path_id.to_be_bytes());
    }
    put_address(out, n.prefix);
}

/// Its length, and as many bytes as that needs.
pub(crate) fn put_address(out: &mut Vec<u8>, prefix: Prefix) {
    out.push(prefix.length());
    let bytes = usize::from(prefix.length()).div_ceil(8);
    match prefix.address() {
        IpAddr::V4(a) => out.extend_from_slice(a.octets().get(..bytes).unwrap_or_default()),
        IpAddr::V6(a) => out.extend_from_slice(a.octets().get(..bytes).unwrap_or_default()),
    }
}

/// Bytes that one prefix takes at most, with its path identifier.
const LONGEST: usize = 4 + 1 + 16;

/// How many of `routes`, all of one family, go into one message. A message always takes one.
fn fit(used: usize, routes: &[Nlri]) -> usize {
    (MAX_MESSAGE.saturating_sub(HEADER + used) / LONGEST).clamp(1, routes.len().max(1))
}

/// One message that announces the first of `routes`, all of one family and with the same attributes; how many it took.
/// `None`: the attributes alone do not fit a message.
#[must_use]
pub fn announce(attributes: &Attributes, routes: &[Nlri], agreed: &Agreed) -> Option<(Vec<u8>, usize)> {
    let family = routes.first()?.prefix.family();
    let with_paths = agreed.paths_sent.contains(&family);
    let classic = match (family, attributes.next_hop.global) {
        (Family::Ipv4, IpAddr::V4(a)) => Some(a),
        _ => None,
    };
    let mut list = Vec::new();
    attributes.encode(agreed.dialect, classic, &mut list);
    // Lengths of the lists, and MP_REACH with two addresses.
    let used = list.len() + 4 + 4 + 5 + 32;
    if used + LONGEST > MAX_MESSAGE - HEADER {
        return None;
    }
    let taken = fit(used, routes);
    let routes = routes.get(..taken)?;
    let message = encode(MessageType::Update, |out| {
        out.extend_from_slice(&[0, 0]);
        counted(out, |out| {
            if classic.is_none() {
                put_optional(out, kind::MP_REACH, |out| {
                    out.extend_from_slice(&family.afi().to_be_bytes());
                    out.push(1);
                    put_next_hop(out, attributes.next_hop);
                    out.push(0);
                    routes.iter().for_each(|n| put_nlri(out, n, with_paths));
                });
            }
            out.extend_from_slice(&list);
        });
        if classic.is_some() {
            routes.iter().for_each(|n| put_nlri(out, n, with_paths));
        }
    });
    Some((message, taken))
}

/// One message that withdraws the first of `routes`, all of one family; how many it took.
#[must_use]
pub fn withdraw(routes: &[Nlri], agreed: &Agreed) -> (Vec<u8>, usize) {
    let family = routes.first().map_or(Family::Ipv4, |n| n.prefix.family());
    let with_paths = agreed.paths_sent.contains(&family);
    let taken = fit(16, routes);
    let routes = routes.get(..taken).unwrap_or_default();
    (unreach(family, routes, with_paths), taken)
}

#[must_use]
pub fn end_of_rib(family: Family) -> Vec<u8> {
    match family {
        Family::Ipv4 => encode(MessageType::Update, |out| out.extend_from_slice(&[0; 4])),
        Family::Ipv6 => unreach(family, &[], false),
    }
}

fn unreach(family: Family, routes: &[Nlri], with_paths: bool) -> Vec<u8> {
    encode(MessageType::Update, |out| match family {
        Family::Ipv4 => {
            counted(out, |out| routes.iter().for_each(|n| put_nlri(out, n, with_paths)));
            out.extend_from_slice(&[0, 0]);
        }
        Family::Ipv6 => {
            out.extend_from_slice(&[0, 0]);
            counted(out, |out| {
                put_optional(out, kind::MP_UNREACH, |out| {
                    out.extend_from_slice(&family.afi().to_be_bytes());
                    out.push(1);
                    routes.iter().for_each(|n| put_nlri(out, n, with_paths));
                });
            });
        }
    })
}
