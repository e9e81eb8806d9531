//! One message on a stream: a header of 8 bytes, then JSON.
//!
//! ```text
//!  0      2        4               8
//! +------+--------+---------------+----------------
//! | "PS" | version| length of JSON| JSON ...
//! +------+--------+---------------+----------------
//! ```
//! Big endian. The version stands before the body, so that a peer of another version gets an error that says so, not one
//! about JSON. JSON because a goal is then readable in a capture of a test and on disk; its cost is paid once a change.
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of messages and frames.
pub const VERSION: u16 = 2;

/// The largest goal. 100 thousand backends at about 250 bytes and 10 thousand tables of a few thousand slots fit; a node
/// holds the frame once while it reads it.
pub const MAX_GOAL_LEN: u32 = 256 << 20;

/// The largest report: traffic of 100 thousand backends at about 60 bytes fits four times.
pub const MAX_REPORT_LEN: u32 = 32 << 20;

const MAGIC: [u8; 2] = *b"PS";

/// Above this, JSON is read and written on a blocking thread, so that other links go on meanwhile.
const BLOCKING_LEN: usize = 64 << 10;

/// Buffers grow by what has arrived, not by what a header promises.
const READ_STEP: u64 = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the stream broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the peer does not speak Penstock's southbound protocol: frame begins with {0:02x?}")]
    Magic([u8; 2]),
    #[error(
        "the peer speaks version {0} of the southbound protocol, this side speaks {VERSION}: upgrade the older one"
    )]
    Version(u16),
    #[error("a message of {len} bytes is larger than the limit of {max}")]
    TooLarge { len: u64, max: u32 },
    #[error("a message could not be understood: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a worker thread ended early: {0}")]
    Join(#[from] tokio::task::JoinError),
}

/// A message as bytes, header included.
///
/// # Errors
/// Larger than `max`.
pub(crate) fn encode<T: Serialize>(message: &T, max: u32) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 8];
    serde_json::to_writer(&mut frame, message)?;
    let len = frame.len() - 8;
    let len = u32::try_from(len).ok().filter(|l| *l <= max).ok_or(FrameError::TooLarge { len: len as u64, max })?;
    let header = MAGIC.into_iter().chain(VERSION.to_be_bytes()).chain(len.to_be_bytes());
    for (to, from) in frame.iter_mut().zip(header) {
        *to = from;
    }
    Ok(frame)
}

/// Writes one message.
///
/// # Errors
/// Too large, or the stream broke.
pub(crate) async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    max: u32,
) -> Result<(), FrameError> {
    stream.write_all(&encode(message, max)?).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one message; `None` if the peer ended the stream between two messages.
///
/// Not cancel safe: a caller that gives up in the middle must drop the stream.
///
/// # Errors
/// The stream broke, or what it carried is no message of this version.
pub(crate) async fn read<T: DeserializeOwned + Send + 'static>(
    stream: &mut (impl AsyncRead + Unpin),
    max: u32,
) -> Result<Option<T>, FrameError> {
    let Some(len) = read_header(stream, max).await? else { return Ok(None) };
    let body = read_body(stream, len).await?;
    if body.len() < BLOCKING_LEN {
        return Ok(Some(serde_json::from_slice(&body)?));
    }
    let message = tokio::task::spawn_blocking(move || serde_json::from_slice(&body)).await??;
    Ok(Some(message))
}

async fn read_header(stream: &mut (impl AsyncRead + Unpin), max: u32) -> Result<Option<u32>, FrameError> {
    let mut first = [0; 1];
    if stream.read(&mut first).await? == 0 {
        return Ok(None);
    }
    let mut rest = [0; 7];
    stream.read_exact(&mut rest).await?;
    let [m1, v0, v1, l0, l1, l2, l3] = rest;
    let magic = [first[0], m1];
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    let version = u16::from_be_bytes([v0, v1]);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let len = u32::from_be_bytes([l0, l1, l2, l3]);
    if len > max {
        return Err(FrameError::TooLarge { len: u64::from(len), max });
    }
    Ok(Some(len))
}

async fn read_body(stream: &mut (impl AsyncRead + Unpin), len: u32) -> Result<Vec<u8>, FrameError> {
    let mut body = Vec::new();
    let mut left = u64::from(len);
    while left > 0 {
        let got = (&mut *stream).take(left.min(READ_STEP)).read_to_end(&mut body).await? as u64;
        if got == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        left -= got;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_bytes(bytes: &[u8], max: u32) -> Result<Option<Vec<u32>>, FrameError> {
        let mut bytes = bytes;
        read(&mut bytes, max).await
    }

    #[tokio::test]
    async fn messages_of_any_size_come_back_whole() {
        for count in [0, 1, 1000, 200_000] {
            let message: Vec<u32> = (0..count).collect();
            let frame = encode(&message, MAX_GOAL_LEN).unwrap();
            assert_eq!(read_bytes(&frame, MAX_GOAL_LEN).await.unwrap(), Some(message));
        }
    }

    #[tokio::test]
    async fn an_end_between_messages_is_none_and_within_one_an_error() {
        assert_eq!(read_bytes(&[], 100).await.unwrap(), None);
        let frame = encode(&vec![1u32, 2, 3], 100).unwrap();
        for cut in 1..frame.len() {
            let error = read_bytes(&frame[..cut], 100).await.unwrap_err();
            assert!(matches!(error, FrameError::Io(_)), "cut at {cut}: {error}");
        }
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_limit_is_refused_on_both_sides() {
        let message: Vec<u32> = (0..100).collect();
        assert!(matches!(encode(&message, 50), Err(FrameError::TooLarge { max: 50, .. })));
        let frame = encode(&message, 1000).unwrap();
        assert!(matches!(read_bytes(&frame, 50).await, Err(FrameError::TooLarge { max: 50, .. })));
    }

    #[tokio::test]
    async fn another_version_and_another_protocol_are_named() {
        let mut frame = encode(&vec![1u32], 100).unwrap();
        frame[3] = 9;
        assert!(matches!(read_bytes(&frame, 100).await, Err(FrameError::Version(9))));
        assert!(matches!(read_bytes(b"GET / HTTP/1.1\r\n", 100).await, Err(FrameError::Magic([b'G', b'E']))));
    }
}
