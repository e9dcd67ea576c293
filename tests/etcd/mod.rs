//! A real etcd for one test, on free ports of this machine, in a directory of its own: it can be
//! killed, stopped, wiped and cut off, and is gone when the test is.
//!
//! The programs `etcd` and `etcdctl` come from the PATH, or from where `ETCD` and `ETCDCTL` point.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything: far beyond what is expected, so that a busy machine does not fail a
/// test.
pub(crate) const AT_MOST: Duration = Duration::from_secs(60);

/// Asks again and again until it is so.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < AT_MOST, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Certificates of a test, all in one directory.
pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificates {
    /// Who signs, and one certificate of 127.0.0.1 that does for both ends. Made by `openssl`.
    pub(crate) fn make(dir: &Path) -> Certificates {
        let openssl = |args: &str| {
            let made = Command::new("openssl")
                .args(args.split(' '))
                .current_dir(dir)
                .output()
                .expect("openssl is there: ./scripts/test installs it");
            assert!(made.status.success(), "{made:?}");
        };
        let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!(
            "req -x509 {curve} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"
        ));
        openssl(&format!(
            "req {curve} -keyout own.key -out own.csr -subj /CN=own"
        ));
        fs::write(dir.join("own.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        openssl(
            "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out own.pem -days 2 \
             -extfile own.ext",
        );
        Certificates {
            ca: dir.join("ca.pem"),
            cert: dir.join("own.pem"),
            key: dir.join("own.key"),
        }
    }
}

/// See the head of the file.
pub(crate) struct Etcd {
    child: Option<Child>,
    dir: PathBuf,
    client: u16,
    peer: u16,
    certificates: Option<Certificates>,
}

impl Etcd {
    /// One that runs.
    pub(crate) fn start() -> Etcd {
        let mut etcd = Etcd::prepare();
        etcd.run();
        etcd
    }

    /// One that asks for certificates, and shows one.
    pub(crate) fn start_with_tls() -> Etcd {
        let mut etcd = Etcd::prepare();
        etcd.certificates = Some(Certificates::make(&etcd.dir));
        etcd.run();
        etcd
    }

    /// One that does not run yet.
    pub(crate) fn prepare() -> Etcd {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lockstep-etcd-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = ports.map(|port| port.local_addr().unwrap().port());
        Etcd {
            child: None,
            dir,
            client,
            peer,
            certificates: None,
        }
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    pub(crate) fn certificates(&self) -> &Certificates {
        self.certificates
            .as_ref()
            .expect("it was started with some")
    }

    /// Starts it, with what it had when it ended, and waits until it answers.
    pub(crate) fn run(&mut self) {
        let program = std::env::var_os("ETCD").unwrap_or_else(|| "etcd".into());
        let (url, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let mut command = Command::new(program);
        command
            .args(["--name", "t", "--logger", "zap", "--log-level", "warn"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .args([
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
            ])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("t={peer}")]);
        if let Some(made) = &self.certificates {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(&made.ca);
            command.arg("--cert-file").arg(&made.cert);
            command.arg("--key-file").arg(&made.key);
        }
        let started = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let started =
            started.expect("etcd is there: ./scripts/test installs it, or set ETCD to it");
        self.child = Some(started);
        wait_for("etcd answers", || self.try_ctl(&["get", "x"]).is_ok());
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it, deletes all it had, and starts it again.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.dir.join("data")).unwrap();
        self.run();
    }

    /// Holds it still.
    #[cfg(unix)]
    pub(crate) fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    #[cfg(unix)]
    pub(crate) fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// What `etcdctl` says.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        self.try_ctl(args)
            .unwrap_or_else(|why| panic!("etcdctl {args:?}: {why}"))
    }

    fn command(&self) -> Command {
        let program = std::env::var_os("ETCDCTL").unwrap_or_else(|| "etcdctl".into());
        let mut command = Command::new(program);
        command
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(self.url());
        if let Some(made) = &self.certificates {
            command.arg("--cacert").arg(&made.ca);
            command
                .arg("--cert")
                .arg(&made.cert)
                .arg("--key")
                .arg(&made.key);
        }
        command
    }

    fn try_ctl(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command().args(args).output();
        let output = output.expect("etcdctl is there: ./scripts/test installs it, or set ETCDCTL");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// The value of a key; `None` if there is none.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let text = self.ctl(&["get", "--print-value-only", key]);
        let text = text.trim_end().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// All keys that begin like this.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let text = self.ctl(&["get", "--prefix", "--keys-only", prefix]);
        text.split_whitespace().map(str::to_owned).collect()
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        if value.is_empty() {
            self.ctl(&["put", "--", key, ""]);
            return;
        }
        let mut command = self.command();
        // It reads the value from there: an argument cannot be as long.
        let command = command.args(["put", "--", key]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(value.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success(), "etcdctl put {key}");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            eprintln!("etcd in {:?} said: {log}", self.dir);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A way to an etcd that can be cut.
pub(crate) struct Way {
    port: u16,
    state: Arc<WayState>,
}

#[derive(Default)]
struct WayState {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Way {
    pub(crate) fn to(etcd: &Etcd) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(WayState::default());
        let (target, shared) = (etcd.client, Arc::clone(&state));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if !shared.is_cut.load(Ordering::SeqCst) {
                    let _ = shared.join(stream, target);
                }
            }
        });
        Way { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends all connections, and those to come.
    pub(crate) fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl WayState {
    fn join(&self, near: TcpStream, target: u16) -> io::Result<()> {
        let far = TcpStream::connect(("127.0.0.1", target))?;
        for (mut from, mut to) in [
            (near.try_clone()?, far.try_clone()?),
            (far.try_clone()?, near.try_clone()?),
        ] {
            thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        self.open.lock().unwrap().extend([near, far]);
        Ok(())
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
