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
    fn because(&mut self, layer: &'static str, text: impl FnOnce() -> String);
}

impl Why for () {
    #[inline]
    fn because(&mut self, _layer: &'static str, _text: impl FnOnce() -> String) {}
}

impl Why for Vec<Step> {
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
