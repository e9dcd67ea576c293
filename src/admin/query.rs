//! Query strings, taken apart: `room=1&member=1,2` becomes an [`Order`], `from=0&limit=10`
//! a [`Part`], `room=1&limit=10` the recordings that are [`Wanted`].
//!
//! Pure, and made for hostile input: whatever comes gives a value or a [`BadField`] that
//! names what is wrong. What the values mean is [`super::order`]'s business.

use super::order::{self, BadField, Bounds, Given, Order, quote};
use crate::engine::id::{PlayerId, RoomId};
use crate::io::recordings::Wanted;
use crate::limits::{
    HTTP_RECORDINGS_DEFAULT, HTTP_RECORDINGS_MAX, HTTP_ROOMS_DEFAULT, HTTP_ROOMS_MAX,
};
use crate::operations::Scope;

/// A part of the list of rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins: 0, or what the part before said.
    pub from: usize,
    /// How many rooms at the most, 1..=[`HTTP_ROOMS_MAX`].
    pub limit: usize,
}

/// Reads the order of a room from the query of `/create`.
///
/// Fields left empty count as left out, since a form without a script sends them so.
///
/// # Errors
/// The first field that cannot be.
pub fn parse(query: &str, bounds: Bounds) -> Result<Order, BadField> {
    let mut fields = Vec::new();
    for pair in pairs(query) {
        let (name, value) = pair?;
        let given = if name == "member" {
            list(&value)
        } else {
            Given::One(value)
        };
        fields.push((name, given));
    }
    order::read("member", fields, bounds)
}

/// Reads which part of the list of rooms is asked for.
///
/// # Errors
/// The first field that cannot be.
pub fn part(query: &str) -> Result<Part, BadField> {
    let [from, limit] = numbers(query, ["from", "limit"])?;
    // Beyond the address space there are no rooms: the last position says the same.
    let from = usize::try_from(from.unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = limit_of(limit, HTTP_ROOMS_DEFAULT, HTTP_ROOMS_MAX)?;
    Ok(Part { from, limit })
}

/// Reads whether a room is asked for of this server alone (`here=1`) or wherever it is.
///
/// # Errors
/// The first field that cannot be.
pub fn scope(query: &str) -> Result<Scope, BadField> {
    let [here] = numbers(query, ["here"])?;
    match here {
        None | Some(0) => Ok(Scope::Anywhere),
        Some(1) => Ok(Scope::Here),
        Some(other) => {
            let reason = format!("`{other}` cannot be; give 1 for this server alone, or 0");
            Err(BadField::new("here", reason))
        }
    }
}

/// Reads which recordings are asked for.
///
/// # Errors
/// The first field that cannot be.
pub fn recordings(query: &str) -> Result<Wanted, BadField> {
    let names = ["room", "player", "from", "limit"];
    let [room, player, from, limit] = numbers(query, names)?;
    Ok(Wanted {
        room: room.map(RoomId),
        player: player.map(PlayerId),
        from,
        limit: limit_of(limit, HTTP_RECORDINGS_DEFAULT, HTTP_RECORDINGS_MAX)?,
    })
}

/// The numbers of a query that has no other fields than these.
fn numbers<const N: usize>(query: &str, known: [&str; N]) -> Result<[Option<u64>; N], BadField> {
    let mut values = [None; N];
    for pair in pairs(query) {
        let (name, value) = pair?;
        let Some(index) = known.iter().position(|known| *known == name) else {
            let known = known.join(", ");
            let reason = format!("is not known here; known are {known}");
            return Err(BadField::new(&name, reason));
        };
        let number = order::id(&name, &value)?;
        if values[index].replace(number).is_some() {
            return Err(BadField::new(&name, "is given twice; give it once"));
        }
    }
    Ok(values)
}

fn limit_of(given: Option<u64>, default: usize, max: usize) -> Result<usize, BadField> {
    match given.map(usize::try_from) {
        None => Ok(default),
        Some(Ok(limit)) if (1..=max).contains(&limit) => Ok(limit),
        Some(_) => Err(BadField::new("limit", format!("must be 1 to {max}"))),
    }
}

/// The players of `1,2`. People type spaces after commas, and the full-width comma on a
/// Chinese keyboard; one comma too many is more likely a name forgotten, and refused.
fn list(value: &str) -> Given {
    if value.trim().is_empty() {
        return Given::Nothing;
    }
    let players = value.split([',', '，']);
    Given::Many(players.map(|player| player.trim().to_owned()).collect())
}

/// The decoded names and values of a query. Empty pairs (`a=1&&b=2`) mean nothing.
fn pairs(query: &str) -> impl Iterator<Item = Result<(String, String), BadField>> + '_ {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name, name)?, decode(name, value)?))
        })
}

