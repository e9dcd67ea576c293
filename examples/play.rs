//! A game for the terminal, and the tutorial of [`lockstep_server::client`].
//!
//! Create a room for players 1 and 2, for example by opening
//! <http://127.0.0.1:10002/create?room=1&member=1,2>, and start both of them:
//!
//! ```text
//! cargo run --example play -- --room 1 --id 1
//! cargo run --example play -- --room 1 --id 2
//! ```
//!
//! Move with the arrow keys or WASD and collect the stars; ten of them win. Both terminals
//! show the same match, and the hash under the field is a digest of its whole state: at the
//! same frame it is the same for everyone. With `--bot`, or where there is no terminal, the
//! player moves by itself and prints lines instead.
//!
//! What makes a game fit for lockstep is all in [`Game`]: it is advanced by frames and nothing
//! else. No clock, no floating point, no random number but those drawn from the match's seed,
//! no iteration over a hash map. Then the server needs to know nothing of the game.

use std::error::Error;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Color, Print, ResetColor, SetForegroundColor};
use crossterm::{cursor, queue, terminal};
use lockstep_server::client::{Client, ClientConfig, ClientEvent};
use lockstep_server::engine::id::{Conv, FrameId, PlayerId, RoomId};
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::engine::wire::frame::{Command, Frame};
use lockstep_server::engine::wire::message::ConnectCode;
use lockstep_server::limits::DATAGRAM_MAX;

