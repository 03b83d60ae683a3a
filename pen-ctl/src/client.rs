//! One request to a daemon: connect, send a line, read until it closes.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use pen_common::control::Envelope;

/// Longest reply in bytes: the status of the greatest configuration stays well below.
const REPLY_BYTES_MAX: u64 = 64 << 20;

/// Letters of a reply that is not understood, for the message.
const REPLY_SHOWN_MAX: usize = 120;

/// Why files are not written on the word of who answers at a port.
const UNKNOWN_PEER: &str = "who answers at a port is not known, and files are not written on a \
                            stranger's word: ask at the path of a socket";

/// Whose daemon is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Anybody's: what it answers is shown.
    Anybodys,
    /// Root's or the caller's own: what it answers is acted upon.
    OursOrRoots,
}

/// An answer, as it came and as it is understood.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The JSON object in one line.
    pub(crate) text: String,
    /// The same, taken apart.
    pub(crate) envelope: Envelope,
}

/// Sends `line` and waits for the whole answer, `timeout` at most for everything together.
///
/// # Errors
/// A sentence that names the socket and what to do: nobody answers there, or nobody who speaks
/// this language.
pub(crate) fn ask(
    socket: &Path,
    line: &str,
    timeout: Duration,
    whose: Whose,
) -> Result<Answer, String> {
    let (path, request) = (PathBuf::from(socket), format!("json {line}\n"));
    let (sender, receiver) = mpsc::channel();
    // Connecting to a Unix socket blocks while its backlog is full, and knows no time limit: so a
    // thread does it all, and is left behind if it takes too long.
    thread::spawn(move || {
        // The receiver is gone only when nobody wants the answer any more.
        let _unwanted = sender.send(exchange(&path, &request, whose));
    });
    let name = socket.display();
    let reply = receiver.recv_timeout(timeout).map_err(|_| {
        format!(
            "{name}: no answer within {} s: the daemon is stopped, stuck or overloaded",
            timeout.as_secs()
        )
    })??;
    understand(&reply).ok_or_else(|| {
        let shown: String = reply.chars().take(REPLY_SHOWN_MAX).collect();
        match shown.is_empty() {
            true => format!("{name}: the daemon hung up without an answer: see its log"),
            false => format!("{name}: not an answer of this pen: {shown:?} (an older pen?)"),
        }
    })
}

/// Host and port, if the words name one: `8888`, which is on this host, `HOST:8888`, `[::1]:8888`.
/// With a slash they name a socket.
fn port(socket: &Path) -> Option<(&str, u16)> {
    let text = socket.to_str().filter(|text| !text.contains('/'))?;
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    Some((bare.unwrap_or(host), port.parse().ok()?))
}

fn exchange(socket: &Path, request: &str, whose: Whose) -> Result<String, String> {
    let name = socket.display();
    if let Some(at) = port(socket) {
        if whose == Whose::OursOrRoots {
            return Err(format!("{name}: {UNKNOWN_PEER}"));
        }
        let stream = TcpStream::connect(at)
            .map_err(|error| format!("{name}: {error}: is pen running, started with -C {name}?"))?;
        return converse(stream, request).map_err(|why| format!("{name}: {why}"));
    }
    let stream = UnixStream::connect(socket)
        .map_err(|error| format!("{name}: {}", no_daemon(socket, &error)))?;
    if whose == Whose::OursOrRoots {
        check_peer(&stream).map_err(|why| format!("{name}: {why}"))?;
    }
    converse(stream, request).map_err(|why| format!("{name}: {why}"))
}

fn converse(mut stream: impl Read + Write, request: &str) -> Result<String, String> {
    let mut reply = Vec::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.take(REPLY_BYTES_MAX + 1).read_to_end(&mut reply))
        .map_err(|error| format!("the connection broke: {error}"))?;
    if reply.len() as u64 > REPLY_BYTES_MAX {
        return Err(format!("the answer is longer than {REPLY_BYTES_MAX} bytes"));
    }
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

/// Who holds the other end by the kernel's word (unix(7), SO_PEERCRED).
fn check_peer(stream: &UnixStream) -> Result<(), String> {
    let peer = getsockopt(stream, PeerCredentials)
        .map_err(|error| format!("it is not known who answers there: {error}"))?;
    match peer.uid() == 0 || peer.uid() == geteuid().as_raw() {
        true => Ok(()),
        false => Err(format!(
            "who answers there is user {}, neither root nor who asks: files are not written on such \
             a word",
            peer.uid()
        )),
    }
}

/// Why nobody could be reached, and what to do.
fn no_daemon(socket: &Path, error: &Error) -> String {
    let causes = [
        (
            ErrorKind::NotFound,
            format!(
                "no such socket: is pen running, started with -C {}?",
                socket.display()
            ),
        ),
        (
            ErrorKind::ConnectionRefused,
            "nobody listens there: a pen that is gone left it, or it is no socket; start pen again"
                .to_owned(),
        ),
        (
            ErrorKind::PermissionDenied,
            "permission denied: ask as the socket's owner or as root".to_owned(),
        ),
    ];
    let known = causes.into_iter().find(|(kind, _)| *kind == error.kind());
    known.map_or_else(|| error.to_string(), |(_, why)| why)
}

fn understand(reply: &str) -> Option<Answer> {
    let text = reply.trim_end().to_owned();
    let envelope = serde_json::from_str(&text).ok()?;
    Some(Answer { text, envelope })
}
