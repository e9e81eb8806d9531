//! All tunnels of one worker: whose datagram is this?
use super::buffers::{Frames, put_ethernet};
use super::outer;
use super::sources::Sources;
use super::tunnel::{Identity, Received, Sender, WgTunnel, reason};
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{HandshakeInit, Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use penstock_gateway_proto::{
    Datagram, Policy, RouterPacket, TUNNEL_MTU, Tunnel, TunnelInput, TunnelStatus, UnderlayHop, clamp_mss,
};
use penstock_model::{DropReason, HEADROOM, Nanos, TunnelId, Verdict};
use penstock_wire::ecn;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

/// Handshake messages a second on one port above which senders have to show a cookie. `Tunn` checks each initiation a second
/// time, so this is twice the number that is meant.
const COOKIE_ABOVE: u64 = 2 * 200;
/// Tunnels whose timers are looked at in one round, at most.
const TICKS_PER_ROUND: usize = 256;

/// Tunnels that share a UDP port share the private key and the cookie limit.
struct ListenPort {
    private: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
    peers: HashMap<[u8; 32], TunnelId>,
}

/// Underlay next hops, as the table needs them.
pub(crate) type HopOf = Arc<dyn Fn(IpAddr) -> Option<UnderlayHop> + Send + Sync>;

/// Takes a packet for a tenant's router.
pub(crate) type RoutersOf = Arc<dyn Fn(&RouterPacket<'_>) -> Verdict + Send + Sync>;

/// The tunnels. About 12 KiB each, most of it `Tunn`'s sessions.
pub(crate) struct TunnelTable {
    own: IpAddr,
    hop_of: HopOf,
    /// By tunnel id.
    tunnels: Vec<Option<WgTunnel>>,
    ports: BTreeMap<u16, ListenPort>,
    /// By the 24 bits that messages name a tunnel by. They are drawn at random: who does not see the traffic cannot guess one.
    indices: HashMap<u32, TunnelId>,
    sources: Sources,
    timers: BinaryHeap<Reverse<(Nanos, TunnelId)>>,
    limits_reset: Nanos,
    identification: u16,
    /// Decrypted packets that are to enter the engine.
    pub(crate) inward: Frames,
    /// Datagrams that are to leave.
    pub(crate) outward: Frames,
    /// Who takes packets for tenants' routers.
    pub(crate) routers: RoutersOf,
}

impl std::fmt::Debug for TunnelTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.tunnels.iter().flatten()).finish()
    }
}

impl TunnelTable {
    pub(crate) fn new(own: IpAddr, hop_of: HopOf) -> Self {
        Self {
            own,
            hop_of,
            tunnels: Vec::new(),
            ports: BTreeMap::new(),
            indices: HashMap::new(),
            sources: Sources::new(),
            timers: BinaryHeap::new(),
            limits_reset: Nanos(0),
            identification: 0,
            inward: Frames::inward(),
            outward: Frames::outward(),
            routers: Arc::new(|_: &RouterPacket<'_>| Verdict::Drop(DropReason::UnknownPeer)),
        }
    }

    /// Takes another view of the underlay.
    pub(crate) fn set_hops(&mut self, hop_of: HopOf) {
        self.hop_of = hop_of;
        self.tunnels.iter_mut().flatten().for_each(WgTunnel::forget_hop);
    }

    /// Makes the tunnels those of the goal. One whose keys, port and endpoint are as before keeps its sessions.
    pub(crate) fn apply(&mut self, goal: &[Tunnel], now: Nanos) {
        let goal: Vec<(&Tunnel, Identity)> = goal.iter().filter_map(|t| Some((t, Identity::of(t)?))).collect();
        let ids: BTreeSet<TunnelId> = goal.iter().map(|(t, _)| t.id).collect();
        for slot in &mut self.tunnels {
            slot.take_if(|t| !ids.contains(&t.id));
        }
        let used: BTreeSet<u16> = goal.iter().map(|(_, identity)| identity.port).collect();
        self.ports.retain(|port, _| used.contains(port));
        for (tunnel, identity) in goal {
            self.apply_one(tunnel, identity, now);
        }
        let tunnels = &self.tunnels;
        let is_there = |id: &TunnelId| tunnels.get(id.0 as usize).is_some_and(Option::is_some);
        self.indices.retain(|_, id| is_there(id));
        for port in self.ports.values_mut() {
            port.peers.retain(|_, id| is_there(id));
        }
    }

    fn apply_one(&mut self, tunnel: &Tunnel, identity: Identity, now: Nanos) {
        let place = tunnel.id.0 as usize;
        if self.tunnels.len() <= place {
            self.tunnels.resize_with(place + 1, || None);
        }
        let Some(slot) = self.tunnels.get_mut(place) else { return };
        if let Some(same) = slot.as_mut().filter(|t| t.identity == identity) {
            same.name.clone_from(&tunnel.name);
            return;
        }
        *slot = None;
        self.indices.retain(|_, id| *id != tunnel.id);
        let port = listen_port(&mut self.ports, &identity);
        port.peers.retain(|_, id| *id != tunnel.id);
        let index = free_index(&self.indices);
        let peer = identity.peer;
        match WgTunnel::new(tunnel, identity, index, Arc::clone(&port.limiter), now) {
            Ok(mut made) => {
                port.peers.insert(peer, tunnel.id);
                self.indices.insert(index, tunnel.id);
                let mut sender = Sender {
                    out: &mut self.outward,
                    own: self.own,
                    identification: &mut self.identification,
                    hop_of: &*self.hop_of,
                };
                made.begin(&mut sender);
                self.timers.push(Reverse((made.due, tunnel.id)));
                *slot = Some(made);
            }
            Err(problem) => tracing::warn!(tunnel = tunnel.name, problem, "a tunnel's keys cannot be used"),
        }
    }

    /// Encrypts an IP packet for a tunnel; the datagram lies in `outward` then.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub(crate) fn encrypt(&mut self, tunnel: TunnelId, packet: &[u8], now: Nanos) -> Result<(), DropReason> {
        let (tunnel, mut sender, _) = self.parts(tunnel).ok_or(DropReason::UnknownPeer)?;
        let due = tunnel.due;
        let result = tunnel.encrypt(packet, &mut sender, now);
        let (changed, id) = (tunnel.due, tunnel.id);
        self.reschedule(id, due, changed);
        result
    }

