//! Every bound of the server in one place, each with its reason.
//!
//! What a user may set lives in [`crate::config`]; the ranges of those settings and
//! everything that nobody needs to set live here. Relations between bounds are
//! asserted at compile time at the end of the file.

use std::ops::RangeInclusive;
use std::time::Duration;

// --- Wire ---------------------------------------------------------------------------------

/// Bytes of an uplink packet's body that are accepted; more ends the session (the contract).
pub const UPLINK_BODY_MAX: usize = 1024;

/// Bytes of a downlink packet's body that its 16-bit length field can say.
pub const DOWNLINK_BODY_MAX: usize = u16::MAX as usize;

/// Bytes of a datagram that we send: KCP's MTU, as in the original server.
pub const MTU: usize = 1400;

/// Bytes of payload in one KCP segment: the MTU less KCP's header of 24.
pub const SEGMENT_PAYLOAD_MAX: usize = MTU - 24;

/// Bytes of a datagram that we read. Larger ones cannot come from a KCP of MTU 1400; 2 KiB
/// leaves room for a peer with a larger MTU.
pub const DATAGRAM_MAX: usize = 2048;

/// Bytes of one KCP message that a peer may send (its fragments joined). Known clients send
/// a packet or two per message; stream mode sends at most a segment.
pub const UPLINK_MESSAGE_MAX: usize = 64 * 1024;

/// Frames in one S2C_FrameMsg, as in the original server.
pub const FRAMES_PER_MESSAGE_MAX: usize = 60;

/// Inputs of one seat in one frame; what is over goes into the next frame.
pub const INPUTS_PER_SEAT_AND_FRAME_MAX: usize = 64;

/// Bytes of one frame as it is encoded; inputs that are over go into the next frame.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Inputs of one seat that wait for a later frame; what is over is dropped and counted.
pub const INPUTS_WAITING_PER_SEAT_MAX: usize = 256;

/// Bytes of one encoded input inside a frame at the most, without its data: five fields of one tag
/// byte and a varint of up to ten bytes, and the tag and length of the message around them.
pub const INPUT_BYTES_MAX: usize = 5 * 11 + 2;

/// Bytes of data that a room may allow beside an input: what an uplink body leaves, alone or among
/// several inputs. 0 allows none.
pub const INPUT_DATA_RANGE: RangeInclusive<u32> = 0..=960;

/// Bytes around the data of an input, in a frame and in a packet: a tag of two bytes and a length of
/// two, and one more in the length of the message around them.
pub const INPUT_DATA_OVERHEAD: usize = 5;

/// Bytes of data of one seat in one frame; what is over goes into the next frame. One seat must not
/// fill the frames, and with them the memory of the match: 16 seats at this bound do.
pub const INPUT_DATA_PER_SEAT_AND_FRAME_MAX: usize = 1024;

/// Bytes of data of one seat that wait for a later frame: eight frames' worth. An input that is
/// over is dropped and counted.
pub const INPUT_DATA_WAITING_PER_SEAT_MAX: usize = 8 * INPUT_DATA_PER_SEAT_AND_FRAME_MAX;

/// Inputs in one packet: as many as a frame takes of a seat.
pub const INPUTS_PER_PACKET_MAX: usize = INPUTS_PER_SEAT_AND_FRAME_MAX;

// --- KCP ----------------------------------------------------------------------------------

/// Segments of receive window that we advertise and accept. Inputs are tiny, and a peer can
/// pin window x MTU bytes: 5.8 MB at the original's 4096, 360 kB at 256 (measured).
pub const RECEIVE_WINDOW: u16 = 256;

/// Segments that may be in flight to a peer, if the window it advertises allows.
pub const SEND_WINDOW: u16 = 256;

/// Segments of frames that may wait inside KCP; the rest waits in the frame log.
pub const FRAME_SEGMENTS_IN_KCP_MAX: usize = 64;

/// Segments of frames that were asked for, from which on no more of them enter KCP until all have
/// arrived. One that is lost holds up what comes behind it, live frames too, so they are few; a
/// match of 330 kB is there after 60 round trips.
pub const FETCHED_SEGMENTS_MAX: usize = 4;

/// Segments waiting inside KCP from which on answers that can be missed (heartbeats and
/// echoes) are left out.
pub const DROPPABLE_BACKLOG_MAX: usize = 192;

/// Segments waiting inside KCP from which on the session is ended: the peer asks and asks
/// and acknowledges nothing.
pub const BACKLOG_MAX: usize = 512;

/// Age at which the echo of one of our time stamps counts no more: an older one would set
/// the retransmission time-out to its maximum of 60 s.
pub const TIMESTAMP_AGE_MAX: Duration = Duration::from_secs(60);

/// The longest round trip that KCP is told of. What takes longer was held up: a process that
/// was stuck answers everything at once afterwards. KCP takes three times the first sample
/// for its retransmission time-out, and a segment lost after a pause of 5 s came again
/// after 16 s (simulated).
pub const ROUND_TRIP_SAMPLE_MAX: Duration = Duration::from_secs(1);

/// How many times the bytes that came from an address may go there before it is proved. What
/// is over is dropped as if lost: a forged datagram must not fetch much for somebody else.
pub const UNPROVED_BYTES_FACTOR: usize = 3;

/// Bytes into its stream up to which data is taken from a peer that has proved nothing, and
/// which waits for the proof: its Connect has at most 1027. Whoever forges addresses could
/// otherwise make each session hold a whole receive window.
pub const UNPROVED_STREAM_MAX: usize = 4096;

