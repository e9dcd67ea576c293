//! From a call to its answer, through [`crate::operations`]. What comes in is read by
//! [`crate::cluster::convert`]; who may ask was decided before.

use std::pin::Pin;
use std::sync::Arc;

use prost::Message;
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

use crate::cluster::convert;
use crate::cluster::events::{EventLog, Position};
use crate::cluster::pb;
use crate::cluster::pb::lockstep_server::Lockstep;
use crate::engine::id::RoomId;
use crate::io::metrics::Load;
use crate::limits::{
    GRPC_CALLS_WAITING_MAX, GRPC_ROOMS_BYTES_MAX, GRPC_ROOMS_DEFAULT, GRPC_ROOMS_MAX,
    OPERATION_THREADS_HERE_MAX, OPERATION_THREADS_MAX,
};
use crate::operations::{Kind, Located, Operations, Refusal, Scope};

/// The metadata of the answer to WatchRooms that says where its events begin.
const POSITION: &str = "lockstep-position";

/// The service.
pub(super) struct Service {
    operations: Arc<Operations>,
    events: EventLog,
    /// For what may wait for other nodes.
    anywhere: Lane,
    /// For what waits for nobody but the loop and etcd.
    here: Lane,
}

impl Service {
    pub(super) fn new(operations: Arc<Operations>, events: EventLog) -> Service {
        Service {
            operations,
            events,
            anywhere: Lane::new(OPERATION_THREADS_MAX),
            here: Lane::new(OPERATION_THREADS_HERE_MAX),
        }
    }

    /// Carries out an operation on a thread where it may block.
    async fn operate<T: Send + 'static>(
        &self,
        is_here: bool,
        operation: impl FnOnce(&Operations) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let operations = Arc::clone(&self.operations);
        let lane = if is_here { &self.here } else { &self.anywhere };
        lane.carry_out(move || operation(&operations)).await?
    }
}

#[tonic::async_trait]
impl Lockstep for Service {
    async fn create_room(
        &self,
        request: Request<pb::CreateRoomRequest>,
    ) -> Result<Response<pb::CreateRoomResponse>, Status> {
        let request = request.into_inner();
        let is_here = matches!(request.place.as_str(), "" | "here");
        let order = convert::read_order(&request, self.operations.bounds)
            .map_err(|bad| Status::invalid_argument(bad.to_string()))?;
        let create = |operations: &Operations| operations.create(order).map_err(status);
        let created = self.operate(is_here, create).await?;
        Ok(Response::new(convert::created(&created)))
    }

    async fn get_room(
        &self,
        request: Request<pb::GetRoomRequest>,
    ) -> Result<Response<pb::Room>, Status> {
        let pb::GetRoomRequest { room, here } = request.into_inner();
        let get =
            move |operations: &Operations| found(room, operations.room(RoomId(room), scope(here)));
        Ok(Response::new(self.operate(here, get).await?))
    }

    async fn list_rooms(
        &self,
        request: Request<pb::ListRoomsRequest>,
    ) -> Result<Response<pb::ListRoomsResponse>, Status> {
        let pb::ListRoomsRequest { from, limit } = request.into_inner();
        let limit = match limit {
            0 => GRPC_ROOMS_DEFAULT,
            1..=GRPC_ROOMS_MAX => limit,
            _ => {
                let reason = format!("limit: `{limit}` cannot be; give 1 to {GRPC_ROOMS_MAX}");
                return Err(Status::invalid_argument(reason));
            }
        };
        // Beyond the address space there are no rooms: the last position says the same.
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let limit = usize::try_from(limit).expect("a small number");
        let list = move |operations: &Operations| list(operations, from, limit);
        Ok(Response::new(self.operate(true, list).await?))
    }

    async fn close_room(
        &self,
        request: Request<pb::CloseRoomRequest>,
    ) -> Result<Response<pb::Room>, Status> {
        let pb::CloseRoomRequest { room, here } = request.into_inner();
        let close =
            move |operations: &Operations| found(room, operations.close(RoomId(room), scope(here)));
        Ok(Response::new(self.operate(here, close).await?))
    }

    type WatchRoomsStream = Pin<Box<dyn Stream<Item = Result<pb::RoomEvent, Status>> + Send>>;

