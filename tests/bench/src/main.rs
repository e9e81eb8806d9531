//! How fast is it? Suites of measurements, printed as a table or as one JSON object a line.
//!
//! | suite | measures |
//! | --- | --- |
//! | `core` | the forwarding core in memory, one core: no packet I/O |
//! | `veth` | packets in and out by a veth: the mux, a bare AF_XDP forwarder, the kernel, nftables |
//! | `kernel` | what the kernel forwards by itself: the mux's XDP program, one that only encapsulates, kernel forwarding, nftables |
//! | `host` | a container's bulk TCP by a virtual IP, against the same transfer that the kernel routes |
//! | `scale` | plan, goal and policy of a site with 10,000 virtual IPs, and of a change in it |
//! | `tunnel` | WireGuard through the gateway, against the cipher alone |
//!
//! A suite is a function that adds [`report::Row`]s; it is named in [`SUITES`]. What a row includes is said where it is made.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that cannot be set up ends")]

mod core;
mod host;
mod kernel;
mod report;
mod scale;
mod tunnel;
mod veth;

use report::Report;
use std::process::ExitCode;

type Suite = (&'static str, fn(&mut Report));

const SUITES: &[Suite] = &[
    ("core", core::run),
    ("veth", veth::run),
    ("kernel", kernel::run),
    ("host", host::run),
    ("tunnel", tunnel::run),
    ("scale", scale::run),
];

fn main() -> ExitCode {
    let mut json = false;
    let mut filter = None;
    let mut wanted = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => json = true,
            "--only" => filter = args.next(),
            "all" => wanted.extend(SUITES),
            name => match SUITES.iter().find(|(n, _)| *n == name) {
                Some(suite) => wanted.push(suite),
                None => return usage(),
            },
        }
    }
    if wanted.is_empty() {
        wanted.extend(SUITES);
    }
    let mut report = Report::new(json, filter);
    for (_, run) in wanted {
        run(&mut report);
    }
    report.finish();
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let names: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
    eprintln!("usage: penstock-bench [{}|all] [--json] [--only <part of a name>]", names.join("|"));
    ExitCode::from(2)
}
