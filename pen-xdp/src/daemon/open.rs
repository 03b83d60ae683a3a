//! Choosing the plane: what is tried, in which order, and what came of it.

use std::{ops::Range, sync::Arc};

use anyhow::{Context, Result};
use crossbeam::channel::Sender;
use pen_common::{
    config::{Plane, XdpMode},
    control::{Degraded, QueueStatus, Rung, ServedBy, XdpStatus},
};

use super::queues;
use super::workers::{core_count, cores, longest, open_workers, plane_busy, polls, to_program};
use crate::{
    control::{
        grace::Readers,
        publish::{Publisher, TableMemoryFull},
        snapshot::Snapshot,
        state::{Command, State},
    },
    ebpf::possible_cpus,
    keeper::Keeper,
    mapped::{Mapped, MappedMemory, Shape},
    nic::{HookMode, Wanted},
    plane::{
        Event, Queue, WorkerConfig, Workers,
        af_xdp::{self, Mode},
    },
};

/// A plane at work.
pub struct Opened {
    /// Which.
    pub plane: Plane,
    /// What was tried, best first.
    pub rungs: Vec<Rung>,
    /// How the program hangs on the interface.
    pub xdp: XdpStatus,
    /// Receive and transmit queues when they were looked at last.
    pub counted: (u32, u32),
    /// The receive queues, as they were opened.
    pub queues: Vec<QueueStatus>,
    /// What works less well than it could.
    pub degraded: Vec<Degraded>,
    /// Whether it began with workers, and has them again when it can.
    pub with_workers: bool,
    /// Workers, where the plane has them.
    pub workers: Option<Workers>,
    /// What the plane steers by.
    pub memory: Arc<Mapped>,
    /// Writes it.
    pub publisher: Publisher,
    /// What is in force.
    pub snapshot: Snapshot,
    /// How those who read the memory are waited for.
    pub readers: Arc<Readers>,
}

impl Opened {
    /// Says what becomes of queues that the driver added for the program.
    fn appeared(&mut self, queues: Range<u32>) {
        for queue in queues {
            self.degraded.push(Degraded {
                what: format!("queue {queue}"),
                why: "it appeared when the program was attached and may not be able to send from \
                      a socket, so the program serves it"
                    .into(),
            });
        }
    }

    /// The longest frame that every queue's socket takes, bytes; `mtu` is the interface's.
    pub(super) fn longest(&self, mtu: u32) -> u32 {
        let takes_whole = |queue: &QueueStatus| queue.worker.is_none() || queue.multi_buffer;
        longest(mtu, self.queues.iter().all(takes_whole))
    }

    /// Says that worker `number`, on its core, has the queue, and what its socket lacks.
    pub(super) fn served(&mut self, queue: u32, (number, core): (u32, Option<usize>), mode: Mode) {
        if let Some(status) = self.queues.get_mut(queue as usize) {
            *status = QueueStatus {
                served_by: ServedBy::Worker,
                worker: Some(number),
                core: core.and_then(|core| u32::try_from(core).ok()),
                zero_copy: mode.zero_copy,
                multi_buffer: mode.multi_buffer,
                need_wakeup: true,
                busy_poll: mode.busy_poll,
                tx_budget: mode.send_budget,
                ..status.clone()
            };
        }
        for af_xdp::Degraded { what, why } in mode.degraded {
            // Refused together with zero copy, and had without it.
            if what != "multi-buffer" || !mode.multi_buffer {
                note_degraded(&mut self.degraded, what, why);
            }
        }
    }

    /// Says why a queue is left to the program.
    pub(super) fn left(&mut self, queue: u32, error: &af_xdp::OpenError) {
        self.degraded.push(Degraded {
            what: format!("queue {queue}"),
            why: format!("the program serves it: {error}"),
        });
    }

    /// Says what came of a plane.
    pub(super) fn rung(&mut self, plane: Plane, taken: bool, why: &str) {
        self.rungs.push(Rung {
            plane,
            taken,
            why: why.to_owned(),
        });
    }
}

/// Opens the configured plane, or the best one that there is.
///
/// # Errors
/// A plane that was asked for by name, or every rung of `auto`, failed; nothing is left attached.
pub fn open(keeper: &mut Keeper, state: &mut State, events: &Sender<Event>) -> Result<Opened> {
    if state.config().plane == Plane::AfPacket {
        keeper.detach_left_over()?;
        for sentence in keeper.restore_left_over()? {
            tracing::warn!("{sentence}");
        }
        return open_packet(keeper, state, events);
    }
    open_program(keeper, state, events)
}

