//! The doors of all services: what clients come in by, whose they are, and how that changes while
//! the proxy runs.
//!
//! A door is known by its place. One that a change leaves where it is keeps its sockets, whoever
//! serves there from then on: nobody who knocks meanwhile is turned away.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::watch;

use super::inherited::Inherited;
use super::listen::{At, First, Socket, places};
use super::listeners::Listener;
use super::routes::Routes;
use super::service::Service;

/// One door; dropping it closes it, after those who have knocked already.
#[derive(Debug)]
struct Door {
    at: At,
    backlog: u32,
    first: First,
    /// Those that the threads have, to be told of another backlog.
    sockets: Vec<Socket>,
    listener: Arc<Listener>,
    whose: watch::Sender<Arc<Service>>,
}

/// What one thread needs to take clients at a door.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    pub(super) service: Arc<Service>,
    pub(super) listener: Arc<Listener>,
    whose: watch::Receiver<Arc<Service>>,
}

/// What became of a door.
pub(super) enum Turn {
    /// Its clients are this service's now.
    Anothers,
    /// It is closed.
    Closed,
}

/// All doors, service by service in the order of the routes.
#[derive(Debug, Default)]
pub(super) struct Doors {
    all: Vec<Vec<Door>>,
    /// Those that were closed, and until when somebody may still listen there.
    closing: Vec<(At, Instant)>,
}

/// How long that may take, on a busy machine.
const CLOSING: Duration = Duration::from_secs(2);

/// Doors for other routes: what is missing is open already, and nobody comes in by it yet.
#[derive(Debug)]
pub(super) struct Plan(Vec<Vec<Planned>>);

#[derive(Debug)]
enum Planned {
    /// One that is there.
    Kept(At, u32),
    /// One that is new, with a socket for each thread.
    New(Door, Vec<Socket>),
}

impl Entrance {
    /// Returns when something becomes of the door. Nothing is lost when the future is dropped
    /// before it is ready.
    pub(super) async fn turned(&mut self) -> Turn {
        match self.whose.changed().await {
            Ok(()) => {
                self.service = Arc::clone(&self.whose.borrow_and_update());
                Turn::Anothers
            }
            Err(_) => Turn::Closed,
        }
    }
}

impl Door {
    fn new(at: At, first: First, listen: &str, service: &Arc<Service>) -> Self {
        Self {
            at,
            backlog: 0,
            first,
            sockets: Vec::new(),
            listener: Listener::new(listen),
            whose: watch::Sender::new(Arc::clone(service)),
        }
    }

    /// Opens a socket for each of so many threads.
    ///
    /// # Errors
    /// The kernel has no more of them.
    fn divide(&mut self, threads: usize, backlog: u32) -> Result<Vec<Socket>> {
        let sockets = self.first.for_threads(threads, backlog)?;
        let copies: io::Result<Vec<_>> = sockets.iter().map(Socket::try_clone).collect();
        self.sockets = copies.with_context(|| format!("no sockets for {}", self.at))?;
        self.backlog = backlog;
        Ok(sockets)
    }

    /// So many clients may wait in the kernel from now on.
    fn waits(&mut self, backlog: u32) {
        if self.backlog != backlog {
            self.backlog = backlog;
            for error in self
                .sockets
                .iter()
                .filter_map(|one| one.listen(backlog).err())
            {
                tracing::warn!("{}: backlog = {backlog}: {error}", self.at);
            }
        }
    }

    fn entrance(&self) -> Entrance {
        let whose = self.whose.subscribe();
        let service = Arc::clone(&whose.borrow());
        Entrance {
            service,
            listener: Arc::clone(&self.listener),
            whose,
        }
    }

    /// Its clients are this service's from now on.
    fn belongs_to(&self, service: &Arc<Service>) {
        self.whose.send_if_modified(|whose| {
            let other = !Arc::ptr_eq(whose, service);
            if other {
                *whose = Arc::clone(service);
            }
            other
        });
    }
}