/// Plays a small game in the terminal, against a lockstep server.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// The room.
    #[arg(long)]
    room: u64,
    /// The player, who must be a member of the room.
    #[arg(long)]
    id: u64,
    /// The server's UDP address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:10086")]
    server: String,
    /// What the game's backend gave this player to show at the door: its ticket, or the
    /// secret of the room. Creating a room answers with both, as far as the server uses them.
    #[arg(
        long,
        env = "LOCKSTEP_TOKEN",
        hide_env_values = true,
        default_value = ""
    )]
    token: String,
    /// Play by yourself, and print lines.
    #[arg(long)]
    bot: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let played = if args.bot || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        run(&args, &mut Lines::new(io::stdout()))
    } else {
        Screen::open()
            .map_err(Box::from)
            .and_then(|mut screen| run(&args, &mut screen))
    };
    // By now the screen is closed, and the terminal is as it was.
    match played {
        Ok(ending) => {
            println!("{ending}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

// --- The match: the client and its driver ---------------------------------------------------

/// Time that passes at the most between two looks at the keyboard.
const KEYBOARD_EVERY: Duration = Duration::from_millis(10);
/// Silence of the server after which the player connects anew. A server that has nothing to
/// say still answers the client's heartbeats, every 2 s.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The driver of a [`Client`]: a socket and a clock.
struct Driver {
    client: Client,
    socket: UdpSocket,
    origin: Instant,
    batch: Transmits,
}

impl Driver {
    fn connect(args: &Args) -> Result<Driver, Box<dyn Error>> {
        let socket = socket_to(&args.server)
            .map_err(|error| format!("--server {}: {error}", args.server))?;
        let mut config = ClientConfig::new(PlayerId(args.id), RoomId(args.room));
        config.token.clone_from(&args.token);
        // The client draws no random numbers itself, so its driver does.
        config.conv = Conv(getrandom::u32()?);
        let mut client = Client::new(Time::ZERO, config);
        // There is nothing to load, so the way to the start can be asked for at once. The
        // client takes each step when the one before has been answered.
        client.join();
        client.ready();
        Ok(Driver {
            client,
            socket,
            origin: Instant::now(),
            batch: Transmits::default(),
        })
    }

    fn now(&self) -> Time {
        Time::since_origin(self.origin.elapsed())
    }

    /// Sends what is to be sent.
    fn speak(&mut self, now: Time) {
        self.client.poll_transmit(now, &mut self.batch);
        for (_, datagram) in self.batch.iter() {
            // A datagram that is not sent is like one that is lost: it comes again.
            let _ = self.socket.send(datagram);
        }
    }

    /// Sends what is to be sent, then waits for a datagram, but not for long.
    fn exchange(&mut self) -> Result<(), Box<dyn Error>> {
        let now = self.now();
        self.speak(now);
        let due = self.client.poll_timeout(now);
        let wait = due.map_or(KEYBOARD_EVERY, |due| due.since(now).min(KEYBOARD_EVERY));
        // A read time-out of zero would mean to wait for ever.
        let wait = wait.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(wait))?;
        let mut buffer = [0; DATAGRAM_MAX];
        match self.socket.recv(&mut buffer) {
            Ok(len) => {
                let now = self.now();
                self.client.handle_datagram(now, &mut buffer[..len]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                if self.client.seat().is_none() {
                    return Err("Nothing listens there: is the server running (--server)?".into());
                }
                // The server was there and may come back, so this is like silence.
                std::thread::sleep(KEYBOARD_EVERY);
            }
            Err(error) => return Err(error.into()),
        }

        let now = self.now();
        self.client.handle_timeout(now);
        if self.client.silent_for(now) > SILENCE_MAX {
            self.reconnect()?;
        }
        Ok(())
    }

    /// Goes the whole way again, which ends in a second `Started`. The frames that are there already
    /// do not come again, unless the server speaks v1 alone.
    fn reconnect(&mut self) -> Result<(), Box<dyn Error>> {
        let now = self.now();
        self.client.reconnect(now, Conv(getrandom::u32()?), 0);
        Ok(())
    }

    /// Goes on at the server that has the room, with all that the client holds. The client sees to it
    /// that nobody is sent on for ever.
    fn follow(&mut self, address: &str) -> Result<(), Box<dyn Error>> {
        // The server that sends it on learns that its word has come.
        self.speak(self.now());
        self.socket =
            socket_to(address).map_err(|error| format!("The room is at {address}: {error}"))?;
        self.reconnect()
    }
}

/// A socket that speaks to one address and hears no other; one of version 4 if there is a choice, as
/// the server listens on those unless told otherwise.
fn socket_to(server: &str) -> io::Result<UdpSocket> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "this name has no address");
    let mut addresses: Vec<_> = server.to_socket_addrs()?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    for address in addresses {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        match socket.connect(address) {
            Ok(()) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Plays one match, from the first datagram to the Close. Returns how it ended.
fn run(args: &Args, view: &mut impl View) -> Result<String, Box<dyn Error>> {
    let mut driver = Driver::connect(args)?;
    // The players in the order of their seats, once they are known.
    let mut players: Vec<PlayerId> = Vec::new();
    let mut game: Option<Game> = None;
    let mut result_sent = false;
    let mut status = format!("connecting to {}", args.server);
    loop {
        while let Some(event) = driver.client.poll_event() {
            match event {
                ClientEvent::Refused(code) => return Err(refusal(args, code).into()),
                ClientEvent::Redirected { address } => {
                    status = format!("the room is at {address}; connecting");
                    driver.follow(&address)?;
                }
                ClientEvent::Joined { seat, others, .. } => {
                    players = others.iter().map(|(player, _)| *player).collect();
                    let own = usize::try_from(seat - 1).unwrap_or(0).min(players.len());
                    players.insert(own, PlayerId(args.id));
                    status = "waiting for the other players".to_owned();
                }
                // After a reconnect the match goes on where it was, if it is the same one and the
                // server speaks v2. Else it is told again from its beginning: a new game begins,
                // and it soon stands where the others' games stand.
                ClientEvent::Started { next, .. } => {
                    if next == 0 || game.is_none() {
                        let seed = driver.client.seed().unwrap_or_default();
                        game = Some(Game::new(seed, players.len()));
                        result_sent = false;
                    }
                    status.clear();
                }
                ClientEvent::Frame(frame) => {
                    if let Some(game) = &mut game {
                        game.step(&frame);
                        view.after_step(game)?;
                    }
                }
                ClientEvent::Closed => {
                    // One more exchange, so that the server learns that Close has come.
                    driver.exchange()?;
                    return Ok(ending(game.as_ref(), &players));
                }
                // The session is gone: the server was started again, or we were away for too long.
                ClientEvent::Reset => driver.reconnect()?,
                ClientEvent::Replaced => {
                    return Ok("You play on from elsewhere now.".to_owned());
                }
                // Nothing that this game cares for. A server that is up to its contract
                // causes no `Fault`.
                _ => {}
            }
        }

        // What the player wants to do goes to the server, and happens when it comes back.
        let seat = driver.client.seat().unwrap_or_default();
        match view.wish(game.as_ref(), seat)? {
            Wish::Nothing => {}
            Wish::Move(command) => {
                driver.client.input(command);
            }
            Wish::Quit => return Ok("You have left; the match goes on without you.".to_owned()),
        }

        // Everybody finds the same winner at the same frame and says so; then it is over.
        let winner = game.as_ref().and_then(Game::winner);
        let winner = winner.and_then(|index| players.get(index));
        if let Some(winner) = winner.filter(|_| !result_sent) {
            result_sent = driver.client.result(winner.0);
        }

        view.draw(game.as_ref(), seat, &status, driver.client.rtt())?;
        driver.exchange()?;
    }
}

fn refusal(args: &Args, code: ConnectCode) -> String {
    let Args { room, id, .. } = args;
    let host = args
        .server
        .rsplit_once(':')
        .map_or("127.0.0.1", |(host, _)| host);
    match code {
        ConnectCode::NoRoom => format!(
            "There is no room {room}. Create it by opening \
             http://{host}:10002/create?room={room}&member={id},{} and try again.",
            id.wrapping_add(1)
        ),
        ConnectCode::NoPlayer => format!("Player {id} is no member of room {room}."),
        ConnectCode::RoomState => format!("The match of room {room} is over."),
        ConnectCode::NoWatch => format!("Nobody may watch room {room}."),
        ConnectCode::Token if args.token.is_empty() => {
            "The server wants a token: whoever created the room got it (--token).".to_owned()
        }
        ConnectCode::Token => "The token is not one for this room and player.".to_owned(),
        ConnectCode::Ok => "The server has refused without a reason.".to_owned(),
    }
}

fn ending(game: Option<&Game>, players: &[PlayerId]) -> String {
    let winner = game
        .and_then(Game::winner)
        .and_then(|index| players.get(index));
    match winner {
        Some(player) => format!("The match is over. Player {player} has won."),
        None => "The match is over without a winner.".to_owned(),
    }
}

// --- The game: advanced by frames and by nothing else ---------------------------------------

/// The field, in characters.
const FIELD: (i32, i32) = (40, 14);
/// Stars that win.
const STARS_TO_WIN: u32 = 10;
/// `sid` of the only input that this game has: a step by `x` and `y`, each -1, 0 or 1.
const STEP: i32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Player {
    at: (i32, i32),
    stars: u32,
}

/// The whole state of a match. Two that were given the same seed and the same frames are
/// equal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Game {
    /// Frames that have happened.
    frames: FrameId,
    players: Vec<Player>,
    star: (i32, i32),
    random: u64,
}

impl Game {
    fn new(seed: i32, players: usize) -> Game {
        let mut game = Game {
            frames: 0,
            players: Vec::new(),
            star: (0, 0),
            random: u64::from(seed.cast_unsigned()),
        };
        for _ in 0..players {
            let at = game.anywhere();
            game.players.push(Player { at, stars: 0 });
        }
        game.star = game.anywhere();
        game
    }

    /// Advances the match by one frame.
    fn step(&mut self, frame: &Frame) {
        self.frames = frame.id + 1;
        for input in &frame.inputs {
            // The server passes on whatever a player sends, so the game decides what counts,
            // for everyone in the same way.
            let Command { sid: STEP, x, y } = input.command else {
                continue;
            };
            let index = usize::try_from(input.seat - 1).unwrap_or(usize::MAX);
            let Some(player) = self.players.get_mut(index) else {
                continue;
            };
            player.at.0 = (player.at.0 + x.clamp(-1, 1)).clamp(0, FIELD.0 - 1);
            player.at.1 = (player.at.1 + y.clamp(-1, 1)).clamp(0, FIELD.1 - 1);
            if player.at == self.star && self.winner().is_none() {
                self.players[index].stars += 1;
                self.star = self.anywhere();
            }
        }
    }

    /// Index of the player who has won.
    fn winner(&self) -> Option<usize> {
        self.players
            .iter()
            .position(|player| player.stars >= STARS_TO_WIN)
    }

    /// A digest of the state (FNV-1a): players who see the same match have the same.
    fn hash(&self) -> u64 {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut add = |value: u64| {
            for byte in value.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        add(u64::from(self.frames));
        add(self.random);
        for (x, y) in self
            .players
            .iter()
            .map(|player| player.at)
            .chain([self.star])
        {
            add(u64::from(x.cast_unsigned()));
            add(u64::from(y.cast_unsigned()));
        }
        self.players
            .iter()
            .for_each(|player| add(u64::from(player.stars)));
        hash
    }

    /// A place on the field, drawn from the match's own random numbers.
    fn anywhere(&mut self) -> (i32, i32) {
        let mut below = |bound: i32| {
            // Knuth's MMIX generator; its high bits are the good ones.
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let drawn = (self.random >> 33) % u64::from(bound.cast_unsigned());
            i32::try_from(drawn).expect("it is below a bound that is an i32")
        };
        (below(FIELD.0), below(FIELD.1))
    }
}

// --- What the player sees and wants ---------------------------------------------------------

enum Wish {
    Nothing,
    Move(Command),
    Quit,
}

trait View {
    /// A frame has happened.
    fn after_step(&mut self, game: &Game) -> io::Result<()>;
    /// What the player wants to do now.
    fn wish(&mut self, game: Option<&Game>, seat: i32) -> io::Result<Wish>;
    /// Shows how things stand.
    fn draw(
        &mut self,
        game: Option<&Game>,
        seat: i32,
        status: &str,
        rtt: Option<Duration>,
    ) -> io::Result<()>;
}

/// Frames after which a step that has not come back is thought to be lost.
const PATIENCE: FrameId = 30;

/// A player who walks to the star by itself, and prints a line every 30 frames.
struct Lines<W> {
    out: W,
    /// From where the last step was made, and after which frame.
    stepped: ((i32, i32), FrameId),
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Lines<W> {
        let nowhere = (-1, -1);
        Lines {
            out,
            stepped: (nowhere, 0),
        }
    }
}

impl<W: Write> View for Lines<W> {
    fn after_step(&mut self, game: &Game) -> io::Result<()> {
        if game.frames.is_multiple_of(30) {
            writeln!(self.out, "frame {} hash {:016x}", game.frames, game.hash())?;
        }
        Ok(())
    }

    fn wish(&mut self, game: Option<&Game>, seat: i32) -> io::Result<Wish> {
        let index = usize::try_from(seat - 1).unwrap_or(usize::MAX);
        let player = game.and_then(|game| game.players.get(index));
        let (Some(game), Some(player)) = (game, player) else {
            return Ok(Wish::Nothing);
        };
        // A step takes a while to come back. Who goes on before it has, from a place that is
        // no longer true, walks past the star again and again.
        let (from, frame) = self.stepped;
        let is_back = from != player.at || game.frames < frame || game.frames > frame + PATIENCE;
        if !is_back || game.winner().is_some() {
            return Ok(Wish::Nothing);
        }
        self.stepped = (player.at, game.frames);
        Ok(Wish::Move(Command {
            sid: STEP,
            x: (game.star.0 - player.at.0).signum(),
            y: (game.star.1 - player.at.1).signum(),
        }))
    }

    fn draw(&mut self, _: Option<&Game>, _: i32, _: &str, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal in full. It is put back as it was when this is dropped, or on a panic.
struct Screen {
    out: io::Stdout,
    /// What is on the screen, so that it is written only when it changes.
    shown: Vec<u8>,
}

impl Screen {
    fn open() -> io::Result<Screen> {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            Screen::restore();
            hook(panic);
        }));
        terminal::enable_raw_mode()?;
        let mut screen = Screen {
            out: io::stdout(),
            shown: Vec::new(),
        };
        queue!(screen.out, terminal::EnterAlternateScreen, cursor::Hide)?;
        screen.out.flush()?;
        Ok(screen)
    }

    fn restore() {
        // Whatever fails, try the rest.
        let mut out = io::stdout();
        let _ = queue!(
            out,
            ResetColor,
            terminal::LeaveAlternateScreen,
            cursor::Show
        );
        let _ = out.flush();
        let _ = terminal::disable_raw_mode();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Screen::restore();
    }
}

impl View for Screen {
    fn after_step(&mut self, _: &Game) -> io::Result<()> {
        Ok(())
    }

    fn wish(&mut self, _: Option<&Game>, _: i32) -> io::Result<Wish> {
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if let Some(wish) = wish_of(key) {
                        return Ok(wish);
                    }
                }
                // Everything is drawn anew.
                Event::Resize(..) => self.shown.clear(),
                _ => {}
            }
        }
        Ok(Wish::Nothing)
    }

    fn draw(
        &mut self,
        game: Option<&Game>,
        seat: i32,
        status: &str,
        rtt: Option<Duration>,
    ) -> io::Result<()> {
        let mut picture = Vec::new();
        paint(&mut picture, game, seat, status, rtt)?;
        if picture != self.shown {
            if self.shown.is_empty() {
                queue!(self.out, terminal::Clear(terminal::ClearType::All))?;
            }
            self.out.write_all(&picture)?;
            self.out.flush()?;
            self.shown = picture;
        }
        Ok(())
    }
}

