//! Path attributes (RFC 4271, 5), read as RFC 7606 wants it: one that is wrong costs its routes, not the session.
use super::message::counted;
use super::notification::{Notification, code};
use super::reader::{Reader, Short, with_length};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Origin {
    Igp,
    Egp,
    #[default]
    Incomplete,
}

/// The ASes that a route came through, nearest first. Sets are not accepted (RFC 9774).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct AsPath(pub Vec<u32>);

impl AsPath {
    #[must_use]
    pub fn contains(&self, asn: u32) -> bool {
        self.0.contains(&asn)
    }

    /// Whether it has an AS from `first` to `last` in it.
    #[must_use]
    pub fn any_in(&self, first: u32, last: u32) -> bool {
        self.0.iter().any(|asn| (first..=last).contains(asn))
    }

    /// `asn`, `times` times, in front. A path that would become absurdly long stays as it is.
    pub fn prepend(&mut self, asn: u32, times: usize) {
        if self.0.len() + times <= MAX_PATH {
            self.0.splice(0..0, std::iter::repeat_n(asn, times));
        }
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, asn) in self.0.iter().enumerate() {
            write!(f, "{}{asn}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// A path of 500 fits a message whatever else there is.
const MAX_PATH: usize = 500;

/// Where packets of a route go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    pub global: IpAddr,
    /// Beside an IPv6 one (RFC 2545).
    pub link_local: Option<Ipv6Addr>,
}

impl From<IpAddr> for NextHop {
    fn from(global: IpAddr) -> Self {
        Self { global, link_local: None }
    }
}

/// A community (RFC 1997); well-known ones have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// The sender is about to go: prefer others (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::GRACEFUL_SHUTDOWN => f.write_str("graceful-shutdown"),
            Self::NO_EXPORT => f.write_str("no-export"),
            Self::NO_ADVERTISE => f.write_str("no-advertise"),
            Self(n) => write!(f, "{}:{}", n >> 16, n & 0xffff),
        }
    }
}

impl std::str::FromStr for Community {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "graceful-shutdown" => return Ok(Self::GRACEFUL_SHUTDOWN),
            "no-export" => return Ok(Self::NO_EXPORT),
            "no-advertise" => return Ok(Self::NO_ADVERTISE),
            _ => {}
        }
        let parsed = s.split_once(':').and_then(|(a, b)| Some((a.parse::<u16>().ok()?, b.parse::<u16>().ok()?)));
        let (high, low) = parsed.ok_or_else(|| format!("`{s}` is no community: write AS:NUMBER"))?;
        Ok(Self(u32::from(high) << 16 | u32::from(low)))
    }
}

/// Everything that is said of a route but its prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    pub origin: Origin,
    pub as_path: AsPath,
    pub next_hop: NextHop,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<(u32, Ipv4Addr)>,
    pub communities: Vec<Community>,
    pub extended_communities: Vec<[u8; 8]>,
    /// RFC 8092
    pub large_communities: Vec<[u32; 3]>,
    /// RFC 4456
    pub originator: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
    /// Optional transitive ones that are passed on unread: type and value.
    pub others: Vec<(u8, Box<[u8]>)>,
}

impl Attributes {
    /// Of what can be as long as a peer likes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let lists = 4 * (self.as_path.0.len() + self.communities.len() + self.cluster_list.len());
        let long = 8 * self.extended_communities.len() + 12 * self.large_communities.len();
        lists + long + self.others.iter().map(|(_, value)| value.len() + 16).sum::<usize>()
    }

    #[must_use]
    pub fn local(next_hop: IpAddr) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop: next_hop.into(),
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            originator: None,
            cluster_list: Vec::new(),
            others: Vec::new(),
        }
    }

    #[must_use]
    pub fn has(&self, community: Community) -> bool {
        self.communities.contains(&community)
    }

    pub fn add_community(&mut self, community: Community) {
        if !self.has(community) {
            self.communities.push(community);
        }
    }
}

