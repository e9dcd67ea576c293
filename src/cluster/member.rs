//! This server as a member of its cluster: what stands in etcd, and the way to the other nodes, as
//! [`crate::operations`] asks for both. It adds nothing to [`Etcd`] and [`Peers`] but their
//! being one, and the answer to the loop's question where a room is.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::etcd::Etcd;
use super::node::{Address, NodeRecord};
use super::peers::Peers;
use super::{Claim, Claimed, Cluster, EtcdStats, Holder, NoEtcd, PeerError, RequestKey, Seen};
use crate::admin::order::Order;
use crate::engine::id::RoomId;
use crate::io::control;
use crate::operations::{Created, Located};

/// See the head of the file.
pub struct Member {
    etcd: Etcd,
    peers: Peers,
}

impl Member {
    /// The two as one.
    pub fn new(etcd: Etcd, peers: Peers) -> Member {
        Member { etcd, peers }
    }

    /// Takes the loop's questions where rooms are, and has each answered once etcd has. How many
    /// there may be is the engine's business.
    pub fn asker(
        self: &Arc<Member>,
        handle: &Handle,
        control: &control::Handle,
    ) -> Box<dyn FnMut(RoomId) + Send> {
        let (member, handle, control) = (Arc::clone(self), handle.clone(), control.clone());
        Box::new(move |room| {
            let (member, control) = (Arc::clone(&member), control.clone());
            handle.spawn(async move {
                let address = member.locate(room).await;
                // A loop that does not take it answers by itself, in time.
                let _ = control.located(room, address.map(String::from));
            });
        })
    }

    /// Where the players of a room connect; `None` if no other node has it, or nobody knows.
    async fn locate(&self, room: RoomId) -> Option<Address> {
        let holder = self.etcd.find_holder(room).await.ok()??;
        let node = self.etcd.node(&holder.node)?;
        (node.instance == holder.instance).then_some(node.kcp)
    }

    /// Says goodbye: from now on nobody finds this node. With `rooms_go_on` its rooms stay claimed until
    /// the ttl is over: they go on at its next start.
    pub fn leave(&self, rooms_go_on: bool) {
        if rooms_go_on {
            self.etcd.pause();
        } else {
            self.etcd.leave();
        }
    }
}

impl Cluster for Member {
    fn own(&self) -> NodeRecord {
        self.etcd.own()
    }

    fn others(&self) -> Vec<Seen> {
        self.etcd.others()
    }

    fn etcd(&self) -> EtcdStats {
        self.etcd.stats()
    }

    fn warnings(&self) -> Vec<String> {
        self.etcd.warnings()
    }

    fn claim(&self, room: RoomId, request: Option<&RequestKey>) -> Claimed {
        self.etcd.claim(room, request)
    }

    fn release(&self, claim: Claim) {
        self.etcd.release(claim);
    }

    fn holder(&self, room: RoomId) -> Result<Option<Holder>, NoEtcd> {
        self.etcd.holder(room)
    }

    fn create_at(&self, node: &NodeRecord, order: &Order) -> Result<Created, PeerError> {
        self.peers.create_at(node, order)
    }

    fn room_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError> {
        self.peers.room_at(node, room)
    }

    fn close_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError> {
        self.peers.close_at(node, room)
    }
}
