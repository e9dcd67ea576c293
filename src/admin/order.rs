//! What a user orders when creating a room, parsed from text into legal values.
//!
//! [`super::query`] and [`super::json`] take their two syntaxes apart and hand the pieces
//! here, so that both refuse the same things with the same words. Pure: no I/O, no clock.

use std::fmt;
use std::ops::RangeInclusive;

use crate::cluster::RequestKey;
use crate::cluster::node::NodeId;
use crate::engine::auth::RoomSecret;
use crate::engine::id::{PlayerId, RoomId};
use crate::engine::view::RoomSpec;
use crate::limits::{
    BROADCAST_EVERY_RANGE, FRAMES_RANGE, HTTP_QUOTE_CHARS_MAX, HZ_RANGE, INPUT_DATA_RANGE,
    NODE_ID_CHARS_MAX, REQUEST_KEY_CHARS_MAX, WATCH_DELAY_RANGE, WATCHERS_RANGE,
};

/// What the operator's settings allow in an order.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Members that a room may have (`--max-players-per-room`).
    pub max_players_per_room: usize,
}

/// Which node of the cluster a room goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The one that is asked.
    #[default]
    Here,
    /// The least loaded that has space.
    Auto,
    /// This one.
    Node(NodeId),
}

impl Place {
    /// As in an order.
    pub fn as_str(&self) -> &str {
        match self {
            Place::Here => "here",
            Place::Auto => "auto",
            Place::Node(id) => id.as_str(),
        }
    }
}

/// A room that was ordered. Every value is legal; what is `None` was left to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The room's number.
    pub room: RoomId,
    /// Its players in the order of their seats: at least one, none twice.
    pub members: Vec<PlayerId>,
    /// The seed that all clients get.
    pub seed: Option<i32>,
    /// Frames per second.
    pub hz: Option<u32>,
    /// Frames between two broadcasts when nothing happens.
    pub broadcast_every: Option<u32>,
    /// Frames after which the match is over.
    pub max_frames: Option<u32>,
    /// Bytes of data that an input may have.
    pub input_bytes_max: Option<u32>,
    /// Spectators that it lets in.
    pub watchers_max: Option<u32>,
    /// Frames that are held back from them.
    pub watch_delay: Option<u32>,
    /// Which node it goes to.
    pub place: Place,
    /// What makes asking again create no second room.
    pub request_key: Option<RequestKey>,
}

impl Order {
    /// Whether `other` orders the same room, wherever it goes and however it is asked for.
    pub fn is_same_room(&self, other: &Order) -> bool {
        let bare = |order: &Order| Order {
            place: Place::Here,
            request_key: None,
            ..order.clone()
        };
        bare(self) == bare(other)
    }

    /// The order as the engine takes it, with `seed` where none was ordered.
    pub fn into_spec(self, seed: i32, secret: RoomSecret) -> RoomSpec {
        RoomSpec {
            room: self.room,
            members: self.members,
            seed: self.seed.unwrap_or(seed),
            hz: self.hz,
            broadcast_every: self.broadcast_every,
            max_frames: self.max_frames,
            input_bytes_max: self.input_bytes_max,
            watchers_max: self.watchers_max,
            watch_delay: self.watch_delay,
            secret,
        }
    }
}

