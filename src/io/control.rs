//! The way of a side thread into the loop: commands through a bounded channel, each with a
//! place for its answer.
//!
//! A [`Handle`] posts a [`Control`] and waits for the answer, never longer than its
//! patience; the loop takes them from the [`Mailbox`] and carries them out between two
//! datagrams. Neither end ever blocks the loop.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

use thiserror::Error;

use crate::engine::id::{MatchId, RoomId};
use crate::engine::view::{CreateError, RoomSpec, RoomView, RoomsPage};
use crate::io::metrics::{Load, Stats};
use crate::limits::COMMANDS_WAITING_MAX;

/// Time for which a side thread waits for the loop's answer.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// One command, with where its answer goes.
#[derive(Debug)]
pub enum Control {
    /// Create a room.
    Create(RoomSpec, Answer<Result<RoomView, CreateError>>),
    /// End a room's match; `None` if there is no such room.
    Close(RoomId, Answer<Option<RoomView>>),
    /// Show a room.
    Room(RoomId, Answer<Option<RoomView>>),
    /// Show a match, running or finished a while ago.
    Match(MatchId, Answer<Option<RoomView>>),
    /// Show at most `limit` rooms from `from` on.
    Rooms {
        /// 0, or [`RoomsPage::next`] of the part before.
        from: usize,
        /// How many at the most.
        limit: usize,
        /// Where the answer goes.
        answer: Answer<RoomsPage>,
    },
    /// Show the counters.
    Stats(Answer<Box<Stats>>),
    /// Show how much there is to do.
    Load(Answer<Load>),
    /// Take no new rooms from now on, and end with the last one. Shows how much there is to do.
    Drain(Answer<Load>),
    /// Show which rooms there are whose match is not over.
    RoomIds(Answer<Vec<(RoomId, MatchId)>>),
    /// Tell those who wait for it where the players of a room connect, as `HOST:PORT`; `None` if it
    /// is nowhere. Nothing is answered.
    Located(RoomId, Option<String>),
}

/// An answer that waits until what it tells of is in the journal.
#[derive(Debug)]
pub enum Reply {
    /// To [`Control::Create`].
    Created(
        Answer<Result<RoomView, CreateError>>,
        Result<RoomView, CreateError>,
    ),
    /// To [`Control::Close`].
    Closed(Answer<Option<RoomView>>, Option<RoomView>),
}

impl Reply {
    /// Gives it.
    pub fn give(self) {
        match self {
            Reply::Created(answer, result) => answer.give(result),
            Reply::Closed(answer, result) => answer.give(result),
        }
    }
}

/// Where one answer goes. An asker that has gone is no error.
pub struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    /// Hands the answer to `give`, which must not block: the loop calls it.
    pub fn to(give: impl FnOnce(T) + Send + 'static) -> Answer<T> {
        Answer(Box::new(give))
    }

    /// Gives the answer.
    pub fn give(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer(..)")
    }
}

/// Why the loop gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// Too many commands wait already.
    #[error("the server is overloaded: {COMMANDS_WAITING_MAX} commands wait already")]
    Full,
    /// No answer within the patience of a side thread.
    #[error("the server did not answer within {} s", PATIENCE.as_secs())]
    Late,
    /// The loop has ended.
    #[error("the server has stopped")]
    Stopped,
}

/// A side thread's end.
#[derive(Clone)]
pub struct Handle {
    sender: SyncSender<Control>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// The loop's end.
#[derive(Debug)]
pub struct Mailbox {
    receiver: Receiver<Control>,
}

/// A channel whose sending end calls `wake` after each command.
pub fn channel(wake: impl Fn() + Send + Sync + 'static) -> (Handle, Mailbox) {
    let (sender, receiver) = mpsc::sync_channel(COMMANDS_WAITING_MAX);
    (
        Handle {
            sender,
            wake: Arc::new(wake),
        },
        Mailbox { receiver },
    )
}

impl Mailbox {
    /// The next command, if one waits.
    pub fn take(&self) -> Option<Control> {
        self.receiver.try_recv().ok()
    }
}

impl Handle {
    /// Creates a room.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop gave no answer; inside, why it refused.
    pub fn create(&self, spec: RoomSpec) -> Result<Result<RoomView, CreateError>, Unavailable> {
        self.ask(|answer| Control::Create(spec, answer))
    }

    /// Ends a room's match; `None` if there is no such room.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop gave no answer.
    pub fn close(&self, room: RoomId) -> Result<Option<RoomView>, Unavailable> {
        self.ask(|answer| Control::Close(room, answer))
    }

    /// Shows a room.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop gave no answer.
    pub fn room(&self, room: RoomId) -> Result<Option<RoomView>, Unavailable> {
        self.ask(|answer| Control::Room(room, answer))
    }

    /// Shows a match, running or finished a while ago.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop gave no answer.
    pub fn match_(&self, id: MatchId) -> Result<Option<RoomView>, Unavailable> {
        self.ask(|answer| Control::Match(id, answer))
    }

    /// Shows at most `limit` rooms from `from` on.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop gave no answer.
    pub fn rooms(&self, from: usize, limit: usize) -> Result<RoomsPage, Unavailable> {
        self.ask(|answer| Control::Rooms {
            from,
            limit,
            answer,
        })
    }

    /// Shows the counters.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop gave no answer.
    pub fn stats(&self) -> Result<Box<Stats>, Unavailable> {
        self.ask(Control::Stats)
    }

    /// Shows how much there is to do.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop gave no answer.
    pub fn load(&self) -> Result<Load, Unavailable> {
        self.ask(Control::Load)
    }

    /// Lets the server take no new rooms from now on, and end with the last one. Shows how much
    /// there is to do.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop gave no answer.
    pub fn drain(&self) -> Result<Load, Unavailable> {
        self.ask(Control::Drain)
    }

    /// Answers a question of [`EventLoop::ask_elsewhere`]: where the players of a room connect, as
    /// `HOST:PORT`; `None` if nobody has it. What is no address is taken as none. One that comes too
    /// late does nothing. Waits for nothing.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop does not take it: who asked is told that there is no such room.
    ///
    /// [`EventLoop::ask_elsewhere`]: crate::io::event_loop::EventLoop::ask_elsewhere
    pub fn located(&self, room: RoomId, address: Option<String>) -> Result<(), Unavailable> {
        self.post(Control::Located(room, address))
    }

    /// Posts a command and waits for nothing: for who must not block. Its answer comes where it
    /// says, or never, if the loop ends.
    ///
    /// # Errors
    /// [`Unavailable`] if the loop does not take it.
    pub fn post(&self, control: Control) -> Result<(), Unavailable> {
        self.sender.try_send(control).map_err(|error| match error {
            TrySendError::Full(_) => Unavailable::Full,
            TrySendError::Disconnected(_) => Unavailable::Stopped,
        })?;
        (self.wake)();
        Ok(())
    }

    fn ask<T: Send + 'static>(
        &self,
        control: impl FnOnce(Answer<T>) -> Control,
    ) -> Result<T, Unavailable> {
        let (sender, receiver) = mpsc::sync_channel(1);
        // The asker may have lost its patience.
        let answer = Answer::to(move |answer| drop(sender.try_send(answer)));
        self.post(control(answer))?;
        receiver
            .recv_timeout(PATIENCE)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => Unavailable::Late,
                RecvTimeoutError::Disconnected => Unavailable::Stopped,
            })
    }
}