/// Segments up to which the same holds: inputs of 17 bytes for four seconds at 30 a second.
pub const UNPROVED_SEGMENTS_MAX: usize = 128;

/// Time stamps remembered for the proof of address. The first answer is retransmitted about
/// six times in the first seconds; an echo of an older copy then proves nothing.
pub const PROOF_STAMPS_MAX: usize = 16;

// --- Sessions -----------------------------------------------------------------------------

/// The longest that an acknowledgement waits for a frame that is about to leave, to go with it:
/// at 30 frames a second more than half of them do, and each is a datagram less. A client of
/// kcp-go repeats itself after 30 ms at the soonest.
pub const ACK_RIDE_MAX: Duration = Duration::from_millis(20);

/// Time after a peer has repeated itself for which it is acknowledged at once. The Unity client
/// does all the time unless it is answered within 10 ms, and so does whoever loses datagrams,
/// whose round trips should not be measured too long then.
pub const ACK_PROMPT_FOR: Duration = Duration::from_secs(10);

/// Silence of a peer after which it gets probes instead of data: retransmissions must not
/// occupy the sequence numbers of a client that was restarted on its old address.
pub const QUIET_AFTER: Duration = Duration::from_millis(500);

/// Time between two probes of a quiet peer for which data waits: its answer is what opens
/// the way, so a lost one must not cost much.
pub const PROBE_EVERY_FAST: Duration = Duration::from_millis(100);

/// The same once the peer counts as offline, and then even if nothing waits: it has left
/// probes unanswered, and before it is given up a few lost datagrams must not matter.
pub const PROBE_EVERY_SLOW: Duration = Duration::from_millis(500);

/// Time between two probes of a quiet peer for which nothing waits: they only tell a silent
/// but living client (loading, or ready and waiting, without heartbeats) from a dead one.
pub const PROBE_EVERY_IDLE: Duration = Duration::from_secs(2);

/// Time between two copies of the answer to a Connect while its peer speaks but has not
/// proved its address.
pub const REPEAT_FIRST_EVERY: Duration = Duration::from_millis(100);

/// Silence of a session that has proved nothing after which it ends: there may be many of them,
/// and a client that comes back later begins anew.
pub const UNPROVED_LIFE: Duration = Duration::from_secs(5);

/// Silence of a session that has proved nothing, candidates among them, after which the
/// beginning of another conversation takes its place. A client that lives repeats itself
/// more often.
pub const UNPROVED_SILENCE_MAX: Duration = Duration::from_secs(1);

/// Time for which a session may be without a seat. A client that is refused may stay silent for
/// 40 s before it tries again, as the Unity client does.
pub const SEATLESS_LIFE: Duration = Duration::from_secs(60);

/// Sessions without a seat from one range of addresses (a /24 of IPv4, a /48 of IPv6). Players
/// behind one address are without a seat for a round trip, so a thousand may come at once.
pub const SEATLESS_PER_RANGE_MAX: usize = 1024;

/// Datagrams of one session in a second. At 240 frames a second a client that sends each
/// input seven times and acknowledges each frame seven times sends 3,360.
pub const SESSION_DATAGRAMS_PER_SECOND: u32 = 4096;

/// Bytes of datagrams of one session in a second: as many datagrams of 512, the MTU of the Unity
/// client, which with 240 inputs a second and a round trip of 1 s comes to half of it.
pub const SESSION_BYTES_PER_SECOND: usize = 2 * 1024 * 1024;

/// Packets of one session in a second: 64 inputs in each of 240 frames, and some more.
pub const SESSION_PACKETS_PER_SECOND: u32 = 16_384;

/// Time for which a datagram may still be on its way. A client that is started again on its
/// old address under the old conversation number is kept off the sequence numbers of
/// what was sent to it within that time.
pub const PAST_LIFE: Duration = Duration::from_secs(2);

/// Sequence numbers of such a past at the most: the receive window of the Unity client, which
/// throws away what lies further ahead.
pub const PAST_SEGMENTS_MAX: u32 = 4096;

/// Time for which an address that was challenged may answer, that a session moves there: the
/// longest round trip, several times over.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(5);

/// Signals in a second that do not come from the address of their session, of all senders: as many
/// as there are clients of a full server, who all ask at once after it was started again. At about
/// 1 us each for those that name a session (measured) they are 2 % of a processor.
pub const SIGNALS_PER_SECOND: u32 = 20_000;

/// The same from one range of addresses, as [`SEATLESS_PER_RANGE_MAX`].
pub const SIGNALS_PER_RANGE_AND_SECOND: u32 = 1024;

/// Places in which ranges are counted. Ranges that share one by chance share its bound: a flood
/// from one address shuts out one other in so many.
pub const RANGE_PLACES: usize = 1024;

/// Time for which a Connect waits for the answer where its room is. etcd answers within a few
/// milliseconds, so what takes longer has hit a node that is in trouble; a client that is told
/// after a second that there is no such room has lost little.
pub const QUESTION_LIFE: Duration = Duration::from_secs(1);

/// Questions where a room is that wait for their answers. As long as these come within 100 ms, fewer
/// than a quarter of it are open at the highest rate; more are open where they do not come at all.
pub const QUESTIONS_OPEN_MAX: usize = 256;

/// Questions in a second, of all who connect: etcd takes some ten thousand reads a second, and
/// other nodes want theirs. A question serves everybody who waits for the room.
pub const QUESTIONS_PER_SECOND: u32 = 512;

