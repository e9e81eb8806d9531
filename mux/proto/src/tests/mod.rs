mod fixture;

mod balance;
mod build;
mod chance;
mod explain;
mod icmp;
mod snat;
mod transition;
mod twin;
