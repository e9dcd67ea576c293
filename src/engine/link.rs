//! KCP: the only file that knows the `kcp` crate.
//!
//! A [`Link`] is one end of one conversation: messages go in and come out, datagrams come
//! in and leave through a [`Sink`]. Both `session` and [`crate::client`]
//! stand on it. It adds to KCP what KCP cannot do: refuse what a peer cannot honestly
//! have sent, prove the peer's address by an echoed time stamp and send little before,
//! measure the round trip, hold back acknowledgements, and say exactly when it must be
//! woken.
//!
//! How the crate must be used, each found by measurement:
//! - `update` comes before `input` and before `flush`, or round trips are measured against
//!   the update before;
//! - one flush per turn, or forged acknowledgements fetch retransmissions by the megabyte;
//! - an interval of 5 s, lowered to 10 ms only around `input`, where it enters the
//!   retransmission time-out: then `check` tells the true deadline and idle costs nothing;
//! - its output must not fail.

use std::net::SocketAddr;
use std::time::Duration;

use kcp::{Error, Kcp};

use super::drops::{Disconnect, Drop};
use super::id::Conv;
use super::time::Time;
use super::transmit::Sink;
use super::wire::segment::{self, Cmd, Datagram, Segment, Segments, distance};
use crate::limits::{
    MTU, PAST_LIFE, PAST_SEGMENTS_MAX, PROOF_STAMPS_MAX, RECEIVE_WINDOW, ROUND_TRIP_SAMPLE_MAX,
    SEGMENT_PAYLOAD_MAX, SEND_WINDOW, TIMESTAMP_AGE_MAX, UNPROVED_BYTES_FACTOR,
    UNPROVED_SEGMENTS_MAX, UNPROVED_STREAM_MAX,
};

/// KCP's interval while it waits, in ms: the largest it takes.
const INTERVAL_IDLE_MS: u32 = 5000;
/// KCP's interval while it hears a datagram, in ms, as in the original server.
const INTERVAL_INPUT_MS: u32 = 10;
/// Duplicate acknowledgements that trigger a retransmission, as in the original server.
const FAST_RESEND: i32 = 2;

/// What leaves the link when KCP writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valve {
    /// Everything.
    Open,
    /// Data, but no acknowledgement: the peer keeps repeating itself.
    NoAcknowledgements,
    /// Nothing.
    Shut,
}

/// What a datagram told besides its data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// It is not older than what was heard before: its `una` has not gone back.
    pub fresh: bool,
    /// It acknowledged something that was outstanding.
    pub progress: bool,
    /// It proved the peer's address, just now.
    pub proved: bool,
    /// Some of its data was passed over: too much before the proof.
    pub over: bool,
    /// It repeated data, or data overtook data: the peer waits for acknowledgements.
    pub repeated: bool,
}

/// By what a peer may prove its address.
#[derive(Debug, Default)]
struct Proof {
    /// Time stamps that were really sent.
    stamps: Vec<u32>,
    /// Our first segment as it last left, acknowledging nothing, and when that was.
    first: Option<(Vec<u8>, Time)>,
    /// Bytes of the datagrams that may still leave: what has come in, a few times over.
    allowance: usize,
    /// Messages that were taken out, of a segment at least: what lies before them is not held.
    read: u32,
}

/// One end of a KCP conversation.
#[derive(Debug)]
pub struct Link {
    kcp: Kcp<Sink>,
    sink: Sink,
    /// KCP's clock at the origin of [`Time`], in ms.
    clock_base: u32,
    valve: Valve,
    /// The next sequence number to be sent for the first time.
    snd_nxt: u32,
    /// The highest `una` the peer has sent.
    peer_una: u32,
    /// What the peer may prove its address by; `None` once it has.
    proof: Option<Proof>,
    /// Smoothed round trip, `None` before the first acknowledgement.
    srtt: Option<Duration>,
    /// Something is to be flushed that cannot wait: data, perhaps a retransmission.
    wants_flush: bool,
    /// An acknowledgement is to be flushed.
    owes_ack: bool,
    /// The sequence number after the highest that the peer's data had.
    rcv_end: u32,
    /// The sequence number that the next message will get: how many segments were queued.
    queued: u32,
    /// How many of our segments the peer had at two moments, the older at least
    /// [`PAST_LIFE`] ago unless the link is younger: what was sent since begins there.
    marks: [(Time, u32); 2],
    /// When data was last written.
    pushed_at: Option<Time>,
    /// Segments under this number may have reached the peer from the conversation that was
    /// here before, under the same number: see [`Link::succeeding`].
    foreign: u32,
}

