//! What users see: a TCP stream and many short requests through a VIP.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Iperf, Lab, NIC, Nginx, Offloads, Process, Signal, Station, host_port};
use pen_common::config::{Listener, Plane, Protocol, TABLE_SIZE_DEFAULT};

use crate::contender::Rig;
use crate::pen::{Pen, Setup};

const WEB: u16 = 80;
const AB_LIMIT: Duration = Duration::from_secs(60);

fn setup(port: u16) -> Setup {
    Setup {
        interface: NIC.to_owned(),
        plane: Plane::AfXdp,
        listeners: vec![Listener {
            address: vip(),
            port,
            protocol: Protocol::Tcp,
        }],
        backends: vec![Station::backend(0).v4().into()],
        table_size: TABLE_SIZE_DEFAULT,
    }
}

fn vip() -> IpAddr {
    Station::vip(0).v4().into()
}

/// A stream from the client, through Pen on one load balancer and through the bare forwarder on
/// another, by turns.
pub(crate) struct Streams {
    lab: Lab,
    pen: Pen,
    bare: Process,
    _server: Iperf,
}

impl Streams {
    /// Makes a lab of its own. Checksums and segments are finished before they reach a load
    /// balancer: the bare forwarder can't.
    pub(crate) fn start(rig: &Rig) -> Result<Self> {
        let lab = Lab::builder()
            .balancers(2)
            .backends(1)
            .offloads(Offloads::SwitchPortTxOff)
            .build()
            .context("building a lab")?;
        let server = Iperf::start(&lab, 0)?;
        let pen = Pen::start(&lab, lab.balancer(), &setup(Iperf::PORT))?;
        let place = (rig.core, rig.object.as_path());
        let to = Station::backend(0).mac();
        let bare = rig.polling.l2fwd(&lab.balancers()[1], NIC, to, place)?;
        bare.signal(Signal::Stop)?;
        Ok(Self {
            lab,
            pen,
            bare,
            _server: server,
        })
    }

    /// Bits a second through Pen and through the bare forwarder.
    pub(crate) fn measure(&self, seconds: u32) -> Result<(f64, f64)> {
        self.lab.point_vips_at_balancer(0)?;
        let before = self.pen.counts()?;
        let through_pen = Iperf::measure(self.lab.client(), vip(), seconds, false)?;
        // The stream alone has more full frames than this; acknowledgements don't come this way.
        let frames = (through_pen * f64::from(seconds) / 8.0 / 1500.0) as u64;
        self.pen.prove_plane(before, frames)?;
        self.lab.point_vips_at_balancer(1)?;
        self.bare.signal(Signal::Cont)?;
        let through_bare = Iperf::measure(self.lab.client(), vip(), seconds, false);
        self.bare.signal(Signal::Stop)?;
        Ok((through_pen, through_bare?))
    }
}

/// Short requests from the client: through Pen, and straight to the back end.
pub(crate) struct Requests {
    lab: Lab,
    pen: Pen,
    _web: Nginx,
}

/// What `ab` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answers {
    pub(crate) per_second: f64,
    pub(crate) failed: u64,
}

impl Requests {
    /// Makes a lab of its own, with all offloads as the kernel sets them.
    pub(crate) fn start() -> Result<Self> {
        let lab = Lab::builder()
            .backends(1)
            .build()
            .context("building a lab")?;
        let web = Nginx::start(&lab, 0, &[WEB])?;
        let pen = Pen::start(&lab, lab.balancer(), &setup(WEB))?;
        Ok(Self {
            lab,
            pen,
            _web: web,
        })
    }

    /// `count` requests through Pen, and as many past it: first what came of the former.
    pub(crate) fn measure(&self, count: u32) -> Result<(Answers, Answers)> {
        self.lab.forget_vips()?;
        let before = self.pen.counts()?;
        let through_pen = self.ab(vip(), count)?;
        // Three frames at least: SYN, request, FIN.
        self.pen.prove_plane(before, 3 * u64::from(count))?;
        let direct = self.ab(Station::backend(0).v4().into(), count)?;
        Ok((through_pen, direct))
    }

    fn ab(&self, to: IpAddr, count: u32) -> Result<Answers> {
        let url = format!("http://{}/", host_port(to, WEB));
        let count = count.to_string();
        let words = ["-q", "-l", "-c", "20", "-n", &count, &url];
        let output = self.lab.client().run_for(AB_LIMIT, "ab", words)?;
        ensure!(output.ok(), "ab failed: {}", output.text());
        read_ab(&output.stdout).with_context(|| format!("reading what ab says: {}", output.stdout))
    }
}

fn read_ab(text: &str) -> Option<Answers> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()
    };
    let failed: u64 = field("Failed requests")?.parse().ok()?;
    let other = field("Non-2xx responses").map_or(Some(0), |n| n.parse::<u64>().ok())?;
    Some(Answers {
        per_second: field("Requests per second")?.parse().ok()?,
        failed: failed + other,
    })
}

#[cfg(test)]
mod tests {
    use super::read_ab;

    #[test]
    fn what_ab_says_is_understood() {
        let text = "Complete requests:      10000\nFailed requests:        2\n\
                    Non-2xx responses:      3\n\
                    Requests per second:    7068.52 [#/sec] (mean)\n";
        let answers = read_ab(text).unwrap();
        assert_eq!((answers.per_second, answers.failed), (7068.52, 5));
        assert!(read_ab("Requests per second: 3").is_none());
    }
}
