//! The connections that clients have at the moment: each has a number, by which it can be looked at
//! and ended.
//!
//! A number is a place in a table, and the lowest free one is taken. The table is locked when a
//! connection begins and when it ends, and for moments while somebody looks. What happens in
//! between is written down in the connection's own entry, for which nobody else waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pen_common::control::{ChosenBy, ConnectionStatus, Stage};
use socket2::SockRef;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::relay::{Account, Counts, Progress, Witness};
use super::service::{Point, Service, now_ms};
use super::stream::Stream;

/// Entries that are looked at under one lock: who comes or goes waits no longer than that.
const LOOK: usize = 256;

/// All connections of the proxy.
#[derive(Default)]
pub(super) struct Connections {
    table: Mutex<Table>,
    /// Told when something is to end that no task of its own serves.
    flow_closed: watch::Sender<()>,
}

#[derive(Default)]
struct Table {
    /// By number.
    entries: Vec<Option<Arc<Connection>>>,
    free: BinaryHeap<Reverse<u32>>,
}

/// One client's connection, or its UDP flow.
pub(super) struct Connection {
    pub(super) service: Arc<Service>,
    number: u32,
    stage: AtomicU8,
    /// Whether it is to end.
    closing: AtomicBool,
    begun_ms: u64,
    /// In HTTP mode all bytes of the client's, heads included.
    pub(super) counts: Counts,
    half_closed: AtomicBool,
    about: Mutex<About>,
}

/// What changes seldom.
struct About {
    client: Option<SocketAddr>,
    point: Option<Arc<Point>>,
    chosen_by: Option<ChosenBy>,
    /// Who serves it, and is stopped to end it; of one that is switched over, who answers that and
    /// who passes bytes then.
    tasks: [Option<AbortHandle>; 2],
}

/// A connection's place among all; given back when dropped.
#[derive(Debug)]
pub(super) struct Presence(Arc<Connection>);

/// A request of a connection; when it is over the connection waits for the next one.
#[derive(Debug)]
pub(super) struct Underway(Arc<Connection>);

/// Ends a stream by a reset if a command ended the connection: what was sent of an answer is not to
/// be taken for a whole one.
pub(super) struct Cut<'a> {
    stream: &'a Stream,
    connection: &'a Connection,
}

impl Connections {
    /// Takes a connection in, under the lowest free number.
    pub(super) fn begin(&self, service: &Arc<Service>, client: Option<SocketAddr>) -> Presence {
        let service = Arc::clone(service);
        let mut table = self.table();
        let number = match table.free.pop() {
            Some(Reverse(number)) => number,
            None => {
                table.entries.push(None);
                table.entries.len() as u32 - 1
            }
        };
        let connection = Arc::new(Connection {
            service,
            number,
            stage: AtomicU8::new(Stage::Connecting as u8),
            closing: AtomicBool::new(false),
            begun_ms: now_ms(),
            counts: Counts::default(),
            half_closed: AtomicBool::new(false),
            about: Mutex::new(About {
                client,
                point: None,
                chosen_by: None,
                tasks: [None, None],
            }),
        });
        table.entries[number as usize] = Some(Arc::clone(&connection));
        Presence(connection)
    }

    /// Ends a connection wherever it is; what it holds is given back a moment later.
    pub(super) fn close(&self, connection: &Connection) {
        let about = connection.about();
        connection.closing.store(true, Ordering::Relaxed);
        for task in about.tasks.iter().flatten() {
            task.abort();
        }
        if about.tasks[0].is_none() {
            self.flow_closed.send_replace(());
        }
    }

    /// Changes when a flow is to end; [`Connection::is_closing`] says which.
    pub(super) fn closed_flows(&self) -> watch::Receiver<()> {
        self.flow_closed.subscribe()
    }

    /// The connection of this number.
    pub(super) fn get(&self, number: u32) -> Option<Arc<Connection>> {
        self.table().entries.get(number as usize)?.clone()
    }

    /// All connections, in the order of their numbers. They come and go meanwhile.
    pub(super) fn all(&self) -> Vec<Arc<Connection>> {
        let mut all = Vec::new();
        for first in (0..).step_by(LOOK) {
            // Room is made while nobody waits for it.
            all.reserve(LOOK);
            let table = self.table();
            let Some(rest) = table.entries.get(first..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            all.extend(rest.iter().take(LOOK).flatten().cloned());
        }
        all
    }

    /// Takes a connection out, unless it goes on as another service's.
    fn remove(&self, connection: &Arc<Connection>) {
        let number = connection.number;
        let mut table = self.table();
        let entry = table.entries.get_mut(number as usize);
        let is_it = |one: &Arc<Connection>| Arc::ptr_eq(one, connection);
        let Some(entry) = entry.filter(|entry| entry.as_ref().is_some_and(is_it)) else {
            return;
        };
        let entry = entry.take();
        table.free.push(Reverse(number));
        if table.free.len() == table.entries.len() {
            // A crowd is gone: its memory goes too.
            *table = Table::default();
        }
        drop(table);
        drop(entry);
    }

    /// Whole at every point where whoever holds it could break down.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections name their service, and that its connections.
impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        let open = table.entries.len() - table.free.len();
        f.debug_struct("Connections").field("open", &open).finish()
    }
}

