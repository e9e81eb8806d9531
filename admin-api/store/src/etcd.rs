use crate::limits::check;
use crate::watchers::BUFFER;
use crate::{
    Answer, Batch, Compare, Entry, Event, LeaseId, Limits, Operation, Range, Rev, Store, StoreError, Txn, TxnResult,
    Watch,
};
use etcd_client::{
    Certificate, Client, CompareOp, ConnectOptions, Error, EventType, GetOptions, Identity, KeyValue, PutOptions,
    ResponseHeader, TlsOptions, TxnOp, TxnResponse, WatchOptions, WatchResponse, WatchStream,
};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::error::Elapsed;

/// What etcd takes unless it is started with other `--max-txn-ops` and `--max-request-bytes`; of the latter some is for framing.
pub const ETCD_LIMITS: Limits = Limits { operations: 128, bytes: 1_400_000 };

/// What etcd has unless it is started with another `--quota-backend-bytes`.
pub const ETCD_QUOTA: u64 = 2 << 30;
/// In tenths of the quota: more, and operators' changes are not taken. The rest is for what must be written in any case (the leader's
/// tables and its lease, which a cluster without space refuses, too) until somebody has made room.
const FULL: u64 = 9;

const CONNECT: Duration = Duration::from_secs(2);
/// One question to one member.
const ASK: Duration = Duration::from_secs(3);
/// Whoever gives up waiting for a member earlier than this says nothing about it.
const PATIENCE: Duration = Duration::from_millis(200);
/// etcd takes pings more often than every five seconds for an attack.
const PING: Duration = Duration::from_secs(6);
const PONG: Duration = Duration::from_secs(3);
/// Keys in one answer.
const PAGE: i64 = 512;

/// Where the cluster is.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// `https://host:2379`, each member's. Answers come from whichever can give them.
    pub endpoints: Vec<String>,
    /// Before all keys, so that others may use the same cluster.
    pub prefix: String,
    pub tls: Option<EtcdTls>,
    pub limits: Limits,
    /// etcd's `--quota-backend-bytes`: beyond it the cluster takes no write at all until it is repaired by hand.
    pub quota: u64,
}

/// PEM.
#[derive(Clone)]
pub struct EtcdTls {
    pub ca: Vec<u8>,
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdTls(..)")
    }
}

/// A store for several controllers: an etcd cluster, all reads linearizable.
///
/// A question that one member does not answer goes to the next. A transaction is sent to another member only where it is certain that it
/// was not done: else its outcome is unknown, and the error says so.
#[derive(Debug, Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    members: Vec<(String, Client)>,
    /// The member that answered last.
    current: AtomicUsize,
    prefix: String,
    limits: Limits,
    quota: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members: Vec<&String> = self.members.iter().map(|(endpoint, _)| endpoint).collect();
        f.debug_struct("Shared").field("members", &members).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A member that lets wait. Whoever asks next begins with another, also when the answer is not waited for any longer.
struct Silent<'a> {
    shared: &'a Shared,
    member: usize,
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        self.shared.pass(self.member);
    }
}

type Call<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

