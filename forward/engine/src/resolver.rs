use crate::{Step, TcpIdle};
use penstock_flow::{FlowTable, Transposition};
use penstock_model::{DropReason, Epoch, Nanos, Packet, Verdict};
use penstock_wire::Headers;
use std::fmt::Debug;
use std::hash::Hash;

/// How a packet is to be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class<K> {
    /// By the flow table: replay the entry of `key` if its epoch is `epoch`, else resolve.
    Flow {
        key: K,
        hash: u64,
        epoch: Epoch,
    },
    /// Without the flow table: [`Resolver::direct`] with this token.
    Direct {
        token: u64,
        hash: u64,
    },
    /// For this node itself (ARP, neighbour discovery, tunnel input): [`Resolver::local`].
    Local,
    /// For the kernel's own stack.
    Pass,
    Drop(DropReason),
}

impl<K> Class<K> {
    /// Of the flow that decides, if one does.
    #[inline]
    pub(crate) const fn key(&self) -> Option<&K> {
        match self {
            Self::Flow { key, .. } => Some(key),
            _ => None,
        }
    }
}

/// What the flow table knew when it asks to resolve again: an entry of an older epoch.
#[derive(Debug, Clone, Copy)]
pub struct Prior<'a> {
    pub transposition: &'a Transposition,
}

/// What a packet is charged to, as by a transposition's `meter` and `counter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub meter: u16,
    pub counter: u32,
}

/// The resolver's answer for the first packet of a flow.
#[derive(Debug, Clone, Copy)]
pub enum Resolution<K, V> {
    /// Remember `value` for the flow, and `peer` for the opposite direction if there is one; then replay it.
    /// An entry of the peer that exists already is replaced only if its epoch is stale, or by a SYN if it is a `REPLY`: the new
    /// connection's answers are not the old one's. For TCP, `idle_seconds` holds for connections that are under way
    /// already; the others go by [`Resolver::TCP`].
    Install { value: V, peer: Option<(K, V)>, idle_seconds: u16 },
    /// Replay this once, remember nothing.
    Once(V),
    /// Install the first of [`Resolver::claim`]'s choices whose peer is no other flow's (a port of a NAT may serve many flows,
    /// but one only towards each destination); drop for `none` if there is no such choice.
    Claim { idle_seconds: u16, none: DropReason },
    /// Look for this flow in its place, and ask about it if it is not known. Who answers so for the other flow, too, must come to
    /// an end.
    Instead(K),
    /// Drop this packet, remember nothing.
    Drop(DropReason),
}

/// What [`Resolver::express`] has sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expressed {
    pub packets: u64,
    /// Bytes of the frames as they came in.
    pub received_bytes: u64,
    /// Bytes of the frames as they go out.
    pub transmitted_bytes: u64,
}

/// The decisions of one product. One value per worker; policy is read from the snapshot that [`Resolver::refresh`] took.
///
/// Order of calls for a batch: `refresh` once; `express` once; `foresee` for every packet; `classify` and `prefetch` for every packet; then per packet `direct`, or on a
/// flow miss `resolve`, or `local`. `hash` is a keyed hash with a per-boot secret; it also gives the encapsulation its
/// source port entropy.
pub trait Resolver {
    /// What identifies a flow: plain data.
    type Key: Copy + Eq + Hash + Debug + Default;
    /// What is remembered for a flow: a transposition or an index to one.
    type Value: Copy + Debug + Default;

    /// Whether [`Resolver::prepare`] does anything.
    const PREPARES: bool = false;

    /// How long TCP connections are remembered as they open and close; `None`: flags are not looked at.
    const TCP: Option<TcpIdle> = Some(TcpIdle::DEFAULT);

    /// Whether [`Resolver::express`] does anything.
    const HAS_EXPRESS: bool = false;

    /// Whether the resolver is to be shown the flows that live: [`Resolver::lives`].
    const WALKS: bool = false;

    /// Takes the newest policy snapshot. Called once a batch.
    fn refresh(&mut self, now: Nanos);

