//! Who is measured: Pen on its planes, and its peers. Each has a wire of its own and runs from the
//! start to the end; who is not offered frames sleeps.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Mac, Namespace, Passing, Process, Signal};
use pen_common::config::{Listener, Plane, Protocol, TABLE_SIZE_DEFAULT};

use crate::generator::Outcome;
use crate::pen::{Pen, Setup};
use crate::traffic::{PORT, Traffic, vip};
use crate::wire::Wire;
use lab::DebianPen;

/// Frames under way at most in a closed loop: below the 256 that a veth end with a program holds.
const WINDOW: usize = 240;
/// Most frames that may be lost of a run that counts.
pub(crate) const LOSS_MAX: f64 = 0.001;
const START_LIMIT: Duration = Duration::from_secs(5);
/// Slots for 4,096 back ends: the prime above a hundred each.
const TABLE_SIZE_MANY: u32 = 409_609;

/// How many frames are offered, and how they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Offer {
    /// As many as come back, over AF_XDP: no more than [`WINDOW`] are under way.
    Lossless,
    /// As many as the generator can send over AF_XDP.
    All,
    /// As many as come back, by live frames.
    Live,
    /// As many as live frames can be.
    LiveAll,
}

impl Offer {
    /// Whether frames are sent inside the kernel.
    pub(crate) const fn is_live(self) -> bool {
        matches!(self, Self::Live | Self::LiveAll)
    }

    /// Whether no more frames are under way than rings hold.
    pub(crate) const fn is_closed(self) -> bool {
        matches!(self, Self::Lossless | Self::Live)
    }
}

/// One forwarder that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Contender {
    /// Pen, AF_XDP workers; one VIP, 3 back ends, one flow.
    AfXdp,
    /// Pen, AF_XDP workers; 1,000 VIPs, 4,096 back ends, 100,000 random flows.
    AfXdpMany,
    /// Pen, the program alone; otherwise as `AfXdp`.
    Xdp,
    /// The bare AF_XDP forwarder of the lab.
    L2fwd,
    /// The bare XDP_TX exchange of MACs.
    Swap,
    /// A packet socket, recv and send.
    RecvSend,
    /// A packet socket, recvmmsg and sendmmsg.
    Mmsg,
    /// A packet socket, TPACKET_V3 and sendmmsg.
    Ring,
    /// Debian's pen in DSR mode.
    DebianPen,
}

impl Contender {
    /// What the tables call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AfXdp => "af_xdp plane",
            Self::AfXdpMany => "af_xdp plane, many flows",
            Self::Xdp => "xdp plane",
            Self::L2fwd => "bare AF_XDP l2fwd",
            Self::Swap => "bare XDP_TX swap",
            Self::RecvSend => "AF_PACKET recv/send",
            Self::Mmsg => "AF_PACKET recvmmsg/sendmmsg",
            Self::Ring => "AF_PACKET TPACKET_V3 + sendmmsg",
            Self::DebianPen => "Debian's pen",
        }
    }

    /// Whether live frames need a program on its end of the wire that is not its own. It is there
    /// only for them: it makes receiving dearer.
    const fn has_no_program(self) -> bool {
        matches!(
            self,
            Self::RecvSend | Self::Mmsg | Self::Ring | Self::DebianPen
        )
    }

    const fn backends(self) -> usize {
        match self {
            Self::AfXdpMany => 4096,
            Self::AfXdp | Self::Xdp | Self::DebianPen => 3,
            Self::L2fwd | Self::Swap | Self::RecvSend | Self::Mmsg | Self::Ring => 1,
        }
    }

    const fn traffic(self) -> Traffic {
        match self {
            Self::AfXdpMany => Traffic {
                flows: 100_000,
                vips: 1000,
            },
            Self::AfXdp
            | Self::Xdp
            | Self::L2fwd
            | Self::Swap
            | Self::RecvSend
            | Self::Mmsg
            | Self::Ring
            | Self::DebianPen => Traffic { flows: 1, vips: 1 },
        }
    }
}

/// Where everything runs.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) lab: Lab,
    /// The eBPF object with the programs for measurements.
    pub(crate) object: PathBuf,
    /// The program that is running, which is generator and peers, too.
    pub(crate) own: PathBuf,
    /// The forwarders' core; the generator has the other one.
    pub(crate) core: usize,
    /// How Pen's workers take frames: the bare AF_XDP forwarder does the same.
    pub(crate) polling: Polling,
    /// Length of one run, milliseconds.
    pub(crate) milliseconds: u64,
}