impl EtcdStore {
    /// Connects when it is first asked; an absent cluster is an error of that question.
    ///
    /// # Errors
    /// An endpoint or a certificate cannot be read.
    pub async fn open(config: EtcdConfig) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING, PONG)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if let Some(tls) = &config.tls {
            let identity = Identity::from_pem(&tls.cert, &tls.key);
            let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca)).identity(identity);
            options = options.with_tls(tls);
        }
        let mut members = Vec::with_capacity(config.endpoints.len());
        for endpoint in &config.endpoints {
            let client = Client::connect([endpoint], Some(options.clone())).await;
            members.push((endpoint.clone(), client.map_err(|e| failed(endpoint, &e))?));
        }
        if members.is_empty() {
            return Err(StoreError::Unavailable("no member of the etcd cluster is named".to_owned()));
        }
        let current = AtomicUsize::new(0);
        let EtcdConfig { prefix, limits, quota, .. } = config;
        Ok(Self { shared: Arc::new(Shared { members, current, prefix, limits, quota }) })
    }

    /// Asks the members in turn until one answers. `again` says whether after this error the next may be asked.
    async fn ask<T>(&self, again: fn(&Error) -> bool, call: impl Fn(Client) -> Call<T>) -> Result<T, StoreError> {
        let members = &self.shared.members;
        let first = self.shared.current.load(Ordering::Relaxed);
        let mut last = StoreError::Closed;
        for i in (first..).take(members.len()) {
            let Some((endpoint, client)) = members.get(i % members.len()) else { break };
            let (error, may_repeat) = match self.shared.wait(i % members.len(), call(client.clone())).await {
                Ok(Ok(answer)) => {
                    self.shared.current.store(i % members.len(), Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => (told(endpoint, &error), is_down(&error) && again(&error)),
                Err(_) => {
                    let silent = StoreError::Unavailable(format!("{endpoint}: no answer within {} s", ASK.as_secs()));
                    (silent, again(&Error::Internal(String::new())))
                }
            };
            if is_final(&error) {
                return Err(error);
            }
            self.shared.pass(i % members.len());
            last = error;
            if !may_repeat {
                break;
            }
        }
        Err(last)
    }

    /// Whether the member that is asked has an alarm, or little of its quota left.
    async fn has_room(&self) -> Result<(), StoreError> {
        let asked = self.ask(any, |client| {
            Box::pin(async move {
                let status = client.maintenance_client().status().await?;
                let alarmed = status.errors().iter().any(|e| e.contains("NOSPACE"));
                Ok((alarmed, unsigned(status.db_size()), unsigned(status.raft_used_db_size())))
            })
        });
        let (alarmed, size, used) = asked.await?;
        let quota = self.shared.quota;
        if !alarmed && size < quota / 10 * FULL {
            return Ok(());
        }
        let alarm = if alarmed { "etcd has raised the alarm NOSPACE; " } else { "" };
        Err(StoreError::Full(format!(
            "{alarm}its database has {} MiB, {} of them in use, of a quota of {}: `etcdctl defrag` gives back what is not in use, and a \
             larger --quota-backend-bytes (with quota_bytes in [controller.etcd]) makes room; then `etcdctl alarm disarm`",
            size >> 20,
            used >> 20,
            quota >> 20
        )))
    }

    async fn page(&self, start: Vec<u8>, end: Vec<u8>, at: i64) -> Result<(Rev, Vec<KeyValue>, bool), StoreError> {
        self.ask(any, |client| {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(at);
            let start = start.clone();
            Box::pin(async move {
                let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
                let mut answer = kv.get(start, Some(options)).await?;
                Ok((revision(answer.header()), answer.take_kvs(), answer.more()))
            })
        })
        .await
    }

    async fn all(&self, prefix: &str, at: Option<Rev>) -> Result<Range, StoreError> {
        let mut start = self.shared.key(prefix);
        let end = successor(&start);
        let (mut at, mut entries) = (at.map_or(0, signed), Vec::new());
        loop {
            let (rev, page, more) = match self.page(start, end.clone(), at).await {
                Ok(page) => page,
                Err(error) => return Err(self.about(error, at).await),
            };
            if at == 0 {
                at = signed(rev);
            }
            start = page.last().map(|kv| [kv.key(), b"\0"].concat()).unwrap_or_default();
            for kv in &page {
                entries.push(self.shared.entry(kv)?);
            }
            if !more {
                return Ok(Range { rev: unsigned(at), entries });
            }
        }
    }

    async fn one(&self, key: &str, at: Option<Rev>) -> Result<Option<Entry>, StoreError> {
        let key = self.shared.key(key);
        let at = at.map_or(0, signed);
        let found = self.ask(any, |client| {
            let (key, options) = (key.clone(), GetOptions::new().with_revision(at));
            Box::pin(async move {
                let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
                Ok(kv.get(key, Some(options)).await?.take_kvs())
            })
        });
        match found.await {
            Ok(found) => found.first().map(|kv| self.shared.entry(kv)).transpose(),
            Err(error) => Err(self.about(error, at).await),
        }
    }

    /// etcd says that a revision is gone or to come, and not where it stands.
    async fn about(&self, error: StoreError, asked: i64) -> StoreError {
        match error {
            StoreError::Compacted { .. } => match self.compacted(asked).await {
                Ok(oldest) => StoreError::Compacted { oldest },
                Err(error) => error,
            },
            StoreError::Future { .. } => match self.page(b"\0".to_vec(), b"\x01".to_vec(), 0).await {
                Ok((current, ..)) => StoreError::Future { asked: unsigned(asked), current },
                Err(error) => error,
            },
            other => other,
        }
    }

    /// Up to where it was compacted, which only a watch is told.
    async fn compacted(&self, before: i64) -> Result<Rev, StoreError> {
        let mut stream = self.open_watch(self.shared.key(""), before.max(1)).await?;
        loop {
            let message = tokio::time::timeout(ASK, stream.message()).await;
            match message {
                Ok(Ok(Some(m))) if m.compact_revision() > 0 => return Ok(unsigned(m.compact_revision())),
                Ok(Ok(Some(m))) if !m.canceled() => {}
                _ => return Err(StoreError::Unavailable("etcd does not say from where on it can be read".to_owned())),
            }
        }
    }

    async fn open_watch(&self, key: Vec<u8>, from: i64) -> Result<WatchStream, StoreError> {
        self.ask(any, |client| {
            let (key, options) = (key.clone(), WatchOptions::new().with_prefix().with_start_revision(from));
            Box::pin(async move {
                let mut watch = client.watch_client().max_decoding_message_size(usize::MAX);
                let mut stream = watch.watch(key, Some(options)).await?;
                // From here on nothing is missed.
                match stream.message().await? {
                    Some(first) if first.created() => Ok(stream),
                    Some(first) => Err(Error::WatchError(first.cancel_reason().to_owned())),
                    None => Err(Error::WatchError("it ended at once".to_owned())),
                }
            })
        })
        .await
    }

    async fn follow(&self, prefix: &str, from: Rev) -> Result<Watch, StoreError> {
        // A watch is told later that its beginning is gone: whoever asks wants to know now.
        match self.one(prefix, Some(from.max(1))).await {
            Ok(_) | Err(StoreError::Future { .. }) => {}
            Err(error) => return Err(error),
        }
        let stream = self.open_watch(self.shared.key(prefix), signed(from.max(1))).await?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = pass_on(&shared, stream, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Ok(Watch { receiver })
    }

    async fn commit(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check(&txn, self.shared.limits)?;
        let lease = txn.then.iter().chain(&txn.otherwise).find_map(Operation::lease);
        let request = self.shared.request(txn);
        let done = self.ask(is_not_done, |client| {
            let request = request.clone();
            Box::pin(async move { client.kv_client().txn(request).await })
        });
        let done: TxnResponse = done.await.map_err(|e| with_lease(e, lease))?;
        Ok(TxnResult { succeeded: done.succeeded(), rev: revision(done.header()) })
    }
}

/// Passes batches on until the reader falls behind, or the member or its leader is gone.
async fn pass_on(shared: &Shared, mut stream: WatchStream, sender: &mpsc::Sender<Batch>) {
    loop {
        match stream.message().await {
            Ok(Some(message)) if !message.canceled() => {
                for batch in shared.batches(&message) {
                    if sender.try_send(batch).is_err() {
                        return;
                    }
                }
            }
            Ok(_) => return,
            Err(error) => return tracing::debug!(%error, "a watch on etcd ended"),
        }
    }
}

impl Shared {
    /// For the answer of one member.
    async fn wait<T>(&self, member: usize, mut answer: Call<T>) -> Result<Result<T, Error>, Elapsed> {
        if let Ok(answer) = tokio::time::timeout(PATIENCE, &mut answer).await {
            return Ok(answer);
        }
        let _silent = Silent { shared: self, member };
        tokio::time::timeout(ASK - PATIENCE, answer).await
    }

    /// Whoever asks next begins with the one after `member`, unless others have moved on already.
    fn pass(&self, member: usize) {
        let next = (member + 1) % self.members.len().max(1);
        let _ = self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn key(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    fn own(&self, key: &[u8]) -> Option<String> {
        String::from_utf8(key.strip_prefix(self.prefix.as_bytes())?.to_vec()).ok()
    }

    fn entry(&self, kv: &KeyValue) -> Result<Entry, StoreError> {
        let key = self.own(kv.key()).ok_or_else(|| StoreError::Damaged("a key that is no text".to_owned()))?;
        Ok(Entry {
            key,
            value: kv.value().to_vec(),
            create_rev: unsigned(kv.create_revision()),
            mod_rev: unsigned(kv.mod_revision()),
            version: unsigned(kv.version()),
            lease: Some(LeaseId(kv.lease())).filter(|id| id.0 != 0),
        })
    }

    fn batches(&self, message: &WatchResponse) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let event = match event.event_type() {
                EventType::Put => self.entry(kv).ok().map(Event::Put),
                EventType::Delete => self.own(kv.key()).map(|key| Event::Delete { key }),
            };
            let rev = unsigned(kv.mod_revision());
            match (batches.last_mut(), event) {
                (Some(last), Some(event)) if last.rev == rev => last.events.push(event),
                (_, Some(event)) => batches.push(Batch { rev, events: vec![event] }),
                (_, None) => {}
            }
        }
        batches
    }

    fn request(&self, txn: Txn) -> etcd_client::Txn {
        let compare = |c: Compare| match c {
            Compare::ModRev { key, is } => {
                etcd_client::Compare::mod_revision(self.key(&key), CompareOp::Equal, signed(is))
            }
            Compare::Version { key, is } => etcd_client::Compare::version(self.key(&key), CompareOp::Equal, signed(is)),
            Compare::Value { key, is } => etcd_client::Compare::value(self.key(&key), CompareOp::Equal, is),
        };
        let operation = |o: Operation| match o {
            Operation::Put { key, value, lease } => {
                let options = lease.map(|id| PutOptions::new().with_lease(id.0));
                TxnOp::put(self.key(&key), value, options)
            }
            Operation::Delete { key } => TxnOp::delete(self.key(&key), None),
        };
        etcd_client::Txn::new()
            .when(txn.compares.into_iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.then.into_iter().map(operation).collect::<Vec<_>>())
            .or_else(txn.otherwise.into_iter().map(operation).collect::<Vec<_>>())
    }
}

impl Store for EtcdStore {
    fn limits(&self) -> Limits {
        self.shared.limits
    }

    fn room(&self) -> Answer<'_, ()> {
        Box::pin(self.has_room())
    }

    fn get(&self, key: &str, at: Option<Rev>) -> Answer<'_, Option<Entry>> {
        let key = key.to_owned();
        Box::pin(async move { self.one(&key, at).await })
    }

    fn range(&self, prefix: &str, at: Option<Rev>) -> Answer<'_, Range> {
        let prefix = prefix.to_owned();
        Box::pin(async move { self.all(&prefix, at).await })
    }

    fn txn(&self, txn: Txn) -> Answer<'_, TxnResult> {
        Box::pin(self.commit(txn))
    }

    fn watch(&self, prefix: &str, from: Rev) -> Answer<'_, Watch> {
        let prefix = prefix.to_owned();
        Box::pin(async move { self.follow(&prefix, from).await })
    }

    fn lease(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        // Whole seconds, of which etcd makes more if it could not end them in time.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        Box::pin(self.ask(any, move |client| {
            Box::pin(async move { Ok(LeaseId(client.lease_client().grant(seconds, None).await?.id())) })
        }))
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        let kept = self
            .ask(any, move |client| Box::pin(async move { client.lease_client().keep_alive(lease.0).await.map(drop) }));
        Box::pin(async move { kept.await.map_err(|e| with_lease(e, Some(lease))) })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        let revoked =
            self.ask(any, move |client| Box::pin(async move { client.lease_client().revoke(lease.0).await.map(drop) }));
        Box::pin(async move { revoked.await.map_err(|e| with_lease(e, Some(lease))) })
    }

    fn compact(&self, rev: Rev) -> Answer<'_, ()> {
        let compacted = self.ask(any, move |client| {
            Box::pin(async move { client.kv_client().compact(signed(rev), None).await.map(drop) })
        });
        Box::pin(async move {
            match compacted.await {
                Ok(()) => Ok(()),
                Err(error) => Err(self.about(error, signed(rev)).await),
            }
        })
    }
}

