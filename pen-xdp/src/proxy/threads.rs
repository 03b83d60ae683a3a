//! The proxy's threads: each with an event loop of its own that takes clients and serves them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use core_affinity::CoreId;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::watch;
use tokio::task::spawn_local;

use super::accept::accept;
use super::gate::Gate;
use super::listen::{Bound, Listener, Whose};
use super::service::Service;
use super::udp;

/// Where clients come in.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    pub(super) service: Arc<Service>,
    /// Its number among all listeners.
    pub(super) listener: usize,
}

/// What one thread serves.
struct Share {
    listeners: Vec<(Entrance, Listener)>,
    sockets: Vec<(Entrance, UdpSocket)>,
    everyone: Arc<Gate>,
}

/// Running threads; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    /// Its end tells them.
    stop: Option<watch::Sender<()>>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// One thread for each core that this process may use, but for those that are `taken`; one at
    /// least.
    ///
    /// # Errors
    /// The kernel refuses a socket, an event loop or a thread.
    pub(super) fn start(
        bound: &Bound,
        services: &[Arc<Service>],
        taken: &BTreeSet<usize>,
        everyone: &Arc<Gate>,
    ) -> Result<Self> {
        let (stop, stopped) = watch::channel(());
        let mut threads = Self {
            stop: Some(stop),
            handles: Vec::new(),
        };
        for (number, core) in cores(taken).into_iter().enumerate() {
            let share = Share {
                listeners: with_services(bound.listeners(number)?, services),
                sockets: with_services(bound.datagram_sockets(number)?, services),
                everyone: Arc::clone(everyone),
            };
            let stopped = stopped.clone();
            let (tell, told) = mpsc::sync_channel(1);
            let handle = thread::Builder::new()
                .name(format!("pen-proxy{number}"))
                .spawn(move || run(core, share, stopped, &tell));
            let handle = handle.with_context(|| format!("no proxy thread {number}"))?;
            threads.handles.push(handle);
            let begun = told.recv().context("it has ended").and_then(|b| Ok(b?));
            begun.with_context(|| format!("no event loop for proxy thread {number}"))?;
        }
        Ok(threads)
    }

    pub(super) fn count(&self) -> usize {
        self.handles.len()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.stop.take());
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                tracing::error!("a proxy thread has ended before its time");
            }
        }
    }
}

fn with_services<S>(sockets: Vec<(Whose, S)>, services: &[Arc<Service>]) -> Vec<(Entrance, S)> {
    let found = sockets.into_iter().filter_map(|(whose, socket)| {
        let service = Arc::clone(services.get(whose.service)?);
        let listener = service.listeners.number(whose.listener);
        Some((Entrance { service, listener }, socket))
    });
    found.collect()
}

/// The cores to serve on; `None` is wherever the scheduler likes.
fn cores(taken: &BTreeSet<usize>) -> Vec<Option<CoreId>> {
    let all = core_affinity::get_core_ids().unwrap_or_default();
    let free: Vec<_> = all
        .into_iter()
        .filter(|core| !taken.contains(&core.id))
        .collect();
    match free.is_empty() {
        true => vec![None],
        false => free.into_iter().map(Some).collect(),
    }
}

/// Makes this thread's event loop, tells whether there is one, and serves until told to stop. The
/// loop stays on the thread that made it, so that its tasks need no lock.
fn run(
    core: Option<CoreId>,
    share: Share,
    stopped: watch::Receiver<()>,
    tell: &mpsc::SyncSender<io::Result<()>>,
) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let (runtime, begun) = match runtime {
        Ok(runtime) => (Some(runtime), Ok(())),
        Err(error) => (None, Err(error)),
    };
    // Who asked waits for it, or has gone, and then the thread is told to stop.
    let _ = tell.send(begun);
    if let Some(runtime) = runtime {
        serve(&runtime, core, share, stopped);
    }
}

/// Serves until told to stop.
fn serve(
    runtime: &LocalRuntime,
    core: Option<CoreId>,
    share: Share,
    mut stopped: watch::Receiver<()>,
) {
    if let Some(core) = core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!("a proxy thread can't be kept on core {}", core.id);
    }
    runtime.block_on(async {
        for (door, listener) in share.listeners {
            let everyone = Arc::clone(&share.everyone);
            spawn_local(async move {
                let name = door.service.name.clone();
                if let Err(error) = accept(door, listener, everyone).await {
                    tracing::error!("service {name}: no clients are taken: {error}");
                }
            });
        }
        let scratch = Rc::new(RefCell::new(udp::Scratch::new()));
        for (door, socket) in share.sockets {
            let (everyone, scratch) = (Arc::clone(&share.everyone), Rc::clone(&scratch));
            spawn_local(async move {
                let name = door.service.name.clone();
                if let Err(error) = udp::serve(door, socket, everyone, scratch).await {
                    tracing::error!("service {name}: no datagrams are passed on: {error}");
                }
            });
        }
        // Nothing is ever sent: the wait ends with the sender.
        let _ended = stopped.changed().await;
    });
}
