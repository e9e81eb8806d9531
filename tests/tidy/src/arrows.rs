//! The floors of the architecture as a table: an arrow that is not here does not exist.

/// What a crate may depend on. Crates are named by their folder; `forward/*` stands for all crates of that folder.
#[derive(Debug, Clone, Copy)]
pub struct Arrows {
    pub from: &'static str,
    pub to: &'static [&'static str],
}

/// Every crate of the workspace, bottom up.
pub const ARROWS: &[Arrows] = &[
    // Floor 1, pure: bytes, flows, decisions.
    Arrows { from: "forward/model", to: &[] },
    Arrows { from: "forward/maps", to: &[] },
    Arrows { from: "forward/wire", to: &["forward/model"] },
    Arrows { from: "forward/flow", to: &["forward/model"] },
    Arrows { from: "forward/spread", to: &["forward/model"] },
    Arrows { from: "forward/policy", to: &["forward/model", "forward/wire"] },
    Arrows { from: "forward/engine", to: &["forward/model", "forward/wire", "forward/flow"] },
    // Floor 1, effects: each door its own small crate. They know what a packet is, nothing of what is done with it.
    Arrows { from: "platform/clock", to: &["forward/model"] },
    Arrows { from: "platform/packet-io", to: &["forward/model"] },
    Arrows { from: "platform/netlink", to: &["forward/model"] },
    Arrows { from: "platform/telemetry", to: &["forward/model"] },
    Arrows { from: "platform/bpf", to: &["forward/maps"] },
    // Floor 2: products. No product knows another. `proto` (and `slb/host`) say what should happen, `server` makes it
    // happen and is the only room that joins them with the platform.
    // Routing is below the other three: each may have neighbours that it exchanges routes with.
    Arrows { from: "routing/proto", to: &["forward/model"] },
    Arrows { from: "routing/server", to: &["forward/model", "platform/*", "routing/proto"] },
    Arrows { from: "slb/proto", to: &["forward/*"] },
    Arrows { from: "slb/host", to: &["forward/*"] },
    Arrows { from: "slb/server", to: &["forward/*", "platform/*", "slb/proto", "slb/host"] },
    Arrows { from: "mux/proto", to: &["forward/*", "routing/proto"] },
    Arrows { from: "mux/server", to: &["forward/*", "platform/*", "routing/*", "mux/proto"] },
    Arrows { from: "gateway/proto", to: &["forward/*", "routing/proto"] },
    Arrows { from: "gateway/server", to: &["forward/*", "platform/*", "routing/*", "gateway/proto"] },
    // Floor 3: what operators say. Goal states live with the pure crates that consume them, so the controller and the
    // way to the nodes know those, and no server.
    Arrows { from: "admin-api/types", to: &["forward/model", "forward/policy"] },
    Arrows { from: "admin-api/store", to: &[] },
    Arrows { from: "admin-api/southbound", to: &["forward/model", "slb/host", "mux/proto", "gateway/proto"] },
    Arrows {
        from: "admin-api/server",
        to: &[
            "forward/*",
            "routing/proto",
            "slb/proto",
            "slb/host",
            "mux/proto",
            "gateway/proto",
            "platform/clock",
            "platform/telemetry",
            "admin-api/types",
            "admin-api/store",
            "admin-api/southbound",
        ],
    },
    Arrows { from: "admin-api/client", to: &["admin-api/types", "admin-api/southbound"] },
    Arrows {
        from: "admin-api/cli",
        to: &["forward/model", "platform/bpf", "admin-api/types", "admin-api/client", "admin-api/southbound"],
    },
    // Floor 4: wires, and nothing else.
    Arrows {
        from: "deploy/penstock",
        to: &[
            "forward/model",
            "platform/*",
            "slb/server",
            "mux/server",
            "gateway/server",
            "admin-api/server",
            "admin-api/cli",
            "admin-api/southbound",
        ],
    },
    // Tests may look at everything; nothing looks at them.
    Arrows { from: "tests/lab", to: ANYTHING },
    Arrows { from: "tests/bench", to: ANYTHING },
    Arrows { from: "tests/sim", to: ANYTHING },
    Arrows { from: "tests/tidy", to: &[] },
];

const ANYTHING: &[&str] = &["forward/*", "platform/*", "routing/*", "slb/*", "mux/*", "gateway/*", "admin-api/*"];

/// What tests inside a crate may use beyond its arrows: the whole of floor 1, which has no products in it.
pub const ALSO_IN_TESTS: &[&str] = &["forward/*", "platform/*"];

/// Crates that decide and must not be able to act: their dependencies, to the last, contain nothing of [`EFFECTS`].
pub const PURE: &[&str] = &[
    "forward/model",
    "forward/maps",
    "forward/wire",
    "forward/flow",
    "forward/spread",
    "forward/policy",
    "forward/engine",
    "routing/proto",
    "slb/proto",
    "slb/host",
    "mux/proto",
    "gateway/proto",
];

/// Crates that wait, open sockets, read clocks or roll dice.
pub const EFFECTS: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "polling",
    "async-io",
    "async-std",
    "smol",
    "hyper",
    "quinn",
    "quinn-udp",
    "reqwest",
    "nix",
    "rustix",
    "libc",
    "signal-hook",
    "netlink-sys",
    "rtnetlink",
    "libbpf-rs",
    "getrandom",
    "rand",
    "chrono",
    "time",
];

/// Whether `pattern` (a folder, or `folder/*`) names the crate in `folder`.
#[must_use]
pub fn names(pattern: &str, folder: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(parent) => folder.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/')),
        None => pattern == folder,
    }
}

/// The arrows of the crate in `folder`.
#[must_use]
pub fn of(folder: &str) -> Option<&'static Arrows> {
    ARROWS.iter().find(|arrows| arrows.from == folder)
}

/// Whether the crate in `from` may depend on the one in `to`.
#[must_use]
pub fn allowed(from: &str, to: &str, in_tests: bool) -> bool {
    let listed = of(from).is_some_and(|arrows| arrows.to.iter().any(|pattern| names(pattern, to)));
    listed || (in_tests && ALSO_IN_TESTS.iter().any(|pattern| names(pattern, to)))
}
