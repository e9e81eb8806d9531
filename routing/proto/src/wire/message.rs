use super::notification::{Notification, code};
use super::open::Open;
use super::reader::{Reader, with_length};
use crate::prefix::Family;

pub const HEADER: usize = 19;
/// RFC 4271, 4.1.
pub const MAX_MESSAGE: usize = 4096;

/// What a message is. The body of an UPDATE is decoded with what the session has negotiated, see [`super::update`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    Open,
    Update,
    Notification,
    Keepalive,
    RouteRefresh,
}

impl MessageType {
    const fn number(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    const fn from_number(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// The shortest message of the type, header included.
    const fn least(self) -> usize {
        match self {
            Self::Open => 29,
            Self::Update | Self::RouteRefresh => 23,
            Self::Notification => 21,
            Self::Keepalive => 19,
        }
    }
}

/// A message's type, its body and its whole length.
pub type Split<'a> = (MessageType, &'a [u8], usize);

/// The first message in `bytes`; `None` until more has come (RFC 4271, 6.1).
///
/// # Errors
/// What to tell the peer: the stream cannot be understood any further.
pub fn split(bytes: &[u8]) -> Result<Option<Split<'_>>, Notification> {
    let mut r = Reader(bytes);
    let (Ok(marker), Ok(field), Ok(kind)) = (r.take(16), r.array::<2>(), r.u8()) else {
        // What is there of the marker must be right, so that garbage is not waited for.
        let sound = bytes.iter().take(16).all(|b| *b == 0xff);
        return if sound { Ok(None) } else { Err(Notification::new(code::HEADER, 1)) };
    };
    if marker.iter().any(|b| *b != 0xff) {
        return Err(Notification::new(code::HEADER, 1));
    }
    let length = usize::from(u16::from_be_bytes(field));
    let kind_of = MessageType::from_number(kind).ok_or_else(|| Notification::with(code::HEADER, 3, &[kind]))?;
    let exact = kind_of == MessageType::Keepalive && length != HEADER;
    if length < kind_of.least() || length > MAX_MESSAGE || exact {
        return Err(Notification::with(code::HEADER, 2, &field));
    }
    Ok(bytes.get(HEADER..length).map(|body| (kind_of, body, length)))
}

/// A whole message. The body must be at most `MAX_MESSAGE - HEADER` bytes long.
pub(crate) fn encode(kind: MessageType, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    out.extend_from_slice(&[0, 0, kind.number()]);
    body(&mut out);
    let length = u16::try_from(out.len()).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(field) = out.get_mut(16..18) {
        field.copy_from_slice(&length);
    }
    out
}

#[must_use]
pub fn keepalive() -> Vec<u8> {
    encode(MessageType::Keepalive, |_| ())
}

#[must_use]
pub fn open(open: &Open) -> Vec<u8> {
    encode(MessageType::Open, |out| open.encode(out))
}

#[must_use]
pub fn notification(n: &Notification) -> Vec<u8> {
    encode(MessageType::Notification, |out| {
        out.extend_from_slice(&[n.code, n.subcode]);
        out.extend_from_slice(n.data.get(..n.data.len().min(MAX_MESSAGE - HEADER - 2)).unwrap_or_default());
    })
}

/// Never fails: `split` has seen to the two bytes.
pub(crate) fn decode_notification(body: &[u8]) -> Notification {
    let mut r = Reader(body);
    Notification { code: r.u8().unwrap_or(0), subcode: r.u8().unwrap_or(0), data: r.0.to_vec() }
}

/// Asks for all routes of a family again (RFC 2918).
#[must_use]
pub fn route_refresh(family: Family) -> Vec<u8> {
    encode(MessageType::RouteRefresh, |out| {
        out.extend_from_slice(&family.afi().to_be_bytes());
        out.extend_from_slice(&[0, 1]);
    })
}

/// `None` for families that are not ours and for what is no request: both are ignored (RFC 2918, 4; RFC 7313, 5).
pub(crate) fn decode_route_refresh(body: &[u8]) -> Option<Family> {
    let mut r = Reader(body);
    let family = Family::from_afi(r.u16().ok()?)?;
    (r.array() == Ok([0, 1])).then_some(family)
}

/// A list with a length of two bytes in front.
pub(crate) fn counted(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    with_length::<2>(out, body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_split_off_when_it_is_whole() {
        let stream = [keepalive(), route_refresh(Family::Ipv6)].concat();
        for n in 0..HEADER {
            assert_eq!(split(&stream[..n]), Ok(None), "{n}");
        }
        assert_eq!(split(&stream), Ok(Some((MessageType::Keepalive, &[][..], 19))));
        let (kind, body, _) = split(&stream[19..]).unwrap().unwrap();
        assert_eq!((kind, decode_route_refresh(body)), (MessageType::RouteRefresh, Some(Family::Ipv6)));
    }

    #[test]
    fn bad_markers_lengths_and_types_are_named() {
        let broken = |at: usize, with: u8| {
            let mut m = keepalive();
            m[at] = with;
            split(&m).unwrap_err()
        };
        assert_eq!(broken(3, 0), Notification::new(1, 1));
        assert_eq!(broken(17, 18), Notification::with(1, 2, &[0, 18]));
        assert_eq!(broken(17, 20), Notification::with(1, 2, &[0, 20]));
        assert_eq!(broken(18, 9), Notification::with(1, 3, &[9]));
        assert_eq!(split(b"GET / HTTP/1.1").unwrap_err(), Notification::new(1, 1));
    }
}
