//! This server in etcd: its node's key and the claims of its rooms, under one lease, and the keys of
//! the other nodes.
//!
//! - [`Etcd`] is what others see: a facade that blocks its callers, never the loop;
//! - `supervisor` owns the connection: it registers, keeps alive, watches, carries out the work on
//!   claims, and does all of it again when anything fails;
//! - `shared` is what both know, and the ear for what the loop says;
//! - `claims` (pure) decides what is to be done for which room;
//! - `nodes` and `keys` (pure) judge what others wrote; `link` is every call to etcd.
//!
//! Nothing here ends or delays a match: without etcd everything goes on, and what had to be written
//! is written when it is back.
//!
//! Rooms are not watched: a claim that somebody else deletes or overwrites by hand is put back only
//! with the next connection. A value at a room's key that names nobody is skipped by who looks for the
//! room, and overwritten by who claims it.

mod claims;
mod keys;
mod link;
mod nodes;
mod shared;
mod supervisor;

use std::future::Future;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::node::{Instance, NodeId, NodeRecord};
use super::options::EtcdOptions;
use super::runtime;
use super::{Claim, Claimed, EtcdStats, Holder, NoEtcd, RequestKey, Seen};
use crate::engine::id::{MatchId, RoomId};
use crate::io::control;
use crate::io::feed::Feed;
use crate::io::metrics::Load;
use crate::limits::{CLAIM_PATIENCE, ETCD_LEAVE, ETCD_START, ETCD_START_TAKEN, HOLDER_PATIENCE};
use claims::Asked;
use keys::Other;
use shared::{Shared, State};
use supervisor::Progress;

/// Contested rooms that [`Etcd::warnings`] names one by one.
const CONTESTED_NAMED_MAX: usize = 10;

/// Called when a match turns out to run under a number that another node holds: the room, its match
/// here, and who holds it. On the thread of the runtime: it must not block.
pub type OnContested = Box<dyn Fn(RoomId, MatchId, &NodeId) + Send + Sync>;

/// Who this server is.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Which one of its name.
    pub instance: Instance,
    /// That comes from a data directory: a key of our own of before a crash is known as ours.
    pub is_kept: bool,
    /// What there is to do, until the loop says so: the first that others hear of.
    pub load: Load,
}

/// Why a server cannot be part of its cluster. The text is for its operator.
#[derive(Debug, Error)]
pub enum StartError {
    /// A file that a setting names.
    #[error("{setting}: {path:?}: {why}")]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// etcd answers, and refuses.
    #[error("{setting}: etcd refuses: {why}; {remedy}")]
    Refused {
        /// The setting.
        setting: &'static str,
        /// Its words.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// The settings do not fit each other, or a file holds what cannot be used.
    #[error("--etcd: {0}; look at --etcd, --etcd-ca, --etcd-cert and --etcd-key")]
    Settings(String),
    /// Another server runs under our name.
    #[error(
        "--node-id: {id:?} is {holder}; choose another --node-id, or stop that server (if it is \
         gone already, its key goes with its --etcd-ttl)"
    )]
    Taken {
        /// Our name.
        id: String,
        /// Who has it.
        holder: String,
    },
    /// The system has none.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// This server's part in etcd. When it is dropped, what it wrote goes with its lease; see
/// [`Etcd::leave`].
pub struct Etcd {
    shared: Arc<Shared>,
    handle: Handle,
    tasks: Vec<JoinHandle<()>>,
}

