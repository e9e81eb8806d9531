//! TCP between a router and one peer, without a clock or a socket: packets in, packets out, time as an argument.
//!
//! Memory: 128 KiB a connection; a peer has one that waits, and at most [`MOST`] more.
use penstock_model::Nanos;
use penstock_routing_proto::Ends;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

const BGP_PORT: u16 = 179;
/// Bytes that wait in each direction of a connection.
const BUFFER: usize = 64 * 1024;
/// Connections with a peer beside the one that waits.
pub(super) const MOST: usize = 4;
/// Packets that wait to be looked at.
const WAITING: usize = 64;
/// Without an answer the connection is gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ports that connections begin from (RFC 6335 section 6).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49152..=65535;

pub(super) struct Stack {
    interface: Interface,
    queue: Queue,
    sockets: SocketSet<'static>,
    own: IpAddr,
    peer: IpAddr,
    waiting: Option<SocketHandle>,
    /// In somebody's hands.
    given: Vec<SocketHandle>,
    /// Given back: until the connection has ended.
    ending: Vec<SocketHandle>,
    next_port: u16,
}

impl Stack {
    /// `seed`: for sequence numbers and ports, which nobody is to guess.
    pub(super) fn new(own: IpAddr, peer: IpAddr, mtu: usize, seed: u64, now: Nanos) -> Self {
        let mut queue = Queue { mtu, ..Queue::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut queue, instant(now));
        let bits = if own.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|addresses| {
            let added = addresses.push(IpCidr::new(IpAddress::from(own), bits));
            debug_assert!(added.is_ok(), "the list has room for one");
        });
        let routed = match peer {
            IpAddr::V4(peer) => interface.routes_mut().add_default_ipv4_route(peer).is_ok(),
            IpAddr::V6(peer) => interface.routes_mut().add_default_ipv6_route(peer).is_ok(),
        };
        debug_assert!(routed, "the first route has room");
        let span = EPHEMERAL.end() - EPHEMERAL.start();
        let next_port = EPHEMERAL.start() + (seed >> 48) as u16 % span;
        let sockets = SocketSet::new(Vec::new());
        let (given, ending) = (Vec::new(), Vec::new());
        let mut stack = Self { interface, queue, sockets, own, peer, waiting: None, given, ending, next_port };
        stack.wait();
        stack
    }

    /// A packet of the peer, from the IP header on.
    pub(super) fn handle_packet(&mut self, packet: Vec<u8>) {
        if self.queue.inward.len() < WAITING {
            self.queue.inward.push_back(packet);
        }
    }

    /// Does what packets and time ask for.
    pub(super) fn handle_timeout(&mut self, now: Nanos) {
        self.interface.poll(instant(now), &mut self.queue, &mut self.sockets);
        let sockets = &mut self.sockets;
        self.ending.retain(|handle| {
            let has_ended = matches!(sockets.get::<Socket<'_>>(*handle).state(), State::Closed | State::TimeWait);
            if has_ended {
                sockets.remove(*handle);
            }
            !has_ended
        });
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.queue.outward.pop_front()
    }

    pub(super) fn poll_timeout(&mut self, now: Nanos) -> Option<Nanos> {
        let wait = self.interface.poll_delay(instant(now), &self.sockets)?;
        Some(now.plus(std::time::Duration::from(wait)))
    }

    /// The connection that the peer has opened, if it has.
    pub(super) fn accept(&mut self) -> Option<SocketHandle> {
        let handle = self.waiting?;
        match self.sockets.get::<Socket<'_>>(handle).state() {
            State::Established | State::CloseWait => {
                self.wait();
                self.give(handle)
            }
            // It was reset while it was opened.
            State::Closed => {
                self.sockets.remove(handle);
                self.wait();
                None
            }
            _ => None,
        }
    }

    /// Begins a connection.
    pub(super) fn connect(&mut self, port: u16) -> Result<SocketHandle, String> {
        let local = IpEndpoint::new(IpAddress::from(self.own), self.next_port);
        self.next_port = if self.next_port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { self.next_port + 1 };
        let remote = IpEndpoint::new(IpAddress::from(self.peer), port);
        let mut socket = socket();
        socket.connect(self.interface.context(), remote, local).map_err(|error| error.to_string())?;
        let handle = self.sockets.add(socket);
        self.give(handle).ok_or_else(|| "too many connections with the peer".to_owned())
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Both addresses of a connection; ports are 0 once it is gone.
    pub(super) fn ends(&mut self, handle: SocketHandle) -> Ends {
        let (own, peer) = (self.own, self.peer);
        let socket = self.socket(handle);
        let port = |end: Option<IpEndpoint>| end.map_or(0, |e| e.port);
        Ends {
            local: SocketAddr::new(own, port(socket.local_endpoint())),
            remote: SocketAddr::new(peer, port(socket.remote_endpoint())),
        }
    }

    /// Its holder is done with it: what was written still goes out.
    pub(super) fn give_back(&mut self, handle: SocketHandle) {
        self.given.retain(|h| *h != handle);
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        match socket.state() {
            State::SynSent | State::SynReceived => socket.abort(),
            _ => socket.close(),
        }
        self.ending.push(handle);
        self.forget_oldest();
    }

    /// The peer may never end its side.
    fn forget_oldest(&mut self) {
        if self.given.len() + self.ending.len() > MOST && !self.ending.is_empty() {
            let oldest = self.ending.remove(0);
            self.sockets.remove(oldest);
        }
    }

    /// Everything ends.
    pub(super) fn abort(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.sockets.remove(waiting);
        }
        for handle in self.given.iter().chain(&self.ending) {
            self.sockets.get_mut::<Socket<'_>>(*handle).abort();
        }
    }

    fn wait(&mut self) {
        let mut socket = socket();
        let heard = socket.listen((IpAddress::from(self.own), BGP_PORT)).is_ok();
        debug_assert!(heard, "a new socket can listen");
        self.waiting = Some(self.sockets.add(socket));
    }

    fn give(&mut self, handle: SocketHandle) -> Option<SocketHandle> {
        if self.given.len() >= MOST {
            self.sockets.get_mut::<Socket<'_>>(handle).abort();
            self.ending.push(handle);
            self.forget_oldest();
            return None;
        }
        self.given.push(handle);
        self.forget_oldest();
        Some(handle)
    }
}

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(PATIENCE));
    // So that a peer may ask for it (RFC 5082).
    socket.set_hop_limit(Some(255));
    socket
}

fn instant(now: Nanos) -> Instant {
    Instant::from_micros(i64::try_from(now.0 / 1000).unwrap_or(i64::MAX))
}

/// The packets between the stack and the tunnel.
#[derive(Default)]
struct Queue {
    inward: VecDeque<Vec<u8>>,
    outward: VecDeque<Vec<u8>>,
    mtu: usize,
}

/// Packets that the stack makes before the tunnel takes them.
const LEAVING: usize = 64;

impl Device for Queue {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sender<'_>)> {
        if self.outward.len() >= LEAVING {
            return None;
        }
        let packet = self.inward.pop_front()?;
        Some((Received(packet), Sender(&mut self.outward)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_>> {
        (self.outward.len() < LEAVING).then_some(Sender(&mut self.outward))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities.checksum.ipv4 = Checksum::Both;
        capabilities.checksum.tcp = Checksum::Both;
        capabilities
    }
}

struct Received(Vec<u8>);

impl smoltcp::phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Sender<'a>(&'a mut VecDeque<Vec<u8>>);

impl smoltcp::phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}
