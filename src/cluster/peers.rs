//! What is asked of another node: by gRPC if it has that, else or after a failure by HTTP, with the
//! admin token of this one.
//!
//! [`Peers`] blocks its caller and does its work on the runtime's thread. Both ways have their
//! limits of time and size. What matters most is told apart: a node that was not reached has done
//! nothing; one that was asked and gave no answer may have. An order carries a request key, so that
//! asking by HTTP after gRPC made no answer creates no second room.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::convert;
use super::node::{Address, NodeRecord};
use super::pb::lockstep_client::LockstepClient;
use super::pb::{CloseRoomRequest, GetRoomRequest};
use super::runtime;
use super::{PeerError, foreign_words};
use crate::admin::guard::AdminToken;
use crate::admin::order::Order;
use crate::admin::reading;
use crate::engine::id::RoomId;
use crate::limits::{
    PEER_ANSWER_BYTES_MAX, PEER_CHANNELS_MAX, PEER_CONNECT_PATIENCE, PEER_PATIENCE,
};
use crate::operations::{Created, Home, Located};

/// Longest wait of a caller: for both ways, and the thread that does the work.
const PATIENCE: Duration = Duration::from_secs(2 * PEER_PATIENCE.as_secs() + 1);

/// See the head of the file.
#[derive(Clone, Debug)]
pub struct Peers {
    handle: Handle,
    asker: Arc<Asker>,
}

/// What the asynchronous part has.
#[derive(Debug)]
struct Asker {
    /// `Bearer TOKEN`.
    authorization: Option<HeaderValue>,
    http: Client<HttpConnector, Full<Bytes>>,
    /// Connections for gRPC, by address. One that failed is dropped.
    channels: Mutex<BTreeMap<String, Channel>>,
}

/// Why one way gave no answer, or what the answer was if not what was asked for.
#[derive(Debug)]
enum Fault {
    /// Nothing was sent.
    Unreached(String),
    /// Something was sent, and what came of it is not known.
    Silent(String),
    /// There is no such room.
    NotFound(String),
    /// See [`PeerError::Unable`].
    Unable(String),
    /// See [`PeerError::Refused`].
    Refused { exists: bool, why: String },
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
enum About {
    Show,
    Close,
}

impl Peers {
    /// Asks from the runtime behind `handle`, with `token` if other nodes want one.
    pub fn new(handle: Handle, token: Option<&AdminToken>) -> Peers {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PEER_CONNECT_PATIENCE));
        connector.set_nodelay(true);
        // A connection that waits occupies a thread of the other side.
        let http = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        let authorization = token.map(|token| {
            let mut value = HeaderValue::from_str(&token.bearer()).expect("a token fits a header");
            value.set_sensitive(true);
            value
        });
        Peers {
            handle,
            asker: Arc::new(Asker {
                authorization,
                http,
                channels: Mutex::default(),
            }),
        }
    }

    /// Has another node create a room, for itself. The order says "here" and has a request key.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn create_at(&self, node: &NodeRecord, order: &Order) -> Result<Created, PeerError> {
        let (asker, node_, order_) = (Arc::clone(&self.asker), node.clone(), order.clone());
        let asked = self.ask(async move {
            let first = match &node_.grpc {
                Some(address) => asker.create_by_grpc(address, &order_).await,
                None => Err(no_way("gRPC")),
            };
            match (first, &node_.http) {
                (Err(fault), Some(address)) if fault.may_try_again() => asker
                    .create_by_http(address, &order_)
                    .await
                    .map_err(|second| fault.and(second)),
                (first, _) => first,
            }
        });
        let mut created = asked.map_err(|fault| fault.of(node))?;
        is_meant(&created.room, order.room).map_err(|fault| fault.of(node))?;
        at_home(&mut created.room, node);
        Ok(created)
    }

    /// Asks another node for a room of its own.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn room_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError> {
        self.about(node, room, About::Show)
    }

    /// Has another node close a room of its own.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn close_at(&self, node: &NodeRecord, room: RoomId) -> Result<Option<Located>, PeerError> {
        self.about(node, room, About::Close)
    }

    fn about(
        &self,
        node: &NodeRecord,
        room: RoomId,
        about: About,
    ) -> Result<Option<Located>, PeerError> {
        let (asker, node_) = (Arc::clone(&self.asker), node.clone());
        let asked = self.ask(async move {
            let first = match &node_.grpc {
                Some(address) => asker.about_by_grpc(address, room, about).await,
                None => Err(no_way("gRPC")),
            };
            match (first, &node_.http) {
                (Err(fault), Some(address)) if fault.may_try_again() => asker
                    .about_by_http(address, room, about)
                    .await
                    .map_err(|second| fault.and(second)),
                (first, _) => first,
            }
        });
        let mut located = match asked {
            Ok(located) => located,
            Err(Fault::NotFound(_)) => return Ok(None),
            Err(fault) => return Err(fault.of(node)),
        };
        is_meant(&located, room).map_err(|fault| fault.of(node))?;
        at_home(&mut located, node);
        Ok(Some(located))
    }

    fn ask<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        runtime::ask(&self.handle, PATIENCE, work).unwrap_or_else(|_| {
            let why = "the thread that asks other nodes does not answer";
            Err(Fault::Silent(why.to_owned()))
        })
    }
}

