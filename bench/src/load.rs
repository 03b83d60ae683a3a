//! Loads of known size against the servers of `echo.rs`: every question is numbered, so that each
//! loss and each answer from the wrong back end is seen.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// How long a TCP answer may take, and how long UDP answers are awaited after the last question.
const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(1);

/// A load from one machine to one address.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub to: SocketAddr,
    /// Sockets, each a flow with a port of its own.
    pub flows: u32,
    /// Questions in all, given to the flows in turn.
    pub count: u64,
    /// Questions in a second, evenly spaced.
    pub rate: u64,
    /// To `tcp-ident` instead of `udp-echo`.
    pub tcp: bool,
}

/// What a load came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Questions asked.
    pub sent: u64,
    /// Questions answered; the others, or their answers, were lost.
    pub answered: u64,
    /// Answers from another back end than the flow's first, answers to another flow's question,
    /// second answers.
    pub strayed: u64,
    /// Answers by the name of the back end.
    pub by_backend: BTreeMap<String, u64>,
}

impl Load {
    /// Runs the load from the current network namespace; prints `started` when all sockets are
    /// open.
    ///
    /// # Errors
    /// A socket can't be opened, or (TCP) a connection is refused. Lost questions are no errors,
    /// they are counted.
    pub fn execute(&self) -> Result<Tally> {
        ensure!(
            self.flows > 0 && self.rate > 0,
            "a load needs flows and a rate"
        );
        if self.tcp {
            self.execute_tcp()
        } else {
            self.execute_udp()
        }
    }

    fn execute_udp(&self) -> Result<Tally> {
        let mut flows = (0..self.flows)
            .map(|_| UdpFlow::open(self.to))
            .collect::<Result<Vec<_>>>()?;
        println!("started");
        let mut tally = Tally::default();
        let mut asked = vec![false; self.count as usize];
        let pace = Pace::start(self.rate);
        for number in 0..self.count {
            while pace.early(number) {
                collect_all(&mut flows, &mut asked, &mut tally);
                thread::sleep(TICK);
            }
            let index = (number % u64::from(self.flows)) as usize;
            asked[number as usize] = true;
            tally.sent += 1;
            // A refusal (ICMP) shows on the next call; the question counts as lost then.
            let _ = flows[index]
                .socket
                .send(format!("{index} {number}").as_bytes());
            if number % 16 == 0 {
                collect_all(&mut flows, &mut asked, &mut tally);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while tally.answered < tally.sent && Instant::now() < deadline {
            collect_all(&mut flows, &mut asked, &mut tally);
            thread::sleep(TICK);
        }
        Ok(tally)
    }

    fn execute_tcp(&self) -> Result<Tally> {
        let mut flows = (0..self.flows)
            .map(|_| TcpFlow::open(self.to))
            .collect::<Result<Vec<_>>>()?;
        println!("started");
        let mut tally = Tally::default();
        let pace = Pace::start(self.rate);
        for number in 0..self.count {
            while pace.early(number) {
                thread::sleep(TICK);
            }
            let flow = &mut flows[(number % u64::from(self.flows)) as usize];
            tally.sent += 1;
            match flow.ask(number) {
                Some(true) => {
                    tally.answered += 1;
                    *tally.by_backend.entry(flow.backend.clone()).or_default() += 1;
                }
                Some(false) => tally.strayed += 1,
                None => {}
            }
        }
        Ok(tally)
    }
}

/// When each question is due.
struct Pace {
    start: Instant,
    rate: u64,
}

impl Pace {
    fn start(rate: u64) -> Self {
        Self {
            start: Instant::now(),
            rate,
        }
    }

    fn early(&self, number: u64) -> bool {
        let due = Duration::from_secs_f64(number as f64 / self.rate as f64);
        self.start.elapsed() < due
    }
}

struct UdpFlow {
    socket: UdpSocket,
    backend: Option<String>,
}

impl UdpFlow {
    fn open(to: SocketAddr) -> Result<Self> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).context("opening a UDP socket")?;
        socket
            .connect(to)
            .with_context(|| format!("connecting to {to}"))?;
        socket
            .set_nonblocking(true)
            .context("setting a socket non-blocking")?;
        Ok(Self {
            socket,
            backend: None,
        })
    }
}

fn collect_all(flows: &mut [UdpFlow], asked: &mut [bool], tally: &mut Tally) {
    let mut buffer = [0; 2048];
    for (index, flow) in flows.iter_mut().enumerate() {
        while let Ok(length) = flow.socket.recv(&mut buffer) {
            let answer = String::from_utf8_lossy(&buffer[..length]);
            let words: Vec<&str> = answer.split(' ').collect();
            // NAME CLIENT FLOW NUMBER
            let [name, _, of, number] = words[..] else {
                tally.strayed += 1;
                continue;
            };
            let first = flow.backend.get_or_insert_with(|| name.to_owned());
            let open = number
                .parse()
                .ok()
                .and_then(|number: usize| asked.get_mut(number));
            let fresh = open.is_some_and(std::mem::take);
            if !fresh || first != name || of.parse() != Ok(index) {
                tally.strayed += 1;
            }
            if fresh {
                tally.answered += 1;
                *tally.by_backend.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
}

struct TcpFlow {
    /// `None` once the connection broke: what is asked on it afterwards is lost.
    stream: Option<BufReader<TcpStream>>,
    backend: String,
}

impl TcpFlow {
    fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)
            .with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("setting a time limit")?;
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        stream
            .read_line(&mut greeting)
            .with_context(|| format!("no greeting from {to}"))?;
        let backend = greeting.split(' ').next().unwrap_or_default().to_owned();
        Ok(Self {
            stream: Some(stream),
            backend,
        })
    }

    /// Whether the right answer came; `None`: none came.
    fn ask(&mut self, number: u64) -> Option<bool> {
        let stream = self.stream.as_mut()?;
        let question = format!("{number}\n");
        let mut answer = String::new();
        let exchanged = stream
            .get_mut()
            .write_all(question.as_bytes())
            .and_then(|()| stream.read_line(&mut answer));
        if exchanged.is_ok_and(|length| length > 0) {
            Some(answer == question)
        } else {
            self.stream = None;
            None
        }
    }
}
