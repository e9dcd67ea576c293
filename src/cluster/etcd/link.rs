//! Connections to etcd, and what is asked over one. Everything here has a time limit: a call to
//! an etcd that hangs would wait for as long as it does.

use std::error::Error as _;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity, KeyValue,
    KvClient, PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use thiserror::Error;
use tonic::Code;

use super::StartError;
use super::keys::{self, Keys, Other};
use crate::cluster::options::EtcdOptions;
use crate::cluster::{Holder, foreign_words};
use crate::engine::id::RoomId;
use crate::limits::{
    ETCD_CONNECT_TIMEOUT, ETCD_MESSAGE_MAX, ETCD_PROBE, ETCD_REQUEST_TIMEOUT, NODES_READ_AT_ONCE,
};

/// How often a transaction is tried in whose way others come.
const TRIES: usize = 5;

/// Why etcd did not do what it was asked.
#[derive(Debug, Error)]
pub(super) enum Fault {
    /// It says nothing.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// It says so.
    #[error("{}", describe(.0))]
    Etcd(#[from] Error),
    /// The lease has expired, or this etcd has never had it.
    #[error("the lease is gone")]
    NoLease,
    /// The stream has ended.
    #[error("{0}")]
    Ended(String),
    /// Others write this key again and again.
    #[error("others write the same key without end")]
    Crowded,
}

impl Fault {
    /// What it refuses whoever we are, or because of who we are: trying again does not help.
    pub(super) fn is_refusal(&self) -> bool {
        let Fault::Etcd(Error::GRpcStatus(status)) = self else {
            return false;
        };
        matches!(
            status.code(),
            Code::Unauthenticated
                | Code::PermissionDenied
                | Code::InvalidArgument
                | Code::FailedPrecondition
        )
    }

    /// It knows nothing of our lease.
    pub(super) fn is_no_lease(&self) -> bool {
        match self {
            Fault::NoLease => true,
            // What etcd-client makes of the answer of a stream that keeps a lease alive.
            Fault::Etcd(Error::LeaseKeepAliveError(text)) => text == "lease not found",
            Fault::Etcd(Error::GRpcStatus(status)) => {
                status.code() == Code::NotFound && status.message().contains("lease")
            }
            _ => false,
        }
    }
}

/// The words of etcd, or of the system, without those of the layers between.
fn describe(error: &Error) -> String {
    let text = match error {
        Error::GRpcStatus(status) => {
            let mut text = status.message().to_owned();
            let mut source = status.source();
            while let Some(inner) = source {
                text = inner.to_string();
                source = inner.source();
            }
            if text.is_empty() {
                text = format!("{:?}", status.code());
            }
            text
        }
        other => other.to_string(),
    };
    foreign_words(&text)
}

/// Waits for etcd, but not for ever.
///
/// # Errors
/// [`Fault`].
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Late(limit)),
    }
}

/// The same for as long as one request may take.
///
/// # Errors
/// [`Fault`].
pub(super) async fn ask<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
    within(ETCD_REQUEST_TIMEOUT, call).await
}

// --- Connecting ---------------------------------------------------------------------------

/// What the settings say of how to connect, with the files that they name read.
///
/// # Errors
/// [`StartError::File`].
pub(super) fn connect_options(options: &EtcdOptions) -> Result<ConnectOptions, StartError> {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(ETCD_CONNECT_TIMEOUT)
        .with_timeout(ETCD_REQUEST_TIMEOUT)
        .with_keep_alive(ETCD_PROBE, ETCD_PROBE)
        // Rather none than a member that is cut off from the others.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some((user, password)) = &options.user {
        connect = connect.with_user(user.clone(), password.0.clone());
    }
    let is_https = |url: &String| url.starts_with("https://");
    if options.endpoints.iter().any(is_https) || options.ca.is_some() || options.identity.is_some()
    {
        connect = connect.with_tls(tls(options)?);
    }
    Ok(connect)
}

fn tls(options: &EtcdOptions) -> Result<TlsOptions, StartError> {
    let mut tls = TlsOptions::new();
    tls = match &options.ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read_pem(
            "--etcd-ca",
            ca,
            "CERTIFICATE",
        )?)),
        None => tls.with_enabled_roots(),
    };
    if let Some((cert, key)) = &options.identity {
        let cert = read_pem("--etcd-cert", cert, "CERTIFICATE")?;
        let key = read_pem("--etcd-key", key, "PRIVATE KEY")?;
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Ok(tls)
}

