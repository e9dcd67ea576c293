//! Accepts the connections of gRPC: so many at once, and none that does not say within a few
//! seconds what it wants. Once it has, HTTP/2's own questions find out whether its peer is there.
//!
//! Whoever reaches the port may open connections and ask after the health, and each call holds memory
//! for as long as its peer likes. So a connection is a stranger's until a call over it was let in,
//! and there are few strangers: one too many takes the place of the oldest, so that a flood displaces
//! itself, and keeps out nobody who asks at once.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::limits::{
    GRPC_ACCEPT_REST, GRPC_CONNECTIONS_MAX, GRPC_PREFACE_PATIENCE, GRPC_STRANGERS_MAX,
};

/// Bytes with which each connection of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: usize = 24;

/// The connections, as they come.
pub(super) struct Listener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    strangers: Arc<Strangers>,
    /// Until then none is accepted.
    rest: Option<Pin<Box<Sleep>>>,
}

impl Listener {
    pub(super) fn new(listener: TcpListener) -> Listener {
        Listener {
            listener,
            places: Arc::new(Semaphore::new(GRPC_CONNECTIONS_MAX)),
            strangers: Arc::default(),
            rest: None,
        }
    }
}

impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let listener = self.get_mut();
        loop {
            if let Some(rest) = &mut listener.rest {
                ready!(rest.as_mut().poll(cx));
                listener.rest = None;
            }
            let stream = match ready!(listener.listener.poll_accept(cx)) {
                Ok((stream, _)) => stream,
                // The peer of one connection has gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    log::warn!("gRPC: cannot accept connections now: {error}");
                    listener.rest = Some(Box::pin(sleep(GRPC_ACCEPT_REST)));
                    continue;
                }
            };
            // One too many is hung up.
            let Ok(place) = Arc::clone(&listener.places).try_acquire_owned() else {
                continue;
            };
            // Without it answers are late, which is no reason to refuse them.
            let _ = stream.set_nodelay(true);
            let (acquaintance, displaced) = Strangers::enter(&listener.strangers);
            return Poll::Ready(Some(Ok(Connection {
                stream,
                acquaintance,
                displaced: Some(displaced),
                must_go: false,
                silence: Some(Box::pin(sleep(GRPC_PREFACE_PATIENCE))),
                heard: 0,
                _place: place,
            })));
        }
    }
}

/// Connections over which no call was let in yet, the oldest first.
#[derive(Debug, Default)]
struct Strangers(Mutex<(u64, BTreeMap<u64, oneshot::Sender<()>>)>);

impl Strangers {
    /// One more, which takes the place of the oldest if need be. It is told when that happens to it.
    fn enter(all: &Arc<Strangers>) -> (Acquaintance, oneshot::Receiver<()>) {
        let (sender, displaced) = oneshot::channel();
        let (number, oldest) = {
            let mut inner = all.lock();
            let (entered, there) = &mut *inner;
            *entered += 1;
            there.insert(*entered, sender);
            let is_full = there.len() > GRPC_STRANGERS_MAX;
            (*entered, is_full.then(|| there.pop_first()).flatten())
        };
        if let Some((_, oldest)) = oldest {
            // It may be ending in this very moment.
            let _ = oldest.send(());
        }
        let strangers = Arc::clone(all);
        (Acquaintance { strangers, number }, displaced)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, oneshot::Sender<()>>)> {
        let inner = self.0.lock();
        inner.expect("nobody panics while holding strangers")
    }
}

/// By which a connection is a stranger's no longer. Each of its calls has one.
#[derive(Clone, Debug)]
pub(super) struct Acquaintance {
    strangers: Arc<Strangers>,
    number: u64,
}

impl Acquaintance {
    /// A call was let in, or the connection ends.
    pub(super) fn is_made(&self) {
        self.strangers.lock().1.remove(&self.number);
    }
}

/// One connection, which keeps its place for as long as it is there.
pub(super) struct Connection {
    stream: TcpStream,
    acquaintance: Acquaintance,
    /// Says that another stranger has its place; `None` once it is no stranger.
    displaced: Option<oneshot::Receiver<()>>,
    must_go: bool,
    /// When it ends unless its preface has come; `None` once it has.
    silence: Option<Pin<Box<Sleep>>>,
    /// Bytes that have come, as long as that is waited for.
    heard: usize,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Fails once another has its place. Asked before it is read and before it is written, since a
    /// peer can keep HTTP/2 from either.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(displaced) = &mut self.displaced
            && let Poll::Ready(told) = Pin::new(displaced).poll(cx)
        {
            self.displaced = None;
            self.must_go = told.is_ok();
        }
        match self.must_go {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.acquaintance.is_made();
    }
}

impl Connected for Connection {
    type ConnectInfo = Acquaintance;

    fn connect_info(&self) -> Acquaintance {
        self.acquaintance.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        connection.poll_place(cx)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut connection.stream).poll_read(cx, buffer);
        let Some(silence) = &mut connection.silence else {
            return polled;
        };
        connection.heard += buffer.filled().len() - before;
        if connection.heard >= PREFACE {
            connection.silence = None;
        } else if polled.is_pending() && silence.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        connection.poll_place(cx)?;
        Pin::new(&mut connection.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        connection.poll_place(cx)?;
        Pin::new(&mut connection.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::runtime::Runtime;
    use std::net::Ipv4Addr;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio_stream::StreamExt;

    #[test]
    fn one_connection_too_many_is_hung_up_until_another_ends() {
        let runtime = Runtime::start().unwrap();
        let done = runtime.ask(Duration::from_secs(60), async {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let addr = socket.local_addr().unwrap();
            let mut listener = Listener {
                places: Arc::new(Semaphore::new(1)),
                ..Listener::new(socket)
            };
            let _first = TcpStream::connect(addr).await.unwrap();
            let accepted = listener.next().await.unwrap().unwrap();
            let mut second = TcpStream::connect(addr).await.unwrap();
            let mut byte = [0];
            tokio::select! {
                _ = listener.next() => panic!("there is no place"),
                read = second.read(&mut byte) => assert!(matches!(read, Ok(0) | Err(_))),
            }
            drop(accepted);
            let _third = TcpStream::connect(addr).await.unwrap();
            listener.next().await.unwrap().unwrap();
        });
        assert_eq!(done, Ok(()));
    }
}
