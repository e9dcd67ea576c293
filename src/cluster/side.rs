//! All that is asynchronous of a server, as `main` starts and stops it: the thread, the part in
//! etcd, and gRPC. Nothing of it is there unless a setting asks for it.

use std::sync::Arc;

use super::Cluster;
use super::etcd::{Etcd, Own};
use super::events::EventLog;
use super::grpc::{self, Grpc};
use super::instance;
use super::member::Member;
use super::options::EtcdOptions;
use super::peers::Peers;
use super::runtime::Runtime;
use crate::admin::guard::Guard;
use crate::config::Settings;
use crate::io::control;
use crate::io::event_loop::EventLoop;
use crate::operations::Operations;

/// See the head of the file. What is dropped without [`Side::stop`] says goodbye, too.
#[derive(Default)]
pub struct Side {
    events: Option<EventLog>,
    grpc: Option<Grpc>,
    member: Option<Arc<Member>>,
    /// The rooms go on at the next start.
    rooms_go_on: bool,
    // Behind all that runs on it: it goes last.
    runtime: Option<Runtime>,
}

impl Side {
    /// Starts the thread, registers in etcd, and follows the loop, which does not run yet. Takes a few
    /// seconds if etcd does not answer, and longer if another server has our name.
    ///
    /// # Errors
    /// A line for the operator.
    pub fn start(
        settings: &Settings,
        control: &control::Handle,
        event_loop: &mut EventLoop,
    ) -> Result<Side, String> {
        if settings.grpc.is_none() && settings.etcd.is_none() {
            return Ok(Side::default());
        }
        let cannot = |error| format!("cannot start a thread for the cluster: {error}");
        let runtime = Runtime::start().map_err(cannot)?;
        let mut side = Side::default();
        side.rooms_go_on = settings.journal.is_some();
        if settings.grpc.is_some() {
            let log = EventLog::start(&runtime).map_err(|error| format!("randomness: {error}"))?;
            event_loop.add_feed(log.feed());
            side.events = Some(log);
        }
        side.runtime = Some(runtime);
        if let Some(options) = &settings.etcd {
            side.join(settings, options, control, event_loop)?;
        }
        Ok(side)
    }

    fn join(
        &mut self,
        settings: &Settings,
        options: &EtcdOptions,
        control: &control::Handle,
        event_loop: &mut EventLoop,
    ) -> Result<(), String> {
        let runtime = self.runtime.as_ref().expect("it was just started");
        let journal = settings.journal.as_ref();
        let instance = match journal {
            Some(journal) => instance::of_dir(&journal.dir),
            None => instance::draw(),
        };
        let instance = instance.map_err(|error| error.to_string())?;
        let own = Own {
            instance,
            is_kept: journal.is_some(),
            load: event_loop.load(),
        };
        let events = self.events.clone();
        let (etcd, feed) = Etcd::start(
            runtime.handle(),
            options.clone(),
            own,
            control.clone(),
            Box::new(move |room, match_id, node| {
                if let Some(events) = &events {
                    events.contested(room, match_id, node.clone());
                }
            }),
        )
        .map_err(|error| error.to_string())?;
        let token = match &settings.guard {
            Guard::Token(token) => Some(token),
            Guard::Loopback | Guard::Unprotected => None,
        };
        let peers = Peers::new(runtime.handle().clone(), token);
        let member = Arc::new(Member::new(etcd, peers));
        event_loop.add_feed(feed);
        event_loop.ask_elsewhere(member.asker(runtime.handle(), control));
        log::info!(
            "node {} of the cluster {} at {}: players connect to {}",
            options.node,
            options.prefix,
            options.endpoints.join(","),
            options.kcp
        );
        self.member = Some(member);
        Ok(())
    }

    /// The cluster, for the operations; `None` alone.
    pub fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        let member = self.member.clone();
        member.map(|member| member as Arc<dyn Cluster>)
    }

    /// Listens for gRPC, if that is wanted.
    ///
    /// # Errors
    /// A line for the operator.
    pub fn listen(
        &mut self,
        settings: &Settings,
        operations: &Arc<Operations>,
    ) -> Result<(), String> {
        let (Some(listen), Some(runtime)) = (settings.grpc, &self.runtime) else {
            return Ok(());
        };
        let events = self.events.clone().expect("there is one where gRPC is");
        let (guard, operations) = (settings.guard.clone(), Arc::clone(operations));
        let grpc = grpc::start(runtime, listen, guard, operations, events);
        let grpc = grpc.map_err(|error| error.to_string())?;
        log::info!("gRPC on {}", grpc.local_addr());
        self.grpc = Some(grpc);
        Ok(())
    }

    /// Says goodbye and ends: what is under way gets its answer first.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // First nobody is sent here any more.
        if let Some(member) = self.member.take() {
            member.leave(self.rooms_go_on);
        }
        if let Some(grpc) = self.grpc.take() {
            grpc.stop();
        }
    }
}
