//! The limit that scripts/bench measures the server against: the same number, size and direction
//! of datagrams, and nothing else.
//!
//! `plain-udp serve` stands where the server stands: it reads what comes and sends to each of
//! its peers in turn, both in batches of 64 where the system has such calls. `plain-udp peers`
//! stands where the bots stand, with a socket for each peer, and listens as they do: once a
//! millisecond, because whoever waits for each datagram has its sender pay for the waking. The
//! server says on standard output where it listens and when all its peers are known; each prints
//! one line of JSON at its end.
//!
//! `plain-udp limit` says how fast the machine is: what it takes to send one datagram and to
//! receive one, in full batches and with nothing else to do.
//!
//! It knows nothing of the library: what it does must not change with it.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use hdrhistogram::Histogram;
use lockstep_server::limits::{SOCKET_BUFFER_BYTES, TURN_EVERY};
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use batch::Batch;

/// Time between two turns of the peers, as of the players of lockstep-bots.
const TURN: Duration = Duration::from_millis(1);
/// Datagrams in one system call.
const BATCH: usize = 64;
/// Bytes of a datagram at the most.
const DATAGRAM_MAX: usize = 2048;
/// Bytes at the beginning of a downlink datagram that say when it was due.
const STAMP_BYTES: usize = 8;
/// Time in which all peers must be known.
const GATHER_LIMIT: Duration = Duration::from_secs(20);
/// Sockets that are heard in one go.
const EVENTS: usize = 1024;
/// Peers of the server whose limit is measured, as where the targets come from.
const LIMIT_PEERS: usize = 2048;
/// Bytes of their datagrams: about as many as a frame has.
const LIMIT_BYTES: usize = 64;
/// How often each of them is sent a datagram, and sends one.
const LIMIT_ROUNDS: usize = 100;
/// Time between two greetings of a peer, which may be lost.
const GREET_EVERY: Duration = Duration::from_millis(200);

/// Moves datagrams, and nothing else.
#[derive(Debug, Parser)]
#[command(name = "plain-udp")]
struct Args {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// The side that is measured.
    Serve(Load),
    /// The other side.
    Peers {
        /// Where the server listens.
        #[arg(long)]
        server: SocketAddr,
        #[command(flatten)]
        load: Load,
    },
    /// Both in one process, to say how long the server's side takes for a datagram.
    Limit,
}

/// What one side sends, and to how many.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Load {
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    peers: u32,
    /// Datagrams sent in a second, to or by all peers together.
    #[arg(long)]
    rate: u32,
    /// Bytes of each.
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=1400))]
    bytes: u32,
    /// How long it sends.
    #[arg(long)]
    seconds: u32,
}

fn main() -> ExitCode {
    let ran = match Args::parse().side {
        Side::Serve(load) => serve(load),
        Side::Peers { server, load } => play(server, load),
        Side::Limit => limit(),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plain-udp: {error}");
            ExitCode::FAILURE
        }
    }
}

// --- The server's side ----------------------------------------------------------------------

fn serve(load: Load) -> io::Result<()> {
    let socket = server_socket()?;
    say(&format!("listening {}", socket.local_addr()?))?;
    let mut batch = Batch::new();
    let peers = gather(&socket, load, &mut batch)?;
    say("ready")?;

    let mut datagram = vec![0; load.bytes as usize];
    let mut pace = Pace::new(load, TURN_EVERY);
    let (mut received, mut sent, mut refused) = (0, 0, 0);
    while let Some(due) = pace.turn() {
        received += receive_all(&socket, &mut batch, |_| {})?;
        let stamp = unix_us(SystemTime::now()).saturating_sub(pace.late_us());
        datagram[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
        let mut next = sent;
        let to: Vec<SocketAddr> = std::iter::repeat_with(|| {
            next += 1;
            peers[next % peers.len()]
        })
        .take(due)
        .collect();
        for some in to.chunks(BATCH) {
            refused += some.len() - batch.send(&socket, &datagram, some);
        }
        sent += due;
    }
    say(&format!(
        r#"{{"received": {received}, "sent": {sent}, "refused": {refused}}}"#
    ))
}

fn server_socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    // The system may grant less.
    let _ = SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket)
}

