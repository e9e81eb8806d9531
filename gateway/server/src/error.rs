use std::io;

/// Why a gateway cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no interface \"{0}\"")]
    NoInterface(String),
    #[error("the interface \"{0}\" was removed")]
    InterfaceGone(String),
    #[error("cannot open \"{interface}\" by {mode}: {obstacle}")]
    Open { interface: String, mode: &'static str, obstacle: penstock_bpf::Obstacle },
    #[error("cannot tell the kernel which packets are the gateway's: {0}")]
    Steering(#[from] penstock_bpf::BpfError),
    #[error(transparent)]
    Underlay(#[from] penstock_netlink::Error),
    #[error("cannot read random bytes: {0}")]
    Random(io::Error),
    #[error("cannot start the worker: {0}")]
    Thread(io::Error),
    #[error("the worker has ended: {0}")]
    Worker(String),
}