/// Where a plane counts, and what it is filled with at first.
struct Filled {
    memory: Arc<Mapped>,
    publisher: Publisher,
    snapshot: Snapshot,
}

/// Generations go on from `before`, which a memory before this one may have come to.
fn fill(memory: Arc<Mapped>, state: &State, before: u64) -> Result<Filled> {
    let mut publisher = Publisher::new(Arc::clone(&memory));
    let mut snapshot = Snapshot::compile(state, None)?;
    snapshot.generation = publisher.generation().max(before) + 1;
    publisher.publish(&snapshot)?;
    Ok(Filled {
        memory,
        publisher,
        snapshot,
    })
}

/// The program's memory, filled. Tables in force are not written over: what does not fit beside
/// those of the daemon before gets memory of its own, and the program changes over with `attach`.
fn fill_program(
    keeper: &mut Keeper,
    state: &State,
    readers: &Readers,
    queues: u32,
) -> Result<Filled> {
    let bytes = state.config().table_memory();
    let memory = keeper.open_program(bytes, queues)?;
    // The daemon before may have died between a publication and the end of its readers.
    readers.wait(|| true)?;
    let (generation, note) = (memory.root() >> 1, memory.note());
    match fill(Arc::clone(&memory), state, generation) {
        Err(error) if keeper.adopted() && error.is::<TableMemoryFull>() => {
            tracing::info!("the tables do not fit beside those in force: new memory, new counters");
            let fresh = keeper.open_fresh_program(bytes, queues)?;
            fresh.leave_note(note);
            fresh.take_flows_from(&memory);
            fill(fresh, state, generation)
        }
        other => other,
    }
}

/// The packet socket: one worker, no program, memory of this process.
fn open_packet(keeper: &mut Keeper, state: &State, events: &Sender<Event>) -> Result<Opened> {
    let config = state.config();
    let cpus = possible_cpus().context("the number of CPUs is not known")?;
    let shape = Shape::new(config.table_memory(), cpus, 1);
    let memory = Mapped::of_process(shape).context("no memory for the tables")?;
    let filled = fill(Arc::new(memory), state, 0)?;
    let port = keeper.open_packet_socket()?;
    let memory = MappedMemory::new(Arc::clone(&filled.memory), cpus, false);
    let core = cores().first().copied();
    let worker = WorkerConfig {
        core,
        busy: plane_busy(config.busy, 0, core_count()),
        queues: vec![Queue {
            number: 0,
            port,
            memory,
        }],
    };
    let workers = Workers::start(vec![worker], events)?;
    let why = "as configured".to_owned();
    Ok(Opened {
        plane: Plane::AfPacket,
        rungs: vec![Rung {
            plane: Plane::AfPacket,
            taken: true,
            why,
        }],
        xdp: XdpStatus {
            mode: None,
            why: "the packet socket needs none".into(),
        },
        counted: keeper.queues().context("the queues can't be counted")?,
        queues: vec![QueueStatus {
            worker: Some(0),
            core: core.and_then(|core| u32::try_from(core).ok()),
            ..queue_status(0, ServedBy::Worker)
        }],
        degraded: Vec::new(),
        with_workers: false,
        workers: Some(workers),
        memory: filled.memory,
        publisher: filled.publisher,
        snapshot: filled.snapshot,
        readers: Arc::new(Readers::None),
    })
}

/// The program, and workers if the mode is good for them or they were asked for.
fn open_program(keeper: &mut Keeper, state: &mut State, events: &Sender<Event>) -> Result<Opened> {
    let today = keeper.queues().context("the queues can't be counted")?;
    // Without it nothing could be changed, so nothing is begun.
    let readers = Arc::new(keeper.readers()?);
    let filled = fill_program(keeper, state, &readers, today.0)?;
    let ifindex = keeper.nic.index;
    let queues_before = queues::usable(&filled.memory, ifindex, today);
    let mut note = queues::Note {
        ifindex,
        before: queues_before,
        after: (0, 0),
    };
    note.leave(&filled.memory);
    let attachment = keeper.attach()?;
    note.after = keeper.queues().context("the queues can't be counted")?;
    note.leave(&filled.memory);
    let native = attachment.mode == HookMode::Native;
    let xdp = XdpStatus {
        mode: Some(if native {
            XdpMode::Native
        } else {
            XdpMode::Generic
        }),
        why: attachment.why,
    };
    let mut opened = Opened {
        plane: Plane::Xdp,
        rungs: Vec::new(),
        xdp,
        counted: note.after,
        queues: Vec::new(),
        degraded: Vec::new(),
        with_workers: false,
        workers: None,
        memory: filled.memory,
        publisher: filled.publisher,
        snapshot: filled.snapshot,
        readers,
    };
    if let Err(error) = climb(keeper, state, events, &mut opened, (native, queues_before)) {
        // The error is what its reader needs; taking the program off is said in the log.
        to_program(keeper, &mut opened);
        return Err(error);
    }
    Ok(opened)
}

