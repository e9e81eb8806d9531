use crate::{Compare, Entry, Limits, Operation, Store, StoreError, Txn};

/// Copies all keys without a lease from one store to another that has none of them, and `last` after all others: where it is, the copy is
/// whole. A copy that was interrupted can be made again. Nobody else may write to either. Returns how many keys were copied.
///
/// # Errors
/// `last` is there already; or a store fails.
pub async fn migrate(from: &dyn Store, to: &dyn Store, last: Operation) -> Result<usize, StoreError> {
    if to.get(last.key(), None).await?.is_some() {
        return Err(StoreError::Refused(format!("it holds a site already: there is {}", last.key())));
    }
    let mut entries = from.range("", None).await?.entries;
    entries.retain(|e| e.lease.is_none() && e.key != last.key());
    for then in portions(&entries, to.limits()) {
        to.txn(Txn { then, ..Txn::default() }).await?;
    }
    let arrived = to.range("", None).await?.entries;
    if !arrived.iter().map(|e| (&e.key, &e.value)).eq(entries.iter().map(|e| (&e.key, &e.value))) {
        return Err(StoreError::Refused("it holds other keys, or somebody else writes to it".to_owned()));
    }
    let compares = vec![Compare::Version { key: last.key().to_owned(), is: 0 }];
    if !to.txn(Txn { compares, then: vec![last], otherwise: Vec::new() }).await?.succeeded {
        return Err(StoreError::Refused("somebody else writes to it".to_owned()));
    }
    Ok(entries.len() + 1)
}

/// As few transactions as the limits allow.
fn portions(entries: &[Entry], limits: Limits) -> Vec<Vec<Operation>> {
    let (mut all, mut now, mut bytes) = (Vec::new(), Vec::new(), 0);
    for e in entries {
        let size = e.key.len() + e.value.len();
        if !now.is_empty() && (now.len() == limits.operations || bytes + size > limits.bytes) {
            all.push(std::mem::take(&mut now));
            bytes = 0;
        }
        bytes += size;
        now.push(Operation::put(e.key.clone(), e.value.clone()));
    }
    if !now.is_empty() {
        all.push(now);
    }
    all
}
