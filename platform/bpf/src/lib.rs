//! penstock-bpf
