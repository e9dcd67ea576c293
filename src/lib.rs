//! A lockstep ("frame sync") game server, and all that it is made of.
//!
//! In a lockstep game each client sends only its inputs. The server gathers the inputs of
//! each frame, at a fixed rate, and sends everybody the same frames; every client computes
//! the same game from them. The server knows nothing of the game.
//!
//! ```text
//! datagram ─▶ io::udp ─▶ engine: session (KCP) ─▶ packet ─▶ message ─▶ router ─▶ room
//!                                                                               │
//! datagram ◀─ io::udp ◀─ engine: session (KCP) ◀─ packet ◀─ broadcast ◀─ frame log
//! ```
//!
//! What lives where:
//!
//! - [`engine`]: the server as a state machine without I/O. [`engine::server::Server`] owns
//!   the sessions, the rooms and the timer wheel. Begin there.
//! - [`io`]: everything impure. [`io::event_loop`] is the one thread that owns the UDP
//!   socket and drives the engine; [`io::control`] is the way of side threads into it.
//! - [`operations`]: what may be asked of a server, beneath HTTP and gRPC.
//! - [`admin`]: HTTP on side threads: the form, the API.
//! - [`cluster`]: several servers as one: etcd, gRPC, placement.
//! - [`client`]: the player's side, without I/O too. Games and bots written in Rust use it,
//!   and so do the tests and the simulator.
//! - [`journal`]: the records of which rooms are made again after a crash, as bytes, and how they
//!   are read. [`io::journal`] keeps them in files.
//! - [`sim`]: the same engine and the same client under virtual time and a seeded network,
//!   and the oracle that holds them to the rules.
//! - [`ticket`]: the signed words that let a player into a room, checked by the engine and made
//!   by [`operations`].
//! - [`config`]: the command line and the environment, parsed once into typed values.
//! - [`limits`]: every bound, with its reason.
//!
//! Whoever uses this library in a workspace of their own: KCP counts modulo 2^32 with plain
//! operators, so each profile that has overflow checks on needs
//! `[profile.<name>.package.kcp] overflow-checks = false` at the root of that workspace.
//! Cargo does not take it from here.

pub mod admin;
pub mod client;
pub mod cluster;
pub mod config;
pub mod engine;
mod fields;
pub mod io;
pub mod journal;
pub mod limits;
pub mod operations;
pub mod sim;
pub mod ticket;
