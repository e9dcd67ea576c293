//! Containment: a panic is a bug of ours, and must cost the match or the session that ran
//! into it, not the thousands beside it.
//!
//! The process contains panics ([`super::server::Server::contain_panics`]); tests and the
//! simulator let them through, so that no bug hides. What was running when it happened is
//! thrown away as a whole by the caller: [`super::router`] for a room, and for a session
//! [`super::server`].

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls; if `contained`, a panic comes back as its text.
///
/// # Errors
/// The text of the panic.
pub(super) fn contain<T>(contained: bool, call: impl FnOnce() -> T) -> Result<T, String> {
    if !contained {
        return Ok(call());
    }
    // What the call has changed half-way is thrown away by the caller.
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| text_of(&*panic))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_as_its_text() {
        assert_eq!(contain(true, || 7), Ok(7));
        let failed: Result<(), String> = contain(true, || panic!("seat {}", 9));
        assert_eq!(failed, Err("seat 9".to_owned()));
        let failed: Result<(), String> = contain(true, || panic!("plain"));
        assert_eq!(failed, Err("plain".to_owned()));
    }

    #[test]
    #[should_panic(expected = "let through")]
    fn a_panic_that_is_not_to_be_contained_goes_on() {
        let _ = contain(false, || panic!("let through"));
    }
}
