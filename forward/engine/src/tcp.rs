use penstock_model::Protocol;
use penstock_wire::{Headers, TcpFlags};

/// How long each stage of a TCP connection is remembered without packets, in seconds.
///
/// RFC 5382 section 5 asks of NATs 2 h 4 min for established connections and 4 min for others, as a NAT that forgets breaks the
/// connection. The products here decide again what they forget, so these are shorter, and a closed connection makes room.
/// The two times of a half closed connection differ, as they tell who has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpIdle {
    /// SYNs alone have been seen in the direction that opens.
    pub opening: u16,
    pub established: u16,
    /// The direction that has sent FIN.
    pub half_closed: u16,
    /// The direction that has not sent FIN while the other has.
    pub peer_closed: u16,
    /// Both have sent FIN, or one RST.
    pub closed: u16,
}

impl TcpIdle {
    pub const DEFAULT: Self = Self { opening: 30, established: 1800, half_closed: 60, peer_closed: 90, closed: 10 };

    /// Of an entry that is made by a packet.
    pub(crate) fn first(&self, h: &Headers, others: u16) -> u16 {
        match Turn::of(h) {
            Some(Turn::Opens) => self.opening.min(others),
            Some(Turn::Fin) => self.half_closed.min(others),
            Some(Turn::Reset) => self.closed.min(others),
            None => others,
        }
    }
}

/// Flags that take a connection from one stage to the next.
pub(crate) const TURNS: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST;

/// What a segment does to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// SYN without ACK.
    Opens,
    Fin,
    Reset,
}

impl Turn {
    pub(crate) fn of(h: &Headers) -> Option<Self> {
        let flags = h.tcp_flags;
        if h.protocol != Protocol::TCP {
            None
        } else if flags.has(TcpFlags::RST) {
            Some(Self::Reset)
        } else if flags.has(TcpFlags::FIN) {
            Some(Self::Fin)
        } else {
            flags.opens().then_some(Self::Opens)
        }
    }
}
