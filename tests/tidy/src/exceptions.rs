//! Files that may do what others may not. The reason is part of the entry; an entry that nothing needs is an offence.

/// One file or folder and why it is excepted.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    pub path: &'static str,
    pub reason: &'static str,
}

/// May read the machine's clock. Everything else takes time as an argument.
pub const CLOCK: &[Exception] = &[
    Exception { path: "platform/clock", reason: "the one door to the clock" },
    Exception { path: "admin-api/cli/src/pki.rs", reason: "certificates begin at the time of day when they are made" },
    Exception { path: "admin-api/cli/src/doctor/trust.rs", reason: "certificates end at a time of day" },
    Exception { path: "admin-api/cli/src/drain.rs", reason: "a deadline is a time of day" },
    Exception {
        path: "admin-api/southbound/src/node.rs",
        reason: "how long a link to the controller has lasted, by tokio's clock, which tests can stop",
    },
];

/// Crates that may contain `unsafe`, each block with its reason (`clippy::undocumented_unsafe_blocks`).
pub const UNSAFE: &[Exception] = &[
    Exception { path: "platform/packet-io", reason: "rings shared with the kernel, raw sockets, virtio-net headers" },
    Exception { path: "platform/bpf", reason: "loads programs and maps through libbpf" },
    Exception { path: "forward/flow", reason: "prefetch.rs: a prefetch instruction has no safe form; measured" },
];

/// Longer than [`MAX_LINES`] without tests.
pub const LONG: &[Exception] = &[];

/// Lines of a source file, tests not counted.
pub const MAX_LINES: usize = 600;

/// The exception that covers `path`.
#[must_use]
pub fn covering(list: &'static [Exception], path: &str) -> Option<&'static Exception> {
    list.iter().find(|e| path.strip_prefix(e.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}
