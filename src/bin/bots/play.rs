//! The loop of a load run: one thread, one poll, a socket for each player.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lockstep_server::engine::time::Time;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::Plan;
use crate::bot::{Bot, World};
use crate::progress::{BAR_EVERY, Progress};
use crate::report::Report;
use crate::wakes::Wakes;
use crate::watch::{histogram, record};

/// Time between the beginnings of two players: a thousand Connects at once would be a test
/// of socket buffers.
const BEGIN_EVERY: Duration = Duration::from_micros(500);
/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between two turns. Who listens all the time is woken by each datagram, and it is the
/// server who pays for that.
const TURN_EVERY: Duration = Duration::from_millis(1);

/// Plays the plan to its end.
///
/// # Errors
/// A sentence for the user, if nothing can be played.
pub(crate) fn play(plan: &Plan) -> Result<Report, String> {
    let mut table = Table::new(plan).map_err(|error| format!("cannot play: {error}"))?;
    let mut world = World::new(plan);
    let mut progress = Progress::new(plan.time, LINE_EVERY);
    let mut has_begun = false;
    while table.playing > 0 {
        table
            .turn(&mut world)
            .map_err(|error| format!("cannot play: {error}"))?;
        if plan.together && !has_begun && world.began.is_some() {
            has_begun = true;
            let (started, all) = (world.started, plan.players());
            // scripts/bench waits for these words.
            progress.say(&format!("{started} of {all} play together from now on"));
        }
        show(&mut progress, table.now(), &world);
        if let Some(fatal) = world.fatal.take() {
            progress.end();
            return Err(fatal);
        }
    }
    progress.end();
    Ok(Report::new(&world, &mut table.bots, &table.lateness))
}

/// The players and what wakes them.
struct Table {
    bots: Vec<Bot>,
    /// Players that have not left.
    playing: usize,
    poll: Poll,
    events: Events,
    origin: Instant,
    /// When the last turn was.
    turned_at: Time,
    wakes: Wakes,
    /// How long what happened waited for this loop, once for each turn of a player.
    lateness: Histogram<u64>,
}

impl Table {
    fn new(plan: &Plan) -> io::Result<Table> {
        let mut table = Table {
            bots: Vec::with_capacity(plan.players()),
            playing: plan.players(),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            origin: Instant::now(),
            turned_at: Time::ZERO,
            wakes: Wakes::default(),
            lateness: histogram(),
        };
        for (room, (_, members)) in plan.rooms.iter().enumerate() {
            for seat in 0..members.len() {
                let number = table.bots.len();
                let begins = Time::ZERO + BEGIN_EVERY * u32::try_from(number).unwrap_or(u32::MAX);
                let mut bot = Bot::new(plan, (room, seat), number, begins)?;
                table.poll.registry().register(
                    bot.line.socket(),
                    Token(number),
                    Interest::READABLE,
                )?;
                table.bots.push(bot);
                table.wakes.wake(number, begins);
            }
        }
        table.origin = Instant::now();
        Ok(table)
    }

    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    /// Waits for the next thing to happen, and lets everybody act whom it concerns.
    fn turn(&mut self, world: &mut World<'_>) -> io::Result<()> {
        std::thread::sleep((self.turned_at + TURN_EVERY).since(self.now()));
        let next = self.wakes.next();
        let wait = next.map_or(BAR_EVERY, |at| at.since(self.now()).min(BAR_EVERY));
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let woken = self.now();
        self.turned_at = woken;
        let mut turns = 0;
        let ready: Vec<_> = self.events.iter().map(|event| event.token().0).collect();
        for number in ready {
            self.bots[number].line.is_readable();
            self.turn_of(number, world);
            turns += 1;
        }
        while let Some(number) = self.wakes.due(woken) {
            self.turn_of(number, world);
            turns += 1;
        }
        if turns > 0 && world.measures() && !world.is_over(woken) {
            let overslept = next.map_or(Duration::ZERO, |at| woken.since(at));
            let lateness = overslept + self.now().since(woken);
            record(&mut self.lateness, lateness, turns);
        }
        Ok(())
    }

    fn turn_of(&mut self, number: usize, world: &mut World<'_>) {
        let now = self.now();
        let bot = &mut self.bots[number];
        let registry = self.poll.registry();
        let watch =
            |socket: &mut UdpSocket| registry.register(socket, Token(number), Interest::READABLE);
        let Some(wake) = bot.turn(now, world, watch) else {
            // It was in the game until now, since those who leave are woken no more.
            self.playing -= 1;
            self.wakes.forget(number);
            // What still comes for it is of no interest; the port stays taken until the end.
            let _ = self.poll.registry().deregister(bot.line.socket());
            return;
        };
        self.wakes.wake(number, wake);
    }
}

