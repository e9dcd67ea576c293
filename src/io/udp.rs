//! The UDP socket of the players: bound with large buffers, read and written in batches, never
//! blocking. How a batch crosses into the system is `batch`'s.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{self, BATCH, Inbox};
use crate::config::Listen;
use crate::engine::transmit::Transmits;
use crate::limits::SOCKET_BUFFER_BYTES;

/// A bound UDP socket.
pub struct Udp {
    socket: mio::net::UdpSocket,
    inbox: Inbox,
}

impl fmt::Debug for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Udp").field("socket", &self.socket).finish()
    }
}

impl Udp {
    /// Binds to `listen`; every interface means IPv6 and IPv4 in one socket where the
    /// system has both, and IPv4 where not.
    ///
    /// # Errors
    /// What the system says, such as an address in use.
    pub fn bind(listen: Listen) -> io::Result<Udp> {
        match listen {
            Listen::At(addr) => bind_to(addr, false),
            Listen::Every { port } => {
                bind_to((Ipv6Addr::UNSPECIFIED, port).into(), true).or_else(|error| {
                    if error.kind() == io::ErrorKind::AddrInUse {
                        return Err(error);
                    }
                    bind_to((Ipv4Addr::UNSPECIFIED, port).into(), false)
                })
            }
        }
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Asks for word when datagrams wait.
    ///
    /// # Errors
    /// What the system says.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token, Interest::READABLE)
    }

    /// Reads some of the datagrams that wait, for [`Udp::received`]. Returns how many.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if none waits, or what the system says.
    pub fn receive(&mut self) -> io::Result<usize> {
        self.inbox.fill(&self.socket)
    }

    /// The datagrams that were read last, with their senders. One that is larger than
    /// [`crate::limits::DATAGRAM_MAX`] is cut.
    pub fn received(&mut self) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        let datagrams = self.inbox.drain();
        datagrams.filter_map(|(from, datagram)| Some((from?, datagram)))
    }

    /// Sends all of them, in order. Returns how many the system did not take: they are lost, as
    /// on the network.
    pub fn send(&self, datagrams: &Transmits) -> u64 {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut datagrams = datagrams.iter();
        let mut refused = 0;
        loop {
            let mut chunk = [(nobody, &[][..]); BATCH];
            let mut len = 0;
            for (place, datagram) in chunk.iter_mut().zip(datagrams.by_ref()) {
                *place = datagram;
                len += 1;
            }
            let mut rest = &chunk[..len];
            while !rest.is_empty() {
                let sent = batch::send(&self.socket, rest.iter().copied());
                refused += sent.refused;
                rest = &rest[sent.done..];
            }
            if len < BATCH {
                return refused;
            }
        }
    }
}

fn bind_to(addr: SocketAddr, both_families: bool) -> io::Result<Udp> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if both_families {
        socket.set_only_v6(false)?;
    }
    // The system may grant less; that is no reason not to start.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(Udp {
        socket: mio::net::UdpSocket::from_std(socket.into()),
        inbox: Inbox::new(),
    })
}
