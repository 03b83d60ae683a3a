//! Access lists: who is denied stays out, at once and in the middle of what it does, and nobody
//! else notices.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use lab::{Lab, Load, Nginx, Peer, Station};

use crate::{
    reload::{in_force, write},
    rig::{Pen, START, service},
};

const PLANES: [&str; 2] = ["af_xdp", "xdp"];
/// Second addresses of the client's machine.
const OTHER4: &str = "10.77.0.66";
const OTHER6: &str = "fd77::66";
/// Frames of a datagram at an MTU of 1,500.
const FRAMES: u64 = 3;

struct Rig {
    lab: Lab,
    _web: Vec<Nginx>,
    _echoes: Vec<Peer>,
}

impl Rig {
    fn build() -> Self {
        let lab = Lab::builder().backends(2).queues(2).build().unwrap();
        // Not used unless it is asked for.
        let second = format!("{OTHER6}/64 nodad preferred_lft 0");
        for address in [format!("{OTHER4}/24"), second] {
            let (address, how) = address.split_once(' ').unwrap_or((&address, ""));
            let add = format!("addr add {address} dev eth0 {how}");
            lab.client().ip(&add).unwrap();
        }
        Self {
            _web: Nginx::start_all(&lab, &[80]).unwrap(),
            _echoes: (0..2).map(|i| Peer::udp(&lab, i, 5353).unwrap()).collect(),
            lab,
        }
    }

    /// Whether the client is served when it comes from this address. Nobody answers whom the list
    /// denies: no reset, no refusal.
    fn serves(&self, vip: IpAddr, from: IpAddr) -> bool {
        let (from, url) = (
            from.to_string(),
            format!("http://{}/", lab::host_port(vip, 80)),
        );
        let words = ["-gsf", "--max-time", "1", "--interface", &from, &url];
        let output = self.lab.client().run("curl", words).unwrap();
        match output.status.code() {
            Some(0) => true,
            Some(28) => false,
            _ => panic!("{vip} from {from}: {}", output.text()),
        }
    }

    /// For each VIP, whether the client is served from its first address, and from its other one.
    fn served(&self) -> Vec<(bool, bool)> {
        let vips = self.lab.vips();
        let served = vips.map(|vip| {
            let (own, other) = addresses(vip);
            (self.serves(vip, own), self.serves(vip, other))
        });
        served.collect()
    }

    /// Sends a datagram of three fragments that gets no answer.
    fn shout(&self, vip: IpAddr) {
        let family = if vip.is_ipv4() { "" } else { "6" };
        let (_, other) = addresses(vip);
        let script = format!(
            "import socket\n\
             s = socket.socket(socket.AF_INET{family}, socket.SOCK_DGRAM)\n\
             s.bind(('{other}', 0))\n\
             s.sendto(bytes(4000), ('{vip}', 5353))\n"
        );
        self.lab
            .client()
            .run_ok("python3", ["-c", &script])
            .unwrap();
    }
}

/// The client's addresses of a VIP's family.
fn addresses(vip: IpAddr) -> (IpAddr, IpAddr) {
    match vip {
        IpAddr::V4(_) => (Station::client().v4().into(), OTHER4.parse().unwrap()),
        IpAddr::V6(_) => (Station::client().v6().into(), OTHER6.parse().unwrap()),
    }
}

/// Services by access list `number`, and lists 1 and 2: the first denies the other addresses, the
/// second lets them alone pass.
fn services(lab: &Lab, number: u8) -> String {
    let text = service(lab, &["80/tcp", "5353/udp"], 2);
    let text = text.replace("[[pool]]", &format!("client_acl = {number}\n[[pool]]"));
    let lines = |verb: &str| format!("lines = [\"{verb} {OTHER4}\", \"{verb} {OTHER6}\"]");
    let (deny, permit) = (lines("deny"), lines("permit"));
    format!("{text}[[acl]]\nnumber = 1\n{deny}\n[[acl]]\nnumber = 2\n{permit}\n")
}

const NOT_THE_OTHER: (bool, bool) = (true, false);
const BOTH: (bool, bool) = (true, true);
const THE_OTHER: (bool, bool) = (false, true);

