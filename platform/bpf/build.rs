//! Compiles the kernel programs with clang. `CLANG` names another compiler than `clang-19` or `clang`.
use libbpf_cargo::SkeletonBuilder;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 6] = ["steer", "mux", "host", "gen", "sink", "measure"];
const HEADERS: &str = "../../forward/maps/include";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let clang = clang()?;
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-changed={HEADERS}");
    println!("cargo:rerun-if-changed=src/bpf");
    for program in PROGRAMS {
        SkeletonBuilder::new()
            .source(Path::new("src/bpf").join(format!("{program}.bpf.c")))
            .obj(out.join(format!("{program}.bpf.o")))
            .clang(&clang)
            .clang_args(["-I/usr/include/x86_64-linux-gnu", "-I", HEADERS, "-Wall", "-Werror", "-mcpu=v3"])
            .build()
            .map_err(|e| format!("{program}.bpf.c: {e:?}"))?;
    }
    Ok(())
}

fn clang() -> Result<String, String> {
    let named = std::env::var("CLANG").ok();
    let candidates = named.iter().map(String::as_str).chain(["clang-19", "clang"]);
    for candidate in candidates {
        if Command::new(candidate).arg("--version").output().is_ok_and(|o| o.status.success()) {
            return Ok(candidate.to_owned());
        }
    }
    Err("no BPF compiler found: install clang-19 (Debian) or set CLANG".to_owned())
}
