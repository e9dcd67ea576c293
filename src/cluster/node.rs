//! A node of a cluster as it tells of itself: the value of its key in etcd, and what the list of
//! nodes shows. Pure: what others wrote is judged here, and whatever cannot be is no record.
//!
//! The value is JSON, at most [`NODE_RECORD_BYTES_MAX`] bytes. Fields that a reader does not know
//! it skips, so that newer nodes may add some.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{
    NODE_ADDRESS_CHARS_MAX, NODE_ID_CHARS_MAX, NODE_RECORD_BYTES_MAX, NODE_VERSION_CHARS_MAX,
};

/// The name of a node: 1 to [`NODE_ID_CHARS_MAX`] letters, digits, dots, dashes and underscores.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The id of this text, if it can be one: `here` and `auto` mean something else where the id of
    /// a node may stand.
    pub fn new(text: &str) -> Option<NodeId> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let right = (1..=NODE_ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(fits);
        let is_free = !matches!(text, "here" | "auto");
        (right && is_free).then(|| NodeId(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<NodeId, Self::Error> {
        NodeId::new(&text).ok_or("not the id of a node")
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which one of a name: drawn at the first start with a data directory and kept there, or else
/// drawn at each start. 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Instance(pub u64);

impl TryFrom<String> for Instance {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Instance, Self::Error> {
        let is_digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(&text, 16).ok().filter(|_| is_digits);
        number.map(Instance).ok_or("not an instance")
    }
}

impl From<Instance> for String {
    fn from(instance: Instance) -> String {
        instance.to_string()
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An address that others connect to: `HOST:PORT`, at most [`NODE_ADDRESS_CHARS_MAX`] characters, the
/// host a name, an IPv4 address, or an IPv6 address in brackets; the port from 1 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

impl Address {
    /// The address of this text, if it can be one.
    pub fn new(text: &str) -> Option<Address> {
        let (host, port) = text.rsplit_once(':')?;
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0);
        let inner = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let is_host = match inner {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                !host.is_empty() && host.bytes().all(fits)
            }
        };
        let right = text.len() <= NODE_ADDRESS_CHARS_MAX && is_port && is_host;
        right.then(|| Address(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, an IPv6 address with its brackets.
    pub fn host(&self) -> &str {
        let (host, _) = self.0.rsplit_once(':').expect("there is a port");
        host
    }
}

impl TryFrom<String> for Address {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Address, Self::Error> {
        Address::new(&text).ok_or("not an address")
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a node takes new rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It does.
    Ready,
    /// It does not, and ends when the last room does.
    Draining,
}

impl NodeState {
    /// As in the record.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Ready => "ready",
            NodeState::Draining => "draining",
        }
    }
}

/// A node as it tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub id: NodeId,
    /// Which one of that name.
    pub instance: Instance,
    /// Whether it takes new rooms.
    pub state: NodeState,
    /// The version of its program: 1 to [`NODE_VERSION_CHARS_MAX`] printable characters of ASCII
    /// without spaces.
    pub version: String,
    /// Where players connect.
    pub kcp: Address,
    /// Its HTTP side, if others may reach it.
    pub http: Option<Address>,
    /// Its gRPC side, if it has one.
    pub grpc: Option<Address>,
    /// Rooms whose match is not over.
    pub rooms: u32,
    /// How many it takes.
    pub rooms_max: u32,
    /// Seats that are held.
    pub players: u32,
    /// Sessions that it takes.
    pub sessions_max: u32,
    /// How busy its loop is, in thousandths of a core.
    pub load: u32,
    /// Rooms that it has created since its start: says which of them the other numbers know of.
    pub serial: u64,
}

/// Why a value is no record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadRecord {
    /// Longer than any.
    #[error("{0} bytes, over {NODE_RECORD_BYTES_MAX}")]
    TooLong(usize),
    /// Not the JSON of one.
    #[error("{0}")]
    Json(String),
    /// Of another node than the key says.
    #[error("it is of node {0}")]
    OtherId(NodeId),
    /// Not the version of a program.
    #[error("its version is none")]
    Version,
}

impl NodeRecord {
    /// The record that a key of node `id` holds.
    ///
    /// # Errors
    /// [`BadRecord`].
    pub fn parse(id: &NodeId, value: &[u8]) -> Result<NodeRecord, BadRecord> {
        if value.len() > NODE_RECORD_BYTES_MAX {
            return Err(BadRecord::TooLong(value.len()));
        }
        let record: NodeRecord =
            serde_json::from_slice(value).map_err(|error| BadRecord::Json(error.to_string()))?;
        if record.id != *id {
            return Err(BadRecord::OtherId(record.id));
        }
        let fits = (1..=NODE_VERSION_CHARS_MAX).contains(&record.version.len());
        if !fits || !record.version.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadRecord::Version);
        }
        Ok(record)
    }

    /// The value of its key.
    pub fn to_value(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers can be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NodeRecord {
        NodeRecord {
            id: NodeId::new("a").unwrap(),
            instance: Instance(0x1234),
            state: NodeState::Ready,
            version: "0.1.0".into(),
            kcp: Address::new("192.0.2.1:10086").unwrap(),
            http: Address::new("game.example.org:10002"),
            grpc: Address::new("[2001:db8::1]:10007"),
            rooms: 3,
            rooms_max: 100,
            players: 7,
            sessions_max: 200,
            load: 12,
            serial: 5,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let record = record();
        let value = record.to_value();
        assert_eq!(NodeRecord::parse(&record.id, &value), Ok(record));
    }

    #[test]
    fn what_cannot_be_a_record_is_none() {
        let good = String::from_utf8(record().to_value()).unwrap();
        let id = NodeId::new("a").unwrap();
        for (from, to) in [
            ("\"a\"", "\"a/b\""),
            ("\"a\"", "\"b\""),
            ("\"a\"", "\"auto\""),
            ("192.0.2.1:10086", "192.0.2.1"),
            ("192.0.2.1:10086", "192.0.2.1:0"),
            ("192.0.2.1:10086", "a b:1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("0.1.0", ""),
            ("0.1.0", "\\u001b[2J"),
            ("0.1.0", &"1".repeat(NODE_VERSION_CHARS_MAX + 1)),
            ("ready", "asleep"),
            ("0000000000001234", "1234"),
            ("\"rooms\":3", "\"rooms\":-3"),
            ("\"rooms\":3", "\"rooms\":1e300"),
            ("{", ""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            assert!(NodeRecord::parse(&id, bad.as_bytes()).is_err(), "{bad}");
        }
        let long = good.replace("0.1.0", &"x".repeat(NODE_RECORD_BYTES_MAX));
        let error = NodeRecord::parse(&id, long.as_bytes()).unwrap_err();
        assert!(matches!(error, BadRecord::TooLong(_)), "{error}");
    }

    #[test]
    fn fields_of_newer_nodes_are_skipped() {
        let good = String::from_utf8(record().to_value()).unwrap();
        let newer = good.replacen('{', "{\"colour\":[1,{}],", 1);
        assert_eq!(
            NodeRecord::parse(&record().id, newer.as_bytes()),
            Ok(record())
        );
    }
}