impl Link {
    /// A link whose peer must prove its address. `clock_base` should be unpredictable: it
    /// is what the proof rests on.
    pub fn new(conv: Conv, clock_base: u32, sink: Sink) -> Link {
        let mut kcp = Kcp::new(conv.0, sink.clone());
        kcp.set_nodelay(true, INTERVAL_IDLE_MS.cast_signed(), FAST_RESEND, true);
        kcp.set_wndsize(SEND_WINDOW, RECEIVE_WINDOW);
        kcp.set_mtu(MTU)
            .expect("the MTU is over KCP's minimum of 50");
        // Not KCP's 20 transmissions, but the session's own limits end a dead link.
        kcp.set_maximum_resend_times(u32::MAX);
        Link {
            kcp,
            sink,
            clock_base,
            valve: Valve::Open,
            snd_nxt: 0,
            peer_una: 0,
            proof: Some(Proof::default()),
            srtt: None,
            wants_flush: false,
            owes_ack: false,
            rcv_end: 0,
            queued: 0,
            marks: [(Time::ZERO, 0); 2],
            pushed_at: None,
            foreign: 0,
        }
    }

    /// A link that takes its peer's address for proved: the client's end.
    pub fn trusting(conv: Conv, clock_base: u32, sink: Sink) -> Link {
        Link {
            proof: None,
            ..Link::new(conv, clock_base, sink)
        }
    }

    /// A link that may replace `old` at the same address under the same conversation number,
    /// because the client was started again. What `old` has sent lately may still reach
    /// the new client and take sequence numbers there: their real segments would then be
    /// acknowledged and thrown away. So acknowledgements and `una` that belong to that
    /// past are passed over, and [`Link::fill`] keeps everything of worth off those numbers.
    pub fn succeeding(old: &Link, now: Time, clock_base: u32) -> Link {
        let recent = old.pushed_at.is_some_and(|at| now.since(at) < PAST_LIFE);
        // The new client throws away what is beyond its window.
        let in_reach = old.marks[0].1 < PAST_SEGMENTS_MAX;
        let sent = if recent && in_reach {
            old.snd_nxt.max(old.foreign)
        } else {
            0
        };
        Link {
            foreign: sent.min(PAST_SEGMENTS_MAX),
            ..Link::new(old.conv(), clock_base, old.sink.to(old.sink.addr()))
        }
    }

    // --- Getters --------------------------------------------------------------------------

    /// The conversation.
    pub fn conv(&self) -> Conv {
        Conv(self.kcp.conv())
    }

    /// Whether the peer has proved that it receives at its address.
    pub fn is_proved(&self) -> bool {
        self.proof.is_none()
    }

    /// The highest `una` the peer has sent: how many of our segments it has.
    pub fn peer_una(&self) -> u32 {
        self.peer_una
    }

    /// The next sequence number to be sent for the first time.
    pub fn snd_nxt(&self) -> u32 {
        self.snd_nxt
    }

    /// Segments that wait to be sent or acknowledged.
    pub fn backlog(&self) -> usize {
        self.kcp.wait_snd()
    }

    /// Segments that may be under way at once, by the peer's window and our own.
    pub fn window(&self) -> usize {
        usize::from(self.kcp.rmt_wnd().min(self.kcp.snd_wnd()))
    }

    /// The sequence number that the next message will get.
    pub fn queued(&self) -> u32 {
        self.queued
    }

    /// Whether the peer has everything before this sequence number.
    pub fn has_arrived(&self, sn: u32) -> bool {
        distance(self.peer_una, sn) >= 0
    }

    /// Smoothed round trip, `None` before the first acknowledgement.
    pub fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Whether a datagram is not older than what was heard before, by its `una`.
    pub fn is_news(&self, datagram: &Datagram<'_>) -> bool {
        let mut segments = datagram.segments();
        segments.any(|segment| distance(segment.una, self.peer_una) >= 0)
    }

