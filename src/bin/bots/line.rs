//! A player's way to the server: a client, its socket, and the weather between the two.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use lockstep_server::client::Client;
use lockstep_server::engine::time::Time;
use lockstep_server::engine::transmit::Transmits;
use lockstep_server::limits::DATAGRAM_MAX;
use mio::net::UdpSocket;

use crate::weather::{SplitMix, Way, Weather};

/// Datagrams read in one turn of a player.
const DATAGRAMS_PER_TURN: usize = 64;

/// Datagrams and their bytes, without the headers of UDP and below.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Datagrams.
    pub(crate) datagrams: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

impl Traffic {
    fn add(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
    }
}

/// A client, its socket, and the network between it and the server.
#[derive(Debug)]
pub(crate) struct Line {
    /// The client; whoever plays reads its events and tells it what to say.
    pub(crate) client: Client,
    socket: UdpSocket,
    /// The socket may hold more.
    readable: bool,
    is_clear: bool,
    up: Way,
    down: Way,
    /// What left through the socket.
    pub(crate) sent: Traffic,
    /// What came in through the socket.
    pub(crate) received: Traffic,
}

impl Line {
    /// A line from a port of its own.
    ///
    /// # Errors
    /// If the system gives no socket.
    pub(crate) fn new(
        server: SocketAddr,
        client: Client,
        weather: Weather,
        seeds: &mut SplitMix,
    ) -> io::Result<Line> {
        Ok(Line {
            client,
            socket: socket_to(server)?,
            readable: false,
            is_clear: weather.is_clear(),
            up: Way::new(weather, seeds.next()),
            down: Way::new(weather, seeds.next()),
            sent: Traffic::default(),
            received: Traffic::default(),
        })
    }

    /// The socket, to be watched.
    pub(crate) fn socket(&mut self) -> &mut UdpSocket {
        &mut self.socket
    }

    /// From now on the client speaks from another port, and what is under way to the old one is
    /// lost, unless the weather has it already. `watch` is given the new socket.
    ///
    /// # Errors
    /// If the system gives no socket, or it cannot be watched.
    pub(crate) fn rebind(
        &mut self,
        watch: impl FnOnce(&mut UdpSocket) -> io::Result<()>,
    ) -> io::Result<()> {
        self.lead_to(self.server()?, watch)
    }

    /// From now on the client speaks to another server, from a port of its own. `watch` is given the
    /// new socket.
    ///
    /// # Errors
    /// If the system gives no socket, or it cannot be watched.
    pub(crate) fn lead_to(
        &mut self,
        server: SocketAddr,
        watch: impl FnOnce(&mut UdpSocket) -> io::Result<()>,
    ) -> io::Result<()> {
        self.socket = socket_to(server)?;
        self.readable = false;
        watch(&mut self.socket)
    }

    /// Whom the client speaks to.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn server(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// The socket holds datagrams.
    pub(crate) fn is_readable(&mut self) {
        self.readable = true;
    }

    /// Datagrams that the weather took, both ways.
    pub(crate) fn lost(&self) -> (u64, u64) {
        (self.up.lost(), self.down.lost())
    }

    /// Brings what has arrived to the client.
    ///
    /// # Errors
    /// What the socket says; what it still holds is read next time.
    pub(crate) fn hear(&mut self, now: Time) -> io::Result<()> {
        let mut buffer = [0; DATAGRAM_MAX];
        let mut heard = Ok(());
        for _ in 0..DATAGRAMS_PER_TURN {
            if !self.readable {
                break;
            }
            match self.socket.recv(&mut buffer) {
                Ok(len) => {
                    self.received.add(len);
                    if self.is_clear {
                        self.client.handle_datagram(now, &mut buffer[..len]);
                    } else {
                        self.down.put(now, &buffer[..len]);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) => {
                    heard = Err(error);
                    break;
                }
            }
        }
        while let Some(mut datagram) = self.down.take(now) {
            self.client.handle_datagram(now, &mut datagram);
        }
        heard
    }

    /// Sends what the client has to say. `batch` is memory that is used again and again.
    ///
    /// # Errors
    /// What the socket says of the last datagram that it refused.
    pub(crate) fn speak(&mut self, now: Time, batch: &mut Transmits) -> io::Result<()> {
        let mut spoken = Ok(());
        self.client.poll_transmit(now, batch);
        for (_, datagram) in batch.iter() {
            if self.is_clear {
                spoken = self.send(datagram).and(spoken);
            } else {
                self.up.put(now, datagram);
            }
        }
        while let Some(datagram) = self.up.take(now) {
            spoken = self.send(&datagram).and(spoken);
        }
        spoken
    }

    /// Lets time pass while there is no client: what is under way arrives nevertheless, and what
    /// comes in finds nobody.
    ///
    /// # Errors
    /// What the socket says.
    pub(crate) fn pass(&mut self, now: Time) -> io::Result<()> {
        let mut buffer = [0; DATAGRAM_MAX];
        while self.readable {
            match self.socket.recv(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(error),
            }
        }
        while self.down.take(now).is_some() {}
        while let Some(datagram) = self.up.take(now) {
            self.send(&datagram)?;
        }
        Ok(())
    }

    /// When [`Line::pass`] has something to do though nothing arrives at the socket.
    pub(crate) fn wake_passing(&self, now: Time) -> Option<Time> {
        let now = self.readable.then_some(now);
        [now, self.up.next(), self.down.next()]
            .into_iter()
            .flatten()
            .min()
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        match self.socket.send(datagram) {
            Ok(_) => self.sent.add(datagram.len()),
            // The system's buffer is full: lost, as networks lose datagrams.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// When something is to be done though nothing arrives at the socket.
    pub(crate) fn wake(&self, now: Time) -> Option<Time> {
        if self.readable {
            return Some(now);
        }
        let all = [
            self.client.poll_timeout(now),
            self.up.next(),
            self.down.next(),
        ];
        all.into_iter().flatten().min()
    }
}

fn socket_to(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket)
}
