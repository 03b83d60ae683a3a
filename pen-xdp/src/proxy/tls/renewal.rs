//! Looks after certificates, what clients' and servers' are checked by, and keys of tickets: when a
//! file changes, it is read again.
//!
//! inotify tells of changes; as it knows nothing of file systems that others write to (NFS), and of
//! folders that could not be watched, all is looked at from time to time anyway.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::store::Look;
use crate::files;

/// How often all files are looked at though nothing was told of them.
const ROUND: Duration = Duration::from_secs(60);
/// The same where the kernel tells nothing: files take effect within two seconds there as well.
const BLIND_ROUND: Duration = Duration::from_secs(1);
/// After a change: who writes one file mostly writes the next one, too.
const SETTLE: Duration = Duration::from_millis(100);
/// Part of the time that looking may take while files change all the time: one of so many.
const SHARE: u32 = 5;
/// How long the end waits for a look that is under way: it may be at a disk that is gone.
const END_MAX: Duration = Duration::from_secs(2);
/// Longest wait after a change, whatever looking takes.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// What is made of files that may change.
pub(in crate::proxy) trait Watched: fmt::Debug + Send + Sync {
    /// Looks at all files, reads again what has changed, and goes by it.
    fn refresh(&self) -> Look;

    /// Every folder in which something happens when a file becomes another one.
    fn folders(&self) -> BTreeSet<PathBuf>;
}

/// See the module; ends with its owner.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Renewal(Option<Running>);

#[derive(Debug)]
struct Running {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Orders {
    watched: Mutex<Vec<Arc<dyn Watched>>>,
    over: AtomicBool,
    wake: EventFd,
}

/// Of what the kernel tells.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    /// Of all folders.
    All,
    /// Not of those that are not there.
    Some,
}

/// Why it is time to look.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Orders,
    Files,
    Time,
}

impl Renewal {
    /// Looks after these from now on, and after no others.
    pub(in crate::proxy) fn follow(&mut self, watched: Vec<Arc<dyn Watched>>) {
        if self.0.is_none() {
            if watched.is_empty() {
                return;
            }
            match Running::start() {
                Ok(running) => self.0 = Some(running),
                Err(error) => {
                    tracing::warn!(
                        "certificates that change are read at the next start only: {error:#}"
                    );
                    return;
                }
            }
        }
        if let Some(running) = &self.0 {
            *running.orders.watched() = watched;
            running.orders.tell();
        }
    }
}

impl Running {
    fn start() -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags).context("no eventfd")?;
        let orders = Arc::new(Orders {
            watched: Mutex::default(),
            over: AtomicBool::new(false),
            wake,
        });
        let given = Arc::clone(&orders);
        let thread = thread::Builder::new()
            .name("pen-renewal".to_owned())
            .spawn(move || run(&given))
            .context("no thread for it")?;
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.orders.over.store(true, Ordering::Relaxed);
        self.orders.tell();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let end = Instant::now() + END_MAX;
        while !thread.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            // What it panicked of was said when it did.
            let _ = thread.join();
        }
    }
}

impl Orders {
    fn watched(&self) -> std::sync::MutexGuard<'_, Vec<Arc<dyn Watched>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        // Full, it wakes as well.
        let _ = self.wake.write(1);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn run(orders: &Orders) {
    let mut warned = false;
    while !orders.is_over() {
        let all = orders.watched().clone();
        // First, so that what happens while files are looked at is told of.
        let watched = watch(&all);
        if let Err(error) = &watched
            && !warned
        {
            tracing::warn!(
                "files of certificates are looked at each second, as the kernel tells nothing of \
                 them: {error}; mend: raise fs.inotify.max_user_watches or max_user_instances"
            );
            warned = true;
        }
        let begun = Instant::now();
        let mut round = match &watched {
            Ok((_, Reach::All)) => ROUND,
            Ok((_, Reach::Some)) | Err(_) => BLIND_ROUND,
        };
        let mut changed = false;
        for one in &all {
            let look = one.refresh();
            changed |= look.changed;
            round = round.min(look.again.unwrap_or(round));
        }
        // There may be other folders to be watched, in which something happened meanwhile.
        if changed {
            round = round.min(SETTLE);
        }
        let settle = (begun.elapsed() * SHARE).clamp(SETTLE, SETTLE_MAX);
        let told = watched.as_ref().ok().map(|(told, _)| told);
        if wait(orders, told, round) == Woken::Files {
            wait(orders, None, settle);
        }
    }
}

/// Has the kernel tell of changes in all folders of these.
///
/// # Errors
/// There are more than the kernel's limit.
fn watch(all: &[Arc<dyn Watched>]) -> io::Result<(OwnedFd, Reach)> {
    let folders: BTreeSet<PathBuf> = all.iter().flat_map(|one| one.folders()).collect();
    let (told, all) = files::watch(folders)?;
    let reach = if all { Reach::All } else { Reach::Some };
    Ok((told, reach))
}

/// Waits for one of them, `longest` at most.
fn wait(orders: &Orders, told: Option<&OwnedFd>, longest: Duration) -> Woken {
    let mut sources = vec![PollFd::new(orders.wake.as_fd(), PollFlags::POLLIN)];
    sources.extend(told.map(|told| PollFd::new(told.as_fd(), PollFlags::POLLIN)));
    let timeout = PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX);
    // Woken by a signal it is a look too early, no more.
    let _ = poll(&mut sources, timeout);
    let mut ready = sources.iter().map(|source| source.any() == Some(true));
    match (ready.next(), ready.next()) {
        (Some(true), _) => {
            let _ = orders.wake.read();
            Woken::Orders
        }
        (_, Some(true)) => Woken::Files,
        _ => Woken::Time,
    }
}
