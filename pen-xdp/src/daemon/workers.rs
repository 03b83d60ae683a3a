//! The workers of an interface: a socket on each queue that can be served, and cores to serve them on;
//! at the start, and again when the interface has other queues.

use std::{os::fd::AsFd, os::fd::OwnedFd, sync::Arc, thread};

use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::Sender;
use pen_common::{
    config::{Busy, Config, Plane, Workers as WorkersWanted},
    control::{Degraded, ServedBy},
};

use super::open::{Opened, queue_status};
use crate::{
    control::{
        snapshot::Snapshot,
        state::{Command, State},
    },
    ebpf::possible_cpus,
    keeper::Keeper,
    mapped::MappedMemory,
    nic::interrupts,
    plane::{
        self, Event, Port, Queue, WorkerConfig, Workers,
        af_xdp::{self, PACKET_MAX, XskPort},
    },
};

/// Bytes of an Ethernet header with one VLAN tag more than the MTU leaves room for.
const LINK_LEN: u32 = 14 + 4;

/// Opens a socket on every queue that can be served, starts the workers, then puts the sockets
/// into the program's map.
///
/// # Errors
/// No queue can be served, or no worker can be started.
pub(super) fn open_workers(
    keeper: &mut Keeper,
    state: &mut State,
    events: &Sender<Event>,
    opened: &mut Opened,
    queues: u32,
) -> Result<()> {
    let bound = bind(keeper, state.config(), opened, queues)?;
    publish_longest(keeper, state, opened)?;
    bound.start(keeper, events, opened)
}

/// The interface has other queues than before, and the program has them all: workers begin anew, each
/// with its share, if the plane has any. Where that can't be, the program goes on.
pub(super) fn reopen(
    keeper: &mut Keeper,
    config: &Config,
    events: &Sender<Event>,
    opened: &mut Opened,
) {
    let (rx, tx) = opened.counted;
    let all = 0..rx;
    opened.queues = all
        .map(|queue| queue_status(queue, ServedBy::Program))
        .collect();
    // Each socket's lacks are found anew.
    let of_socket = ["zero-copy", "multi-buffer", "busy-poll", "send-budget"];
    let stays = |lack: &Degraded| {
        !lack.what.starts_with("queue") && !of_socket.contains(&lack.what.as_str())
    };
    opened.degraded.retain(stays);
    if !opened.with_workers {
        return;
    }
    let begun = bind(keeper, config, opened, rx.min(tx))
        .and_then(|bound| bound.start(keeper, events, opened));
    match begun {
        Ok(()) if opened.plane == Plane::AfXdp => {}
        Ok(()) => {
            opened.plane = Plane::AfXdp;
            opened.rungs.clear();
            opened.rung(Plane::AfXdp, true, "again, since the queues have changed");
        }
        Err(error) => {
            to_program(keeper, opened);
            let why = format!("no worker since the queues have changed: {error:#}");
            tracing::error!("{}: {why}; mend: restart Pen", keeper.nic.name);
            opened.plane = Plane::Xdp;
            opened.rungs.clear();
            opened.rung(Plane::AfXdp, false, &why);
            opened.rung(Plane::Xdp, true, "the program is attached");
        }
    }
}

/// Workers with their queues, before they run.
struct Ready {
    workers: Vec<WorkerConfig<XskPort, MappedMemory>>,
    sockets: Vec<(u32, OwnedFd)>,
}

impl Ready {
    fn start(self, keeper: &mut Keeper, events: &Sender<Event>, opened: &mut Opened) -> Result<()> {
        opened.workers = Some(Workers::start(self.workers, events)?);
        for (queue, socket) in self.sockets {
            keeper.set_socket(queue, socket.as_fd())?;
        }
        Ok(())
    }
}

