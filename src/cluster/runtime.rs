//! The side thread of everything asynchronous: etcd, gRPC, and what is asked of other nodes.
//!
//! One thread runs one current-thread runtime of tokio. Other threads reach it through
//! [`Runtime::ask`], which blocks them and never it: whatever may block in there (the
//! operations do) goes to tokio's blocking threads.

use std::future::Future;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::io::system;
use crate::limits::{LOOK_UP_THREADS_MAX, OPERATION_THREADS_HERE_MAX, OPERATION_THREADS_MAX};

/// Threads on which something may block: see [`super::grpc`] for how operations share them.
const BLOCKING_THREADS: usize =
    OPERATION_THREADS_MAX + OPERATION_THREADS_HERE_MAX + LOOK_UP_THREADS_MAX;

/// The thread, while it runs.
#[derive(Debug)]
pub struct Runtime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// No answer within the asker's patience, or none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

impl Runtime {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the system says when it is asked for a thread or a poll.
    pub fn start() -> io::Result<Runtime> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(move || {
                system::come_behind_the_loop();
                // An end that was dropped ends it as well.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        Ok(Runtime {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// By which tasks are spawned from other threads.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Carries out `work` on the thread and waits for what comes of it, for `patience` at most;
    /// after that it is dropped where it stands.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn ask<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        ask(&self.handle, patience, work)
    }
}

/// See [`Runtime::ask`]; for who has but the handle.
///
/// # Errors
/// [`NoAnswer`].
pub fn ask<T: Send + 'static>(
    handle: &Handle,
    patience: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, NoAnswer> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let task = handle.spawn(async move {
        let answer = work.await;
        // The asker may have lost its patience.
        let _ = sender.try_send(answer);
    });
    receiver.recv_timeout(patience).map_err(|error| {
        if error == RecvTimeoutError::Timeout {
            task.abort();
        }
        NoAnswer
    })
}

impl Drop for Runtime {
    /// Ends the thread; tasks are dropped where they stand.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was told when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_on_the_thread_of_the_runtime() {
        let runtime = Runtime::start().unwrap();
        let name = runtime.ask(Duration::from_secs(60), async {
            thread::current().name().map(str::to_owned)
        });
        assert_eq!(name, Ok(Some("cluster".to_owned())));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_loop_comes_first() {
        let nice = || rustix::process::getpriority_process(None);
        let runtime = Runtime::start().unwrap();
        let behind = runtime.ask(Duration::from_secs(60), async move { nice() });
        let operations = runtime.ask(Duration::from_secs(60), async move {
            tokio::task::spawn_blocking(nice).await.unwrap()
        });
        assert!(behind.unwrap().unwrap() > nice().unwrap());
        assert!(operations.unwrap().unwrap() > nice().unwrap());
    }

    #[test]
    fn work_that_takes_too_long_is_dropped() {
        struct Told(mpsc::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let runtime = Runtime::start().unwrap();
        let (sender, dropped) = mpsc::channel();
        let told = Told(sender);
        let answer = runtime.ask(Duration::from_millis(1), async move {
            let _told = told;
            std::future::pending::<()>().await;
        });
        assert_eq!(answer, Err(NoAnswer));
        assert_eq!(dropped.recv_timeout(Duration::from_secs(60)), Ok(()));
    }
}
