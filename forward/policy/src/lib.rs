//! What may pass, and where does it go?
//!
//! Rules of a tenant as data ([`Acl`], [`TranslationRule`], [`Route`], [`VirtualNetwork`]: what a goal state says) and their compiled forms
//! ([`CompiledAcl`], [`CompiledNat`], [`CompiledNetwork`], [`Lpm`]: what packets are held against), used by host, gateway and `trace`
//! alike. It knows no flow state, no socket and no API.
//!
//! Order: a goal state arrives -> [`CompiledNetwork::compile`] and [`CompiledAcl::compile`], which refuse what is wrong
//! with the name of the field -> publish both together -> for the first packet of a flow
//! [`CompiledNetwork::lookup`] and [`CompiledAcl::decide`] (for `trace` [`CompiledAcl::evaluate`], which counts nothing); none of
//! them allocates or locks.
//!
//! | table | a lookup costs | memory |
//! | --- | --- | --- |
//! | [`CompiledAcl`] | a few cuts of a tree and the few rules that are left: 10,000 rules as 10 | see there: 50 to 200 bytes a rule |
//! | [`Lpm`] | one step for each 6 bits of the prefix | 45 to 64 bytes a route: a million in 64 MiB |
//! | [`RouteTable`] | the same, and a look at each subnet that has a table | an [`Lpm`] entry and the [`UserRoute`] for each route |
//! | [`CompiledNat`] | one [`Lpm`] lookup, and one among the port forwards | an [`Lpm`] entry a prefix, 100 bytes a rule |
//! | [`CompiledNetwork`] | one [`Lpm`] lookup | an [`Lpm`] entry and the [`Endpoint`] for each address |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod acl;
mod acl_journal;
mod bit_vectors;
mod bitmap;
mod classifier;
mod compiled_acl;
mod compiled_nat;
mod compiled_network;
mod cut_build;
mod cut_tree;
mod dimension;
mod error;
mod lpm;
mod nat;
mod overlay;
mod rule_box;
mod trie;
mod user_routes;

#[cfg(test)]
mod acl_tests;
#[cfg(test)]
mod lpm_tests;
#[cfg(test)]
mod nat_tests;
#[cfg(test)]
mod network_tests;

pub use acl::{Acl, AclAction, AclDirection, AclId, AclRule, PortRange};
pub use acl_journal::{AclJournal, AclNote};
pub use compiled_acl::{AclMatch, AclVerdict, CompiledAcl, MAX_RULES};
pub use compiled_nat::{CompiledNat, Inward, MAX_NAT_RULES, NatPool, Outward};
pub use compiled_network::{CompiledNetwork, Target, gateway_of};
pub use error::{PolicyError, Problem};
pub use lpm::Lpm;
pub use nat::{NatKind, TranslationRule};
pub use overlay::{Endpoint, NextHop, Route, VirtualNetwork};
pub use user_routes::{RouteTable, Sender, UserHop, UserRoute, Way};
