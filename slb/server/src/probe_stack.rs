//! A TCP/IP stack of its own on each container port, for probes alone: the kernel's has no address in the tenant's network.

use crate::probe_tls::Session;
use penstock_model::{Mac, Nanos};
use penstock_slb_host::{PROBE_V4, PROBE_V6, ProbeKind, ROUTER_MAC};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Packets that wait in either direction; more are dropped, TCP repeats them.
const QUEUE: usize = 64;
/// Enough for a status line; what follows is of no interest.
const RECEIVE_BUFFER: usize = 2048;
const TRANSMIT_BUFFER: usize = 2048;
const FIRST_LOCAL_PORT: u16 = 32768;

/// One container's link as probes see it. Order of calls: [`Stack::handle_frame`] for what comes in,
/// [`Stack::handle_timeout`], then [`Stack::poll_frame`] until it gives nothing, [`Stack::poll_timeout`] for the next call.
pub(crate) struct Stack {
    mac: Mac,
    interface: Interface,
    sockets: SocketSet<'static>,
    link: Link,
    next_port: u16,
    /// Connections that are being closed.
    closing: Vec<SocketHandle>,
}

/// A probe's connection.
#[derive(Debug)]
pub(crate) struct Attempt {
    socket: SocketHandle,
    to: IpAddr,
    asked: bool,
    tls: Option<Session>,
    answer: Vec<u8>,
}

/// How an attempt ended: whether it was a success, and what was seen.
pub(crate) type Seen = (bool, String);

impl Stack {
    pub(crate) fn new(mac: Mac, seed: u64, now: Nanos) -> Self {
        let mut link = Link::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, at(now));
        interface.update_ip_addrs(|addresses| {
            // Prefix length 0: everything is behind this link. The container is its only neighbour.
            let v4 = addresses.push(IpCidr::new(IpAddress::Ipv4(PROBE_V4), 0));
            let v6 = addresses.push(IpCidr::new(IpAddress::Ipv6(PROBE_V6), 0));
            debug_assert!(v4.is_ok() && v6.is_ok(), "there is room for two addresses");
        });
        let next_port = FIRST_LOCAL_PORT + (seed % 16_384) as u16;
        Self { mac, interface, sockets: SocketSet::new(Vec::new()), link, next_port, closing: Vec::new() }
    }

    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    /// Begins a connection to the container.
    ///
    /// # Errors
    /// Why it cannot be begun.
    pub(crate) fn connect(&mut self, addr: IpAddr, port: u16) -> Result<Attempt, String> {
        let buffer = |n| tcp::SocketBuffer::new(vec![0; n]);
        let mut socket = tcp::Socket::new(buffer(RECEIVE_BUFFER), buffer(TRANSMIT_BUFFER));
        socket.set_nagle_enabled(false);
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_LOCAL_PORT);
        let remote = (IpAddress::from(addr), port);
        socket.connect(self.interface.context(), remote, self.next_port).map_err(|e| format!("cannot connect: {e}"))?;
        Ok(Attempt { socket: self.sockets.add(socket), to: addr, asked: false, tls: None, answer: Vec::new() })
    }

    /// Ends an attempt, answered or not.
    pub(crate) fn close(&mut self, attempt: &Attempt) {
        let socket = self.sockets.get_mut::<tcp::Socket>(attempt.socket);
        match socket.state() {
            tcp::State::Established | tcp::State::CloseWait => socket.close(),
            _ => socket.abort(),
        }
        self.closing.push(attempt.socket);
        if self.closing.len() > QUEUE {
            let oldest = self.closing.remove(0);
            self.sockets.remove(oldest);
        }
    }

    /// What an attempt has come to, if it has come to an end.
    pub(crate) fn judge(&mut self, attempt: &mut Attempt, kind: &ProbeKind, host: &str) -> Option<Seen> {
        let socket = self.sockets.get_mut::<tcp::Socket>(attempt.socket);
        match (socket.state(), kind) {
            (tcp::State::SynSent | tcp::State::SynReceived, _) => None,
            (tcp::State::Closed, _) if !attempt.asked => Some((false, "connection refused".to_owned())),
            (_, ProbeKind::Tcp) => Some((true, "connection accepted".to_owned())),
            (_, ProbeKind::Http { path }) => {
                ask(socket, attempt, &request(path, host)).or_else(|| read(socket, attempt))
            }
            (_, ProbeKind::Https { path }) => {
                ask_by_tls(attempt, &request(path, host)).or_else(|| read(socket, attempt))
            }
        }
    }

    /// A frame from the container.
    pub(crate) fn handle_frame(&mut self, frame: &[u8]) {
        if let Some(packet) = frame.get(14..)
            && self.link.received.len() < QUEUE
        {
            self.link.received.push_back(packet.to_vec());
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Nanos) {
        self.interface.poll(at(now), &mut self.link, &mut self.sockets);
        let sockets = &mut self.sockets;
        self.closing.retain(|handle| {
            let gone = matches!(sockets.get::<tcp::Socket>(*handle).state(), tcp::State::Closed | tcp::State::TimeWait);
            if gone {
                sockets.remove(*handle);
            }
            !gone
        });
    }

    pub(crate) fn poll_timeout(&mut self, now: Nanos) -> Option<Nanos> {
        let delay = self.interface.poll_delay(at(now), &self.sockets)?;
        Some(now.plus(delay.into()))
    }

    /// The next frame for the container.
    pub(crate) fn poll_frame(&mut self) -> Option<Vec<u8>> {
        let packet = self.link.sent.pop_front()?;
        let ethertype = if packet.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0x00] };
        Some([&self.mac.0[..], &ROUTER_MAC.0, &ethertype, &packet].concat())
    }
}