#[test]
fn who_is_denied_gets_nothing_and_nobody_else_notices() {
    if !lab::ready("who_is_denied_gets_nothing_and_nobody_else_notices") {
        return;
    }
    for plane in PLANES {
        let rig = Rig::build();
        let lab = &rig.lab;
        let top = format!("plane = \"{plane}\"\n");
        let pen = Pen::start(lab, &top, &services(lab, 1));
        assert_eq!(pen.status().dsr().plane.actual.to_string(), plane);
        assert_eq!(rig.served(), [NOT_THE_OTHER; 2], "{plane}");
        assert!(pen.count("acl-denied") > 0, "{plane}");
        // All of it, the later fragments as well.
        for vip in lab.vips() {
            let before = (pen.count("acl-denied"), pen.count("forwarded"));
            rig.shout(vip);
            let after = || (pen.count("acl-denied"), pen.count("forwarded"));
            crate::change::wait_for("three fragments", || after().0 - before.0 >= FRAMES);
            assert_eq!(after(), (before.0 + FRAMES, before.1), "{plane} {vip}");
            // The list is the service's; pings are nobody's service.
            let (_, other) = addresses(vip);
            let words = [
                "-c",
                "1",
                "-W",
                "5",
                "-I",
                &other.to_string(),
                &vip.to_string(),
            ];
            lab.client().run_ok("ping", words).unwrap();
        }
        // What runs from an address that is let pass goes on over every change.
        let loads: Vec<_> = lab
            .vips()
            .map(|vip| {
                let load = Load {
                    to: SocketAddr::new(vip, 5353),
                    flows: 20,
                    count: 3000,
                    rate: 300,
                    tcp: false,
                };
                (load, load.spawn(lab.client()).unwrap())
            })
            .collect();
        for (_, running) in &loads {
            running.wait_for_line("started", START).unwrap();
        }
        pen.change("no acl 1");
        assert_eq!(rig.served(), [BOTH; 2], "{plane}");
        pen.change(&format!("acl 1 deny {OTHER4}"));
        assert_eq!(rig.served(), [NOT_THE_OTHER, BOTH], "{plane}");
        pen.change(&format!("acl 1 deny {OTHER6}"));
        assert_eq!(rig.served(), [NOT_THE_OTHER; 2], "{plane}");
        pen.change("client_acl 3");
        assert_eq!(rig.served(), [BOTH; 2], "{plane}");
        for (load, running) in loads {
            let tally = load.finish(running).unwrap();
            let came = (tally.answered, tally.strayed);
            assert_eq!(came, (load.count, 0), "{plane}: {tally:?}");
        }
        pen.stop(lab, lab.balancer());
    }
}

#[test]
fn a_list_that_is_read_again_or_kept_over_a_restart_is_obeyed() {
    if !lab::ready("a_list_that_is_read_again_or_kept_over_a_restart_is_obeyed") {
        return;
    }
    for plane in PLANES {
        let rig = Rig::build();
        let lab = &rig.lab;
        let top = format!("plane = \"{plane}\"\non_stop = \"keep\"\n");
        let mut pen = Pen::start(lab, &top, &services(lab, 1));
        write(lab, &services(lab, 2));
        in_force(&pen, 1);
        assert_eq!(rig.served(), [THE_OTHER; 2], "{plane}");
        // Without the daemon the program goes by what was published last.
        pen.process.stop(lab::Signal::Kill, START).unwrap();
        assert_eq!(rig.served(), [THE_OTHER; 2], "{plane}");
        // The next one adopts the memory, and writes what it is asked for now.
        let pen = Pen::start(lab, &top, &services(lab, 1));
        assert!(pen.process.output().contains("adopted"), "{plane}");
        assert_eq!(rig.served(), [NOT_THE_OTHER; 2], "{plane}");
    }
}

#[test]
fn pens_own_commands_say_who_may_pass() {
    if !lab::ready("pens_own_commands_say_who_may_pass") {
        return;
    }
    let rig = Rig::build();
    let lab = &rig.lab;
    let control = lab.folder().join("ctl");
    let file = lab.folder().join("pen.cfg");
    let lines = format!("acl 4 permit {OTHER4}\nclient_acl 4\ndsr_if eth0\n");
    fs::write(&file, lines).unwrap();
    let vip = lab.vips().find(IpAddr::is_ipv4).unwrap();
    let bpffs = lab.bpffs().display().to_string();
    let run_dir = lab.folder().join("run").display().to_string();
    let words = [
        "-f",
        "-F",
        file.to_str().unwrap(),
        "-C",
        control.to_str().unwrap(),
        "--bpffs",
        &bpffs,
        "--run-dir",
        &run_dir,
        &format!("{vip}:80"),
        &Station::backend(0).v4().to_string(),
    ];
    let pen = lab
        .balancer()
        .spawn(env!("CARGO_BIN_EXE_pen"), words)
        .unwrap();
    pen.wait_for_line("serving", START).unwrap();
    let (own, other) = addresses(vip);
    assert_eq!((rig.serves(vip, own), rig.serves(vip, other)), THE_OTHER);
    let answer = crate::rig::ask(&control, &format!("acl 4 permit {own}"));
    assert!(answer.ok, "{:?}", answer.refusal);
    assert_eq!((rig.serves(vip, own), rig.serves(vip, other)), BOTH);
    let answer = crate::rig::ask(&control, "client_acl");
    assert_eq!(answer.value, Some("4".into()));
}
