//! A stack that several hold: its driver, who knows the time, and the streams, which read and write.
use super::link::Outward;
use super::stack::Stack;
use penstock_clock::MonotonicClock;
use penstock_model::TunnelId;
use penstock_routing_server::Stream;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};

/// TCP with one peer inside one tunnel.
pub(super) struct Wire {
    tunnel: TunnelId,
    stack: Mutex<Stack>,
    outward: Outward,
    /// A stream has done something that may change when the driver is due.
    stirred: Notify,
}

impl Wire {
    pub(super) fn new(tunnel: TunnelId, stack: Stack, outward: Outward) -> Arc<Self> {
        Arc::new(Self { tunnel, stack: Mutex::new(stack), outward, stirred: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the stack act, and sends what it says.
    fn pump(&self, stack: &mut Stack) {
        loop {
            stack.handle_timeout(MonotonicClock::now());
            let mut any = false;
            while let Some(packet) = stack.poll_transmit() {
                self.outward.send(self.tunnel, packet);
                any = true;
            }
            if !any {
                return;
            }
        }
    }

    /// Until nobody sends packets any more; then all connections end.
    pub(super) async fn drive(
        self: Arc<Self>,
        mut packets: mpsc::Receiver<Vec<u8>>,
        accepted: mpsc::Sender<(Stream, IpAddr)>,
        peer: IpAddr,
    ) {
        loop {
            let (wake, opened) = {
                let mut stack = self.lock();
                self.pump(&mut stack);
                let opened = stack.accept();
                (stack.poll_timeout(MonotonicClock::now()), opened)
            };
            if let Some(handle) = opened {
                // Where nobody waits for it, it is dropped, and so closed.
                drop(accepted.try_send((self.stream(handle), peer)));
                continue;
            }
            let due = async {
                match wake {
                    Some(at) => tokio::time::sleep(at.since(MonotonicClock::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                packet = packets.recv() => {
                    let Some(packet) = packet else { break };
                    let mut stack = self.lock();
                    stack.handle_packet(packet);
                    while let Ok(packet) = packets.try_recv() {
                        stack.handle_packet(packet);
                    }
                }
                () = self.stirred.notified() => {}
                () = due => {}
            }
        }
        let mut stack = self.lock();
        stack.abort();
        self.pump(&mut stack);
    }

    fn stream(self: &Arc<Self>, handle: SocketHandle) -> Stream {
        let ends = self.lock().ends(handle);
        Stream { ends, bytes: Box::new(TunnelStream { wire: Arc::clone(self), handle }) }
    }

    /// # Errors
    /// The peer refuses, or does not answer.
    pub(super) async fn connect(self: Arc<Self>, port: u16) -> io::Result<Stream> {
        let handle = self.lock().connect(port).map_err(io::Error::other)?;
        let stream = self.stream(handle);
        self.stirred.notify_one();
        poll_fn(|context| {
            let mut stack = self.lock();
            let socket = stack.socket(handle);
            match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused))),
                _ => Poll::Ready(Ok(())),
            }
        })
        .await?;
        Ok(stream)
    }
}

/// Dropping it closes the connection, after what was written.
struct TunnelStream {
    wire: Arc<Wire>,
    handle: SocketHandle,
}

impl TunnelStream {
    fn with<T>(&self, work: impl FnOnce(&mut smoltcp::socket::tcp::Socket<'static>) -> T) -> T {
        let mut stack = self.wire.lock();
        let result = work(stack.socket(self.handle));
        self.wire.pump(&mut stack);
        drop(stack);
        self.wire.stirred.notify_one();
        result
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| {
            if socket.can_recv() {
                let read = socket.recv_slice(buffer.initialize_unfilled()).map_err(io::Error::other)?;
                buffer.advance(read);
                return Poll::Ready(Ok(()));
            }
            if socket.may_recv() {
                socket.register_recv_waker(context.waker());
                return Poll::Pending;
            }
            // The end, or there was a reset.
            Poll::Ready(match socket.state() {
                State::Closed => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
                _ => Ok(()),
            })
        })
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|socket| {
            if socket.can_send() {
                return Poll::Ready(socket.send_slice(bytes).map_err(io::Error::other));
            }
            if socket.may_send() {
                socket.register_send_waker(context.waker());
                return Poll::Pending;
            }
            Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(smoltcp::socket::tcp::Socket::close);
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let mut stack = self.wire.lock();
        stack.give_back(self.handle);
        self.wire.pump(&mut stack);
        drop(stack);
        self.wire.stirred.notify_one();
    }
}
