//! Host names whose addresses change while Pen runs, by a small name server of the test's own.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::{Lab, Nginx, Process, Station};
use pen_common::control::NameStatus;

use crate::python;
use crate::rig::{Pen, addresses, answerers, lab, server, wait_for};

const NAME: &str = "web.example";
/// The machine of the name server.
const TEACHER: usize = 2;

/// What the name server knows, and what it was asked.
struct Zone {
    file: PathBuf,
    questions: PathBuf,
    /// `/etc/resolv.conf` for Pen.
    resolv: PathBuf,
}

impl Zone {
    fn new(lab: &Lab) -> Self {
        let folder = lab.folder();
        let resolv = folder.join("resolv.conf");
        let teacher = server(TEACHER);
        fs::write(
            &resolv,
            format!("nameserver {teacher}\noptions timeout:1\n"),
        )
        .unwrap();
        Self {
            file: folder.join("zone"),
            questions: folder.join("questions"),
            resolv,
        }
    }

    /// From now on the name stands for these, for so many seconds.
    fn say(&self, ttl: u32, addresses: &[&str]) {
        let text = format!("{ttl} {}", addresses.join(" "));
        let new = self.file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    /// Starts the name server: A and AAAA of [`NAME`], in the order of the zone; of other names it
    /// knows nothing.
    fn serve(&self, lab: &Lab) -> Process {
        let script = format!(
            "import socket as s, struct\n\
             l = s.socket(s.AF_INET, s.SOCK_DGRAM)\n\
             l.bind(('', 53))\n\
             print('ready', flush=True)\n\
             while True:\n\
             \x20q, a = l.recvfrom(4096)\n\
             \x20at, labels = 12, []\n\
             \x20while q[at]:\n\
             \x20 labels.append(q[at+1:at+1+q[at]].decode().lower()); at += 1 + q[at]\n\
             \x20kind = struct.unpack('!H', q[at+1:at+3])[0]\n\
             \x20open({questions:?}, 'a').write('%s %d\\n' % ('.'.join(labels), kind))\n\
             \x20ttl, *all = open({zone:?}).read().split()\n\
             \x20known = '.'.join(labels) == '{NAME}'\n\
             \x20family = {{1: s.AF_INET, 28: s.AF_INET6}}.get(kind)\n\
             \x20has = [s.inet_pton(family, x) for x in all if known and family and (':' in x) == (kind == 28)]\n\
             \x20r = q[:2] + struct.pack('!HHHHH', 0x8580 | (0 if known else 3), 1, len(has), 0, 0) + q[12:at+5]\n\
             \x20for x in has: r += struct.pack('!HHHIH', 0xc00c, kind, 1, int(ttl), len(x)) + x\n\
             \x20l.sendto(r, a)\n",
            questions = self.questions,
            zone = self.file,
        );
        python::start(lab.backend(TEACHER), &script)
    }

    /// How often it was asked for IPv4 addresses of the name.
    fn asked(&self) -> usize {
        let all = fs::read_to_string(&self.questions).unwrap_or_default();
        let line = format!("{NAME} 1");
        all.lines().filter(|asked| *asked == line).count()
    }
}

fn start(lab: &Lab, zone: &Zone, words: &[&str]) -> Pen {
    Pen::start_with(lab, &zone.resolv, "/etc/resolv.conf", words)
}

fn name(pen: &Pen) -> NameStatus {
    pen.status().names.remove(0)
}

fn wait_for_addresses(pen: &Pen, expected: &[&str]) {
    let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
    wait_for("the name to stand for others", || {
        name(pen).addresses == expected
    });
}

/// Who answers, each once, in the order of their names.
fn who(lab: &Lab, count: usize) -> Vec<String> {
    let mut all = answerers(lab, addresses()[0], count);
    all.sort();
    all.dedup();
    all
}

#[test]
fn a_name_is_as_many_servers_as_it_has_addresses_and_they_are_followed() {
    if !lab::ready("a_name_is_as_many_servers_as_it_has_addresses_and_they_are_followed") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (zone, first, second) = (Zone::new(&lab), server(0), server(1));
    zone.say(1, &[&second, &first]);
    let _teacher = zone.serve(&lab);
    let pen = start(&lab, &zone, &["-r", "80", NAME]);
    assert_eq!(who(&lab, 4), ["be0", "be1"]);
    let second_name = format!("{NAME}/{second}");
    let names = |pen: &Pen| -> Vec<String> {
        pen.servers()
            .into_iter()
            .map(|server| server.name)
            .collect()
    };
    assert_eq!(names(&pen), [NAME, &second_name]);

    // A connection to the one that goes, which goes on after that.
    let go = lab.folder().join("go");
    let script = format!(
        "import http.client, os, time\n\
         def ask(c): c.request('GET', '/'); return c.getresponse().read().split()[0].decode()\n\
         while True:\n\
         \x20c = http.client.HTTPConnection('{}', 80, timeout=20)\n\
         \x20if ask(c) == 'be0': break\n\
         print('ready', flush=True)\n\
         while not os.path.exists({go:?}): time.sleep(0.02)\n\
         print('then ' + ask(c), flush=True)\n",
        addresses()[0]
    );
    let old = python::start(lab.client(), &script);
    zone.say(1, &[&second]);
    wait_for_addresses(&pen, &[&second]);
    assert_eq!(who(&lab, 6), ["be1"]);
    let weights = |pen: &Pen| -> Vec<u16> {
        pen.servers()
            .into_iter()
            .map(|server| server.weight)
            .collect()
    };
    assert_eq!(weights(&pen), [0, 1]);
    fs::write(&go, "").unwrap();
    old.wait_for_line("then be0", Duration::from_secs(10))
        .unwrap();

    // It comes back to its number.
    zone.say(1, &[&first, &second]);
    wait_for_addresses(&pen, &[&first, &second]);
    assert_eq!(who(&lab, 6), ["be0", "be1"]);
    assert_eq!(
        (names(&pen), weights(&pen)),
        (vec![NAME.to_owned(), second_name], vec![1, 1])
    );
    // What no machine can have is not made use of, and said.
    zone.say(1, &[&first, "224.0.0.1"]);
    wait_for("the bad address to be told", || {
        !name(&pen).unused.is_empty()
    });
    assert!(
        name(&pen).unused[0].starts_with("224.0.0.1"),
        "{:?}",
        name(&pen)
    );
    assert_eq!(who(&lab, 6), ["be0"]);
    pen.stop();
}

#[test]
fn a_name_is_asked_for_as_often_as_its_answer_says_or_when_told_to() {
    if !lab::ready("a_name_is_asked_for_as_often_as_its_answer_says_or_when_told_to") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start(&lab, 0, &[80]).unwrap();
    let zone = Zone::new(&lab);
    zone.say(3, &[&server(0)]);
    let _teacher = zone.serve(&lab);
    let pen = start(&lab, &zone, &["80", NAME]);
    wait_for("the first look-up", || name(&pen).next_s >= 1);
    let (before, begin) = (zone.asked(), Instant::now());
    std::thread::sleep(Duration::from_secs(7));
    let asked = zone.asked() - before;
    let most = begin.elapsed().as_secs() as usize / 3 + 1;
    assert!((1..=most).contains(&asked), "asked {asked} times");
    zone.say(3600, &[&server(0)]);
    wait_for("the long answer", || name(&pen).next_s > 60);
    let before = zone.asked();
    pen.change("resolve");
    wait_for("a question at once", || zone.asked() > before);
    assert_eq!(pen.refused("no-server"), 0);
    pen.stop();
}

#[test]
fn a_dead_name_server_takes_nobody_away() {
    if !lab::ready("a_dead_name_server_takes_nobody_away") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let zone = Zone::new(&lab);
    zone.say(1, &[&server(0)]);
    let teacher = zone.serve(&lab);
    let pen = start(&lab, &zone, &["80", NAME]);
    drop(teacher);
    wait_for("the failure to be shown", || name(&pen).error.is_some());
    assert_eq!(who(&lab, 3), ["be0"]);
    // Told once, not at each try.
    std::thread::sleep(Duration::from_secs(3));
    let told = pen.process.output();
    assert_eq!(told.matches("can't be looked up").count(), 1, "{told}");
    // It forgets the name, which is no reason to forget whom it stood for.
    zone.say(1, &[]);
    let _teacher = zone.serve(&lab);
    pen.change("resolve");
    wait_for("the name server's word", || {
        pen.change("resolve");
        name(&pen)
            .error
            .is_some_and(|why| why.contains("not known") || why.contains("address"))
    });
    assert_eq!(who(&lab, 3), ["be0"]);
    zone.say(1, &[&server(1)]);
    pen.change("resolve");
    wait_for("the name to work again", || name(&pen).error.is_none());
    wait_for_addresses(&pen, &[&server(1)]);
    assert_eq!(who(&lab, 3), ["be1"]);
    pen.stop();
}

#[test]
fn dig_is_answered_through_the_udp_proxy() {
    if !lab::ready("dig_is_answered_through_the_udp_proxy") {
        return;
    }
    let lab = lab(3);
    let zone = Zone::new(&lab);
    let v6 = Station::backend(1).addresses()[1].to_string();
    zone.say(60, &[&server(0), &server(1), &v6]);
    let _teacher = zone.serve(&lab);
    let pen = Pen::start(&lab, &["-U", "53", &server(TEACHER)]);
    let dig = |server: IpAddr, kind: &str| {
        let at = format!("@{server}");
        let words = [at.as_str(), "+short", "+tries=1", NAME, kind];
        lab.client().run_ok("dig", words).unwrap().stdout
    };
    for address in addresses() {
        assert_eq!(dig(address, "A"), format!("{}\n{}\n", server(0), server(1)));
        assert_eq!(dig(address, "AAAA"), format!("{v6}\n"));
    }
    assert_eq!(pen.service().accepted, 4);
    pen.stop();
}
