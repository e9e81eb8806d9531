use serde::{Deserialize, Serialize};

/// Where a node forwards an interface's packets by a slower way than the best, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fallback {
    pub interface: String,
    /// What is missing: `AF_XDP`, `native XDP`, `kernel replay`.
    pub without: String,
    pub reason: String,
    pub fix: String,
}
