//! Everything impure.

pub mod control;
pub mod metrics;
