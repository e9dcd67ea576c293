//! Many datagrams in one system call: `recvmmsg` and `sendmmsg` on Linux, and one at a time
//! where there is nothing of the kind. [`super::udp`] owns the socket and says which.
//!
//! A call costs as much as a datagram does; with 64 in one the price of the call is hardly
//! seen.

/// Datagrams in one system call.
pub(super) const BATCH: usize = 64;

#[cfg(target_os = "linux")]
pub(super) use linux::{Inbox, send};

#[cfg(not(target_os = "linux"))]
pub(super) use portable::{Inbox, send};

/// What became of a batch that was to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Datagrams that the system has dealt with, from the first on.
    pub(super) done: usize,
    /// How many of them it did not take.
    pub(super) refused: u64,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::mem;
    use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
    use std::os::fd::AsRawFd;

    use mio::net::UdpSocket;

    use super::{BATCH, Sent};
    use crate::limits::DATAGRAM_MAX;

    /// Room for the datagrams of one `recvmmsg`.
    pub(in crate::io) struct Inbox {
        buffers: Box<[[u8; DATAGRAM_MAX]; BATCH]>,
        addresses: Box<[libc::sockaddr_storage; BATCH]>,
        /// Bytes of each datagram.
        lens: [usize; BATCH],
        /// How many there are.
        count: usize,
    }

    impl Inbox {
        pub(in crate::io) fn new() -> Inbox {
            // SAFETY: a sockaddr_storage is integers alone, for which zero is a value.
            #[allow(unsafe_code, reason = "libc has no safe way to an empty address")]
            let nobody: libc::sockaddr_storage = unsafe { mem::zeroed() };
            Inbox {
                buffers: vec![[0; DATAGRAM_MAX]; BATCH]
                    .try_into()
                    .expect("it has this length"),
                addresses: vec![nobody; BATCH].try_into().expect("it has this length"),
                lens: [0; BATCH],
                count: 0,
            }
        }

        /// Reads what waits, at most [`BATCH`] datagrams; one that is larger than a buffer is
        /// cut. Returns how many there are.
        ///
        /// # Errors
        /// [`io::ErrorKind::WouldBlock`] if none waits, or what the system says.
        pub(in crate::io) fn fill(&mut self, socket: &UdpSocket) -> io::Result<usize> {
            self.count = 0;
            let mut pieces: [libc::iovec; BATCH] = std::array::from_fn(|index| libc::iovec {
                iov_base: self.buffers[index].as_mut_ptr().cast(),
                iov_len: DATAGRAM_MAX,
            });
            let mut headers: [libc::mmsghdr; BATCH] = std::array::from_fn(|index| {
                let address = (&raw mut self.addresses[index]).cast();
                header(
                    address,
                    size_of::<libc::sockaddr_storage>(),
                    &mut pieces[index],
                )
            });
            // SAFETY: the headers point to buffers and addresses of this inbox and to `pieces`,
            // all of which live and move not until the call has returned, with their lengths.
            #[allow(unsafe_code, reason = "the standard library has no recvmmsg")]
            let got = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    libc::c_uint::try_from(BATCH).expect("a batch is small"),
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            let count = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
            for (len, header) in self.lens.iter_mut().zip(&headers[..count]) {
                *len = usize::try_from(header.msg_len).expect("no longer than its buffer");
            }
            self.count = count;
            Ok(count)
        }

        /// Who sent the datagrams of the last call.
        pub(in crate::io) fn senders(&self) -> impl Iterator<Item = SocketAddr> {
            self.addresses[..self.count].iter().filter_map(address_of)
        }

        /// The datagrams of the last call, with their senders; `None` for a sender that is of
        /// neither IPv4 nor IPv6.
        pub(in crate::io) fn drain(
            &mut self,
        ) -> impl Iterator<Item = (Option<SocketAddr>, &mut [u8])> {
            let count = mem::take(&mut self.count);
            let whose = self.addresses[..count].iter().map(address_of);
            let bytes = self.buffers[..count].iter_mut().zip(&self.lens[..count]);
            whose.zip(bytes.map(|(buffer, len)| &mut buffer[..*len]))
        }
    }

    fn header(name: *mut libc::c_void, name_len: usize, piece: &mut libc::iovec) -> libc::mmsghdr {
        // SAFETY: a header is integers and pointers, for which zero is a value.
        #[allow(unsafe_code, reason = "libc has no safe way to an empty header")]
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_name = name;
        header.msg_hdr.msg_namelen =
            libc::socklen_t::try_from(name_len).expect("addresses are short");
        header.msg_hdr.msg_iov = piece;
        header.msg_hdr.msg_iovlen = 1;
        header
    }

    fn address_of(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
        match i32::from(storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that it is one, and it is no longer than the storage.
                #[allow(unsafe_code, reason = "the system writes one type for all families")]
                let address: &libc::sockaddr_in = unsafe { &*(&raw const *storage).cast() };
                let ip = u32::from_be(address.sin_addr.s_addr).into();
                let port = u16::from_be(address.sin_port);
                Some(SocketAddrV4::new(ip, port).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                #[allow(unsafe_code, reason = "the system writes one type for all families")]
                let address: &libc::sockaddr_in6 = unsafe { &*(&raw const *storage).cast() };
                let ip = address.sin6_addr.s6_addr.into();
                let port = u16::from_be(address.sin6_port);
                let (flow, scope) = (address.sin6_flowinfo, address.sin6_scope_id);
                Some(SocketAddrV6::new(ip, port, flow, scope).into())
            }
            _ => None,
        }
    }

    /// Sends at most [`BATCH`] datagrams in one call. A datagram that the system does not take
    /// is passed over; if its buffer is full, so are all of them.
    pub(in crate::io) fn send<'a>(
        socket: &UdpSocket,
        datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> Sent {
        let mut addresses = [const { None }; BATCH];
        let mut pieces = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        let mut count = 0;
        for (to, datagram) in datagrams.take(BATCH) {
            addresses[count] = Some(socket2::SockAddr::from(to));
            pieces[count] = libc::iovec {
                iov_base: datagram.as_ptr().cast_mut().cast(),
                iov_len: datagram.len(),
            };
            count += 1;
        }
        let mut headers: [libc::mmsghdr; BATCH] = std::array::from_fn(|index| {
            let (name, len) = addresses[index]
                .as_ref()
                .map_or((std::ptr::null(), 0), |to| {
                    (to.as_ptr().cast::<libc::c_void>(), to.len() as usize)
                });
            header(name.cast_mut(), len, &mut pieces[index])
        });
        let left = libc::c_uint::try_from(count).expect("a batch is small");
        // SAFETY: the headers point to `addresses`, `pieces` and the caller's datagrams, which
        // outlive the call; `sendmmsg` reads them and writes nothing but the headers.
        #[allow(unsafe_code, reason = "the standard library has no sendmmsg")]
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                left,
                libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(sent) {
            Ok(done) => Sent { done, refused: 0 },
            // An error is told of the first alone.
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => Sent::default(),
                io::ErrorKind::WouldBlock => Sent {
                    done: count,
                    refused: u64::from(left),
                },
                _ => Sent {
                    done: count.min(1),
                    refused: 1,
                },
            },
        }
    }
}

