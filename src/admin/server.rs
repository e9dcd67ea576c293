//! The HTTP server: tiny_http, its workers, and the watchdog that replaces both.
//!
//! tiny_http 0.12 reads each connection on a thread of its own and puts requests into one
//! queue, from which workers answer them. It was not made for clients that mean ill, and
//! shows neither sockets nor queue. What it does wrong, and what is done about it here:
//!
//! - *A request is dropped with its unread body*: it first reads the rest, into one
//!   allocation of that size. A `Content-Length` over `isize::MAX` panics, which is caught;
//!   one that is merely larger than memory ends the process, so such a request is answered
//!   and then never dropped ([`HTTP_DROP_BYTES_MAX`]). Each of these costs a thread and two
//!   descriptors for good, and after [`HTTP_LEAKED_MAX`] of them HTTP ends.
//! - *A body that does not come* blocks whoever reads or drops the request. Requests whose
//!   body is still to come are answered on threads of their own.
//! - *An answer that is not read* blocks its worker. A send time-out is set on the listening
//!   socket, from which Linux hands it on. (A receive time-out is not: it would also make
//!   `accept` fail, which ends the server.)
//! - *The queue is unbounded*, and *the accepting thread ends* without a word on any error,
//!   such as too many open files. The watchdog asks the server for `/livez` over loopback.
//!   If no answer comes, it shuts down a duplicate of the listening socket, which ends the
//!   accepting thread if it still lives, hangs up all connections ([`super::hangup`]), binds
//!   the port again and starts a new server with new workers. The old workers go when they
//!   find themselves replaced; those that cannot are counted and bounded.
//! - *A connection is left lying*: the pool of threads counts a thread as idle although a
//!   connection is already meant for it, and queues the next one there, too. That one waits
//!   until any other connection ends. The watchdog opens and closes a few connections each
//!   time, and more while its question is one of those that wait: each lets one go on. It
//!   does so more often while there is traffic.
//! - *A loop that is slow* is no reason for that: the watchdog's question does not ask the
//!   loop, and while workers wait for it, silence is forgiven for a while.
//!
//! What cannot be bounded from here, so that the port belongs on loopback or behind a proxy:
//! the length of a request's headers, which tiny_http collects in memory without an end; the
//! number of connections, each with a thread and two descriptors, until the descriptors run
//! out; a connection that sends nothing, until then; and a request that claims HTTP/2.0 or
//! 3.0, whose connection blocks its thread inside tiny_http for good.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tiny_http::{Header, Request, Response, StatusCode};

use super::desk::Desk;
use super::guard::Guard;
use super::hangup::Hangup;
use super::routes::{self, Answer, BodyError, Head, Method};
use crate::io::recordings::Recordings;
use crate::limits::{
    HTTP_ABANDONED_IDLE, HTTP_ABANDONED_MAX, HTTP_ASIDE_MAX, HTTP_BODY_BYTES_MAX,
    HTTP_DROP_BYTES_MAX, HTTP_LEAKED_MAX, HTTP_NUDGE_EVERY, HTTP_NUDGES, HTTP_REQUEST_LIFE,
    HTTP_RESTART_REST_MAX, HTTP_RESTART_REST_MIN, HTTP_SEND_PATIENCE, HTTP_STOP, HTTP_WATCH_EVERY,
    HTTP_WATCH_EVERY_BUSY, HTTP_WATCH_FORGIVES, HTTP_WATCH_PATIENCE, HTTP_WORKERS,
};
use crate::operations::Operations;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// Bytes of a body up to which tiny_http reads it before it hands the request over.
const READ_AHEAD: usize = 1024;

/// Time after which a worker that has nothing to do looks whether it was replaced. It is
/// woken for that; only a wake-up that an other worker took leaves it to this.
const WORKER_LOOKS_EVERY: Duration = Duration::from_secs(5);

/// How the HTTP side is set up.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where it listens (`--web`). Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What protects it.
    pub guard: Guard,
    /// The matches that have ended, if the server writes a journal.
    pub recordings: Option<Arc<Recordings>>,
    /// The watchdog's times; tests make them short.
    pub watch: Watch,
}

