//! The settings of who is let in: players by their token, and people by theirs.
//!
//! A secret comes as a value or in a file, whose reading is somebody else's. No error says
//! anything of a secret, nor of the name of its file: the secret itself may have been given
//! there by mistake.

use super::{
    ADMIN_TOKEN, ADMIN_TOKEN_FILE, AUTH, ConfigError, Given, Listen, Setting, Source,
    TICKET_SECRET, TICKET_SECRET_FILE, TICKET_SECRET_OLD, WEB, WEB_UNPROTECTED,
};
use crate::admin::guard::{AdminToken, Guard};
use crate::engine::auth::Auth;
use crate::limits::{ADMIN_TOKEN_BYTES_MIN, TICKET_SECRET_BYTES_MIN};
use crate::ticket::{TicketSecret, TicketSecrets};

/// What the token of a Connect must be.
pub(super) fn auth(source: &Source<'_>) -> Result<Auth, ConfigError> {
    let auth = source.given(&AUTH)?;
    let mode = auth.choice()?;
    // Who sets a secret means tickets to be checked. Passing it over would leave the door
    // open behind their back.
    match (mode, ticket_secrets(source)?) {
        ("ticket", Some((_, secrets))) => Ok(Auth::Ticket(secrets)),
        ("ticket", None) => Err(auth.unfit(format!(
            "\"ticket\" needs a secret; give it with {} or {}, or in the environment with {} or {}",
            TICKET_SECRET_FILE.flag(),
            TICKET_SECRET.flag(),
            TICKET_SECRET_FILE.variable(),
            TICKET_SECRET.variable(),
        ))),
        (mode, Some((given, _))) => Err(given.unfit(format!(
            "is given, but with --auth {mode} no ticket is checked; add --auth ticket, or leave \
             the secret out"
        ))),
        ("room", None) => Ok(Auth::Room),
        (_, None) => Ok(Auth::Open),
    }
}

/// The secrets of tickets, and where the one that signs was given.
fn ticket_secrets(source: &Source<'_>) -> Result<Option<(Given, TicketSecrets)>, ConfigError> {
    let old = source.optional(&TICKET_SECRET_OLD)?;
    let Some(Secret { given, lines }) = secret(source, &TICKET_SECRET, &TICKET_SECRET_FILE, 2)?
    else {
        return match old {
            None => Ok(None),
            Some(old) => Err(old.unfit(format!(
                "is given alone; {} must say what signs",
                TICKET_SECRET.flag()
            ))),
        };
    };
    let mut secrets = lines.iter().map(|line| ticket_secret(&given, line));
    let signing = secrets.next().expect("a secret has a line")?;
    let second = secrets.next().transpose()?;
    let old = match old {
        Some(old) if given.is_of(&TICKET_SECRET_FILE) => {
            return Err(old.unfit(format!(
                "does not go with {}; write it as the second line of the file",
                given.name()
            )));
        }
        Some(old) => Some(ticket_secret(&old, &old.text)?),
        None => second,
    };
    Ok(Some((given, TicketSecrets::new(signing, old))))
}

fn ticket_secret(given: &Given, text: &str) -> Result<TicketSecret, ConfigError> {
    TicketSecret::new(text).ok_or_else(|| {
        given.unfit(format!(
            "a secret must have at least {TICKET_SECRET_BYTES_MIN} bytes (RFC 7518, 3.2), such \
             as the output of: openssl rand -hex 32"
        ))
    })
}

/// What protects the HTTP side that listens on `listen`.
pub(super) fn guard(source: &Source<'_>, listen: Listen) -> Result<Guard, ConfigError> {
    let token = secret(source, &ADMIN_TOKEN, &ADMIN_TOKEN_FILE, 1)?;
    let unprotected = source.switch(&WEB_UNPROTECTED)?;
    match (token, unprotected) {
        // One of the two is a slip, and nobody but the operator knows which.
        (Some(token), Some(unprotected)) => Err(unprotected.unfit(format!(
            "is given, but {} protects --web; leave one of them out",
            token.given.name()
        ))),
        (Some(token), None) => admin_token(&token).map(Guard::Token),
        (None, Some(_)) => Ok(Guard::Unprotected),
        (None, None) if listen.is_loopback() => Ok(Guard::Loopback),
        (None, None) => {
            let web = source.given(&WEB)?;
            Err(web.unfit(format!(
                "{:?} is open to other machines and nothing protects it; set {} (or {}), or say \
                 {} if only people you trust reach it, or listen on this machine alone: --web \
                 127.0.0.1:{}",
                web.text,
                ADMIN_TOKEN.flag(),
                ADMIN_TOKEN_FILE.flag(),
                WEB_UNPROTECTED.flag(),
                listen.port(),
            )))
        }
    }
}

fn admin_token(token: &Secret) -> Result<AdminToken, ConfigError> {
    AdminToken::new(&token.lines[0]).ok_or_else(|| {
        token.given.unfit(format!(
            "a token must have at least {ADMIN_TOKEN_BYTES_MIN} letters, digits and -._~+/ (RFC \
             6750), such as the output of: openssl rand -hex 16"
        ))
    })
}

/// A secret, and where it was given.
pub(super) struct Secret {
    pub(super) given: Given,
    /// One, or the lines of the file: at least one.
    pub(super) lines: Vec<String>,
}

/// The secret that was given as a value or in a file of at most `most` lines.
pub(super) fn secret(
    source: &Source<'_>,
    value: &'static Setting,
    file: &'static Setting,
    most: usize,
) -> Result<Option<Secret>, ConfigError> {
    match (source.optional(value)?, source.optional(file)?) {
        (None, None) => Ok(None),
        (Some(given), None) => {
            let lines = vec![given.text.clone()];
            Ok(Some(Secret { given, lines }))
        }
        (None, Some(given)) => {
            let lines = lines(source, &given, most)?;
            Ok(Some(Secret { given, lines }))
        }
        (Some(value), Some(file)) => Err(value.unfit(format!(
            "is given, and so is {}; leave one of them out",
            file.name()
        ))),
    }
}

/// The lines of a file of secrets.
fn lines(source: &Source<'_>, file: &Given, most: usize) -> Result<Vec<String>, ConfigError> {
    let bytes = (source.read)(file.text.as_ref())
        .map_err(|error| file.unfit(format!("the file cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| file.unfit("the file is not UTF-8".into()))?;
    let mut lines: Vec<String> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned())
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    match lines.len() {
        0 => Err(file.unfit("the file is empty".into())),
        count if count > most => {
            Err(file.unfit(format!("the file has {count} lines; at most {most} can be")))
        }
        _ => Ok(lines),
    }
}