    /// Whether [`Link::flush`] has something to do that cannot wait.
    pub fn wants_flush(&self) -> bool {
        self.wants_flush
    }

    /// Whether [`Link::flush`] has something to acknowledge.
    pub fn owes_ack(&self) -> bool {
        self.owes_ack
    }

    /// Whether nothing may leave.
    pub(super) fn is_shut(&self) -> bool {
        self.valve == Valve::Shut
    }

    /// Reads a little of all of it, so that it is in the processor's cache. The sum means nothing.
    pub(super) fn touch(&self) -> usize {
        let kcp = self.kcp.wait_snd() + self.kcp.peeksize().unwrap_or(0) + self.kcp.mtu();
        let port = u32::from(self.sink.addr().port());
        let own = self.snd_nxt ^ self.kcp.conv() ^ self.foreign ^ port;
        kcp ^ usize::from(own == 0) ^ usize::from(self.pushed_at.is_none())
    }

    /// When KCP must be flushed though nothing happens, `None` while nothing is
    /// outstanding.
    pub fn next_flush(&self, now: Time) -> Option<Time> {
        if self.kcp.wait_snd() == 0 || self.valve == Valve::Shut {
            return None;
        }
        let wait_ms = self.kcp.check(self.clock(now));
        Some(Time::from_millis(now.as_millis() + u64::from(wait_ms)))
    }

    // --- Commands -------------------------------------------------------------------------

    /// Sets what may leave.
    pub fn set_valve(&mut self, valve: Valve) {
        self.valve = valve;
    }

    /// The peer is at another address, as far from here as it may be. KCP measures its round trips
    /// anew as they come.
    pub(super) fn move_to(&mut self, to: SocketAddr) {
        self.sink.redirect(to);
        self.srtt = None;
    }

    /// Queues one message, which must be under 127 segments.
    pub fn send(&mut self, message: &[u8]) {
        self.kcp
            .send(message)
            .expect("no message of ours is over 127 segments");
        let segments = message.len().div_ceil(SEGMENT_PAYLOAD_MAX).max(1);
        let segments = u32::try_from(segments).expect("under 127");
        self.queued = self.queued.wrapping_add(segments);
        self.wants_flush = true;
    }

    /// The peer may have so many segments that are none of ours, from an earlier attempt to
    /// answer it.
    pub fn concede(&mut self, segments: u32) {
        self.foreign = self.foreign.max(segments);
    }

    /// Queues `filler` until every sequence number that the past may have taken is behind.
    /// Returns how often.
    pub fn fill(&mut self, filler: &[u8]) -> u32 {
        let before = self.queued;
        if distance(self.foreign, self.queued) > 0 {
            // All of it at once if the peer's window allows: each round trip counts now.
            let window = u16::try_from(PAST_SEGMENTS_MAX).expect("a window of KCP's");
            self.kcp.set_wndsize(window, RECEIVE_WINDOW);
        }
        while distance(self.foreign, self.queued) > 0 {
            self.send(filler);
        }
        self.queued - before
    }