    /// Looks at the timers that are due. Bounded; call it every round: it is one comparison when nothing is due.
    pub(crate) fn handle_timeout(&mut self, now: Nanos) {
        if now.since(self.limits_reset).as_secs() >= 1 {
            self.limits_reset = now;
            self.ports.values().for_each(|p| p.limiter.reset_count());
        }
        for _ in 0..TICKS_PER_ROUND {
            let Some(Reverse((due, id))) = self.timers.peek().copied() else { return };
            if due > now {
                return;
            }
            self.timers.pop();
            let Some((tunnel, mut sender, _)) = self.parts(id) else { continue };
            if tunnel.due != due {
                continue; // an entry that was overtaken by a nearer one
            }
            tunnel.tick(&mut sender, now);
            let next = tunnel.due;
            self.timers.push(Reverse((next, id)));
        }
    }

    pub(crate) fn status(&self) -> Vec<TunnelStatus> {
        self.tunnels.iter().flatten().map(WgTunnel::status).collect()
    }

    /// The tunnel, what it sends with, and the buffers for what it decrypts.
    fn parts(&mut self, id: TunnelId) -> Option<(&mut WgTunnel, Sender<'_>, &mut Frames)> {
        let tunnel = self.tunnels.get_mut(id.0 as usize)?.as_mut()?;
        let sender = Sender {
            out: &mut self.outward,
            own: self.own,
            identification: &mut self.identification,
            hop_of: &*self.hop_of,
        };
        Some((tunnel, sender, &mut self.inward))
    }

    fn reschedule(&mut self, id: TunnelId, before: Nanos, due: Nanos) {
        if due != before {
            self.timers.push(Reverse((due, id)));
        }
    }

    /// The tunnel that a message of the protocol is for.
    fn owner(&mut self, datagram: &Datagram<'_>, now: Nanos) -> Result<TunnelId, DropReason> {
        let by_index = |index: u32| self.indices.get(&(index >> 8)).copied().ok_or(DropReason::UnknownPeer);
        match Tunn::parse_incoming_packet(datagram.payload).map_err(|_| DropReason::BadTunnelHeader)? {
            Packet::PacketData(p) => by_index(p.receiver_idx),
            Packet::HandshakeResponse(p) => by_index(p.receiver_idx),
            Packet::PacketCookieReply(p) => by_index(p.receiver_idx),
            Packet::HandshakeInit(init) => self.owner_of_initiation(&init, datagram, now),
        }
    }

    /// An initiation names its sender by key, encrypted to the port's: that costs a curve multiplication, so first comes what
    /// is cheap: the rate of its source, then MAC1 and, under load, the cookie (whitepaper section 5.4.4).
    fn owner_of_initiation(
        &mut self,
        init: &HandshakeInit<'_>,
        datagram: &Datagram<'_>,
        now: Nanos,
    ) -> Result<TunnelId, DropReason> {
        let source = datagram.from.ip();
        if !self.sources.may(source, now) {
            return Err(DropReason::TunnelLimited);
        }
        let port = self.ports.get(&datagram.port).ok_or(DropReason::UnknownPeer)?;
        let mut cookie = [0u8; 64];
        match port.limiter.verify_packet(Some(source), datagram.payload, &mut cookie) {
            Ok(_) => {}
            Err(TunnResult::WriteToNetwork(message)) => {
                let len = message.len();
                self.send_cookie(&cookie, len, datagram);
                return Err(DropReason::TunnelLimited);
            }
            Err(TunnResult::Err(error)) => return Err(reason(&error)),
            Err(_) => return Err(DropReason::BadTunnelHeader),
        }
        self.sources.take(source, now);
        let half = parse_handshake_anon(&port.private, &port.public, init).map_err(|e| reason(&e))?;
        port.peers.get(&half.peer_static_public).copied().ok_or(DropReason::UnknownPeer)
    }