/// How an AF_XDP worker takes frames from the device.
#[derive(Debug, Default)]
pub(crate) struct Polling {
    /// It polls the device itself.
    pub(crate) busy: bool,
    /// The device's settings for that, by their names in `/sys/class/net/INTERFACE`.
    pub(crate) settings: Vec<(String, String)>,
}

impl Polling {
    /// Starts the bare forwarder of the lab on `interface` of `machine` and waits until it works.
    pub(crate) fn l2fwd(
        &self,
        machine: &Namespace,
        interface: &str,
        to: Mac,
        (core, object): (usize, &Path),
    ) -> Result<Process> {
        for (name, value) in &self.settings {
            let write = format!("echo {value} > /sys/class/net/{interface}/{name}");
            machine.run_ok("sh", ["-c", &write])?;
        }
        let (to, core) = (to.to_string(), core.to_string());
        let mut words = vec!["--interface", interface, "--to", &to, "--core", &core];
        words.extend(self.busy.then_some("--busy"));
        let words = words.into_iter().map(AsRef::as_ref);
        let words = words.chain(["--object".as_ref(), object.as_os_str()]);
        let process = machine.spawn(lab::binary("l2fwd")?, words)?;
        process.wait_for_line("ready", START_LIMIT)?;
        Ok(process)
    }
}

/// A forwarder in place.
#[derive(Debug)]
pub(crate) struct Forwarder {
    contender: Contender,
    wire: Wire,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Pen(Pen),
    /// Spins even without frames, so it is stopped while others are measured.
    Spinning(Process),
    Other(Process),
}

impl Rig {
    /// Starts a forwarder on wire `number`.
    pub(crate) fn start(&self, contender: Contender, number: u8) -> Result<Forwarder> {
        let wire = Wire::plug(&self.lab, number, contender.backends())?;
        let name = contender.name();
        let running = self
            .run(contender, &wire)
            .with_context(|| format!("starting {name}"))?;
        Ok(Forwarder {
            contender,
            wire,
            running,
        })
    }

    fn run(&self, contender: Contender, wire: &Wire) -> Result<Running> {
        Ok(match contender {
            Contender::AfXdp | Contender::AfXdpMany => {
                Running::Pen(self.pen(contender, wire, Plane::AfXdp)?)
            }
            Contender::Xdp => Running::Pen(self.pen(contender, wire, Plane::Xdp)?),
            Contender::L2fwd => self.l2fwd(wire)?,
            Contender::Swap => Running::Other(self.own_peer("xdp-swap", wire)?),
            Contender::RecvSend => Running::Other(self.own_peer("recv-send", wire)?),
            Contender::Mmsg => Running::Other(self.own_peer("mmsg", wire)?),
            Contender::Ring => Running::Other(self.own_peer("ring", wire)?),
            Contender::DebianPen => Running::Other(self.debian_pen(contender, wire)?),
        })
    }

    fn pen(&self, contender: Contender, wire: &Wire, plane: Plane) -> Result<Pen> {
        let vips = contender.traffic().vips;
        let backends = contender.backends();
        let setup = Setup {
            interface: wire.name().to_owned(),
            plane,
            listeners: (0..vips)
                .map(|index| Listener {
                    address: vip(index).into(),
                    port: PORT,
                    protocol: Protocol::Udp,
                })
                .collect(),
            backends: (0..backends)
                .map(|index| wire.backend(index).into())
                .collect(),
            table_size: if backends > 655 {
                TABLE_SIZE_MANY
            } else {
                TABLE_SIZE_DEFAULT
            },
        };
        Pen::start(&self.lab, self.lab.balancer(), &setup)
    }

    fn l2fwd(&self, wire: &Wire) -> Result<Running> {
        let place = (self.core, self.object.as_path());
        let to = Wire::backend_mac(0);
        let process = self
            .polling
            .l2fwd(self.lab.balancer(), wire.name(), to, place)?;
        Ok(if self.polling.busy {
            Running::Spinning(process)
        } else {
            Running::Other(process)
        })
    }

    fn own_peer(&self, how: &str, wire: &Wire) -> Result<Process> {
        let core = self.core.to_string();
        let to = Wire::backend_mac(0).to_string();
        let words = [
            "forward",
            "--how",
            how,
            "--interface",
            wire.name(),
            "--to",
            &to,
        ];
        let words = words
            .into_iter()
            .chain(["--core", &core])
            .map(AsRef::as_ref);
        let words = words.chain(["--object".as_ref(), self.object.as_os_str()]);
        let process = self.lab.balancer().spawn(&self.own, words)?;
        process.wait_for_line("ready", START_LIMIT)?;
        Ok(process)
    }

