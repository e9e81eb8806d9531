//! What every store must do, written against the trait; run against SQLite and against etcd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/etcd.rs"]
mod etcd;

use etcd::{Cluster, until};
use penstock_admin_store::{
    Compare, ETCD_LIMITS, ETCD_QUOTA, Election, Entry, EtcdConfig, EtcdStore, Event, Operation, SqliteStore, Store,
    StoreError, Txn, Watch, migrate,
};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("penstock-store-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    async fn open(&self) -> SqliteStore {
        let start = Instant::now();
        SqliteStore::open(&self.0.join("store.db"), Box::new(move || start.elapsed())).await.unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn put(key: &str, value: &str) -> Txn {
    Txn { then: vec![Operation::put(key, value)], ..Txn::default() }
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|e| e.key.as_str()).collect()
}

async fn next(watch: &mut Watch) -> (u64, Vec<String>) {
    let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap();
    let say = |e: &Event| match e {
        Event::Put(e) => format!("{}={}", e.key, String::from_utf8_lossy(&e.value)),
        Event::Delete { key } => format!("-{key}"),
    };
    (batch.rev, batch.events.iter().map(say).collect())
}

async fn a_key_counts_its_changes<S: Store>(s: &S) {
    let first = s.txn(put("/a", "1")).await.unwrap().rev;
    let second = s.txn(put("/a", "2")).await.unwrap().rev;
    assert_eq!(second, first + 1);
    let e = s.get("/a", None).await.unwrap().unwrap();
    assert_eq!((e.create_rev, e.mod_rev, e.version, e.value.as_slice()), (first, second, 2, &b"2"[..]));
    assert_eq!(s.get("/a", Some(first)).await.unwrap().unwrap().value, b"1");
    s.txn(Txn { then: vec![Operation::delete("/a")], ..Txn::default() }).await.unwrap();
    assert_eq!(s.get("/a", None).await.unwrap(), None);
    let again = s.txn(put("/a", "3")).await.unwrap().rev;
    let e = s.get("/a", None).await.unwrap().unwrap();
    assert_eq!((e.create_rev, e.version), (again, 1), "a deleted key begins anew");
}

async fn a_range_holds_the_prefix_in_order_at_one_revision<S: Store>(s: &S) {
    for key in ["/r/b", "/r/a", "/r0", "/q", "/r/c/d"] {
        s.txn(put(key, "x")).await.unwrap();
    }
    let range = s.range("/r/", None).await.unwrap();
    assert_eq!(keys(&range.entries), ["/r/a", "/r/b", "/r/c/d"]);
    s.txn(Txn { then: vec![Operation::delete("/r/a")], ..Txn::default() }).await.unwrap();
    assert_eq!(keys(&s.range("/r/", Some(range.rev)).await.unwrap().entries), ["/r/a", "/r/b", "/r/c/d"]);
    assert_eq!(keys(&s.range("/r/", None).await.unwrap().entries), ["/r/b", "/r/c/d"]);
    assert!(matches!(s.range("", Some(range.rev + 1000)).await, Err(StoreError::Future { .. })));
}

async fn a_transaction_is_all_or_nothing_at_one_revision<S: Store>(s: &S) {
    let before = s.txn(put("/t/x", "1")).await.unwrap().rev;
    let swap = |is| Txn {
        compares: vec![
            Compare::ModRev { key: "/t/x".into(), is },
            Compare::Version { key: "/t/new".into(), is: 0 },
            Compare::Value { key: "/t/x".into(), is: b"1".to_vec() },
        ],
        then: vec![Operation::put("/t/x", "2"), Operation::put("/t/new", "n")],
        otherwise: vec![],
    };
    let refused = s.txn(swap(before + 7)).await.unwrap();
    assert!(!refused.succeeded);
    assert_eq!(refused.rev, before, "nothing changed, so the revision stands");
    assert_eq!(s.get("/t/new", None).await.unwrap(), None);
    let done = s.txn(swap(before)).await.unwrap();
    assert!(done.succeeded);
    for key in ["/t/x", "/t/new"] {
        assert_eq!(s.get(key, None).await.unwrap().unwrap().mod_rev, done.rev);
    }
    assert!(!s.txn(swap(before)).await.unwrap().succeeded);
}

