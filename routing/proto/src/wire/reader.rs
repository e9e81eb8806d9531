use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// Takes values off the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Short)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn v4(&mut self) -> Result<Ipv4Addr, Short> {
        self.array::<4>().map(Ipv4Addr::from)
    }

    pub(crate) fn v6(&mut self) -> Result<Ipv6Addr, Short> {
        self.array::<16>().map(Ipv6Addr::from)
    }
}

/// Writes a length of `N` bytes in front of what `body` writes. Callers bound what they write far below its range.
pub(crate) fn with_length<const N: usize>(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; N]);
    body(out);
    let length = out.len() - at - N;
    if let Some(field) = out.get_mut(at..at + N) {
        field.copy_from_slice(length.to_be_bytes().get(size_of::<usize>() - N..).unwrap_or(&[0; N]));
    }
}
