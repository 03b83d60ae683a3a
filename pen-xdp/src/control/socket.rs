//! The control socket: one line in, one reply out, one connection a command, as Pen's users
//! script it. At a path or at a port.

mod clients;
mod file;
mod owner;
mod who;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use pen_common::{
    config::{Config, ControlAt, ControlOwner},
    control::{REQUEST_BYTES_MAX, Request, body_bytes, parse_request},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, UnixListener},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use clients::{Clients, Turn, Turns};
pub(crate) use file::SocketFile;
use owner::Owner;
pub use who::ReplyTo;
use who::Who;

use crate::keeper::{child::keeper, request};

/// How long a client may take to say its line, and to take its answer.
const CLIENT: Duration = Duration::from_secs(5);
/// How long it may take to say a configuration.
const BODY: Duration = Duration::from_secs(20);
/// Clients that the kernel lets wait, as the standard library has it.
const BACKLOG: i32 = 128;
/// Between two lines of the log about clients that may not ask.
const DENIED_PAUSE: Duration = Duration::from_secs(1);

/// A request, and where its answer goes.
pub struct Asked {
    /// What is wanted.
    pub request: Request,
    /// Takes the answer.
    pub answer: ReplyTo,
}

/// The bound socket. While the daemon starts nobody finds it.
pub struct ControlSocket(Door);

enum Door {
    /// Its file is the keeper's, if there is one.
    File(UnixListener, Option<SocketFile>),
    /// Bound, and then listening.
    Port(SocketAddr, Option<TcpSocket>, Option<TcpListener>),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// Whether the user and the group are known whom the socket's file is to be given to.
///
/// # Errors
/// Who is not.
pub fn check_owner(owner: &ControlOwner) -> Result<()> {
    Owner::find(owner)
        .map(drop)
        .with_context(|| format!("control_owner = \"{owner}\""))
}

impl ControlSocket {
    /// Binds what the configuration names; `None` if it names nothing.
    ///
    /// # Errors
    /// It is taken, can't be made, or can't be given to whom it is to belong.
    pub fn reserve(config: &Config) -> Result<Option<Self>> {
        let door = match &config.control {
            None => return Ok(None),
            Some(ControlAt::Path(_)) => {
                let (listener, file) = match keeper() {
                    Some(keeper) => {
                        let listener = keeper.descriptor(&request::Request::Control)?;
                        (Some(listener.into()), None)
                    }
                    None => {
                        let mut file = SocketFile::of(config, None)?;
                        (file.as_mut().and_then(SocketFile::take_listener), file)
                    }
                };
                let Some(listener) = listener else {
                    return Ok(None);
                };
                Door::File(UnixListener::from_std(listener)?, file)
            }
            Some(ControlAt::Port(at)) => {
                let bound = bind(*at).with_context(|| {
                    format!("control port {at}: can't be had; stop who has it, or name another")
                })?;
                Door::Port(*at, Some(bound), None)
            }
        };
        Ok(Some(Self(door)))
    }

    /// Lets clients find it.
    ///
    /// # Errors
    /// When another daemon has taken its place meanwhile.
    pub fn appear(&mut self) -> Result<()> {
        match &mut self.0 {
            Door::File(_, Some(file)) => file.appear(),
            Door::File(_, None) => match keeper() {
                Some(keeper) => Ok(keeper.ask(&request::Request::ControlAppears).map(drop)?),
                None => Ok(()),
            },
            Door::Port(at, bound, listener) => {
                if let Some(bound) = bound.take() {
                    let listening = bound.listen(BACKLOG.cast_unsigned());
                    *listener = Some(listening.with_context(|| format!("control port {at}"))?);
                }
                Ok(())
            }
        }
    }

    /// Takes requests for as long as somebody answers them. At a port only of those who
    /// `may_ask`; who may open the file may ask.
    pub async fn serve(
        &self,
        requests: mpsc::Sender<Asked>,
        generation: impl Fn() -> u64,
        may_ask: impl Fn(IpAddr) -> bool,
    ) {
        let mut clients = Clients::default();
        let mut told: Option<Instant> = None;
        loop {
            let (stream, who) = match self.0.accept().await {
                Ok(come) => come,
                Err(error) => {
                    // Out of descriptors, most likely: the next try is not to spin.
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Who::Address(from) = &who
                && !may_ask(from.ip())
            {
                if told.is_none_or(|told| told.elapsed() >= DENIED_PAUSE) {
                    tracing::warn!("control port: {from} may not ask by control_acl");
                    told = Some(Instant::now());
                }
                continue;
            }
            let (requests, generation) = (requests.clone(), generation());
            let conversation = move |turns: Arc<Turns>| async move {
                let speaking = Speaking {
                    stream,
                    who,
                    turns: &turns,
                };
                if let Err(error) = speaking.converse(&requests, generation).await {
                    tracing::debug!("control client: {error}");
                }
            };
            clients.serve(conversation).await;
        }
    }
}

impl Door {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Who)> {
        match self {
            Self::File(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let who = stream.peer_cred().map_or(Who::Unknown, Who::from);
                Ok((Box::new(stream), who))
            }
            Self::Port(_, _, Some(listener)) => {
                let (stream, from) = listener.accept().await?;
                Ok((Box::new(stream), Who::Address(from)))
            }
            Self::Port(_, _, None) => std::future::pending().await,
        }
    }
}

/// Takes a port; a daemon that has just ended does not keep it.
fn bind(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    Ok(socket)
}

/// One client.
struct Speaking<'a> {
    stream: Box<dyn Stream>,
    who: Who,
    turns: &'a Turns,
}

impl Speaking<'_> {
    /// Its line, the answer.
    async fn converse(mut self, requests: &mpsc::Sender<Asked>, generation: u64) -> io::Result<()> {
        let answer = match timeout(CLIENT, read_line(&mut self.stream)).await {
            Ok(line) => {
                let request = self.whole(line?).await?;
                self.ask(&request, requests, generation).await?
            }
            Err(_) => format!(
                "no whole line came within {} s: send one line, then read the answer\n",
                CLIENT.as_secs()
            ),
        };
        self.turns.next(Turn::Take);
        timeout(CLIENT, self.stream.write_all(answer.as_bytes())).await??;
        self.stream.shutdown().await?;
        self.turns.next(Turn::Leave);
        // A socket closed with something unread in it is reset, and the client loses its answer.
        timeout(CLIENT, swallow(&mut self.stream)).await?
    }

