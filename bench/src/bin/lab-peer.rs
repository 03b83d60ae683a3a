//! The small programs that a lab runs inside its namespaces.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser};
use lab::raw_socket::RawSocket;
use lab::{Load, echo, read_pcap};

#[derive(Parser)]
#[command(about = "Servers and clients for the inside of a lab's namespaces")]
enum Peer {
    /// Answer datagrams with `NAME CLIENT TEXT`
    UdpEcho(Server),
    /// Greet connections with `NAME CLIENT`, then return each line
    TcpIdent(Server),
    /// Ask a udp-echo numbered questions and print the tally as JSON
    UdpLoad(Client),
    /// Ask a tcp-ident numbered questions over kept connections and print the tally as JSON
    TcpLoad(Client),
    /// Send the frames of a capture file as they are
    SendFrames(Frames),
}

#[derive(Args)]
struct Server {
    /// Who to answer as
    #[arg(long)]
    name: String,
    /// Addresses to be asked at
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
}

#[derive(Args)]
struct Client {
    #[arg(long)]
    to: SocketAddr,
    /// Sockets, each a flow
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// Questions in all
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Questions in a second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
}

#[derive(Args)]
struct Frames {
    /// The interface to send from
    #[arg(long)]
    interface: String,
    /// A pcap file of Ethernet frames
    #[arg(long)]
    file: PathBuf,
    /// How often to send the whole file
    #[arg(long, default_value_t = 1)]
    repeat: u64,
}

fn main() -> Result<()> {
    match Peer::parse() {
        Peer::UdpEcho(server) => echo::udp(&server.name, &server.listen),
        Peer::TcpIdent(server) => echo::tcp(&server.name, &server.listen),
        Peer::UdpLoad(client) => client.run(false),
        Peer::TcpLoad(client) => client.run(true),
        Peer::SendFrames(frames) => frames.send(),
    }
}

impl Client {
    fn run(&self, tcp: bool) -> Result<()> {
        let Self {
            to,
            flows,
            count,
            rate,
        } = *self;
        let tally = Load {
            to,
            flows,
            count,
            rate,
            tcp,
        }
        .execute()?;
        println!("{}", serde_json::to_string(&tally)?);
        Ok(())
    }
}

impl Frames {
    fn send(&self) -> Result<()> {
        let frames = read_pcap(&self.file)?;
        let mut socket = RawSocket::open(&self.interface)
            .with_context(|| format!("opening a packet socket on {}", self.interface))?;
        for _ in 0..self.repeat {
            for (number, frame) in frames.iter().enumerate() {
                socket
                    .send(frame)
                    .with_context(|| format!("sending frame {number}"))?;
            }
        }
        Ok(())
    }
}
