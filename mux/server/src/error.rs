use penstock_bpf::Obstacle;
use std::io;

/// Why a mux cannot run, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("mux interface \"{0}\" does not exist")]
    NoInterface(String),
    #[error("mux interface \"{0}\" was removed")]
    InterfaceGone(String),
    #[error("cannot open {interface} for packets by {mode}: {obstacle}")]
    Open { interface: String, mode: &'static str, obstacle: Obstacle },
    #[error("the underlay cannot be watched: {0}")]
    Netlink(#[from] penstock_netlink::Error),
    #[error("the steering program refused the virtual IPs: {0}")]
    Steering(String),
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
    #[error("no random secret could be drawn: {0}")]
    Random(io::Error),
    #[error("the BGP router ended: {0}")]
    Router(String),
    #[error("worker {worker} ended: {reason}")]
    Worker { worker: usize, reason: String },
}
