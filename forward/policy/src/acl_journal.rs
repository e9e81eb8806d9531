use crate::{AclAction, AclDirection};
use penstock_model::{FlowKey, Protocol};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Notes that wait to be read; what comes beyond them is counted only.
const WAITING: usize = 1024;

/// What a rule that asks for it has decided, for the log.
#[derive(Debug, Clone)]
pub struct AclNote {
    pub network: Arc<str>,
    pub list: Arc<str>,
    pub rule: Arc<str>,
    pub direction: AclDirection,
    pub action: AclAction,
    /// In the direction of its first packet.
    pub flow: FlowKey,
}

impl fmt::Display for AclNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, list, rule, flow, .. } = self;
        let verb = match self.action {
            AclAction::Allow => "allows",
            AclAction::Deny => "denies",
        };
        let direction = match self.direction {
            AclDirection::Inbound => "inbound",
            AclDirection::Outbound => "outbound",
        };
        write!(f, "rule {rule:?} of list {list:?} {verb} {direction} in network {network:?}: {} ", flow.protocol())?;
        if matches!(flow.protocol(), Protocol::ICMP | Protocol::ICMPV6) {
            return write!(f, "{} -> {}", flow.src.to_ip(), flow.dst.to_ip());
        }
        let end = |addr: penstock_model::Addr16, port| SocketAddr::new(addr.to_ip(), port);
        write!(f, "{} -> {}", end(flow.src, flow.src_port), end(flow.dst, flow.dst_port))
    }
}

/// Where workers leave notes, and somebody who may write a log takes them: bounded, without a lock to wait for.
#[derive(Debug, Clone)]
pub struct AclJournal {
    sender: SyncSender<AclNote>,
    lost: Arc<AtomicU64>,
}

impl AclJournal {
    #[must_use]
    pub fn new() -> (Self, Receiver<AclNote>) {
        let (sender, receiver) = sync_channel(WAITING);
        (Self { sender, lost: Arc::default() }, receiver)
    }

    pub(crate) fn write(&self, note: AclNote) {
        if self.sender.try_send(note).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
