//! The segment: a switch, a client, one or two load balancers and back ends, all on one Ethernet.
//!
//! ```text
//!   client eth0 ---- client [ switch ] lb0 ==== eth0 lb0      (1 to 4 queues)
//!                           [  br0   ] lb1 ==== eth0 lb1      (if asked for)
//!                           [        ] be0 ---- eth0 be0      (VIPs on lo)
//!                           [        ] be1 ---- eth0 be1
//! ```

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};

use crate::address::{BACKENDS_MAX, BALANCERS_MAX, PREFIX_V4, PREFIX_V6, Station};
use crate::guard::{self, Guard};
use crate::link::{BRIDGE, Cable, NIC, Nic};
use crate::namespace::{Namespace, ip_batch};
use crate::offload::Offloads;
use crate::{pass, process};

/// How long a lab may take until every address is usable.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// More queues than this were not tried on a veth pair.
const QUEUES_MAX: u32 = 4;
/// A switch has no netfilter. Where the kernel's is built in or loaded, its bridges call it for every frame
/// unless told not to: `ab` through the load balancer loses a tenth by it, and malformed packets that
/// the load balancer is to count are dropped. Of this namespace alone, since Linux 5.3.
const NO_NETFILTER: &[&str] = &[
    "net.bridge.bridge-nf-call-iptables=0",
    "net.bridge.bridge-nf-call-ip6tables=0",
    "net.bridge.bridge-nf-call-arptables=0",
];

/// Machines on one segment, removed with all that runs in them when dropped, or when this process
/// ends in any way.
///
/// Several labs may exist at once, in one process and in several.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
    switch: Namespace,
    client: Namespace,
    balancers: Vec<Namespace>,
    backends: Vec<Namespace>,
    vips: usize,
    // The last field, so dropped last.
    _guard: Guard,
}

/// What a lab shall be; every setting has a default.
#[derive(Debug, Clone)]
#[must_use = "nothing exists before build()"]
pub struct Builder {
    backends: usize,
    balancers: usize,
    queues: u32,
    mtu: u32,
    vips: usize,
    nic: Nic,
    offloads: Offloads,
    addressed: bool,
    switch_program: bool,
    ip_forward: bool,
}

impl Lab {
    /// Starts from: 3 back ends, 1 load balancer with 1 queue on a veth, 1 VIP, MTU 1500, offloads
    /// as the kernel sets them, load balancer addressed, a program on the switch's port to it,
    /// forwarding off.
    pub fn builder() -> Builder {
        Builder {
            backends: 3,
            balancers: 1,
            queues: 1,
            mtu: 1500,
            vips: 1,
            nic: Nic::Veth,
            offloads: Offloads::AsKernelSets,
            addressed: true,
            switch_program: true,
            ip_forward: false,
        }
    }

    /// The machine with the bridge; its ports are `client`, `lb0`, `lb1`, `be0`, `be1`, ...
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The first (mostly the only) load balancer.
    pub fn balancer(&self) -> &Namespace {
        &self.balancers[0]
    }

    pub fn balancers(&self) -> &[Namespace] {
        &self.balancers
    }

    /// Back end `index`, counted from 0.
    pub fn backend(&self, index: usize) -> &Namespace {
        &self.backends[index]
    }

    pub fn backends(&self) -> &[Namespace] {
        &self.backends
    }

    /// Every machine but the switch: client, load balancers, back ends.
    pub fn machines(&self) -> impl Iterator<Item = &Namespace> {
        [&self.client]
            .into_iter()
            .chain(&self.balancers)
            .chain(&self.backends)
    }

    /// A folder for files, removed with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A BPF file system that all programs of the lab see and that lasts as long as the lab: pins
    /// made by one run are there for the next.
    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// Writes VIP -> load balancer `index` into the client's neighbour tables, for forwarders that
    /// don't answer ARP.
    pub fn point_vips_at_balancer(&self, index: usize) -> Result<()> {
        self.point_vips_at(Station::balancer(index))
    }

    /// Writes VIP -> `station` into the client's neighbour tables; a back end here is the way
    /// around any load balancer.
    pub fn point_vips_at(&self, station: Station) -> Result<()> {
        let mac = station.mac();
        let line = |vip| format!("neigh replace {vip} lladdr {mac} dev {NIC} nud permanent");
        self.client
            .ip_batch(&self.vips().map(line).collect::<Vec<_>>())
    }

    /// Forgets what the client knows about the VIPs' MACs, so that it asks again.
    pub fn forget_vips(&self) -> Result<()> {
        for vip in self.vips() {
            // Not there is fine: then there is nothing to forget.
            self.client
                .run("ip", ["neigh", "del", &vip.to_string(), "dev", NIC])?;
        }
        Ok(())
    }