/// Reads everything that waits.
fn receive_all(
    socket: &UdpSocket,
    batch: &mut Batch,
    mut of: impl FnMut(SocketAddr),
) -> io::Result<u64> {
    let mut received = 0;
    loop {
        match batch.receive(socket, &mut of) {
            Ok(count) => received += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(received),
            Err(error) => return Err(error),
        }
    }
}

/// Waits until everybody has said something.
fn gather(socket: &UdpSocket, load: Load, batch: &mut Batch) -> io::Result<Vec<SocketAddr>> {
    let began = Instant::now();
    let mut known = HashSet::new();
    let mut peers = Vec::new();
    while peers.len() < load.peers as usize {
        receive_all(socket, batch, |from| {
            if known.insert(from) {
                peers.push(from);
            }
        })?;
        if began.elapsed() > GATHER_LIMIT {
            return Err(io::Error::other(format!("only {} peers came", peers.len())));
        }
        thread::sleep(TURN);
    }
    Ok(peers)
}

// --- The peers' side ------------------------------------------------------------------------

fn play(server: SocketAddr, load: Load) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut sockets = Vec::new();
    for number in 0..load.peers as usize {
        let mut socket = mio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        socket.connect(server)?;
        poll.registry()
            .register(&mut socket, Token(number), Interest::READABLE)?;
        sockets.push(socket);
    }
    let mut ear = Ear {
        poll: &mut poll,
        events: Events::with_capacity(EVENTS),
        sockets: &sockets,
        lateness_us: Histogram::new(3).expect("3 digits are a legal precision"),
    };
    let datagram = vec![0; load.bytes as usize];
    let began = Instant::now();
    let mut greeted = None;
    while ear.listen()? == 0 {
        if began.elapsed() > GATHER_LIMIT {
            return Err(io::Error::other("the server says nothing"));
        }
        if greeted.is_none_or(|at: Instant| at.elapsed() > GREET_EVERY) {
            for some in sockets.chunks(BATCH) {
                some.iter().for_each(|socket| drop(socket.send(&datagram)));
                thread::sleep(TURN);
            }
            greeted = Some(Instant::now());
        }
        thread::sleep(TURN);
    }

    ear.lateness_us.clear();
    let mut pace = Pace::new(load, TURN);
    let mut sent = 0;
    while let Some(due) = pace.turn() {
        ear.listen()?;
        for number in sent..sent + due {
            // What the system does not take is lost.
            let _ = sockets[number % sockets.len()].send(&datagram);
        }
        sent += due;
    }
    let late = &ear.lateness_us;
    let ms = |us: u64| us as f64 / 1000.0;
    say(&format!(
        r#"{{"received": {}, "sent": {sent}, "p50": {}, "p99": {}, "p999": {}, "max": {}}}"#,
        late.len(),
        ms(late.value_at_quantile(0.5)),
        ms(late.value_at_quantile(0.99)),
        ms(late.value_at_quantile(0.999)),
        ms(late.max()),
    ))
}

/// What the peers hear, and how long after it was due.
struct Ear<'a> {
    poll: &'a mut Poll,
    events: Events,
    sockets: &'a [mio::net::UdpSocket],
    lateness_us: Histogram<u64>,
}

impl Ear<'_> {
    /// Reads everything that waits. Returns how much.
    fn listen(&mut self) -> io::Result<u64> {
        let mut heard = 0;
        loop {
            self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
            for event in &self.events {
                heard += hear(&self.sockets[event.token().0], &mut self.lateness_us);
            }
            if self.events.iter().count() < EVENTS {
                return Ok(heard);
            }
        }
    }
}

/// Reads everything that waits at a socket, and notes how late it is. Returns how much.
fn hear(socket: &mio::net::UdpSocket, lateness_us: &mut Histogram<u64>) -> u64 {
    let mut heard = 0;
    let mut buffer = [0; DATAGRAM_MAX];
    while let Ok(len) = socket.recv(&mut buffer) {
        heard += 1;
        if let Some((stamp, _)) = buffer[..len].split_first_chunk::<STAMP_BYTES>() {
            let late = unix_us(SystemTime::now()).saturating_sub(u64::from_le_bytes(*stamp));
            lateness_us
                .record(late)
                .expect("a histogram that resizes takes any value");
        }
    }
    heard
}

// --- The limit --------------------------------------------------------------------------------

