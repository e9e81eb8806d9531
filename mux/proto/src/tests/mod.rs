mod fixture;

mod balance;
mod build;
mod chance;
mod explain;
mod express;
mod icmp;
mod limits;
mod snat;
mod transition;
mod twin;