    /// Pings `to` once from `from`; the MAC tables of bridge and neighbours are learnt by it.
    pub fn ping(&self, from: &Namespace, to: IpAddr) -> Result<bool> {
        Ok(from
            .run("ping", ["-n", "-c", "1", "-W", "2", &to.to_string()])?
            .ok())
    }

    /// Every VIP that the back ends hold, in both families.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        (0..self.vips).flat_map(|index| Station::vip(index).addresses())
    }
}

impl Builder {
    /// Number of back ends, 1 to [`BACKENDS_MAX`].
    pub fn backends(mut self, count: usize) -> Self {
        self.backends = count;
        self
    }

    /// Number of load balancers, 1 or 2.
    pub fn balancers(mut self, count: usize) -> Self {
        self.balancers = count;
        self
    }

    /// Queues of the load balancers' cables, 1 to 4.
    pub fn queues(mut self, count: u32) -> Self {
        self.queues = count;
        self
    }

    /// MTU of every interface; 9000 for jumbo frames.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Number of VIPs that every back end holds on `lo`, in both families.
    pub fn vips(mut self, count: usize) -> Self {
        self.vips = count;
        self
    }

    pub fn nic(mut self, nic: Nic) -> Self {
        self.nic = nic;
        self
    }

    pub fn offloads(mut self, offloads: Offloads) -> Self {
        self.offloads = offloads;
        self
    }

    /// `false`: the load balancers' `eth0` gets no address (a NIC for DSR alone), but for IPv6's
    /// own link-local one.
    pub fn addressed(mut self, addressed: bool) -> Self {
        self.addressed = addressed;
        self
    }

    /// `false`: the switch's ports to the load balancers run no XDP program. With one (unless the
    /// load balancer's NIC is a macvlan), what a load balancer sends by native XDP_TX arrives;
    /// without, it does not, but frames of many segments pass whole.
    pub fn switch_program(mut self, program: bool) -> Self {
        self.switch_program = program;
        self
    }

    /// `true`: the load balancers' kernels forward, as on a router.
    pub fn ip_forward(mut self, forward: bool) -> Self {
        self.ip_forward = forward;
        self
    }

