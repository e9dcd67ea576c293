//! The gRPC side: what a game's own backend, and one server of another, asks (`--grpc`).
//!
//! - `service` answers calls through [`crate::operations`], as HTTP does;
//! - `listener` accepts connections, and ends those that say nothing;
//! - beside the service stand gRPC's own ones: health, for whoever monitors, and reflection, by
//!   which tools learn the messages from the server itself.
//!
//! All but health is for whoever has the admin token, where there is one; without one only this
//! machine reaches the address ([`crate::config`]). A browser cannot be made to ask here: it does
//! not speak HTTP/2 without TLS.
//!
//! Operations block, so they have threads of the runtime: some for those that may wait for other
//! nodes, and some for what concerns this server alone. Were there one number for both, two nodes could each wait for the other's last thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataMap;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::events::EventLog;
use super::pb;
use super::pb::lockstep_server::LockstepServer;
use super::runtime::{self, Runtime};
use crate::admin::guard::Guard;
use crate::config::Listen;
use crate::io::control::Answer;
use crate::limits::{
    GRPC_ALIVE_EVERY, GRPC_ALIVE_PATIENCE, GRPC_CALL_LIFE, GRPC_FAULTS_MAX, GRPC_HEADERS_BYTES_MAX,
    GRPC_HEALTH_BYTES_MAX, GRPC_HEALTH_EVERY, GRPC_REQUEST_BYTES_MAX, GRPC_RESETS_MAX,
    GRPC_STREAMS_MAX, GRPC_WINDOW_BYTES, HTTP_STOP,
};
use crate::operations::Operations;
use listener::{Acquaintance, Listener};
use service::Service;

mod listener;
mod service;

/// The service's name in the answers about health.
const SERVICE: &str = "lockstep.v1.Lockstep";

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// Why the gRPC side did not start.
#[derive(Debug, Error)]
pub enum GrpcError {
    /// Another program listens there.
    #[error(
        "--grpc {0}: address in use; stop the program that listens there, or choose another \
         port, such as --grpc 127.0.0.1:10008"
    )]
    InUse(Listen),
    /// The address belongs to no interface.
    #[error(
        "--grpc {0}: not an address of this machine; use one that is, such as --grpc \
         127.0.0.1:10007"
    )]
    NotHere(Listen),
    /// The system forbids the port.
    #[error("--grpc {0}: not permitted; choose a port over 1023, such as --grpc 127.0.0.1:10007")]
    Denied(Listen),
    /// Something else about the address.
    #[error("--grpc {0}: cannot listen there: {1}; choose another address or port")]
    Listen(Listen, io::Error),
}

impl GrpcError {
    fn new(listen: Listen, error: io::Error) -> GrpcError {
        match error.kind() {
            io::ErrorKind::AddrInUse => GrpcError::InUse(listen),
            io::ErrorKind::AddrNotAvailable => GrpcError::NotHere(listen),
            io::ErrorKind::PermissionDenied => GrpcError::Denied(listen),
            _ => GrpcError::Listen(listen, error),
        }
    }
}

