//! What the worker has done, copied out of it a few times a second.
use penstock_engine::Counter;
use penstock_gateway_proto::{Direction, GatewayStatus, TunnelState, TunnelStatus};
use penstock_model::{DropReason, Ledger, LedgerReport, Revision, TunnelId};
use penstock_packet_io::IoStats;
use std::sync::{Arc, Mutex, PoisonError};

/// Why packets that the engine gave to a tunnel did not leave.
#[derive(Debug, Clone)]
pub(crate) struct TunnelDrops([u64; DropReason::COUNT]);

impl Default for TunnelDrops {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl TunnelDrops {
    pub(crate) fn count(&mut self, reason: DropReason) {
        if let Some(n) = self.0.get_mut(reason as usize) {
            *n += 1;
        }
    }

    /// The engine's ledger with these packets booked as what they became.
    pub(crate) fn applied_to(&self, ledger: &Ledger) -> Ledger {
        let mut ledger = ledger.clone();
        for (total, more) in ledger.dropped.iter_mut().zip(self.0) {
            *total += more;
            ledger.tunnelled -= more;
        }
        ledger
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) ledger: Ledger,
    pub(crate) flows: u64,
    pub(crate) resolved: u64,
    /// Of translated addresses.
    pub(crate) mappings: u64,
    /// Two a tunnel: from it and to it.
    pub(crate) counters: Vec<Counter>,
    pub(crate) tunnels: Vec<TunnelStatus>,
    /// Packets that were refused because a tunnel was faster than its cap.
    pub(crate) capped: Vec<(Arc<str>, Direction, u64)>,
    pub(crate) io: IoStats,
}

/// The newest snapshot; the worker holds the lock for a copy, ten times a second.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<Snapshot>);

impl Shared {
    pub(crate) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn get(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Snapshot {
    pub(crate) fn status(
        &self,
        applied: Revision,
        interface: &str,
        mode: &str,
        goal_error: Option<String>,
    ) -> GatewayStatus {
        GatewayStatus {
            applied,
            packet_io: vec![format!("{interface}: {mode}")],
            fallbacks: Vec::new(),
            ledger: LedgerReport::from(&self.ledger),
            flows: self.flows,
            tunnels: self.tunnels.clone(),
            routers: Vec::new(),
            goal_error,
        }
    }

    /// What is reported at once when it changes.
    pub(crate) fn states(&self) -> Vec<(TunnelId, TunnelState)> {
        self.tunnels.iter().map(|t| (t.id, t.state)).collect()
    }
}