impl AdminConfig {
    /// The usual set-up: for this machine alone, without recordings.
    pub fn new(listen: SocketAddr) -> AdminConfig {
        AdminConfig {
            listen,
            guard: Guard::Loopback,
            recordings: None,
            watch: Watch::default(),
        }
    }
}

/// The watchdog's times.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Time between two questions.
    pub every: Duration,
    /// Time that it waits for an answer.
    pub patience: Duration,
    /// Time in which a client takes no byte of its answer before it is given up.
    pub send_patience: Duration,
    /// Time for a request and its answer.
    pub request_life: Duration,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            every: HTTP_WATCH_EVERY,
            patience: HTTP_WATCH_PATIENCE,
            send_patience: HTTP_SEND_PATIENCE,
            request_life: HTTP_REQUEST_LIFE,
        }
    }
}

/// Why the HTTP side did not start.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Another program listens there.
    #[error(
        "--web {0}: address in use; stop the program that listens there, or choose another \
         port, such as --web 127.0.0.1:10003"
    )]
    InUse(SocketAddr),
    /// The address belongs to no interface.
    #[error(
        "--web {0}: not an address of this machine; use one that is, such as --web \
         127.0.0.1:10002"
    )]
    NotHere(SocketAddr),
    /// The system forbids the port.
    #[error("--web {0}: not permitted; choose a port over 1023, such as --web 127.0.0.1:10002")]
    Denied(SocketAddr),
    /// Something else about the address.
    #[error("--web {0}: cannot listen there: {1}; choose another address or port")]
    Listen(SocketAddr, io::Error),
    /// The system gives no thread.
    #[error("--web {0}: cannot start a thread: {1}; raise the limit of threads of this process")]
    Thread(SocketAddr, io::Error),
}

impl AdminError {
    fn listen(listen: SocketAddr, error: io::Error) -> AdminError {
        match error.kind() {
            io::ErrorKind::AddrInUse => AdminError::InUse(listen),
            io::ErrorKind::AddrNotAvailable => AdminError::NotHere(listen),
            io::ErrorKind::PermissionDenied => AdminError::Denied(listen),
            _ => AdminError::Listen(listen, error),
        }
    }
}

/// The HTTP side while it runs. Dropping it leaves it running; [`Admin::stop`] ends it.
pub struct Admin {
    shared: Arc<Shared>,
}

/// Listens and starts the threads; returns once requests are taken.
///
/// # Errors
/// [`AdminError`], to be shown to the operator as it is.
pub fn start(config: AdminConfig, operations: Arc<Operations>) -> Result<Admin, AdminError> {
    let listen = config.listen;
    let socket = listening_socket(listen, &config.watch)
        .map_err(|error| AdminError::listen(listen, error))?;
    let addr = socket
        .local_addr()
        .map_err(|error| AdminError::listen(listen, error))?;
    let addr = addr
        .as_socket()
        .expect("an internet socket has an internet address");
    let shared = Arc::new(Shared {
        desk: Desk::new(operations, config.guard, config.recordings),
        watch: config.watch,
        addr,
        hangup: Hangup::new(),
        ended: AtomicBool::new(false),
        bell: Bell::default(),
        current: Mutex::new(None),
        asides: AtomicUsize::new(0),
        flights: Mutex::new(Flights::default()),
    });
    let first = open(&shared, socket).map_err(|error| AdminError::Thread(listen, error))?;
    *shared.current() = Some(first);
    let watching = Arc::clone(&shared);
    thread::Builder::new()
        .name("http-watchdog".to_owned())
        .spawn(move || watch(&watching))
        .map_err(|error| AdminError::Thread(listen, error))?;
    Ok(Admin { shared })
}

impl Admin {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Stops listening, lets answers that are under way go out for [`HTTP_STOP`], and hangs up.
    pub fn stop(self) {
        let shared = self.shared;
        shared.end();
        let deadline = Instant::now() + HTTP_STOP;
        while !shared.flights().since.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        // Where this cannot be done, the end of the process does it.
        let _ = shared.hang_up(|_| true);
    }
}

