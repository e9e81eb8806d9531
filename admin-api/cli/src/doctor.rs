use crate::error::CliError;
use crate::output::{Output, Style, table};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// One thing that a node needs, whether it is there, and what to do if not.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    good: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'static str>,
}

/// Reads what the kernel says of itself; changes nothing. Code 1 if something is missing.
pub(crate) fn run(output: &Output) -> Result<ExitCode, CliError> {
    let findings = [kernel(), bpf_jit(), capabilities(), memory_lock(), interfaces()];
    let good = findings.iter().all(|f| f.good);
    if output.is_json() {
        output.value(&findings)?;
    } else {
        output.text(&render(&findings, output))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(findings: &[Finding], output: &Output) -> String {
    let rows = findings.iter().map(|f| {
        let mark = if f.good { output.paint(Style::Good, "ok") } else { output.paint(Style::Bad, "MISSING") };
        let advice = f.fix.filter(|_| !f.good).map_or_else(String::new, |fix| format!("-> {fix}"));
        vec![f.what.to_owned(), mark, f.found.clone(), advice]
    });
    table(output, &["CHECK", "", "FOUND", ""], rows)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// AF_XDP with need-wakeup and multi-buffer, `bpf_link` for XDP: all there in 6.1, which Debian 12 has.
fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Finding { what: "kernel", good: version >= (6, 1), found: release, fix: Some("install Linux 6.1 or later") }
}

fn bpf_jit() -> Finding {
    let value = read("/proc/sys/net/core/bpf_jit_enable");
    // A kernel that always compiles may have no such switch for this namespace.
    let good = value != "0";
    let found = if value.is_empty() { "no switch (always on)".to_owned() } else { value };
    Finding { what: "BPF compiler", good, found, fix: Some("sysctl -w net.core.bpf_jit_enable=1") }
}

/// The capabilities of a node with a data plane, by their numbers in linux/capability.h.
const NEEDED: [(&str, u32); 5] = [("NET_ADMIN", 12), ("NET_RAW", 13), ("IPC_LOCK", 14), ("PERFMON", 38), ("BPF", 39)];

fn capabilities() -> Finding {
    let status = read("/proc/self/status");
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or_default();
    let mask = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    let missing: Vec<&str> = NEEDED.iter().filter(|(_, bit)| mask & (1 << bit) == 0).map(|(name, _)| *name).collect();
    let found =
        if missing.is_empty() { "all that a node needs".to_owned() } else { format!("without {}", missing.join(", ")) };
    Finding {
        what: "capabilities",
        good: missing.is_empty(),
        found,
        fix: Some("run a node as root, or with these capabilities"),
    }
}

/// Packet memory counts against this limit only without `IPC_LOCK`.
fn memory_lock() -> Finding {
    let limits = read("/proc/self/limits");
    let line = limits.lines().find_map(|l| l.strip_prefix("Max locked memory")).unwrap_or_default();
    let soft = line.split_whitespace().next().unwrap_or("unknown").to_owned();
    let enough = soft == "unlimited" || soft.parse::<u64>().is_ok_and(|bytes| bytes >= 64 << 20);
    let good = enough || capabilities().good;
    Finding {
        what: "locked memory",
        good,
        found: soft,
        fix: Some("ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit"),
    }
}

/// The underlay must carry a container's 1500 bytes and 50 of VXLAN.
fn interfaces() -> Finding {
    let names = std::fs::read_dir("/sys/class/net").map(|d| d.flatten().map(|e| e.file_name()).collect::<Vec<_>>());
    let mut shown = Vec::new();
    for name in names.unwrap_or_default() {
        let name = name.to_string_lossy().into_owned();
        let directory = Path::new("/sys/class/net").join(&name);
        let file = |f: &str| read(&directory.join(f).display().to_string());
        if name != "lo" && file("operstate") == "up" {
            shown.push((name, file("mtu").parse::<u32>().unwrap_or(0)));
        }
    }
    shown.sort();
    let good = shown.iter().any(|(_, mtu)| *mtu >= 1550);
    let found = shown.iter().map(|(name, mtu)| format!("{name} MTU {mtu}")).collect::<Vec<_>>().join(", ");
    let found = if found.is_empty() { "no interface is up".to_owned() } else { found };
    Finding {
        what: "underlay MTU",
        good,
        found,
        fix: Some("give the underlay interface an MTU of 1600: ip link set DEV mtu 1600"),
    }
}