    /// What a line promises behind itself is read as well.
    async fn whole(&mut self, mut request: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut lines = request.splitn(2, |byte| *byte == b'\n');
        let line = lines.next().unwrap_or_default();
        let (end, more) = (line.len() + 1, body_bytes(line));
        if lines.next().is_some() && more > 0 {
            self.turns.next(Turn::Tell);
            timeout(BODY, read_body(&mut self.stream, &mut request, end + more)).await??;
        }
        Ok(request)
    }

    /// Has the request answered.
    async fn ask(
        &self,
        request: &[u8],
        requests: &mpsc::Sender<Asked>,
        generation: u64,
    ) -> io::Result<String> {
        let shown = || {
            let line = request.split(|byte| matches!(byte, b'\n' | b'\r')).next();
            let line = line.unwrap_or_default();
            let line = line.strip_prefix(b"json ").unwrap_or(line);
            String::from_utf8_lossy(line).into_owned()
        };
        let request = match parse_request(request) {
            Ok(request) => request,
            Err(bad) => {
                // A word that is no command changes nothing, whoever says it.
                if bad.unknown.is_none() {
                    who::refused(&self.who, &shown(), &bad.why);
                }
                return Ok(bad.reply(generation));
            }
        };
        self.turns.next(Turn::Wait);
        let (sender, answered) = oneshot::channel();
        let answer = ReplyTo {
            who: self.who.clone(),
            line: shown(),
            answer: sender,
        };
        let stopping = || io::Error::other("the daemon is stopping");
        let asked = requests.send(Asked { request, answer }).await;
        asked.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }
}

/// Reads away what a client sends beyond its line.
async fn swallow(stream: &mut Box<dyn Stream>) -> io::Result<()> {
    let mut part = [0; 1024];
    while stream.read(&mut part).await? > 0 {}
    Ok(())
}

/// Up to the first line feed, the end of what the client sends, or one byte more than a request
/// may have.
async fn read_line(stream: &mut Box<dyn Stream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut part = [0; 1024];
    while line.len() <= REQUEST_BYTES_MAX && !line.contains(&b'\n') {
        let count = stream.read(&mut part).await?;
        if count == 0 {
            break;
        }
        line.extend(part.iter().take(count));
    }
    Ok(line)
}

/// Reads until the request has so many bytes, or the client says no more.
async fn read_body(
    stream: &mut Box<dyn Stream>,
    request: &mut Vec<u8>,
    whole: usize,
) -> io::Result<()> {
    let mut part = [0; 16 << 10];
    while request.len() < whole {
        let count = stream.read(&mut part).await?;
        if count == 0 {
            break;
        }
        request.extend(part.iter().take(count));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pen_common::control::{Action, Reply, Value};
    use tokio::net::UnixStream;

    use super::*;

    fn at(path: &std::path::Path) -> Config {
        Config {
            control: Some(ControlAt::Path(path.to_owned())),
            ..Config::default()
        }
    }

    /// A daemon that knows its process id, and the path of its socket.
    async fn ask(lines: &[&[u8]]) -> Vec<String> {
        let name = format!("pen-socket-{}-{lines:p}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut socket = ControlSocket::reserve(&at(&path)).unwrap().unwrap();
        socket.appear().unwrap();
        let (sender, mut receiver) = mpsc::channel::<Asked>(4);
        let daemon = async {
            while let Some(asked) = receiver.recv().await {
                assert_eq!(asked.request.action, Action::Pid);
                let reply = Reply {
                    generation: 3,
                    outcome: Ok(Value::Number(42)),
                };
                asked.answer.send(&asked.request, &reply);
            }
        };
        let clients = async {
            let mut replies = Vec::new();
            for line in lines {
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(line).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut reply = String::new();
                stream.read_to_string(&mut reply).await.unwrap();
                replies.push(reply);
            }
            replies
        };
        let replies = tokio::select! {
            replies = clients => replies,
            () = socket.serve(sender, || 3, |_| true) => unreachable!("it serves for ever"),
            () = daemon => unreachable!("it answers for ever"),
        };
        drop(socket);
        assert!(!path.exists());
        replies
    }

    #[tokio::test]
    async fn raw_and_json_clients_get_their_answers() {
        let long = vec![b'x'; 100_000];
        let replies = ask(&[b"pid\n", b"pid", b"json pid\n", b"nonsense\n", &long]).await;
        assert_eq!(replies[0], "42\n");
        assert_eq!(replies[1], "42\n");
        assert_eq!(replies[2], "{\"ok\":true,\"generation\":3,\"value\":42}\n");
        assert_eq!(
            replies[3],
            "do_cmd: ignoring command starting with 'nonsense'\n"
        );
    }
}
