//! The small servers of `lab-peer`: they say who they are and whom they see.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};

/// The longest UDP payload.
const DATAGRAM_MAX: usize = 65_507;

/// Answers every datagram to each of `listen` with `NAME CLIENT TEXT`, for ever. Each address has a
/// socket of its own, so that an answer comes from the address that was asked.
pub fn udp(name: &str, listen: &[SocketAddr]) -> Result<()> {
    let sockets = listen
        .iter()
        .map(|at| UdpSocket::bind(at).with_context(|| format!("binding {at}")))
        .collect::<Result<Vec<_>>>()?;
    println!("ready");
    serve_each(sockets, |socket| {
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            // An ICMP error about an earlier answer is no reason to end.
            let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let mut answer = format!("{name} {client} ").into_bytes();
            answer.extend(&buffer[..length]);
            answer.truncate(DATAGRAM_MAX);
            let _ = socket.send_to(&answer, client);
        }
    });
    Ok(())
}

/// Greets every connection to each of `listen` with the line `NAME CLIENT`, then returns each line
/// it is sent, for ever.
pub fn tcp(name: &str, listen: &[SocketAddr]) -> Result<()> {
    let listeners = listen
        .iter()
        .map(|at| TcpListener::bind(at).with_context(|| format!("binding {at}")))
        .collect::<Result<Vec<_>>>()?;
    println!("ready");
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A connection that ends with an error has ended.
                    scope.spawn(move || converse(name, stream).ok());
                }
            });
        }
    });
    Ok(())
}

fn serve_each<S: Send>(sockets: Vec<S>, serve: impl Fn(S) + Sync) {
    thread::scope(|scope| {
        for socket in sockets {
            scope.spawn(|| serve(socket));
        }
    });
}

fn converse(name: &str, mut stream: TcpStream) -> io::Result<()> {
    let client = stream.peer_addr()?;
    stream.set_nodelay(true)?;
    writeln!(stream, "{name} {client}")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        stream.write_all(&line)?;
        line.clear();
    }
    Ok(())
}
