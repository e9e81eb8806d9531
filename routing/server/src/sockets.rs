//! The kernel's TCP: listeners, keys and hops.
use crate::transport::{Stream, Transport};
use penstock_packet_io::{set_least_ttl, set_tcp_md5_key};
use penstock_routing_proto::{Ends, PeerGoal};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::task::Poll;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const BGP_PORT: u16 = 179;
const BACKLOG: i32 = 64;

/// Sessions by the machine's own addresses.
#[derive(Debug)]
pub(crate) struct KernelTcp {
    wanted: Vec<SocketAddr>,
    listeners: Vec<TcpListener>,
    /// Addresses that are not listened on, and why.
    deaf: BTreeMap<SocketAddr, String>,
    peers: Vec<PeerGoal>,
}

impl KernelTcp {
    pub(crate) fn new(listen: Vec<SocketAddr>) -> Self {
        Self { wanted: listen, listeners: Vec::new(), deaf: BTreeMap::new(), peers: Vec::new() }
    }

    /// A node without peers has no port open.
    fn listen(&mut self) {
        if self.peers.is_empty() {
            self.listeners.clear();
            self.deaf.clear();
            return;
        }
        for address in &self.wanted {
            if self.listeners.iter().any(|l| l.local_addr().is_ok_and(|a| a.ip() == address.ip())) {
                continue;
            }
            match listen(*address) {
                Ok(listener) => {
                    self.listeners.push(listener);
                    self.deaf.remove(address);
                }
                Err(error) => {
                    if !self.deaf.contains_key(address) {
                        tracing::error!(%address, %error, "no peer can connect here; peers are connected to");
                    }
                    self.deaf.insert(*address, format!("cannot listen on {address}: {error}"));
                }
            }
        }
    }
}

impl Transport for KernelTcp {
    type Incoming = TcpStream;

    fn follow(&mut self, peers: &[PeerGoal]) {
        let before = std::mem::replace(&mut self.peers, peers.to_vec());
        self.listen();
        set_keys(&self.listeners, &self.peers, &before);
    }

    fn try_again(&mut self) {
        if !self.deaf.is_empty() {
            self.listen();
            set_keys(&self.listeners, &self.peers, &[]);
        }
    }

    fn error(&self) -> Option<String> {
        self.deaf.values().next().cloned()
    }

    /// The next connection to any of the listeners.
    async fn accept(&mut self) -> (TcpStream, IpAddr) {
        std::future::poll_fn(|context| {
            for listener in &self.listeners {
                if let Poll::Ready(Ok((stream, from))) = listener.poll_accept(context) {
                    return Poll::Ready((stream, from.ip().to_canonical()));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn take(&self, incoming: TcpStream, peer: &PeerGoal) -> io::Result<Stream> {
        accepted(&incoming, peer)?;
        stream(incoming)
    }

    fn connect(&self, peer: PeerGoal) -> impl Future<Output = io::Result<Stream>> + Send + 'static {
        connected(peer)
    }
}

async fn connected(peer: PeerGoal) -> io::Result<Stream> {
    stream(connect(peer).await?)
}

fn stream(tcp: TcpStream) -> io::Result<Stream> {
    let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let ends = Ends { local: plain(tcp.local_addr()?), remote: plain(tcp.peer_addr()?) };
    Ok(Stream { ends, bytes: Box::new(tcp) })
}

/// # Errors
/// The address or port is not there to be had.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Keys of the peers that may connect; those of peers that no longer have one are taken away.
pub(crate) fn set_keys(listeners: &[TcpListener], peers: &[PeerGoal], before: &[PeerGoal]) {
    let key = |list: &[PeerGoal], address: IpAddr| {
        list.iter().find(|p| p.address == address).and_then(|p| p.md5_key.as_ref()).map(|k| k.0.clone())
    };
    let gone = before.iter().filter(|p| p.md5_key.is_some() && key(peers, p.address).is_none());
    let wanted = peers.iter().filter(|p| p.md5_key.is_some());
    for peer in gone.chain(wanted) {
        let secret = key(peers, peer.address).unwrap_or_default();
        for listener in listeners {
            let same_family = listener.local_addr().is_ok_and(|a| a.is_ipv4() == peer.address.is_ipv4());
            if same_family && let Err(error) = set_tcp_md5_key(listener.as_fd(), peer.address, secret.as_bytes()) {
                tracing::warn!(peer = %peer.name, %error, "the peer's TCP-MD5 key cannot be set for its connections");
            }
        }
    }
}

/// # Errors
/// In words, for status and log.
pub(crate) async fn connect(peer: PeerGoal) -> io::Result<TcpStream> {
    let to = SocketAddr::new(peer.address, peer.port.unwrap_or(BGP_PORT));
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(local) = peer.local_address {
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    if let Some(key) = &peer.md5_key {
        set_tcp_md5_key(socket.as_fd(), peer.address, key.0.as_bytes())?;
    }
    bound_hops(&socket, &peer)?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// # Errors
/// The kernel's.
pub(crate) fn accepted(stream: &TcpStream, peer: &PeerGoal) -> io::Result<()> {
    // The listener may not have had the key when the peer connected, or not have taken it: nothing unsigned is heard from here on,
    // and without a key the connection is not used.
    if let Some(key) = &peer.md5_key {
        set_tcp_md5_key(stream.as_fd(), peer.address, key.0.as_bytes())?;
    }
    stream.set_nodelay(true)?;
    bound_hops(&socket2::SockRef::from(stream), peer)
}

/// Own packets leave with the largest TTL, so that the other side can ask the same of them.
fn bound_hops(socket: &Socket, peer: &PeerGoal) -> io::Result<()> {
    let Some(hops) = peer.hops else { return Ok(()) };
    let ipv4 = peer.address.is_ipv4();
    if ipv4 {
        socket.set_ttl_v4(255)?
    } else {
        socket.set_unicast_hops_v6(255)?
    }
    set_least_ttl(socket.as_fd(), ipv4, 255 - hops.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_routing_proto::SecretText;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What is heard of an unsigned connection that a listener without a key took, once it is the peer's.
    async fn heard(key: Option<&str>) -> Option<usize> {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, from) = listener.accept().await.unwrap();
        let md5_key = key.map(|k| SecretText(k.to_owned()));
        let peer = PeerGoal { md5_key, ..PeerGoal::new("far", from.ip(), 65001) };
        accepted(&stream, &peer).unwrap();
        far.write_all(b"unsigned").await.unwrap();
        let mut buffer = [0; 16];
        let read = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut buffer)).await;
        read.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn a_peer_with_a_key_is_not_heard_unsigned_whatever_the_listener_took() {
        assert_eq!((heard(None).await, heard(Some("secret")).await), (Some(8), None));
    }

    #[tokio::test]
    async fn a_connection_that_takes_no_key_is_not_used() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let _far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let too_long = Some(SecretText("k".repeat(81)));
        let peer = PeerGoal { md5_key: too_long, ..PeerGoal::new("far", from.ip(), 65001) };
        assert!(accepted(&stream, &peer).is_err());
    }
}
