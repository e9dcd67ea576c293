//! The one task that owns the connection to etcd.
//!
//! A connection begins with the lease of before, or a new one; with our node's key; with the keys of
//! the other nodes and a watch from there on. Then it keeps the lease alive, writes our key every
//! few seconds and must see that in the watch, and carries out the work on claims. On any error,
//! expiry or silence it drops everything, pauses, and does it again: after a restart or a stall of
//! etcd its streams are dead for good (measured).

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use etcd_client::{
    Client, ConnectOptions, Error, EventType, KeyValue, LeaseKeepAliveStream, LeaseKeeper,
    WatchOptions, WatchResponse, WatchStream,
};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use super::StartError;
use super::claims::{Contested, Done, Kind, Work};
use super::keys::Other;
use super::link::{self, Fault, Registered};
use super::shared::{Link, Shared, seconds};
use crate::cluster::foreign_words;
use crate::cluster::node::NodeState;
use crate::limits::{
    CLAIMS_IN_FLIGHT_MAX, ETCD_MESSAGE_MAX, ETCD_PAUSE, ETCD_PAUSE_TAKEN, ETCD_REQUEST_TIMEOUT,
    NODE_WRITE_EVERY,
};

/// Contested rooms of one connection that the log names one by one.
const CONTESTED_LOGGED_MAX: usize = 10;

/// What nobody else can tell.
pub(super) const TWIN: &str = "another server runs with our node id and our instance: was the data \
                               directory copied? Delete the file instance in one of the two";

/// What a start waits for.
pub(super) enum Progress {
    Registered,
    Lost(String),
    Taken(Other),
    Refused(StartError),
}

/// Why a connection ended.
enum End {
    Fault(Fault),
    Taken(Other),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Fault(error.into())
    }
}

/// Connects and stays connected. Ends only when it is aborted.
pub(super) async fn run(shared: Arc<Shared>, connect: ConnectOptions, progress: Sender<Progress>) {
    let mut memory = Memory::default();
    let mut pause = *ETCD_PAUSE.start();
    // One member at a time: among several, every call that met one that is down would fail.
    let members = shared.options.endpoints.len();
    let first = usize::try_from(getrandom::u32().unwrap_or(0)).unwrap_or(0) % members;
    let (mut member, mut failed) = (first, 0);
    loop {
        let connections = shared.state().connections;
        let endpoint = shared.options.endpoints[member].clone();
        let Err(end) = connection(&shared, &endpoint, &connect, &mut memory, &progress).await;
        if shared.state().connections > connections {
            pause = *ETCD_PAUSE.start();
            failed = 0;
        }
        if let End::Fault(fault) = &end
            && fault.is_no_lease()
            && memory.lease.take().is_some()
        {
            shared.state().leases_lost += 1;
        }
        if let End::Fault(fault) = &end
            && !fault.is_refusal()
        {
            member = (member + 1) % members;
            failed += 1;
            if failed < members && shared.state().link.is_none() {
                continue;
            }
            failed = 0;
        }
        let wait = match &end {
            End::Taken(_) => ETCD_PAUSE_TAKEN,
            End::Fault(_) => jittered(pause),
        };
        pause = (pause * 2).min(*ETCD_PAUSE.end());
        note_end(&shared, &end);
        // After the start nobody listens.
        let _ = progress.send(outcome(&shared, end));
        tokio::time::sleep(wait).await;
    }
}

/// Half of a pause to all of it, so that a thousand nodes do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let part = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + part / 2.0)
}

/// The log has one line for each time that etcd is lost, and one for each time that it is back.
fn note_end(shared: &Shared, end: &End) {
    let why = match end {
        End::Fault(fault) => fault.to_string(),
        End::Taken(other) => format!("our node id is {}", other.describe()),
    };
    let mut state = shared.state();
    state.taken = match end {
        End::Taken(other) => Some(other.clone()),
        End::Fault(_) => None,
    };
    state.claims.end();
    if state.link.take().is_some() {
        state.since = Instant::now();
        log::warn!("etcd is lost: {why}; matches go on");
    }
    state.why = Some(why);
}

fn outcome(shared: &Shared, end: End) -> Progress {
    let options = &shared.options;
    let fault = match end {
        End::Taken(other) => return Progress::Taken(other),
        End::Fault(fault) => fault,
    };
    if fault.is_refusal() {
        let (setting, remedy) = match &options.user {
            Some((user, _)) => (
                "--etcd-user",
                format!(
                    "look at the password of {user:?}, and whether it may read and write what \
                     begins with {}/",
                    options.prefix
                ),
            ),
            None => ("--etcd", "it may want --etcd-user".to_owned()),
        };
        return Progress::Refused(StartError::Refused {
            setting,
            why: fault.to_string(),
            remedy,
        });
    }
    match fault {
        // Everything that needs the network comes as a status.
        Fault::Etcd(
            Error::GRpcStatus(_) | Error::LeaseKeepAliveError(_) | Error::WatchError(_),
        ) => Progress::Lost(fault.to_string()),
        Fault::Etcd(error) => Progress::Refused(StartError::Settings(words(&error))),
        _ => Progress::Lost(fault.to_string()),
    }
}