pub(crate) mod kind {
    pub(crate) const ORIGIN: u8 = 1;
    pub(crate) const AS_PATH: u8 = 2;
    pub(crate) const NEXT_HOP: u8 = 3;
    pub(crate) const MED: u8 = 4;
    pub(crate) const LOCAL_PREF: u8 = 5;
    pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
    pub(crate) const AGGREGATOR: u8 = 7;
    pub(crate) const COMMUNITIES: u8 = 8;
    pub(crate) const ORIGINATOR_ID: u8 = 9;
    pub(crate) const CLUSTER_LIST: u8 = 10;
    pub(crate) const MP_REACH: u8 = 14;
    pub(crate) const MP_UNREACH: u8 = 15;
    pub(crate) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(crate) const AS4_PATH: u8 = 17;
    pub(crate) const AS4_AGGREGATOR: u8 = 18;
    pub(crate) const LARGE_COMMUNITIES: u8 = 32;
}

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const PARTIAL: u8 = 0x20;
const EXTENDED_LENGTH: u8 = 0x10;

/// How a session writes: what both sides have agreed on, and what they are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    pub four_byte_as: bool,
    /// Not of our own AS.
    pub external: bool,
}

/// What the attributes of one UPDATE say, each as far as it was there and right.
#[derive(Debug, Default)]
pub(crate) struct Parsed<'a> {
    pub(crate) origin: Option<Origin>,
    pub(crate) as_path: Option<AsPath>,
    pub(crate) next_hop: Option<Ipv4Addr>,
    pub(crate) rest: Rest,
    pub(crate) reach: Option<&'a [u8]>,
    pub(crate) unreach: Option<&'a [u8]>,
    /// The first thing that makes the routes of the message unusable.
    pub(crate) withdraw: Option<&'static str>,
    as4_path: Option<Vec<u32>>,
    as4_aggregator: Option<(u32, Ipv4Addr)>,
}

/// What need not be there.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) atomic_aggregate: bool,
    pub(crate) aggregator: Option<(u32, Ipv4Addr)>,
    pub(crate) communities: Vec<Community>,
    pub(crate) extended_communities: Vec<[u8; 8]>,
    pub(crate) large_communities: Vec<[u32; 3]>,
    pub(crate) originator: Option<Ipv4Addr>,
    pub(crate) cluster_list: Vec<Ipv4Addr>,
    pub(crate) others: Vec<(u8, Box<[u8]>)>,
}

/// Why one attribute is not taken (RFC 7606, 2).
enum Wrong {
    /// All routes of the message count as withdrawn.
    Withdraw(&'static str),
    /// The attribute counts as not there.
    Discard,
    Reset(Notification),
}

impl<'a> Parsed<'a> {
    /// # Errors
    /// What cannot be contained: routes whose prefixes cannot be told (RFC 7606, 3).
    pub(crate) fn read(bytes: &'a [u8], dialect: Dialect) -> Result<Self, Notification> {
        let mut out = Self::default();
        let mut seen = [false; 256];
        let mut r = Reader(bytes);
        while !r.is_empty() {
            let Ok((flags, kind, value)) = header(&mut r) else {
                out.spoil("an attribute runs over the end of the list");
                break;
            };
            if let Some(again) = seen.get_mut(usize::from(kind)) {
                if *again {
                    if matches!(kind, kind::MP_REACH | kind::MP_UNREACH) {
                        return Err(Notification::new(code::UPDATE, 1));
                    }
                    continue;
                }
                *again = true;
            }
            match out.attribute(flags, kind, value, dialect) {
                Ok(()) | Err(Wrong::Discard) => {}
                Err(Wrong::Withdraw(why)) => out.spoil(why),
                Err(Wrong::Reset(n)) => return Err(n),
            }
        }
        out.merge_four_byte(dialect);
        Ok(out)
    }

    fn spoil(&mut self, why: &'static str) {
        self.withdraw.get_or_insert(why);
    }

