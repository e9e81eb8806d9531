use quinn::{IdleTimeout, TransportConfig, VarInt};
use std::sync::Arc;
use std::time::Duration;

/// How often a silent connection is probed, and after which silence it counts as lost: four probes fit, and the
/// controller notices a dead node within this time.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const IDLE_MS: u32 = 5_000;

/// Why a connection was closed, as QUIC application error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The process ends.
    Shutdown = 0,
    /// The certificate does not grant the role that was asked for.
    WrongRole = 1,
    /// What the peer sent could not be understood.
    Protocol = 2,
    /// The same node has connected again.
    Replaced = 3,
    /// Another controller leads.
    NotLeader = 4,
}

impl CloseCode {
    pub(crate) fn close(self, connection: &quinn::Connection, reason: &str) {
        connection.close(VarInt::from_u32(self as u32), reason.as_bytes());
    }
}

/// One bidirectional stream a connection, opened by the node; nothing else.
pub(crate) fn transport(bidirectional: u32) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(bidirectional))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    Arc::new(transport)
}