fn wish_of(key: KeyEvent) -> Option<Wish> {
    let (x, y) = match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
            return Some(Wish::Quit);
        }
        KeyCode::Esc | KeyCode::Char('q') => return Some(Wish::Quit),
        KeyCode::Left | KeyCode::Char('a') => (-1, 0),
        KeyCode::Right | KeyCode::Char('d') => (1, 0),
        KeyCode::Up | KeyCode::Char('w') => (0, -1),
        KeyCode::Down | KeyCode::Char('s') => (0, 1),
        _ => return None,
    };
    Some(Wish::Move(Command { sid: STEP, x, y }))
}

/// Colours of the players, in the order of their seats and then again.
const COLORS: [Color; 6] = [
    Color::Cyan,
    Color::Magenta,
    Color::Green,
    Color::Blue,
    Color::Red,
    Color::White,
];

fn letter(index: usize) -> char {
    (b'A'..=b'Z')
        .map(char::from)
        .cycle()
        .nth(index)
        .unwrap_or('?')
}

fn paint(
    out: &mut Vec<u8>,
    game: Option<&Game>,
    seat: i32,
    status: &str,
    rtt: Option<Duration>,
) -> io::Result<()> {
    queue!(out, cursor::MoveTo(0, 0))?;
    let edge = "-".repeat(usize::try_from(FIELD.0).unwrap_or(0));
    queue!(out, Print(format!("+{edge}+\r\n")))?;
    for y in 0..FIELD.1 {
        queue!(out, Print('|'))?;
        for x in 0..FIELD.0 {
            paint_cell(out, game, (x, y))?;
        }
        queue!(out, Print("|\r\n"))?;
    }
    queue!(out, Print(format!("+{edge}+\r\n")))?;
    if let Some(game) = game {
        for (index, player) in game.players.iter().enumerate() {
            queue!(out, SetForegroundColor(COLORS[index % COLORS.len()]))?;
            queue!(
                out,
                Print(format!("{} {}  ", letter(index), player.stars)),
                ResetColor
            )?;
        }
        let rtt = rtt.map_or(0, |rtt| rtt.as_millis());
        let (frame, hash) = (game.frames, game.hash());
        let line = format!("\r\nframe {frame:<6} hash {hash:016x}  round trip {rtt} ms");
        queue!(
            out,
            Print(line),
            terminal::Clear(terminal::ClearType::UntilNewLine)
        )?;
    }
    let own = usize::try_from(seat - 1).map_or('?', letter);
    let help = format!("\r\nyou are {own}: arrow keys or WASD move, q leaves  {status}");
    queue!(
        out,
        Print(help),
        terminal::Clear(terminal::ClearType::FromCursorDown)
    )
}

