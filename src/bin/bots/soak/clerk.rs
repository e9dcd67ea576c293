//! Who asks the server over HTTP while the match goes on: a thread, because an answer may take
//! its time.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use lockstep_server::engine::id::{PlayerId, RoomId};
use serde_json::Value;

use crate::Member;
use crate::http::{Web, Wishes};

/// What the clerk is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Create a room with these members.
    Create(RoomId, Vec<PlayerId>),
    /// End the match of a room.
    Close(RoomId),
    /// Ask what the server counts.
    Stats,
}

/// What has come of an order.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The room is there.
    Created(RoomId, Vec<Member>),
    /// Its match is over.
    Closed,
    /// What the server counts.
    Stats(Value),
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
                let _ = outbox.send(carry_out(&web, order));
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
        Order::Create(room, players) => create(web, room, players),
        Order::Close(room) => web
            .close_room(room)
            .map(|()| Answer::Closed)
            .map_err(|error| format!("room {room} was not closed: {error}")),
        Order::Stats => web.stats().map(Answer::Stats),
    };
    done.unwrap_or_else(Answer::Failed)
}

fn create(web: &Web, room: RoomId, players: Vec<PlayerId>) -> Result<Answer, String> {
    let created = web
        .create_room(room, &players, &Wishes::default())
        .map_err(|error| format!("room {room} was not created: {error}"))?;
    let members = players.into_iter().zip(created.tokens);
    let members = members.map(|(player, token)| Member {
        player,
        token,
        watches: false,
    });
    Ok(Answer::Created(room, members.collect()))
}
