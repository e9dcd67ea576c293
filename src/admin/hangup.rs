//! Hanging up connections that tiny_http owns and does not show.
//!
//! tiny_http has no way to end a connection that idles, withholds a body or does not read.
//! Linux has one to get at the sockets of the own process without it: the list in
//! `/proc/self/fd`, and `pidfd_getfd`, which duplicates a descriptor by its number. Shutting
//! the duplicate down makes the thread that waits in the original go on, and close it.
//!
//! Other systems, and sandboxes that forbid the call (Docker's usual one does), go without:
//! then a stuck connection lasts as long as its client wants.

use std::io;
use std::net::SocketAddr;

#[cfg(target_os = "linux")]
pub(super) use linux::Hangup;
#[cfg(not(target_os = "linux"))]
pub(super) use portable::Hangup;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::net::Shutdown;
    use std::os::fd::OwnedFd;
    use std::sync::{Mutex, MutexGuard};

    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    use socket2::{SockRef, Type};

    use super::{SocketAddr, io};

    /// Descriptors kept for when there are none left: one for the list, one for a duplicate,
    /// and two for whoever is faster.
    const SPARE: usize = 4;

    /// See the head of the file.
    pub(in crate::admin) struct Hangup {
        process: io::Result<OwnedFd>,
        spare: Mutex<Vec<File>>,
    }

    impl Hangup {
        pub(in crate::admin) fn new() -> Hangup {
            let hangup = Hangup {
                process: pidfd_open(getpid(), PidfdFlags::empty()).map_err(io::Error::from),
                spare: Mutex::new(Vec::new()),
            };
            fill(&mut hangup.spare());
            hangup
        }

        /// Hangs up the connections that came in on `port` and whose peer is one of `which`;
        /// says how many there were.
        pub(in crate::admin) fn hang_up(
            &self,
            port: u16,
            which: impl Fn(SocketAddr) -> bool,
        ) -> io::Result<usize> {
            let process = match &self.process {
                Ok(process) => process,
                Err(error) => return Err(error.kind().into()),
            };
            let mut spare = self.spare();
            spare.clear();
            // A connection has two descriptors, and is one connection.
            let mut peers = BTreeSet::new();
            for entry in fs::read_dir("/proc/self/fd")? {
                let entry = entry?;
                let number = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok());
                // Only sockets: closing the duplicate of a file would give up its locks.
                let target = fs::read_link(entry.path()).unwrap_or_default();
                let is_socket = target
                    .to_str()
                    .is_some_and(|name| name.starts_with("socket:"));
                let (Some(number), true) = (number, is_socket) else {
                    continue;
                };
                let socket = match pidfd_getfd(process, number, PidfdGetfdFlags::empty()) {
                    Ok(socket) => socket,
                    // Closed since it was listed.
                    Err(rustix::io::Errno::BADF) => continue,
                    Err(error) => return Err(error.into()),
                };
                if let Some(peer) = accepted_from(&socket, port).filter(|peer| which(*peer)) {
                    // An error says that it has ended already.
                    let _ = SockRef::from(&socket).shutdown(Shutdown::Both);
                    peers.insert(peer);
                }
            }
            fill(&mut spare);
            Ok(peers.len())
        }

        fn spare(&self) -> MutexGuard<'_, Vec<File>> {
            self.spare
                .lock()
                .expect("nobody panics while holding the spare descriptors")
        }
    }

    fn fill(spare: &mut Vec<File>) {
        while spare.len() < SPARE {
            match File::open("/dev/null") {
                Ok(file) => spare.push(file),
                // Next time, perhaps.
                Err(_) => return,
            }
        }
    }

    /// The peer, if this is the accepted end of a TCP connection to `port`.
    fn accepted_from(socket: &OwnedFd, port: u16) -> Option<SocketAddr> {
        let socket = SockRef::from(socket);
        if socket.r#type().ok()? != Type::STREAM {
            return None;
        }
        let local = socket.local_addr().ok()?.as_socket()?;
        let peer = socket.peer_addr().ok()?.as_socket()?;
        (local.port() == port).then_some(peer)
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use super::{SocketAddr, io};

    /// See the head of the file.
    pub(in crate::admin) struct Hangup;

    impl Hangup {
        pub(in crate::admin) fn new() -> Hangup {
            Hangup
        }

        pub(in crate::admin) fn hang_up(
            &self,
            _port: u16,
            _which: impl Fn(SocketAddr) -> bool,
        ) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}