/// Times each batch of the server's socket. What the peers do is not in it, save that the
/// system delivers a datagram while it is sent.
fn limit() -> io::Result<()> {
    let server = server_socket()?;
    let mut peers = Vec::new();
    for _ in 0..LIMIT_PEERS {
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        peer.connect(server.local_addr()?)?;
        peers.push((peer.local_addr()?, peer));
    }
    let mut batch = Batch::new();
    let datagram = [0; LIMIT_BYTES];
    let mut buffer = [0; DATAGRAM_MAX];
    let (mut sending, mut receiving) = (Vec::new(), Vec::new());
    for some in (0..LIMIT_ROUNDS).flat_map(|_| peers.chunks(BATCH)) {
        let to: Vec<_> = some.iter().map(|(address, _)| *address).collect();
        let began = Instant::now();
        let sent = batch.send(&server, &datagram, &to);
        sending.push(began.elapsed());
        if sent < some.len() {
            return Err(io::Error::other("the system does not take a whole batch"));
        }
        for (_, peer) in some {
            peer.recv(&mut buffer)?;
            peer.send(&datagram)?;
        }
        let began = Instant::now();
        let mut left = some.len();
        while left > 0 {
            left -= batch.receive(&server, |_| {})?;
        }
        receiving.push(began.elapsed());
    }
    say(&format!(
        r#"{{"peers": {LIMIT_PEERS}, "bytes": {LIMIT_BYTES}, "send_us": {:.3}, "receive_us": {:.3}}}"#,
        us_each(&mut sending),
        us_each(&mut receiving),
    ))
}

/// Time for a datagram in the batch of the middle: whoever had the core for a while meanwhile is in
/// few of them.
fn us_each(batches: &mut [Duration]) -> f64 {
    batches.sort_unstable();
    batches[batches.len() / 2].as_secs_f64() * 1e6 / BATCH as f64
}

// --- Both -------------------------------------------------------------------------------------

/// Says how much is due, turn by turn.
struct Pace {
    load: Load,
    /// Time between two turns.
    every: Duration,
    began: Instant,
    turns: u32,
    sent: u64,
}

impl Pace {
    fn new(load: Load, every: Duration) -> Pace {
        Pace {
            load,
            every,
            began: Instant::now(),
            turns: 0,
            sent: 0,
        }
    }

    /// Sleeps until the next turn, and returns how many datagrams are due in it; `None` at the
    /// end.
    fn turn(&mut self) -> Option<usize> {
        self.turns += 1;
        thread::sleep((self.every * self.turns).saturating_sub(self.began.elapsed()));
        self.due()
    }

    /// How late this turn is.
    fn late_us(&self) -> u64 {
        let late = self.began.elapsed().saturating_sub(self.every * self.turns);
        u64::try_from(late.as_micros()).unwrap_or(u64::MAX)
    }

    fn due(&mut self) -> Option<usize> {
        let Load { rate, seconds, .. } = self.load;
        if self.began.elapsed() >= Duration::from_secs(seconds.into()) {
            return None;
        }
        let turns = self.every.as_secs_f64() * f64::from(self.turns);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is rounded down, and above 0"
        )]
        let all = (f64::from(rate) * turns) as u64;
        let due = all - self.sent;
        self.sent = all;
        Some(usize::try_from(due).expect("it is a part of a u32"))
    }
}

fn unix_us(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Writes a line where scripts/bench reads it at once.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

/// One datagram after another, where the system has nothing better.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod batch {
    use super::*;

    /// Memory for one datagram.
    pub(super) struct Batch(Box<[u8; DATAGRAM_MAX]>);

    impl Batch {
        pub(super) fn new() -> Batch {
            Batch(Box::new([0; DATAGRAM_MAX]))
        }

        /// Reads a datagram. [`ErrorKind::WouldBlock`] if none waits.
        pub(super) fn receive(
            &mut self,
            socket: &UdpSocket,
            mut of: impl FnMut(SocketAddr),
        ) -> io::Result<usize> {
            let (_, from) = socket.recv_from(&mut self.0[..])?;
            of(from);
            Ok(1)
        }

        /// Sends the datagram to each of these, and returns how many the system took.
        pub(super) fn send(
            &mut self,
            socket: &UdpSocket,
            datagram: &[u8],
            to: &[SocketAddr],
        ) -> usize {
            let took = |to: &&SocketAddr| socket.send_to(datagram, to).is_ok();
            to.iter().filter(took).count()
        }
    }
}