    /// Makes it all and waits until every address is usable.
    ///
    /// # Errors
    /// Not root, a program is missing (see [`crate::missing`]), or the kernel refused something.
    pub fn build(self) -> Result<Lab> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        let range = |count, max, what| {
            ensure!(
                (1..=max).contains(&count),
                "a lab has 1 to {max} {what}, not {count}"
            );
            Ok(())
        };
        range(self.backends, BACKENDS_MAX, "back ends")?;
        range(self.balancers, BALANCERS_MAX, "load balancers")?;
        range(self.queues as usize, QUEUES_MAX as usize, "queues")?;
        if let Some(what) = crate::missing() {
            bail!("no lab without it: {what}");
        }
        let mut swept = Ok(());
        SWEPT.call_once(|| swept = guard::sweep());
        swept?;

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pen-{}-{number}", std::process::id());
        let guard = Guard::start(&name)?;
        let folder = guard::folder(&name);
        mount_bpffs(&folder.join("bpf"))?;
        let space =
            |machine: String| Namespace::new(format!("{name}-{machine}"), folder.join(&machine));
        let numbered = |machine: &'static str, count| {
            (0..count)
                .map(|i| space(format!("{machine}{i}")))
                .collect::<Result<Vec<_>>>()
        };
        let lab = Lab {
            switch: space("switch".into())?,
            client: space("client".into())?,
            balancers: numbered("lb", self.balancers)?,
            backends: numbered("be", self.backends)?,
            vips: self.vips,
            folder: folder.clone(),
            _guard: guard,
        };
        let spaces = lab.machines().chain([&lab.switch]);
        let additions: Vec<_> = spaces
            .map(|space| format!("netns add {}", space.name()))
            .collect();
        ip_batch(&[], &folder, &additions)?;
        self.set_kernels(&lab)?;
        self.plug(&lab)?;
        wait_until_usable(&lab)?;
        Ok(lab)
    }

    /// Kernel settings; before the cables, because interfaces take their defaults when they appear.
    fn set_kernels(&self, lab: &Lab) -> Result<()> {
        lab.switch
            .sysctl(&["net.ipv6.conf.default.disable_ipv6=1"])?;
        lab.switch.sysctl_if_known(NO_NETFILTER)?;
        let quiet = [
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv6.conf.all.accept_dad=0",
            "net.ipv6.conf.default.accept_dad=0",
            // Nobody answers; the frames would only disturb counts.
            "net.ipv6.conf.default.router_solicitations=0",
        ];
        lab.client.sysctl(&quiet)?;
        let forward = u8::from(self.ip_forward);
        let v4 = format!("net.ipv4.ip_forward={forward}");
        let v6 = format!("net.ipv6.conf.all.forwarding={forward}");
        for balancer in &lab.balancers {
            balancer.sysctl(&[&quiet[..], &[&v4, &v6]].concat())?;
        }
        // The VIP is ours to serve, not to claim. IPv6 needs no word: it answers only for addresses
        // of the interface asked on.
        let modest = [
            "net.ipv4.conf.all.arp_ignore=1",
            "net.ipv4.conf.all.arp_announce=2",
        ];
        for backend in &lab.backends {
            backend.sysctl(&[&quiet[..], &modest[..]].concat())?;
        }
        Ok(())
    }

    fn plug(&self, lab: &Lab) -> Result<()> {
        let cable = |port: String, machine, station| Cable {
            switch: &lab.switch,
            port,
            machine,
            station,
            nic: Nic::Veth,
            queues: 1,
            mtu: self.mtu,
        };
        let client = cable("client".into(), &lab.client, Station::client());
        let mut machines = vec![(client, addresses(Station::client()))];
        for (index, balancer) in lab.balancers.iter().enumerate() {
            let station = Station::balancer(index);
            let plain = cable(format!("lb{index}"), balancer, station);
            let lines = if self.addressed {
                addresses(station)
            } else {
                Vec::new()
            };
            machines.push((
                Cable {
                    nic: self.nic,
                    queues: self.queues,
                    ..plain
                },
                lines,
            ));
        }
        for (index, backend) in lab.backends.iter().enumerate() {
            let station = Station::backend(index);
            let mut lines = addresses(station);
            lines.extend((0..self.vips).flat_map(|vip| on_loopback(Station::vip(vip))));
            machines.push((cable(format!("be{index}"), backend, station), lines));
        }
        let lines: Vec<_> = machines.iter().map(|(cable, _)| cable.creation()).collect();
        ip_batch(&[], &lab.folder, &lines)?;
        self.switch_on(lab, machines.iter().map(|(cable, _)| cable))?;
        for (cable, lines) in &machines {
            cable
                .machine
                .ip_batch(&[&cable.at_machine()[..], &lines[..]].concat())?;
        }
        Ok(())
    }

    /// The bridge with its ports, their offloads, and the program on the ports to the load
    /// balancers.
    fn switch_on<'a>(&self, lab: &Lab, cables: impl Iterator<Item = &'a Cable<'a>>) -> Result<()> {
        let mtu = self.mtu;
        // Without a querier, snooping would end in not delivering what was asked for.
        let mut lines = vec![
            format!("link add {BRIDGE} mtu {mtu} type bridge mcast_snooping 0"),
            format!("link set {BRIDGE} up"),
        ];
        lines.extend(cables.map(Cable::at_switch));
        lab.switch.ip_batch(&lines)?;
        let ports = |machine, count| (0..count).map(move |index| format!("{machine}{index}"));
        let (balancers, backends) = (ports("lb", self.balancers), ports("be", self.backends));
        let (at_balancers, at_backends) = self.offloads.finished_at();
        let finished: Vec<_> = balancers
            .clone()
            .filter(|_| at_balancers)
            .chain(backends.filter(|_| at_backends))
            .collect();
        for port in finished {
            lab.switch.ethtool(&format!("-K {port} tx off"))?;
        }
        if self.switch_program && self.nic == Nic::Veth {
            pass::attach(&lab.switch.file(), &balancers.collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

fn addresses(station: Station) -> Vec<String> {
    let (v4, v6) = (station.v4(), station.v6());
    vec![
        format!("addr add {v4}/{PREFIX_V4} dev {NIC}"),
        format!("addr add {v6}/{PREFIX_V6} dev {NIC} nodad"),
    ]
}

fn on_loopback(vip: Station) -> [String; 2] {
    let (v4, v6) = (vip.v4(), vip.v6());
    [
        format!("addr add {v4}/32 dev lo"),
        format!("addr add {v6}/128 dev lo nodad"),
    ]
}

fn mount_bpffs(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "bpf", "bpf"]).arg(folder);
    process::run_ok(mount, process::RUN_LIMIT)
        .context("is CONFIG_BPF_SYSCALL set?")
        .map(drop)
}

/// Carrier takes a moment, and an IPv6 address is tentative until then.
fn wait_until_usable(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    for machine in lab.machines() {
        loop {
            let text = machine.ip(&format!("addr show dev {NIC}"))?.stdout;
            if text.contains("LOWER_UP") && !text.contains("tentative") {
                break;
            }
            let name = machine.name();
            ensure!(
                Instant::now() < deadline,
                "{NIC} in {name} is not usable:\n{text}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}