async fn of_two_racing_transactions_one_wins<S: Store + Clone + 'static>(s: &S) {
    let rev = s.txn(put("/race", "0")).await.unwrap().rev;
    let mut tasks = Vec::new();
    for i in 0..16 {
        let s = s.clone();
        tasks.push(tokio::spawn(async move {
            let txn = Txn {
                compares: vec![Compare::ModRev { key: "/race".into(), is: rev }],
                then: vec![Operation::put("/race", format!("{i}"))],
                otherwise: vec![],
            };
            s.txn(txn).await.unwrap().succeeded
        }));
    }
    let mut winners = 0;
    for task in tasks {
        winners += usize::from(task.await.unwrap());
    }
    assert_eq!(winners, 1);
}

/// Each adds one to a counter that it has read. An increment that was acknowledged is in what is read afterwards, by anyone.
async fn transactions_are_linearizable<S: Store + Clone + 'static>(s: &S) {
    s.txn(put("/sum", "0")).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let s = s.clone();
        tasks.push(tokio::spawn(async move {
            let (mut done, mut last) = (0, 0);
            while done < 25 {
                let entry = s.get("/sum", None).await.unwrap().unwrap();
                let sum: u64 = String::from_utf8(entry.value).unwrap().parse().unwrap();
                assert!(sum >= last, "{sum} was read after {last}");
                let txn = Txn {
                    compares: vec![Compare::ModRev { key: "/sum".into(), is: entry.mod_rev }],
                    then: vec![Operation::put("/sum", (sum + 1).to_string())],
                    otherwise: vec![],
                };
                if s.txn(txn).await.unwrap().succeeded {
                    (done, last) = (done + 1, sum + 1);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(s.get("/sum", None).await.unwrap().unwrap().value, b"100");
}

async fn one_of_two_leads_and_what_a_former_leader_writes_is_refused<S: Store + Clone + 'static>(s: &S) {
    let election = |name: &str| Election {
        store: Arc::new(s.clone()),
        key: "/leader".into(),
        value: name.into(),
        ttl: Duration::from_secs(2),
        clock: || START.elapsed(),
    };
    let (a, b) = (election("a"), election("b"));
    let first = a.win().await;
    assert!(first.is_valid());
    assert_eq!(b.leader().await.unwrap().as_deref(), Some(&b"a"[..]));
    let (waits, next) = (b.clone(), tokio::spawn(async move { b.win().await }));
    tokio::select! {
        () = first.hold() => panic!("it was lost"),
        () = tokio::time::sleep(Duration::from_secs(3)) => assert!(!next.is_finished(), "two lead"),
    }
    // From here on the first stands still.
    let second = tokio::time::timeout(Duration::from_secs(20), next).await.unwrap().unwrap();
    assert!(!first.is_valid() && second.is_valid());
    assert!(second.term() > first.term());
    assert_eq!(waits.leader().await.unwrap().as_deref(), Some(&b"b"[..]));
    let write = |leader: &penstock_admin_store::Leadership, value: &str| Txn {
        compares: vec![leader.fence()],
        then: vec![Operation::put("/led", value)],
        otherwise: vec![],
    };
    assert!(s.txn(write(&second, "b")).await.unwrap().succeeded);
    assert!(!s.txn(write(&first, "a")).await.unwrap().succeeded, "it leads no more");
    assert_eq!(s.get("/led", None).await.unwrap().unwrap().value, b"b");
    second.resign().await;
    let third = tokio::time::timeout(Duration::from_secs(20), a.win()).await.unwrap();
    assert!(third.term() > second.term());
}

async fn a_watch_is_complete_ordered_and_resumable<S: Store>(s: &S) {
    let first = s.txn(put("/w/1", "a")).await.unwrap().rev;
    s.txn(put("/elsewhere", "a")).await.unwrap();
    let both = Txn { then: vec![Operation::put("/w/2", "b"), Operation::delete("/w/1")], ..Txn::default() };
    let second = s.txn(both).await.unwrap().rev;
    let mut watch = s.watch("/w/", first).await.unwrap();
    assert_eq!(next(&mut watch).await, (first, vec!["/w/1=a".into()]));
    assert_eq!(next(&mut watch).await, (second, vec!["/w/2=b".into(), "-/w/1".into()]), "a transaction is not split");
    let third = s.txn(put("/w/3", "c")).await.unwrap().rev;
    assert_eq!(next(&mut watch).await, (third, vec!["/w/3=c".into()]));
    drop(watch);
    let fourth = s.txn(put("/w/4", "d")).await.unwrap().rev;
    let mut resumed = s.watch("/w/", third + 1).await.unwrap();
    assert_eq!(next(&mut resumed).await, (fourth, vec!["/w/4=d".into()]));
}

async fn a_reader_that_falls_behind_is_cut_and_can_resume<S: Store>(s: &S) {
    let mut watch = s.watch("/slow/", s.range("", None).await.unwrap().rev + 1).await.unwrap();
    for i in 0..1100 {
        s.txn(put("/slow/k", &i.to_string())).await.unwrap();
    }
    let mut seen = 0;
    let mut last = 0;
    while let Some(batch) = watch.next().await {
        assert!(batch.rev > last);
        last = batch.rev;
        seen += 1;
    }
    assert!(seen < 1100);
    let mut resumed = s.watch("/slow/", last + 1).await.unwrap();
    // Not each revision is one of this prefix: leases of others may end meanwhile.
    for i in seen..1100 {
        let (rev, changes) = next(&mut resumed).await;
        assert!(rev > last);
        assert_eq!(changes, [format!("/slow/k={i}")]);
        last = rev;
    }
}

async fn what_was_compacted_cannot_be_read<S: Store>(s: &S) {
    let old = s.txn(put("/c", "1")).await.unwrap().rev;
    let now = s.txn(put("/c", "2")).await.unwrap().rev;
    s.compact(now).await.unwrap();
    assert!(matches!(s.get("/c", Some(old)).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(s.watch("/c", old).await, Err(StoreError::Compacted { .. })));
    assert_eq!(s.get("/c", None).await.unwrap().unwrap().value, b"2");
    let later = s.txn(put("/c", "3")).await.unwrap().rev;
    let mut watch = s.watch("/c", now + 1).await.unwrap();
    assert_eq!(next(&mut watch).await.0, later);
}

async fn a_lease_takes_its_keys_with_it<S: Store>(s: &S) {
    let lease = s.lease(Duration::from_millis(300)).await.unwrap();
    let op = |key: &str| Operation::Put { key: key.into(), value: b"x".to_vec(), lease: Some(lease) };
    let rev = s.txn(Txn { then: vec![op("/l/1"), op("/l/2")], ..Txn::default() }).await.unwrap().rev;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        s.keep_alive(lease).await.unwrap();
    }
    assert_eq!(s.range("/l/", None).await.unwrap().entries.len(), 2);
    let mut watch = s.watch("/l/", rev + 1).await.unwrap();
    assert_eq!(next(&mut watch).await.1, ["-/l/1", "-/l/2"], "both go at one revision");
    assert!(matches!(s.keep_alive(lease).await, Err(StoreError::NoLease(_))));
    assert!(matches!(s.txn(Txn { then: vec![op("/l/3")], ..Txn::default() }).await, Err(StoreError::NoLease(_))));
    let other = s.lease(Duration::from_secs(3600)).await.unwrap();
    let put = Operation::Put { key: "/l/4".into(), value: vec![], lease: Some(other) };
    s.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    s.revoke(other).await.unwrap();
    assert_eq!(s.get("/l/4", None).await.unwrap(), None);
}

async fn a_transaction_beyond_the_limits_is_refused_whole<S: Store>(s: &S) {
    let limits = s.limits();
    let keys = |n: usize| (0..n).map(|i| Operation::put(format!("/m/{i}"), "")).collect::<Vec<_>>();
    let most = Txn { then: keys(limits.operations), ..Txn::default() };
    assert!(s.txn(most).await.unwrap().succeeded);
    let many = Txn { then: keys(limits.operations + 1), ..Txn::default() };
    assert!(matches!(s.txn(many).await, Err(StoreError::TooLarge { .. })));
    let large = Txn { then: vec![Operation::put("/n", vec![0; limits.bytes + 1])], ..Txn::default() };
    assert!(matches!(s.txn(large).await, Err(StoreError::TooLarge { .. })));
    let twice = Txn { then: vec![Operation::put("/n", "1"), Operation::delete("/n")], ..Txn::default() };
    assert!(matches!(s.txn(twice).await, Err(StoreError::DuplicateKey(_))));
    assert_eq!(s.get("/n", None).await.unwrap(), None);
    assert_eq!(s.range("/m/", None).await.unwrap().entries.len(), limits.operations);
}

async fn conforms<S: Store + Clone + 'static>(s: &S) {
    a_key_counts_its_changes(s).await;
    a_range_holds_the_prefix_in_order_at_one_revision(s).await;
    a_transaction_is_all_or_nothing_at_one_revision(s).await;
    of_two_racing_transactions_one_wins(s).await;
    transactions_are_linearizable(s).await;
    one_of_two_leads_and_what_a_former_leader_writes_is_refused(s).await;
    a_watch_is_complete_ordered_and_resumable(s).await;
    a_reader_that_falls_behind_is_cut_and_can_resume(s).await;
    a_lease_takes_its_keys_with_it(s).await;
    a_transaction_beyond_the_limits_is_refused_whole(s).await;
    what_was_compacted_cannot_be_read(s).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_conforms() {
    let place = Place::new();
    conforms(&place.open().await).await;
}

async fn begin(cluster: &Cluster) -> EtcdStore {
    with_quota(cluster, ETCD_QUOTA).await
}

async fn with_quota(cluster: &Cluster, quota: u64) -> EtcdStore {
    let (endpoints, prefix) = (cluster.endpoints(), "/pst-test".into());
    let config = EtcdConfig { endpoints, prefix, tls: None, limits: ETCD_LIMITS, quota };
    EtcdStore::open(config).await.unwrap()
}

async fn open(cluster: &Cluster) -> EtcdStore {
    let store = begin(cluster).await;
    until(|| store.get("/", None)).await;
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_conforms() {
    if !etcd::is_installed() {
        return;
    }
    let cluster = Cluster::start(1);
    conforms(&open(&cluster).await).await;
}

/// Before the quota is reached; and what an etcd that has reached it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_nearly_full_is_said_before_it_is_full() {
    if !etcd::is_installed() {
        return;
    }
    const QUOTA: u64 = 4 << 20;
    let cluster = Cluster::start_with(1, &[&format!("--quota-backend-bytes={QUOTA}"), "--backend-batch-limit=1"]);
    let s = open(&cluster).await;
    s.room().await.unwrap();
    let s = with_quota(&cluster, QUOTA).await;
    s.room().await.unwrap();
    let large = "x".repeat(400_000);
    let mut warned = false;
    let full = loop {
        warned |= matches!(s.room().await, Err(StoreError::Full(_)));
        match s.txn(put("/large", &large)).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(&full, StoreError::Full(said) if said.contains("etcdctl defrag")), "{full}");
    assert!(warned, "it was full before anybody was told");
    let with_another_quota = open(&cluster).await.room().await;
    assert!(
        matches!(&with_another_quota, Err(StoreError::Full(said)) if said.contains("NOSPACE")),
        "{with_another_quota:?}"
    );
    // What makes room is not refused.
    let now = s.range("", None).await.unwrap().rev;
    s.compact(now).await.unwrap();
    assert_eq!(s.get("/large", None).await.unwrap().unwrap().value.len(), large.len());
}

/// What was acknowledged is there after two of three members, one after the other, were killed in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_loses_no_acknowledged_write_with_a_member() {
    if !etcd::is_installed() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let s = open(&cluster).await;
    let mut watch = s.watch("/k/", s.range("", None).await.unwrap().rev + 1).await.unwrap();
    let mut acknowledged = Vec::new();
    for i in 0..120 {
        if i % 40 == 20 {
            cluster.members[i / 40].kill();
        }
        if i == 50 {
            cluster.members[0].start();
        }
        if i == 90 {
            cluster.members[1].start();
        }
        let key = format!("/k/{i:03}");
        // An unknown outcome is asked again: the same value does no harm.
        until(|| s.txn(put(&key, "x"))).await;
        acknowledged.push(key);
    }
    let range = s.range("/k/", None).await.unwrap();
    assert_eq!(keys(&range.entries), acknowledged);
    let mut seen = Vec::new();
    let mut from = 1;
    while seen.last() != acknowledged.last() {
        match tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap() {
            Some(batch) => {
                from = batch.rev + 1;
                seen.extend(batch.events.iter().map(|e| e.key().to_owned()));
            }
            None => watch = until(|| s.watch("/k/", from)).await,
        }
    }
    seen.dedup();
    assert_eq!(seen, acknowledged, "the watch was resumed without a gap");
}

/// Of three members the one that is asked first stands still: the two others keep the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_answer_costs_nobody_the_leadership() {
    if !etcd::is_installed() {
        return;
    }
    let cluster = Cluster::start(3);
    open(&cluster).await;
    // All members are there, so it stays with the first.
    let s = begin(&cluster).await;
    let election = Election {
        store: Arc::new(s.clone()),
        key: "/leader".into(),
        value: "a".into(),
        ttl: Duration::from_secs(4),
        clock: || START.elapsed(),
    };
    let leadership = election.win().await;
    cluster.members[0].signal("STOP");
    tokio::select! {
        () = leadership.hold() => panic!("it was lost"),
        () = tokio::time::sleep(Duration::from_secs(12)) => {}
    }
    assert!(leadership.is_valid());
    assert!(s.txn(Txn { compares: vec![leadership.fence()], ..put("/led", "a") }).await.unwrap().succeeded);
}

#[tokio::test]
async fn an_etcd_that_is_gone_is_an_error_and_not_an_empty_store() {
    let endpoints = vec!["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()];
    let config =
        EtcdConfig { endpoints, prefix: "/pst-test".into(), tls: None, limits: ETCD_LIMITS, quota: ETCD_QUOTA };
    let s = EtcdStore::open(config).await.unwrap();
    assert!(matches!(s.get("/a", None).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(s.range("", None).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(s.txn(put("/a", "1")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(s.watch("", 1).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_whole_and_once() {
    if !etcd::is_installed() {
        return;
    }
    let (place, cluster) = (Place::new(), Cluster::start(1));
    let from = place.open().await;
    for i in 0..300 {
        from.txn(put(&format!("/k/{i}"), &i.to_string())).await.unwrap();
    }
    from.txn(put("/large", &"x".repeat(1 << 20))).await.unwrap();
    let lease = from.lease(Duration::from_secs(600)).await.unwrap();
    let leased = Operation::Put { key: "/leased".into(), value: vec![], lease: Some(lease) };
    from.txn(Txn { then: vec![leased], ..Txn::default() }).await.unwrap();
    let to = open(&cluster).await;
    let last = || Operation::put("/last", "300");
    assert_eq!(migrate(&from, &to, last()).await.unwrap(), 302);
    let values = |entries: Vec<Entry>| entries.into_iter().map(|e| (e.key, e.value)).collect::<Vec<_>>();
    assert_eq!(
        values(from.range("/k/", None).await.unwrap().entries),
        values(to.range("/k/", None).await.unwrap().entries)
    );
    assert_eq!(to.get("/last", None).await.unwrap().unwrap().value, b"300");
    assert_eq!(to.get("/leased", None).await.unwrap(), None);
    assert!(matches!(migrate(&from, &to, last()).await, Err(StoreError::Refused(_))), "it is there already");
}

#[tokio::test]
async fn a_file_is_one_processs_and_a_backup_is_made_while_it_is_written() {
    let place = Place::new();
    let s = place.open().await;
    for i in 0..50 {
        s.txn(put(&format!("/k/{i}"), "x")).await.unwrap();
    }
    let again = SqliteStore::open(&place.0.join("store.db"), Box::new(|| Duration::ZERO)).await;
    assert!(matches!(again, Err(StoreError::Locked(_))));
    let (from, to) = (place.0.join("store.db"), place.0.join("copy.db"));
    let writes = async {
        for i in 50..100 {
            s.txn(put(&format!("/k/{i}"), "x")).await.unwrap();
        }
    };
    let copy = tokio::task::spawn_blocking(move || {
        let copied = SqliteStore::backup(&from, &to, &["/k/7", "/none"]);
        copied.map(|()| assert!(SqliteStore::backup(&from, &to, &[]).is_err(), "it is there"))
    });
    let (copied, ()) = tokio::join!(copy, writes);
    copied.unwrap().unwrap();
    let start = Instant::now();
    let copy = SqliteStore::open(&place.0.join("copy.db"), Box::new(move || start.elapsed())).await.unwrap();
    let range = copy.range("/k/", None).await.unwrap();
    assert!((49..=99).contains(&range.entries.len()));
    assert_eq!(copy.get("/k/7", None).await.unwrap(), None, "it was to be left out");
    assert_eq!(range.rev, range.entries.iter().map(|e| e.mod_rev).max().unwrap(), "as it was at one moment");
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_said_before_it_is_full() {
    let place = Place::new();
    let s = place.open().await.with_watermark(0);
    s.room().await.unwrap();
    let full = s.clone().with_watermark(u64::MAX);
    assert!(matches!(full.room().await, Err(StoreError::Full(_))));
    assert!(full.txn(put("/own", "x")).await.unwrap().succeeded, "what must be kept is kept");
}

#[tokio::test]
async fn sqlite_keeps_revisions_and_history_over_a_restart() {
    let place = Place::new();
    let (first, second) = {
        let s = place.open().await;
        (s.txn(put("/a", "1")).await.unwrap().rev, s.txn(put("/a", "2")).await.unwrap().rev)
    };
    let s = place.open().await;
    assert_eq!(s.get("/a", Some(first)).await.unwrap().unwrap().value, b"1");
    assert_eq!(s.range("", None).await.unwrap().rev, second);
    assert_eq!(s.txn(put("/a", "3")).await.unwrap().rev, second + 1);
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_not_an_empty_store() {
    let place = Place::new();
    let path = place.0.join("store.db");
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    let opened = SqliteStore::open(&path, Box::new(|| Duration::ZERO)).await;
    assert!(matches!(opened, Err(StoreError::Open { .. } | StoreError::Damaged(_))));
}