/// What all threads of the HTTP side share.
struct Shared {
    desk: Desk,
    watch: Watch,
    addr: SocketAddr,
    hangup: Hangup,
    /// No new server is started any more.
    ended: AtomicBool,
    /// Wakes the watchdog.
    bell: Bell,
    /// The server that listens; `None` while none does.
    current: Mutex<Option<Arc<Generation>>>,
    /// Requests on threads of their own.
    asides: AtomicUsize,
    flights: Mutex<Flights>,
}

/// One tiny_http server with its workers.
struct Generation {
    server: tiny_http::Server,
    /// A duplicate of the listening socket, to shut it down.
    listener: Mutex<Option<Socket>>,
    /// It was replaced, or HTTP ends.
    retired: AtomicBool,
    /// All its connections were hung up.
    hung_up: AtomicBool,
    /// Why its accepting thread ended, if it said so.
    accept_error: Mutex<Option<String>>,
}

/// Requests that are being answered: who asked, and since when.
#[derive(Default)]
struct Flights {
    next: u64,
    since: BTreeMap<u64, (Option<SocketAddr>, Instant)>,
}

/// Why a server is to be replaced.
#[derive(Debug, Error)]
enum Trouble {
    #[error("none listens")]
    None,
    #[error("it accepts no more: {0}")]
    Accepting(String),
    #[error("it gave no answer: {0}")]
    Silence(io::Error),
}

impl Shared {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Generation>>> {
        self.current
            .lock()
            .expect("nobody panics while holding the current server")
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights
            .lock()
            .expect("nobody panics while holding the list of flights")
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Closes the port for good.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let last = self.current().take();
        if let Some(last) = last {
            last.retire();
            last.wake_workers();
        }
        self.bell.ring();
    }

    /// Hangs up connections; `false` if this system does not let us.
    fn hang_up(&self, which: impl Fn(SocketAddr) -> bool) -> bool {
        match self.hangup.hang_up(self.addr.port(), which) {
            Ok(count) => {
                self.desk.counters.connections_hung_up.add_many(count);
                true
            }
            Err(error) => {
                log::debug!("HTTP: cannot hang up connections here: {error}");
                false
            }
        }
    }

    fn hang_up_overdue(&self) {
        let life = self.watch.request_life;
        let overdue: BTreeSet<SocketAddr> = self
            .flights()
            .since
            .values()
            .filter(|(_, since)| since.elapsed() > life)
            .filter_map(|(peer, _)| *peer)
            .collect();
        if !overdue.is_empty() {
            self.hang_up(|peer| overdue.contains(&peer));
        }
    }

    /// Whether the current server does its work.
    fn look(&self) -> Result<(), Trouble> {
        let Some(current) = self.current().clone() else {
            return Err(Trouble::None);
        };
        if let Some(error) = current.accept_error().take() {
            return Err(Trouble::Accepting(error));
        }
        probe(self.addr, self.watch.patience).map_err(|error| {
            self.desk.counters.probes_failed.add();
            Trouble::Silence(error)
        })
    }
}

// --- Servers ------------------------------------------------------------------------------

/// A socket that listens, whose accepted sockets give up on peers that take nothing.
fn listening_socket(listen: SocketAddr, watch: &Watch) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(listen),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // Every interface: IPv4 too, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    // Elsewhere than on Windows this means: although old connections linger.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_write_timeout(Some(watch.send_patience))?;
    // Clients that vanish without a word are found out.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    // The send time-out counts anew for each piece of an answer; this ends the connection.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(2 * watch.send_patience))?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Starts a tiny_http server on `socket`, with workers.
fn open(shared: &Arc<Shared>, socket: Socket) -> io::Result<Arc<Generation>> {
    let listener = socket.try_clone()?;
    let server = tiny_http::Server::from_listener(std::net::TcpListener::from(socket), None)
        .map_err(io::Error::other)?;
    let generation = Arc::new(Generation {
        server,
        listener: Mutex::new(Some(listener)),
        retired: AtomicBool::new(false),
        hung_up: AtomicBool::new(false),
        accept_error: Mutex::new(None),
    });
    for number in 1..=HTTP_WORKERS {
        let (shared, generation) = (Arc::clone(shared), Arc::clone(&generation));
        thread::Builder::new()
            .name(format!("http-{number}"))
            .spawn(move || work(&shared, generation))?;
    }
    Ok(generation)
}

