use std::fmt;

/// Why a session ends, as the ending side says it (RFC 4271, 4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

pub mod code {
    pub const HEADER: u8 = 1;
    pub const OPEN: u8 = 2;
    pub const UPDATE: u8 = 3;
    pub const HOLD_TIMER: u8 = 4;
    pub const FSM: u8 = 5;
    pub const CEASE: u8 = 6;
    pub const ROUTE_REFRESH: u8 = 7;
    /// RFC 9687
    pub const SEND_HOLD_TIMER: u8 = 8;
}

/// Subcodes of Cease (RFC 4486, 8538, 9384).
pub mod cease {
    pub const MAX_PREFIXES: u8 = 1;
    pub const ADMIN_SHUTDOWN: u8 = 2;
    pub const PEER_DECONFIGURED: u8 = 3;
    pub const ADMIN_RESET: u8 = 4;
    pub const REJECTED: u8 = 5;
    pub const CONFIGURATION_CHANGE: u8 = 6;
    pub const COLLISION: u8 = 7;
    pub const OUT_OF_RESOURCES: u8 = 8;
    pub const HARD_RESET: u8 = 9;
    pub const BFD_DOWN: u8 = 10;
}

/// RFC 9003: at most so many bytes of text.
const MAX_TEXT: usize = 255;

impl Notification {
    #[must_use]
    pub fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    #[must_use]
    pub fn with(code: u8, subcode: u8, data: &[u8]) -> Self {
        Self { code, subcode, data: data.to_vec() }
    }

    /// A Cease that tells the other side's operator why (RFC 9003).
    #[must_use]
    pub fn shutdown(subcode: u8, text: &str) -> Self {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default().as_bytes();
        let length = u8::try_from(text.len()).unwrap_or(0);
        Self { code: code::CEASE, subcode, data: [&[length], text].concat() }
    }

    /// The text of a shutdown, with what could disturb a terminal taken out.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        if self.code != code::CEASE || !matches!(self.subcode, cease::ADMIN_SHUTDOWN | cease::ADMIN_RESET) {
            return None;
        }
        let (length, rest) = self.data.split_first()?;
        let text = String::from_utf8_lossy(rest.get(..usize::from(*length))?);
        let clean: String = text.chars().filter(|c| !c.is_control()).collect();
        (!clean.is_empty()).then_some(clean)
    }

    fn words(&self) -> &'static str {
        match (self.code, self.subcode) {
            (code::HEADER, 1) => "message header: connection not synchronized",
            (code::HEADER, 2) => "message header: bad length",
            (code::HEADER, 3) => "message header: bad type",
            (code::OPEN, 1) => "OPEN: unsupported version",
            (code::OPEN, 2) => "OPEN: bad peer AS",
            (code::OPEN, 3) => "OPEN: bad BGP identifier",
            (code::OPEN, 4) => "OPEN: unsupported optional parameter",
            (code::OPEN, 6) => "OPEN: unacceptable hold time",
            (code::OPEN, 7) => "OPEN: unsupported capability",
            (code::OPEN, _) => "OPEN: malformed",
            (code::UPDATE, 1) => "UPDATE: malformed attribute list",
            (code::UPDATE, 2) => "UPDATE: unrecognized well-known attribute",
            (code::UPDATE, 9) => "UPDATE: optional attribute error",
            (code::UPDATE, 10) => "UPDATE: invalid network field",
            (code::UPDATE, _) => "UPDATE: malformed",
            (code::HOLD_TIMER, _) => "hold timer expired",
            (code::FSM, _) => "message not expected in this state",
            (code::CEASE, cease::MAX_PREFIXES) => "maximum number of prefixes reached",
            (code::CEASE, cease::ADMIN_SHUTDOWN) => "administrative shutdown",
            (code::CEASE, cease::PEER_DECONFIGURED) => "peer deconfigured",
            (code::CEASE, cease::ADMIN_RESET) => "administrative reset",
            (code::CEASE, cease::REJECTED) => "connection rejected",
            (code::CEASE, cease::CONFIGURATION_CHANGE) => "configuration changed",
            (code::CEASE, cease::COLLISION) => "connection collision",
            (code::CEASE, cease::OUT_OF_RESOURCES) => "out of resources",
            (code::CEASE, cease::HARD_RESET) => "hard reset",
            (code::CEASE, cease::BFD_DOWN) => "BFD down",
            (code::CEASE, _) => "cease",
            (code::ROUTE_REFRESH, _) => "ROUTE-REFRESH: malformed",
            (code::SEND_HOLD_TIMER, _) => "send hold timer expired",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.words(), self.code, self.subcode)?;
        match self.text() {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_text_survives_and_is_cut_at_a_character() {
        let n = Notification::shutdown(cease::ADMIN_SHUTDOWN, "back in ten minutes");
        assert_eq!(n.text().as_deref(), Some("back in ten minutes"));
        let long = Notification::shutdown(cease::ADMIN_SHUTDOWN, &"é".repeat(200));
        assert_eq!(long.text().map(|t| t.len()), Some(254));
    }

    #[test]
    fn text_whose_length_lies_is_no_text_and_control_characters_are_left_out() {
        assert_eq!(Notification::with(code::CEASE, 2, &[200, b'a']).text(), None);
        assert_eq!(Notification::with(code::CEASE, 2, b"\x04\x1b[Hx").text().as_deref(), Some("[Hx"));
    }
}
