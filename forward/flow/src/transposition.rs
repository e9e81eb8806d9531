use penstock_model::{Addr16, DropReason, EncapId, Mac, PortId, TunnelId};

/// What a [`Transposition`] does, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Flags(pub u16);

impl Flags {
    /// Remove everything in front of the inner Ethernet frame first.
    pub const DECAP: u16 = 1 << 0;
    pub const SRC: u16 = 1 << 1;
    pub const DST: u16 = 1 << 2;
    pub const SRC_PORT: u16 = 1 << 3;
    pub const DST_PORT: u16 = 1 << 4;
    /// Write `eth_dst` and `eth_src` into the (inner) Ethernet header.
    pub const ETH: u16 = 1 << 5;
    /// Decrement TTL / hop limit; a packet that arrives with 1 or less is dropped (`TtlExceeded`).
    pub const DEC_TTL: u16 = 1 << 6;
    /// Prepend the encapsulation `encap` of the policy.
    pub const ENCAP: u16 = 1 << 7;
    /// Strip the Ethernet header and hand the IP packet to the tunnel in `encap`.
    pub const TUNNEL: u16 = 1 << 8;
    /// Drop with the reason in `out`: a denied flow is remembered like any other.
    pub const DROP: u16 = 1 << 9;
    /// This is the return direction of a flow that the peer opened.
    pub const REPLY: u16 = 1 << 10;
    /// Complete a transport checksum that holds only the pseudo-header sum.
    pub const COMPLETE_CHECKSUM: u16 = 1 << 11;

    #[must_use]
    #[inline]
    pub const fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }
}

/// A decision as plain data: 64 bytes, fixed layout, no pointers, replayed by every engine alike.
///
/// Steps in order: drop or meter, pop (`DECAP`), rewrite addresses and ports with incremental checksums, TTL, Ethernet
/// addresses, push (`ENCAP`) or strip (`TUNNEL`), count, send by `out`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct Transposition {
    pub src: Addr16,
    pub dst: Addr16,
    pub src_port: u16,
    pub dst_port: u16,
    /// An [`EncapId`] with `ENCAP`, a [`TunnelId`] with `TUNNEL`.
    pub encap: u32,
    pub flags: Flags,
    /// Index into the policy's meters, which are asked about bytes of IP packets; [`Transposition::NO_METER`] for none.
    pub meter: u16,
    /// The port to send by, or the [`DropReason`] with `DROP`.
    pub out: u16,
    reserved: u16,
    /// Index into the worker's counters; [`Transposition::NO_COUNTER`] for none.
    pub counter: u32,
    pub eth_dst: Mac,
    pub eth_src: Mac,
}

const _: () = assert!(size_of::<Transposition>() == 64);

impl Transposition {
    pub const NO_METER: u16 = u16::MAX;
    pub const NO_COUNTER: u32 = u32::MAX;

    /// Sends by `port`, changing nothing.
    #[must_use]
    pub const fn to_port(port: PortId) -> Self {
        Self {
            src: Addr16([0; 16]),
            dst: Addr16([0; 16]),
            src_port: 0,
            dst_port: 0,
            encap: EncapId::NONE.0,
            flags: Flags(0),
            meter: Self::NO_METER,
            out: port.0,
            reserved: 0,
            counter: Self::NO_COUNTER,
            eth_dst: Mac::ZERO,
            eth_src: Mac::ZERO,
        }
    }

    /// Drops for `reason`.
    #[must_use]
    pub const fn drop(reason: DropReason) -> Self {
        let mut t = Self::to_port(PortId(reason as u16));
        t.flags = Flags(Flags::DROP);
        t
    }

    /// The reason, if this drops.
    #[must_use]
    pub fn drop_reason(&self) -> Option<DropReason> {
        if self.flags.has(Flags::DROP) { DropReason::ALL.get(usize::from(self.out)).copied() } else { None }
    }

    #[must_use]
    pub const fn decapsulated(mut self) -> Self {
        self.flags.0 |= Flags::DECAP;
        self
    }

    #[must_use]
    pub const fn with_src(mut self, addr: Addr16) -> Self {
        self.src = addr;
        self.flags.0 |= Flags::SRC;
        self
    }

    #[must_use]
    pub const fn with_dst(mut self, addr: Addr16) -> Self {
        self.dst = addr;
        self.flags.0 |= Flags::DST;
        self
    }

    #[must_use]
    pub const fn with_src_port(mut self, port: u16) -> Self {
        self.src_port = port;
        self.flags.0 |= Flags::SRC_PORT;
        self
    }

    #[must_use]
    pub const fn with_dst_port(mut self, port: u16) -> Self {
        self.dst_port = port;
        self.flags.0 |= Flags::DST_PORT;
        self
    }

    #[must_use]
    pub const fn with_eth(mut self, dst: Mac, src: Mac) -> Self {
        self.eth_dst = dst;
        self.eth_src = src;
        self.flags.0 |= Flags::ETH;
        self
    }

    #[must_use]
    pub const fn with_ttl_decrement(mut self) -> Self {
        self.flags.0 |= Flags::DEC_TTL;
        self
    }

    #[must_use]
    pub const fn encapsulated(mut self, encap: EncapId) -> Self {
        self.encap = encap.0;
        self.flags.0 |= Flags::ENCAP;
        self
    }

    #[must_use]
    pub const fn to_tunnel(tunnel: TunnelId) -> Self {
        let mut t = Self::to_port(PortId(0));
        t.encap = tunnel.0;
        t.flags.0 |= Flags::TUNNEL;
        t
    }

    #[must_use]
    pub const fn with_flag(mut self, flag: u16) -> Self {
        self.flags.0 |= flag;
        self
    }

    #[must_use]
    pub const fn with_counter(mut self, counter: u32) -> Self {
        self.counter = counter;
        self
    }

    #[must_use]
    pub const fn with_meter(mut self, meter: u16) -> Self {
        self.meter = meter;
        self
    }
}

impl Default for Transposition {
    /// What fills a free slot: never replayed, and harmless if it were.
    fn default() -> Self {
        Self::drop(DropReason::NoPolicy)
    }
}
