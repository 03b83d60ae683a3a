//! The datagrams of one listening socket, both ways.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use pen_common::config::UDP_IDLE_DEFAULT;
use pen_common::control::{Ended, Stage};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval};

use super::batch::{BATCH, Buffers, Datagram, Headers};
use super::flows::{Flows, Key, Slot};
use super::server::{connect, is_own_fault, send};
use crate::proxy::balance::Refused;
use crate::proxy::connect::{From, has_no_way};
use crate::proxy::connections::Presence;
use crate::proxy::doors::{Entrance, Turn};
use crate::proxy::gate::{Gate, Pass};
use crate::proxy::listeners::Listener;
use crate::proxy::relay::Counts;
use crate::proxy::service::{Point, Service, Visit, now_ms};
use crate::proxy::session::{Visitor, missed, no_way};

/// How late a flow's end may be noticed.
const SWEEP: Duration = Duration::from_secs(1);
/// Where there is no room for a new flow, one that has been silent for so long makes room.
const OUSTED_AFTER_MS: u64 = 1000;
/// A flow's first datagram is kept until there is an answer, for another server if this one
/// refuses; a larger one is not.
const KEPT_BYTES_MAX: usize = 2048;

/// What the listening sockets of one thread share, as only one of them is at work at a time.
pub(in crate::proxy) struct Scratch {
    buffers: Buffers,
    datagrams: Vec<Datagram>,
    lengths: [usize; BATCH],
    ready: [EpollEvent; BATCH],
    from_servers: Headers,
}

/// A client's conversation with one server.
struct Flow {
    socket: UdpSocket,
    point: Arc<Point>,
    visit: Visit,
    /// Until the server has answered.
    first: Option<Box<[u8]>>,
    places: Places,
    /// Among those that are shown.
    connection: Presence,
}

/// Among the service's clients, and among all who take descriptors.
struct Places {
    _service: Pass,
    _everyone: Pass,
}

/// Everything of one listening socket but itself.
struct Relay {
    service: Arc<Service>,
    listener: Arc<Listener>,
    everyone: Arc<Gate>,
    /// Where clients send to.
    port: u16,
    flows: Flows<Flow>,
    /// Tells which flows' servers have answered, by place in the table.
    answered: Epoll,
    scratch: Rc<RefCell<Scratch>>,
}

/// The listening socket.
struct Door {
    socket: AsyncFd<UdpSocket>,
    headers: Headers,
}

impl Scratch {
    pub(in crate::proxy) fn new() -> Self {
        Self {
            buffers: Buffers::new(),
            datagrams: Vec::with_capacity(BATCH),
            lengths: [0; BATCH],
            ready: [EpollEvent::empty(); BATCH],
            from_servers: Headers::connected(),
        }
    }
}

/// Passes datagrams on until the door is closed: answers need its socket, so flows end with it.
///
/// # Errors
/// The socket is none for this event loop, or there are no descriptors left for it.
pub(in crate::proxy) async fn serve(
    mut entrance: Entrance,
    socket: UdpSocket,
    everyone: Arc<Gate>,
    scratch: Rc<RefCell<Scratch>>,
) -> io::Result<()> {
    let address = socket.local_addr()?;
    let answered = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let answers = watch(answered.0.try_clone()?)?;
    let mut door = Door {
        socket: watch(socket)?,
        headers: Headers::listening(address.is_ipv4()),
    };
    let mut relay = Relay {
        service: Arc::clone(&entrance.service),
        listener: Arc::clone(&entrance.listener),
        everyone,
        port: address.port(),
        flows: Flows::new(),
        answered,
        scratch,
    };
    let mut closed = relay.service.connections_now.closed_flows();
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ready = door.socket.readable() => {
                let mut ready = ready?;
                if relay.requests(ready.get_inner(), &mut door.headers) {
                    ready.clear_ready();
                }
            }
            ready = answers.readable() => {
                let mut ready = ready?;
                if relay.answers(door.socket.get_ref(), &mut door.headers) {
                    ready.clear_ready();
                }
            }
            _ = sweep.tick() => relay.sweep(),
            turn = entrance.turned() => match turn {
                Turn::Anothers => {
                    relay.flows = Flows::new();
                    relay.service = Arc::clone(&entrance.service);
                }
                Turn::Closed => return Ok(()),
            },
            _ = closed.changed() => relay.close(),
        }
    }
}

/// A descriptor in this thread's event loop.
#[allow(
    deprecated,
    reason = "its successor is unsafe: `T` must not change its descriptor, and ours can't"
)]
fn watch<T: AsRawFd + Into<OwnedFd>>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, Interest::READABLE)
}

