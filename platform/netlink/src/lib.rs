//! Where does a packet go on the provider network, by the kernel's own tables?
//!
//! [`Watcher`] reads links, routes and neighbours of the network namespace that it was started in, follows their changes, and
//! hands out immutable [`UnderlayView`]s. It decides nothing and knows no tenant.
//!
//! Order of calls: [`Watcher::start`]; [`Watcher::subscribe`]; [`Watcher::solicit`] for each destination that packets will be
//! sent to; look next hops up in the newest view.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod dump;
mod view;
mod watcher;

pub use view::{Link, NextHop, UnderlayView};
pub use watcher::{Error, Watcher, next_view};