/// The room that was asked for, and no other.
fn is_meant(located: &Located, room: RoomId) -> Result<(), Fault> {
    let other = located.view.room;
    match other == room {
        true => Ok(()),
        false => Err(Fault::Silent(format!(
            "asked for room {room}, it tells of room {other}"
        ))),
    }
}

/// A node that does not say where its room is has it itself.
fn at_home(located: &mut Located, node: &NodeRecord) {
    located.home.get_or_insert_with(|| Home {
        node: node.id.clone(),
        address: node.kcp.clone(),
    });
}

fn no_way(name: &str) -> Fault {
    Fault::Unreached(format!("it tells no address for {name}"))
}

// --- gRPC -------------------------------------------------------------------------------------

impl Asker {
    async fn create_by_grpc(&self, address: &Address, order: &Order) -> Result<Created, Fault> {
        let order = convert::order(order);
        let answer = self
            .by_grpc(address, |mut client| async move {
                client.0.create_room(client.1.request(order)).await
            })
            .await?;
        convert::read_created(answer).map_err(|bad| Fault::Silent(format!("gRPC: {bad}")))
    }

    async fn about_by_grpc(
        &self,
        address: &Address,
        RoomId(room): RoomId,
        about: About,
    ) -> Result<Located, Fault> {
        let answer = self
            .by_grpc(address, |mut client| async move {
                let here = true;
                match about {
                    About::Show => {
                        let request = client.1.request(GetRoomRequest { room, here });
                        client.0.get_room(request).await
                    }
                    About::Close => {
                        let request = client.1.request(CloseRoomRequest { room, here });
                        client.0.close_room(request).await
                    }
                }
            })
            .await?;
        convert::read_room(answer).map_err(|bad| Fault::Silent(format!("gRPC: {bad}")))
    }

    /// Calls a node within the limits, by a connection that is there or a new one.
    async fn by_grpc<'a, T, F>(
        &'a self,
        address: &Address,
        call: impl FnOnce((LockstepClient<Channel>, &'a Asker)) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let channel = self.channel(address).await?;
        let client = LockstepClient::new(channel).max_decoding_message_size(PEER_ANSWER_BYTES_MAX);
        let fault = match timeout(PEER_PATIENCE, call((client, self))).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => Fault::of_status(&status),
            Err(_) => Fault::Silent("gRPC: no answer".to_owned()),
        };
        if fault.may_try_again() {
            self.channels().remove(address.as_str());
        }
        Err(fault)
    }

    async fn channel(&self, address: &Address) -> Result<Channel, Fault> {
        let known = self.channels().get(address.as_str()).cloned();
        if let Some(channel) = known {
            return Ok(channel);
        }
        let unreached = |error: &dyn Error| Fault::Unreached(format!("gRPC: {}", whole(error)));
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| unreached(&error))?;
        // It is used again after the node was gone: then it connects anew by itself.
        let endpoint = endpoint.connect_timeout(PEER_CONNECT_PATIENCE);
        let channel = match timeout(PEER_CONNECT_PATIENCE, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreached(&error)),
            Err(_) => return Err(Fault::Unreached("gRPC: no connection".to_owned())),
        };
        let mut channels = self.channels();
        while channels.len() >= PEER_CHANNELS_MAX {
            channels.pop_first();
        }
        channels.insert(address.to_string(), channel.clone());
        Ok(channel)
    }

    fn channels(&self) -> MutexGuard<'_, BTreeMap<String, Channel>> {
        let channels = self.channels.lock();
        channels.expect("nobody panics while holding channels")
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let value = self.authorization.as_ref().map(HeaderValue::as_bytes);
        let value = value.and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok());
        if let Some(value) = value {
            request.metadata_mut().insert("authorization", value);
        }
        request
    }
}

// --- HTTP -------------------------------------------------------------------------------------

impl Asker {
    async fn create_by_http(&self, address: &Address, order: &Order) -> Result<Created, Fault> {
        let body = reading::order(order);
        let path = "/api/rooms";
        let answer = self.by_http(address, Method::POST, path, body).await?;
        reading::created(&answer).map_err(|bad| Fault::Silent(format!("HTTP: {bad}")))
    }

    async fn about_by_http(
        &self,
        address: &Address,
        room: RoomId,
        about: About,
    ) -> Result<Located, Fault> {
        let method = match about {
            About::Show => Method::GET,
            About::Close => Method::DELETE,
        };
        let path = format!("/api/rooms/{room}?here=1");
        let answer = self.by_http(address, method, &path, Vec::new()).await?;
        reading::room(&answer).map_err(|bad| Fault::Silent(format!("HTTP: {bad}")))
    }

