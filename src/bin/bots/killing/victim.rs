//! The server that is killed: a process that is started again and again, on the same ports and
//! with the same directory for its journal. It ends with the value that stands for it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Ports that systems do not give to outgoing connections: while the server is away nobody else
/// may take its own.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Attempts to find one that is free.
const PORT_TRIES: u32 = 100;
/// Lines of the server's log that are kept for the case that something goes wrong.
const LINES_KEPT: usize = 30;
/// Time for the server to end on SIGTERM.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(10);

/// The program, its settings, and its process if it runs.
#[derive(Debug)]
pub(crate) struct Victim {
    program: PathBuf,
    args: Vec<OsString>,
    /// Where it listens on UDP.
    pub(crate) udp: SocketAddr,
    /// Where it listens on HTTP.
    pub(crate) web: SocketAddr,
    child: Option<Child>,
    /// Of the newest process, also when it has ended.
    lines: Option<Receiver<String>>,
    last_lines: VecDeque<String>,
}

impl Victim {
    /// A server that does not run yet, and finds its journal in `data_dir`.
    ///
    /// # Errors
    /// If no port is free.
    pub(crate) fn new(program: &Path, data_dir: &Path, settings: &[&str]) -> io::Result<Victim> {
        let udp = free_port(|at| UdpSocket::bind(at).map(drop))?;
        let web = free_port(|at| TcpListener::bind(at).map(drop))?;
        let mut args: Vec<OsString> = vec![
            format!("--udp={udp}").into(),
            format!("--web={web}").into(),
            "--log=info".into(),
            "--data-dir".into(),
            data_dir.into(),
        ];
        args.extend(settings.iter().map(OsString::from));
        Ok(Victim {
            program: program.to_owned(),
            args,
            udp,
            web,
            child: None,
            lines: None,
            last_lines: VecDeque::new(),
        })
    }

    /// Starts it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        debug_assert!(self.child.is_none(), "it runs");
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            // They would be settings of the server.
            if name.to_string_lossy().starts_with("LOCKSTEP_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        self.lines = child.stderr.take().map(lines_of);
        self.child = Some(child);
        Ok(())
    }

    /// Ends it with SIGKILL, or what the system has in its place.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.as_mut().map_or(Ok(()), Child::kill)
    }

    /// Asks it to end, with SIGTERM.
    ///
    /// # Errors
    /// What the system says.
    #[cfg(unix)]
    pub(crate) fn terminate(&mut self) -> io::Result<()> {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = self.child.as_ref().map(Pid::from_child);
        pid.map_or(Ok(()), |pid| Ok(kill_process(pid, Signal::TERM)?))
    }

    /// Where there is no SIGTERM it is killed.
    ///
    /// # Errors
    /// What the system says.
    #[cfg(not(unix))]
    pub(crate) fn terminate(&mut self) -> io::Result<()> {
        self.kill()
    }

    /// How it has ended, if it has; `None` also if that was told before.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Asks it to end if it runs, and waits until it has.
    ///
    /// # Errors
    /// What the system says, or that it does not end.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.terminate()?;
        let began = Instant::now();
        while self.child.is_some() && self.ended()?.is_none() {
            if began.elapsed() > END_LIMIT {
                let text = format!("the server lives on after {END_LIMIT:?}");
                return Err(io::Error::other(text));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The next line of its log.
    pub(crate) fn line(&mut self) -> Option<String> {
        let line = self.lines.as_ref()?.try_recv().ok()?;
        if self.last_lines.len() == LINES_KEPT {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line.clone());
        Some(line)
    }

    /// What it said last, in lines.
    pub(crate) fn last_words(&self) -> String {
        let lines: Vec<&str> = self.last_lines.iter().map(String::as_str).collect();
        lines.join("\n")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The lines that come out of a pipe. They must be read, or it would fill.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// An address of this machine that can be bound.
fn free_port(bind: impl Fn(SocketAddr) -> io::Result<()>) -> io::Result<SocketAddr> {
    let mut tries = 0;
    loop {
        // Not out of the seed: another run with the same one may be under way.
        let drawn =
            getrandom::u32().map_err(io::Error::other)? % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(drawn).expect("it is below the number of ports");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        tries += 1;
        match bind(address) {
            Err(_) if tries < PORT_TRIES => {}
            result => return result.map(|()| address),
        }
    }
}
