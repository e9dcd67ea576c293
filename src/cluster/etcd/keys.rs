//! What is written where in etcd, and how what others wrote is judged. Pure.
//!
//! ```text
//! {prefix}/nodes/{id}     what a node tells of itself        NodeRecord, JSON
//! {prefix}/rooms/{room}   who has a room's number            {"node","instance","nonce","request"?}
//! ```
//!
//! Both under the lease of their node. Fields that a reader does not know it skips.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::cluster::node::{Instance, NodeId, NodeRecord};
use crate::cluster::{Holder, RequestKey};
use crate::engine::id::RoomId;
use crate::limits::{BROKEN_TOLD_MAX, CLAIM_BYTES_MAX, NODE_RECORD_BYTES_MAX};

/// Who we are, and what our keys are called.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) node: NodeId,
    pub(super) instance: Instance,
    prefix: String,
}

/// The value of a room's key.
#[derive(Serialize, Deserialize)]
struct Stored {
    node: NodeId,
    instance: Instance,
    /// Tells it from earlier and later claims of the same number: 16 hexadecimal digits.
    nonce: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

impl Keys {
    pub(super) fn new(prefix: &str, node: NodeId, instance: Instance) -> Keys {
        Keys {
            node,
            instance,
            prefix: prefix.to_owned(),
        }
    }

    /// What the keys of all nodes begin with.
    pub(super) fn nodes(&self) -> String {
        format!("{}/nodes/", self.prefix)
    }

    /// Our own.
    pub(super) fn own(&self) -> String {
        format!("{}{}", self.nodes(), self.node)
    }

    pub(super) fn room(&self, room: RoomId) -> String {
        format!("{}/rooms/{room}", self.prefix)
    }

    /// The node whose key this is, if it can be one's.
    pub(super) fn node_of(&self, key: &[u8]) -> Option<NodeId> {
        let id = key.strip_prefix(self.nodes().as_bytes())?;
        NodeId::new(std::str::from_utf8(id).ok()?)
    }

    /// The value of a room's key while we hold it.
    pub(super) fn claim(&self, nonce: u64, request: Option<&RequestKey>) -> Vec<u8> {
        let stored = Stored {
            node: self.node.clone(),
            instance: self.instance,
            nonce: format!("{nonce:016x}"),
            request: request.map(|key| key.as_str().to_owned()),
        };
        serde_json::to_vec(&stored).expect("strings can be written")
    }

    /// Whether it is us. The instance alone does not say so: a data directory can be copied.
    pub(super) fn is_ours(&self, holder: &Holder) -> bool {
        holder.node == self.node && holder.instance == self.instance
    }
}

/// Who holds a room, as its key's value says.
///
/// # Errors
/// What is wrong with it: then it names nobody.
pub(super) fn holder(value: &[u8]) -> Result<Holder, String> {
    if value.len() > CLAIM_BYTES_MAX {
        return Err(format!("{} bytes, over {CLAIM_BYTES_MAX}", value.len()));
    }
    let stored: Stored = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let request = match stored.request {
        None => None,
        Some(text) => Some(RequestKey::new(&text).ok_or("not the key of a request")?),
    };
    Ok(Holder {
        node: stored.node,
        instance: stored.instance,
        request,
    })
}

/// Who has the key of our node, if not us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) instance: Instance,
    /// What it tells of itself, if we understand it.
    pub(super) record: Option<NodeRecord>,
}

impl Other {
    /// In words.
    pub(super) fn describe(&self) -> String {
        let instance = self.instance;
        let Some(record) = &self.record else {
            return format!("another server (instance {instance})");
        };
        let http = match &record.http {
            Some(http) => format!(", HTTP at {http}"),
            None => String::new(),
        };
        format!(
            "another server (KCP at {}{http}, instance {instance})",
            record.kcp
        )
    }
}

/// Who wrote a value at the key of a node; `None` if it says nothing that names anybody. A version
/// that writes more than we understand is somebody, too.
pub(super) fn writer(id: &NodeId, value: &[u8]) -> Option<Other> {
    #[derive(Deserialize)]
    struct Who {
        instance: Instance,
    }
    if value.len() > NODE_RECORD_BYTES_MAX {
        return None;
    }
    let who: Who = serde_json::from_slice(value).ok()?;
    Some(Other {
        instance: who.instance,
        record: NodeRecord::parse(id, value).ok(),
    })
}

/// Broken values, and which of them have been told of.
#[derive(Debug, Default)]
pub(super) struct Broken {
    /// How many, each as often as it was written.
    pub(super) count: u64,
    told: HashSet<(Vec<u8>, i64)>,
}

impl Broken {
    /// Counts a value and tells of it, once for each time it was written.
    pub(super) fn note(&mut self, key: &[u8], revision: i64, why: &str) {
        let head = &key[..key.len().min(200)];
        if self.told.len() >= BROKEN_TOLD_MAX {
            return self.count += 1;
        }
        if self.told.insert((head.to_vec(), revision)) {
            self.count += 1;
            let why: String = why.chars().take(200).collect();
            log::warn!(
                "etcd: skipped the value of \"{}\": {}",
                head.escape_ascii(),
                why.escape_debug()
            );
        }
    }

    /// A while has passed: what comes now is told of again.
    pub(super) fn forget(&mut self) {
        if self.told.len() >= BROKEN_TOLD_MAX {
            self.told.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("/x", NodeId::new("a").unwrap(), Instance(7))
    }

    #[test]
    fn a_claim_comes_back_as_it_was_written() {
        let request = RequestKey::new("order-1");
        let holder = holder(&keys().claim(9, request.as_ref())).unwrap();
        assert!(keys().is_ours(&holder));
        assert_eq!(holder.request, request);
        assert_eq!(keys().room(RoomId(12)), "/x/rooms/12");
    }

    #[test]
    fn what_cannot_be_a_claim_names_nobody() {
        let long = format!("\"{}\"", "x".repeat(CLAIM_BYTES_MAX));
        let nested = "[".repeat(CLAIM_BYTES_MAX);
        for bad in [
            "",
            "{}",
            "null",
            "\u{fffd}",
            &long,
            &nested,
            r#"{"node":"a/b","instance":"0000000000000001","nonce":"1"}"#,
            r#"{"node":"a","instance":1,"nonce":"1"}"#,
            r#"{"node":"a","instance":"0000000000000001","nonce":"1","request":"a b"}"#,
        ] {
            assert!(holder(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_keys_of_nodes_name_one() {
        let keys = keys();
        assert_eq!(keys.node_of(b"/x/nodes/b-1"), NodeId::new("b-1"));
        for bad in ["/x/nodes/", "/x/nodes/a/b", "/x/rooms/1", "/y/nodes/a", ""] {
            assert_eq!(keys.node_of(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_at_our_key_is_somebody() {
        let id = NodeId::new("a").unwrap();
        let other = writer(&id, br#"{"instance":"000000000000000f","state":"new"}"#).unwrap();
        assert_eq!((other.instance, other.record), (Instance(15), None));
        assert_eq!(writer(&id, b"junk"), None);
    }
}
