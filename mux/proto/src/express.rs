//! The short way for most packets: whole ones of a rule, whose slot never changed hands or whose flow is established. A few passes
//! over a batch, each asking for the memory of the next, without the headers, classes and transpositions that every other packet
//! needs. What is not such a packet is left as it is. The long way is the truth; tests hold this one to it, byte for byte and
//! count for count.

use crate::chance;
use crate::key::MuxKey;
use crate::places::tail;
use crate::policy::{MUX_MAC, Policy};
use crate::slots::Slots;
use penstock_engine::{Counter, EncapTemplate, Expressed};
use penstock_flow::prefetch::{prefetch, prefetch_pair};
use penstock_flow::{Flags, FlowHasher, FlowTable, Transposition};
use penstock_maps::ReplayDistribution;
use penstock_model::{BATCH, BackendId, Coarse, Gso, Offload, Packet, PortId, Verdict};
use penstock_spread::SlotTable;
use penstock_wire::checksum::finish;
use penstock_wire::rewrite::complete_checksum;
use penstock_wire::{Glance, Headers, parse_into};

/// Packets ahead whose bytes are asked for; see the engine.
const AHEAD: usize = 6;
/// Bytes before the inner Ethernet header: VXLAN over either family.
const V4: usize = 50;
const V6: usize = 70;
/// An Ethernet header.
const ETH: usize = 14;

/// What is put before a packet for a backend: all but what follows from the packet. `N` bytes: the encapsulation, then the inner
/// destination.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Head<const N: usize> {
    bytes: [u8; N],
    out: PortId,
    /// Else packets for the backend go the long way, which knows why.
    is_ready: bool,
}

const _: () = assert!(size_of::<Head<{ V4 + 6 }>>() == 64);

/// By backend id.
///
/// Memory: 64 bytes a backend, 128 over IPv6.
#[derive(Debug, Clone)]
pub(crate) enum Ready {
    V4(Box<[Head<{ V4 + 6 }>]>),
    V6(Box<[Head<{ V6 + 6 }>]>),
}

impl Default for Ready {
    fn default() -> Self {
        Self::V4(Box::default())
    }
}

impl Ready {
    pub(crate) fn of(policy: &Policy) -> Self {
        let ids = 0..policy.backend_counters() as u32;
        if policy.tables.own.0.is_ipv4() {
            Self::V4(ids.map(|id| head(policy, BackendId(id))).collect())
        } else {
            Self::V6(ids.map(|id| head(policy, BackendId(id))).collect())
        }
    }
}

/// What the short way does to a packet.
const WANTED: u16 = Flags::ENCAP | Flags::ETH | Flags::DEC_TTL | Flags::COMPLETE_CHECKSUM;

fn head<const N: usize>(policy: &Policy, id: BackendId) -> Head<N> {
    let mut head = Head { bytes: [0; N], out: PortId(0), is_ready: false };
    let t = policy.transposition(id);
    let Ok(template) = policy.encap(t.encap) else { return head };
    let parts = [template.bytes(), &t.eth_dst.0];
    head.is_ready = t.flags.0 == WANTED && t.counter == id.0 && template.bytes().len() + 6 == N && t.eth_src == MUX_MAC;
    head.out = template.out;
    parts.into_iter().flatten().zip(&mut head.bytes).for_each(|(from, to)| *to = *from);
    head
}

/// What is known of a packet between the passes. A cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Job {
    /// The virtual IP; then, in the first word, the hash of the flow.
    vip: [u64; 2],
    /// Hash of the client's address; then where the slot's owner is kept.
    hash: u64,
    tail: u32,
    /// Where the search for the service begins; then its id.
    service: u32,
    /// Both ports; then the backend.
    backend: u32,
    end: u16,
    header_checksum: u16,
    entropy: u16,
    ttl: u8,
    tos: u8,
    at: u8,
    is_v6: bool,
    is_partial: bool,
}

