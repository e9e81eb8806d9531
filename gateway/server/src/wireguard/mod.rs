//! WireGuard: which tunnel is a datagram for, and what does it become?
//!
//! [`table::TunnelTable`] finds the tunnel (by receiver index, or for an initiation by the peer's key), [`tunnel::WgTunnel`]
//! drives one `boringtun` `Tunn`. No sockets: datagrams come in by `handle_datagram`, packets by `encrypt`; what is made lies in
//! `inward` (decrypted packets for the engine) and `outward` (finished frames). Timers: `handle_timeout`.
//! The one impurity is `boringtun`'s, which reads the clock itself.
mod buffers;
mod limits;
mod outer;
mod sources;
mod table;
mod tunnel;

#[cfg(test)]
mod tests;

pub(crate) use buffers::Frames;
pub(crate) use table::{HopOf, TunnelTable};