/// Takes the rung that the configuration asks for, or the best one.
fn climb(
    keeper: &mut Keeper,
    state: &mut State,
    events: &Sender<Event>,
    opened: &mut Opened,
    (native, queues_before): (bool, u32),
) -> Result<()> {
    let config = state.config().clone();
    let tagged = config.dsr_services().any(|service| service.vlan.is_some());
    let workers_wanted = match config.plane {
        Plane::AfXdp => true,
        Plane::Auto => native,
        Plane::Xdp | Plane::AfPacket => false,
    };
    let wanted = Wanted {
        generic: !native,
        tagged,
        // The first worker is the last one to be kept from spinning.
        busy_poll: workers_wanted
            && polls(plane_busy(config.busy, 0, core_count()), &keeper.nic.driver),
    };
    set(keeper, opened, wanted)?;
    let queues = keeper.queues().context("the queues can't be counted")?;
    opened.queues = (0..queues.0)
        .map(|queue| queue_status(queue, ServedBy::Program))
        .collect();
    opened.appeared(queues_before..queues.0);
    if !workers_wanted {
        without_workers(config.plane, opened);
        return Ok(());
    }
    let degraded = opened.degraded.len();
    match open_workers(keeper, state, events, opened, queues_before) {
        Ok(()) => {
            (opened.plane, opened.with_workers) = (Plane::AfXdp, true);
            let why = if config.plane == Plane::Auto {
                "native XDP"
            } else {
                "as configured"
            };
            opened.rung(Plane::AfXdp, true, why);
            Ok(())
        }
        Err(error) if config.plane == Plane::Auto => {
            to_program(keeper, opened);
            // What their sockets lacked is no lack of the program's.
            opened.degraded.truncate(degraded);
            let wanted = Wanted {
                busy_poll: false,
                ..wanted
            };
            set(keeper, opened, wanted)?;
            state.apply(Command::Interface {
                mac: state.mac(),
                redirect_len_max: 0,
            })?;
            let why = format!("{error:#}");
            tracing::warn!("no AF_XDP workers, the program forwards by itself: {why}");
            opened.rung(Plane::AfXdp, false, &why);
            opened.rung(Plane::Xdp, true, "the program is attached");
            Ok(())
        }
        Err(error) => Err(error.context("plane = af_xdp")),
    }
}

/// Makes the interface's settings what this way of forwarding wants.
fn set(keeper: &mut Keeper, opened: &mut Opened, wanted: Wanted) -> Result<()> {
    for why in keeper.set(wanted)? {
        note_degraded(&mut opened.degraded, "interface settings", why);
    }
    Ok(())
}

/// Says why the program forwards by itself.
fn without_workers(wanted: Plane, opened: &mut Opened) {
    let why = match wanted {
        Plane::Auto => "generic XDP: the program carries frames that a socket can't take whole",
        Plane::AfXdp | Plane::Xdp | Plane::AfPacket => "as configured",
    };
    if wanted == Plane::Auto {
        let why = "left out: workers need native XDP to be worth their core";
        opened.rung(Plane::AfXdp, false, why);
    }
    opened.rung(Plane::Xdp, true, why);
}

/// The same lack on every queue is one lack.
fn note_degraded(degraded: &mut Vec<Degraded>, what: &str, why: String) {
    if !degraded
        .iter()
        .any(|known| known.what == what && known.why == why)
    {
        degraded.push(Degraded {
            what: what.to_owned(),
            why,
        });
    }
}

pub(super) fn queue_status(queue: u32, served_by: ServedBy) -> QueueStatus {
    QueueStatus {
        queue,
        served_by,
        worker: None,
        core: None,
        zero_copy: false,
        multi_buffer: false,
        need_wakeup: false,
        busy_poll: false,
        tx_budget: None,
        heartbeat_age_ms: None,
        frames: None,
        xdp_statistics: None,
    }
}