    fn attribute(&mut self, flags: u8, kind: u8, value: &'a [u8], dialect: Dialect) -> Result<(), Wrong> {
        // Whatever their flags: the prefixes in them are those of the message (RFC 7606, 5.3).
        match kind {
            kind::MP_REACH => self.reach = Some(value),
            kind::MP_UNREACH => self.unreach = Some(value),
            _ => {}
        }
        if let Some(expected) = flags_of(kind)
            && flags & (OPTIONAL | TRANSITIVE) != expected
        {
            return Err(Wrong::Withdraw("an attribute has flags that its type cannot have"));
        }
        match kind {
            kind::ORIGIN => self.origin = Some(origin(value)?),
            kind::AS_PATH => self.as_path = Some(AsPath(as_path(value, dialect.four_byte_as)?)),
            kind::AS4_PATH if !dialect.four_byte_as => {
                self.as4_path = Some(as_path(value, true).map_err(|_| Wrong::Discard)?);
            }
            kind::AS4_AGGREGATOR if !dialect.four_byte_as => {
                self.as4_aggregator = Some(aggregator(value, true).ok_or(Wrong::Discard)?);
            }
            // From a speaker of four-byte numbers they mean nothing (RFC 6793, 6).
            kind::AS4_PATH | kind::AS4_AGGREGATOR => {}
            kind::NEXT_HOP => {
                let a = fixed::<4>(value).map(Ipv4Addr::from).ok_or(Wrong::Withdraw("NEXT_HOP is malformed"))?;
                self.next_hop = Some(a);
            }
            kind::MED => self.rest.med = Some(number(value).ok_or(Wrong::Withdraw("MULTI_EXIT_DISC is malformed"))?),
            kind::LOCAL_PREF | kind::ORIGINATOR_ID | kind::CLUSTER_LIST if dialect.external => {
                return Err(Wrong::Discard);
            }
            kind::LOCAL_PREF => {
                self.rest.local_pref = Some(number(value).ok_or(Wrong::Withdraw("LOCAL_PREF is malformed"))?);
            }
            kind::ATOMIC_AGGREGATE => self.rest.atomic_aggregate = value.is_empty(),
            kind::AGGREGATOR => {
                self.rest.aggregator = Some(aggregator(value, dialect.four_byte_as).ok_or(Wrong::Discard)?);
            }
            kind::COMMUNITIES => {
                let list = chunks::<4>(value).ok_or(Wrong::Withdraw("COMMUNITIES is malformed"))?;
                self.rest.communities = list.map(|c| Community(u32::from_be_bytes(c))).collect();
            }
            kind::EXTENDED_COMMUNITIES => {
                let list = chunks::<8>(value).ok_or(Wrong::Withdraw("EXTENDED COMMUNITIES is malformed"))?;
                self.rest.extended_communities = list.collect();
            }
            kind::LARGE_COMMUNITIES => {
                let list = chunks::<12>(value).ok_or(Wrong::Withdraw("LARGE_COMMUNITY is malformed"))?;
                self.rest.large_communities = list.map(large).collect();
            }
            kind::ORIGINATOR_ID => {
                let id = fixed::<4>(value).ok_or(Wrong::Withdraw("ORIGINATOR_ID is malformed"))?;
                self.rest.originator = Some(id.into());
            }
            kind::CLUSTER_LIST => {
                let list = chunks::<4>(value).ok_or(Wrong::Withdraw("CLUSTER_LIST is malformed"))?;
                self.rest.cluster_list = list.map(Ipv4Addr::from).collect();
            }
            kind::MP_REACH | kind::MP_UNREACH => {}
            _ if flags & OPTIONAL == 0 => {
                return Err(Wrong::Reset(Notification::with(code::UPDATE, 2, &[flags, kind])));
            }
            _ if flags & TRANSITIVE != 0 => self.rest.others.push((kind, value.into())),
            _ => {}
        }
        Ok(())
    }

    /// The numbers that did not fit the two-byte path (RFC 6793, 4.2.3).
    fn merge_four_byte(&mut self, dialect: Dialect) {
        if dialect.four_byte_as {
            return;
        }
        if let (Some(path), Some(mut four)) = (&mut self.as_path, self.as4_path.take())
            && four.len() <= path.0.len()
        {
            let ahead = path.0.len() - four.len();
            path.0.truncate(ahead);
            path.0.append(&mut four);
        }
        if let (Some((asn, _)), Some(four)) = (self.rest.aggregator, self.as4_aggregator)
            && asn == u32::from(super::open::AS_TRANS)
        {
            self.rest.aggregator = Some(four);
        }
    }

