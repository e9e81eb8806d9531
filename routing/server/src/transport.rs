use penstock_routing_proto::{Ends, PeerGoal};
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection's bytes, whoever's TCP carries them.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection with a peer.
pub struct Stream {
    /// This end's address is the next hop of what the peer is told.
    pub ends: Ends,
    pub bytes: Box<dyn Duplex>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream(from {})", self.ends.local)
    }
}

/// How peers are reached: by the machine's own addresses, or by a TCP of somebody else's, inside a tunnel.
pub trait Transport: Send + 'static {
    /// A connection that a peer opened, before it is known which peer's it is.
    type Incoming: Send;

    /// These may connect from now on, and no others.
    fn follow(&mut self, peers: &[PeerGoal]);

    /// The next connection that a peer opens, and its address. May be dropped before it is ready, and loses nothing.
    fn accept(&mut self) -> impl Future<Output = (Self::Incoming, IpAddr)> + Send;

    /// # Errors
    /// Why the connection must not be used.
    fn take(&self, incoming: Self::Incoming, peer: &PeerGoal) -> io::Result<Stream>;

    /// # Errors
    /// In words, for status and log.
    fn connect(&self, peer: PeerGoal) -> impl Future<Output = io::Result<Stream>> + Send + 'static;

    /// About once a second: what did not work may work now.
    fn try_again(&mut self) {}

    /// What does not work.
    fn error(&self) -> Option<String> {
        None
    }
}
