/// What went wrong with a kernel program.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("kernel program \"{program}\": cannot {step}: {source}")]
    Object { program: &'static str, step: &'static str, source: libbpf_rs::Error },
    #[error("interface {ifindex}: cannot attach \"{program}\" natively ({native}) nor generically ({generic})")]
    Attach { program: &'static str, ifindex: u32, native: std::io::Error, generic: std::io::Error },
    #[error("kernel program \"{program}\": {what} is missing from the object file")]
    Missing { program: &'static str, what: &'static str },
    #[error("{count} {what} are more than the kernel map holds ({limit})")]
    TooMany { what: &'static str, count: usize, limit: u32 },
    #[error("receive queue {0} is out of range: at most {max}", max = penstock_maps::QUEUES - 1)]
    Queue(u32),
    #[error("cannot {step}: {source}")]
    System { step: &'static str, source: std::io::Error },
}