/// The flow table of a worker, to look established flows up.
pub(crate) struct KnownFlows<'a> {
    pub(crate) flows: &'a mut FlowTable<MuxKey, BackendId>,
    pub(crate) hasher: &'a FlowHasher,
    pub(crate) now: Coarse,
    /// Of the batch, for [`Policy::use_chance`].
    pub(crate) second: u32,
}

/// What was sent, by service, by backend, and in all.
pub(crate) struct Tally<'a> {
    services: &'a mut [Counter],
    backends: &'a mut [Counter],
    pub(crate) done: Expressed,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(services: &'a mut [Counter], backends: &'a mut [Counter]) -> Self {
        Self { services, backends, done: Expressed::default() }
    }

    /// `received` bytes that the IP packet with its Ethernet header has `end` of have become `sent`.
    #[inline(always)]
    fn count(&mut self, job: &Job, backend: u32, received: usize, end: usize, sent: usize) {
        self.done.packets += 1;
        self.done.received_bytes += received as u64;
        self.done.transmitted_bytes += sent as u64;
        add(self.services, job.service, received);
        add(self.backends, backend, end);
    }
}

#[inline(always)]
fn add(counters: &mut [Counter], id: u32, bytes: usize) {
    if let Some(counter) = counters.get_mut(id as usize) {
        counter.packets += 1;
        counter.bytes += bytes as u64;
    }
}

/// The passes' working memory.
#[derive(Debug)]
pub(crate) struct Express {
    jobs: Box<[Job; BATCH]>,
    /// Their clients, by place in the batch.
    clients: Box<[[u64; 2]; BATCH]>,
    /// Those that the flow table is asked about.
    tracked: Box<[(Job, MuxKey); BATCH]>,
}

impl Express {
    pub(crate) fn new() -> Self {
        Self {
            jobs: Box::new([Job::default(); BATCH]),
            clients: Box::new([[0; 2]; BATCH]),
            tracked: Box::new([(Job::default(), MuxKey::default()); BATCH]),
        }
    }

