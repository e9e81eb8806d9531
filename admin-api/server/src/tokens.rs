//! API tokens: for programs that have no certificate. Only a hash of the secret is kept; a token has a role and an end.
use crate::access::{Caller, HeldToken, Role};
use crate::history::UnixMillis;
use crate::refusal::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use penstock_admin_store::{Compare, Operation, Store, StoreError, Txn};
use penstock_clock::WallClock;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

const PREFIX: &str = "/penstock/tokens/";
/// Tokens at once.
const MOST: usize = 1000;
const LONGEST: u64 = 366 * 86_400;

/// What an operator asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Wanted {
    name: String,
    role: Role,
    tenant: Option<String>,
    expires_in_seconds: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    name: String,
    role: Role,
    tenant: Option<String>,
    /// SHA-256 of the secret. The secret has 256 random bits: nothing is won by hashing slowly.
    hash: String,
    created: UnixMillis,
    expires: UnixMillis,
    author: String,
}

impl Token {
    fn shown(&self, id: &str) -> Value {
        json!({
            "id": id,
            "name": self.name,
            "role": self.role,
            "tenant": self.tenant,
            "created": self.created.to_string(),
            "expires": self.expires.to_string(),
            "author": self.author,
        })
    }
}

/// Makes a token: its secret is in the answer, and nowhere else.
pub(crate) async fn create(store: &dyn Store, wanted: Wanted, author: &str) -> Result<Value, Refusal> {
    let wrong = |message: &str| Err(Refusal::BadRequest { code: "BadRequest", message: message.to_owned() });
    let plain = |s: &str| (1..=64).contains(&s.len()) && !s.contains(|c: char| c.is_control());
    if !plain(&wanted.name) || wanted.tenant.as_deref().is_some_and(|t| !plain(t)) {
        return wrong("name and tenant have 1 to 64 bytes, none of them a control character");
    }
    if wanted.role.is_tenants() != wanted.tenant.is_some() {
        return wrong("the roles of tenants need a tenant, the others have none");
    }
    if !(1..=LONGEST).contains(&wanted.expires_in_seconds) {
        return wrong("expiresInSeconds is 1 to 31622400: a token ends");
    }
    if store.range(PREFIX, None).await?.entries.len() >= MOST {
        return wrong("there are 1000 tokens already: delete some");
    }
    let random = SystemRandom::new();
    let (mut id, mut secret) = ([0_u8; 8], [0_u8; 32]);
    random.fill(&mut id).and_then(|()| random.fill(&mut secret)).map_err(|_| crate::secrets::SecretError::Random)?;
    let (id, secret) = (hex(&id), URL_SAFE_NO_PAD.encode(secret));
    let now = UnixMillis::of(WallClock::now());
    let token = Token {
        name: wanted.name,
        role: wanted.role,
        tenant: wanted.tenant,
        hash: hash(&secret),
        created: now,
        expires: now.plus(Duration::from_secs(wanted.expires_in_seconds)),
        author: author.to_owned(),
    };
    let bytes = serde_json::to_vec(&token).map_err(|e| Refusal::Internal(e.to_string()))?;
    let key = format!("{PREFIX}{id}");
    let compares = vec![Compare::Version { key: key.clone(), is: 0 }];
    let txn = Txn { compares, then: vec![Operation::put(key, bytes)], otherwise: Vec::new() };
    if !store.txn(txn).await?.succeeded {
        return Err(Refusal::Conflict);
    }
    let mut shown = token.shown(&id);
    if let Some(map) = shown.as_object_mut() {
        map.insert("token".to_owned(), json!(format!("pst_{id}_{secret}")));
    }
    Ok(shown)
}

pub(crate) async fn list(store: &dyn Store) -> Result<Value, Refusal> {
    let mut items = Vec::new();
    for entry in store.range(PREFIX, None).await?.entries {
        let id = entry.key.strip_prefix(PREFIX).unwrap_or_default();
        items.push(read(&entry.key, &entry.value)?.shown(id));
    }
    Ok(json!({"value": items, "nextLink": ""}))
}

pub(crate) async fn delete(store: &dyn Store, id: &str) -> Result<(), Refusal> {
    let key = format!("{PREFIX}{id}");
    if store.get(&key, None).await?.is_none() {
        return Err(Refusal::NotFound(format!("there is no token {id}")));
    }
    store.txn(Txn { then: vec![Operation::delete(key)], ..Txn::default() }).await?;
    Ok(())
}

/// The id of a token, which is no secret, and its secret.
pub(crate) fn parts(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("pst_")?.split_once('_')
}

/// Who a token speaks for. What is wrong with it is not said: only that it is not good.
pub(crate) async fn caller(store: &dyn Store, text: &str, from: Option<IpAddr>) -> Result<Caller, Refusal> {
    let bad = || Refusal::Unauthorized("the token is not known, or has ended".to_owned());
    let (id, secret) = parts(text).ok_or_else(bad)?;
    if id.len() != 16 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let key = format!("{PREFIX}{id}");
    let entry = store.get(&key, None).await?.ok_or_else(bad)?;
    let token = read(&key, &entry.value)?;
    // Of hashes: how long a comparison takes says nothing about the secret.
    if token.hash != hash(secret) || token.expires <= UnixMillis::of(WallClock::now()) {
        return Err(bad());
    }
    let held = HeldToken { id: id.to_owned(), expires: token.expires };
    Ok(Caller {
        name: format!("token:{id}:{}", token.name),
        role: token.role,
        tenant: token.tenant,
        from,
        token: Some(held),
    })
}

/// Whether a token that was good has neither ended nor been deleted since.
pub(crate) async fn holds(store: &dyn Store, held: &HeldToken) -> bool {
    let is_there = matches!(store.get(&format!("{PREFIX}{}", held.id), None).await, Ok(Some(_)));
    is_there && held.expires > UnixMillis::of(WallClock::now())
}

fn read(key: &str, bytes: &[u8]) -> Result<Token, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Damaged(format!("{key}: {e}")))
}

fn hash(secret: &str) -> String {
    hex(digest(&SHA256, secret.as_bytes()).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}