/// A field that cannot be as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField {
    /// Its name, as the user wrote it but shortened.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl BadField {
    /// The field `field` is wrong because of `reason`.
    pub fn new(field: &str, reason: impl Into<String>) -> BadField {
        // "=1" in a query has no name, but its error needs one.
        let name = if field.is_empty() { "(no name)" } else { field };
        BadField {
            field: quote(name),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for BadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// The value of a field, taken out of its syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// Named, but without a value: as good as left out.
    Nothing,
    /// One value.
    One(String),
    /// A list of values.
    Many(Vec<String>),
}

/// Where the field is among those of an order; the members' name differs by syntax.
const ROOM: usize = 0;
const MEMBERS: usize = 1;
const SEED: usize = 2;
const HZ: usize = 3;
const BROADCAST_EVERY: usize = 4;
const MAX_FRAMES: usize = 5;
const INPUT_BYTES: usize = 6;
const WATCHERS_MAX: usize = 7;
const WATCH_DELAY: usize = 8;
const PLACE: usize = 9;
const REQUEST_KEY: usize = 10;
const FIELDS: usize = 11;

/// Reads an order from its fields, each named at most once; `members` is the name of the
/// list of players.
pub(crate) fn read(
    members: &'static str,
    fields: impl IntoIterator<Item = (String, Given)>,
    bounds: Bounds,
) -> Result<Order, BadField> {
    let mut names = [
        "room",
        "",
        "seed",
        "hz",
        "broadcast_every",
        "max_frames",
        "input_bytes",
        "watchers_max",
        "watch_delay",
        "place",
        "request_key",
    ];
    names[MEMBERS] = members;
    let mut given: [Option<Given>; FIELDS] = Default::default();
    for (name, value) in fields {
        let Some(index) = names.iter().position(|known| *known == name) else {
            let known = names.join(", ");
            return Err(BadField::new(
                &name,
                format!("is not known here; known are {known}"),
            ));
        };
        if given[index].replace(value).is_some() {
            return Err(BadField::new(&name, "is given twice; give it once"));
        }
    }
    let [
        room,
        list,
        seed,
        hz,
        broadcast_every,
        max_frames,
        input_bytes,
        watchers_max,
        watch_delay,
        place,
        request_key,
    ] = given;
    Ok(Order {
        room: RoomId(read_room(names[ROOM], room)?),
        members: read_members(members, list, bounds)?,
        seed: read_seed(names[SEED], seed)?,
        hz: read_ranged(names[HZ], hz, HZ_RANGE)?,
        broadcast_every: read_ranged(
            names[BROADCAST_EVERY],
            broadcast_every,
            BROADCAST_EVERY_RANGE,
        )?,
        max_frames: read_ranged(names[MAX_FRAMES], max_frames, FRAMES_RANGE)?,
        input_bytes_max: read_ranged(names[INPUT_BYTES], input_bytes, INPUT_DATA_RANGE)?,
        watchers_max: read_ranged(names[WATCHERS_MAX], watchers_max, WATCHERS_RANGE)?,
        watch_delay: read_ranged(names[WATCH_DELAY], watch_delay, WATCH_DELAY_RANGE)?,
        place: read_place(names[PLACE], place)?,
        request_key: read_request_key(names[REQUEST_KEY], request_key)?,
    })
}

fn read_room(field: &str, given: Option<Given>) -> Result<u64, BadField> {
    match one(field, given)? {
        Some(text) => id(field, &text),
        None => Err(BadField::new(
            field,
            "is missing; give the room's number, such as 1",
        )),
    }
}

fn read_members(
    field: &str,
    given: Option<Given>,
    bounds: Bounds,
) -> Result<Vec<PlayerId>, BadField> {
    let texts = match given {
        None | Some(Given::Nothing) => Vec::new(),
        Some(Given::One(text)) => vec![text],
        Some(Given::Many(texts)) => texts,
    };
    if texts.is_empty() {
        return Err(BadField::new(
            field,
            "names nobody; give at least one player's number",
        ));
    }
    let max = bounds.max_players_per_room;
    if texts.len() > max {
        let count = texts.len();
        return Err(BadField::new(
            field,
            format!("names {count} players, a room takes at most {max} (--max-players-per-room)"),
        ));
    }
    let mut members = Vec::with_capacity(texts.len());
    for text in &texts {
        let player = PlayerId(id(field, text)?);
        // At most a few hundred: a set would cost more than it saves.
        if members.contains(&player) {
            return Err(BadField::new(
                field,
                format!("names {player} twice; name each player once"),
            ));
        }
        members.push(player);
    }
    Ok(members)
}

fn read_seed(field: &str, given: Option<Given>) -> Result<Option<i32>, BadField> {
    let Some(text) = one(field, given)? else {
        return Ok(None);
    };
    let digits = text.strip_prefix('-').unwrap_or(&text);
    match text.parse() {
        Ok(seed) if is_digits(digits) => Ok(Some(seed)),
        _ => Err(BadField::new(
            field,
            format!(
                "`{}` is not a seed; give a whole number from {} to {}",
                quote(&text),
                i32::MIN,
                i32::MAX
            ),
        )),
    }
}

fn read_ranged(
    field: &str,
    given: Option<Given>,
    range: RangeInclusive<u32>,
) -> Result<Option<u32>, BadField> {
    let Some(text) = one(field, given)? else {
        return Ok(None);
    };
    match text.parse() {
        Ok(value) if is_digits(&text) && range.contains(&value) => Ok(Some(value)),
        _ => Err(BadField::new(
            field,
            format!(
                "`{}` cannot be; give a whole number from {} to {}",
                quote(&text),
                range.start(),
                range.end()
            ),
        )),
    }
}

fn read_place(field: &str, given: Option<Given>) -> Result<Place, BadField> {
    let text = one(field, given)?;
    match text.as_deref() {
        None | Some("here") => Ok(Place::Here),
        Some("auto") => Ok(Place::Auto),
        Some(id) => NodeId::new(id).map(Place::Node).ok_or_else(|| {
            let reason = format!(
                "`{}` is not a place; give here, auto, or the id of a node: 1 to \
                 {NODE_ID_CHARS_MAX} letters, digits, dots, dashes and underscores",
                quote(id)
            );
            BadField::new(field, reason)
        }),
    }
}

fn read_request_key(field: &str, given: Option<Given>) -> Result<Option<RequestKey>, BadField> {
    let Some(text) = one(field, given)? else {
        return Ok(None);
    };
    RequestKey::new(&text).map(Some).ok_or_else(|| {
        let reason = format!(
            "`{}` cannot be a key; give 1 to {REQUEST_KEY_CHARS_MAX} printable characters of \
             ASCII without spaces, such as a UUID",
            quote(&text)
        );
        BadField::new(field, reason)
    })
}

/// The one value of a field, without the spaces around it; `None` if it is left out.
fn one(field: &str, given: Option<Given>) -> Result<Option<String>, BadField> {
    match given {
        None | Some(Given::Nothing) => Ok(None),
        Some(Given::One(text)) if text.trim().is_empty() => Ok(None),
        Some(Given::One(text)) => Ok(Some(text.trim().to_owned())),
        Some(Given::Many(_)) => Err(BadField::new(field, "is a list; give one value")),
    }
}

/// An id: digits and nothing else, since `parse` alone takes a plus sign.
pub(super) fn id(field: &str, text: &str) -> Result<u64, BadField> {
    let text = text.trim();
    match text.parse() {
        Ok(id) if is_digits(text) => Ok(id),
        _ => Err(BadField::new(
            field,
            format!(
                "`{}` is not a number; give digits, 0 to {}",
                quote(text),
                u64::MAX
            ),
        )),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a user sent, fit to be shown: without control characters, and not long.
pub(super) fn quote(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(HTTP_QUOTE_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(HTTP_QUOTE_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
