//! What the kernel says of itself.
use super::{Finding, read};

pub(super) fn findings() -> Vec<Finding> {
    let mut all = vec![kernel(), bpf_jit(), types(), capabilities(), memory_lock()];
    all.extend(features());
    all
}

/// AF_XDP with need-wakeup and multi-buffer, `bpf_link` for XDP: all there in 6.1, which Debian 12 has.
fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Finding::new("kernel", version >= (6, 1), release, "install Linux 6.1 or later")
}

fn bpf_jit() -> Finding {
    let value = read("/proc/sys/net/core/bpf_jit_enable");
    // A kernel that always compiles may have no such switch for this namespace.
    let good = value != "0";
    let found = if value.is_empty() { "no switch (always on)".to_owned() } else { value };
    Finding::new("BPF compiler", good, found, "sysctl -w net.core.bpf_jit_enable=1")
}

/// Type information of the kernel: what BPF programs are fitted to it by.
fn types() -> Finding {
    let good = std::path::Path::new("/sys/kernel/btf/vmlinux").exists();
    let found = if good { "there" } else { "not there" };
    Finding::new("BPF types", good, found, "use a kernel with CONFIG_DEBUG_INFO_BTF")
}

/// Options that a node's data plane is built on.
const OPTIONS: &[(&str, &str)] = &[
    ("CONFIG_XDP_SOCKETS", "AF_XDP"),
    ("CONFIG_BPF_SYSCALL", "BPF"),
    ("CONFIG_PACKET", "AF_PACKET"),
    ("CONFIG_TUN", "TUN"),
    ("CONFIG_VETH", "veth"),
];

/// From the configuration that distributions put into /boot; without it nothing is said.
fn features() -> Option<Finding> {
    let release = read("/proc/sys/kernel/osrelease");
    let config = std::fs::read_to_string(format!("/boot/config-{release}")).ok()?;
    let set =
        |option: &str| config.lines().any(|l| l.strip_prefix(option).is_some_and(|rest| matches!(rest, "=y" | "=m")));
    let missing: Vec<&str> = OPTIONS.iter().filter(|(option, _)| !set(option)).map(|(option, _)| *option).collect();
    let found = match missing.is_empty() {
        true => OPTIONS.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", "),
        false => format!("without {}", missing.join(", ")),
    };
    Some(Finding::new("kernel options", missing.is_empty(), found, "use a kernel that has them"))
}

/// The capabilities of a node with a data plane, by their numbers in linux/capability.h.
const NEEDED: [(&str, u32); 5] = [("NET_ADMIN", 12), ("NET_RAW", 13), ("IPC_LOCK", 14), ("PERFMON", 38), ("BPF", 39)];

fn capabilities() -> Finding {
    let missing = missing_capabilities();
    let found =
        if missing.is_empty() { "all that a node needs".to_owned() } else { format!("without {}", missing.join(", ")) };
    Finding::new("capabilities", missing.is_empty(), found, "run a node as root, or with these capabilities")
}

fn missing_capabilities() -> Vec<&'static str> {
    let status = read("/proc/self/status");
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or_default();
    let mask = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    NEEDED.iter().filter(|(_, bit)| mask & (1 << bit) == 0).map(|(name, _)| *name).collect()
}

/// Packet memory counts against this limit only without `IPC_LOCK`.
fn memory_lock() -> Finding {
    let limits = read("/proc/self/limits");
    let line = limits.lines().find_map(|l| l.strip_prefix("Max locked memory")).unwrap_or_default();
    let soft = line.split_whitespace().next().unwrap_or("unknown").to_owned();
    let enough = soft == "unlimited" || soft.parse::<u64>().is_ok_and(|bytes| bytes >= 64 << 20);
    let good = enough || missing_capabilities().is_empty();
    Finding::new("locked memory", good, soft, "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit")
}