/// A socket on every queue that can be served, as `opened` shows then.
fn bind(keeper: &Keeper, config: &Config, opened: &mut Opened, queues: u32) -> Result<Ready> {
    let cores = cores();
    let count = match config.workers {
        WorkersWanted::Auto => queues.min((cores.len() as u32).saturating_sub(1).max(1)),
        WorkersWanted::Count(count) => queues.min(u32::from(count).max(1)),
    };
    let cpus = possible_cpus().context("the number of CPUs is not known")?;
    // Each counts in a row of its own, of which there are as many as the start made.
    let count = count.min(opened.memory.shape().rows.saturating_sub(cpus).max(1));
    let mut workers: Vec<_> = (0..count as usize)
        .map(|number| WorkerConfig {
            core: cores.get(number % cores.len().max(1)).copied(),
            busy: plane_busy(config.busy, number, core_count()),
            queues: Vec::new(),
        })
        .collect();
    let mut sockets = Vec::new();
    let mut first_error = None;
    for queue in 0..queues {
        let number = queue % count;
        let worker = &mut workers[number as usize];
        let busy_poll = polls(worker.busy, &keeper.nic.driver);
        // Each would be waited for, and there is no more for the others.
        if let Some(error @ af_xdp::OpenError::Memory { .. }) = &first_error {
            opened.left(queue, error);
            continue;
        }
        match keeper.open_queue(queue, config, busy_poll) {
            Ok(port) => {
                let socket = port.descriptor().context("the socket has no descriptor")?;
                sockets.push((queue, socket.try_clone_to_owned()?));
                opened.served(queue, (number, worker.core), port.mode().clone());
                let memory = Arc::clone(&opened.memory);
                worker.queues.push(Queue {
                    number: queue,
                    port,
                    memory: MappedMemory::new(memory, cpus + number, config.finish_checksums),
                });
            }
            Err(error) => {
                opened.left(queue, &error);
                first_error.get_or_insert(error);
            }
        }
    }
    if sockets.is_empty() {
        bail!(first_error.map_or_else(|| anyhow!("no queue can be served"), Into::into));
    }
    workers.retain(|worker| !worker.queues.is_empty());
    Ok(Ready { workers, sockets })
}

/// Before a worker runs.
fn publish_longest(keeper: &Keeper, state: &mut State, opened: &mut Opened) -> Result<()> {
    state.apply(Command::Interface {
        mac: state.mac(),
        redirect_len_max: opened.longest(keeper.nic.link.mtu),
    })?;
    let snapshot = Snapshot::compile(state, Some(&opened.snapshot))?;
    // The program may read already, over memory that it had before.
    opened.readers.wait(|| true)?;
    opened.publisher.publish(&snapshot)?;
    opened.snapshot = snapshot;
    Ok(())
}

/// A frame that a socket can't take whole, or that the interface could not send again, is none
/// for a worker.
pub(super) fn longest(mtu: u32, multi_buffer: bool) -> u32 {
    let longest = mtu + LINK_LEN;
    if multi_buffer {
        longest
    } else {
        longest.min(PACKET_MAX)
    }
}

/// Gives every queue to the program. Workers that failed half way may have sockets in its map
/// already: those go first, so that what is handed over meanwhile is still forwarded.
pub(super) fn to_program(keeper: &mut Keeper, opened: &mut Opened) {
    for queue in &opened.queues {
        keeper.unset_socket(queue.queue);
    }
    drop(opened.workers.take());
    for status in &mut opened.queues {
        *status = queue_status(status.queue, ServedBy::Program);
    }
}

/// Cores for workers: the last first, because interrupts and all else begin at the first.
pub(super) fn cores() -> Vec<usize> {
    let mut cores: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect();
    cores.reverse();
    cores
}

pub(super) fn core_count() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// When worker `number` spins. One core is always left to the rest of the machine.
pub(super) fn plane_busy(busy: Busy, number: usize, cores: usize) -> plane::Busy {
    match busy {
        _ if number + 1 >= cores => plane::Busy::Never,
        Busy::Auto => plane::Busy::Auto,
        Busy::Always => plane::Busy::Always,
        Busy::Never => plane::Busy::Never,
    }
}

/// Whether a worker drives its queues itself: only then may the interface defer its interrupts. A
/// device that has none is driven when that is asked for.
pub(super) fn polls(busy: plane::Busy, driver: &str) -> bool {
    match busy {
        plane::Busy::Never => false,
        plane::Busy::Auto => interrupts(driver),
        plane::Busy::Always => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_polls_where_one_core_has_to_do_for_all() {
        for busy in [Busy::Auto, Busy::Always, Busy::Never] {
            assert!(!polls(plane_busy(busy, 0, 1), "ice"), "{busy}");
            assert_eq!(polls(plane_busy(busy, 0, 2), "ice"), busy != Busy::Never);
            assert!(!polls(plane_busy(busy, 1, 2), "ice"), "{busy}");
        }
    }

    #[test]
    fn a_device_in_software_is_polled_on_demand_only() {
        for (busy, polled) in [
            (Busy::Auto, false),
            (Busy::Always, true),
            (Busy::Never, false),
        ] {
            assert_eq!(polls(plane_busy(busy, 0, 2), "veth"), polled, "{busy}");
        }
    }
}