    fn debian_pen(&self, contender: Contender, wire: &Wire) -> Result<Process> {
        let debian = DebianPen::fetch()?;
        let backends = contender.backends();
        wire.answer_for_backends(&self.lab, backends)?;
        let (core, service) = (self.core.to_string(), format!("{}:{PORT}", vip(0)));
        let interface = format!("dsr_if {}", wire.name());
        let program = debian.program();
        let words = ["-c", &core].map(AsRef::as_ref).into_iter();
        let words = words
            .chain([program.as_os_str()])
            .chain(["-f", "-O", &interface, "-U", "-r", &service].map(AsRef::as_ref));
        let addresses: Vec<String> = (0..backends)
            .map(|index| wire.backend(index).to_string())
            .collect();
        let words = words.chain(addresses.iter().map(AsRef::as_ref));
        let balancer = self.lab.balancer();
        let mut command = balancer.command("taskset", words);
        command.env("LD_LIBRARY_PATH", debian.libraries());
        balancer.spawn_command(command, "debian-pen")
    }

    /// Sees to it that a forwarder delivers before it is measured, and then rests it.
    ///
    /// # Errors
    /// It delivers nothing within 5 s.
    pub(crate) fn warm_up(&self, forwarder: &Forwarder) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = self.generate(forwarder, Offer::Lossless, 50) {
            ensure!(Instant::now() < deadline, "{error:#}");
        }
        match &forwarder.running {
            Running::Spinning(process) => process.signal(Signal::Stop),
            Running::Pen(_) | Running::Other(_) => Ok(()),
        }
    }

    /// Offers frames to a forwarder for the length of a run and says what came back.
    ///
    /// # Errors
    /// Nothing came back, or Pen's counters say that frames took another way than the one measured.
    pub(crate) fn measure(&self, forwarder: &Forwarder, offer: Offer) -> Result<Outcome> {
        let generate = || self.generate(forwarder, offer, self.milliseconds);
        match &forwarder.running {
            Running::Pen(pen) => {
                let before = pen.counts()?;
                let outcome = generate()?;
                pen.prove_plane(before, outcome.delivered)?;
                Ok(outcome)
            }
            Running::Spinning(process) => {
                process.signal(Signal::Cont)?;
                let outcome = generate();
                process.signal(Signal::Stop)?;
                outcome
            }
            Running::Other(process) => {
                let output = || format!("it has ended:\n{}", process.output());
                ensure!(process.is_running(), output());
                generate()
            }
        }
    }

    fn generate(&self, forwarder: &Forwarder, offer: Offer, milliseconds: u64) -> Result<Outcome> {
        let Traffic { flows, vips } = forwarder.contender.traffic();
        let wire = &forwarder.wire;
        let mut words = vec![
            "generate".to_owned(),
            format!("--interface={}", wire.name()),
            format!("--to={}", wire.balancer_mac()),
            format!("--milliseconds={milliseconds}"),
            format!("--flows={flows}"),
            format!("--vips={vips}"),
            format!("--core={}", 1 - self.core.min(1)),
            format!("--object={}", self.object.display()),
        ];
        if offer.is_closed() {
            words.push(format!("--window={WINDOW}"));
        }
        let mut _passing = None;
        if offer.is_live() {
            words.push("--live".into());
            if forwarder.contender.has_no_program() {
                let balancer = self.lab.balancer();
                _passing = Some(Passing::attach(balancer, wire.name())?);
            }
        }
        let output = self.lab.client().run_ok(&self.own, words)?;
        let outcome: Outcome = serde_json::from_str(&output.stdout)
            .with_context(|| format!("reading {:?}", output.text()))?;
        let name = forwarder.contender.name();
        ensure!(outcome.delivered > 0, "{name} delivered nothing");
        Ok(outcome)
    }
}

impl Forwarder {
    /// Which one it is.
    pub(crate) fn contender(&self) -> Contender {
        self.contender
    }

    /// Pen, if it is Pen.
    pub(crate) fn pen(&self) -> Option<&Pen> {
        match &self.running {
            Running::Pen(pen) => Some(pen),
            Running::Spinning(_) | Running::Other(_) => None,
        }
    }

    /// Its wire.
    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }
}

/// The eBPF object with the programs for measurements, which stands beside Pen's own.
///
/// # Errors
/// It is not there.
pub(crate) fn object() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("pen-xdp")
        .join("bpf/bench.o");
    ensure!(
        path.is_file(),
        "there is no eBPF object {}; build it: make ebpf",
        path.display()
    );
    Ok(path)
}
