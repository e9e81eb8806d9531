//! What clients without a certificate can do to a controller: nothing that lasts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::Lab;
use std::time::{Duration, Instant};

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
