use std::fmt;

/// What went wrong with a kernel program.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("kernel program \"{program}\": cannot {step}: {source}")]
    Object { program: &'static str, step: &'static str, source: libbpf_rs::Error },
    #[error("interface {ifindex}: cannot attach \"{program}\" natively ({native}) nor generically ({generic})")]
    Attach { program: &'static str, ifindex: u32, native: std::io::Error, generic: std::io::Error },
    #[error("cannot attach \"{program}\": {obstacle}")]
    Occupied { program: &'static str, obstacle: Obstacle },
    #[error("kernel program \"{program}\": {what} is missing from the object file")]
    Missing { program: &'static str, what: &'static str },
    #[error("{count} {what} are more than the kernel map holds ({limit})")]
    TooMany { what: &'static str, count: usize, limit: u32 },
    #[error("receive queue {0} is out of range: at most {max}", max = penstock_maps::QUEUES - 1)]
    Queue(u32),
    #[error("cannot {step}: {source}")]
    System { step: &'static str, source: std::io::Error },
}

/// What a node needs of its kernel: said where the kernel's answer does not say more.
const NEEDS: &str =
    "use Linux 6.1 or later, run as root or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and see that memory is left";

/// Why something is not done the best way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: String,
    /// What helps; nothing if it is as it should be.
    pub fix: Option<String>,
}

impl Obstacle {
    pub fn new(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { reason: reason.into(), fix: Some(fix.into()) }
    }

    /// It was chosen, or another way is better.
    pub fn wanted(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), fix: None }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fix {
            Some(fix) => write!(f, "{}: {fix}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl From<BpfError> for Obstacle {
    fn from(error: BpfError) -> Self {
        match error {
            BpfError::Occupied { obstacle, .. } => obstacle,
            other => Self::new(other.to_string(), NEEDS),
        }
    }
}