/// What may be done twice without harm.
fn any(_: &Error) -> bool {
    true
}

/// A transaction that never left this machine, or that a member refused because it has no leader to give it to.
fn is_not_done(error: &Error) -> bool {
    match error {
        Error::TransportError(_) => true,
        Error::GRpcStatus(status) => {
            let message = status.message();
            message.contains("connect error") || message.contains("no leader")
        }
        _ => false,
    }
}

/// Whether another member might answer.
fn is_down(error: &Error) -> bool {
    !matches!(error, Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::LeaseKeepAliveError(_))
}

/// Whether all members would say the same.
fn is_final(error: &StoreError) -> bool {
    !matches!(error, StoreError::Unavailable(_) | StoreError::Closed)
}

fn failed(endpoint: &str, error: &Error) -> StoreError {
    StoreError::Unavailable(format!("{endpoint}: {error}"))
}

fn told(endpoint: &str, error: &Error) -> StoreError {
    let text = error.to_string();
    let has = |words: &str| text.contains(words);
    if has("required revision has been compacted") {
        return StoreError::Compacted { oldest: 0 };
    }
    if has("required revision is a future revision") {
        return StoreError::Future { asked: 0, current: 0 };
    }
    if has("lease not found") {
        return StoreError::NoLease(LeaseId(0));
    }
    if has("database space exceeded") {
        let repair = "`etcdctl compact` and `etcdctl defrag` make room, or a larger --quota-backend-bytes; then `etcdctl alarm disarm`";
        return StoreError::Full(format!("{endpoint}: {text}: {repair}"));
    }
    if has("too many operations") || has("request is too large") || has("message larger than max") {
        let limit = format!("{text}: controller.etcd.max_operations and max_request_bytes say more than etcd takes");
        return StoreError::Refused(limit);
    }
    failed(endpoint, error)
}

fn with_lease(error: StoreError, lease: Option<LeaseId>) -> StoreError {
    match (error, lease) {
        (StoreError::NoLease(_), Some(lease)) => StoreError::NoLease(lease),
        (error, _) => error,
    }
}

fn revision(header: Option<&ResponseHeader>) -> Rev {
    header.map_or(0, |h| unsigned(h.revision()))
}

/// The first key after all that begin with `prefix`; `\0` stands for none.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
