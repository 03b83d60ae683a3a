//! The proxy's threads: each with an event loop of its own that takes clients and serves them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use core_affinity::CoreId;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::accept::{Listening, accept};
use super::doors::Entrance;
use super::gate::Gate;
use super::listen::Socket;
use super::udp;

/// A door that a thread takes clients at from now on.
type Order = (Entrance, Socket);

/// Running threads; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    all: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    orders: mpsc::UnboundedSender<Order>,
    handle: JoinHandle<()>,
}

impl Threads {
    /// One thread for each core that this process may use, but for those that are `taken`; one at
    /// least.
    ///
    /// # Errors
    /// The kernel refuses an event loop or a thread.
    pub(super) fn start(taken: &BTreeSet<usize>, everyone: &Arc<Gate>) -> Result<Self> {
        let mut threads = Self { all: Vec::new() };
        for (number, core) in cores(taken).into_iter().enumerate() {
            let everyone = Arc::clone(everyone);
            let (orders, ordered) = mpsc::unbounded_channel();
            let (tell, told) = sync_channel(1);
            let handle = thread::Builder::new()
                .name(format!("pen-proxy{number}"))
                .spawn(move || run(core, ordered, everyone, &tell));
            let handle = handle.with_context(|| format!("no proxy thread {number}"))?;
            threads.all.push(Thread { orders, handle });
            let begun = told.recv().context("it has ended").and_then(|b| Ok(b?));
            begun.with_context(|| format!("no event loop for proxy thread {number}"))?;
        }
        Ok(threads)
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Has every thread take clients at a door, each by its own socket.
    pub(super) fn open(&self, entrance: &Entrance, sockets: Vec<Socket>) {
        for (thread, socket) in self.all.iter().zip(sockets) {
            if thread.orders.send((entrance.clone(), socket)).is_err() {
                tracing::error!("a proxy thread has ended before its time");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let all = self.all.drain(..).map(|thread| thread.handle);
        for handle in all.collect::<Vec<_>>() {
            if handle.join().is_err() {
                tracing::error!("a proxy thread has ended before its time");
            }
        }
    }
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
    orders: mpsc::UnboundedReceiver<Order>,
    everyone: Arc<Gate>,
    tell: &SyncSender<io::Result<()>>,
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
    if let Some(core) = core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!("a proxy thread can't be kept on core {}", core.id);
    }
    if let Some(runtime) = runtime {
        runtime.block_on(serve(orders, everyone));
    }
}

/// Serves at each door that it is told of, until nobody can tell it of any more.
async fn serve(mut orders: mpsc::UnboundedReceiver<Order>, everyone: Arc<Gate>) {
    let scratch = Rc::new(RefCell::new(udp::Scratch::new()));
    while let Some((entrance, socket)) = orders.recv().await {
        let (everyone, scratch) = (Arc::clone(&everyone), Rc::clone(&scratch));
        spawn_local(async move {
            let name = entrance.service.name.clone();
            let served = async {
                let listening = match socket {
                    Socket::Tcp(socket) => Listening::tcp(socket)?,
                    Socket::Unix(socket) => Listening::unix(socket)?,
                    Socket::Udp(socket) => {
                        return udp::serve(entrance, socket, everyone, scratch).await;
                    }
                };
                accept(entrance, &listening, everyone).await;
                Ok(())
            };
            if let Err(error) = served.await {
                tracing::error!("service {name}: no clients are taken: {error}");
            }
        });
    }
}