impl Relay {
    /// Takes a batch of what clients sent; whether that was all.
    fn requests(&mut self, listener: &UdpSocket, headers: &mut Headers) -> bool {
        let scratch = Rc::clone(&self.scratch);
        let scratch = &mut *scratch.borrow_mut();
        let (buffers, datagrams) = (&mut scratch.buffers, &mut scratch.datagrams);
        datagrams.clear();
        match headers.receive(listener, buffers, datagrams) {
            Ok(count) => {
                let now_ms = now_ms();
                for (at, datagram) in datagrams.iter().enumerate() {
                    let bytes = buffers.bytes(at, datagram.length);
                    self.request(datagram.key, bytes, now_ms);
                }
                count < BATCH
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    fn request(&mut self, key: Key, bytes: &[u8], now_ms: u64) {
        let Some(slot) = self.flows.find(&key) else {
            return self.begin(key, bytes, now_ms);
        };
        self.flows.heard(slot, now_ms);
        let Some((_, flow)) = self.flows.get_mut(slot) else {
            return;
        };
        match send(&flow.socket, bytes) {
            Ok(()) => flow.sent(bytes),
            Err(error) if is_own_fault(&error) => self.service.count(Refused::Dropped),
            Err(error) => self.failed(slot, Some(bytes), &error),
        }
    }

    fn begin(&mut self, key: Key, bytes: &[u8], now_ms: u64) {
        let address = SocketAddr::new(key.client.ip().to_canonical(), key.client.port());
        let visitor = Visitor {
            address: Some(address),
            port: self.port,
            listener: Arc::clone(&self.listener),
        };
        self.listener.came();
        let mut line = self.service.line(&visitor);
        let Ok(mut visit) = self.service.admit(visitor.client(), &mut line) else {
            return;
        };
        match self.places(now_ms) {
            Some(places) => self.settle(key, (visit, places), bytes, now_ms),
            None => visit.refused(Refused::TooManyConnections),
        }
    }

    /// Places for a flow more. There may be too many, but those that say something are not sent
    /// away for others that perhaps never will again. A flow that makes room hands its places on:
    /// who gets free ones first is not for us to say.
    fn places(&mut self, now_ms: u64) -> Option<Places> {
        self.free_places().or_else(|| {
            let (_, mut silent) = self.flows.remove_silent(OUSTED_AFTER_MS, now_ms)?;
            silent.visit.ended(Ended::MadeRoom);
            let narrowed = |gate: &Gate| gate.inside() > gate.max();
            // Where fewer may be inside than are, none comes for the one that goes.
            let stays = !narrowed(&self.service.connections) && !narrowed(&self.everyone);
            stays.then_some(silent.places)
        })
    }

    fn free_places(&self) -> Option<Places> {
        Some(Places {
            _service: self.service.connections.try_enter()?,
            _everyone: self.everyone.try_enter()?,
        })
    }

    /// Finds a server for a flow and sends it what began the flow.
    fn settle(
        &mut self,
        key: Key,
        (mut visit, places): (Visit, Places),
        bytes: &[u8],
        now_ms: u64,
    ) {
        let Some((socket, point)) = self.reach(&mut visit, bytes) else {
            return;
        };
        visit.connected();
        visit.ended(Ended::Stopped);
        let client = SocketAddr::new(key.client.ip().to_canonical(), key.client.port());
        let connection = self.service.begin(Some(client));
        connection.tries(&point, visit.chosen_by());
        connection.reached(Stage::Open);
        if let Some(line) = &mut visit.line {
            line.belongs_to(&connection);
        }
        let flow = Flow {
            socket,
            point,
            visit,
            first: (bytes.len() <= KEPT_BYTES_MAX).then(|| bytes.into()),
            places,
            connection,
        };
        if let Some(witness) = flow.visit.witness() {
            witness.heard(bytes);
        }
        flow.sent(bytes);
        let slot = self.flows.insert(key, flow, now_ms);
        let Some((_, flow)) = self.flows.get_mut(slot) else {
            return;
        };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, slot.0 as u64);
        if self.answered.add(&flow.socket, event).is_err() {
            flow.visit.refused(Refused::Dropped);
            self.flows.remove(slot);
        }
    }

    /// A socket to the first server that does not refuse a datagram at once.
    fn reach(&self, visit: &mut Visit, bytes: &[u8]) -> Option<(UdpSocket, Arc<Point>)> {
        // As `connect` takes it.
        let from = visit.settings.source.map_or(From::Any, From::Own);
        loop {
            let point = match visit.next() {
                Ok(point) => point,
                Err(why) => {
                    visit.refused(why);
                    return None;
                }
            };
            let sent = connect(&point.place, self.port, visit.settings.source)
                .and_then(|socket| send(&socket, bytes).map(|()| socket));
            match sent {
                Ok(socket) => return Some((socket, point)),
                Err(error) if has_no_way(&error, &point.place, from) => {
                    no_way(&self.service, &point, &error);
                    visit.passed_by();
                }
                Err(error) if is_own_fault(&error) => {
                    visit.refused(Refused::Dropped);
                    return None;
                }
                Err(error) => {
                    let taken_out = visit.failed(&point);
                    missed(&self.service, &point, &error, taken_out);
                }
            }
        }
    }

    /// A flow's server refused: another one gets what was not answered yet. If that is nothing, the
    /// flow ends, and begins anew with the next datagram.
    fn failed(&mut self, slot: Slot, in_hand: Option<&[u8]>, error: &io::Error) {
        let Some((key, mut flow)) = self.flows.remove(slot) else {
            return;
        };
        let taken_out = flow.visit.failed(&flow.point);
        // Unless another server gets it.
        flow.visit.ended(Ended::Server);
        missed(&self.service, &flow.point, error, taken_out);
        // It goes to another server, and is counted there.
        flow.unsent(flow.first.as_deref().unwrap_or_default());
        let now_ms = now_ms();
        let again = flow.first.as_deref().into_iter().chain(in_hand);
        let mut guest = Some((flow.visit, flow.places));
        for bytes in again {
            match guest.take() {
                Some(guest) => self.settle(key, guest, bytes, now_ms),
                None => self.request(key, bytes, now_ms),
            }
        }
    }

    /// Passes on what servers sent, a batch of it; whether that was all.
    fn answers(&mut self, listener: &UdpSocket, headers: &mut Headers) -> bool {
        let scratch = Rc::clone(&self.scratch);
        let scratch = &mut *scratch.borrow_mut();
        let count = self.answered.wait(&mut scratch.ready, EpollTimeout::ZERO);
        let Ok(count @ 1..) = count else {
            return count.is_ok();
        };
        scratch.datagrams.clear();
        let now_ms = now_ms();
        for at in 0..count {
            // What is left of a full batch is told of again.
            if scratch.datagrams.len() == BATCH {
                break;
            }
            let slot = Slot(scratch.ready[at].data() as usize);
            self.answer(slot, scratch, now_ms);
        }
        let mut first = 0;
        let same = |a: &Datagram, b: &Datagram| a.key.local == b.key.local;
        for group in scratch.datagrams.chunk_by(same) {
            let dropped = headers.send(listener, &scratch.buffers, first, group);
            self.service.count_many(Refused::Dropped, dropped as u64);
            first += group.len();
        }
        false
    }

    /// Takes what the server of one flow sent.
    fn answer(&mut self, slot: Slot, scratch: &mut Scratch, now_ms: u64) {
        let Some((key, flow)) = self.flows.get_mut(slot) else {
            return;
        };
        let room = (&mut scratch.buffers, scratch.datagrams.len());
        let lengths = &mut scratch.lengths;
        match scratch
            .from_servers
            .receive_from(&flow.socket, room, lengths)
        {
            Ok(count) => {
                let key = *key;
                flow.first = None;
                let lengths = &lengths[..count];
                let bytes = lengths.iter().sum::<usize>() as u64;
                for counts in [&flow.point.counts, &flow.connection.counts] {
                    counts.down.fetch_add(bytes, Ordering::Relaxed);
                }
                if let Some(witness) = flow.visit.witness() {
                    witness.counts().down.fetch_add(bytes, Ordering::Relaxed);
                }
                let datagrams = lengths.iter().map(|length| Datagram {
                    key,
                    length: *length,
                });
                scratch.datagrams.extend(datagrams);
                self.flows.heard(slot, now_ms);
            }
            Err(error) if is_own_fault(&error) => {}
            Err(error) => self.failed(slot, None, &error),
        }
    }

    /// Ends the flows that a command ends.
    fn close(&mut self) {
        for slot in self.flows.all(|flow| flow.connection.is_closing()) {
            self.flows.remove(slot);
        }
    }

    /// Ends the flows that have been silent for too long.
    fn sweep(&mut self) {
        let default = Duration::from_secs(UDP_IDLE_DEFAULT.into());
        let idle = self.service.idle().unwrap_or(default);
        let (idle_ms, now_ms) = (idle.as_millis() as u64, now_ms());
        while let Some((_, mut flow)) = self.flows.remove_silent(idle_ms, now_ms) {
            flow.visit.ended(Ended::Idle);
        }
    }
}

impl Flow {
    /// Takes back what [`Flow::sent`] counted for the client; the server got it all the same.
    fn unsent(&self, bytes: &[u8]) {
        let length = bytes.len() as u64;
        self.connection
            .counts
            .up
            .fetch_sub(length, Ordering::Relaxed);
        if let Some(witness) = self.visit.witness() {
            witness.counts().up.fetch_sub(length, Ordering::Relaxed);
        }
    }

    fn sent(&self, bytes: &[u8]) {
        let add = |counts: &Counts| {
            let length = bytes.len() as u64;
            counts.up.fetch_add(length, Ordering::Relaxed);
        };
        add(&self.point.counts);
        add(&self.connection.counts);
        if let Some(witness) = self.visit.witness() {
            add(witness.counts());
        }
    }
}
