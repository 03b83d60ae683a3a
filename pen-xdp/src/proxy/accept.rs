//! Takes clients from one listening socket.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::doors::{Entrance, Turn};
use super::gate::{Gate, Pass};
use super::http;
use super::session::{Places, Visitor, serve};
use super::stream::Stream;

/// Before the next try where the process or the system has no descriptors left.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How long a closed door is listened at: for those who knocked before, of whom the kernel may have
/// told and the event loop not yet.
const LAST_KNOCKS: Duration = Duration::from_millis(10);

/// Idle clients that are closed then.
const ROOM: usize = 16;

/// A listening socket in this thread's event loop.
pub(super) enum Listening {
    Tcp(TcpListener, u16),
    Unix(UnixListener),
}

impl Listening {
    /// # Errors
    /// The socket is none for this event loop.
    pub(super) fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        let port = listener.local_addr()?.port();
        Ok(Self::Tcp(TcpListener::from_std(listener)?, port))
    }

    /// # Errors
    /// As [`Listening::tcp`].
    pub(super) fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        Ok(Self::Unix(UnixListener::from_std(listener)?))
    }

    async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>, u16)> {
        match self {
            Self::Tcp(listener, port) => {
                let (stream, peer) = listener.accept().await?;
                let address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Ok((Stream::Tcp(stream), Some(address), *port))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None, 0))
            }
        }
    }
}

/// Takes clients until the door is closed, and then those who have knocked already. The one that was
/// taken last waits while the service has as many as it may have, or too many of them wait for a
/// server, or descriptors are used up; those behind it wait in the kernel.
pub(super) async fn accept(mut entrance: Entrance, listening: &Listening, everyone: Arc<Gate>) {
    let mut exhausted = false;
    let mut last: Option<Instant> = None;
    loop {
        let accepted = match last {
            Some(last) => match timeout_at(last, listening.accept()).await {
                Ok(accepted) => accepted,
                Err(_) => return,
            },
            None => tokio::select! {
                turn = entrance.turned() => {
                    last = ends(&turn);
                    continue;
                }
                accepted = listening.accept() => accepted,
            },
        };
        match accepted {
            Ok((stream, address, port)) => {
                entrance.listener.came();
                let name = &entrance.service.name;
                if everyone.is_full() {
                    told(&mut exhausted, name, "open files are used up");
                } else if exhausted && everyone.has_ample_room() {
                    exhausted = false;
                    tracing::info!("service {name}: clients are served at once again");
                }
                let visitor = Visitor {
                    address,
                    port,
                    listener: Arc::clone(&entrance.listener),
                };
                let in_service = place(&mut entrance, &mut last).await;
                let service = &entrance.service;
                // What all services share is taken last: nobody waits here with it in hand.
                let places = Places {
                    _service: in_service,
                    _everyone: enter(&everyone).await,
                    connection: service.begin(visitor.address),
                };
                let connection = Arc::clone(&places.connection);
                let task = spawn_local(serve(stream, visitor, places));
                connection.served_by(task.abort_handle());
            }
            Err(error) if is_exhaustion(&error) => {
                told(&mut exhausted, &entrance.service.name, &error.to_string());
                // Nobody notices the end of those to servers.
                if !http::close_all() {
                    http::close_oldest(ROOM);
                }
                sleep(EXHAUSTED_PAUSE).await;
            }
            // The client's own trouble: it left before it was taken.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::debug!("service {}: accept: {error}", entrance.service.name);
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// A place among the service's clients, in whatever service the door is when there is one; once few
/// enough of them wait for a server.
async fn place(entrance: &mut Entrance, last: &mut Option<Instant>) -> Pass {
    loop {
        let service = Arc::clone(&entrance.service);
        let entered = async {
            let pass = service.connections.enter().await;
            // The client takes a place there itself, when it is known who it is.
            drop(service.pending.enter().await);
            pass
        };
        if last.is_some() {
            return entered.await;
        }
        tokio::select! {
            pass = entered => return pass,
            turn = entrance.turned() => *last = ends(&turn),
        }
    }
}

/// Until when a door is listened at, if it is closed.
fn ends(turn: &Turn) -> Option<Instant> {
    match turn {
        Turn::Anothers => None,
        Turn::Closed => Some(Instant::now() + LAST_KNOCKS),
    }
}

/// A place among all who take descriptors. Who has nothing to ask makes room for it.
async fn enter(everyone: &Arc<Gate>) -> Pass {
    if everyone.is_full() {
        http::close_oldest(1);
    }
    let mut entered = pin!(everyone.enter());
    loop {
        match timeout(EXHAUSTED_PAUSE, &mut entered).await {
            Ok(pass) => return pass,
            Err(_) => http::close_oldest(1),
        }
    }
}

/// Says once that clients have to wait.
fn told(exhausted: &mut bool, service: &str, why: &str) {
    if !std::mem::replace(exhausted, true) {
        tracing::error!(
            "service {service}: clients have to wait: {why}; mend: a greater limit of open files \
             (ulimit -n, LimitNOFILE=), or a smaller conn_max"
        );
    }
}

/// Whether descriptors or memory are used up (accept(2)).
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    use libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let code = error.raw_os_error();
    code.is_some_and(|code| [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(&code))
}
