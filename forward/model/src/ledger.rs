use crate::DropReason;

/// What became of the packets that came in. Plain counters, one set a worker; no atomics.
///
/// Invariant: `received == transmitted + tunnelled + passed + consumed + sum(dropped)` once a batch has been processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// Packets that a driver handed to the engine.
    pub received: u64,
    pub received_bytes: u64,
    /// Packets that left by a port.
    pub transmitted: u64,
    pub transmitted_bytes: u64,
    /// Packets handed to a tunnel for encryption.
    pub tunnelled: u64,
    /// Packets given to the kernel's own stack.
    pub passed: u64,
    /// Packets that ended here because they were for this node (answered, kept, handed over).
    pub consumed: u64,
    /// Packets dropped, by reason.
    pub dropped: [u64; DropReason::COUNT],
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            received: 0,
            received_bytes: 0,
            transmitted: 0,
            transmitted_bytes: 0,
            tunnelled: 0,
            passed: 0,
            consumed: 0,
            dropped: [0; DropReason::COUNT],
        }
    }
}

impl Ledger {
    #[inline]
    pub fn count_drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    #[must_use]
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether every packet in has exactly one outcome.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.received == self.transmitted + self.tunnelled + self.passed + self.consumed + self.dropped_total()
    }

    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Ledger) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.transmitted += other.transmitted;
        self.transmitted_bytes += other.transmitted_bytes;
        self.tunnelled += other.tunnelled;
        self.passed += other.passed;
        self.consumed += other.consumed;
        for (mine, theirs) in self.dropped.iter_mut().zip(other.dropped) {
            *mine += theirs;
        }
    }
}

/// A ledger for reports and metrics: drops by name, zero counts left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LedgerReport {
    pub received: u64,
    pub received_bytes: u64,
    pub transmitted: u64,
    pub transmitted_bytes: u64,
    pub tunnelled: u64,
    pub passed: u64,
    pub consumed: u64,
    pub dropped: std::collections::BTreeMap<String, u64>,
}

impl From<&Ledger> for LedgerReport {
    fn from(l: &Ledger) -> Self {
        let dropped = DropReason::ALL
            .iter()
            .filter(|r| l.dropped_for(**r) > 0)
            .map(|r| (r.name().to_owned(), l.dropped_for(*r)))
            .collect();
        Self {
            received: l.received,
            received_bytes: l.received_bytes,
            transmitted: l.transmitted,
            transmitted_bytes: l.transmitted_bytes,
            tunnelled: l.tunnelled,
            passed: l.passed,
            consumed: l.consumed,
            dropped,
        }
    }
}