/// `recvmmsg` and `sendmmsg`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the standard library has no calls for batches")]
mod batch {
    use super::*;
    use std::mem;
    use std::net::SocketAddrV4;
    use std::os::fd::AsRawFd;
    use std::ptr;

    /// Memory for as many datagrams as one call moves.
    pub(super) struct Batch {
        buffers: Vec<[u8; DATAGRAM_MAX]>,
        names: Vec<libc::sockaddr_in>,
    }

    impl Batch {
        pub(super) fn new() -> Batch {
            Batch {
                buffers: vec![[0; DATAGRAM_MAX]; BATCH],
                names: vec![nobody(); BATCH],
            }
        }

        /// Reads as many datagrams as wait and fit. [`ErrorKind::WouldBlock`] if none waits.
        pub(super) fn receive(
            &mut self,
            socket: &UdpSocket,
            mut of: impl FnMut(SocketAddr),
        ) -> io::Result<usize> {
            let mut pieces: [libc::iovec; BATCH] = std::array::from_fn(|at| libc::iovec {
                iov_base: self.buffers[at].as_mut_ptr().cast(),
                iov_len: DATAGRAM_MAX,
            });
            let mut headers = headers(&mut self.names, &mut pieces);
            let len = libc::c_uint::try_from(headers.len()).expect("it is BATCH");
            // SAFETY: each header points to an address and to one piece of memory, all of which
            // outlive the call and are written by nobody else during it; the lengths beside
            // them are theirs. There are BATCH headers. No time limit is given.
            let count = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    len,
                    0,
                    ptr::null_mut(),
                )
            };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            self.names[..count].iter().for_each(|name| of(addr(name)));
            Ok(count)
        }

        /// Sends the datagram to each of these, [`BATCH`] at the most, and returns how many the
        /// system took.
        pub(super) fn send(
            &mut self,
            socket: &UdpSocket,
            datagram: &[u8],
            to: &[SocketAddr],
        ) -> usize {
            for (name, to) in self.names.iter_mut().zip(to) {
                *name = name_of(to);
            }
            let mut pieces = [libc::iovec {
                // The system only reads what it sends.
                iov_base: datagram.as_ptr().cast_mut().cast(),
                iov_len: datagram.len(),
            }; BATCH];
            let mut headers = headers(&mut self.names, &mut pieces);
            let headers = &mut headers[..to.len().min(BATCH)];
            let len = libc::c_uint::try_from(headers.len()).expect("it is at most BATCH");
            // SAFETY: as above; of the pieces the system reads, and they all are `datagram`.
            let count = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), len, 0) };
            usize::try_from(count).unwrap_or(0)
        }
    }

    fn headers(
        names: &mut [libc::sockaddr_in],
        pieces: &mut [libc::iovec; BATCH],
    ) -> [libc::mmsghdr; BATCH] {
        let (name, piece) = (names.as_mut_ptr(), pieces.as_mut_ptr());
        assert!(names.len() >= BATCH);
        std::array::from_fn(|at| {
            // SAFETY: a header is plain data of the C library, and all zeros is an empty one.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            // SAFETY: both arrays have BATCH elements, and `at` is below that.
            unsafe {
                header.msg_hdr.msg_name = name.add(at).cast();
                header.msg_hdr.msg_iov = piece.add(at);
            }
            header.msg_hdr.msg_namelen = NAME_BYTES;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
    }

    #[allow(clippy::cast_possible_truncation, reason = "it is 16")]
    const NAME_BYTES: libc::socklen_t = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;

    fn nobody() -> libc::sockaddr_in {
        name_of(&SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    fn name_of(addr: &SocketAddr) -> libc::sockaddr_in {
        let SocketAddr::V4(addr) = addr else {
            unreachable!("the socket is one of IPv4");
        };
        libc::sockaddr_in {
            sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("it is 2"),
            sin_port: addr.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(addr.ip().octets()),
            },
            sin_zero: [0; 8],
        }
    }

    fn addr(name: &libc::sockaddr_in) -> SocketAddr {
        let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
        SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into()
    }
}