    /// Asks a node within the limits; the body of a good answer.
    async fn by_http(
        &self,
        address: &Address,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Fault> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"))
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| Fault::Unreached(format!("HTTP: {error}")))?;
        let work = async {
            let answer = self.http.request(request).await.map_err(|error| {
                let why = format!("HTTP: {}", whole(&error));
                match error.is_connect() {
                    true => Fault::Unreached(why),
                    false => Fault::Silent(why),
                }
            })?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), PEER_ANSWER_BYTES_MAX).collect();
            let body = body.await.map_err(|error| {
                let error: &dyn Error = &*error;
                Fault::Silent(format!("HTTP: {}", whole(error)))
            })?;
            Ok((status, body.to_bytes()))
        };
        let answer = timeout(PEER_PATIENCE, work).await;
        let (status, body) = answer.unwrap_or(Err(Fault::Silent("HTTP: no answer".to_owned())))?;
        match status {
            StatusCode::OK | StatusCode::CREATED => Ok(body),
            status => Err(Fault::of_answer(status, &body)),
        }
    }
}

// --- Faults -----------------------------------------------------------------------------------

impl Fault {
    /// What an answer of gRPC that is none means.
    fn of_status(status: &Status) -> Fault {
        let words = format!("gRPC: {}", status.message());
        // An error of the transport has a source, an answer of the node has none.
        let source = Error::source(status);
        match status.code() {
            _ if has_not_connected(source) => Fault::Unreached(words),
            _ if source.is_some() => Fault::Silent(words),
            Code::NotFound => Fault::NotFound(words),
            // Whoever is told names the field again.
            Code::AlreadyExists => {
                let why = status.message();
                Fault::refused(true, why.strip_prefix("room: ").unwrap_or(why))
            }
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
                Fault::refused(false, status.message())
            }
            Code::ResourceExhausted | Code::Unavailable => Fault::Unable(status.message().into()),
            Code::Unauthenticated | Code::PermissionDenied => Fault::tokens_differ(),
            // Something else listens there.
            Code::Unimplemented => Fault::Unreached(words),
            _ => Fault::Silent(words),
        }
    }

    /// What an answer of HTTP that is none means.
    fn of_answer(status: StatusCode, body: &[u8]) -> Fault {
        let told = reading::error(body);
        let why = told.reason.unwrap_or_else(|| format!("HTTP: {status}"));
        match status.as_u16() {
            404 => Fault::NotFound(why),
            409 => Fault::refused(true, &why),
            400 | 413 | 422 => Fault::refused(false, &why),
            401 | 403 => Fault::tokens_differ(),
            503 if !told.unsure => Fault::Unable(why),
            500.. => Fault::Silent(why),
            _ => Fault::Unable(why),
        }
    }

    fn refused(exists: bool, why: &str) -> Fault {
        let why = why.to_owned();
        Fault::Refused { exists, why }
    }

    fn tokens_differ() -> Fault {
        let why = "it lets this node not in; give all nodes the same --admin-token";
        Fault::Unable(why.to_owned())
    }

    /// Whether another way may do better.
    fn may_try_again(&self) -> bool {
        matches!(self, Fault::Unreached(_) | Fault::Silent(_))
    }

    /// This one of the first way, and that of the second. An answer is one, whatever came before.
    fn and(self, second: Fault) -> Fault {
        match (self, second) {
            (Fault::Unreached(first), Fault::Unreached(second)) => {
                Fault::Unreached(format!("{first}; {second}"))
            }
            (
                Fault::Unreached(first) | Fault::Silent(first),
                Fault::Unreached(second) | Fault::Silent(second),
            ) => Fault::Silent(format!("{first}; {second}")),
            (_, second) => second,
        }
    }

    fn of(self, node: &NodeRecord) -> PeerError {
        let node = node.id.clone();
        // Whatever listens there chose the words.
        let plain = |why: String| foreign_words(&why);
        match self {
            Fault::Unreached(why) => PeerError::Unreached {
                node,
                why: plain(why),
            },
            Fault::Silent(why) => PeerError::Silent {
                node,
                why: plain(why),
            },
            Fault::NotFound(why) | Fault::Unable(why) => PeerError::Unable {
                node,
                why: plain(why),
            },
            Fault::Refused { exists, why } => PeerError::Refused {
                node,
                exists,
                why: plain(why),
            },
        }
    }
}

/// Whether the reason of all is that there was no connection.
fn has_not_connected(mut source: Option<&(dyn Error + 'static)>) -> bool {
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// An error and its reasons, each behind the other.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        text.push_str(": ");
        text.push_str(&reason.to_string());
        source = reason.source();
    }
    text
}