impl Generation {
    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    fn is_hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Acquire)
    }

    fn accept_error(&self) -> MutexGuard<'_, Option<String>> {
        self.accept_error
            .lock()
            .expect("nobody panics while holding an error")
    }

    /// Closes the port, if it is open. Where the system cannot shut down a listening socket,
    /// returns it: it cannot be bound again, but listened on by the next server.
    fn retire(&self) -> Option<Socket> {
        self.retired.store(true, Ordering::Release);
        let mut listener = self
            .listener
            .lock()
            .expect("nobody panics while holding a socket");
        listener
            .take()
            .filter(|listener| listener.shutdown(Shutdown::Both).is_err())
    }

    fn wake_workers(&self) {
        for _ in 0..HTTP_WORKERS {
            self.server.unblock();
        }
    }
}

// --- Workers ------------------------------------------------------------------------------

/// Answers requests until its server is replaced, and then sees off those that still come.
fn work(shared: &Arc<Shared>, generation: Arc<Generation>) {
    while !generation.is_retired() {
        match generation.server.recv_timeout(WORKER_LOOKS_EVERY) {
            Ok(Some(request)) => take(shared, request),
            Ok(None) => {}
            Err(error) => {
                *generation.accept_error() = Some(error.to_string());
                shared.bell.ring();
            }
        }
    }
    if !shared.has_ended() {
        see_off(shared, &generation);
        shared.desk.counters.workers_abandoned.remove();
    }
    // The last one out would drop the queue. It is empty only if no connection is left to
    // fill it: otherwise what is in it may end the process (see the head of the file), and a
    // few bytes are lost instead.
    if shared.has_ended() || !generation.is_hung_up() {
        std::mem::forget(generation);
    }
}

/// Serves the connections that a replaced server still has, until nothing comes any more.
fn see_off(shared: &Arc<Shared>, generation: &Generation) {
    let mut last = Instant::now();
    loop {
        let (idle, hung_up) = match generation.is_hung_up() {
            true => (Duration::from_secs(1), true),
            false => (HTTP_ABANDONED_IDLE, false),
        };
        match generation.server.recv_timeout(Duration::from_secs(1)) {
            Ok(Some(request)) => {
                last = Instant::now();
                if hung_up {
                    discard(shared, request);
                } else {
                    take(shared, request);
                }
            }
            Ok(None) | Err(_) if last.elapsed() >= idle => return,
            Ok(None) | Err(_) => {}
        }
    }
}

/// What a request may do to whoever handles it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Danger {
    /// Nothing: its body has arrived.
    None,
    /// Its body may never come.
    Blocks,
    /// Dropping it may end the process.
    Kills,
}

fn danger(request: &Request) -> Danger {
    let length = request.body_length().unwrap_or(0);
    let upgrades = header(request, "Connection")
        .is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"));
    let chunked = header(request, "Transfer-Encoding").is_some();
    let waits = header(request, "Expect").is_some();
    // With an upgrade, tiny_http does not count the body, so its drop reads nothing. A vector
    // longer than `isize::MAX` is a panic, not a failed allocation.
    let too_long = length > HTTP_DROP_BYTES_MAX && isize::try_from(length).is_ok();
    if too_long && !upgrades {
        Danger::Kills
    } else if length > READ_AHEAD || upgrades || chunked || waits {
        Danger::Blocks
    } else {
        Danger::None
    }
}

