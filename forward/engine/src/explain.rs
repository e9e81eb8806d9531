use penstock_model::{DropReason, PortId, TunnelId};
use serde::{Deserialize, Serialize};

/// One step of a decision: which layer, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `vip`, `slot`, `affinity`, `acl`, `nat`, `route`, `encapsulation`, ...
    pub layer: String,
    pub text: String,
}

/// Where decision code says why. The packet loop passes `()`, which costs nothing; `trace` passes a `Vec<Step>`.
/// So what is explained is what is done: there is one decision function.
pub trait Why {
    /// Whether what is decided is also done: only that is counted and logged.
    const DONE: bool;

    fn because(&mut self, layer: &'static str, text: impl FnOnce() -> String);
}

impl Why for () {
    const DONE: bool = true;

    #[inline]
    fn because(&mut self, _layer: &'static str, _text: impl FnOnce() -> String) {}
}

impl Why for Vec<Step> {
    const DONE: bool = false;

    fn because(&mut self, layer: &'static str, text: impl FnOnce() -> String) {
        self.push(Step { layer: layer.to_owned(), text: text() });
    }
}

/// How a node's part in a packet's way ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Transmit(PortId),
    Tunnel(TunnelId),
    Pass,
    Consumed,
    Drop(DropReason),
}

/// What one node decides for a packet, why, and the frame that leaves it (for a tunnel: the IP packet before encryption).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub steps: Vec<Step>,
    pub ending: Ending,
    pub frame: Vec<u8>,
}