fn paint_cell(out: &mut Vec<u8>, game: Option<&Game>, at: (i32, i32)) -> io::Result<()> {
    let Some(game) = game else {
        return queue!(out, Print(' '));
    };
    if let Some(index) = game.players.iter().position(|player| player.at == at) {
        let color = COLORS[index % COLORS.len()];
        queue!(
            out,
            SetForegroundColor(color),
            Print(letter(index)),
            ResetColor
        )
    } else if game.star == at {
        queue!(
            out,
            SetForegroundColor(Color::Yellow),
            Print('*'),
            ResetColor
        )
    } else {
        queue!(out, Print(' '))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_server::engine::auth::RoomSecret;
    use lockstep_server::engine::config::{Config, Secrets};
    use lockstep_server::engine::server::Server;
    use lockstep_server::engine::view::RoomSpec;
    use lockstep_server::engine::wire::frame::FrameInput;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn frame(id: FrameId, steps: &[(i32, i32, i32)]) -> Frame {
        let input = |(seat, x, y): &(i32, i32, i32)| FrameInput {
            player: PlayerId(1),
            seat: *seat,
            command: Command {
                sid: STEP,
                x: *x,
                y: *y,
            },
            data: Vec::new(),
        };
        let inputs = steps.iter().map(input).collect();
        Frame { id, inputs }
    }

    #[test]
    fn the_same_seed_and_frames_give_the_same_game() {
        let play = |seed, last| {
            let mut game = Game::new(seed, 2);
            for id in 0..500 {
                game.step(&frame(id, &[(1, 1, 0), (2, -1, last)]));
            }
            game.hash()
        };
        assert_eq!(play(-7, 1), play(-7, 1));
        assert_ne!(play(-7, 1), play(-6, 1));
        assert_ne!(play(-7, 1), play(-7, -1));
    }

    #[test]
    fn whatever_a_player_sends_the_game_stays_on_its_field() {
        let mut game = Game::new(1, 1);
        game.step(&frame(0, &[(1, i32::MIN, i32::MAX), (0, 1, 1), (9, 1, 1)]));
        for id in 1..100 {
            game.step(&frame(id, &[(1, i32::MIN, i32::MAX)]));
        }
        assert_eq!(game.players[0].at, (0, FIELD.1 - 1));
    }

    /// Runs the engine behind a socket until it is told to stop.
    fn serve(members: &[u64]) -> (String, Arc<AtomicBool>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let spec = RoomSpec {
            room: RoomId(1),
            members: members.iter().copied().map(PlayerId).collect(),
            seed: 5,
            hz: Some(120),
            broadcast_every: None,
            max_frames: None,
            input_bytes_max: None,
            watchers_max: None,
            watch_delay: None,
            secret: RoomSecret::from_bytes([0; 16]),
        };
        thread::spawn(move || {
            let secrets = Secrets {
                hash_key: (1, 2),
                clock_key: (3, 4),
                pass_key: [5; 32],
                first_match: 1,
            };
            let mut server = Server::new(Config::default(), secrets, 0);
            let origin = Instant::now();
            let mut batch = Transmits::default();
            let mut buffer = [0; DATAGRAM_MAX];
            server.create_room(Time::ZERO, spec).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(1)))
                .unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let received = socket.recv_from(&mut buffer);
                let now = Time::since_origin(origin.elapsed());
                server.handle_timeout(now);
                if let Ok((len, from)) = received {
                    server.handle_datagram(now, from, &mut buffer[..len]);
                }
                server.poll_transmit(now, &mut batch);
                for (to, datagram) in batch.iter() {
                    let _ = socket.send_to(datagram, to);
                }
                batch.clear();
                while server.poll_event().is_some() {}
            }
        });
        (address, stop)
    }

    fn args(server: &str, id: u64, room: u64) -> Args {
        let server = server.to_owned();
        let bot = true;
        Args {
            room,
            id,
            server,
            token: String::new(),
            bot,
        }
    }

    #[test]
    fn two_players_see_the_same_match_to_its_end() {
        let (server, stop) = serve(&[1, 2]);
        let play = |id| {
            let args = args(&server, id, 1);
            thread::spawn(move || {
                let mut view = Lines::new(Vec::new());
                let ending = run(&args, &mut view).unwrap();
                (ending, String::from_utf8(view.out).unwrap())
            })
        };
        let (first, second) = (play(1), play(2));
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        assert_eq!(first.0, second.0);
        assert!(first.0.contains("has won"), "{}", first.0);
        let lines = first.1.lines().zip(second.1.lines());
        assert!(lines.clone().count() > 0);
        for (one, other) in lines {
            assert!(one.starts_with("frame ") && one.contains(" hash "), "{one}");
            assert_eq!(one, other);
        }
    }

    #[test]
    fn a_room_that_does_not_exist_is_told_with_how_to_create_it() {
        let (server, stop) = serve(&[1, 2]);
        let told = |id, room| {
            let mut view = Lines::new(Vec::new());
            run(&args(&server, id, room), &mut view)
                .unwrap_err()
                .to_string()
        };
        let no_room = told(3, 9);
        let url = "http://127.0.0.1:10002/create?room=9&member=3,4";
        assert!(no_room.contains(url), "{no_room}");
        assert_eq!(told(3, 1), "Player 3 is no member of room 1.");
        stop.store(true, Ordering::Relaxed);
    }
}