/// The same from one range of addresses, each of which has been proved: an eighth, so that it takes
/// eight to keep others from asking.
pub const QUESTIONS_PER_RANGE_AND_SECOND: u32 = 64;

/// Sessions that wait for the answer to one question: as many as may come from one range without a
/// seat. All of them are answered in one go.
pub const WAITING_PER_QUESTION_MAX: usize = SEATLESS_PER_RANGE_MAX;

/// Sessions remembered whose seat another client of the player has taken, so that the old client
/// can be told: those of the last minutes.
pub const REPLACED_KEPT_MAX: usize = 1024;

/// Silence in play after which a seat counts as offline (as in the original).
pub const OFFLINE_AFTER: Duration = Duration::from_secs(5);

/// Time for which a room that is over stays, so that Close and late results arrive.
pub const OVER_LINGER: Duration = Duration::from_secs(3);

/// Time between two restarts of the frame stream by Ready on one seat.
pub const RESTREAM_EVERY: Duration = Duration::from_secs(1);

// --- Rooms --------------------------------------------------------------------------------

/// Frames per second that a room may be asked for.
pub const HZ_RANGE: RangeInclusive<u32> = 1..=240;

/// Frames between two broadcasts of a room in which nothing happens.
pub const BROADCAST_EVERY_RANGE: RangeInclusive<u32> = 1..=240;

/// Frames that a match may last. The frame log of a match stays in memory: about
/// 60 bytes for each frame with two inputs, and the data beside them.
pub const FRAMES_RANGE: RangeInclusive<u32> = 1..=1_000_000;

/// Players in one room, as an upper bound of the setting.
pub const PLAYERS_PER_ROOM_RANGE: RangeInclusive<usize> = 1..=256;

/// Spectators of one room, as an upper bound of the setting: so many cost the loop some 10 ms of
/// each broadcast (measured: 0.4 to 1.1 us each, besides the system's sends).
pub const WATCHERS_RANGE: RangeInclusive<u32> = 0..=10_000;

/// Frames that are held back from the spectators of a room: up to half an hour at 30 a second.
pub const WATCH_DELAY_RANGE: RangeInclusive<u32> = 0..=54_000;

/// The longest for which a room that is over stays for spectators that are still sent what was
/// held back from them: 6 MB at the longest delay. Whoever takes nothing is gone before.
pub const WATCHED_LINGER_MAX: Duration = Duration::from_secs(60);

/// Lateness from which on a room does not catch up but takes a new epoch (suspend, restore).
/// It bounds how many frames a room seals in one call: those of one second.
pub const LATE_MAX: Duration = Duration::from_secs(1);

/// Timers that fire in one turn of the loop; the rest fires in the next one.
pub const TIMERS_PER_TURN_MAX: usize = 4096;

/// Finished matches whose results stay readable.
pub const FINISHED_MATCHES_MAX: usize = 1024;

/// Time for which the result of a finished match stays readable.
pub const FINISHED_MATCH_LIFE: Duration = Duration::from_secs(600);

// --- Settings -----------------------------------------------------------------------------
//
// Ranges of settings that have none above. Each time limit counts on its own, and the first
// that is reached acts. One relation between two settings is checked, in `config`: a room
// must outlive its wait for absent members.

/// Time that a match waits for absent members. Under a tenth of a second nobody but the
/// first could be in time; an hour is longer than any lobby.
pub const READY_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

/// Age at which a room is over. A day: what runs longer was forgotten.
pub const ROOM_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);

/// Time for which a match without any seat online runs on; 0 ends it at once, as the
/// original does.
pub const RECONNECT_GRACE_RANGE: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(3600);

/// Silence after which a session ends. It may be shorter than [`OFFLINE_AFTER`]: the end of
/// its session also takes a seat offline. But a quiet peer must have got a probe before.
pub const IDLE_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

/// Bytes of a secret that signs tickets: HS256 takes a key of at least the size of its hash
/// (RFC 7518, 3.2).
pub const TICKET_SECRET_BYTES_MIN: usize = 32;

/// Bytes of the token that guards the HTTP side: 16 random letters cannot be guessed over a
/// network.
pub const ADMIN_TOKEN_BYTES_MIN: usize = 16;

/// Bytes of a file that holds a secret or two: what is larger is another file, given by
/// mistake.
pub const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// Rooms at once, as an upper bound of the setting: more digits than that are a slip.
pub const ROOMS_RANGE: RangeInclusive<usize> = 1..=1_000_000;

/// Sessions at once, as an upper bound of the setting: at under 8 kB for an idle one, a
/// million is the memory of a large machine.
pub const SESSIONS_RANGE: RangeInclusive<usize> = 1..=1_000_000;

// --- Shell --------------------------------------------------------------------------------

/// Datagrams read in one turn of the loop before outputs are drained.
pub const DATAGRAMS_PER_TURN_MAX: usize = 512;

/// Beats of the server in a second: the moments at which rooms tick and sessions are looked after,
/// so that the loop wakes for all of them together. It divides by the rates that games use (10,
/// 15, 20, 24, 30, 40, 48, 60, 120 and 240 frames), whose rooms then keep to it. 10,000 players in
/// rooms of 30 frames a second are 625 datagrams a beat, of 1 to 3 us each.
pub const BEATS_PER_SECOND: u32 = 480;

