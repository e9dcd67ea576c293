//! The other nodes, as their keys say. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::cluster::Seen;
use crate::cluster::node::{NodeId, NodeRecord};
use crate::limits::NODES_MAX;

/// The table of them.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    seen: BTreeMap<NodeId, (NodeRecord, Instant)>,
}

impl Nodes {
    /// What a node's key holds now.
    ///
    /// # Errors
    /// Why it is skipped. What the node said before stays: it is rewritten in a few seconds, or
    /// goes.
    pub(super) fn put(&mut self, now: Instant, id: NodeId, value: &[u8]) -> Result<(), String> {
        let record = NodeRecord::parse(&id, value).map_err(|bad| bad.to_string())?;
        if self.seen.len() >= NODES_MAX && !self.seen.contains_key(&id) {
            return Err(format!("there are {NODES_MAX} nodes already"));
        }
        self.seen.insert(id, (record, now));
        Ok(())
    }

    /// A node's key is gone.
    pub(super) fn gone(&mut self, id: &NodeId) {
        self.seen.remove(id);
    }

    /// They have all been read anew: those that `are_there` says nothing of are gone.
    pub(super) fn keep(&mut self, are_there: impl Fn(&NodeId) -> bool) {
        self.seen.retain(|id, _| are_there(id));
    }

    /// All but this one, in the order of their ids.
    pub(super) fn others(&self, own: &NodeId) -> Vec<Seen> {
        let others = self.seen.iter().filter(|(id, _)| *id != own);
        others
            .map(|(_, (record, at))| Seen {
                record: record.clone(),
                age_ms: u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX),
            })
            .collect()
    }

    /// One of them.
    pub(super) fn get(&self, id: &NodeId) -> Option<NodeRecord> {
        self.seen.get(id).map(|(record, _)| record.clone())
    }

    /// How many, ourselves among them.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }
}
