use crate::{Limits, StoreError, Txn};
use std::collections::BTreeSet;

/// Refuses a transaction that is too large, or that writes a key twice.
pub(crate) fn check(txn: &Txn, limits: Limits) -> Result<(), StoreError> {
    let too_large = |what, given, max| Err(StoreError::TooLarge { what, given, max });
    for list in [&txn.then, &txn.otherwise] {
        if list.len() > limits.operations {
            return too_large("operations", list.len(), limits.operations);
        }
        let bytes: usize = list.iter().map(|o| o.key().len() + o.value().len()).sum();
        if bytes > limits.bytes {
            return too_large("bytes", bytes, limits.bytes);
        }
        let mut keys = BTreeSet::new();
        if let Some(twice) = list.iter().find(|o| !keys.insert(o.key())) {
            return Err(StoreError::DuplicateKey(twice.key().to_owned()));
        }
    }
    if txn.compares.len() > limits.operations {
        return too_large("compares", txn.compares.len(), limits.operations);
    }
    Ok(())
}