impl Etcd {
    /// Registers this server, and keeps it registered from now on. Waits for its first outcome: a
    /// few seconds at most, and for the ttl and 2 s if another server has our name. An etcd that does
    /// not answer is no error: the server runs alone until it does. Not for the runtime's own thread.
    ///
    /// The feed is the loop's. `on_contested` is called on the
    /// runtime's thread and must not block.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        handle: &Handle,
        options: EtcdOptions,
        own: Own,
        control: control::Handle,
        on_contested: OnContested,
    ) -> Result<(Etcd, Feed), StartError> {
        let connect = link::connect_options(&options)?;
        let nonce = getrandom::u64().map_err(|_| StartError::NoRandomness)?;
        let shared = Shared::new(options, &own, nonce, control, on_contested);
        let shared = Arc::new(shared);
        let (sender, progress) = mpsc::channel();
        let supervisor = supervisor::run(Arc::clone(&shared), connect, sender);
        let etcd = Etcd {
            handle: handle.clone(),
            tasks: vec![
                handle.spawn(shared::listen(Arc::clone(&shared))),
                handle.spawn(supervisor),
            ],
            shared,
        };
        etcd.wait_for_outcome(&progress, own.is_kept)?;
        let feed = etcd.shared.ear.feed();
        Ok((etcd, feed))
    }

    fn wait_for_outcome(
        &self,
        progress: &mpsc::Receiver<Progress>,
        is_kept: bool,
    ) -> Result<(), StartError> {
        let options = &self.shared.options;
        let began = Instant::now();
        let mut until = began + ETCD_START;
        let mut taken: Option<Other> = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let outcome = match progress.recv_timeout(left) {
                Ok(outcome) => outcome,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let Some(holder) = taken else {
                        self.shared.start_alone("no answer");
                        return Ok(());
                    };
                    return Err(StartError::Taken {
                        id: options.node.to_string(),
                        holder: holder.describe(),
                    });
                }
            };
            match outcome {
                Progress::Registered => return Ok(()),
                Progress::Refused(error) => return Err(error),
                Progress::Lost(why) => {
                    // Who waits for a name goes on waiting: etcd may be back in time.
                    if taken.is_none() {
                        self.shared.start_alone(&why);
                        return Ok(());
                    }
                }
                Progress::Taken(other) => {
                    if taken.is_none() {
                        until = began + options.ttl + ETCD_START_TAKEN;
                        tell_taken(options, &other, is_kept);
                    }
                    taken = Some(other);
                }
            }
        }
    }

    // --- Nodes ----------------------------------------------------------------------------

    /// This node as it tells of itself.
    pub fn own(&self) -> NodeRecord {
        self.shared.own()
    }

    /// The other nodes, in the order of their ids. While etcd does not answer they are those of
    /// before, and get older.
    pub fn others(&self) -> Vec<Seen> {
        self.state().nodes.others(&self.shared.options.node)
    }

    /// A node of this name, perhaps this one.
    pub fn node(&self, id: &NodeId) -> Option<NodeRecord> {
        self.state().nodes.get(id)
    }

    /// What somebody should look at: a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let state = self.state();
        let mut warnings = Vec::new();
        let node = &self.shared.options.node;
        if let Some(other) = &state.taken {
            let other = other.describe();
            warnings.push(format!(
                "the node id {node} is {other}; matches go on, but nobody finds them by etcd"
            ));
        } else if let Some(why) = &state.why {
            let seconds = state.since.elapsed().as_secs();
            warnings.push(format!(
                "etcd does not answer since {seconds} s: {why}; matches go on, and new rooms are \
                 claimed when it is back"
            ));
        }
        if state.has_twin {
            warnings.push(supervisor::TWIN.to_owned());
        }
        if let Some(why) = &state.claim_trouble {
            warnings.push(format!("etcd does not take the claims of rooms: {why}"));
        }
        let contested = state.claims.contested();
        for contested in contested.iter().take(CONTESTED_NAMED_MAX) {
            warnings.push(format!(
                "room {} (match {}) runs here, but its number is node {}'s",
                contested.room, contested.match_id, contested.node
            ));
        }
        let more = contested.len().saturating_sub(CONTESTED_NAMED_MAX);
        if more > 0 {
            warnings.push(format!("and so do {more} more rooms"));
        }
        warnings
    }

    /// How things are with etcd.
    pub fn stats(&self) -> EtcdStats {
        let state = self.state();
        let (claims_held, claims_wanted) = state.claims.counts();
        EtcdStats {
            is_connected: state.link.is_some(),
            since: state.since.elapsed(),
            why: state.why.clone(),
            connections: state.connections,
            leases_lost: state.leases_lost,
            skipped: state.broken.count,
            nodes: state.nodes.len(),
            claims_held,
            claims_wanted,
            contested: state.claims.contested().len(),
        }
    }

    // --- Rooms ----------------------------------------------------------------------------

    /// Claims a room's number for a match that is about to be created here. Blocks for 1.5 s at
    /// most, and not at all while etcd is away. A number that we have already is taken by ourselves.
    pub fn claim(&self, room: RoomId, request: Option<&RequestKey>) -> Claimed {
        let (sender, answer) = mpsc::sync_channel(1);
        let keys = &self.shared.keys;
        let own = Holder {
            node: keys.node.clone(),
            instance: keys.instance,
            request: request.cloned(),
        };
        // What the loop has said until now counts.
        self.shared.hear();
        let asked = {
            let mut state = self.state();
            let is_connected = state.link.is_some();
            let now = Instant::now();
            state.claims.ask(now, room, own, is_connected, sender)
        };
        let nonce = match asked {
            Asked::Answer(claimed) => return claimed,
            Asked::Wait(nonce) => nonce,
        };
        self.shared.work.notify_one();
        let patience = answer.recv_timeout(CLAIM_PATIENCE);
        if let Ok(claimed) = patience {
            return claimed;
        }
        self.state().claims.give_up(Claim { room, nonce });
        // It may have come in this very moment.
        answer.try_recv().unwrap_or(Claimed::Unclaimed)
    }

    /// Gives a claim up, because no match came of it. Does not wait for etcd.
    pub fn release(&self, claim: Claim) {
        self.shared.hear();
        self.state().claims.release(claim);
        self.shared.work.notify_one();
    }

    /// Who has a room. Blocks for a second at most.
    ///
    /// # Errors
    /// [`NoEtcd`].
    pub fn holder(&self, room: RoomId) -> Result<Option<Holder>, NoEtcd> {
        let late = NoEtcd("this server is overloaded".to_owned());
        runtime::ask(&self.handle, HOLDER_PATIENCE * 2, self.find_holder(room)).unwrap_or(Err(late))
    }

    /// The same for who is on the runtime.
    ///
    /// # Errors
    /// [`NoEtcd`].
    pub fn find_holder(
        &self,
        room: RoomId,
    ) -> impl Future<Output = Result<Option<Holder>, NoEtcd>> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move {
            let kv = {
                let state = shared.state();
                let Some(link) = &state.link else {
                    let why = state.why.clone();
                    return Err(NoEtcd(why.unwrap_or_else(|| "not connected".to_owned())));
                };
                link.client.kv_client()
            };
            let on_odd = |key: &str, odd: link::Odd| shared.note_odd(key, &odd);
            link::holder(kv, &shared.keys, room, HOLDER_PATIENCE, on_odd)
                .await
                .map_err(|fault| NoEtcd(fault.to_string()))
        }
    }

    // --- The end --------------------------------------------------------------------------

    /// Takes everything of this server out of etcd, at once. Blocks for a second at most; without
    /// etcd it goes with the lease. Nothing is claimed after it.
    pub fn leave(&self) {
        let Some(link) = self.end() else { return };
        self.say_goodbye(async move {
            let mut leases = link.client.lease_client();
            link::within(ETCD_LEAVE, leases.revoke(link.lease)).await?;
            Ok(())
        });
    }

    /// The same for a server whose rooms go on at its next start: its node is taken out, and the
    /// numbers of its rooms stay claimed until the ttl is over, so that nobody takes them meanwhile.
    pub fn pause(&self) {
        let Some(link) = self.end() else { return };
        let shared = Arc::clone(&self.shared);
        self.say_goodbye(async move {
            let kv = link.client.kv_client();
            let goodbye = link::deregister(kv, &shared.keys, link.lease);
            let late = link::Fault::Late(ETCD_LEAVE);
            tokio::time::timeout(ETCD_LEAVE, goodbye)
                .await
                .unwrap_or(Err(late))
        });
    }

    /// Nothing is done by itself any more; the connection, if there is one.
    fn end(&self) -> Option<shared::Link> {
        for task in &self.tasks {
            task.abort();
        }
        let mut state = self.state();
        state.why = Some("this server has left".to_owned());
        state.since = Instant::now();
        state.claims.end();
        state.link.take()
    }

    fn say_goodbye(&self, goodbye: impl Future<Output = Result<(), link::Fault>> + Send + 'static) {
        match runtime::ask(&self.handle, ETCD_LEAVE + ETCD_LEAVE / 4, goodbye) {
            Ok(Ok(())) => log::info!("left etcd"),
            Ok(Err(fault)) => log::warn!("cannot leave etcd: {fault}; our keys go with the ttl"),
            Err(_) => log::warn!("cannot leave etcd in time; our keys go with the ttl"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn tell_taken(options: &EtcdOptions, other: &Other, is_kept: bool) {
    let wait = (options.ttl + ETCD_START_TAKEN).as_secs();
    let hint = if is_kept {
        ""
    } else {
        " (or we were it, before a crash: without --data-dir nobody can tell)"
    };
    log::warn!(
        "the node id {} is {}{hint}; waiting for up to {wait} s for it to go",
        options.node,
        other.describe()
    );
}