/// The gRPC side while it runs. Dropping it leaves it running for as long as its runtime does;
/// [`Grpc::stop`] ends it.
#[derive(Debug)]
pub struct Grpc {
    addr: SocketAddr,
    handle: tokio::runtime::Handle,
    events: EventLog,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Listens; returns once calls are taken.
///
/// # Errors
/// [`GrpcError`], to be shown to the operator as it is.
pub fn start(
    runtime: &Runtime,
    listen: Listen,
    guard: Guard,
    operations: Arc<Operations>,
    events: EventLog,
) -> Result<Grpc, GrpcError> {
    let cannot = |error| GrpcError::new(listen, error);
    let socket = listening_socket(listen).map_err(cannot)?;
    let addr = socket.local_addr().map_err(cannot)?;
    let addr = addr
        .as_socket()
        .expect("an internet socket has an internet address");
    let handle = runtime.handle().clone();
    let listener = {
        // It is entered into the runtime's poll.
        let _inside = handle.enter();
        tokio::net::TcpListener::from_std(socket.into()).map_err(cannot)?
    };
    let (stop, stopped) = oneshot::channel();
    let (health, health_service) = tonic_health::server::health_reporter();
    handle.spawn(tell_health(health, Arc::clone(&operations)));
    let inside = Inside(guard);
    let made = "the compiler of the messages made their descriptions";
    let reflection_v1 = reflection().build_v1().expect(made);
    // What older tools ask for, such as Debian's grpcurl and Python's library.
    let reflection_v1alpha = reflection().build_v1alpha().expect(made);
    let service = LockstepServer::new(Service::new(operations, events.clone()))
        .max_decoding_message_size(GRPC_REQUEST_BYTES_MAX);
    let reflection_v1 = reflection_v1.max_decoding_message_size(GRPC_REQUEST_BYTES_MAX);
    let reflection_v1alpha = reflection_v1alpha.max_decoding_message_size(GRPC_REQUEST_BYTES_MAX);
    let router = builder()
        .add_service(health_service.max_decoding_message_size(GRPC_HEALTH_BYTES_MAX))
        .add_service(InterceptedService::new(reflection_v1, inside.clone()))
        .add_service(InterceptedService::new(reflection_v1alpha, inside.clone()))
        .add_service(InterceptedService::new(service, inside));
    let served = router.serve_with_incoming_shutdown(Listener::new(listener), async {
        // An end that was dropped never asks to stop.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    Ok(Grpc {
        addr,
        events,
        stop,
        served: handle.spawn(served),
        handle,
    })
}

impl Grpc {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops listening, ends the streams of events behind the last one, and lets answers that are
    /// under way go out for [`HTTP_STOP`]. Connections end with the runtime.
    pub fn stop(self) {
        let Grpc {
            handle,
            events,
            stop,
            served,
            ..
        } = self;
        let unserve = served.abort_handle();
        // What has not gone out by then does not.
        let _ = runtime::ask(&handle, HTTP_STOP, async move {
            events.close().await;
            let _ = stop.send(());
            drop(served.await);
        });
        unserve.abort();
    }
}

// --- What is served -----------------------------------------------------------------------

fn builder() -> Server {
    let streams = usize::try_from(GRPC_STREAMS_MAX).expect("a small number");
    Server::builder()
        .timeout(GRPC_CALL_LIFE)
        .concurrency_limit_per_connection(streams)
        .load_shed(true)
        .max_concurrent_streams(GRPC_STREAMS_MAX)
        .initial_connection_window_size(GRPC_WINDOW_BYTES)
        .initial_stream_window_size(GRPC_WINDOW_BYTES)
        .http2_keepalive_interval(Some(GRPC_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(GRPC_ALIVE_PATIENCE))
        .http2_max_header_list_size(GRPC_HEADERS_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(GRPC_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(GRPC_FAULTS_MAX))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Lets in who has the token, where there is one.
#[derive(Clone)]
struct Inside(Guard);

impl tonic::service::Interceptor for Inside {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let is_in = match &self.0 {
            Guard::Token(token) => {
                bearer(request.metadata()).is_some_and(|bearer| token.is_in(bearer))
            }
            Guard::Loopback | Guard::Unprotected => true,
        };
        if is_in {
            if let Some(acquaintance) = request.extensions().get::<Acquaintance>() {
                acquaintance.is_made();
            }
            return Ok(request);
        }
        Err(Status::unauthenticated(
            "send the server's --admin-token, as metadata authorization: Bearer TOKEN",
        ))
    }
}

fn bearer(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("authorization")?.to_str().ok()
}

/// Keeps gRPC's own way of health up to date: whether calls are answered is told by their being
/// answered, whether rooms are taken here by this.
async fn tell_health(health: HealthReporter, operations: Arc<Operations>) {
    let mut told = None;
    loop {
        let (sender, receiver) = oneshot::channel();
        let answer = Answer::to(move |load| {
            // Nobody waits any more for the answer of a loop that is late.
            let _ = sender.send(load);
        });
        let posted = operations.post_load(answer);
        let load = tokio::time::timeout(2 * GRPC_HEALTH_EVERY, receiver).await;
        let status = match (posted, load) {
            (Ok(()), Ok(Ok(load))) if !load.draining => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        // Each time that it is set all who watch are told, be it the same or not.
        if told.replace(status) != Some(status) {
            health.set_service_status(SERVICE, status).await;
        }
        tokio::time::sleep(GRPC_HEALTH_EVERY).await;
    }
}

// --- Where --------------------------------------------------------------------------------

/// Every interface means IPv6 and IPv4 where the system has both, and IPv4 where not.
fn listening_socket(listen: Listen) -> io::Result<Socket> {
    match listen {
        Listen::At(addr) => socket_at(addr),
        Listen::Every { port } => {
            socket_at((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| match error.kind() {
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
                _ => socket_at((Ipv4Addr::UNSPECIFIED, port).into()),
            })
        }
    }
}

fn socket_at(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // Every interface: IPv4 too, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    // Elsewhere than on Windows this means: although old connections linger.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