    /// Takes in a datagram of this conversation.
    ///
    /// # Errors
    /// The reason for which it was dropped whole: the peer cannot honestly have sent it.
    pub fn input(&mut self, now: Time, datagram: &mut Datagram<'_>) -> Result<Heard, Drop> {
        let clock = self.clock(now);
        if let Some(proof) = &mut self.proof {
            proof.allowance += datagram.bytes().len() * UNPROVED_BYTES_FACTOR;
        }
        // Once the peer has all of the numbers that the past may have taken, what belongs to
        // it is late, and dropped as anything else that is not ours.
        if distance(self.foreign, self.peer_una) > 0 {
            self.pass_over_the_past(clock, datagram);
        }
        let mut una = datagram.first().una;
        let mut proved = false;
        let mut asks = false;
        let mut pushes = false;
        let mut repeated = false;
        let mut rcv_end = self.rcv_end;
        let mut acked = None;
        let mut rtt = None;
        let mut oldest_echo = Duration::ZERO;
        for segment in datagram.segments() {
            if distance(segment.una, self.snd_nxt) > 0 {
                return Err(Drop::UnaAhead);
            }
            if distance(segment.una, una) > 0 {
                una = segment.una;
            }
            match segment.cmd {
                Cmd::Ack => {
                    let age = self.echoed_age(clock, &segment)?;
                    rtt = Some(age);
                    let newer = |acked: u32| distance(segment.sn, acked) > 0;
                    if acked.is_none_or(newer) {
                        acked = Some(segment.sn);
                    }
                    oldest_echo = oldest_echo.max(age);
                    let proof = self.proof.as_ref();
                    proved |= proof.is_some_and(|proof| proof.stamps.contains(&segment.ts));
                }
                Cmd::Push => {
                    pushes = true;
                    repeated |= segment.sn != rcv_end;
                    // KCP passes over what is beyond its window, and so nobody sends it.
                    if (0..i32::from(RECEIVE_WINDOW)).contains(&distance(segment.sn, rcv_end)) {
                        rcv_end = segment.sn.wrapping_add(1);
                    }
                }
                Cmd::Wask => asks = true,
                Cmd::Wins => {}
            }
        }

        if oldest_echo > ROUND_TRIP_SAMPLE_MAX {
            let most = ROUND_TRIP_SAMPLE_MAX.as_millis();
            datagram.shorten_echoes(clock, u32::try_from(most).expect("it is short"));
        }
        let mut over = false;
        if proved {
            self.proof = None;
        } else if let Some(proof) = &self.proof {
            // A peer that has proved nothing acknowledges nothing by `una`: if the ACK with
            // the echo is lost, our answer must come again to be echoed again.
            datagram.clear_una();
            over = datagram.retain_pushes(|push| proof.takes(push));
        }
        let fresh = distance(una, self.peer_una) >= 0;
        if fresh {
            self.peer_una = una;
        }
        if let Some(sample) = rtt.map(|age| age.min(ROUND_TRIP_SAMPLE_MAX)) {
            self.srtt = Some(self.srtt.map_or(sample, |srtt| (srtt * 7 + sample) / 8));
        }

        let outstanding = self.kcp.wait_snd();
        self.writing(now, |kcp| {
            kcp.update(clock).expect("the sink never fails");
            kcp.set_interval(INTERVAL_INPUT_MS);
            let heard = kcp.input(datagram.bytes());
            kcp.set_interval(INTERVAL_IDLE_MS);
            debug_assert!(heard.is_ok(), "a checked datagram was refused: {heard:?}");
        });
        self.rcv_end = rcv_end;
        self.owes_ack |= pushes;
        // An acknowledgement that has overtaken another may ask for a retransmission, and what
        // waits for the peer's window may go on.
        let overtaken = acked.is_some_and(|sn| distance(sn, self.peer_una) >= 0);
        let held = self.queued != self.snd_nxt;
        self.wants_flush |= asks || self.kcp.wait_snd() > 0 && (overtaken || held);
        Ok(Heard {
            fresh,
            progress: self.kcp.wait_snd() < outstanding,
            proved,
            over,
            repeated,
        })
    }