impl Connection {
    /// Ends it as if its client had left: nothing is under way on it.
    pub(super) fn release(&self) {
        for task in self.about().tasks.iter().flatten() {
            task.abort();
        }
    }

    /// It has come so far.
    pub(super) fn reached(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// It comes from somewhere else than its first bytes did.
    pub(super) fn comes_from(&self, client: Option<SocketAddr>) {
        self.about().client = client;
    }

    /// This server is tried now.
    pub(super) fn tries(&self, point: &Arc<Point>, chosen_by: Option<ChosenBy>) {
        let before = {
            let mut about = self.about();
            about.chosen_by = chosen_by;
            about.point.replace(Arc::clone(point))
        };
        drop(before);
        self.reached(Stage::Connecting);
    }

    /// This task serves it from now on.
    pub(super) fn served_by(&self, task: AbortHandle) {
        let mut about = self.about();
        if self.is_closing() {
            task.abort();
        }
        let before = about.tasks[0].replace(task);
        about.tasks[1] = before;
    }

    /// Whether a command ends it.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// A request begins.
    pub(super) fn request(self: &Arc<Self>) -> Underway {
        self.reached(Stage::Connecting);
        Underway(Arc::clone(self))
    }

    /// See [`Cut`].
    pub(super) fn cuts<'a>(&'a self, stream: &'a Stream) -> Cut<'a> {
        Cut {
            stream,
            connection: self,
        }
    }

    /// Where a relay to this server writes down what it does.
    pub(super) fn account<'a>(
        &'a self,
        server: &'a Counts,
        witness: Option<&'a dyn Witness>,
    ) -> Account<'a> {
        Account {
            server,
            witness,
            own: Some(Progress {
                counts: &self.counts,
                half_closed: &self.half_closed,
            }),
        }
    }

    /// Where it comes from.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.about().client
    }

    /// Bytes sent to the client and received from it.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let Counts { up, down } = &self.counts;
        (down.load(Ordering::Relaxed), up.load(Ordering::Relaxed))
    }

    /// As [`Connection::bytes`], which gives 0 from then on.
    pub(super) fn take_bytes(&self) -> (u64, u64) {
        let Counts { up, down } = &self.counts;
        (
            down.swap(0, Ordering::Relaxed),
            up.swap(0, Ordering::Relaxed),
        )
    }

    /// How it is now.
    pub(super) fn status(&self) -> ConnectionStatus {
        let (client, point, chosen_by) = {
            let about = self.about();
            (about.client, about.point.clone(), about.chosen_by)
        };
        let (sx, rx) = self.bytes();
        ConnectionStatus {
            number: self.number,
            service: self.service.name.clone(),
            client,
            server: point.as_ref().map(|point| point.name.clone()),
            index: point.and_then(|point| point.index),
            chosen_by,
            stage: self.stage(),
            age_ms: now_ms().saturating_sub(self.begun_ms),
            sx,
            rx,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        if self.half_closed.load(Ordering::Relaxed) {
            return Stage::HalfClosed;
        }
        let at = self.stage.load(Ordering::Relaxed);
        Stage::ALL
            .get(usize::from(at))
            .copied()
            .unwrap_or(Stage::Open)
    }

    /// Whole at every point where whoever holds it could break down.
    fn about(&self) -> MutexGuard<'_, About> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.number).finish()
    }
}

impl Presence {
    /// The connection goes on as one of another service, under its number and in the hands of who
    /// serves it.
    pub(super) fn led_to(&self, service: &Arc<Service>) -> Self {
        let before = self.about();
        let connection = Arc::new(Connection {
            service: Arc::clone(service),
            number: self.number,
            stage: AtomicU8::new(Stage::Connecting as u8),
            closing: AtomicBool::new(self.is_closing()),
            begun_ms: self.begun_ms,
            counts: Counts::default(),
            half_closed: AtomicBool::new(false),
            about: Mutex::new(About {
                client: before.client,
                point: None,
                chosen_by: None,
                tasks: before.tasks.clone(),
            }),
        });
        drop(before);
        let mut table = service.connections_now.table();
        if let Some(entry) = table.entries.get_mut(self.number as usize) {
            *entry = Some(Arc::clone(&connection));
        }
        Self(connection)
    }
}