    /// Finishes what it can of a batch.
    pub(crate) fn run(
        &mut self,
        policy: &Policy,
        batch: &mut [Packet<'_>],
        known: &mut KnownFlows<'_>,
        tally: &mut Tally<'_>,
    ) {
        let count = self.read(policy, batch);
        let count = self.find(policy, count);
        match &policy.ready {
            Ready::V4(heads) => self.finish(policy, heads, batch, count, known, tally, write_v4),
            Ready::V6(heads) => self.finish(policy, heads, batch, count, known, tally, write_v6),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the passes' all")]
    #[inline(always)]
    fn finish<const N: usize>(
        &mut self,
        policy: &Policy,
        heads: &[Head<N>],
        batch: &mut [Packet<'_>],
        count: usize,
        known: &mut KnownFlows<'_>,
        tally: &mut Tally<'_>,
        write: impl Fn(&mut [u8], &Head<N>, &Job),
    ) {
        let (mut count, tracked) = self.choose(policy, heads, count, known);
        if tracked > 0 {
            self.look_up(policy, heads, batch, &mut count, tracked, known, tally);
        }
        send(heads, batch, self.jobs.get(..count).unwrap_or_default(), tally, write);
    }

    /// Reads the packets, and asks for their services. Returns how many are such packets.
    #[inline(always)]
    fn read(&mut self, policy: &Policy, batch: &[Packet<'_>]) -> usize {
        let places = &policy.tables.places;
        let [first, second, ..] = policy.tables.hasher.keys();
        batch.iter().take(AHEAD).for_each(ask);
        let mut count = 0;
        let mut g = Glance::default();
        for (at, packet) in batch.iter().enumerate() {
            if let Some(next) = batch.get(at + AHEAD) {
                ask(next);
            }
            let (Some(job), Some(client)) = (self.jobs.get_mut(count), self.clients.get_mut(at)) else { break };
            if !is_usual(packet, &mut g) {
                continue;
            }
            *client = g.src;
            job.vip = g.dst;
            job.hash = FlowHasher::mix(g.src[0] ^ first, g.src[1] ^ second);
            job.tail = tail(g.dst_port, g.protocol);
            job.service = places.home(&g.dst, job.tail);
            job.backend = u32::from(g.src_port) << 16 | u32::from(g.dst_port);
            job.end = g.end;
            job.header_checksum = g.header_checksum;
            job.ttl = g.ttl;
            job.tos = g.tos;
            job.at = at as u8;
            job.is_v6 = g.is_v6;
            job.is_partial = g.is_partial;
            if let Some(place) = places.place(job.service) {
                prefetch(place);
            }
            count += 1;
        }
        count
    }

    /// Finds the services and the slots, and asks for the slots' owners. Returns how many jobs are left, moved together.
    #[inline(always)]
    fn find(&mut self, policy: &Policy, count: usize) -> usize {
        let (places, slots) = (&policy.tables.places, &policy.tables.slots);
        let [.., last] = policy.tables.hasher.keys();
        let mut kept = 0;
        for i in 0..count {
            let Some(job) = self.jobs.get_mut(i) else { break };
            let Some(service) = places.find(job.service, &job.vip, job.tail) else { continue };
            let addresses = job.hash ^ service.vip_hash;
            let protocol = u64::from(job.tail & 0xff) << 32;
            let all = FlowHasher::mix(addresses, (protocol | u64::from(job.backend)) ^ last);
            let chosen = match service.distribution {
                d if d == ReplayDistribution::FiveTuple as u32 => all,
                d if d == ReplayDistribution::Addresses as u32 => FlowHasher::mix(addresses, last),
                _ => FlowHasher::mix(addresses, protocol ^ last),
            };
            job.hash = Slots::reference(service.pool, SlotTable::slot(chosen));
            job.service = service.service;
            job.entropy = all as u16;
            if let Some(owner) = slots.place(job.hash) {
                prefetch(owner);
            }
            keep(&mut self.jobs, i, &mut kept);
        }
        kept
    }

    /// Takes the owners of slots that never changed hands, and asks for what goes before their packets; and sets the others
    /// apart, and asks for their flows. Returns how many there are of each.
    #[inline(always)]
    fn choose<const N: usize>(
        &mut self,
        policy: &Policy,
        heads: &[Head<N>],
        count: usize,
        known: &KnownFlows<'_>,
    ) -> (usize, usize) {
        let slots = &policy.tables.slots;
        let (mut kept, mut tracked) = (0, 0);
        for i in 0..count {
            let Some(job) = self.jobs.get_mut(i) else { break };
            let (owner, is_tracked) = slots.tracked_owner(job.hash);
            if is_tracked {
                let client = self.clients.get(usize::from(job.at)).copied().unwrap_or_default();
                let key = MuxKey::of_words(client, job.backend, job.service, job.tail as u8);
                let Some(place) = self.tracked.get_mut(tracked) else { break };
                *place = (*job, key);
                place.0.vip[0] = key.hash(known.hasher);
                known.flows.prefetch(place.0.vip[0]);
                tracked += 1;
                continue;
            }
            let Some(head) = heads.get(owner.0 as usize) else { continue };
            job.backend = owner.0;
            ask_for_head(head);
            keep(&mut self.jobs, i, &mut kept);
        }
        (kept, tracked)
    }

    /// Adds the packets of established flows that go to one backend, and sends those that name more at once.
    #[allow(clippy::too_many_arguments, reason = "the passes' all")]
    #[inline(never)]
    fn look_up<const N: usize>(
        &mut self,
        policy: &Policy,
        heads: &[Head<N>],
        batch: &mut [Packet<'_>],
        count: &mut usize,
        tracked: usize,
        known: &mut KnownFlows<'_>,
        tally: &mut Tally<'_>,
    ) {
        for (job, key) in self.tracked.iter().take(tracked) {
            let hash = job.vip[0];
            let Some(hit) = known.flows.lookup_established(key, hash, known.now) else { continue };
            if !policy.tables.slots.epoch(job.hash).is_some_and(|epoch| hit.is_of(epoch)) {
                continue;
            }
            let mut job = Job { backend: hit.value.0, entropy: hash as u16, ..*job };
            if heads.len() <= job.backend as usize {
                let Some((t, template)) = policy.use_chance(hit.value, known.second) else { continue };
                job.backend = t.counter;
                if let Some(template) = template {
                    if let Some(packet) = batch.get_mut(usize::from(job.at)) {
                        send_named(packet, &job, t, template, tally);
                    }
                    continue;
                }
                // Nobody to name, or no way: the long way tells.
                if chance::index(t.encap).is_some() {
                    continue;
                }
            }
            if let (Some(head), Some(place)) = (heads.get(job.backend as usize), self.jobs.get_mut(*count)) {
                ask_for_head(head);
                *place = job;
                *count += 1;
            }
        }
    }
}

#[inline(always)]
fn ask_for_head<const N: usize>(head: &Head<N>) {
    if N > V6 { prefetch_pair(head) } else { prefetch(head) }
}

#[inline(always)]
fn ask(packet: &Packet<'_>) {
    if let Some(first) = packet.first() {
        prefetch_pair(first);
    }
}

#[inline(always)]
fn is_usual(packet: &Packet<'_>, g: &mut Glance) -> bool {
    let Some(f) = packet.head::<{ Glance::V4 }>() else { return false };
    if packet.offload.partial_checksum || packet.offload.gso != Gso::None {
        return false;
    }
    if f[12] == 0x08 {
        return g.of_v4(f, packet.len());
    }
    packet.head::<{ Glance::V6 }>().is_some_and(|f| g.of_v6(f, packet.len()))
}

#[inline(always)]
fn keep(jobs: &mut [Job; BATCH], from: usize, kept: &mut usize) {
    if from != *kept
        && let Some(job) = jobs.get(from).copied()
        && let Some(place) = jobs.get_mut(*kept)
    {
        *place = job;
    }
    *kept += 1;
}

/// Writes and counts.
#[inline(always)]
fn send<const N: usize>(
    heads: &[Head<N>],
    batch: &mut [Packet<'_>],
    jobs: &[Job],
    tally: &mut Tally<'_>,
    write: impl Fn(&mut [u8], &Head<N>, &Job),
) {
    let push = N - 6;
    for job in jobs {
        let (Some(packet), Some(head)) = (batch.get_mut(usize::from(job.at)), heads.get(job.backend as usize)) else {
            continue;
        };
        let (received, end) = (packet.len(), usize::from(job.end));
        if !head.is_ready || packet.start() < push || !packet.set_len(end) {
            continue;
        }
        let Some(frame) = packet.push_front(push) else { continue };
        write(frame, head, job);
        sent(packet, job, push, head.out);
        tally.count(job, job.backend, received, end, end + push);
    }
}

/// A packet whose encapsulation names more than the backend that it goes to.
#[inline(always)]
fn send_named(packet: &mut Packet<'_>, job: &Job, t: &Transposition, template: &EncapTemplate, tally: &mut Tally<'_>) {
    let (received, end, push) = (packet.len(), usize::from(job.end), template.bytes().len());
    if t.flags.0 != WANTED || packet.start() < push || !packet.set_len(end) {
        return;
    }
    let Some(frame) = packet.push_front(push) else { return };
    let (outer, inner) = frame.split_at_mut(push);
    let lengths = (end + push - ETH, end + template.udp_overhead());
    template.write(outer, lengths.0 as u16, lengths.1 as u16, job.tos, job.vip[0]);
    if let Some(inner) = inner.first_chunk_mut::<{ ETH + 20 }>() {
        put(inner, 0, t.eth_dst.0);
        write_inner(inner, 0, job);
    }
    sent(packet, job, push, template.out);
    tally.count(job, job.backend, received, end, end + push);
}

/// What is left to do when `push` bytes have been put before the packet.
#[inline(always)]
fn sent(packet: &mut Packet<'_>, job: &Job, push: usize, out: PortId) {
    if job.is_partial {
        complete(packet.frame_mut().get_mut(push..).unwrap_or_default());
    }
    packet.offload = Offload::default();
    packet.verdict = Verdict::Transmit(out);
}

/// Over IPv4. The frame is long enough: it was a whole packet before `N - 6` bytes were put before it.
#[inline(always)]
fn write_v4(frame: &mut [u8], head: &Head<{ V4 + 6 }>, job: &Job) {
    let Some(f) = frame.first_chunk_mut::<{ V4 + ETH + 20 }>() else { return };
    if let Some(start) = f.first_chunk_mut() {
        *start = head.bytes;
    }
    let length = job.end + (V4 - ETH) as u16;
    f[15] = job.tos;
    [f[16], f[17]] = length.to_be_bytes();
    // The template's checksum is that of length 0 and type of service 0 (RFC 1624 equation 3).
    let before = u16::from_be_bytes([head.bytes[24], head.bytes[25]]);
    let sum = u32::from(!before) + u32::from(length) + u32::from(job.tos);
    [f[24], f[25]] = finish(sum.into()).to_be_bytes();
    [f[34], f[35]] = (0xc000 | job.entropy).to_be_bytes();
    [f[38], f[39]] = (length - 20).to_be_bytes();
    write_inner(f, V4, job);
}

/// Over IPv6.
#[inline(always)]
fn write_v6(frame: &mut [u8], head: &Head<{ V6 + 6 }>, job: &Job) {
    let Some(f) = frame.first_chunk_mut::<{ V6 + ETH + 20 }>() else { return };
    if let Some(start) = f.first_chunk_mut() {
        *start = head.bytes;
    }
    let length = job.end + (V6 - ETH - 40) as u16;
    f[14] |= job.tos >> 4;
    f[15] |= job.tos << 4;
    [f[18], f[19]] = length.to_be_bytes();
    [f[54], f[55]] = (0xc000 | job.entropy).to_be_bytes();
    [f[58], f[59]] = length.to_be_bytes();
    write_inner(f, V6, job);
}

/// Source and type of the inner Ethernet header, which begins at `l2`, and the hop limit.
#[inline(always)]
fn write_inner<const N: usize>(f: &mut [u8; N], l2: usize, job: &Job) {
    let m = MUX_MAC.0;
    let kind = if job.is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    let tail = [m[0], m[1], m[2], m[3], m[4], m[5], kind[0], kind[1]];
    if let Some(place) = f.get_mut(l2 + 6..).and_then(|f| f.first_chunk_mut()) {
        *place = tail;
    }
    let l3 = l2 + ETH;
    if job.is_v6 {
        put(f, l3 + 7, [job.ttl - 1]);
    } else {
        put(f, l3 + 8, [job.ttl - 1]);
        // RFC 1624 equation 3 for a word that gets smaller by 0x0100: ~m + m' is always 0xfeff.
        let sum = u32::from(!job.header_checksum) + 0xfeff;
        put(f, l3 + 10, (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    }
}

#[inline(always)]
fn put<const N: usize, const M: usize>(f: &mut [u8; N], at: usize, bytes: [u8; M]) {
    if let Some(place) = f.get_mut(at..).and_then(|f| f.first_chunk_mut()) {
        *place = bytes;
    }
}

/// A checksum of which the sender has left all but the pseudo-header to its interface.
#[inline(never)]
fn complete(inner: &mut [u8]) {
    let mut headers = Headers::default();
    if parse_into(inner, &mut headers).is_ok() {
        complete_checksum(inner, &headers);
    }
}