impl Doors {
    /// Opens every door of `routes` that is not `inherited`, and takes those that are.
    ///
    /// # Errors
    /// Names the first one that can't be had, and what mends it.
    pub(super) fn open(
        routes: &Routes,
        services: &[Arc<Service>],
        inherited: &mut Inherited,
    ) -> Result<Self> {
        let mut open = |(at, listen): (At, &str), backlog, service: &Arc<Service>| {
            let found = First::inherit(&at, backlog, inherited);
            let first = match found.with_context(|| format!("service {:?}", service.name))? {
                Some(first) => first,
                None => First::open(&at, service, backlog, true)?,
            };
            let mut door = Door::new(at, first, listen, service);
            door.backlog = backlog;
            Ok(door)
        };
        let all = routes.iter().zip(services).map(|(route, service)| {
            let backlog = route.options.backlog;
            let doors = places(route).map(|place| open(place, backlog, service));
            doors.collect()
        });
        Ok(Self {
            all: all.collect::<Result<_>>()?,
            closing: Vec::new(),
        })
    }

    /// Opens what `routes` ask for and is not there, for so many threads.
    ///
    /// # Errors
    /// Names the first one that can't be had, and what mends it. Nothing has changed then.
    pub(super) fn plan(
        &self,
        routes: &Routes,
        services: &[Arc<Service>],
        threads: usize,
    ) -> Result<Plan> {
        let here: Vec<&At> = self.all.iter().flatten().map(|door| &door.at).collect();
        let plan = |(at, listen): (At, &str), backlog, service: &Arc<Service>| {
            if here.contains(&&at) {
                return Ok(Planned::Kept(at, backlog));
            }
            // What a listener of ours is in the way of is free for us alone.
            let now = Instant::now();
            let closing = self.closing.iter().filter(|(_, until)| *until > now);
            let mut ours = here.iter().copied().chain(closing.map(|(door, _)| door));
            let ours = ours.any(|door| door.overlaps(&at));
            let first = First::open(&at, service, backlog, !ours)?;
            let mut door = Door::new(at, first, listen, service);
            let sockets = door.divide(threads, backlog)?;
            Ok(Planned::New(door, sockets))
        };
        let all = routes.iter().zip(services).map(|(route, service)| {
            let backlog = route.options.backlog;
            let doors = places(route).map(|place| plan(place, backlog, service));
            doors.collect()
        });
        all.collect::<Result<_>>().map(Plan)
    }

    /// Goes by the plan: doors that it does not have are closed. Returns those that are new, with a
    /// socket for each thread.
    pub(super) fn turn(
        &mut self,
        plan: Plan,
        services: &[Arc<Service>],
    ) -> Vec<(Entrance, Vec<Socket>)> {
        let mut before: Vec<Door> = std::mem::take(&mut self.all)
            .into_iter()
            .flatten()
            .collect();
        let mut new = Vec::new();
        for (planned, service) in plan.0.into_iter().zip(services) {
            let mut doors = Vec::new();
            for planned in planned {
                match planned {
                    Planned::Kept(at, backlog) => {
                        let here = before.iter().position(|door| door.at == at);
                        let mut kept = here.map(|here| before.swap_remove(here));
                        kept.iter_mut().for_each(|door| door.waits(backlog));
                        doors.extend(kept);
                    }
                    Planned::New(door, sockets) => {
                        new.push((door.entrance(), sockets));
                        doors.push(door);
                    }
                }
            }
            doors.iter().for_each(|door| door.belongs_to(service));
            service.listens(doors.iter().map(|door| Arc::clone(&door.listener)));
            self.all.push(doors);
        }
        let now = Instant::now();
        self.closing.retain(|(_, until)| *until > now);
        let closed = before.into_iter().map(|door| (door.at, now + CLOSING));
        self.closing.extend(closed);
        new
    }

    /// All of them, each with a socket for each thread.
    ///
    /// # Errors
    /// The kernel has no more of them.
    pub(super) fn entrances(&mut self, threads: usize) -> Result<Vec<(Entrance, Vec<Socket>)>> {
        let all = self.all.iter_mut().flatten();
        let all = all.map(|door| {
            let sockets = door.divide(threads, door.backlog)?;
            Ok((door.entrance(), sockets))
        });
        all.collect()
    }

    /// What is shown of each service's.
    pub(super) fn shown_by(&self, services: &[Arc<Service>]) {
        for (doors, service) in self.all.iter().zip(services) {
            service.listens(doors.iter().map(|door| Arc::clone(&door.listener)));
        }
    }

    /// Closes all of them: who has knocked is let in, and nobody else.
    pub(super) fn close(&mut self) {
        self.all.clear();
    }
}