/// Answers a request, here or on a thread of its own.
fn take(shared: &Arc<Shared>, request: Request) {
    shared.desk.counters.requests.add();
    match danger(&request) {
        Danger::None if !routes::may_wait(&shared.desk, request.url()) => serve(shared, request),
        Danger::Kills => refuse_for_good(shared, request),
        // Were all workers to wait for another node, none would be left for what that asks in
        // turn, and the two would wait for each other.
        Danger::None | Danger::Blocks => {
            // Too many of them end here in the worker, and then with the watchdog.
            if shared.asides.fetch_add(1, Ordering::AcqRel) >= HTTP_ASIDE_MAX {
                shared.asides.fetch_sub(1, Ordering::AcqRel);
                return serve(shared, request);
            }
            let aside = Arc::clone(shared);
            // Where there is no thread for it, the request is dropped, which may panic.
            let spawned = catch_unwind(AssertUnwindSafe(|| {
                thread::Builder::new()
                    .name("http-aside".to_owned())
                    .spawn(move || {
                        serve(&aside, request);
                        aside.asides.fetch_sub(1, Ordering::AcqRel);
                    })
            }));
            if !matches!(spawned, Ok(Ok(_))) {
                shared.asides.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

/// Answers a request and drops it.
fn serve(shared: &Shared, mut request: Request) {
    let peer = request.remote_addr().copied();
    let flight = Flight::begin(shared, peer);
    let deadline = Instant::now() + shared.watch.request_life;
    let done = catch_unwind(AssertUnwindSafe(|| {
        let answer = answer(shared, &mut request);
        // Drops the request, too.
        request.respond(response(answer, deadline))
    }));
    drop(flight);
    match done {
        Ok(Ok(())) => {}
        Ok(Err(_)) => {
            shared.desk.counters.answers_cut.add();
            // What comes next on this connection would be taken for the rest of the answer.
            shared.hang_up(|other| Some(other) == peer);
        }
        Err(_) => shared.desk.counters.handler_panics.add(),
    }
}

fn answer(shared: &Shared, request: &mut Request) -> Answer {
    let owned = |name| header(request, name).map(str::to_owned);
    let (host, origin) = (owned("Host"), owned("Origin"));
    let (fetch_site, content_type) = (owned("Sec-Fetch-Site"), owned("Content-Type"));
    let authorization = owned("Authorization");
    let target = request.url().to_owned();
    let head = Head {
        method: match request.method() {
            tiny_http::Method::Get => Method::Get,
            tiny_http::Method::Head => Method::Head,
            tiny_http::Method::Post => Method::Post,
            tiny_http::Method::Delete => Method::Delete,
            _ => Method::Other,
        },
        target: &target,
        host: host.as_deref(),
        origin: origin.as_deref(),
        fetch_site: fetch_site.as_deref(),
        content_type: content_type.as_deref(),
        authorization: authorization.as_deref(),
    };
    let answer = routes::answer(&shared.desk, &head, || read_body(request));
    count(shared, answer.status);
    answer
}

fn count(shared: &Shared, status: u16) {
    match status {
        400..500 => shared.desk.counters.answers_4xx.add(),
        500.. => shared.desk.counters.answers_5xx.add(),
        _ => {}
    }
}

/// Reads a body of at most [`HTTP_BODY_BYTES_MAX`].
fn read_body(request: &mut Request) -> Result<Vec<u8>, BodyError> {
    let mut lengths = request
        .headers()
        .iter()
        .filter(|h| h.field.equiv("Content-Length"));
    let length = lengths
        .next()
        .map(|header| header.value.as_str().to_owned());
    if lengths.any(|other| Some(other.value.as_str()) != length.as_deref()) {
        return Err(BodyError::BadLength);
    }
    // A length counts only without chunks, as in tiny_http.
    let length = match (header(request, "Transfer-Encoding"), length) {
        (Some(_), _) => None,
        (None, None) => return Err(BodyError::NoLength),
        (None, Some(length)) => match length.parse() {
            Ok(length) if length > HTTP_BODY_BYTES_MAX => return Err(BodyError::TooLong),
            Ok(length) => Some(length),
            Err(_) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(BodyError::TooLong);
            }
            Err(_) => return Err(BodyError::BadLength),
        },
    };
    let most = u64::try_from(length.unwrap_or(HTTP_BODY_BYTES_MAX + 1)).unwrap_or(u64::MAX);
    let mut body = Vec::new();
    match request.as_reader().take(most).read_to_end(&mut body) {
        Err(_) => Err(BodyError::CutOff),
        Ok(read) if read > HTTP_BODY_BYTES_MAX => Err(BodyError::TooLong),
        Ok(read) if length.is_some_and(|length| read < length) => Err(BodyError::CutOff),
        Ok(_) => Ok(body),
    }
}

fn header<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let header = request
        .headers()
        .iter()
        .find(|header| header.field.equiv(name))?;
    Some(header.value.as_str())
}

/// The answer as tiny_http takes it; its body fails after `deadline`.
fn response(answer: Answer, deadline: Instant) -> Response<impl Read> {
    let length = answer.body.len();
    let headers = headers(&answer);
    let body = Timed {
        body: Cursor::new(answer.body),
        deadline,
    };
    Response::new(StatusCode(answer.status), headers, body, Some(length), None)
        // Always with a Content-Length: chunks would only hide how much is to come.
        .with_chunked_threshold(usize::MAX)
}

fn headers(answer: &Answer) -> Vec<Header> {
    let mut headers = vec![
        ("Content-Type", answer.content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ];
    if answer.status == 503 {
        headers.push(("Retry-After", "1"));
    }
    if answer.status == 401 {
        headers.push(("WWW-Authenticate", "Bearer"));
    }
    if let Some(allow) = answer.allow {
        headers.push(("Allow", allow));
    }
    let disposition = answer
        .file_name
        .as_ref()
        .map(|name| format!("attachment; filename=\"{name}\""));
    if let Some(disposition) = &disposition {
        headers.push(("Content-Disposition", disposition));
    }
    if let Some(policy) = &answer.policy {
        headers.push(("Content-Security-Policy", policy));
        headers.push(("Referrer-Policy", "no-referrer"));
    }
    headers
        .into_iter()
        .map(|(name, value)| Header::from_bytes(name, value).expect("our headers are ASCII"))
        .collect()
}

/// A body that ends in an error when its time is over, however slowly it is taken.
struct Timed<R> {
    body: R,
    deadline: Instant,
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() > self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.body.read(buffer)
    }
}

/// Answers a request that must never be dropped, and leaves it lying.
fn refuse_for_good(shared: &Shared, request: Request) {
    let peer = request.remote_addr().copied();
    let answer = Answer::bad_body(BodyError::TooLong);
    count(shared, answer.status);
    let status = Response::new(StatusCode(413), headers(&answer), io::empty(), None, None);
    // The one call that gives back the request's reader instead of dropping it. `Upgrade` is
    // a header that any answer may have; the length comes after it, because tiny_http sends
    // none with an upgrade, and the answer would not end where connections cannot be hung up.
    let upgrade = format!("HTTP/1.1\r\nContent-Length: {}", answer.body.len());
    let mut connection = request.upgrade(&upgrade, status);
    let _ = connection
        .write_all(&answer.body)
        .and_then(|()| connection.flush());
    std::mem::forget(connection);
    shared.hang_up(|other| Some(other) == peer);
    leaked(shared);
}

/// Drops a request whose connection has ended.
fn discard(shared: &Shared, request: Request) {
    if danger(&request) == Danger::Kills {
        std::mem::forget(request);
        leaked(shared);
    } else if catch_unwind(AssertUnwindSafe(|| drop(request))).is_err() {
        shared.desk.counters.handler_panics.add();
    }
}

fn leaked(shared: &Shared) {
    shared.desk.counters.requests_leaked.add();
    if shared.desk.counters.requests_leaked.get() >= HTTP_LEAKED_MAX && !shared.has_ended() {
        log::error!(
            "HTTP ends: {HTTP_LEAKED_MAX} requests with a hostile Content-Length have taken \
             descriptors for good; matches go on; restart the server, and keep --web on \
             loopback or behind a proxy"
        );
        shared.end();
    }
}

/// A request that is being answered, as long as this value lives.
struct Flight<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Flight<'_> {
    fn begin(shared: &Shared, peer: Option<SocketAddr>) -> Flight<'_> {
        let mut flights = shared.flights();
        let number = flights.next;
        flights.next += 1;
        flights.since.insert(number, (peer, Instant::now()));
        Flight { shared, number }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.shared.flights().since.remove(&self.number);
    }
}

