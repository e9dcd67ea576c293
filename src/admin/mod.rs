//! HTTP: the page, room creation in the original's text, and the JSON API.
//!
//! It runs on side threads and holds no game state: what it knows it asks for through
//! [`crate::operations`].
//!
//! - [`query`] and [`json`] take requests apart, [`order`] gives the pieces their meaning;
//! - [`reading`] takes the answers apart that another server gives;
//! - [`routes`] turns a request into an answer, asking through [`desk`], once [`guard`] lets it;
//! - `server` carries both over tiny_http, and survives what that does wrong;
//! - `hangup` ends connections that tiny_http would keep.

pub mod counters;
pub mod desk;
pub mod guard;
pub mod json;
pub mod order;
pub mod query;
pub mod reading;
pub mod routes;

mod hangup;
mod server;

pub use server::{Admin, AdminConfig, AdminError, Watch, start};
