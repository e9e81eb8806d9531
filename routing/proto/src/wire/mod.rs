//! Bytes of BGP-4: decoded without a panic on any input, encoded within the bounds of a message.
pub mod attributes;
pub mod message;
pub mod notification;
pub mod open;
pub(crate) mod reader;
pub mod update;