fn read_pem(setting: &'static str, path: &Path, what: &str) -> Result<Vec<u8>, StartError> {
    let failed = |why: String| StartError::File {
        setting,
        path: path.to_owned(),
        why,
    };
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    // The library takes anything, and would say nothing useful later.
    let has_it = String::from_utf8_lossy(&bytes)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.ends_with(&format!("{what}-----")));
    if has_it {
        Ok(bytes)
    } else {
        Err(failed(format!("there is no {what} in PEM in it")))
    }
}

/// Connects to one member, and proves who we are if the settings say who.
///
/// # Errors
/// [`Fault`].
pub(super) async fn connect(endpoint: &str, connect: ConnectOptions) -> Result<Client, Fault> {
    let limit = ETCD_CONNECT_TIMEOUT + ETCD_REQUEST_TIMEOUT;
    within(limit, Client::connect([endpoint], Some(connect))).await
}

// --- Our node's key -----------------------------------------------------------------------

/// How the writing of our node's key went.
pub(super) enum Registered {
    /// It is written.
    Written {
        /// In this revision.
        revision: i64,
        /// Somebody else wrote it in our name since we did.
        has_twin: bool,
    },
    /// It is another server's.
    Taken(Other),
}

/// Writes the key of our node, unless it is another server's: when `known` is the revision in which
/// we wrote it last, in one transaction.
///
/// # Errors
/// [`Fault`].
pub(super) async fn register(
    mut kv: KvClient,
    keys: &Keys,
    value: Vec<u8>,
    lease: i64,
    known: Option<i64>,
) -> Result<Registered, Fault> {
    let key = keys.own();
    let mut revision = known.unwrap_or(0);
    let mut has_twin = false;
    for _ in 0..TRIES {
        let put = TxnOp::put(key.clone(), value.clone(), Some(lease_of(lease)));
        let (is_done, now, found) = swap(&mut kv, &key, revision, put).await?;
        if is_done {
            let revision = now;
            return Ok(Registered::Written { revision, has_twin });
        }
        revision = 0;
        if let Some(found) = found {
            match keys::writer(&keys.node, found.value()) {
                Some(other) if other.instance != keys.instance => {
                    return Ok(Registered::Taken(other));
                }
                // Ours, of before, or nobody's.
                writer => {
                    has_twin |= writer.is_some() && known.is_some() && found.lease() != lease;
                    revision = found.mod_revision();
                }
            }
        }
    }
    Err(Fault::Crowded)
}

/// Deletes the key of our node, if it is ours by this lease.
///
/// # Errors
/// [`Fault`].
pub(super) async fn deregister(mut kv: KvClient, keys: &Keys, lease: i64) -> Result<(), Fault> {
    let key = keys.own();
    let compare = Compare::lease(key.as_str(), CompareOp::Equal, lease);
    let delete = TxnOp::delete(key.as_str(), None);
    either(&mut kv, &key, compare, delete).await.map(drop)
}

/// Carries out `op` if the key was written last in this revision (0: if it is not there); says
/// whether it did, the revision of now, and what is there if not.
async fn swap(
    kv: &mut KvClient,
    key: &str,
    revision: i64,
    op: TxnOp,
) -> Result<(bool, i64, Option<KeyValue>), Fault> {
    let compare = Compare::mod_revision(key, CompareOp::Equal, revision);
    either(kv, key, compare, op).await
}

async fn either(
    kv: &mut KvClient,
    key: &str,
    compare: Compare,
    op: TxnOp,
) -> Result<(bool, i64, Option<KeyValue>), Fault> {
    let txn = Txn::new()
        .when([compare])
        .and_then([op])
        .or_else([TxnOp::get(key, None)]);
    let answer = ask(kv.txn(txn)).await?;
    let now = answer.header().map_or(0, |header| header.revision());
    let found = match answer.op_responses().into_iter().next() {
        Some(TxnOpResponse::Get(mut found)) => found.take_kvs().pop(),
        _ => None,
    };
    Ok((answer.succeeded(), now, found))
}

fn lease_of(lease: i64) -> PutOptions {
    PutOptions::new().with_lease(lease)
}

// --- The nodes ----------------------------------------------------------------------------