fn request(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Penstock-Probe\r\nConnection: close\r\n\r\n")
}

/// Sends the request once. Returns why it cannot be.
fn ask(socket: &mut tcp::Socket<'_>, attempt: &mut Attempt, request: &str) -> Option<Seen> {
    if attempt.asked {
        return None;
    }
    attempt.asked = true;
    let is_sent = socket.send_slice(request.as_bytes()) == Ok(request.len());
    (!is_sent).then(|| (false, "the request could not be sent".to_owned()))
}

/// The same by TLS; the handshake goes on with what was received.
fn ask_by_tls(attempt: &mut Attempt, request: &str) -> Option<Seen> {
    if !attempt.asked {
        attempt.asked = true;
        let session = Session::new(attempt.to).and_then(|mut s| s.ask(request.as_bytes()).map(|()| s));
        match session {
            Ok(session) => attempt.tls = Some(session),
            Err(why) => return Some((false, why)),
        }
    }
    None
}

fn read(socket: &mut tcp::Socket<'_>, attempt: &mut Attempt) -> Option<Seen> {
    if let Err(why) = receive(socket, attempt) {
        return Some((false, why));
    }
    if let Some(end) = attempt.answer.windows(2).position(|w| w == b"\r\n") {
        return Some(judge_status_line(attempt.answer.get(..end).unwrap_or_default()));
    }
    let ended = !socket.may_recv() || attempt.answer.len() >= RECEIVE_BUFFER;
    ended.then(|| (false, "the connection ended before an HTTP status line".to_owned()))
}

fn receive(socket: &mut tcp::Socket<'_>, attempt: &mut Attempt) -> Result<(), String> {
    let Attempt { tls, answer, .. } = attempt;
    let mut buffer = [0; 512];
    while answer.len() < RECEIVE_BUFFER
        && let Ok(n @ 1..) = socket.recv_slice(&mut buffer)
    {
        let bytes = buffer.get(..n).unwrap_or_default();
        match tls {
            Some(session) => session.receive(bytes, answer, RECEIVE_BUFFER)?,
            None => answer.extend_from_slice(bytes),
        }
    }
    match tls {
        Some(session) => session.transmit(|bytes| socket.send_slice(bytes).unwrap_or(0)),
        None => Ok(()),
    }
}

/// RFC 9112 section 4: `HTTP-version SP status-code SP [ reason-phrase ]`. 200 alone is healthy, as for Azure's load balancer.
fn judge_status_line(line: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(line);
    match text.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once(' ')) {
        Some((_, status)) => {
            let detail: String = status.chars().filter(|c| !c.is_control()).take(64).collect();
            (status.split(' ').next() == Some("200"), detail)
        }
        None => (false, "the answer is not HTTP".to_owned()),
    }
}

fn at(now: Nanos) -> Instant {
    Instant::from_micros(i64::try_from(now.0 / 1000).unwrap_or(i64::MAX))
}

/// Packets on their way between the stack and the container's port.
#[derive(Debug, Default)]
struct Link {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Link {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        (self.sent.len() < QUEUE).then_some(Outgoing(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ip;
        c.max_transmission_unit = 1500;
        // A container on this host leaves its checksums to be completed by a device that there is not.
        c.checksum.tcp = Checksum::Tx;
        c
    }
}

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_alone_is_healthy() {
        assert_eq!(judge_status_line(b"HTTP/1.1 200 OK"), (true, "200 OK".to_owned()));
        assert_eq!(judge_status_line(b"HTTP/1.0 200"), (true, "200".to_owned()));
        assert_eq!(
            judge_status_line(b"HTTP/1.1 503 Service Unavailable"),
            (false, "503 Service Unavailable".to_owned())
        );
        assert!(!judge_status_line(b"HTTP/1.1 2000 x").0);
        assert!(!judge_status_line(b"SSH-2.0-OpenSSH").0);
    }

    #[test]
    fn a_connection_begins_with_a_syn_from_the_probes_source() {
        for (dip, source) in [("10.0.0.2", IpAddr::V4(PROBE_V4)), ("fd00::2", IpAddr::V6(PROBE_V6))] {
            let mac = Mac([2, 0, 0, 0, 0, 7]);
            let mut stack = Stack::new(mac, 1, Nanos(0));
            stack.connect(dip.parse().unwrap(), 80).unwrap();
            stack.handle_timeout(Nanos(1000));
            let frame = stack.poll_frame().unwrap();
            let h = penstock_wire::parse(&frame).unwrap();
            assert_eq!((h.src.to_ip(), h.dst.to_ip(), h.dst_port), (source, dip.parse().unwrap(), 80));
            assert!(h.tcp_flags.opens());
            assert_eq!((&frame[..6], &frame[6..12]), (&mac.0[..], &ROUTER_MAC.0[..]));
        }
    }
}
