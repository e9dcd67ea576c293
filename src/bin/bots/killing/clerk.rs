//! Who talks HTTP to a server that may be dead: a thread that asks until it has an answer.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_server::engine::id::{PlayerId, RoomId};
use serde_json::{Value, json};

use crate::http::Web;

/// Time for which it goes on asking.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two questions.
const AGAIN_AFTER: Duration = Duration::from_millis(15);

/// What the clerk is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Create a room with these members.
    Create(RoomId, Vec<PlayerId>),
    /// Say which rooms there are.
    List(Listing),
}

/// What a list of the rooms must show.
#[derive(Debug)]
pub(crate) enum Listing {
    /// The rooms that were there when the order was given, in the order of their creation, with
    /// at least what was known of each then.
    Alive(Vec<Known>),
    /// No match that is not over.
    Over,
    /// Nothing.
    Nothing,
}

/// What players have seen of a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The stamp of Start, if it has started.
    pub(crate) started_unix: Option<i64>,
    /// Frames.
    pub(crate) frames: usize,
}

/// What has come of an order.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The room is there.
    Created {
        /// Which.
        room: RoomId,
        /// What the server said of it.
        json: Value,
        /// The server was killed before it said that it had created the room, and had.
        was_untold: bool,
    },
    /// The rooms that there are.
    Rooms(Listing, Vec<Value>),
    /// A sentence for the user.
    Failed(String),
}

/// The thread, which ends with the last order after this is dropped.
#[derive(Debug)]
pub(crate) struct Clerk {
    orders: Sender<Order>,
    answers: Receiver<Answer>,
}

impl Clerk {
    /// Begins to work.
    pub(crate) fn new(web: Web) -> Clerk {
        let (orders, inbox) = mpsc::channel();
        let (outbox, answers) = mpsc::channel();
        thread::spawn(move || {
            for order in inbox {
                // Whoever asked may have gone.
                if outbox.send(carry_out(&web, order)).is_err() {
                    return;
                }
            }
        });
        Clerk { orders, answers }
    }

    /// Takes an order; the answer comes some time later, in the order of the orders.
    pub(crate) fn order(&self, order: Order) {
        self.orders
            .send(order)
            .expect("the clerk works as long as orders can come");
    }

    /// The next answer, if there is one.
    pub(crate) fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

fn carry_out(web: &Web, order: Order) -> Answer {
    let done = match order {
        Order::Create(room, members) => create(web, room, &members)
            .map_err(|error| format!("room {room} was not created: {error}")),
        Order::List(listing) => list(web, listing),
    };
    done.unwrap_or_else(Answer::Failed)
}

/// Creates a room. If the connection broke, the server may have created it or not.
fn create(web: &Web, room: RoomId, members: &[PlayerId]) -> Result<Answer, String> {
    let names: Vec<_> = members.iter().map(|player| player.0.to_string()).collect();
    let body = json!({ "room": room.0.to_string(), "members": names }).to_string();
    let mut was_broken = false;
    let began = Instant::now();
    let created = |json, was_untold| Answer::Created {
        room,
        json,
        was_untold,
    };
    loop {
        match web.ask("POST", "/api/rooms", &body, 201) {
            Ok(json) => return Ok(created(json, false)),
            Err((409, _)) if was_broken => {
                let json = get(web, &format!("/api/rooms/{room}"))?;
                return Ok(created(json, true));
            }
            Err((0 | 503, _)) if began.elapsed() < PATIENCE => was_broken = true,
            Err((_, error)) => return Err(error),
        }
        thread::sleep(AGAIN_AFTER);
    }
}

fn list(web: &Web, listing: Listing) -> Result<Answer, String> {
    let page = get(web, "/api/rooms?limit=10000")?;
    let rooms = page["rooms"].as_array().ok_or("GET /api/rooms: no rooms")?;
    Ok(Answer::Rooms(listing, rooms.clone()))
}

/// Asks until there is an answer.
fn get(web: &Web, path: &str) -> Result<Value, String> {
    let began = Instant::now();
    loop {
        match web.ask("GET", path, "", 200) {
            Err((0 | 503, _)) if began.elapsed() < PATIENCE => thread::sleep(AGAIN_AFTER),
            answer => return answer.map_err(|(_, error)| format!("GET {path}: {error}")),
        }
    }
}