    /// Finishes packets that are all alike by a way of its own, before the stages: decides, rewrites and counts them
    /// (`counters` are those of [`Transposition::counter`]) and sets their verdict to `Transmit`. It may go by entries of
    /// `flows`, but makes none. It leaves the other packets as they are. A packet must come out as the stages would have it,
    /// which are the truth. Only if [`Resolver::HAS_EXPRESS`].
    fn express(
        &mut self,
        batch: &mut [Packet<'_>],
        flows: &mut FlowTable<Self::Key, Self::Value>,
        counters: &mut [crate::Counter],
        now: Nanos,
    ) -> Expressed {
        let _ = (batch, flows, counters, now);
        Expressed::default()
    }

    /// Says how the packet is to be decided. `outer` was parsed from `packet`; an overlay product parses the inner
    /// headers itself and returns them in place of the outer ones (`headers` then describes the inner frame).
    fn classify(&mut self, packet: &Packet<'_>, headers: &mut Headers) -> Class<Self::Key>;

    /// [`Resolver::classify`] into the place where the answer is kept. An answer that is written field by field and copied as a
    /// whole right after makes the processor wait for its own stores; who has many packets writes it here once.
    #[inline]
    fn classify_into(&mut self, packet: &Packet<'_>, headers: &mut Headers, class: &mut Class<Self::Key>) {
        *class = self.classify(packet, headers);
    }

    /// Touches the memory that [`Resolver::classify`] will need. Called for every packet of a batch before the first is
    /// classified.
    fn foresee(&self, packet: &Packet<'_>, headers: &Headers) {
        let _ = (packet, headers);
    }

    /// Touches the memory that [`Resolver::direct`] will need for `token`.
    fn prefetch(&self, token: u64) {
        let _ = token;
    }

    /// The decision for a packet that needs no flow entry.
    ///
    /// # Errors
    /// Why the packet is dropped.
    fn direct(&self, token: u64, hash: u64, headers: &Headers) -> Result<&Transposition, DropReason> {
        let _ = (token, hash, headers);
        Err(DropReason::Unsupported)
    }

    /// The decision for the first packet of a flow, or for a flow whose entry is of an older epoch (`prior`).
    fn resolve(
        &mut self,
        key: &Self::Key,
        hash: u64,
        packet: &Packet<'_>,
        headers: &Headers,
        prior: Option<Prior<'_>>,
        now: Nanos,
    ) -> Resolution<Self::Key, Self::Value>;

    /// The next choice for the flow that [`Resolver::resolve`] has just answered with [`Resolution::Claim`]: its value, and its
    /// peer with the peer's value. `None`: there are no more.
    #[allow(clippy::type_complexity, reason = "the two halves of Install")]
    fn claim(&mut self, key: &Self::Key) -> Option<(Self::Value, (Self::Key, Self::Value))> {
        let _ = key;
        None
    }

    /// The transposition that a remembered value stands for.
    fn transposition<'a>(&'a self, value: &'a Self::Value) -> &'a Transposition;

    /// The flow that a key's opposite direction would be hashed as, for peers that [`Resolution::Install`] names.
    fn hash(&self, key: &Self::Key) -> u64;

    /// Changes a packet of the flow `key` before its decision is replayed, where a transposition has no word for it: what headers
    /// that are about to be taken off say to those behind them. Only if [`Resolver::PREPARES`].
    ///
    /// # Errors
    /// Why the packet is dropped.
    fn prepare(&self, key: &Self::Key, packet: &mut Packet<'_>, headers: &mut Headers) -> Result<(), DropReason> {
        let _ = (key, packet, headers);
        Ok(())
    }

    /// Who pays for a packet of the flow `key` on its way in, where `t` names who pays on its way out. Its meter is asked first;
    /// what the second one refuses has come in all the same. Both count what neither refused.
    fn account(&self, key: &Self::Key, t: &Transposition) -> Option<Account> {
        let _ = (key, t);
        None
    }

    /// The header bytes to prepend for an encapsulation, patched by the engine (length, checksum, source port).
    ///
    /// # Errors
    /// `NextHopUnresolved` until the underlay next hop is known.
    fn encap(&self, id: u32) -> Result<&crate::EncapTemplate, DropReason>;

    /// Deals with a packet for this node; may rewrite it in place into an answer. Returns the verdict.
    fn local(&mut self, packet: &mut Packet<'_>, headers: &Headers, now: Nanos) -> Verdict;

    /// The flow that a packet for this node is about, if what is known of it matters: [`Resolver::local_about`] is then called in the
    /// place of [`Resolver::local`].
    fn about(&self, packet: &Packet<'_>, headers: &Headers) -> Option<Self::Key> {
        let _ = (packet, headers);
        None
    }

    /// Deals with a packet that is about a flow; `known`: what the table has of it, under whichever epoch.
    fn local_about(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        known: Option<&Transposition>,
        now: Nanos,
    ) -> Verdict {
        let _ = known;
        self.local(packet, headers, now)
    }

    /// The key of the opposite direction of a flow that was installed with a peer, if it follows from the flow itself. When
    /// the flow proves to be more than one packet, the engine keeps its peer too; a `REPLY` is kept only once its peer is, so
    /// that an answer alone establishes nothing. `None`: the peer proves itself.
    fn peer_of(&self, key: &Self::Key, value: &Self::Value) -> Option<Self::Key> {
        let _ = (key, value);
        None
    }

    /// How long the flow may be silent now that it proves to be an established connection; `None`: as [`Resolver::TCP`] says.
    fn established_idle(&self, key: &Self::Key, value: &Self::Value) -> Option<u16> {
        let _ = (key, value);
        None
    }

    /// Whether [`Resolver::settled`] and [`Resolver::unsettled`] are to be called.
    #[inline]
    fn settles(&self) -> bool {
        false
    }

    /// A packet of a flow that is established and was decided under the epoch in force, before it is changed: `value` holds for
    /// the next ones too, whoever replays it, until [`Resolver::unsettled`]. Called for every such packet.
    fn settled(&mut self, key: &Self::Key, packet: &Packet<'_>, headers: &Headers, value: &Self::Value) {
        let _ = (key, packet, headers, value);
    }

    /// The connection takes a turn, or the flow is decided otherwise: packets of the flow `key` are to come here again.
    fn unsettled(&mut self, key: &Self::Key) {
        let _ = key;
    }

    /// An established flow is in the table: [`Port::maintain`](crate::Port::maintain) comes to each of them in turn. Only if
    /// [`Resolver::WALKS`].
    fn lives(&mut self, key: &Self::Key, value: &Self::Value) {
        let _ = (key, value);
    }

    /// A share of the flows has been shown to [`Resolver::lives`]; `is_round`: with the last ones of them all. Only if
    /// [`Resolver::WALKS`].
    fn maintain(&mut self, is_round: bool, now: Nanos) {
        let _ = (is_round, now);
    }

    /// [`Resolver::classify`] with reasons. Products write one function over `impl Why` and call it from both.
    fn explain_classify(
        &mut self,
        packet: &Packet<'_>,
        headers: &mut Headers,
        why: &mut Vec<Step>,
    ) -> Class<Self::Key> {
        let _ = why;
        self.classify(packet, headers)
    }

    /// [`Resolver::direct`] with reasons.
    ///
    /// # Errors
    /// Why the packet would be dropped.
    fn explain_direct(
        &self,
        token: u64,
        hash: u64,
        headers: &Headers,
        why: &mut Vec<Step>,
    ) -> Result<&Transposition, DropReason> {
        let _ = why;
        self.direct(token, hash, headers)
    }

    /// [`Resolver::resolve`] with reasons. Must leave no trace: nothing that it takes (a port of a NAT) stays taken.
    #[allow(clippy::too_many_arguments)]
    fn explain_resolve(
        &mut self,
        key: &Self::Key,
        hash: u64,
        packet: &Packet<'_>,
        headers: &Headers,
        prior: Option<Prior<'_>>,
        now: Nanos,
        why: &mut Vec<Step>,
    ) -> Resolution<Self::Key, Self::Value> {
        let _ = why;
        self.resolve(key, hash, packet, headers, prior, now)
    }
}
