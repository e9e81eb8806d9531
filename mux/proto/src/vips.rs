use crate::goal::Distribution;
use crate::hash::{halves, hasher};
use penstock_flow::FlowHasher;
use penstock_model::{Addr16, BackendId, Epoch, Protocol, ServiceId};

/// What an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A virtual IP with protocol and port.
    Service = 0,
    /// A virtual IP with protocol, for packets whose port cannot be seen: all its services agree where they go.
    Portless = 1,
    /// A virtual IP at all.
    Vip = 2,
    /// A block of ports that are leased for outbound NAT, by its first.
    Snat = 3,
}

/// 32 bytes: two share a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct VipEntry {
    addr: [u64; 2],
    /// Port, protocol and kind; [`VACANT`] for none.
    tail: u32,
    pub(crate) service: ServiceId,
    /// Pool index in the low 24 bits, distribution in the next 2, size of blocks in the next 4 or [`VipEntry::LIMITED`],
    /// [`VipEntry::BLOCKS`], and [`VipEntry::MOVED`].
    pool: u32,
    /// Of the flow entries of its pool.
    pub(crate) epoch: Epoch,
}

const _: () = assert!(size_of::<VipEntry>() == 32);
const VACANT: u32 = u32::MAX;

impl VipEntry {
    const MOVED: u32 = 1 << 31;
    const BLOCKS: u32 = 1 << 30;
    /// Of services, which have no blocks.
    const LIMITED: u32 = 1 << 26;

    pub(crate) const NONE: VipEntry =
        VipEntry { addr: [0; 2], tail: VACANT, service: ServiceId(0), pool: 0, epoch: Epoch(0) };

    pub(crate) fn to_pool(mut self, index: u32, distribution: Distribution, moved: bool, epoch: Epoch) -> Self {
        self.pool = index | (distribution as u32) << 24 | if moved { Self::MOVED } else { 0 };
        self.epoch = epoch;
        self
    }

    /// The virtual IP of the service has a limit.
    pub(crate) fn limited(mut self, is_limited: bool) -> Self {
        self.pool |= if is_limited { Self::LIMITED } else { 0 };
        self
    }

    #[inline]
    pub(crate) fn is_limited(&self) -> bool {
        self.pool & Self::LIMITED != 0
    }

    pub(crate) fn of_service(mut self, service: ServiceId) -> Self {
        self.service = service;
        self
    }

    /// Answers to any of a block's ports are for `backend`.
    pub(crate) fn of_block(mut self, backend: BackendId) -> Self {
        self.service = ServiceId(backend.0);
        self
    }

    /// Of an entry of a block.
    #[inline]
    pub(crate) fn backend(&self) -> BackendId {
        BackendId(self.service.0)
    }

    /// That the virtual IP has blocks of `1 << shift` ports.
    pub(crate) fn with_blocks(mut self, shift: u8) -> Self {
        self.pool |= Self::BLOCKS | u32::from(shift & 15) << 26;
        self
    }

    /// Of the entry of a virtual IP.
    #[inline]
    pub(crate) fn blocks(&self) -> Option<u8> {
        (self.pool & Self::BLOCKS != 0).then_some((self.pool >> 26 & 15) as u8)
    }

    #[inline]
    pub(crate) fn pool(&self) -> u32 {
        self.pool & 0x00ff_ffff
    }

    /// Whether any slot of the pool has had another owner.
    #[inline]
    pub(crate) fn moved(&self) -> bool {
        self.pool & Self::MOVED != 0
    }

    #[inline]
    pub(crate) fn distribution(&self) -> Distribution {
        match self.pool >> 24 & 3 {
            1 => Distribution::SourceIp,
            2 => Distribution::SourceIpProtocol,
            _ => Distribution::Default,
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket([VipEntry; 2]);

/// (VIP, protocol, port) -> service: open addressing in cache-line buckets, at most half full, never changed once built.
///
/// Memory: 64 to 128 bytes an entry, of which a service is given three (its own, its VIP's and its protocol's) and a leased
/// block two; 10,000 VIPs with four ports each: 8 MiB.
#[derive(Debug, Clone)]
pub(crate) struct VipTable {
    buckets: Box<[Bucket]>,
    mask: usize,
    hasher: FlowHasher,
}

impl VipTable {
    pub(crate) fn new(entries: usize, seed: [u64; 2]) -> Self {
        let buckets = entries.max(1).next_power_of_two();
        Self {
            buckets: vec![Bucket([VipEntry::NONE; 2]); buckets].into_boxed_slice(),
            mask: buckets - 1,
            hasher: hasher([!seed[0], seed[1]]),
        }
    }

    /// Adds an entry, or replaces the one of the same key. The table has room for what it was made for.
    pub(crate) fn insert(&mut self, vip: &Addr16, protocol: Protocol, port: u16, kind: Kind, entry: VipEntry) {
        let (addr, tail) = (halves(vip), tail(protocol, port, kind));
        let mut at = self.bucket(addr, tail);
        for _ in 0..=self.mask {
            let slot = self
                .buckets
                .get_mut(at)
                .and_then(|b| b.0.iter_mut().find(|e| e.tail == VACANT || (e.tail == tail && e.addr == addr)));
            if let Some(slot) = slot {
                *slot = VipEntry { addr, tail, ..entry };
                return;
            }
            at = (at + 1) & self.mask;
        }
    }

    #[inline]
    pub(crate) fn find(&self, vip: &Addr16, protocol: Protocol, port: u16, kind: Kind) -> Option<&VipEntry> {
        let (addr, tail) = (halves(vip), tail(protocol, port, kind));
        let mut at = self.bucket(addr, tail);
        loop {
            for e in &self.buckets.get(at)?.0 {
                if e.tail == tail && e.addr == addr {
                    return Some(e);
                }
                // Nothing is ever removed, so a vacant place ends the search; half are vacant.
                if e.tail == VACANT {
                    return None;
                }
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Whether the table is likely to lie outside a core's own caches: then asking for a place ahead pays for hashing twice.
    #[inline]
    pub(crate) fn is_large(&self) -> bool {
        const NEAR: usize = 256 << 10;
        self.buckets.len() > NEAR / size_of::<Bucket>()
    }

    /// Where the search for a service begins, to be asked for ahead.
    #[inline]
    pub(crate) fn home(&self, vip: &Addr16, protocol: Protocol, port: u16) -> Option<&VipEntry> {
        let at = self.bucket(halves(vip), tail(protocol, port, Kind::Service));
        self.buckets.get(at).and_then(|b| b.0.first())
    }

    #[inline]
    fn bucket(&self, addr: [u64; 2], tail: u32) -> usize {
        self.hasher.hash3(&[addr[0], addr[1], u64::from(tail)]) as usize & self.mask
    }
}

#[inline]
fn tail(protocol: Protocol, port: u16, kind: Kind) -> u32 {
    u32::from(port) << 16 | u32::from(protocol.0) << 8 | kind as u32
}