/// What the library says, with what is behind it.
fn words(error: &Error) -> String {
    let mut text = error.to_string();
    if let Error::TransportError(inner) = error {
        let mut source = std::error::Error::source(inner);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
    }
    text
}

/// What is kept from connection to connection.
#[derive(Default)]
struct Memory {
    lease: Option<i64>,
    /// It was granted by a connection that ended before any claim was put under it.
    is_bare: bool,
    /// etcd's newest revision that we saw: an etcd that knows less has lost what we wrote, whatever
    /// it says of the lease.
    revision: i64,
}

/// One connection, until it ends.
async fn connection(
    shared: &Arc<Shared>,
    endpoint: &str,
    connect: &ConnectOptions,
    memory: &mut Memory,
    progress: &Sender<Progress>,
) -> Result<std::convert::Infallible, End> {
    let client = link::connect(endpoint, connect.clone()).await?;
    let mut pulse = Pulse::start(shared, &client, memory).await?;
    let lease = pulse.keeper.id();
    let (revision, state) = register(shared, &client, lease, None).await?;
    let (watch, read) = read_nodes(shared, &client, &mut pulse).await?;
    let is_wiped = read < memory.revision;
    memory.revision = read;

    let away = {
        let mut state = shared.state();
        let away = state.since.elapsed();
        let is_first = state.connections == 0;
        state.connections += 1;
        state.since = Instant::now();
        state.why = None;
        state.taken = None;
        let is_bare = std::mem::take(&mut memory.is_bare);
        state.claims.begin(is_bare || is_wiped);
        state.link = Some(Link {
            client: client.clone(),
            lease,
        });
        (!is_first).then_some(away)
    };
    let (held, wanted) = shared.state().claims.counts();
    log::debug!("etcd: lease {lease:x}, {held} claims held, {wanted} wanted");
    let mut session = Session {
        shared,
        client,
        lease,
        jobs: JoinSet::new(),
        written: Written {
            revision,
            state,
            at: Instant::now(),
            is_under_way: false,
            echo: None,
            shown: revision,
        },
        settling: Some(Settling {
            away,
            began: Instant::now(),
            put: 0,
        }),
        contested: 0,
    };
    let _ = progress.send(Progress::Registered);
    session.run(&mut pulse, watch, memory).await
}

/// Writes our node's key: the revision in which it is, and the state that it tells.
async fn register(
    shared: &Shared,
    client: &Client,
    lease: i64,
    known: Option<i64>,
) -> Result<(i64, NodeState), End> {
    let own = shared.own();
    let kv = client.kv_client();
    match link::register(kv, &shared.keys, own.to_value(), lease, known).await? {
        Registered::Written { revision, has_twin } => {
            if has_twin && !std::mem::replace(&mut shared.state().has_twin, true) {
                log::warn!("{TWIN}");
            }
            Ok((revision, own.state))
        }
        Registered::Taken(other) => Err(End::Taken(other)),
    }
}

/// Reads the keys of all nodes, and watches them from then on.
async fn read_nodes(
    shared: &Shared,
    client: &Client,
    pulse: &mut Pulse,
) -> Result<(WatchStream, i64), End> {
    let mut there = HashSet::new();
    let (mut from, mut revision) = (None, 0);
    loop {
        let part = link::nodes(client.kv_client(), &shared.keys, from, revision).await?;
        let (found, next, now) = part;
        if revision == 0 {
            revision = now;
        }
        for kv in &found {
            note_node(shared, kv);
            there.extend(shared.keys.node_of(kv.key()));
        }
        pulse.beat_if_due().await?;
        from = next;
        if from.is_none() {
            break;
        }
    }
    shared.state().nodes.keep(|id| there.contains(id));
    let prefix = shared.keys.nodes();
    let options = WatchOptions::new()
        .with_prefix()
        .with_fragment()
        .with_start_revision(revision + 1);
    let mut watching = client
        .watch_client()
        .max_decoding_message_size(ETCD_MESSAGE_MAX);
    let watch = link::ask(watching.watch(prefix, Some(options))).await?;
    Ok((watch, revision))
}

/// The key of a node, as it is now.
fn note_node(shared: &Shared, kv: &KeyValue) {
    let mut state = shared.state();
    let put = match shared.keys.node_of(kv.key()) {
        Some(id) => state.nodes.put(Instant::now(), id, kv.value()),
        None => Err("not the key of a node".to_owned()),
    };
    if let Err(why) = put {
        state.broken.note(kv.key(), kv.mod_revision(), &why);
    }
}

