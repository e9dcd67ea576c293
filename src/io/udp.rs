//! The UDP socket of the players: bound with large buffers, read and written one datagram
//! at a time, never blocking.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;
use crate::limits::SOCKET_BUFFER_BYTES;

/// A bound UDP socket.
#[derive(Debug)]
pub struct Udp {
    socket: mio::net::UdpSocket,
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

    /// Reads one datagram into `buffer`; one that is larger is cut.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if none waits, or what the system says.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the system's buffer is full, or what it says.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(datagram, to).map(|_| ())
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
    })
}
