use crate::filter::reject_all;
use crate::sys;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

/// Holds a UDP port that a packet port serves, so that the kernel does not answer what arrives there with ICMP "port
/// unreachable" (RFC 1122 section 4.1.3.1). Everything that the kernel would deliver to it is thrown away by a filter.
#[derive(Debug)]
pub struct SilentUdpListener {
    socket: UdpSocket,
}

impl SilentUdpListener {
    /// # Errors
    /// The port is in use or this process may not.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        sys::attach_filter(socket.as_fd(), &reject_all())?;
        Ok(Self { socket })
    }

    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Holds an IP protocol that a packet port serves, so that the kernel does not answer it with ICMP "protocol unreachable" (RFC
/// 1122 section 3.2.2.1). Nothing is delivered to it.
#[derive(Debug)]
pub struct SilentProtocolListener {
    _socket: OwnedFd,
}

impl SilentProtocolListener {
    /// # Errors
    /// This process may not.
    pub fn open(family_of: IpAddr, protocol: u8) -> io::Result<Self> {
        let domain = if family_of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = sys::socket(domain, libc::SOCK_RAW, i32::from(protocol))?;
        sys::attach_filter(socket.as_fd(), &reject_all())?;
        Ok(Self { _socket: socket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_silent_port_neither_answers_nor_refuses() {
        let listener = SilentUdpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = listener.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let try_port = |client: &UdpSocket| {
            client.send(b"x").unwrap();
            client.recv(&mut [0; 8]).unwrap_err().kind()
        };
        client.connect(silent).unwrap();
        assert_eq!(try_port(&client), io::ErrorKind::WouldBlock);
        drop(listener);
        assert_eq!(try_port(&client), io::ErrorKind::ConnectionRefused, "without it the kernel answers");
    }
}
