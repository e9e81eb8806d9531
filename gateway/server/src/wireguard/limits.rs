//! How many messages one key may protect (WireGuard whitepaper section 6.1). `boringtun` does not count.

/// A session that has sent this many messages is replaced: 2^60.
pub(crate) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// No message with this counter or a higher one is sent or accepted: 2^64 - 2^13 - 1.
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

const DATA: u8 = 4;

/// What the counter of a message that was just made says about its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Budget {
    Fresh,
    /// Send it, and begin a handshake.
    Rekey,
    /// Do not send it: the key is used up.
    Exhausted,
}

/// The counter of a transport data message (whitepaper section 5.4.6); `None` for other messages.
pub(crate) fn counter(message: &[u8]) -> Option<u64> {
    let [kind, _, _, _, _, _, _, _, counter @ ..] = message.first_chunk::<16>()?;
    (*kind == DATA).then(|| u64::from_le_bytes(*counter))
}

pub(crate) fn budget(counter: u64) -> Budget {
    if counter >= REJECT_AFTER_MESSAGES {
        Budget::Exhausted
    } else if counter >= REKEY_AFTER_MESSAGES {
        Budget::Rekey
    } else {
        Budget::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(n: u64) -> Vec<u8> {
        let mut m = vec![4, 0, 0, 0, 9, 9, 9, 9];
        m.extend(n.to_le_bytes());
        m
    }

    #[test]
    fn a_key_is_replaced_after_two_to_the_sixty_messages_and_never_used_beyond_its_end() {
        let of = |n| budget(counter(&data(n)).unwrap());
        assert_eq!(of(0), Budget::Fresh);
        assert_eq!(of((1 << 60) - 1), Budget::Fresh);
        assert_eq!(of(1 << 60), Budget::Rekey);
        assert_eq!(of(u64::MAX - (1 << 13) - 1), Budget::Rekey);
        assert_eq!(of(u64::MAX - (1 << 13)), Budget::Exhausted);
        assert_eq!(of(u64::MAX), Budget::Exhausted);
    }

    #[test]
    fn only_data_messages_have_a_counter() {
        assert_eq!(counter(&[1; 148]), None);
        assert_eq!(counter(&[4, 0, 0]), None);
    }
}
