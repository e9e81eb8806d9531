use crate::apply::apply_in_place;
use crate::stats::{Counter, Stats};
use crate::tcp::{TURNS, Turn};
use crate::{Class, Prior, Resolution, Resolver};
use penstock_flow::prefetch::{prefetch, prefetch_pair};
use penstock_flow::{Flags, FlowTable, Meter, Rate, Transposition};
use penstock_model::{BATCH, Coarse, DropReason, Epoch, Ledger, Nanos, Packet, Protocol, Verdict};
use penstock_wire::Headers;

/// One worker's engine: a resolver, the flows that it has decided, and what became of the packets.
///
/// Order of calls: [`Port::process`] for each batch, then act on the verdicts; [`Port::maintain`] once a round. Getters at any
/// time. Nothing in here is shared between workers.
#[derive(Debug)]
pub struct Port<R: Resolver> {
    pub(crate) resolver: R,
    pub(crate) flows: FlowTable<R::Key, R::Value>,
    pub(crate) stats: Stats,
    /// One for each packet of a batch.
    jobs: Box<[Job<R::Key, R::Value>]>,
    /// The bucket of the flow table that is shown next to a resolver that walks.
    walked: usize,
}

/// What the stages have found out about a packet. Filled in place, so that nothing is copied between stages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<K, V> {
    pub(crate) headers: Headers,
    pub(crate) class: Class<K>,
    decided: Decided<V>,
}

/// Where the transposition of a packet comes from.
#[derive(Debug, Clone, Copy)]
enum Decided<V> {
    /// Not yet, or not by a transposition: the class says.
    Open,
    Value(V),
    Drop(DropReason),
    /// The packet has its verdict: [`Resolver::express`].
    Done,
}

impl<K, V> Job<K, V> {
    pub(crate) fn new() -> Self {
        Self { headers: Headers::default(), class: Class::Pass, decided: Decided::Open }
    }
}

/// Packets ahead whose bytes are asked for: enough to hide the cache behind the first one. Frames lie a power of two apart
/// and share few sets of the first cache, so more would push each other out.
const AHEAD: usize = 6;

/// The same for replaying, whose memory is nearer by then.
const NEXT: usize = 4;

impl<R: Resolver> Port<R> {
    #[must_use]
    pub fn new(resolver: R, flows: FlowTable<R::Key, R::Value>) -> Self {
        let jobs = (0..BATCH).map(|_| Job::new()).collect();
        Self { resolver, flows, stats: Stats::default(), jobs, walked: 0 }
    }

