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
use crate::limits::{DATAGRAM_MAX, SOCKET_BUFFER_BYTES};

/// A bound UDP socket.
pub struct Udp {
    socket: mio::net::UdpSocket,
    inbox: Inbox,
    buffers: Buffers,
}

/// Bytes of a socket's buffers, as they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffers {
    receive: usize,
    send: usize,
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

    /// What to tell the operator if the system has granted smaller buffers than
    /// [`SOCKET_BUFFER_BYTES`]: by how much, and what to do about it.
    pub fn buffer_warning(&self) -> Option<String> {
        let is_linux = cfg!(target_os = "linux");
        buffer_warning(SOCKET_BUFFER_BYTES, self.buffers, is_linux)
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

    /// Who sent the datagrams that were read last.
    pub fn senders(&self) -> impl Iterator<Item = SocketAddr> {
        self.inbox.senders()
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
    let buffers = enlarge_buffers(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(Udp {
        socket: mio::net::UdpSocket::from_std(socket.into()),
        inbox: Inbox::new(),
        buffers,
    })
}

/// Asks for [`SOCKET_BUFFER_BYTES`] each way, and returns what the system granted. Less is no
/// reason not to start.
fn enlarge_buffers(socket: &Socket) -> io::Result<Buffers> {
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        // Past the system's bound, for who may administer its network. Who may not, asks below.
        let _ = sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER_BYTES);
        let _ = sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER_BYTES);
    }
    if granted(socket.recv_buffer_size()?) < SOCKET_BUFFER_BYTES {
        ask(|bytes| socket.set_recv_buffer_size(bytes));
    }
    if granted(socket.send_buffer_size()?) < SOCKET_BUFFER_BYTES {
        ask(|bytes| socket.set_send_buffer_size(bytes));
    }
    Ok(Buffers {
        receive: granted(socket.recv_buffer_size()?),
        send: granted(socket.send_buffer_size()?),
    })
}

/// Asks for ever less until the system agrees: Linux cuts what is too much, others refuse it.
fn ask(set: impl Fn(usize) -> io::Result<()>) {
    let mut bytes = SOCKET_BUFFER_BYTES;
    while set(bytes).is_err() && bytes > DATAGRAM_MAX {
        bytes /= 2;
    }
}

/// What a size that the system reports was asked for as: Linux doubles what it is asked for,
/// for its own book-keeping, and reports that.
fn granted(reported: usize) -> usize {
    if cfg!(target_os = "linux") {
        reported / 2
    } else {
        reported
    }
}

fn buffer_warning(asked: usize, granted: Buffers, is_linux: bool) -> Option<String> {
    let Buffers { receive, send } = granted;
    if receive.min(send) >= asked {
        return None;
    }
    let remedy = if is_linux {
        format!("sysctl -w net.core.rmem_max={asked} net.core.wmem_max={asked}")
    } else {
        "raise what the system allows a socket".to_owned()
    };
    Some(format!(
        "--udp: asked for buffers of {asked} bytes, granted {receive} to receive and {send} to \
         send, so many players at once may lose datagrams; to change it, before the next start: \
         {remedy}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: Buffers = Buffers {
        receive: 1000,
        send: 1000,
    };

    #[test]
    fn buffers_as_large_as_asked_are_not_worth_a_word() {
        assert_eq!(buffer_warning(1000, ENOUGH, true), None);
        assert_eq!(buffer_warning(999, ENOUGH, false), None);
    }

    #[test]
    fn a_small_buffer_in_either_direction_is_told_with_its_remedy() {
        let small_in = Buffers {
            receive: 999,
            ..ENOUGH
        };
        let small_out = Buffers {
            send: 998,
            ..ENOUGH
        };
        let text = buffer_warning(1000, small_in, true).unwrap();
        assert!(text.contains("asked for buffers of 1000 bytes"), "{text}");
        assert!(text.contains("999 to receive and 1000 to send"), "{text}");
        let remedy = ": sysctl -w net.core.rmem_max=1000 net.core.wmem_max=1000";
        assert!(text.ends_with(remedy), "{text}");
        let text = buffer_warning(1000, small_out, false).unwrap();
        assert!(text.contains("1000 to receive and 998 to send"), "{text}");
        assert!(!text.contains("sysctl"), "{text}");
    }

    #[test]
    fn what_is_refused_is_asked_for_again_as_less() {
        let smallest = std::cell::Cell::new(usize::MAX);
        ask(|bytes| {
            smallest.set(bytes);
            if bytes > 3_000_000 {
                Err(io::ErrorKind::InvalidInput.into())
            } else {
                Ok(())
            }
        });
        assert!((1_500_000..=3_000_000).contains(&smallest.get()));
        // A system that refuses everything is not asked for ever.
        ask(|_| Err(io::ErrorKind::InvalidInput.into()));
    }

    #[test]
    fn a_socket_warns_exactly_if_the_system_grants_less() {
        let udp = Udp::bind(Listen::At(([127, 0, 0, 1], 0).into())).unwrap();
        let Buffers { receive, send } = udp.buffers;
        assert!(receive > 0 && send > 0);
        let is_small = receive.min(send) < SOCKET_BUFFER_BYTES;
        assert_eq!(udp.buffer_warning().is_some(), is_small);
    }
}
