//! What the flags of TCP do to the flow table.

use crate::toy::{Toy, send};
use penstock_engine::Port;
use penstock_flow::Transposition;
use penstock_model::{DropReason, Nanos, PortId};
use penstock_wire::TcpFlags;
use penstock_wire::build::FrameBuilder;

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;

fn there(flags: u8) -> Vec<u8> {
    FrameBuilder::tcp("192.0.2.1:1000", "198.51.100.1:80").flags(flags).build()
}

fn back(flags: u8) -> Vec<u8> {
    FrameBuilder::tcp("198.51.100.1:80", "192.0.2.1:1000").flags(flags).build()
}

fn port() -> Port<Toy> {
    let mut toy =
        Toy::new().rule(80, Transposition::to_port(PortId(2))).rule(81, Transposition::drop(DropReason::AclDenied));
    toy.with_peer = true;
    toy.port()
}

/// Flows that are left `seconds` after second 1.
fn left_after(port: &mut Port<Toy>, seconds: u64) -> usize {
    for _ in 0..100 {
        port.maintain(Nanos::from_secs(1 + seconds));
    }
    port.flows()
}

#[test]
fn answers_and_syns_alone_establish_nothing() {
    let mut port = port();
    for frame in [there(SYN), back(SYN | ACK), back(SYN | ACK), there(SYN), back(ACK)] {
        send(&mut port, &frame, 1);
    }
    assert_eq!((port.flows(), port.flow_table().established()), (2, 0));
    send(&mut port, &there(ACK), 1);
    assert_eq!(port.flow_table().established(), 2);
}

#[test]
fn a_denied_flow_is_never_established() {
    let mut port = port();
    for _ in 0..5 {
        send(&mut port, &FrameBuilder::udp("192.0.2.1:1", "192.0.2.2:81").build(), 1);
    }
    assert_eq!((port.flow_table().established(), port.resolved()), (0, 1));
}

#[test]
fn a_connection_that_only_began_is_forgotten_first_and_an_established_one_last() {
    let mut port = port();
    send(&mut port, &there(SYN), 1);
    assert_eq!((left_after(&mut port, 29), left_after(&mut port, 60)), (2, 0));
    send(&mut port, &there(SYN), 1);
    send(&mut port, &there(ACK), 1);
    assert_eq!(left_after(&mut port, 1700), 2);
}

#[test]
fn a_reset_of_either_side_ends_both_directions() {
    for reset in [there(TcpFlags::RST), back(TcpFlags::RST | ACK)] {
        let mut port = port();
        for frame in [there(SYN), back(SYN | ACK), there(ACK), reset] {
            send(&mut port, &frame, 1);
        }
        assert_eq!((left_after(&mut port, 9), left_after(&mut port, 20)), (2, 0));
    }
}