    /// Decides every packet of the batch and rewrites those that go on. Afterwards no verdict is `Pending`.
    pub fn process(&mut self, batch: &mut [Packet<'_>], now: Nanos) {
        self.resolver.refresh(now);
        for chunk in batch.chunks_mut(BATCH) {
            if R::HAS_EXPRESS {
                let done = self.resolver.express(chunk, &mut self.flows, &mut self.stats.counters, now);
                self.stats.enter_expressed(&done);
                if done.packets == chunk.len() as u64 {
                    continue;
                }
            }
            let mut jobs = std::mem::take(&mut self.jobs);
            self.look_at_all(chunk, &mut jobs);
            self.decide_all(chunk, &mut jobs, now);
            self.replay_all(chunk, &mut jobs, now);
            self.jobs = jobs;
            debug_assert!(self.stats.ledger.balances());
        }
    }

    /// Parses, then classifies, and asks for the memory that comes next.
    fn look_at_all(&mut self, batch: &[Packet<'_>], jobs: &mut [Job<R::Key, R::Value>]) {
        batch.iter().take(AHEAD).for_each(prefetch_headers);
        for (i, (packet, job)) in batch.iter().zip(jobs.iter_mut()).enumerate() {
            if let Some(next) = batch.get(i + AHEAD) {
                prefetch_headers(next);
            }
            self.parse(packet, job);
        }
        for (packet, job) in batch.iter().zip(jobs.iter_mut()) {
            self.classify(packet, job);
        }
    }

    #[inline]
    pub(crate) fn parse(&self, packet: &Packet<'_>, job: &mut Job<R::Key, R::Value>) {
        if R::HAS_EXPRESS && !matches!(packet.verdict, Verdict::Pending) {
            job.decided = Decided::Done;
            return;
        }
        job.decided = match penstock_wire::parse_into(packet.frame(), &mut job.headers) {
            Ok(()) => {
                self.resolver.foresee(packet, &job.headers);
                Decided::Open
            }
            Err(reason) => Decided::Drop(reason),
        };
    }

    #[inline]
    pub(crate) fn classify(&mut self, packet: &Packet<'_>, job: &mut Job<R::Key, R::Value>) {
        match job.decided {
            Decided::Drop(reason) => job.class = Class::Drop(reason),
            Decided::Done if R::HAS_EXPRESS => job.class = Class::Pass,
            _ => self.resolver.classify_into(packet, &mut job.headers, &mut job.class),
        }
        match &job.class {
            Class::Flow { hash, .. } => self.flows.prefetch(*hash),
            Class::Direct { token, .. } => self.resolver.prefetch(*token),
            _ => {}
        }
    }

    /// Looks up, and resolves what the table does not know. Established flows first, so that the lines of new ones come in
    /// meanwhile; then the others in order, so that the second packet of a new flow finds what its first one left.
    fn decide_all(&mut self, batch: &[Packet<'_>], jobs: &mut [Job<R::Key, R::Value>], now: Nanos) {
        let coarse = now.coarse();
        let mut is_any_open = false;
        for (packet, job) in batch.iter().zip(jobs.iter_mut()) {
            match &job.class {
                Class::Flow { key, hash, epoch } => match self.flows.lookup_established(key, *hash, coarse) {
                    Some(hit) if hit.is_of(*epoch) && !takes_turn::<R>(&job.headers) => {
                        job.decided = Decided::Value(hit.value);
                        prefetch(self.resolver.transposition(&hit.value));
                        if self.resolver.settles() {
                            self.settle(packet, &job.headers, key, *hash, &hit.value);
                        }
                    }
                    _ => {
                        is_any_open = true;
                        self.flows.prefetch_probation(key, *hash);
                    }
                },
                Class::Direct { token, hash } => {
                    if let Ok(t) = self.resolver.direct(*token, *hash, &job.headers) {
                        prefetch(t);
                    }
                }
                _ => {}
            }
        }
        if !is_any_open {
            return;
        }
        for (packet, job) in batch.iter().zip(jobs.iter_mut()) {
            if let (Decided::Open, Class::Flow { key, hash, epoch }) = (&job.decided, &job.class) {
                job.decided = match self.decide_flow(packet, &job.headers, key, *hash, *epoch, now, coarse) {
                    Ok(value) => Decided::Value(value),
                    Err(reason) => Decided::Drop(reason),
                };
            }
        }
    }

    /// Applies the decisions.
    fn replay_all(&mut self, batch: &mut [Packet<'_>], jobs: &mut [Job<R::Key, R::Value>], now: Nanos) {
        for i in 0..batch.len() {
            if let Some(packet) = batch.get(i + NEXT) {
                prefetch_headers(packet);
            }
            if let (Some(packet), Some(job)) = (batch.get_mut(i), jobs.get_mut(i)) {
                self.finish(packet, job, now);
            }
        }
    }

    #[inline]
    fn finish(&mut self, packet: &mut Packet<'_>, job: &mut Job<R::Key, R::Value>, now: Nanos) {
        if R::HAS_EXPRESS && matches!(job.decided, Decided::Done) {
            return;
        }
        self.stats.receive(packet.len());
        let h = &mut job.headers;
        let (t, hash) = match (&job.decided, &job.class) {
            (Decided::Value(value), Class::Flow { hash, .. }) => (Ok(self.resolver.transposition(value)), *hash),
            (Decided::Drop(reason), _) => (Err(Verdict::Drop(*reason)), 0),
            (_, Class::Direct { token, hash }) => {
                (self.resolver.direct(*token, *hash, h).map_err(Verdict::Drop), *hash)
            }
            (_, Class::Local) => (Err(local(&mut self.resolver, &self.flows, packet, h, now)), 0),
            (_, Class::Pass) => (Err(Verdict::Pass), 0),
            (_, Class::Drop(reason)) => (Err(Verdict::Drop(*reason)), 0),
            (_, Class::Flow { .. }) => (Err(Verdict::Pending), 0),
        };
        let verdict = match t {
            Ok(t) => {
                let key = job.class.key();
                replay(&self.resolver, &mut self.stats, key, t, packet, h, hash, now)
            }
            Err(verdict) => verdict,
        };
        packet.verdict = self.stats.enter(verdict, packet.len());
    }

    /// From the table if the entry is of this epoch, else from the resolver.
    #[allow(clippy::too_many_arguments, reason = "what is known of a packet by then")]
    #[inline]
    pub(crate) fn decide_flow(
        &mut self,
        packet: &Packet<'_>,
        h: &Headers,
        key: &R::Key,
        hash: u64,
        epoch: Epoch,
        now: Nanos,
        coarse: Coarse,
    ) -> Result<R::Value, DropReason> {
        let turn = if R::TCP.is_some() { Turn::of(h) } else { None };
        let hit = self.flows.lookup(key, hash, coarse);
        if let Some(hit) = &hit {
            // A SYN for a connection that is under way may be forged: nothing changes by it alone.
            let is_turn = turn.is_some_and(|turn| turn != Turn::Opens || self.is_closing(key, hash));
            if is_turn && self.resolver.settles() {
                let peer = self.resolver.peer_of(key, &hit.value);
                [Some(*key), peer].iter().flatten().for_each(|key| self.resolver.unsettled(key));
            }
            if turn == Some(Turn::Opens) && self.is_forward(&hit.value) {
                let prior = self.reopen(key, hash, &hit.value, hit.is_new, coarse);
                return self.resolve(packet, h, key, hash, epoch, prior, now);
            }
            if hit.is_new {
                self.promote(key, hash, &hit.value, h, coarse);
            }
        }
        let value = match hit {
            Some(hit) if hit.is_of(epoch) => hit.value,
            stale => self.resolve(packet, h, key, hash, epoch, stale.map(|s| s.value), now)?,
        };
        if let Some(turn) = turn {
            self.close(key, hash, &value, turn, coarse);
        }
        Ok(value)
    }

    /// Tells the resolver of a packet whose flow goes on as it is: a connection neither opens nor closes.
    pub(crate) fn settle(&mut self, packet: &Packet<'_>, h: &Headers, key: &R::Key, hash: u64, value: &R::Value) {
        let is_denied = self.resolver.transposition(value).flags.has(Flags::DROP);
        let tcp = R::TCP.filter(|_| h.protocol == Protocol::TCP && !is_denied);
        let idle = tcp.map(|tcp| self.resolver.established_idle(key, value).unwrap_or(tcp.established));
        if idle.is_none_or(|idle| self.flows.has_idle(key, hash, idle)) {
            self.resolver.settled(key, packet, h, value);
        }
    }

    /// Notes that a packet of an established flow was replayed elsewhere. False if the flow is not known (any more).
    pub fn touch(&mut self, key: &R::Key, now: Nanos) -> bool {
        self.flows.lookup_established(key, self.resolver.hash(key), now.coarse()).is_some()
    }

    /// The second packet of a flow: it is kept from now on, and its peer with it. Not for a denial, not for an answer whose
    /// question is not kept itself, and not for SYNs alone: their source may be forged.
    fn promote(&mut self, key: &R::Key, hash: u64, value: &R::Value, h: &Headers, now: Coarse) {
        let resolver = &self.resolver;
        let flags = resolver.transposition(value).flags;
        let peer = resolver.peer_of(key, value).map(|peer| (peer, resolver.hash(&peer)));
        let is_early = match (flags.has(Flags::REPLY), &peer) {
            (true, Some((peer, hash))) => !self.flows.is_established(peer, *hash, now),
            _ => R::TCP.is_some() && Turn::of(h) == Some(Turn::Opens),
        };
        if flags.has(Flags::DROP) || is_early {
            return;
        }
        // Only what a SYN began has to be told that it is established.
        let is_tcp = h.protocol == Protocol::TCP;
        let established =
            R::TCP.filter(|tcp| is_tcp && self.flows.has_idle(key, hash, tcp.opening)).map(|tcp| tcp.established);
        let established = established.map(|usual| resolver.established_idle(key, value).unwrap_or(usual));
        let rehash = |key: &R::Key| resolver.hash(key);
        if !self.flows.promote(key, hash, now, rehash) {
            return;
        }
        if let Some((peer, peer_hash)) = &peer {
            self.flows.promote(peer, *peer_hash, now, rehash);
        }
        if let Some(idle) = established {
            self.flows.set_idle(key, hash, idle, now);
            if let Some((peer, peer_hash)) = &peer {
                self.flows.set_idle(peer, *peer_hash, idle, now);
            }
        }
    }

    /// Whether a SYN may begin the flow anew: it is neither an answer nor denied.
    pub(crate) fn is_forward(&self, value: &R::Value) -> bool {
        !self.resolver.transposition(value).flags.has(Flags::REPLY | Flags::DROP)
    }

    /// A SYN for a flow that is known. If its connection has closed it begins anew (RFC 9293 section 3.6.1 allows it in
    /// TIME-WAIT) and has to prove itself again. If it has not, the SYN may be forged: what is given is still to be heeded.
    fn reopen(&mut self, key: &R::Key, hash: u64, value: &R::Value, is_new: bool, now: Coarse) -> Option<R::Value> {
        if self.is_closing(key, hash) {
            self.flows.remove(key, hash);
            let peer = self.resolver.peer_of(key, value).map(|peer| (peer, self.resolver.hash(&peer)));
            if let Some((peer, peer_hash)) = peer
                && self.flows.peek(&peer, peer_hash, now).is_some_and(|p| !self.is_forward(&p.value))
            {
                self.flows.remove(&peer, peer_hash);
            }
            return None;
        }
        (!is_new).then_some(*value)
    }

    /// One side of the connection at least has ended it.
    pub(crate) fn is_closing(&self, key: &R::Key, hash: u64) -> bool {
        let closing = |tcp: crate::TcpIdle| [tcp.half_closed, tcp.peer_closed, tcp.closed];
        R::TCP.is_some_and(|tcp| closing(tcp).iter().any(|idle| self.flows.has_idle(key, hash, *idle)))
    }

    /// FIN and RST: both directions are not remembered for long any more.
    fn close(&mut self, key: &R::Key, hash: u64, value: &R::Value, turn: Turn, now: Coarse) {
        let Some(tcp) = R::TCP else { return };
        let (own, other) = match turn {
            Turn::Opens => return,
            Turn::Reset => (tcp.closed, tcp.closed),
            Turn::Fin if self.flows.has_idle(key, hash, tcp.closed) => return,
            Turn::Fin if self.flows.has_idle(key, hash, tcp.peer_closed) => (tcp.closed, tcp.closed),
            Turn::Fin => (tcp.half_closed, tcp.peer_closed),
        };
        self.flows.set_idle(key, hash, own, now);
        if let Some(peer) = self.resolver.peer_of(key, value) {
            self.flows.set_idle(&peer, self.resolver.hash(&peer), other, now);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn resolve(
        &mut self,
        packet: &Packet<'_>,
        h: &Headers,
        key: &R::Key,
        hash: u64,
        epoch: Epoch,
        stale: Option<R::Value>,
        now: Nanos,
    ) -> Result<R::Value, DropReason> {
        self.stats.resolved += 1;
        let coarse = now.coarse();
        let prior: Option<Transposition> = stale.map(|v| *self.resolver.transposition(&v));
        let prior = prior.as_ref().map(|transposition| Prior { transposition });
        let (value, peer, idle_seconds) = match self.resolver.resolve(key, hash, packet, h, prior, now) {
            Resolution::Drop(reason) => return Err(reason),
            Resolution::Once(value) => return Ok(value),
            Resolution::Instead(other) => {
                let hash = self.resolver.hash(&other);
                return self.decide_flow(packet, h, &other, hash, epoch, now, coarse);
            }
            Resolution::Claim { idle_seconds, none } => {
                let (value, peer) = self.claim(key, coarse).ok_or(none)?;
                (value, Some(peer), idle_seconds)
            }
            Resolution::Install { value, peer, idle_seconds } => (value, peer, idle_seconds),
        };
        let opens = R::TCP.is_some() && Turn::of(h) == Some(Turn::Opens);
        let idle_seconds = match R::TCP {
            // A SYN that finds its flow under way does not make it younger.
            Some(_) if opens && stale.is_some() => idle_seconds,
            Some(tcp) => tcp.first(h, idle_seconds),
            None => idle_seconds,
        };
        let full = |_| DropReason::FlowTableFull;
        self.flows.insert(*key, hash, value, epoch, idle_seconds, coarse).map_err(full)?;
        self.replaced(key, stale.as_ref(), &value);
        if let Some((peer_key, peer_value)) = peer {
            let peer_hash = self.resolver.hash(&peer_key);
            let known = self.flows.peek(&peer_key, peer_hash, coarse);
            let is_other = |k: &R::Value| {
                let (known, new) = (self.resolver.transposition(k), self.resolver.transposition(&peer_value));
                known.flags.has(Flags::REPLY) && known != new
            };
            if !known.is_some_and(|k| k.is_of(epoch) && !(opens && is_other(&k.value))) {
                let known = known.map(|k| k.value);
                self.flows.insert(peer_key, peer_hash, peer_value, epoch, idle_seconds, coarse).map_err(full)?;
                self.replaced(&peer_key, known.as_ref(), &peer_value);
            }
        }
        Ok(value)
    }

    /// The flow `key` has another decision from now on: whoever replays the one `before` is told.
    fn replaced(&mut self, key: &R::Key, before: Option<&R::Value>, value: &R::Value) {
        let is_other = |b: &R::Value| self.resolver.transposition(b) != self.resolver.transposition(value);
        if self.resolver.settles() && before.is_some_and(is_other) {
            self.resolver.unsettled(key);
        }
    }

    /// The first choice of the resolver whose peer is free, or answers to this very flow.
    #[allow(clippy::type_complexity)]
    pub(crate) fn claim(&mut self, key: &R::Key, now: Coarse) -> Option<(R::Value, (R::Key, R::Value))> {
        while let Some((value, (peer, back))) = self.resolver.claim(key) {
            let taken = self.flows.peek(&peer, self.resolver.hash(&peer), now);
            if taken.is_none_or(|t| self.resolver.peer_of(&peer, &t.value).as_ref() == Some(key)) {
                return Some((value, (peer, back)));
            }
        }
        None
    }

    /// Frees flows that have expired, a bounded share of the table per call.
    pub fn maintain(&mut self, now: Nanos) {
        const BUCKETS: usize = 64;
        let resolver = &self.resolver;
        self.flows.maintain(now.coarse(), BUCKETS, |key| resolver.hash(key));
        if R::WALKS {
            let resolver = &mut self.resolver;
            let shown = |key: &R::Key, value: &R::Value| resolver.lives(key, value);
            self.walked = self.flows.visit(self.walked, BUCKETS, now.coarse(), shown);
            self.resolver.maintain(self.walked == 0, now);
        }
    }

    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.stats.ledger
    }

    /// Indexed by [`Transposition::counter`].
    #[must_use]
    pub fn counters(&self) -> &[Counter] {
        &self.stats.counters
    }

    /// Makes room for counters `0..n`; what is counted beyond is lost. Not in the packet loop: it allocates.
    pub fn ensure_counters(&mut self, n: usize) {
        if self.stats.counters.len() < n {
            self.stats.counters.resize(n, Counter::default());
        }
    }

    /// Replaces the meters that [`Transposition::meter`] indexes. Not in the packet loop.
    pub fn set_meters(&mut self, meters: Vec<Meter>) {
        self.stats.meters = meters;
    }

    /// Makes the meters those of `rates`: one whose rate stays goes on as it stands. A number without a rate lets everything pass. Not in the packet
    /// loop: it allocates.
    pub fn set_rates(&mut self, rates: &[Option<Rate>], now: Nanos) {
        const UNLIMITED: Rate = Rate { bits_per_second: u64::MAX, burst_bytes: u32::MAX };
        self.stats.meters.truncate(rates.len());
        for (n, rate) in rates.iter().enumerate() {
            let rate = rate.unwrap_or(UNLIMITED);
            let fresh = Meter::new(rate.bits_per_second, rate.burst_bytes, now);
            match self.stats.meters.get_mut(n) {
                Some(meter) if meter.is_of(rate) => {}
                Some(meter) => *meter = fresh,
                None => self.stats.meters.push(fresh),
            }
        }
    }

    /// Indexed by [`Transposition::meter`].
    #[must_use]
    pub fn meters(&self) -> &[Meter] {
        &self.stats.meters
    }

    /// Flows in the table.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    #[must_use]
    pub fn flow_table(&self) -> &FlowTable<R::Key, R::Value> {
        &self.flows
    }

    /// How often the slow path was taken.
    #[must_use]
    pub fn resolved(&self) -> u64 {
        self.stats.resolved
    }

    #[must_use]
    pub fn resolver(&self) -> &R {
        &self.resolver
    }

    pub fn resolver_mut(&mut self) -> &mut R {
        &mut self.resolver
    }
}

/// A packet for this node, with what is known of the flow that it is about.
#[cold]
fn local<R: Resolver>(
    resolver: &mut R,
    flows: &FlowTable<R::Key, R::Value>,
    packet: &mut Packet<'_>,
    h: &Headers,
    now: Nanos,
) -> Verdict {
    let Some(about) = resolver.about(packet, h) else { return resolver.local(packet, h, now) };
    let known = flows.peek(&about, resolver.hash(&about), now.coarse());
    let known = known.map(|hit| *resolver.transposition(&hit.value));
    resolver.local_about(packet, h, known.as_ref(), now)
}

/// Whether the packet may take its connection from one stage to the next. Says no at compile time for who does not care.
#[inline]
pub(crate) fn takes_turn<R: Resolver>(h: &Headers) -> bool {
    R::TCP.is_some() && h.tcp_flags.0 & TURNS != 0
}

/// Meters, replays and counts one packet; `key` is that of its flow, if it has one.
#[allow(clippy::too_many_arguments, reason = "what is known of a packet by then")]
#[inline]
pub(crate) fn replay<R: Resolver>(
    resolver: &R,
    stats: &mut Stats,
    key: Option<&R::Key>,
    t: &Transposition,
    packet: &mut Packet<'_>,
    h: &mut Headers,
    hash: u64,
    now: Nanos,
) -> Verdict {
    if R::PREPARES
        && !t.flags.has(Flags::DROP)
        && let Some(key) = key
        && let Err(reason) = resolver.prepare(key, packet, h)
    {
        return Verdict::Drop(reason);
    }
    // What lies behind the IP packet is padding of what it came in.
    let bytes = h.end.saturating_sub(u32::from(h.l2));
    let ip_bytes = h.end.saturating_sub(u32::from(h.l3)) as usize;
    let account = key.and_then(|key| resolver.account(key, t));
    if account.is_some_and(|a| !stats.admits(a.meter, ip_bytes, now)) || !stats.admits(t.meter, ip_bytes, now) {
        return Verdict::Drop(DropReason::MeterExceeded);
    }
    let encap = if t.flags.has(Flags::ENCAP) {
        match resolver.encap(t.encap) {
            Ok(template) => Some(template),
            Err(reason) => return Verdict::Drop(reason),
        }
    } else {
        None
    };
    if let Some(account) = account {
        stats.count(account.counter, bytes);
    }
    stats.count(t.counter, bytes);
    apply_in_place(t, packet, h, hash, encap).unwrap_or_else(Verdict::Drop)
}

/// Asks for the lines that hold a short packet's headers.
#[inline]
fn prefetch_headers(packet: &Packet<'_>) {
    if let Some(first) = packet.first() {
        prefetch_pair(first);
    }
}
