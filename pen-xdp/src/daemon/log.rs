//! Where the daemon's log goes: standard error in the foreground, which may be the journal, and
//! syslog in the background.

use std::{
    io::{self, IsTerminal, Write},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt, reload,
    util::SubscriberInitExt,
};

use super::journal::{self, Journal};

/// Where the system's log daemon listens (syslog(3)).
const SYSLOG: &str = "/dev/log";
/// `LOG_USER`, as Pen always had it.
const FACILITY: u8 = 1;

static LOG: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging to standard error.
pub fn log_to_stderr(debug: u8) {
    if journal::reads_stderr() {
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(Journal)
            .with_ansi(false)
            .with_level(false)
            .without_time()
            .with_target(false);
        return log_to(layer, debug);
    }
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    log_to(layer, debug);
}

/// Starts logging to syslog. Where nobody listens the log is lost, as anyone's would be.
///
/// # Errors
/// No socket can be made.
pub fn log_to_syslog(debug: u8) -> io::Result<()> {
    // The log daemon adds the time; the level is in the priority.
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(Syslog::open(Path::new(SYSLOG))?)
        .with_ansi(false)
        .with_level(false)
        .without_time()
        .with_target(false);
    log_to(layer, debug);
    Ok(())
}

fn log_to<L>(layer: L, debug: u8)
where
    L: Layer<tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>>
        + Send
        + Sync
        + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(debug));
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init();
    if started.is_ok() {
        // Only the first start of a process gets here.
        let _ = LOG.set(handle);
    }
}

/// Pen's debug level: 0 says what happens, 1 more of it, 2 and above everything.
pub(super) fn set_log_level(debug: u8) {
    if let Some(Err(error)) = LOG.get().map(|handle| handle.reload(filter(debug))) {
        tracing::warn!("the debug level can't be set: {error}");
    }
}

fn filter(debug: u8) -> EnvFilter {
    EnvFilter::new(match debug {
        0 => "info",
        1 => "debug",
        _ => "trace",
    })
}

/// Table 2 of RFC 5424.
pub(super) fn severity(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Sends each line to the log daemon in a datagram of its own.
struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Syslog {
    fn open(path: &Path) -> io::Result<Self> {
        // Not connected, so that a restarted log daemon is found again; not blocking, so that one
        // that hangs does not hold up the load balancer.
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }
}

/// One line on its way.
struct Line<'a> {
    syslog: &'a Syslog,
    severity: u8,
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.line(&Level::INFO)
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a> {
        self.line(about.level())
    }
}

impl Syslog {
    fn line(&self, level: &Level) -> Line<'_> {
        Line {
            syslog: self,
            severity: severity(level),
        }
    }
}

impl Write for Line<'_> {
    /// A line comes in one call.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let priority = FACILITY << 3 | self.severity;
        let mut datagram = format!("<{priority}>pen[{}]: ", std::process::id()).into_bytes();
        datagram.extend(text.trim_ascii_end());
        // Nobody could be told of a failure.
        let _ = self.syslog.socket.send_to(&datagram, &self.syslog.path);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