    async fn watch_rooms(
        &self,
        request: Request<pb::WatchRoomsRequest>,
    ) -> Result<Response<Self::WatchRoomsStream>, Status> {
        let position = match request.into_inner().position.as_str() {
            "" => None,
            text => Some(Position::parse(text).ok_or_else(|| {
                Status::invalid_argument(
                    "position: is none of this service; send that of an event, or nothing",
                )
            })?),
        };
        let watcher = self.events.watch(position);
        let watcher = watcher.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let begin = MetadataValue::try_from(watcher.position().to_string());
        let begin = begin.expect("digits, letters and a dash");
        // It ends when the server does, and then whoever watches comes back.
        let end = Status::unavailable("the server stops; go on from the last event's position");
        let events = watcher
            .map(|(position, happening)| Ok(convert::event(position, happening)))
            .chain(tokio_stream::once(Err(end)));
        let mut response = Response::new(Box::pin(events) as Self::WatchRoomsStream);
        response.metadata_mut().insert(POSITION, begin);
        Ok(response)
    }

    async fn drain(&self, _: Request<pb::DrainRequest>) -> Result<Response<pb::Node>, Status> {
        let drain = |operations: &Operations| {
            let load = operations.drain().map_err(status)?;
            Ok(own(operations, &load))
        };
        Ok(Response::new(self.operate(true, drain).await?))
    }