    /// With the next hop of a group of routes; `None` if what must be there is not.
    pub(crate) fn with_next_hop(self, next_hop: NextHop) -> Option<Attributes> {
        let rest = self.rest;
        Some(Attributes {
            origin: self.origin?,
            as_path: self.as_path?,
            next_hop,
            med: rest.med,
            local_pref: rest.local_pref,
            atomic_aggregate: rest.atomic_aggregate,
            aggregator: rest.aggregator,
            communities: rest.communities,
            extended_communities: rest.extended_communities,
            large_communities: rest.large_communities,
            originator: rest.originator,
            cluster_list: rest.cluster_list,
            others: rest.others,
        })
    }
}

fn header<'a>(r: &mut Reader<'a>) -> Result<(u8, u8, &'a [u8]), Short> {
    let (flags, kind) = (r.u8()?, r.u8()?);
    let length = if flags & EXTENDED_LENGTH != 0 { usize::from(r.u16()?) } else { usize::from(r.u8()?) };
    Ok((flags, kind, r.take(length)?))
}

/// Optional and transitive bits of the types that are known.
const fn flags_of(kind: u8) -> Option<u8> {
    Some(match kind {
        kind::ORIGIN | kind::AS_PATH | kind::NEXT_HOP | kind::LOCAL_PREF | kind::ATOMIC_AGGREGATE => TRANSITIVE,
        kind::MED | kind::ORIGINATOR_ID | kind::CLUSTER_LIST | kind::MP_REACH | kind::MP_UNREACH => OPTIONAL,
        kind::AGGREGATOR
        | kind::COMMUNITIES
        | kind::EXTENDED_COMMUNITIES
        | kind::AS4_PATH
        | kind::AS4_AGGREGATOR
        | kind::LARGE_COMMUNITIES => OPTIONAL | TRANSITIVE,
        _ => return None,
    })
}

fn origin(value: &[u8]) -> Result<Origin, Wrong> {
    match value {
        [0] => Ok(Origin::Igp),
        [1] => Ok(Origin::Egp),
        [2] => Ok(Origin::Incomplete),
        _ => Err(Wrong::Withdraw("ORIGIN is malformed")),
    }
}

fn as_path(value: &[u8], four_byte: bool) -> Result<Vec<u32>, Wrong> {
    const MALFORMED: Wrong = Wrong::Withdraw("AS_PATH is malformed");
    let mut out = Vec::new();
    let mut r = Reader(value);
    while !r.is_empty() {
        let kind = r.u8().map_err(|_| MALFORMED)?;
        let count = r.u8().map_err(|_| MALFORMED)?;
        match (kind, count) {
            (_, 0) => return Err(MALFORMED),
            (2, _) => {}
            (1, _) => return Err(Wrong::Withdraw("AS_PATH has an AS_SET (RFC 9774)")),
            (3 | 4, _) => return Err(Wrong::Withdraw("AS_PATH has a confederation segment")),
            _ => return Err(MALFORMED),
        }
        for _ in 0..count {
            let asn = if four_byte { r.u32() } else { r.u16().map(u32::from) }.map_err(|_| MALFORMED)?;
            if asn == 0 {
                return Err(Wrong::Withdraw("AS_PATH has AS 0 (RFC 7607)"));
            }
            out.push(asn);
        }
    }
    if out.len() > MAX_PATH {
        return Err(Wrong::Withdraw("AS_PATH is longer than 500"));
    }
    Ok(out)
}

fn aggregator(value: &[u8], four_byte: bool) -> Option<(u32, Ipv4Addr)> {
    let mut r = Reader(value);
    let asn = if four_byte { r.u32() } else { r.u16().map(u32::from) }.ok()?;
    let id = r.v4().ok()?;
    r.is_empty().then_some((asn, id))
}

fn fixed<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

fn number(value: &[u8]) -> Option<u32> {
    fixed(value).map(u32::from_be_bytes)
}

/// A list that is not empty and has no rest.
fn chunks<const N: usize>(value: &[u8]) -> Option<impl Iterator<Item = [u8; N]>> {
    let (chunks, rest) = value.as_chunks::<N>();
    (rest.is_empty() && !chunks.is_empty()).then(|| chunks.iter().copied())
}

fn large(c: [u8; 12]) -> [u32; 3] {
    let mut r = Reader(&c);
    [0; 3].map(|_: u32| r.u32().unwrap_or(0))
}