    /// Takes out the next message, into the front of `buffer`; `None` if none is whole.
    ///
    /// # Errors
    /// [`Disconnect::MessageTooLarge`] if it does not fit; so does every later call.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Disconnect> {
        match self.kcp.recv(buffer) {
            Ok(len) => {
                if let Some(proof) = &mut self.proof {
                    proof.read = proof.read.wrapping_add(1);
                }
                Ok(Some(len))
            }
            Err(Error::UserBufTooSmall) => Err(Disconnect::MessageTooLarge),
            Err(_) => Ok(None),
        }
    }

    /// Writes what is due to the sink: acknowledgements, data, retransmissions.
    pub fn flush(&mut self, now: Time) {
        let clock = self.clock(now);
        self.writing(now, |kcp| {
            kcp.update(clock).expect("the sink never fails");
            kcp.flush().expect("the sink never fails");
        });
        self.wants_flush = false;
        self.owes_ack = false;
    }

    /// Sends our first segment again, if the peer has not proved its address and the last
    /// copy left at least `every` ago. Only its echo proves anything, and KCP repeats it ever
    /// more slowly.
    pub fn repeat_first(&mut self, now: Time, every: Duration) {
        let clock = self.clock(now);
        let Some(proof) = &mut self.proof else { return };
        let Some((segment, left_at)) = &mut proof.first else {
            return;
        };
        if now.since(*left_at) >= every && proof.allowance >= segment.len() {
            proof.allowance -= segment.len();
            *left_at = now;
            segment::set_ts(segment, clock);
            self.sink.push(segment);
            remember(&mut proof.stamps, clock);
        }
    }

    /// Asks the peer for a sign of life, past the valve: a window probe, which every KCP
    /// answers and which acknowledges nothing.
    pub fn probe(&mut self, now: Time) {
        let probe = Segment {
            conv: self.kcp.conv(),
            cmd: Cmd::Wask,
            frg: 0,
            wnd: RECEIVE_WINDOW,
            ts: self.clock(now),
            sn: 0,
            una: 0,
            data: &[],
        };
        let mut datagram = Vec::with_capacity(segment::HEADER);
        segment::write(&mut datagram, &probe);
        self.sink.push(&datagram);
    }

    // --- Inside ---------------------------------------------------------------------------

    /// How long ago the segment left that an ACK acknowledges.
    fn echoed_age(&self, clock: u32, ack: &Segment<'_>) -> Result<Duration, Drop> {
        if distance(ack.sn, self.snd_nxt) >= 0 {
            return Err(Drop::UnaAhead);
        }
        let age = u64::try_from(distance(clock, ack.ts)).map_err(|_| Drop::EchoedTime)?;
        let age = Duration::from_millis(age);
        if age > TIMESTAMP_AGE_MAX {
            return Err(Drop::EchoedTime);
        }
        Ok(age)
    }

    /// Makes harmless what a datagram says of the conversation before: acknowledgements that
    /// are none of ours, and `una` over what we have sent.
    fn pass_over_the_past(&self, clock: u32, datagram: &mut Datagram<'_>) {
        let (snd_nxt, foreign) = (self.snd_nxt, self.foreign);
        datagram.retain_acks(|ack| self.echoed_age(clock, ack).is_ok());
        datagram.map_una(|una| {
            let past = distance(una, snd_nxt) > 0 && distance(una, foreign) <= 0;
            if past { snd_nxt } else { una }
        });
    }

    /// KCP's clock: milliseconds modulo 2^32, from the base.
    fn clock(&self, now: Time) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "KCP's clock runs modulo 2^32"
        )]
        let ms = now.as_millis() as u32;
        self.clock_base.wrapping_add(ms)
    }

    /// Lets KCP write, then reads from its headers what it does not tell, and applies the
    /// valve.
    fn writing(&mut self, now: Time, write: impl FnOnce(&mut Kcp<Sink>)) {
        let first = self.sink.len();
        write(&mut self.kcp);
        if self.sink.len() == first {
            return;
        }
        if now.since(self.marks[1].0) >= PAST_LIFE {
            self.marks = [self.marks[1], (now, self.peer_una)];
        }
        let Link {
            snd_nxt,
            pushed_at,
            proof,
            valve,
            sink,
            ..
        } = self;
        sink.edit_from(first, |datagram| {
            for segment in Segments::of_output(datagram) {
                if segment.cmd != Cmd::Push {
                    continue;
                }
                if *valve != Valve::Shut {
                    *pushed_at = Some(now);
                }
                if distance(segment.sn, *snd_nxt) >= 0 {
                    *snd_nxt = segment.sn.wrapping_add(1);
                }
                if let Some(proof) = proof {
                    proof.note(now, &segment);
                }
            }
            let left = match valve {
                Valve::Open => datagram.len(),
                Valve::NoAcknowledgements => segment::strip_acknowledgements(datagram),
                Valve::Shut => 0,
            };
            match proof {
                Some(proof) => proof.afford(left),
                None => left,
            }
        });
    }
}

impl Proof {
    /// How much of a datagram of this length may leave: all or, as if lost, nothing.
    fn afford(&mut self, len: usize) -> usize {
        if len > self.allowance {
            return 0;
        }
        self.allowance -= len;
        len
    }

