//! What a socket towards a routing neighbour needs and no library offers: keys of RFC 2385 and a least TTL (RFC 5082).
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: i32,
    key: [u8; 80],
}

const TCP_MD5SIG: libc::c_int = 14;
const IP_MINTTL: libc::c_int = 21;
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// Signs segments to `peer`, and takes none from it that are not signed (RFC 2385). On a listening socket it holds for the
/// peer's connections. An empty key ends it.
///
/// # Errors
/// The kernel's; `InvalidInput` if the key is longer than 80 bytes.
pub fn set_tcp_md5_key(socket: BorrowedFd<'_>, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    let mut option =
        TcpMd5Sig { address: storage(peer), flags: 0, prefix_length: 0, key_length: 0, interface: 0, key: [0; 80] };
    let Some(room) = option.key.get_mut(..key.len()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a TCP-MD5 key has at most 80 bytes"));
    };
    room.copy_from_slice(key);
    option.key_length = key.len() as u16;
    set(socket, libc::IPPROTO_TCP, TCP_MD5SIG, &option)
}

/// Drops segments that arrive with a smaller TTL or hop limit: those of whoever is further away.
///
/// # Errors
/// The kernel's.
pub fn set_least_ttl(socket: BorrowedFd<'_>, ipv4: bool, ttl: u8) -> io::Result<()> {
    let value = libc::c_int::from(ttl);
    if ipv4 {
        set(socket, libc::IPPROTO_IP, IP_MINTTL, &value)
    } else {
        set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &value)
    }
}

fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of `value`, which the kernel only reads during the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn storage(address: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: all zeroes is a value of this plain structure.
    let mut out: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    match SocketAddr::new(address, 0) {
        SocketAddr::V4(a) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is large enough and aligned for every socket address.
            unsafe { std::ptr::from_mut(&mut out).cast::<libc::sockaddr_in>().write(v4) };
        }
        SocketAddr::V6(a) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { std::ptr::from_mut(&mut out).cast::<libc::sockaddr_in6>().write(v6) };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn a_listener_with_a_key_answers_no_unsigned_segment() {
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let listener = TcpListener::bind((address, 0)).unwrap();
            set_tcp_md5_key(listener.as_fd(), address, b"secret").unwrap();
            let at = listener.local_addr().unwrap();
            assert!(TcpStream::connect_timeout(&at, Duration::from_millis(200)).is_err(), "{at}");
            set_tcp_md5_key(listener.as_fd(), address, b"").unwrap();
            TcpStream::connect_timeout(&at, Duration::from_secs(2)).unwrap();
        }
    }

    #[test]
    fn a_key_that_is_too_long_is_refused_and_a_least_ttl_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = set_tcp_md5_key(listener.as_fd(), "127.0.0.1".parse().unwrap(), &[1; 81]);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        set_least_ttl(listener.as_fd(), true, 255).unwrap();
        let at = listener.local_addr().unwrap();
        // Local connections have the usual TTL of 64.
        assert!(TcpStream::connect_timeout(&at, Duration::from_millis(200)).is_err());
    }
}