// --- The watchdog -------------------------------------------------------------------------

/// Looks after the current server until HTTP ends.
fn watch(shared: &Arc<Shared>) {
    let mut failures = 0;
    let mut rest = HTTP_RESTART_REST_MIN;
    let mut requests = 0;
    shared.bell.wait(shared.watch.every);
    while !shared.has_ended() {
        shared.hang_up_overdue();
        match shared.look() {
            Ok(()) => {
                failures = 0;
                rest = HTTP_RESTART_REST_MIN;
                // One of them was ours.
                let before = std::mem::replace(&mut requests, shared.desk.counters.requests.get());
                let busy = requests > before + 1 || !shared.flights().since.is_empty();
                let every = if busy {
                    HTTP_WATCH_EVERY_BUSY
                } else {
                    shared.watch.every
                };
                shared.bell.wait(every.min(shared.watch.every));
                continue;
            }
            Err(trouble) => {
                failures += 1;
                let silent = matches!(trouble, Trouble::Silence(_));
                // Perhaps only the loop is slow, and that is not for us to mend.
                if silent && shared.desk.operations.is_asking() && failures < HTTP_WATCH_FORGIVES {
                    shared.bell.wait(shared.watch.every);
                    continue;
                }
                replace(shared, &trouble);
            }
        }
        let resting = Instant::now();
        while !shared.has_ended() && resting.elapsed() < rest {
            shared.bell.wait(rest.saturating_sub(resting.elapsed()));
        }
        rest = (rest * 2).min(HTTP_RESTART_REST_MAX);
    }
    // Whoever was accepted while HTTP ended would wait for ever.
    thread::sleep(2 * HTTP_STOP);
    shared.hang_up(|_| true);
}

