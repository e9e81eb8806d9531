//! How does a program talk to the controller?
//!
//! The northbound REST interface over HTTPS with a client certificate: resources as JSON, one atomic batch, the stream of
//! changes, history, status, traffic and traces. It knows paths and errors, not what resources mean; [`penstock_admin_types`] does.
//!
//! Order of calls: [`Client::new`], then any. A refusal is [`ClientError::Refused`] with all that the controller found wrong.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod client;
mod error;
mod events;

pub use client::{Client, Manner, Settings};
pub use error::{ClientError, Refusal};
pub use events::{Event, Events};
