//! The control socket: one line in, one reply out, one connection a command, as Pen's users
//! script it.

use std::{
    fs, io,
    os::fd::AsFd,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use pen_common::control::{REQUEST_BYTES_MAX, Request, body_bytes, parse_request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixSocket, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

/// How long a client may take to say its line, and to take its answer.
const CLIENT: Duration = Duration::from_secs(5);
/// How long it may take to say a configuration.
const BODY: Duration = Duration::from_secs(20);
/// Clients that are served at once; others wait in the kernel's queue.
const CLIENTS_MAX: usize = 64;
/// Behind the name of a socket whose daemon does not serve yet.
const STARTING: &str = ".starting";

/// Clients that the kernel lets wait, as the standard library has it.
const BACKLOG: u32 = 128;

/// A request, and where its answer goes.
pub struct Asked {
    /// What is wanted.
    pub request: Request,
    /// Takes the bytes that are to be sent back.
    pub answer: oneshot::Sender<String>,
}

/// The bound socket; its file is removed with it.
///
/// While the daemon starts, the file has another name: a client that finds the socket under its
/// own name is answered at once, and one that comes too early hears so at once.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that was made.
    identity: (u64, u64),
    /// The name for the time of the start; `None` afterwards.
    starting: Option<PathBuf>,
}

impl ControlSocket {
    /// Binds a socket for `path`, readable and writable by its owner alone. A file that a dead
    /// daemon left there is removed.
    ///
    /// # Errors
    /// When another daemon answers there, when something that is no socket stands there, or when
    /// the directory can't be written.
    pub fn reserve(path: &Path) -> Result<Self> {
        make_free(path)?;
        let mut starting = path.as_os_str().to_owned();
        starting.push(STARTING);
        let starting = PathBuf::from(starting);
        make_free(&starting)?;
        let bound =
            bind_private(&starting).and_then(|listener| Ok((listener, identity(&starting)?)));
        let (listener, identity) = bound.with_context(|| {
            format!(
                "control socket {}: can't be made; is its directory there?",
                path.display()
            )
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
            starting: Some(starting),
        })
    }

    /// Lets clients find it.
    ///
    /// # Errors
    /// When another daemon has taken the name meanwhile.
    pub fn appear(&mut self) -> Result<()> {
        if let Some(starting) = &self.starting {
            // A second name in place of another one: a rename would overwrite somebody else's.
            fs::hard_link(starting, &self.path).with_context(|| {
                format!("control socket {}: can't be made", self.path.display())
            })?;
        }
        if let Some(starting) = self.starting.take()
            && let Err(error) = fs::remove_file(&starting)
        {
            tracing::warn!("control socket {}: {error}", starting.display());
        }
        Ok(())
    }

    /// Takes requests for as long as somebody answers them.
    pub async fn serve(&self, requests: mpsc::Sender<Asked>, generation: impl Fn() -> u64) {
        let places = std::sync::Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: the next try is not to spin.
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let requests = requests.clone();
            let generation = generation();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, requests, generation).await {
                    tracing::debug!("control client: {error}");
                }
                drop(place);
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let path = self.starting.as_ref().unwrap_or(&self.path);
        // Another daemon may have come to think this one dead, and have the name now.
        let removed = match identity(path) {
            Ok(found) if found != self.identity => return,
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!("control socket {}: {error}", path.display());
        }
    }
}

/// A listener whose file is its owner's alone from the moment it is there: the kernel makes it with
/// the mode of the socket itself, which can be set before there is a file (`unix_bind_bsd`). Setting
/// the file's mode afterwards would leave a moment for anyone to connect.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    let descriptor = fs::File::from(socket.as_fd().try_clone_to_owned()?);
    descriptor.set_permissions(fs::Permissions::from_mode(0o600))?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes what a dead daemon left at `path`.
fn make_free(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "control socket {}: something else has that name; remove it, or name another",
            path.display()
        );
    }
    if BlockingStream::connect(path).is_ok() {
        bail!(
            "control socket {}: a running daemon answers there; stop it, or name another",
            path.display()
        );
    }
    fs::remove_file(path)
        .with_context(|| format!("control socket {}: can't replace it", path.display()))
}