/// How far the play is.
fn show(progress: &mut Progress, now: Time, world: &World<'_>) {
    let played = world.began.map_or(Duration::ZERO, |at| now.since(at));
    progress.show(now, played, || {
        let problems: u64 = world.problems.counts.values().sum();
        format!(
            "{} of {} players playing, {} frames, {} inputs back, {problems} problems",
            world.started,
            world.plan.players(),
            world.frames,
            world.latency.len(),
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weather::Weather;
    use crate::{Member, PlannedRoom};
    use lockstep_server::config::Listen;
    use lockstep_server::engine::auth::RoomSecret;
    use lockstep_server::engine::config::Config;
    use lockstep_server::engine::id::{PlayerId, RoomId};
    use lockstep_server::engine::view::RoomSpec;
    use lockstep_server::io::control::Handle;
    use lockstep_server::io::event_loop::EventLoop;
    use lockstep_server::io::signals::Signals;
    use lockstep_server::io::system;
    use lockstep_server::io::udp::Udp;
    use std::net::SocketAddr;
    use std::sync::mpsc;

    /// Runs a server until the test ends, and creates the rooms of the plan.
    fn serve(rooms: &[PlannedRoom]) -> (SocketAddr, Handle) {
        serve_knowing(rooms, None)
    }

    /// The same; of rooms that it has not it says that they are at the other server.
    fn serve_knowing(rooms: &[PlannedRoom], other: Option<SocketAddr>) -> (SocketAddr, Handle) {
        let (address, handle) = serve_at(SocketAddr::from(([127, 0, 0, 1], 0)), other);
        for (room, members) in rooms {
            create(&handle, *room, members);
        }
        (address, handle)
    }

    fn serve_at(at: SocketAddr, other: Option<SocketAddr>) -> (SocketAddr, Handle) {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let listen = Listen::At(at);
            let udp = Udp::bind(listen).unwrap();
            let address = udp.local_addr().unwrap();
            let secrets = system::draw_secrets().unwrap();
            let signals = Signals::new().unwrap();
            let (mut event_loop, handle) =
                EventLoop::new(udp, signals, Config::default(), secrets).unwrap();
            if let Some(other) = other {
                let knows = handle.clone();
                event_loop.ask_elsewhere(Box::new(move |room| {
                    knows.located(room, Some(other.to_string())).unwrap();
                }));
            }
            sender.send((address, handle)).unwrap();
            event_loop.run().unwrap();
        });
        receiver.recv().unwrap()
    }

    fn create(handle: &Handle, room: RoomId, members: &[Member]) {
        let players = members.iter().filter(|member| !member.watches);
        let spec = RoomSpec {
            room,
            members: players.map(|member| member.player).collect(),
            seed: 1,
            hz: None,
            broadcast_every: None,
            max_frames: None,
            input_bytes_max: None,
            watchers_max: Some(10),
            watch_delay: Some(20),
            secret: RoomSecret::from_bytes([0; 16]),
        };
        handle.create(spec).unwrap().unwrap();
    }

    fn plan(weather: Weather) -> (Plan, Handle) {
        plan_watched(weather, 0)
    }

    /// The first room is watched by so many.
    fn plan_watched(weather: Weather, watchers: u64) -> (Plan, Handle) {
        let member = |player| Member {
            player: PlayerId(player),
            token: String::new(),
            watches: false,
        };
        let members = |room| (1..=3).map(|n| member(room * 1000 + n)).collect();
        let mut rooms: Vec<PlannedRoom> =
            (1..=4).map(|room| (RoomId(room), members(room))).collect();
        rooms[0].1.extend((0..watchers).map(|n| Member {
            watches: true,
            ..member(9000 + n)
        }));
        let (server, handle) = serve(&rooms);
        let plan = Plan {
            server,
            rooms,
            input_every: Some(Duration::from_millis(50)),
            time: Duration::from_secs(2),
            together: false,
            hz: 30,
            weather,
            seed: 1,
        };
        (plan, handle)
    }

    fn as_json(report: &Report) -> serde_json::Value {
        serde_json::from_str(&report.to_json()).unwrap()
    }

    #[test]
    fn everybody_sees_the_same_match() {
        let report = play(&plan(Weather::default()).0).unwrap();
        assert!(report.all_well(), "{report}");
        let json = as_json(&report);
        assert_eq!(json["players_started"], 12);
        // Those of one second: the other one is the quiet end.
        let sent = json["inputs_sent"].as_u64().unwrap();
        assert!((12 * 18..=12 * 21).contains(&sent), "{report}");
        assert_eq!(json["inputs_seen"], sent);
        assert_eq!(json["latency_ms"]["count"], sent);
        assert!(json["frames_min"].as_u64().unwrap() >= 55, "{report}");
    }

    #[test]
    fn players_who_ask_the_wrong_server_follow_its_word_to_the_right_one() {
        let (mut plan, _handle) = plan_watched(Weather::default(), 3);
        let (wrong, handle) = serve_knowing(&[], Some(plan.server));
        plan.server = wrong;
        let report = play(&plan).unwrap();
        assert!(report.all_well(), "{report}");
        assert_eq!(as_json(&report)["players_started"], 15);
        let counters = handle.stats().unwrap().engine;
        assert_eq!((counters.redirects, counters.questions_late), (15, 0));
        assert!((4..=15).contains(&counters.questions));
    }

    #[test]
    fn players_who_are_sent_round_in_circles_are_refused_in_the_end() {
        let (mut plan, _handle) = plan(Weather::default());
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let itself = udp.local_addr().unwrap();
        drop(udp);
        plan.server = serve_at(itself, Some(itself)).0;
        let report = play(&plan).unwrap();
        let json = as_json(&report);
        assert_eq!(json["players_started"], 0, "{report}");
        assert_eq!(json["problems"]["refused"], 12, "{report}");
    }

    #[test]
    fn everybody_sees_the_same_match_in_bad_weather() {
        let weather = Weather {
            loss: 0.1,
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(10),
        };
        let report = play(&plan(weather).0).unwrap();
        assert!(report.all_well(), "{report}");
    }

    #[test]
    fn those_who_watch_are_shown_the_same_match_to_its_end() {
        let (plan, _handle) = plan_watched(Weather::default(), 10);
        let report = play(&plan).unwrap();
        assert!(report.all_well(), "{report}");
        let json = as_json(&report);
        assert_eq!(json["players_started"], 22);
        assert!(json["frames_min"].as_u64().unwrap() >= 55, "{report}");
    }

    #[test]
    fn together_they_play_as_long_and_measure_when_all_are_there() {
        let (mut plan, _handle) = plan(Weather::default());
        plan.together = true;
        let report = play(&plan).unwrap();
        assert!(report.all_well(), "{report}");
        let json = as_json(&report);
        // What the first ones sent before the last ones came is played, and not measured.
        let seen = json["inputs_seen"].as_u64().unwrap();
        let measured = json["latency_ms"]["count"].as_u64().unwrap();
        assert!(0 < measured && measured <= seen, "{report}");
        assert!(json["frames_min"].as_u64().unwrap() >= 55, "{report}");
    }

    #[test]
    fn players_that_play_together_do_not_wait_for_one_that_never_comes() {
        let (mut plan, _handle) = plan(Weather::default());
        plan.together = true;
        plan.rooms[3].0 = RoomId(77);
        let report = play(&plan).unwrap();
        assert!(!report.all_well(), "{report}");
        let json = as_json(&report);
        assert_eq!(json["players_started"], 9);
        assert_eq!(json["problems"].as_object().unwrap().len(), 1, "{report}");
    }

    #[test]
    fn what_goes_wrong_is_counted_and_told() {
        let (mut plan, handle) = plan(Weather::default());
        // Nobody has created this one, and the first one ends before its time.
        plan.rooms[3].0 = RoomId(77);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            handle.close(RoomId(1)).unwrap();
        });
        let report = play(&plan).unwrap();
        assert!(!report.all_well(), "{report}");
        let json = as_json(&report);
        assert_eq!(json["problems"]["closed early"], 3, "{report}");
        assert_eq!(json["problems"]["refused"], 3, "{report}");
        assert_eq!(json["players_started"], 9);
        let text = report.to_string();
        assert!(
            text.contains("refused: room 77, player 4001: NoRoom"),
            "{text}"
        );
    }

    #[test]
    fn where_nobody_listens_it_says_so() {
        let (mut plan, _) = plan(Weather::default());
        // Nobody binds this port without rights.
        plan.server = SocketAddr::from(([127, 0, 0, 1], 9));
        assert!(play(&plan).unwrap_err().contains("nothing listens"));
    }
}