impl Deref for Presence {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let service = &self.0.service;
        service.connections_now.remove(&self.0);
        service.ended(&self.0);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.reached(Stage::Kept);
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if self.connection.is_closing() {
            // If the kernel can't, the stream just ends.
            let _ = SockRef::from(self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
pub(super) mod tests {
    use std::future::pending;
    use std::thread;

    use pen_common::config::{Acl, Mode, ProxyOptions};
    use tokio::net::UnixStream;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;
    use crate::proxy::gate::Gate;
    use crate::proxy::listeners::Listener;
    use crate::proxy::log::{Current, Logs};
    use crate::proxy::routes::{Place, Route, Server};
    use crate::proxy::session::{Places, Visitor, serve};

    /// A service `name` with one server.
    pub(in crate::proxy) fn service(name: &str, connections: &Arc<Connections>) -> Arc<Service> {
        let log = Current::none(name, Logs::new().ring());
        let route = route(name);
        let connections = Arc::clone(connections);
        Arc::new(Service::new(&route, connections, log))
    }

    /// What it goes by.
    pub(in crate::proxy) fn route(name: &str) -> Route {
        let server = Server {
            number: Some(0),
            name: "be0".into(),
            host: None,
            place: Place::Unix("/nonexistent/socket".into()),
            weight: 1,
            prio: 0,
            max: 0,
            hard: 0,
            acl: Acl::default(),
            blacklisted_until_ms: None,
        };
        Route {
            service: name.into(),
            mode: Mode::Tcp,
            listeners: Vec::new(),
            listen: Vec::new(),
            pool: "web".into(),
            options: ProxyOptions::default(),
            client_acl: Acl::default(),
            seed: 0,
            servers: vec![server],
            emergency: None,
            abuse: None,
        }
    }

    fn numbers(connections: &Connections) -> Vec<u32> {
        connections.all().iter().map(|one| one.number).collect()
    }

    #[test]
    fn the_lowest_free_number_is_taken_and_an_empty_table_keeps_no_memory() {
        let connections = Arc::new(Connections::default());
        let service = service("web", &connections);
        let mut all: Vec<_> = (0..1000).map(|_| Some(service.begin(None))).collect();
        assert!(numbers(&connections).into_iter().eq(0..1000));
        for free in [700, 3, 256] {
            all[free] = None;
            assert!(connections.get(free as u32).is_none());
        }
        assert_eq!(numbers(&connections).len(), 997);
        for expected in [3, 256, 700, 1000] {
            let next = service.begin(None);
            assert_eq!(next.number, expected);
            all.push(Some(next));
        }
        all.clear();
        let table = connections.table();
        assert_eq!((table.entries.capacity(), table.free.capacity()), (0, 0));
        drop(table);
        // Nothing keeps the service but those who serve it.
        assert_eq!(Arc::strong_count(&service), 1);
    }

    #[test]
    fn threads_that_come_and_go_never_share_a_number() {
        let connections = Arc::new(Connections::default());
        let service = service("web", &connections);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..2000 {
                        let mine: Vec<_> = (0..round % 7).map(|_| service.begin(None)).collect();
                        for presence in &mine {
                            let found = connections.get(presence.number).unwrap();
                            assert!(Arc::ptr_eq(&found, presence));
                        }
                        connections.all();
                    }
                });
            }
        });
        assert_eq!(numbers(&connections), [0; 0]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_that_is_closed_before_it_is_served_ends_when_it_is() {
        let connections = Arc::new(Connections::default());
        let service = service("web", &connections);
        let local = LocalSet::new();
        local
            .run_until(async {
                for early in [true, false] {
                    let presence = service.begin(None);
                    let connection = Arc::clone(&presence);
                    let number = connection.number;
                    if early {
                        connections.close(&connection);
                    }
                    let task = spawn_local(async move {
                        let _here = presence;
                        pending::<()>().await;
                    });
                    connection.served_by(task.abort_handle());
                    if !early {
                        yield_now().await;
                        // By another thread, as the daemon's is.
                        thread::scope(|scope| {
                            scope.spawn(|| connections.close(&connection));
                        });
                    }
                    assert!(task.await.unwrap_err().is_cancelled());
                    assert!(connections.get(number).is_none());
                }
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_idle_connection_costs_little() {
        let connections = Arc::new(Connections::default());
        let service = service("web", &connections);
        let gate = Arc::new(Gate::new(1));
        let places = Places {
            _service: service.connections.enter().await,
            _everyone: gate.enter().await,
            connection: service.begin(None),
        };
        let visitor = Visitor {
            address: None,
            port: 0,
            listener: Listener::new("[::]:80"),
        };
        let stream = Stream::from(UnixStream::pair().unwrap().0);
        let session = size_of_val(&serve(stream, visitor, places));
        let sizes = (session, size_of::<Connection>());
        // A task is allocated in steps of 128 bytes, with 112 of the runtime's.
        assert!(sizes.0 <= 1424 && sizes.1 <= 112, "{sizes:?}");
    }
}