/// The longest that a session's timer waits for a frame of its room, to be carried out with it. The
/// shortest retransmission time-out, 30 ms, ends 3.4 ms before the next frame at 30 a second.
pub const TIMER_WAITS_MAX: Duration = Duration::from_micros(4200);

/// Time from one turn of the loop to the next unless something is due or left over, a beat: what
/// comes meanwhile is read, answered and sent together. It delays an acknowledgement at the most
/// by it, of which the Unity client waits for 10 ms, and an input that comes just before its frame
/// ends not at all.
pub const TURN_EVERY: Duration = Duration::from_nanos(1_000_000_000 / BEATS_PER_SECOND as u64);

/// The same if something is due: it may be late by so much where rooms do not keep to the beat.
pub const TURN_EVERY_MIN: Duration = Duration::from_millis(1);

/// Commands of side threads carried out in one turn of the loop.
pub const COMMANDS_PER_TURN_MAX: usize = 64;

/// Commands of side threads that may wait for the loop; one more is answered with 503.
pub const COMMANDS_WAITING_MAX: usize = 1024;

/// Events kept for the shell if it does not drain them; the oldest goes first.
pub const EVENTS_WAITING_MAX: usize = 65_536;

/// Lateness of the loop from which on the server calls itself degraded: three frames at the
/// usual rate.
pub const DEGRADED_LATENESS: Duration = Duration::from_millis(100);

/// Time for which no rooms are created after the loop was late: those that run come first.
pub const NO_NEW_ROOMS_FOR: Duration = Duration::from_secs(1);

/// Time for which the server stays degraded after it was late.
pub const DEGRADED_FOR: Duration = Duration::from_secs(10);

/// Time over which the load of the loop is measured: a node of a cluster tells its own as often.
pub const LOAD_WINDOW: Duration = Duration::from_secs(5);

/// Sessions at once from which on memory is given back to the system when most of them are gone:
/// 30 MB.
pub const CROWD: usize = 4096;

/// Bytes asked of the system for each direction of the UDP socket. While the loop is busy for
/// 20 ms nothing may be lost: 10,000 players who send 45 datagrams a second (15 inputs and 30
/// acknowledgements) send 9,000 in that time. Linux counts not a datagram's bytes but the memory
/// it lies in, and grants twice what it is asked for: a datagram of up to 100 bytes counts as 832
/// over loopback (SO_MEMINFO, Linux 6.18), and as up to 2,304, half a page and its header, from
/// network cards whose drivers do not copy small ones. 9,000 of those are 20.7 MB, half of which
/// is to be asked for. It is taken only as it is used.
pub const SOCKET_BUFFER_BYTES: usize = 10 * 1024 * 1024;

/// Time between two looks at the wall's clock, which may be set anew while we run.
pub const WALL_EVERY: Duration = Duration::from_secs(1);

/// Time for which a server that was asked to stop still flushes its last messages.
pub const SHUTDOWN_FLUSH: Duration = Duration::from_millis(1500);

// --- Journal ------------------------------------------------------------------------------

/// Bytes of a record's body that its 16-bit length can say. A frame fits, and so does a room.
pub const JOURNAL_BODY_MAX: usize = u16::MAX as usize;

/// Bytes of a segment from which on the next one is taken: little enough to be read whole at a
/// start, and 50 s of 2,000 players.
pub const JOURNAL_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Age of a segment from which on the next one is taken, if anything is written to it: what is
/// deleted is a whole segment, so this is by how much an age can be overdrawn.
pub const JOURNAL_SEGMENT_AGE: Duration = Duration::from_secs(3600);

/// Time between two syncs of the journal (`--fsync interval`): what a power cut can cost.
pub const JOURNAL_SYNC_EVERY: Duration = Duration::from_millis(200);

/// Hours for which recordings are kept: up to ten years.
pub const KEEP_HOURS_RANGE: RangeInclusive<u32> = 1..=87_600;

/// MiB of recordings that are kept: two segments at the least.
pub const KEEP_MIB_RANGE: RangeInclusive<u32> = 128..=4_194_304;

/// Time between two attempts of a journal that cannot be written.
pub const JOURNAL_RETRY_EVERY: Duration = Duration::from_secs(1);

/// Time between two looks for segments to be deleted.
pub const JOURNAL_TIDY_EVERY: Duration = Duration::from_secs(10);

/// Records that are put into the journal at once while it is caught up with, in bytes: some
/// milliseconds of the loop. About as much more comes of one room.
pub const JOURNAL_CATCH_UP_BYTES: usize = 2 * 1024 * 1024;

/// Restarts of the server within one match of which is known where they went on; who comes back with
/// frames from before all of them gets everything.
pub const FORKS_MAX: usize = 64;

/// Bytes of datagrams that wait for a disk that has to have their records first; what comes then
/// is given up, as if the network had lost it. Some seconds of 2,000 players.
pub const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Matches that have ended and wait for a journal that cannot be written, with their frames.
pub const UNWRITTEN_MATCHES_MAX: usize = 10_000;

/// Bytes of those frames: some 300 matches of 5,500 frames and four players.
pub const UNWRITTEN_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Places of damage that are told one by one; a disk that goes has millions. All are counted.
pub const JOURNAL_DAMAGE_TOLD_MAX: usize = 1000;

/// Bytes that the index of recordings may take: 200,000 matches of two players at 312 bytes each
/// ([`crate::io::recordings`]). The oldest makes way in it and stays on the disk.
pub const RECORDINGS_INDEX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Entries of that index that are looked at in one go: the loop may wait for so long, a fraction of
/// a millisecond.
pub const RECORDINGS_LOOK_MAX: usize = 1024;