/// A part of the keys of all nodes, from `from` on: the keys, where the next part begins, and the
/// revision that was read. With `revision`, as of then.
///
/// # Errors
/// [`Fault`].
pub(super) async fn nodes(
    kv: KvClient,
    keys: &Keys,
    from: Option<Vec<u8>>,
    revision: i64,
) -> Result<(Vec<KeyValue>, Option<Vec<u8>>, i64), Fault> {
    let prefix = keys.nodes();
    let mut end = prefix.clone().into_bytes();
    // The slash at its end, and what comes after it.
    end.pop();
    end.push(b'/' + 1);
    let options = GetOptions::new()
        .with_range(end)
        .with_limit(NODES_READ_AT_ONCE)
        .with_revision(revision);
    let mut kv = kv.max_decoding_message_size(ETCD_MESSAGE_MAX);
    let from = from.unwrap_or_else(|| prefix.into_bytes());
    let mut answer = ask(kv.get(from, Some(options))).await?;
    let now = answer.header().map_or(0, |header| header.revision());
    let has_more = answer.more();
    let found = answer.take_kvs();
    let next = found.last().filter(|_| has_more).map(|last| {
        let mut next = last.key().to_vec();
        next.push(0);
        next
    });
    Ok((found, next, now))
}

// --- Rooms --------------------------------------------------------------------------------

/// A value that names nobody, and what is wrong with it.
pub(super) struct Odd {
    pub(super) revision: i64,
    pub(super) why: String,
}

/// Writes the claim of a room, unless it is another node's: then says whose. A value that names
/// nobody is overwritten.
///
/// # Errors
/// [`Fault`].
pub(super) async fn put_claim(
    mut kv: KvClient,
    keys: &Keys,
    room: RoomId,
    value: Vec<u8>,
    lease: i64,
    on_odd: impl Fn(&str, Odd),
) -> Result<Option<Holder>, Fault> {
    let key = keys.room(room);
    let mut revision = 0;
    for _ in 0..TRIES {
        let put = TxnOp::put(key.clone(), value.clone(), Some(lease_of(lease)));
        let (is_done, _, found) = swap(&mut kv, &key, revision, put).await?;
        if is_done {
            return Ok(None);
        }
        let Some(found) = found else {
            revision = 0;
            continue;
        };
        revision = found.mod_revision();
        match keys::holder(found.value()) {
            Ok(holder) if !keys.is_ours(&holder) => return Ok(Some(holder)),
            // Ours, of before.
            Ok(_) => {}
            Err(why) => on_odd(&key, Odd { revision, why }),
        }
    }
    Err(Fault::Crowded)
}

/// Deletes the claim of a room if it is ours: this one, or an older one, of which nobody knows
/// whether it went.
///
/// # Errors
/// [`Fault`].
pub(super) async fn erase_claim(
    mut kv: KvClient,
    keys: &Keys,
    room: RoomId,
    value: Vec<u8>,
) -> Result<(), Fault> {
    let key = keys.room(room);
    let mut compare = Compare::value(key.clone(), CompareOp::Equal, value);
    for _ in 0..TRIES {
        let delete = TxnOp::delete(key.clone(), None);
        let (is_done, _, found) = either(&mut kv, &key, compare, delete).await?;
        let found = found.filter(|_| !is_done);
        let ours = found
            .filter(|found| keys::holder(found.value()).is_ok_and(|holder| keys.is_ours(&holder)));
        let Some(ours) = ours else { return Ok(()) };
        compare = Compare::mod_revision(key.clone(), CompareOp::Equal, ours.mod_revision());
    }
    Err(Fault::Crowded)
}

/// Who has a room. A value that names nobody is nobody.
///
/// # Errors
/// [`Fault`].
pub(super) async fn holder(
    mut kv: KvClient,
    keys: &Keys,
    room: RoomId,
    patience: Duration,
    on_odd: impl Fn(&str, Odd),
) -> Result<Option<Holder>, Fault> {
    let key = keys.room(room);
    let mut answer = within(patience, kv.get(key.clone(), None)).await?;
    let Some(found) = answer.take_kvs().pop() else {
        return Ok(None);
    };
    let holder = keys::holder(found.value());
    Ok(holder.map_or_else(
        |why| {
            let revision = found.mod_revision();
            on_odd(&key, Odd { revision, why });
            None
        },
        Some,
    ))
}