    /// Whether a segment lies so near the place up to which the stream was read that it may
    /// wait there. Those before it are taken for as long as it is.
    fn takes(&self, push: &Segment<'_>) -> bool {
        // What was read comes again if our acknowledgement was lost.
        let before = usize::try_from(distance(push.sn, self.read)).unwrap_or(0);
        before < UNPROVED_SEGMENTS_MAX && before * push.data.len() < UNPROVED_STREAM_MAX
    }

    /// Takes note of a segment that leaves.
    fn note(&mut self, now: Time, segment: &Segment<'_>) {
        remember(&mut self.stamps, segment.ts);
        if segment.sn == 0 {
            let mut first = Vec::new();
            segment::write(&mut first, &Segment { una: 0, ..*segment });
            self.first = Some((first, now));
        }
    }
}

/// Keeps the newest [`PROOF_STAMPS_MAX`] different stamps.
fn remember(stamps: &mut Vec<u32>, ts: u32) {
    if stamps.last() == Some(&ts) {
        return;
    }
    if stamps.len() == PROOF_STAMPS_MAX {
        stamps.remove(0);
    }
    stamps.push(ts);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::transmit::Transmits;

    /// Two ends of a conversation and what lies between them.
    struct Pair {
        server: Link,
        client: Link,
        now: Time,
    }

    impl Pair {
        fn new() -> Pair {
            let sink = || Sink::new("127.0.0.1:1".parse().unwrap());
            Pair {
                server: Link::new(Conv(0), u32::MAX - 5, sink()),
                client: Link::trusting(Conv(0), 7, sink()),
                now: Time::from_millis(1),
            }
        }

        /// Whose server knows where the client is.
        fn proved() -> Pair {
            let mut pair = Pair::new();
            pair.server = Link::trusting(Conv(0), u32::MAX - 5, pair.server.sink.clone());
            pair
        }

        fn flushed(link: &mut Link, now: Time) -> Vec<Vec<u8>> {
            link.flush(now);
            let mut batch = Transmits::default();
            link.sink.swap(&mut batch);
            batch
                .iter()
                .map(|(_, datagram)| datagram.to_vec())
                .collect()
        }

        fn up(&mut self) -> Vec<Heard> {
            let datagrams = Pair::flushed(&mut self.client, self.now);
            datagrams
                .into_iter()
                .map(|d| hear(&mut self.server, self.now, d).unwrap())
                .collect()
        }

        fn down(&mut self) -> Vec<Heard> {
            let datagrams = Pair::flushed(&mut self.server, self.now);
            datagrams
                .into_iter()
                .map(|d| hear(&mut self.client, self.now, d).unwrap())
                .collect()
        }

        fn pass(&mut self, ms: u64) {
            self.now = self.now + Duration::from_millis(ms);
        }
    }

    fn hear(link: &mut Link, now: Time, mut bytes: Vec<u8>) -> Result<Heard, Drop> {
        link.input(now, &mut Datagram::parse(&mut bytes).unwrap())
    }

    fn received(link: &mut Link) -> Vec<Vec<u8>> {
        let mut buffer = [0; 8192];
        let mut all = Vec::new();
        while let Some(len) = link.recv(&mut buffer).unwrap() {
            all.push(buffer[..len].to_vec());
        }
        all
    }

    #[test]
    fn messages_arrive_whole_and_the_echo_proves_the_address() {
        let mut pair = Pair::new();
        pair.client.send(b"connect");
        pair.up();
        assert_eq!(received(&mut pair.server), [b"connect"]);
        assert!(!pair.server.is_proved());
        pair.server.send(b"ok");
        pair.pass(20);
        pair.down();
        assert_eq!(received(&mut pair.client), [b"ok"]);
        pair.pass(20);
        let heard = pair.up();
        assert!(heard.iter().any(|h| h.proved) && heard.iter().any(|h| h.progress));
        let long = vec![9; 5000];
        pair.server.send(&long);
        pair.pass(20);
        pair.down();
        assert_eq!(received(&mut pair.client), [long]);
        pair.pass(20);
        pair.up();
        assert!(pair.server.is_proved());
        assert_eq!(pair.server.srtt(), Some(Duration::from_millis(20)));
        assert_eq!(pair.server.backlog(), 0);
        assert_eq!(
            pair.server.next_flush(pair.now),
            None,
            "nothing outstanding, nothing to do"
        );
    }

    #[test]
    fn una_without_an_echo_proves_nothing_and_the_answer_comes_again() {
        let mut pair = Pair::new();
        pair.client.send(b"connect");
        pair.up();
        pair.server.send(b"ok");
        pair.down();
        // The ACK is lost; the next packet carries una 1.
        let lost = Pair::flushed(&mut pair.client, pair.now);
        assert!(!lost.is_empty());
        pair.client.send(b"join");
        let heard = pair.up();
        assert!(heard[0].fresh && !heard[0].proved && !heard[0].progress);
        assert_eq!((pair.server.peer_una(), pair.server.backlog()), (1, 1));
        let again = pair
            .server
            .next_flush(pair.now)
            .expect("the answer is outstanding");
        pair.pass(again.since(pair.now).as_millis().try_into().unwrap());
        pair.down();
        assert!(pair.up().iter().any(|h| h.proved));
    }

    #[test]
    fn acknowledgements_of_what_was_never_sent_are_dropped_whole() {
        let mut pair = Pair::new();
        pair.client.send(b"connect");
        pair.up();
        pair.server.send(b"ok");
        Pair::flushed(&mut pair.server, pair.now);
        let clock = pair.server.clock(pair.now);
        let ack = |sn: u32, una: u32, ts: u32| {
            let ack = Segment {
                conv: 0,
                cmd: Cmd::Ack,
                frg: 0,
                wnd: 32,
                ts,
                sn,
                una,
                data: &[],
            };
            let mut bytes = Vec::new();
            segment::write(&mut bytes, &ack);
            bytes
        };
        let now = pair.now;
        let mut drop_of = |bytes| hear(&mut pair.server, now, bytes).map(|_| ()).unwrap_err();
        assert_eq!(drop_of(ack(0, 2, clock)), Drop::UnaAhead);
        assert_eq!(drop_of(ack(1, 0, clock)), Drop::UnaAhead);
        assert_eq!(drop_of(ack(0, 1, clock.wrapping_add(1))), Drop::EchoedTime);
        assert_eq!(
            drop_of(ack(0, 1, clock.wrapping_sub(60_001))),
            Drop::EchoedTime
        );
        // Ours, but never sent: accepted as an acknowledgement, yet it proves nothing.
        assert!(
            !hear(&mut pair.server, now, ack(0, 0, clock.wrapping_sub(1)))
                .unwrap()
                .proved
        );
        assert!(
            hear(&mut pair.server, now, ack(0, 0, clock))
                .unwrap()
                .proved
        );
    }

    #[test]
    fn a_forged_echo_is_believed_to_be_of_the_past_only_while_the_past_is_under_way() {
        let mut old = Pair::proved();
        for _ in 0..3 {
            old.server.send(b"frame");
        }
        Pair::flushed(&mut old.server, old.now);
        let mut pair = Pair::new();
        pair.now = old.now;
        pair.server = Link::succeeding(&old.server, pair.now, 9);
        let bad_echo = |una: u32| {
            let ack = Segment {
                conv: 0,
                cmd: Cmd::Ack,
                frg: 0,
                wnd: 32,
                ts: 1 << 30,
                sn: 0,
                una,
                data: &[],
            };
            let mut bytes = Vec::new();
            segment::write(&mut bytes, &ack);
            bytes
        };
        pair.client.send(b"connect");
        pair.up();
        pair.server.send(b"ok");
        let now = pair.now;
        assert!(hear(&mut pair.server, now, bad_echo(0)).is_ok());
        pair.down();
        assert!(pair.up().iter().any(|heard| heard.proved));
        assert_eq!(pair.server.fill(b"filler"), 2);
        pair.down();
        pair.up();
        assert_eq!(pair.server.peer_una(), 3);
        pair.server.send(b"frame");
        Pair::flushed(&mut pair.server, pair.now); // lost
        let heard = hear(&mut pair.server, now, bad_echo(4));
        assert_eq!(heard.unwrap_err(), Drop::EchoedTime);
        assert_eq!(pair.server.backlog(), 1, "the frame is still to come");
    }

    #[test]
    fn behind_a_shut_valve_nothing_leaves_but_probes() {
        let mut pair = Pair::proved();
        pair.server.set_valve(Valve::Shut);
        pair.server.send(b"frame");
        assert!(Pair::flushed(&mut pair.server, pair.now).is_empty());
        assert_eq!(pair.server.next_flush(pair.now), None);
        pair.server.probe(pair.now);
        let mut batch = Transmits::default();
        pair.server.sink.swap(&mut batch);
        let probe: Vec<_> = batch.iter().map(|(_, d)| d.to_vec()).collect();
        hear(&mut pair.client, pair.now, probe[0].clone()).unwrap();
        let answer = Pair::flushed(&mut pair.client, pair.now);
        assert_eq!(
            Segments::of_output(&answer[0]).next().unwrap().cmd,
            Cmd::Wins
        );
        // Open again, the frame comes by retransmission.
        pair.server.set_valve(Valve::Open);
        pair.pass(300);
        pair.down();
        assert_eq!(received(&mut pair.client), [b"frame"]);
    }

    #[test]
    fn a_muted_link_answers_without_acknowledging() {
        let mut pair = Pair::new();
        pair.server.set_valve(Valve::NoAcknowledgements);
        pair.client.send(b"connect");
        pair.up();
        pair.server.send(b"ok");
        pair.down();
        assert_eq!(received(&mut pair.client), [b"ok"]);
        assert_eq!(
            pair.client.backlog(),
            1,
            "the client still repeats its Connect"
        );
        assert!(pair.up().iter().any(|h| h.proved));
        pair.server.set_valve(Valve::Open);
        pair.pass(300);
        pair.up();
        pair.down();
        assert_eq!(pair.client.backlog(), 0);
    }

    #[test]
    fn an_answer_that_was_held_up_does_not_hold_up_retransmissions() {
        let mut pair = Pair::new();
        pair.client.send(b"connect");
        // The client gets the answer only after 5 s, as a process does that was stuck.
        let datagram = Pair::flushed(&mut pair.client, pair.now).remove(0);
        hear(&mut pair.server, pair.now, datagram).unwrap();
        let answers = Pair::flushed(&mut pair.server, pair.now);
        pair.pass(5_000);
        for answer in answers {
            hear(&mut pair.client, pair.now, answer).unwrap();
        }
        assert_eq!(pair.client.srtt(), Some(ROUND_TRIP_SAMPLE_MAX));
        pair.client.send(b"join");
        Pair::flushed(&mut pair.client, pair.now); // lost
        let again = pair.client.next_flush(pair.now).unwrap();
        assert!(again.since(pair.now) <= ROUND_TRIP_SAMPLE_MAX * 3);
    }

    #[test]
    fn forged_data_beyond_the_window_makes_nobody_one_who_repeats_himself() {
        let mut pair = Pair::proved();
        pair.client.send(b"a");
        assert!(!pair.up()[0].repeated);
        let mut forged = Vec::new();
        let far = Segment {
            conv: 0,
            cmd: Cmd::Push,
            frg: 0,
            wnd: 32,
            ts: 0,
            sn: 1 << 30,
            una: 0,
            data: b"x",
        };
        segment::write(&mut forged, &far);
        hear(&mut pair.server, pair.now, forged).unwrap();
        pair.pass(20);
        pair.down();
        pair.client.send(b"b");
        assert!(!pair.up()[0].repeated);
    }

    #[test]
    fn what_is_lost_comes_again_at_the_deadline_and_not_before() {
        let mut pair = Pair::proved();
        pair.server.send(b"a");
        assert_eq!(Pair::flushed(&mut pair.server, pair.now).len(), 1);
        let due = pair.server.next_flush(pair.now).unwrap();
        pair.now = due - Duration::from_millis(1);
        assert!(Pair::flushed(&mut pair.server, pair.now).is_empty());
        pair.now = due;
        assert_eq!(Pair::flushed(&mut pair.server, pair.now).len(), 1);
        assert!(pair.server.next_flush(pair.now).unwrap() > pair.now);
    }
}