/// Recordings that are read at once, out of the four workers of HTTP. Each holds a segment in
/// memory, and the recording twice.
pub const RECORDING_READS_MAX: usize = 2;

/// Segments that are read for one recording over HTTP: 2 GiB, which a disk gives within
/// [`HTTP_REQUEST_LIFE`].
pub const RECORDING_SEGMENTS_MAX: usize = 32;

/// Bytes of frames of a recording that is given over HTTP: those of a million frames of two
/// players.
pub const RECORDING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a file that `lockstep-replay` reads: what is larger is no recording and no segment.
pub const REPLAY_FILE_BYTES_MAX: u64 = 1 << 30;

/// Frames of a recording that are played in one turn, where they are played as fast as can be.
pub const REPLAY_FRAMES_PER_TURN_MAX: usize = 1024;

/// Time for which the last frame of a recording that is played waits for players who lack many of
/// those before it: after the end a room does not wait for anybody.
pub const REPLAY_END_WAITS_MAX: Duration = Duration::from_secs(60);

// --- Client -------------------------------------------------------------------------------

/// Silence of the server in play, or while something waits for its acknowledgement, after which a
/// client knocks: five broadcasts of a room that says something every 100 ms.
pub const KNOCK_AFTER: Duration = Duration::from_millis(500);

/// The same in frames, where that is longer: five broadcasts of a room that says something in every
/// third frame.
pub const KNOCK_AFTER_FRAMES: u32 = 15;

/// The same while nothing is awaited, and the longest of all: a server probes whoever is silent
/// every [`PROBE_EVERY_IDLE`].
pub const KNOCK_AFTER_IDLE: Duration = Duration::from_secs(3);

/// Time between two knocks at first; it doubles up to the next bound.
pub const KNOCK_EVERY_MIN: Duration = Duration::from_millis(250);

/// Time between two knocks at the most.
pub const KNOCK_EVERY_MAX: Duration = Duration::from_secs(2);

/// How often in a row a client is sent on to another address before it takes the last word for a
/// refusal. The first server knows the way; one more step is for a room that has just been created
/// anew elsewhere.
pub const REDIRECTS_MAX: u32 = 3;

/// Events of a client that wait for its driver, give or take one message; while there are as
/// many, it reads no more, and KCP's window holds the server back.
pub const CLIENT_EVENTS_MAX: usize = 1024;

// --- HTTP ---------------------------------------------------------------------------------

/// Bytes of a request's path and query.
pub const HTTP_TARGET_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a request's body: a room of 256 members with ids of 20 digits takes 6 KiB.
pub const HTTP_BODY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a body up to which a request is dropped. tiny_http then allocates what is left of
/// the body at once, and an allocation that fails ends the process: larger ones stay for good.
pub const HTTP_DROP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Requests that stay for good, each with two descriptors and a thread, before HTTP ends so
/// that the game keeps its descriptors.
pub const HTTP_LEAKED_MAX: u64 = 128;

/// Characters of what a user sent that an error repeats.
pub const HTTP_QUOTE_CHARS_MAX: usize = 40;

/// Rooms in one answer if the question does not say.
pub const HTTP_ROOMS_DEFAULT: usize = 1000;

/// Rooms in one answer: about 3 MB of JSON at two seats each.
pub const HTTP_ROOMS_MAX: usize = 10_000;

/// Recordings in one answer if the question does not say.
pub const HTTP_RECORDINGS_DEFAULT: usize = 100;

/// Recordings in one answer: about 3 MB of JSON at two seats each.
pub const HTTP_RECORDINGS_MAX: usize = 10_000;

/// Threads that answer requests whose body has arrived.
pub const HTTP_WORKERS: usize = 4;

/// Requests with a body still to come that have a thread of their own; one more occupies a
/// worker.
pub const HTTP_ASIDE_MAX: usize = 64;

/// Workers of replaced servers that may still hang about; a server is not replaced beyond it.
pub const HTTP_ABANDONED_MAX: u64 = 64;

/// Time without any request after which the workers of a replaced server go.
pub const HTTP_ABANDONED_IDLE: Duration = Duration::from_secs(30);

/// Time between two questions of the watchdog.
pub const HTTP_WATCH_EVERY: Duration = Duration::from_secs(5);

/// The same while there is traffic.
pub const HTTP_WATCH_EVERY_BUSY: Duration = Duration::from_millis(200);

/// Connections that the watchdog opens and closes with each question. Each lets one go on
/// that tiny_http left lying, and leaves an idle thread for 5 s: enough for the six
/// connections that a browser opens at once.
pub const HTTP_NUDGES: usize = 8;

/// Time between two more of them while the watchdog waits for its answer.
pub const HTTP_NUDGE_EVERY: Duration = Duration::from_millis(50);

/// Time that the watchdog waits for its answer. Longer than a worker waits for the loop.
pub const HTTP_WATCH_PATIENCE: Duration = Duration::from_secs(3);

/// Questions without an answer that are forgiven while somebody waits for the loop.
pub const HTTP_WATCH_FORGIVES: u32 = 3;

/// Time between two replacements at first; it doubles up to the next bound.
pub const HTTP_RESTART_REST_MIN: Duration = Duration::from_millis(100);

/// Time between two replacements at the most.
pub const HTTP_RESTART_REST_MAX: Duration = Duration::from_secs(5);

