/// Why a host agent does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration: {0}")]
    Config(String),
    #[error("the underlay interface \"{0}\" (host.underlay_interface) does not exist")]
    NoUnderlay(String),
    #[error("cannot follow the kernel's tables: {0}")]
    Netlink(#[from] penstock_netlink::Error),
    #[error(transparent)]
    PacketIo(#[from] penstock_packet_io::AfPacketError),
    #[error(transparent)]
    Bpf(#[from] penstock_bpf::BpfError),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
    #[error("the packet worker has stopped: {0}")]
    Worker(String),
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
