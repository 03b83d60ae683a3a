//! The back end of the measurements: the least that can answer, so that its core is left to the
//! load as far as possible.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;

/// Bytes of a small answer, without its head.
pub(crate) const BODY_BYTES: usize = 64;
/// What asks for a stream of bytes that has no end.
pub(crate) const BULK: &str = "/bulk";
/// What is answered only if the request says whose it is.
pub(crate) const FORWARDED: &str = "/forwarded";
/// Longest head that is understood.
const HEAD_MAX: usize = 4096;
/// Bytes of a stream written by one call.
const CHUNK: usize = 256 << 10;
const BACKLOG: u32 = 4096;

/// Where to listen.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    port: u16,
    /// Threads, each with a listener of its own
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Answers until it is killed; says `ready` when all threads listen.
pub(crate) fn main(options: &Options) -> Result<()> {
    let (tell, told) = mpsc::channel();
    for _ in 0..options.threads.max(1) {
        let (tell, port) = (tell.clone(), options.port);
        thread::spawn(move || {
            if let Err(error) = listen(port, &tell) {
                // The receiver is there until every thread has told.
                let _gone = tell.send(Err(error));
            }
        });
    }
    for _ in 0..options.threads.max(1) {
        told.recv().context("a thread has ended")??;
    }
    println!("ready");
    loop {
        thread::park();
    }
}

fn listen(port: u16, tell: &mpsc::Sender<Result<()>>) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let listener = socket.listen(BACKLOG)?;
        let _gone = tell.send(Ok(()));
        accept(&listener).await
    })
}

async fn accept(listener: &TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A client that goes away is no fault of ours.
        tokio::spawn(async move {
            let _gone = serve(stream).await;
        });
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let (kept, last) = (answer(true), answer(false));
    let mut head = Vec::with_capacity(HEAD_MAX);
    loop {
        if stream.read_buf(&mut head).await? == 0 || head.len() >= HEAD_MAX {
            return Ok(());
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head);
        if text.split(' ').nth(1) == Some(BULK) {
            return flood(stream).await;
        }
        if text.split(' ').nth(1) == Some(FORWARDED) && !is_forwarded(&text) {
            return Ok(());
        }
        if wants_end(&text) {
            stream.write_all(&last).await?;
            return stream.shutdown().await;
        }
        stream.write_all(&kept).await?;
        head.clear();
    }
}

fn wants_end(head: &str) -> bool {
    head.lines()
        .any(|line| line.eq_ignore_ascii_case("connection: close"))
}

fn is_forwarded(head: &str) -> bool {
    let mut names = head.lines().filter_map(|line| line.split_once(':'));
    names.any(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"))
}

fn answer(keep: bool) -> Vec<u8> {
    let connection = if keep { "keep-alive" } else { "close" };
    let body = "x".repeat(BODY_BYTES);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\nConnection: {connection}\r\n\r\n{body}"
    )
    .into_bytes()
}

async fn flood(mut stream: TcpStream) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let chunk = vec![0; CHUNK];
    loop {
        stream.write_all(&chunk).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_says_whether_the_connection_ends() {
        assert!(wants_end("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
        assert!(!wants_end("GET / HTTP/1.1\r\nHost: close\r\n\r\n"));
        assert!(is_forwarded(
            "GET / HTTP/1.1\r\nx-forwarded-for: 127.0.0.1\r\n\r\n"
        ));
        assert!(!is_forwarded(
            "GET /X-Forwarded-For HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let ends = String::from_utf8(answer(false)).unwrap();
        assert!(ends.contains("\r\nConnection: close\r\n"), "{ends}");
        let (head, body) = ends.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }
}