/// Time in which a client takes no byte of its answer before it is given up.
pub const HTTP_SEND_PATIENCE: Duration = Duration::from_secs(5);

/// Time for a request from the moment it is taken up to the end of its answer.
pub const HTTP_REQUEST_LIFE: Duration = Duration::from_secs(20);

/// Time for which the loop is not asked again after it did not answer.
pub const HTTP_LOOP_REST: Duration = Duration::from_secs(1);

/// Time by which a ticket outlives the longest life of its room: the room lingers for
/// [`OVER_LINGER`] after its end, and its creation is told in whole seconds.
pub const TICKET_LIFE_SLACK: Duration = Duration::from_secs(5);

/// Time for which a server that stops lets its last answers go out.
pub const HTTP_STOP: Duration = Duration::from_millis(250);

/// For how long a server that is told to stop may go on for its matches: at most as long as a room
/// can get old, and be waited for.
pub const DRAIN_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(2 * 86_400);

/// How long the keys of a server that is gone may stay in etcd. etcd itself gives no lease shorter
/// than its election time-out, 1 to 2 s.
pub const ETCD_TTL_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(2)..=Duration::from_secs(300);

/// Length of what the keys in etcd begin with.
pub const ETCD_PREFIX_CHARS_MAX: usize = 128;

/// Threads on which operations of gRPC wait for the loop: as many as HTTP has workers for.
pub const OPERATION_THREADS_MAX: usize = 8;

/// Threads beside those for what other nodes ask of this server's own rooms: that waits for nobody
/// but the loop, and is answered while all others wait for other nodes, which may wait for us.
pub const OPERATION_THREADS_HERE_MAX: usize = 4;

/// Threads beside all those, for the look-ups of names that operations wait for.
pub const LOOK_UP_THREADS_MAX: usize = 4;

/// Calls over gRPC that wait for one of the threads; one more is answered with UNAVAILABLE.
pub const GRPC_CALLS_WAITING_MAX: usize = 256;

/// Bytes of a request over gRPC: a room of 256 members takes 3 KiB.
pub const GRPC_REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the headers of a request over gRPC, as HTTP/2 counts them: a token, and what clients
/// add.
pub const GRPC_HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Connections over gRPC at once: one of each of 1,000 other nodes, and those of the game's backends.
pub const GRPC_CONNECTIONS_MAX: usize = 2048;

/// Connections over gRPC of those of whom no call was let in yet: monitors, and who has just
/// connected. With all their streams open and as long headers as may be they take some 250 MB; all
/// the others have the token.
pub const GRPC_STRANGERS_MAX: usize = 64;

/// Bytes of a question after the health, which is the name of a service.
pub const GRPC_HEALTH_BYTES_MAX: usize = 1024;

/// Streams of one connection, which are calls and watchers.
pub const GRPC_STREAMS_MAX: u32 = 128;

/// Bytes that a connection over gRPC may send before they are read, of all its streams.
pub const GRPC_WINDOW_BYTES: u32 = 128 * 1024;

/// Streams that a peer may have opened and reset at once before its connection is ended: what
/// h2 takes for enough (CVE-2023-44487).
pub const GRPC_RESETS_MAX: usize = 20;

/// Streams of a connection that were ended for the peer's faults before it is ended, too.
pub const GRPC_FAULTS_MAX: usize = 64;

/// Time for a connection over gRPC to say that it speaks HTTP/2.
pub const GRPC_PREFACE_PATIENCE: Duration = Duration::from_secs(5);

/// Time between two questions whether a connection's peer is there.
pub const GRPC_ALIVE_EVERY: Duration = Duration::from_secs(20);

/// Time for the answer.
pub const GRPC_ALIVE_PATIENCE: Duration = Duration::from_secs(10);

/// Time for a call over gRPC, up to the headers of its answer.
pub const GRPC_CALL_LIFE: Duration = HTTP_REQUEST_LIFE;

/// Time for which no connection is accepted after the system gave none: it is out of descriptors.
pub const GRPC_ACCEPT_REST: Duration = Duration::from_secs(1);

/// Time between two looks whether the server takes rooms, for gRPC's own way of health.
pub const GRPC_HEALTH_EVERY: Duration = Duration::from_secs(1);

/// Rooms in one answer over gRPC if the question does not say.
pub const GRPC_ROOMS_DEFAULT: u32 = 100;

/// Rooms in one answer over gRPC.
pub const GRPC_ROOMS_MAX: u32 = 1000;

/// Bytes of them: clients of gRPC refuse more than 4 MiB unless they are told otherwise.
pub const GRPC_ROOMS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Events of rooms that are kept for who goes on from a position: 6 MB, and some minutes of
/// 2,000 matches of four players that last for ten minutes.
pub const ROOM_EVENTS_KEPT_MAX: usize = 65_536;

/// Events of rooms that wait until they are kept: what a loop with 10,000 rooms may tell in the
/// time in which the other thread does something else.
pub const ROOM_EVENTS_WAITING_MAX: usize = 8192;

/// Events of rooms that are moved in one go.
pub const ROOM_EVENTS_PER_READ_MAX: usize = 64;

/// Who watches rooms over gRPC at once: a game's backends, not its players.
pub const ROOM_WATCHERS_MAX: usize = 64;

/// Length of the name of a node in a cluster: that of a host's label (RFC 1035), which it often is.
pub const NODE_ID_CHARS_MAX: usize = 63;

/// Length of an address that nodes tell of themselves: a host's name (RFC 1035), and a port.
pub const NODE_ADDRESS_CHARS_MAX: usize = 253 + 6;

