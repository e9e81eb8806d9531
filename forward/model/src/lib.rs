//! What do packets, tenants and decisions mean, in words that every product shares?
//!
//! The floor of the forwarding core: typed ids and addresses, the key of a flow, the reasons for which a packet
//! ends, coarse time, and the [`Packet`] that drivers hand to the engine. It knows no header layout
//! (`penstock-wire`), no policy and no socket.
//!
//! | type | is |
//! | --- | --- |
//! | [`TenantId`], [`Vni`], [`PortId`], ... | ids that cannot be swapped by accident |
//! | [`Underlay`], [`Overlay`] | an address with the space that it belongs to |
//! | [`FlowKey`] | 40 bytes that identify a flow within one tenant |
//! | [`DropReason`] | every way in which a packet can end without being forwarded |
//! | [`Packet`], [`Verdict`] | one frame in its buffer with headroom, and what was decided for it |
//! | [`Fallback`] | which slower way an interface's packets go, why, and what helps |
//! | [`Ledger`] | counts of outcomes; outcomes sum to packets in |
#![forbid(unsafe_code)]

mod addr;
mod drop_reason;
mod fallback;
mod flow_key;
mod ids;
mod ledger;
mod packet;
mod time;

pub use addr::{Addr16, Dip, Mac, MacError, Overlay, Underlay, is_host};
pub use drop_reason::DropReason;
pub use fallback::Fallback;
pub use flow_key::{FlowKey, Protocol};
pub use ids::{BackendId, EncapId, Epoch, IdError, PoolId, PortId, Revision, ServiceId, TenantId, TunnelId, Vni};
pub use ledger::{Ledger, LedgerReport};
pub use packet::{BATCH, Gso, HEADROOM, Offload, Packet, Verdict};
pub use time::{Coarse, Nanos};