/// Undoes percent-encoding and `+` for a space.
fn decode(field: &str, text: &str) -> Result<String, BadField> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (rest.next().and_then(hex), rest.next().and_then(hex)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => {
                    return Err(BadField::new(
                        field,
                        format!("`{}` is not percent-encoded; write %25 for %", quote(text)),
                    ));
                }
            },
            _ => byte,
        });
    }
    String::from_utf8(bytes)
        .map_err(|_| BadField::new(field, format!("`{}` is not UTF-8", quote(text))))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::order::Place;
    use crate::cluster::RequestKey;
    use crate::cluster::node::NodeId;

    const BOUNDS: Bounds = Bounds {
        max_players_per_room: 4,
    };

    fn refused(query: &str) -> String {
        parse(query, BOUNDS).unwrap_err().to_string()
    }

    #[test]
    fn the_original_query_is_an_order() {
        let order = parse("room=1&member=1,2", BOUNDS).unwrap();
        assert_eq!(order.room, RoomId(1));
        assert_eq!(order.members, [PlayerId(1), PlayerId(2)]);
        assert_eq!((order.seed, order.hz, order.max_frames), (None, None, None));
    }

    #[test]
    fn every_option_is_read() {
        let query = "input_bytes=0&max_frames=9&broadcast_every=2&hz=60&seed=-5&member=7&room=3\
                     &watchers_max=100&watch_delay=90";
        let order = parse(query, BOUNDS).unwrap();
        assert_eq!(order.seed, Some(-5));
        assert_eq!(order.hz, Some(60));
        assert_eq!(order.broadcast_every, Some(2));
        assert_eq!(order.max_frames, Some(9));
        assert_eq!(order.input_bytes_max, Some(0));
        assert_eq!(
            (order.watchers_max, order.watch_delay),
            (Some(100), Some(90))
        );
    }

    #[test]
    fn a_place_is_here_the_best_or_a_node() {
        for (query, place) in [
            ("", Place::Here),
            ("&place=", Place::Here),
            ("&place=here", Place::Here),
            ("&place=auto", Place::Auto),
            (
                "&place=node-1.b",
                Place::Node(NodeId::new("node-1.b").unwrap()),
            ),
        ] {
            let order = parse(&format!("room=1&member=1{query}"), BOUNDS).unwrap();
            assert_eq!(order.place, place, "{query}");
            assert_eq!(order.request_key, None);
        }
        let order = parse("room=1&member=1&request_key=a-%2B", BOUNDS).unwrap();
        assert_eq!(order.request_key, RequestKey::new("a-+"));
    }

    #[test]
    fn a_room_is_asked_for_here_or_anywhere() {
        assert_eq!(scope(""), Ok(Scope::Anywhere));
        assert_eq!(scope("here=0"), Ok(Scope::Anywhere));
        assert_eq!(scope("here=1"), Ok(Scope::Here));
        for query in ["here=2", "here", "here=yes", "here=1&here=1", "there=1"] {
            assert!(scope(query).is_err(), "{query}");
        }
    }

    #[test]
    fn what_a_form_without_a_script_sends_is_an_order() {
        let query = "room=+1&member=1%2C+2&seed=&hz=&broadcast_every=&max_frames=";
        let order = parse(query, BOUNDS).unwrap();
        assert_eq!(order.members, [PlayerId(1), PlayerId(2)]);
        assert_eq!(order.hz, None);
        assert_eq!(
            parse("room=1&member=1%EF%BC%8C2", BOUNDS)
                .unwrap()
                .members
                .len(),
            2
        );
    }

    #[test]
    fn ids_of_64_bits_pass_unchanged() {
        let order = parse(
            "room=18446744073709551615&member=18446744073709551615",
            BOUNDS,
        )
        .unwrap();
        assert_eq!(order.room, RoomId(u64::MAX));
        assert_eq!(order.members, [PlayerId(u64::MAX)]);
    }

    #[test]
    fn each_refusal_names_its_field() {
        for (query, begins) in [
            ("", "room: is missing"),
            ("room=&member=1", "room: is missing"),
            ("room=one&member=1", "room: `one` is not a number"),
            ("room=-1&member=1", "room: `-1` is not a number"),
            ("room=%2B1&member=1", "room: `+1` is not a number"),
            (
                "room=18446744073709551616&member=1",
                "room: `18446744073709551616` is not",
            ),
            ("room=1", "member: names nobody"),
            ("room=1&member=", "member: names nobody"),
            ("room=1&member=1,", "member: `` is not a number"),
            ("room=1&member=1,1", "member: names 1 twice"),
            ("room=1&member=1,01", "member: names 1 twice"),
            (
                "room=1&member=1,2,3,4,5",
                "member: names 5 players, a room takes at most 4",
            ),
            ("room=1&room=1&member=1", "room: is given twice"),
            ("room=1&member=1&member=2", "member: is given twice"),
            ("room=1&member=1&secret=x", "secret: is not known here"),
            (
                "room=1&member=1&hz=0",
                "hz: `0` cannot be; give a whole number from 1",
            ),
            (
                "room=1&member=1&input_bytes=961",
                "input_bytes: `961` cannot be; give a whole number from 0 to 960",
            ),
            ("room=1&member=1&hz=30.0", "hz: `30.0` cannot be"),
            (
                "room=1&member=1&seed=2147483648",
                "seed: `2147483648` is not a seed",
            ),
            ("room=1&member=1&seed=%2B5", "seed: `+5` is not a seed"),
            (
                "room=1&member=1&place=a%2Fb",
                "place: `a/b` is not a place; give here, auto",
            ),
            ("room=1&member=1&place=a&place=b", "place: is given twice"),
            (
                "room=1&member=1&request_key=a+b",
                "request_key: `a b` cannot be a key; give 1 to 64",
            ),
            ("room=%&member=1", "room: `%` is not percent-encoded"),
            ("room=%4&member=1", "room: `%4` is not percent-encoded"),
            ("room=%zz&member=1", "room: `%zz` is not percent-encoded"),
            ("room=%ff&member=1", "room: `%ff` is not UTF-8"),
        ] {
            let text = refused(query);
            assert!(text.starts_with(begins), "{query}: {text}");
        }
    }

    #[test]
    fn a_refusal_is_short_and_without_control_characters() {
        let text = refused(&format!("room=%0d%0a{}&member=1", "x".repeat(10_000)));
        assert!(text.len() < 300, "{text}");
        assert!(!text.contains(char::is_control), "{text}");
    }

    #[test]
    fn a_part_has_defaults_and_bounds() {
        let all = part("").unwrap();
        assert_eq!((all.from, all.limit), (0, HTTP_ROOMS_DEFAULT));
        let some = part("from=5&limit=10").unwrap();
        assert_eq!((some.from, some.limit), (5, 10));
        for query in [
            "limit=0",
            "limit=10001",
            "limit=x",
            "from=-1",
            "from=1&from=2",
            "to=1",
        ] {
            assert!(part(query).is_err(), "{query}");
        }
    }

    #[test]
    fn recordings_are_wanted_by_room_and_player() {
        let all = recordings("").unwrap();
        assert_eq!((all.room, all.player, all.from), (None, None, None));
        assert_eq!(all.limit, HTTP_RECORDINGS_DEFAULT);
        let some = recordings("room=7&player=18446744073709551615&from=3&limit=1").unwrap();
        assert_eq!(some.room, Some(RoomId(7)));
        assert_eq!(some.player, Some(PlayerId(u64::MAX)));
        assert_eq!((some.from, some.limit), (Some(3), 1));
        for query in [
            "limit=0",
            "limit=10001",
            "room=x",
            "room=1&room=1",
            "match=1",
        ] {
            assert!(recordings(query).is_err(), "{query}");
        }
    }
}