/// Length of the version of a node's program: one of ours has five.
pub const NODE_VERSION_CHARS_MAX: usize = 64;

/// Bytes of what a node tells of itself: several times what all its fields have at their longest.
pub const NODE_RECORD_BYTES_MAX: usize = 4096;

/// Length of the key of a request: those of other services are UUIDs or hashes of 64 digits.
pub const REQUEST_KEY_CHARS_MAX: usize = 64;

/// Time for which the answer to a request with a key is given again.
pub const REQUEST_KEYS_FOR: Duration = Duration::from_secs(600);

/// Answers that are kept for that; the oldest go. 16 a second for the whole time.
pub const REQUEST_KEYS_MAX: usize = 10_000;

/// Seats in them, which are what makes an answer long: 250 bytes each, with a ticket.
pub const REQUEST_KEY_SEATS_MAX: usize = 200_000;

/// Time for which a request waits for another of the same key that is under way: one node is asked
/// in that time, and its answer comes or does not.
pub const REQUEST_KEY_PATIENCE: Duration = Duration::from_secs(6);

/// Time after which a creation that the loop has not answered is given up for good: its request key
/// and its claim are kept until then.
pub const CREATION_LIFE: Duration = Duration::from_secs(60);

/// Age from which on what a node told of itself is no ground for placing a room there: it is written
/// every 5 s.
pub const PLACE_RECORD_AGE_MAX: Duration = Duration::from_secs(20);

/// Load of a loop, in thousandths of a core, from which on a room is placed there only if all nodes
/// have as much: what is left is for the peaks of the matches that run.
pub const PLACE_LOAD_MAX: u32 = 800;

/// Nodes that are asked to take a room before it is refused: each may take seconds to say nothing.
pub const PLACE_TRIES_MAX: usize = 3;

/// Time for which a node that did not take a room is left alone.
pub const PLACE_AVOID_FOR: Duration = Duration::from_secs(5);

/// Time after which a new count of a node's rooms replaces the old one although placements there are
/// under way, some of which it may count twice for a moment.
pub const PLACE_COUNT_AGE_MAX: Duration = Duration::from_secs(10);

/// Looks after the claim of a node that has refused a room, before another is asked to take it: until
/// it is gone, that one would find that the same request is being carried out already.
pub const RELEASE_LOOKS_MAX: u32 = 20;

/// Time between two of them: a few round trips to etcd.
pub const RELEASE_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Nodes that an error names.
pub const NODES_NAMED_MAX: usize = 8;

/// Time for a connection to another node: far more than a round trip around the world.
pub const PEER_CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// Time for its answer by each way: longer than its loop is waited for.
pub const PEER_PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of its answer: a room of 256 seats with a ticket each takes 100 KiB.
pub const PEER_ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Characters of what another node, or etcd, says of its own troubles: it goes into our own answers
/// and the log.
pub const FOREIGN_WORDS_CHARS_MAX: usize = 400;

/// Connections to other nodes that are kept: a thousand nodes, as far as they are asked.
pub const PEER_CHANNELS_MAX: usize = 1000;

/// Time for which etcd may take to let us connect.
pub const ETCD_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time that etcd has for one answer. Without it a call waits for as long as etcd hangs; with it, and
/// with etcd stopped and continued, calls recovered within a second (measured).
pub const ETCD_REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection to etcd on which nothing was said for so long is asked whether it lives, and has as
/// long again for its answer.
pub const ETCD_PROBE: Duration = Duration::from_secs(2);

/// Pause after a connection to etcd was lost: doubled each time, from the first to the last.
pub const ETCD_PAUSE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(2);

/// Pause between two looks at our key while another has it: it is free within the ttl, and who starts
/// waits for it.
pub const ETCD_PAUSE_TAKEN: Duration = Duration::from_millis(500);

/// Who starts waits for so long for etcd's first word: as long as it takes to connect and ask.
pub const ETCD_START: Duration = Duration::from_secs(6);

/// Beyond the ttl, who starts waits for so long for a key of its own name: etcd looks for expired
/// leases twice a second.
pub const ETCD_START_TAKEN: Duration = Duration::from_secs(2);

/// Time for the last word of a server that leaves.
pub const ETCD_LEAVE: Duration = Duration::from_millis(800);

/// How often a node tells of its load.
pub const NODE_WRITE_EVERY: Duration = Duration::from_secs(5);

/// How often the loop is asked for its load, so that a change of state is told within so long.
pub const LOAD_ASKED_EVERY: Duration = Duration::from_secs(1);

/// Nodes of a cluster that are told apart: ten times as many as it is made for.
pub const NODES_MAX: usize = 10_000;

/// Keys of nodes that are read at once: of the largest values that etcd takes (1.5 MiB), somebody
/// else's, so many fit [`ETCD_MESSAGE_MAX`].
pub const NODES_READ_AT_ONCE: i64 = 32;

/// Bytes of one message of etcd's.
pub const ETCD_MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// Bytes of the claim of a room's number: several times what its fields have at their longest.
pub const CLAIM_BYTES_MAX: usize = 1024;

/// Time for which the creation of a room waits for its claim.
pub const CLAIM_PATIENCE: Duration = Duration::from_millis(1500);

/// Time for which it waits to be told who has a room.
pub const HOLDER_PATIENCE: Duration = Duration::from_secs(1);