    async fn get_node(
        &self,
        _: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::GetNodeResponse>, Status> {
        let get = |operations: &Operations| {
            let load = operations.load().map_err(status)?;
            let view = operations.cluster();
            let others = view.iter().flat_map(|view| &view.others);
            Ok(pb::GetNodeResponse {
                node: Some(own(operations, &load)),
                others: others
                    .map(|seen| convert::node(&seen.record, seen.age_ms))
                    .collect(),
                warnings: operations.warnings(),
            })
        };
        Ok(Response::new(self.operate(true, get).await?))
    }
}

/// At most `limit` rooms, fewer where they would be more bytes than clients take.
fn list(
    operations: &Operations,
    from: usize,
    mut limit: usize,
) -> Result<pb::ListRoomsResponse, Status> {
    loop {
        let page = operations.rooms(from, limit).map_err(status)?;
        let rooms = convert::rooms(&page);
        if rooms.encoded_len() <= GRPC_ROOMS_BYTES_MAX || limit == 1 {
            return Ok(rooms);
        }
        limit /= 2;
    }
}

/// This server, with what its loop has just said.
fn own(operations: &Operations, load: &Load) -> pb::Node {
    let alone = convert::alone(load);
    match operations.cluster() {
        None => alone,
        Some(view) => pb::Node {
            state: alone.state,
            ..convert::node(&view.node, 0)
        },
    }
}

fn scope(here: bool) -> Scope {
    if here { Scope::Here } else { Scope::Anywhere }
}

fn found(room: u64, found: Result<Option<Located>, Refusal>) -> Result<pb::Room, Status> {
    let found = found.map_err(status)?;
    let found = found.ok_or_else(|| Status::not_found(format!("room: there is no room {room}")))?;
    Ok(convert::room(&found))
}

/// What of gRPC's errors a refusal is. UNAVAILABLE was not done, and may be asked again, here or
/// elsewhere; DEADLINE_EXCEEDED may have been done.
fn status(refusal: Refusal) -> Status {
    let code = match refusal.kind() {
        Kind::Invalid | Kind::KeyUsed => Code::InvalidArgument,
        Kind::Exists => Code::AlreadyExists,
        Kind::Full => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Unsure => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
    };
    let reason = refusal.reason();
    match refusal.field() {
        Some(field) => Status::new(code, format!("{field}: {reason}")),
        None => Status::new(code, reason),
    }
}

/// So many threads, and the calls that wait for one.
struct Lane {
    calls: Arc<Semaphore>,
    threads: Arc<Semaphore>,
}

impl Lane {
    fn new(threads: usize) -> Lane {
        Lane {
            calls: Arc::new(Semaphore::new(threads + GRPC_CALLS_WAITING_MAX)),
            threads: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Carries out `work` on one of the threads. A caller that goes before it has begun takes it
    /// along.
    async fn carry_out<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let call = Arc::clone(&self.calls).try_acquire_owned().map_err(|_| {
            Status::unavailable("the server is overloaded: too many calls wait already")
        })?;
        let thread = Arc::clone(&self.threads).acquire_owned().await;
        let thread = thread.expect("it is never closed");
        let working = tokio::task::spawn_blocking(move || {
            let _held = (call, thread);
            work()
        });
        working.await.map_err(|_| {
            Status::internal("the call failed because of a bug in this server; please report it")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::runtime::Runtime;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::time::Duration;

    const AT_MOST: Duration = Duration::from_secs(60);

    /// Occupies a thread of a lane until what is returned is dropped.
    fn occupy(runtime: &Runtime, lane: &Arc<Lane>) -> SyncSender<()> {
        let (release, released) = sync_channel::<()>(0);
        let (begun, has_begun) = sync_channel(0);
        let lane = Arc::clone(lane);
        runtime.handle().spawn(async move {
            let work = move || {
                begun.send(()).unwrap();
                let _ = released.recv();
            };
            lane.carry_out(work).await.unwrap();
        });
        has_begun.recv().unwrap();
        release
    }

    #[test]
    fn so_many_calls_wait_and_one_more_is_told_to_ask_again() {
        let runtime = Runtime::start().unwrap();
        let lane = Arc::new(Lane::new(1));
        let release = occupy(&runtime, &lane);
        let done = Arc::new(AtomicUsize::new(0));
        let (own, counted) = (Arc::clone(&lane), Arc::clone(&done));
        let waiting = runtime.ask(AT_MOST, async move {
            let mut waiting = tokio::task::JoinSet::new();
            for _ in 0..GRPC_CALLS_WAITING_MAX {
                let (lane, done) = (Arc::clone(&own), Arc::clone(&counted));
                waiting.spawn(async move {
                    let work = move || done.fetch_add(1, Ordering::Relaxed);
                    lane.carry_out(work).await.map(drop)
                });
            }
            while own.calls.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let refused = own.carry_out(|| ()).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable);
            waiting
        });
        let mut waiting = waiting.unwrap();
        drop(release);
        let all_well = runtime.ask(AT_MOST, async move {
            while let Some(waited) = waiting.join_next().await {
                waited.unwrap().unwrap();
            }
        });
        assert_eq!(all_well, Ok(()));
        assert_eq!(done.load(Ordering::Relaxed), GRPC_CALLS_WAITING_MAX);
    }

    #[test]
    fn a_caller_that_goes_before_its_turn_takes_its_work_along() {
        let runtime = Runtime::start().unwrap();
        let lane = Arc::new(Lane::new(1));
        let release = occupy(&runtime, &lane);
        let own = Arc::clone(&lane);
        let waited = runtime.ask(AT_MOST, async move {
            let work = || panic!("nobody waits for it");
            let patience = Duration::from_millis(1);
            tokio::time::timeout(patience, own.carry_out(work))
                .await
                .is_err()
        });
        assert_eq!(waited, Ok(true));
        drop(release);
        let answer = runtime.ask(AT_MOST, async move { lane.carry_out(|| 7).await.ok() });
        assert_eq!(answer, Ok(Some(7)));
    }

    #[test]
    fn what_concerns_this_server_alone_is_done_while_all_others_wait() {
        let runtime = Runtime::start().unwrap();
        let anywhere = Arc::new(Lane::new(OPERATION_THREADS_MAX));
        let here = Lane::new(OPERATION_THREADS_HERE_MAX);
        let held: Vec<_> = (0..OPERATION_THREADS_MAX)
            .map(|_| occupy(&runtime, &anywhere))
            .collect();
        let answer = runtime.ask(AT_MOST, async move { here.carry_out(|| 7).await.ok() });
        assert_eq!(answer, Ok(Some(7)));
        drop(held);
    }

    #[test]
    fn work_that_panics_is_an_answer_and_costs_no_thread() {
        let runtime = Runtime::start().unwrap();
        let lane = Lane::new(1);
        let answers = runtime.ask(AT_MOST, async move {
            let failed = lane.carry_out(|| panic!("as it should")).await;
            let failed: Result<(), Status> = failed;
            (failed.unwrap_err().code(), lane.carry_out(|| 7).await.ok())
        });
        assert_eq!(answers, Ok((Code::Internal, Some(7))));
    }
}