/// Asks the server whether it works, as a client would. On the way it lets connections go on
/// that the pool of threads has left lying (see the head of the file).
fn probe(listen: SocketAddr, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let addr = SocketAddr::new(ip, listen.port());
    // An error of theirs is one of the question's, too, and told by it.
    let nudge = || drop(TcpStream::connect_timeout(&addr, HTTP_NUDGE_EVERY));
    for _ in 0..HTTP_NUDGES {
        nudge();
    }
    let mut stream = TcpStream::connect_timeout(&addr, patience)?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_read_timeout(Some(HTTP_NUDGE_EVERY))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let expected = b"HTTP/1.1 204 ";
    let mut answer = Vec::new();
    while answer.len() < expected.len() {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut buffer = [0; 64];
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => nudge(),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
    match answer.starts_with(expected) {
        true => Ok(()),
        false => Err(io::Error::other("somebody else answers")),
    }
}

/// Puts a new server in the place of the current one.
fn replace(shared: &Arc<Shared>, trouble: &Trouble) {
    let counters = &shared.desk.counters;
    let abandoned = counters.workers_abandoned.get();
    let old = shared.current().clone();
    if old.is_some() && abandoned >= HTTP_ABANDONED_MAX {
        log::error!("HTTP hangs ({trouble}), and so do {abandoned} workers of servers before");
        return;
    }
    let kept = old.and_then(|old| {
        counters.workers_abandoned.add_many(HTTP_WORKERS);
        let kept = old.retire();
        *shared.current() = None;
        old.hung_up
            .store(shared.hang_up(|_| true), Ordering::Release);
        old.wake_workers();
        kept
    });
    let opened = match kept {
        Some(socket) => Ok(socket),
        None => listening_socket(shared.addr, &shared.watch),
    };
    match opened.and_then(|socket| open(shared, socket)) {
        Ok(new) => {
            counters.restarts.add();
            log::warn!("HTTP: put a new server in the place of the old one: {trouble}");
            *shared.current() = Some(new);
            // It may have ended in between.
            if shared.has_ended() {
                shared.end();
            }
        }
        Err(error) => log::warn!("HTTP: cannot listen on {} again yet: {error}", shared.addr),
    }
}

/// Wakes the watchdog before its time.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self
            .rung
            .lock()
            .expect("nobody panics while holding the bell") = true;
        self.heard.notify_one();
    }

    /// Waits until somebody rings, at most for `time`.
    fn wait(&self, time: Duration) {
        let rung = self
            .rung
            .lock()
            .expect("nobody panics while holding the bell");
        let (mut rung, _) = self
            .heard
            .wait_timeout_while(rung, time, |rung| !*rung)
            .expect("nobody panics while holding the bell");
        *rung = false;
    }
}