/// A claim of which no match came within so long is given up: who asked for it is gone. Far beyond
/// the patience for the loop.
pub const CLAIM_AWAITED: Duration = Duration::from_secs(60);

/// Rooms up to which the requests are remembered that were made while etcd was away.
pub const CLAIMS_KNOWN_MAX: usize = 100_000;

/// How often a number that another node holds, while our match runs, is asked for again.
pub const CONTESTED_EVERY: Duration = Duration::from_secs(10);

/// Claims that are on their way to etcd at once: etcd writes what comes together with one sync.
pub const CLAIMS_IN_FLIGHT_MAX: usize = 64;

/// Events of the loop that wait for the side thread of the cluster. When there are more, the loop is
/// asked for its rooms instead.
pub const NOTES_WAITING_MAX: usize = 4096;

/// Broken values under the prefix that are remembered as told of, so that each is told of once.
pub const BROKEN_TOLD_MAX: usize = 100;

// A frame in a message of its own must fit the length field.
const _: () = assert!(FRAME_BYTES_MAX + 16 <= DOWNLINK_BODY_MAX);
// A frame fits a record, and so does a room of the most players: ids of ten bytes, and the rest.
const _: () = assert!(FRAME_BYTES_MAX + 16 <= JOURNAL_BODY_MAX);
const _: () = assert!(*PLAYERS_PER_ROOM_RANGE.end() * 24 + 256 <= JOURNAL_BODY_MAX);
// Somebody is left to answer while recordings are read.
const _: () = assert!(RECORDING_READS_MAX < HTTP_WORKERS);
// An uplink packet must fit a message.
const _: () = assert!(UPLINK_BODY_MAX + 3 <= UPLINK_MESSAGE_MAX);
// The smallest bounds of the backlog come first.
const _: () = assert!(FRAME_SEGMENTS_IN_KCP_MAX < DROPPABLE_BACKLOG_MAX);
const _: () = assert!(DROPPABLE_BACKLOG_MAX < BACKLOG_MAX);
// A full window of frames must fit the send window.
const _: () = assert!(FRAME_SEGMENTS_IN_KCP_MAX <= SEND_WINDOW as usize);
// Every input that a frame takes may arrive in time.
const _: () = assert!(
    INPUTS_PER_SEAT_AND_FRAME_MAX * *HZ_RANGE.end() as usize <= SESSION_PACKETS_PER_SECOND as usize
);
// KCP raises a receive window under 128 to 128.
const _: () = assert!(RECEIVE_WINDOW >= 128);
// A frame has room for one input of each bound, and its seat for one of the most data.
const INPUT_DATA_MAX: usize = *INPUT_DATA_RANGE.end() as usize;
const _: () =
    assert!(INPUT_BYTES_MAX + INPUT_DATA_OVERHEAD + INPUT_DATA_MAX + 16 < FRAME_BYTES_MAX);
const _: () = assert!(INPUT_DATA_MAX <= INPUT_DATA_PER_SEAT_AND_FRAME_MAX);
// It fits a packet of several, with three operands and a frame of up to 11 bytes each.
const _: () = assert!(INPUT_DATA_MAX + INPUT_DATA_OVERHEAD + 4 * 11 + 3 <= UPLINK_BODY_MAX);
// History leaves live frames their room: half of it, and one frame of several segments.
const _: () = assert!(
    FRAME_SEGMENTS_IN_KCP_MAX / 2
        + FETCHED_SEGMENTS_MAX
        + FRAME_BYTES_MAX.div_ceil(SEGMENT_PAYLOAD_MAX)
        <= FRAME_SEGMENTS_IN_KCP_MAX
);
// One range of addresses cannot open all questions, though each stays open for as long as it may:
// two seconds' worth of them may fall into one.
const _: () = assert!(2 * QUESTIONS_PER_RANGE_AND_SECOND as usize <= QUESTIONS_OPEN_MAX / 2);
const _: () = assert!(QUESTION_LIFE.as_millis() <= 1000);
// Who waits and answers the server's probes has no reason to knock.
const _: () =
    assert!(PROBE_EVERY_IDLE.as_millis() + QUIET_AFTER.as_millis() < KNOCK_AFTER_IDLE.as_millis());
// A session that ends of silence was probed before.
const _: () = assert!(
    QUIET_AFTER.as_millis() + IDLE_TIMEOUT_RANGE.start().as_millis() / 4
        < IDLE_TIMEOUT_RANGE.start().as_millis()
);
// A body that may be read may be dropped, too.
const _: () = assert!(HTTP_BODY_BYTES_MAX <= HTTP_DROP_BYTES_MAX);
// A crowd's datagrams of 20 ms fit the buffer, which Linux doubles.
const _: () = assert!(10_000 * 45 / 50 * 2304 <= 2 * SOCKET_BUFFER_BYTES);
// A ticket lives for as long as its room can be asked for.
const _: () = assert!(OVER_LINGER.as_secs() < TICKET_LIFE_SLACK.as_secs());
// A room of the most members fits a request over gRPC, each a number of up to ten bytes; and one
// such room fits an answer, with its tickets.
const _: () = assert!(*PLAYERS_PER_ROOM_RANGE.end() * 10 + 1024 <= GRPC_REQUEST_BYTES_MAX);
const _: () = assert!(*PLAYERS_PER_ROOM_RANGE.end() * 2048 <= GRPC_ROOMS_BYTES_MAX);
// One server's workers may be abandoned.
const _: () = assert!(HTTP_WORKERS as u64 <= HTTP_ABANDONED_MAX);