/// One client: its line, the answer.
async fn converse(
    mut stream: UnixStream,
    requests: mpsc::Sender<Asked>,
    generation: u64,
) -> io::Result<()> {
    let mut line = timeout(CLIENT, read_line(&mut stream)).await??;
    if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
        let whole = end + 1 + body_bytes(&line[..end]);
        timeout(BODY, read_body(&mut stream, &mut line, whole)).await??;
    }
    let answer = match parse_request(&line) {
        Err(bad) => bad.reply(generation),
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let asked = requests.send(Asked { request, answer }).await;
            asked.map_err(|_| io::Error::other("the daemon is stopping"))?;
            answered
                .await
                .map_err(|_| io::Error::other("the daemon is stopping"))?
        }
    };
    timeout(CLIENT, stream.write_all(answer.as_bytes())).await??;
    stream.shutdown().await?;
    // A socket closed with something unread in it is reset, and the client loses its answer.
    timeout(CLIENT, swallow(&mut stream)).await?
}

/// Reads away what a client sends beyond its line.
async fn swallow(stream: &mut UnixStream) -> io::Result<()> {
    let mut part = [0; 1024];
    while stream.read(&mut part).await? > 0 {}
    Ok(())
}

/// Up to the first line feed, the end of what the client sends, or one byte more than a request
/// may have.
async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
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
async fn read_body(stream: &mut UnixStream, request: &mut Vec<u8>, whole: usize) -> io::Result<()> {
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
    use super::*;
    use pen_common::control::{Action, Reply, Value};
    use std::os::unix::net::UnixListener as BlockingListener;

    /// A daemon that knows its process id, and the path of its socket.
    async fn ask(lines: &[&[u8]]) -> Vec<String> {
        let name = format!("pen-socket-{}-{lines:p}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut socket = ControlSocket::reserve(&path).unwrap();
        socket.appear().unwrap();
        let (sender, mut receiver) = mpsc::channel::<Asked>(4);
        let daemon = async {
            while let Some(asked) = receiver.recv().await {
                assert_eq!(asked.request.action, Action::Pid);
                let reply = Reply {
                    generation: 3,
                    outcome: Ok(Value::Number(42)),
                };
                asked.answer.send(reply.render(asked.request.form)).unwrap();
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
            () = socket.serve(sender, || 3) => unreachable!("it serves for ever"),
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

    #[tokio::test]
    async fn only_a_dead_daemons_socket_is_replaced() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("pen-bind-{}", std::process::id()));
        let living = BlockingListener::bind(&path).unwrap();
        let refused = ControlSocket::reserve(&path).err().unwrap();
        assert!(
            refused.to_string().contains("a running daemon answers"),
            "{refused}"
        );
        drop(living);
        drop(ControlSocket::reserve(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        let refused = ControlSocket::reserve(&path).err().unwrap();
        assert!(refused.to_string().contains("something else"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn the_file_is_private_from_the_first_moment() {
        let path = std::env::temp_dir().join(format!("pen-private-{}", std::process::id()));
        // Nothing sets the file's mode after this call.
        let _listener = bind_private(&path).unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().mode();
        fs::remove_file(&path).unwrap();
        assert_eq!(mode & 0o777, 0o600);
    }

    fn shown(path: &Path) -> ControlSocket {
        let mut socket = ControlSocket::reserve(path).unwrap();
        socket.appear().unwrap();
        socket
    }

    #[tokio::test]
    async fn another_daemons_socket_outlives_this_one() {
        let path = std::env::temp_dir().join(format!("pen-successor-{}", std::process::id()));
        let first = shown(&path);
        fs::remove_file(&path).unwrap();
        let second = shown(&path);
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_is_found_when_it_is_answered() {
        let path = std::env::temp_dir().join(format!("pen-appear-{}", std::process::id()));
        let mut socket = ControlSocket::reserve(&path).unwrap();
        let early = BlockingStream::connect(&path).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::NotFound);
        let second = ControlSocket::reserve(&path).err().unwrap();
        assert!(second.to_string().contains("a running daemon"), "{second}");
        socket.appear().unwrap();
        BlockingStream::connect(&path).unwrap();
        let starting = PathBuf::from(format!("{}{STARTING}", path.display()));
        assert!(!starting.exists());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        // One that was never shown leaves nothing either; a name that was taken stays taken.
        let mut late = ControlSocket::reserve(&path).unwrap();
        let other = BlockingListener::bind(&path).unwrap();
        assert!(late.appear().is_err());
        drop(late);
        assert!(path.exists() && !starting.exists());
        drop(other);
        fs::remove_file(&path).unwrap();
    }
}
