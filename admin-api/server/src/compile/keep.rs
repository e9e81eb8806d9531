//! What the compiler must find again after a restart: the planner with its tables, the muxes' hash seed, the count of starts.
use penstock_admin_store::{Compare, Operation, Rev, Store, StoreError, Txn};
use penstock_slb_proto::Planner;
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;

const STARTS: &str = "/penstock/starts";
const SEED: &str = "/penstock/hash-seed";
/// Names the generation of the planner's pieces: `generation pieces`.
const PLANNER: &str = "/penstock/planner";
/// The planner may be larger than one request of the store: 8 KiB and more a pool.
const PIECE: usize = 1 << 20;
const COMPACT_EVERY: u64 = 16;
/// Of counting a start, beside another controller that does.
const TRIES: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("key {key} of the store cannot be read: {reason}")]
    Damaged { key: String, reason: String },
    #[error("the system has no randomness to give")]
    Random,
    #[error("another controller leads")]
    NotLeader,
}

pub(super) struct Kept {
    store: Arc<dyn Store>,
    /// Holds as long as this controller leads: part of everything that is written here.
    fence: Vec<Compare>,
    generation: u64,
    pieces: usize,
}

impl Kept {
    pub(super) fn new(store: Arc<dyn Store>, fence: Vec<Compare>) -> Self {
        Self { store, fence, generation: 0, pieces: 0 }
    }

    /// Writes as the leader, or not at all.
    async fn write(&self, then: Vec<Operation>) -> Result<Rev, KeepError> {
        let txn = Txn { compares: self.fence.clone(), then, otherwise: Vec::new() };
        let result = self.store.txn(txn).await?;
        if result.succeeded { Ok(result.rev) } else { Err(KeepError::NotLeader) }
    }

    /// How often a controller has begun to lead with this store, this time included.
    pub(super) async fn count_start(&self) -> Result<u64, KeepError> {
        for _ in 0..TRIES {
            let before = self.store.get(STARTS, None).await?;
            let (rev, count) = match &before {
                None => (0, 0),
                Some(e) => (e.mod_rev, parsed(STARTS, &e.value)?),
            };
            let mut compares = self.fence.clone();
            compares.push(Compare::ModRev { key: STARTS.to_owned(), is: rev });
            let then = vec![Operation::put(STARTS, (count + 1).to_string())];
            if self.store.txn(Txn { compares, then, otherwise: Vec::new() }).await?.succeeded {
                return Ok(count + 1);
            }
        }
        Err(KeepError::NotLeader)
    }

    /// Made once for the deployment.
    pub(super) async fn hash_seed(&self) -> Result<[u64; 2], KeepError> {
        let mut fresh = [0_u8; 16];
        SystemRandom::new().fill(&mut fresh).map_err(|_| KeepError::Random)?;
        let txn = Txn {
            compares: vec![Compare::Version { key: SEED.to_owned(), is: 0 }],
            then: vec![Operation::put(SEED, fresh)],
            otherwise: Vec::new(),
        };
        self.store.txn(txn).await?;
        let bytes = self.store.get(SEED, None).await?.map(|e| e.value).unwrap_or_default();
        let number = u128::from_be_bytes(bytes.try_into().map_err(|_| damaged(SEED, "not 16 bytes"))?);
        Ok([(number >> 64) as u64, number as u64])
    }

    pub(super) async fn planner(&mut self) -> Result<Option<Planner>, KeepError> {
        let Some(head) = self.store.get(PLANNER, None).await? else { return Ok(None) };
        let text = String::from_utf8_lossy(&head.value).into_owned();
        let (generation, pieces) = text.split_once(' ').ok_or_else(|| damaged(PLANNER, "no pieces"))?;
        self.generation = parsed(PLANNER, generation.as_bytes())?;
        self.pieces = usize::try_from(parsed(PLANNER, pieces.as_bytes())?).unwrap_or(0);
        let mut bytes = Vec::new();
        for i in 0..self.pieces {
            let key = piece(self.generation, i);
            // As it stands: a generation is written once, goes with the head that names it, and nobody else may write now.
            let entry = self.store.get(&key, None).await?.ok_or_else(|| damaged(&key, "it is gone"))?;
            bytes.extend(entry.value);
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(PLANNER, &e.to_string()))
    }

    /// Pieces first, then the head that names them: a reader finds the whole old one or the whole new one.
    pub(super) async fn keep_planner(&mut self, planner: &Planner) -> Result<(), KeepError> {
        let bytes = serde_json::to_vec(planner).map_err(|e| damaged(PLANNER, &e.to_string()))?;
        let generation = self.generation + 1;
        let pieces: Vec<&[u8]> = bytes.chunks(PIECE).collect();
        let mut last = Vec::new();
        for (i, bytes) in pieces.iter().enumerate() {
            let put = Operation::put(piece(generation, i), *bytes);
            if i + 1 == pieces.len() {
                last.push(put);
            } else {
                self.write(vec![put]).await?;
            }
        }
        last.push(Operation::put(PLANNER, format!("{generation} {}", pieces.len())));
        let old = self.pieces.min(self.store.limits().operations.saturating_sub(2));
        last.extend((0..old).map(|i| Operation::delete(piece(self.generation, i))));
        let rev = self.write(last).await?;
        (self.generation, self.pieces) = (generation, pieces.len());
        // Old tables are of no use to anyone, and would fill the disk.
        if generation.is_multiple_of(COMPACT_EVERY)
            && let Err(error) = self.store.compact(rev).await
        {
            // The next time does it.
            tracing::warn!(%error, "old revisions of the store are not forgotten yet");
        }
        Ok(())
    }
}

fn piece(generation: u64, i: usize) -> String {
    format!("{PLANNER}/{generation}/{i}")
}

fn parsed(key: &str, bytes: &[u8]) -> Result<u64, KeepError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| damaged(key, &format!("'{}' is not a number", String::from_utf8_lossy(bytes))))
}

fn damaged(key: &str, reason: &str) -> KeepError {
    KeepError::Damaged { key: key.to_owned(), reason: reason.to_owned() }
}