impl Attributes {
    /// All but MP_REACH, in order of their types. `classic` next hops stand in NEXT_HOP.
    pub(crate) fn encode(&self, dialect: Dialect, classic: Option<Ipv4Addr>, out: &mut Vec<u8>) {
        put(out, TRANSITIVE, kind::ORIGIN, |out| out.push(self.origin as u8));
        put(out, TRANSITIVE, kind::AS_PATH, |out| path(out, &self.as_path.0, dialect.four_byte_as));
        if let Some(hop) = classic {
            put(out, TRANSITIVE, kind::NEXT_HOP, |out| out.extend_from_slice(&hop.octets()));
        }
        if let Some(med) = self.med {
            put(out, OPTIONAL, kind::MED, |out| out.extend_from_slice(&med.to_be_bytes()));
        }
        if !dialect.external {
            let preference = self.local_pref.unwrap_or(crate::rib::DEFAULT_LOCAL_PREF);
            put(out, TRANSITIVE, kind::LOCAL_PREF, |out| out.extend_from_slice(&preference.to_be_bytes()));
        }
        if self.atomic_aggregate {
            put(out, TRANSITIVE, kind::ATOMIC_AGGREGATE, |_| ());
        }
        if let Some((asn, id)) = self.aggregator {
            put(out, OPTIONAL | TRANSITIVE, kind::AGGREGATOR, |out| {
                number_of(out, asn, dialect.four_byte_as);
                out.extend_from_slice(&id.octets());
            });
        }
        list(out, OPTIONAL | TRANSITIVE, kind::COMMUNITIES, self.communities.iter().map(|c| c.0.to_be_bytes()));
        if !dialect.external {
            if let Some(id) = self.originator {
                put(out, OPTIONAL, kind::ORIGINATOR_ID, |out| out.extend_from_slice(&id.octets()));
            }
            list(out, OPTIONAL, kind::CLUSTER_LIST, self.cluster_list.iter().map(Ipv4Addr::octets));
        }
        list(out, OPTIONAL | TRANSITIVE, kind::EXTENDED_COMMUNITIES, self.extended_communities.iter().copied());
        if !dialect.four_byte_as && self.as_path.0.iter().any(|a| *a > u32::from(u16::MAX)) {
            put(out, OPTIONAL | TRANSITIVE, kind::AS4_PATH, |out| path(out, &self.as_path.0, true));
        }
        let words = self.large_communities.iter().flatten().map(|w| w.to_be_bytes());
        list(out, OPTIONAL | TRANSITIVE, kind::LARGE_COMMUNITIES, words);
        for (kind, value) in &self.others {
            // Whoever passes on what it cannot read says so (RFC 4271, 5).
            put(out, OPTIONAL | TRANSITIVE | PARTIAL, *kind, |out| out.extend_from_slice(value));
        }
    }
}

pub(crate) fn put(out: &mut Vec<u8>, flags: u8, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[flags | EXTENDED_LENGTH, kind]);
    counted(out, body);
}

pub(crate) fn put_optional(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    put(out, OPTIONAL, kind, body);
}

fn list<const N: usize>(out: &mut Vec<u8>, flags: u8, kind: u8, items: impl Iterator<Item = [u8; N]>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        put(out, flags, kind, |out| items.for_each(|i| out.extend_from_slice(&i)));
    }
}

fn path(out: &mut Vec<u8>, path: &[u32], four_byte: bool) {
    for segment in path.chunks(usize::from(u8::MAX)) {
        out.push(2);
        let at = out.len();
        out.push(u8::try_from(segment.len()).unwrap_or(u8::MAX));
        segment.iter().for_each(|asn| number_of(out, *asn, four_byte));
        debug_assert!(out.len() > at);
    }
}

fn number_of(out: &mut Vec<u8>, asn: u32, four_byte: bool) {
    if four_byte {
        out.extend_from_slice(&asn.to_be_bytes());
    } else {
        out.extend_from_slice(&u16::try_from(asn).unwrap_or(super::open::AS_TRANS).to_be_bytes());
    }
}

/// The next hop field of MP_REACH.
pub(crate) fn put_next_hop(out: &mut Vec<u8>, hop: NextHop) {
    with_length::<1>(out, |out| match (hop.global, hop.link_local) {
        (IpAddr::V4(a), _) => out.extend_from_slice(&a.octets()),
        (IpAddr::V6(a), None) => out.extend_from_slice(&a.octets()),
        (IpAddr::V6(a), Some(l)) => {
            out.extend_from_slice(&a.octets());
            out.extend_from_slice(&l.octets());
        }
    });
}
