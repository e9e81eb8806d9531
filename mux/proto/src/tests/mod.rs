mod fixture;

mod balance;
mod build;
mod explain;
mod icmp;
mod transition;
mod twin;