    /// Answers a source that has to prove its address first. No tunnel is concerned.
    fn send_cookie(&mut self, message: &[u8; 64], len: usize, datagram: &Datagram<'_>) {
        use super::buffers::OUT_HEADROOM;
        let (Some(hop), Some(message)) = ((self.hop_of)(datagram.from.ip()), message.get(..len)) else { return };
        let Ok(buffer) = self.outward.buffer() else { return };
        let Some(room) = buffer.get_mut(OUT_HEADROOM..OUT_HEADROOM + len) else { return };
        room.copy_from_slice(message);
        self.identification = self.identification.wrapping_add(1);
        let outer = outer::Outer {
            from: self.own,
            from_port: datagram.port,
            to: datagram.from,
            hop,
            tos: 0,
            identification: self.identification,
        };
        if let Some(start) = outer::write(buffer, OUT_HEADROOM, len, &outer) {
            self.outward.commit(start, OUT_HEADROOM + len - start, penstock_model::PortId(0));
        }
    }

    fn receive(&mut self, datagram: &Datagram<'_>, now: Nanos) -> Result<(), DropReason> {
        let owner = self.owner(datagram, now)?;
        let (tunnel, mut sender, inward) = self.parts(owner).ok_or(DropReason::UnknownPeer)?;
        if tunnel.identity.port != datagram.port {
            return Err(DropReason::UnknownPeer);
        }
        let before = tunnel.due;
        let buffer = inward.buffer()?;
        let result = tunnel.receive(datagram.payload, datagram.from, buffer, &mut sender, now);
        let due = tunnel.due;
        let result = result.and_then(|received| match received {
            Received::Packet(len) => enter(inward, len, datagram.tos, owner),
            Received::Nothing => Ok(()),
        });
        self.reschedule(owner, before, due);
        result
    }
}

impl TunnelInput for TunnelTable {
    fn handle_datagram(&mut self, datagram: &Datagram<'_>, now: Nanos) -> Verdict {
        match self.receive(datagram, now) {
            Ok(()) => Verdict::Consumed,
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn handle_router_packet(&mut self, packet: &RouterPacket<'_>) -> Verdict {
        (self.routers)(packet)
    }
}

/// A decrypted packet becomes one of the tunnel's port.
fn enter(inward: &mut Frames, len: usize, outer_tos: u8, tunnel: TunnelId) -> Result<(), DropReason> {
    let buffer = inward.buffer()?;
    let packet = buffer.get_mut(HEADROOM..HEADROOM + len).ok_or(DropReason::TooLarge)?;
    if !ecn::combine(outer_tos, packet) {
        return Err(DropReason::CongestionHidden);
    }
    clamp_mss(packet, TUNNEL_MTU);
    let start = put_ethernet(buffer).ok_or(DropReason::UnknownEtherType)?;
    inward.commit(start, HEADROOM + len - start, Policy::port_of(tunnel));
    Ok(())
}

fn listen_port<'a>(ports: &'a mut BTreeMap<u16, ListenPort>, identity: &Identity) -> &'a mut ListenPort {
    let private = identity.private();
    let public = PublicKey::from(&private);
    let make = |private, public| ListenPort {
        private,
        public,
        limiter: Arc::new(RateLimiter::new(&public, COOKIE_ABOVE)),
        peers: HashMap::new(),
    };
    let port = ports.entry(identity.port).or_insert_with(|| make(identity.private(), public));
    if port.public != public {
        *port = make(private, public);
    }
    port
}

/// A random index that no tunnel has.
fn free_index(taken: &HashMap<u32, TunnelId>) -> u32 {
    loop {
        // `RandomState` is seeded by the operating system; its output for a fresh value is as good as random here.
        let index = (RandomState::new().hash_one(taken.len()) & 0x00ff_ffff) as u32;
        if !taken.contains_key(&index) {
            return index;
        }
    }
}

#[cfg(test)]
impl TunnelTable {
    pub(crate) fn endpoint_of(&self, tunnel: TunnelId) -> Option<std::net::SocketAddr> {
        match self.tunnels.get(tunnel.0 as usize)?.as_ref()?.status().endpoint? {
            penstock_gateway_proto::PeerAddress::Socket(socket) => Some(socket),
            penstock_gateway_proto::PeerAddress::Address(_) => None,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Nanos> {
        self.timers.peek().map(|Reverse((due, _))| *due)
    }
}