// --- The lease ----------------------------------------------------------------------------

/// Keeps the lease alive.
struct Pulse {
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    every: Interval,
    beaten: Instant,
    answered: Instant,
}

impl Pulse {
    /// Goes on with the lease of before, if there is one and it lives, or else with a new one.
    async fn start(shared: &Shared, client: &Client, memory: &mut Memory) -> Result<Pulse, End> {
        let mut leases = client.lease_client();
        if let Some(old) = memory.lease {
            match link::ask(leases.keep_alive(old)).await {
                Ok((keeper, answers)) => return Ok(Pulse::of(shared, keeper, answers)),
                Err(fault) if fault.is_no_lease() => {
                    memory.lease = None;
                    shared.state().leases_lost += 1;
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        let ttl = i64::try_from(shared.options.ttl.as_secs()).unwrap_or(i64::MAX);
        let lease = link::ask(leases.grant(ttl, None)).await?.id();
        memory.lease = Some(lease);
        memory.is_bare = true;
        let (keeper, answers) = link::ask(leases.keep_alive(lease)).await?;
        Ok(Pulse::of(shared, keeper, answers))
    }

    fn of(shared: &Shared, keeper: LeaseKeeper, answers: LeaseKeepAliveStream) -> Pulse {
        let mut every = tokio::time::interval(shared.options.ttl / 3);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Pulse {
            keeper,
            answers,
            every,
            beaten: Instant::now(),
            answered: Instant::now(),
        }
    }

    async fn beat(&mut self) -> Result<(), Fault> {
        if self.answered.elapsed() > self.every.period() + ETCD_REQUEST_TIMEOUT {
            return Err(Fault::Late(self.answered.elapsed()));
        }
        self.beaten = Instant::now();
        link::ask(self.keeper.keep_alive()).await
    }

    async fn beat_if_due(&mut self) -> Result<(), Fault> {
        if self.beaten.elapsed() < self.every.period() {
            return Ok(());
        }
        self.beat().await?;
        let answer = link::ask(self.answers.message()).await?;
        self.heard(answer.map(|answer| answer.ttl()))
    }

    /// An answer with so many seconds left, or the end of them.
    fn heard(&mut self, ttl: Option<i64>) -> Result<(), Fault> {
        match ttl {
            Some(ttl) if ttl > 0 => {
                self.answered = Instant::now();
                Ok(())
            }
            Some(_) => Err(Fault::NoLease),
            None => Err(Fault::Ended("it keeps the lease alive no longer".into())),
        }
    }
}

// --- While it lasts -----------------------------------------------------------------------

/// A connection over which we are registered.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    client: Client,
    lease: i64,
    jobs: JoinSet<Job>,
    written: Written,
    settling: Option<Settling>,
    /// Rooms that became contested.
    contested: usize,
}

/// What became of something that was under way.
enum Job {
    Registered(Result<(i64, NodeState), End>),
    Worked(Work, Result<Done, Fault>),
}

/// Our node's key.
struct Written {
    revision: i64,
    state: NodeState,
    at: Instant,
    is_under_way: bool,
    /// The watch must show this revision by then.
    echo: Option<(i64, Instant)>,
    /// It has shown this one: often before etcd's answer to the writing comes.
    shown: i64,
}

/// Until all that had to be done at its beginning is done.
struct Settling {
    /// How long there was none before; `None` at the start.
    away: Option<Duration>,
    began: Instant,
    put: usize,
}

impl Session<'_> {
    async fn run(
        &mut self,
        pulse: &mut Pulse,
        mut watch: WatchStream,
        memory: &mut Memory,
    ) -> Result<std::convert::Infallible, End> {
        loop {
            self.see_to_our_key()?;
            self.give_out_work();
            tokio::select! {
                _ = pulse.every.tick() => pulse.beat().await?,
                answer = pulse.answers.message() => {
                    pulse.heard(answer?.map(|answer| answer.ttl()))?;
                }
                answer = watch.message() => self.watched(answer?, memory)?,
                () = self.shared.work.notified() => {}
                Some(job) = self.jobs.join_next() => {
                    // A panic of ours: it was told when it happened.
                    if let Ok(job) = job
                        && let ControlFlow::Break(end) = self.worked(job)
                    {
                        return Err(end);
                    }
                }
            }
        }
    }

    /// Writes it when its time has come or the state is another, and wants to see it in the watch.
    fn see_to_our_key(&mut self) -> Result<(), Fault> {
        let written = &mut self.written;
        if let Some((revision, by)) = written.echo
            && written.shown < revision
            && Instant::now() > by
        {
            return Err(Fault::Ended("the watch does not show what we write".into()));
        }
        let is_due = written.at.elapsed() >= NODE_WRITE_EVERY;
        if written.is_under_way || !(is_due || self.shared.own().state != written.state) {
            return Ok(());
        }
        written.is_under_way = true;
        written.at = Instant::now();
        let (shared, client) = (Arc::clone(self.shared), self.client.clone());
        let (lease, known) = (self.lease, written.revision);
        self.jobs.spawn(async move {
            Job::Registered(register(&shared, &client, lease, Some(known)).await)
        });
        Ok(())
    }

    fn watched(&mut self, answer: Option<WatchResponse>, memory: &mut Memory) -> Result<(), Fault> {
        let Some(answer) = answer else {
            return Err(Fault::Ended("the watch has ended".into()));
        };
        if answer.canceled() {
            let why = foreign_words(answer.cancel_reason());
            return Err(Fault::Ended(format!("the watch was cancelled: {why}")));
        }
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            memory.revision = memory.revision.max(kv.mod_revision());
            self.written.shown = self.written.shown.max(kv.mod_revision());
            match event.event_type() {
                EventType::Put => note_node(self.shared, kv),
                EventType::Delete => {
                    if let Some(id) = self.shared.keys.node_of(kv.key()) {
                        self.shared.state().nodes.gone(&id);
                    }
                }
            }
        }
        Ok(())
    }

