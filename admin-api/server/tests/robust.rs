//! A controller that cannot do its work says so, and clients without a certificate do nothing to it that lasts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::Lab;
use penstock_admin_server::run;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// More than the controller serves at once.
const IDLE: usize = 300;

#[tokio::test]
async fn idle_connections_without_a_handshake_do_not_hold_up_the_end() {
    let mut lab = Lab::start().await;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(tokio::net::TcpStream::connect(lab.config.listen).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    lab.stop().await;
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_southbound_address_that_is_taken_is_an_error_at_the_start() {
    let mut lab = Lab::start().await;
    lab.stop().await;
    let _other = std::net::UdpSocket::bind(lab.config.southbound_listen).unwrap();
    let (_go_on, shutdown) = watch::channel(false);
    let ended = tokio::time::timeout(Duration::from_secs(5), run(lab.config.clone(), shutdown)).await;
    let error = ended.expect("it ends by itself").unwrap_err().to_string();
    assert!(error.starts_with("southbound: cannot listen on UDP 127.0.0.1:"), "{error}");
}
