//! What do these bytes say, and how are they written?
//!
//! Bytes to typed headers and back: Ethernet, VLAN, ARP, IPv4 with options, IPv6 with extension headers, TCP, UDP, ICMP,
//! VXLAN, GRE, Geneve; internet checksums, full and incremental (RFC 1624); segmentation of frames that a sender left whole.
//! It knows no flow, policy or tenant. Nothing here can panic on any input.
//!
//! Order of use: [`parse`] gives [`Headers`] (offsets and the fields that decisions need, all bounds checked);
//! [`parse_vxlan`] or [`geneve`] goes on into the inner frame, [`parse_gre`] into the inner packet; [`rewrite`], [`icmp`], [`quote`] and
//! [`checksum`] change bytes in place; [`arp`] and [`nd`] read questions and write answers; [`gso`] and [`fragment`] cut;
//! [`build`] makes frames for tests and probes.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod arp;
pub mod build;
pub mod checksum;
#[cfg(test)]
mod damage;
pub mod ecn;
pub mod fragment;
mod fragment_id;
pub mod geneve;
mod glance;
pub mod gre;
pub mod gso;
mod headers;
pub mod icmp;
pub mod nd;
pub mod quote;
pub mod rewrite;
mod usual;
pub mod vxlan;

pub use fragment_id::fragment_id;
pub use glance::Glance;
pub use headers::{
    Fragment, Headers, TcpFlags, VXLAN_HEADER_LEN, VXLAN_PORT, ethertype, parse, parse_gre, parse_into, parse_ip,
    parse_vxlan,
};