    // --- Claims ---------------------------------------------------------------------------

    fn give_out_work(&mut self) {
        while self.jobs.len() < CLAIMS_IN_FLIGHT_MAX {
            let Some(work) = self.shared.state().claims.next() else {
                break;
            };
            let (shared, client) = (Arc::clone(self.shared), self.client.clone());
            let lease = self.lease;
            self.jobs.spawn(async move {
                let done = carry_out(&shared, &client, lease, &work).await;
                Job::Worked(work, done)
            });
        }
        if self.jobs.is_empty()
            && let Some(settling) = self.settling.take()
        {
            self.tell_settled(&settling);
        }
    }

    fn worked(&mut self, job: Job) -> ControlFlow<End> {
        match job {
            Job::Registered(Ok((revision, state))) => {
                self.written.is_under_way = false;
                self.written.state = state;
                self.written.revision = revision;
                let by = Instant::now() + ETCD_REQUEST_TIMEOUT;
                self.written.echo = Some((revision, by));
            }
            Job::Registered(Err(end)) => return ControlFlow::Break(end),
            Job::Worked(_, Err(fault)) if fault.is_no_lease() => {
                return ControlFlow::Break(fault.into());
            }
            Job::Worked(work, done) => self.settle(&work, done),
        }
        ControlFlow::Continue(())
    }

    fn settle(&mut self, work: &Work, done: Result<Done, Fault>) {
        let contested = {
            let mut state = self.shared.state();
            state.claim_trouble = done.as_ref().err().map(ToString::to_string);
            state.claims.done(work, done.unwrap_or(Done::Failed))
        };
        if let Some(settling) = &mut self.settling
            && work.kind == Kind::Put
        {
            settling.put += 1;
        }
        if let Some(contested) = contested {
            self.tell_contested(&contested);
        }
    }

    fn tell_contested(&mut self, contested: &Contested) {
        self.contested += 1;
        if self.contested <= CONTESTED_LOGGED_MAX {
            log::warn!(
                "room {} (match {}) runs here, but its number is node {}'s; the match goes on",
                contested.room,
                contested.match_id,
                contested.node
            );
        }
        self.shared.tell_contested(contested);
    }

    fn tell_settled(&self, settling: &Settling) {
        let put = match settling.put {
            0 => String::new(),
            put => {
                let (took, contested) = (seconds(settling.began.elapsed()), self.contested);
                format!("; {put} claims put in {took}, {contested} of them contested")
            }
        };
        match settling.away {
            Some(away) => log::info!("etcd is back after {}{put}", seconds(away)),
            None => log::info!(
                "registered as node {} in etcd at {}{put}",
                self.shared.options.node,
                self.shared.options.endpoints.join(",")
            ),
        }
    }
}

async fn carry_out(
    shared: &Shared,
    client: &Client,
    lease: i64,
    work: &Work,
) -> Result<Done, Fault> {
    let (kv, keys, room) = (client.kv_client(), &shared.keys, work.room);
    let value = keys.claim(work.nonce, work.request.as_ref());
    match work.kind {
        Kind::Put => {
            let on_odd = |key: &str, odd: link::Odd| shared.note_odd(key, &odd);
            let holder = link::put_claim(kv, keys, room, value, lease, on_odd).await?;
            Ok(holder.map_or(Done::Well, Done::Taken))
        }
        Kind::Erase => {
            link::erase_claim(kv, keys, room, value).await?;
            Ok(Done::Well)
        }
    }
}