/// One at a time.
#[cfg(any(test, not(target_os = "linux")))]
#[cfg_attr(
    target_os = "linux",
    allow(dead_code, reason = "tests run it on Linux, too")
)]
mod portable {
    use std::io;
    use std::mem;
    use std::net::SocketAddr;

    use mio::net::UdpSocket;

    use super::{BATCH, Sent};
    use crate::limits::DATAGRAM_MAX;

    /// Room for as many datagrams as one call of the other kind reads.
    pub(in crate::io) struct Inbox {
        buffers: Vec<[u8; DATAGRAM_MAX]>,
        /// Sender and length of each datagram.
        got: Vec<(SocketAddr, usize)>,
    }

    impl Inbox {
        pub(in crate::io) fn new() -> Inbox {
            Inbox {
                buffers: vec![[0; DATAGRAM_MAX]; BATCH],
                got: Vec::with_capacity(BATCH),
            }
        }

        pub(in crate::io) fn fill(&mut self, socket: &UdpSocket) -> io::Result<usize> {
            self.got.clear();
            for buffer in &mut self.buffers {
                match socket.recv_from(buffer) {
                    Ok((len, from)) => self.got.push((from, len)),
                    // It is told at the next call.
                    Err(_) if !self.got.is_empty() => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(self.got.len())
        }

        pub(in crate::io) fn senders(&self) -> impl Iterator<Item = SocketAddr> {
            self.got.iter().map(|(from, _)| *from)
        }

        pub(in crate::io) fn drain(
            &mut self,
        ) -> impl Iterator<Item = (Option<SocketAddr>, &mut [u8])> {
            let got = mem::take(&mut self.got);
            let pairs = got.into_iter().zip(&mut self.buffers);
            pairs.map(|((from, len), buffer)| (Some(from), &mut buffer[..len]))
        }
    }

    pub(in crate::io) fn send<'a>(
        socket: &UdpSocket,
        datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> Sent {
        let mut sent = Sent::default();
        for (to, datagram) in datagrams.take(BATCH) {
            sent.done += 1;
            sent.refused += u64::from(socket.send_to(datagram, to).is_err());
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use mio::net::UdpSocket;

    use super::*;

    fn socket(addr: &str) -> UdpSocket {
        UdpSocket::bind(addr.parse().unwrap()).unwrap()
    }

    macro_rules! for_each_kind {
        ($($kind:ident: $test:ident,)*) => {
            mod each {
                $(
                    #[test]
                    fn $test() {
                        super::datagrams_arrive_whole_in_order_and_with_their_sender(
                            super::super::$kind::Inbox::new,
                            |inbox, socket| inbox.fill(socket),
                            |inbox| inbox.drain().map(|(from, d)| (from, d.to_vec())).collect(),
                            |socket, datagrams| super::super::$kind::send(socket, datagrams.iter()
                                .map(|(to, d)| (*to, &d[..]))),
                        );
                    }
                )*
            }
        };
    }

    #[cfg(target_os = "linux")]
    for_each_kind! {
        linux: batches_of_the_system_carry_everything,
        portable: one_at_a_time_carries_everything,
    }
    #[cfg(not(target_os = "linux"))]
    for_each_kind! {
        portable: one_at_a_time_carries_everything,
    }

    type Datagrams = Vec<(SocketAddr, Vec<u8>)>;

    fn datagrams_arrive_whole_in_order_and_with_their_sender<I>(
        inbox: impl Fn() -> I,
        fill: impl Fn(&mut I, &UdpSocket) -> std::io::Result<usize>,
        drain: impl Fn(&mut I) -> Vec<(Option<SocketAddr>, Vec<u8>)>,
        send: impl Fn(&UdpSocket, &Datagrams) -> Sent,
    ) {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let (a, b) = (socket(addr), socket(addr));
            let to = b.local_addr().unwrap();
            let datagrams: Datagrams = (0..BATCH + 3)
                .map(|n| (to, vec![u8::try_from(n).unwrap(); n * 20]))
                .collect();
            let mut rest = datagrams.clone();
            while !rest.is_empty() {
                let sent = send(&a, &rest);
                assert_eq!(sent.refused, 0);
                assert!(sent.done > 0);
                rest.drain(..sent.done);
            }
            let mut inbox = inbox();
            let mut got = Vec::new();
            let patience = Instant::now() + Duration::from_secs(10);
            while got.len() < datagrams.len() && Instant::now() < patience {
                match fill(&mut inbox, &b) {
                    Ok(count) => {
                        let drained = drain(&mut inbox);
                        assert_eq!(drained.len(), count);
                        got.extend(drained);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            let from = Some(a.local_addr().unwrap());
            let expected: Vec<_> = datagrams.into_iter().map(|(_, d)| (from, d)).collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_datagram_that_is_refused_does_not_hold_up_the_next() {
        let (a, b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let to = b.local_addr().unwrap();
        // Over 65,507 bytes there is no datagram of IPv4.
        let huge = vec![0; 70_000];
        let datagrams = [(to, &huge[..]), (to, &b"next"[..])];
        let first = send(&a, datagrams.iter().copied());
        let Sent { done, refused } = first;
        assert_eq!(refused, 1);
        assert!(done >= 1);
        let second = send(&a, datagrams[done..].iter().copied());
        assert_eq!(done + second.done, 2);
        assert_eq!(second.refused, 0);
    }
}
