//! Announcements, and the groups in which solicitations come.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use pen::announce::{Announced, Announcer, solicited_node};
use pen::nic::Nic;

use crate::pair::{INSIDE, address, addresses, in_lab, run};

#[test]
fn announcements_reach_the_segment() {
    in_lab("announcements::announcements_reach_the_segment", |_| {
        let nic = Nic::open("eth1").unwrap();
        let mut capture =
            Capture::start("-be", "eth0", "arp or vlan or ether dst 33:33:00:00:00:01");
        let mut announcer = Announcer::open(nic.index).unwrap();
        let plain = |vip| Announced {
            vip: address(vip),
            vlan: None,
        };
        let tagged = Announced {
            vlan: Some(100),
            ..plain("198.51.100.81")
        };
        let all = [plain("198.51.100.80"), plain("2001:db8::80"), tagged];
        announcer.announce(&all, nic.link.mac).unwrap();
        let mac = nic.link.mac.map(|byte| format!("{byte:02x}")).join(":");
        let to_all = format!("{mac} > ff:ff:ff:ff:ff:ff, ethertype ARP");
        capture.expect(&[&to_all, "who-has 198.51.100.80", "tell 198.51.100.80"]);
        capture.expect(&[&to_all, "Reply 198.51.100.80 is-at", &mac]);
        let what = [
            "2001:db8::80 > ff02::1",
            "sum ok",
            "advertisement",
            "Flags [override]",
            &mac,
        ];
        capture.expect(&what);
        capture.expect(&["vlan 100", "198.51.100.81"]);
    });
}

/// An unowned address is asked for by multicast, and a filtering interface drops groups that it
/// is no member of: macvlan does, as a real card; veth doesn't. Macvlan's filter has 256 places,
/// so one group may be heard by chance, but not three.
#[test]
fn a_filtering_interface_hears_solicitations_only_as_a_member() {
    in_lab(
        "announcements::a_filtering_interface_hears_solicitations_only_as_a_member",
        |be| {
            run("ip link add mv0 link eth1 type macvlan mode private");
            run("ip link set mv0 addrgenmode none");
            run("ip link set mv0 up");
            let index = Nic::open("mv0").unwrap().index;
            assert_eq!(run("ip -6 addr show dev mv0"), "", "no IPv6 address");
            let vips = ["2001:db8::1:80", "2001:db8::2:81", "2001:db8::3:82"];
            let mut capture = Capture::start("-lb", "mv0", "icmp6");
            let mut heard = || {
                for vip in vips {
                    // Nobody has the address yet: only the question counts.
                    be.run(&format!("-ping -q -c1 -W1 {vip}"));
                }
                capture.lines_with("neighbor solicitation")
            };
            let before = heard();
            let asked = |lines: &[String], vip: &str| lines.iter().any(|line| line.contains(vip));
            assert!(
                !vips.iter().all(|vip| asked(&before, vip)),
                "nothing is filtered: {before:?}"
            );

            let mut announcer = Announcer::open(index).unwrap();
            announcer.listen(&addresses(&vips)).unwrap();
            let IpAddr::V6(vip) = address(vips[0]) else {
                unreachable!("an IPv6 address")
            };
            let group = solicited_node(vip).to_string();
            let member = || run("ip maddr show dev mv0").contains(&group);
            assert!(member());
            let joined = heard();
            assert!(vips.iter().all(|vip| asked(&joined, vip)), "{joined:?}");

            announcer.listen(&addresses(&vips[1..])).unwrap();
            assert!(!member(), "left with its address");
            announcer.listen(&addresses(&vips)).unwrap();
            assert!(member());
            drop(announcer);
            assert!(!member(), "left at stop");

            let mut announcer = Announcer::open(index).unwrap();
            let hears_all = || run("ip -d link show mv0").contains("allmulti 1");
            announcer.hear_all(true).unwrap();
            announcer.hear_all(true).unwrap();
            assert!(hears_all(), "{}", run("ip -d link show mv0"));
            let all = heard();
            assert!(vips.iter().all(|vip| asked(&all, vip)), "{all:?}");
            announcer.hear_all(false).unwrap();
            assert!(!hears_all());
            announcer.hear_all(true).unwrap();
            drop(announcer);
            assert!(!hears_all(), "left at stop");
        },
    );
}

/// More groups than one socket may be a member of.
#[test]
fn a_thousand_groups_are_joined() {
    in_lab("announcements::a_thousand_groups_are_joined", |_| {
        let mut announcer = Announcer::open(Nic::open("eth1").unwrap().index).unwrap();
        let vips = (0..1000).map(|n| address(&format!("2001:db8::{:x}:{n:x}", n % 7)));
        announcer.listen(&vips.collect()).unwrap();
        let joined = run("ip maddr show dev eth1");
        assert_eq!(
            joined.matches("ff02::1:ff").count(),
            1001,
            "and the link-local address's own"
        );
        announcer.listen(&BTreeSet::new()).unwrap();
        assert_eq!(
            run("ip maddr show dev eth1").matches("ff02::1:ff").count(),
            1
        );
    });
}

/// tcpdump at one end, its lines as they come; a continued line is one.
struct Capture {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Capture {
    fn start(end: &str, interface: &str, filter: &str) -> Capture {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &(std::env::var(INSIDE).unwrap() + end)])
            .args(["tcpdump", "-p", "-lnev", "-i", interface])
            .args(filter.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut complaints = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(complaints.any(|line| line.unwrap().contains("listening on")));
        let (sender, lines) = std::sync::mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // Kept open, or tcpdump dies when it says farewell.
            let _complaints = complaints;
            output
                .lines()
                .map_while(Result::ok)
                .all(|line| sender.send(line).is_ok())
        });
        Capture {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a frame whose description has all these parts.
    fn expect(&mut self, parts: &[&str]) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self
            .seen
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part)))
        {
            assert!(
                Instant::now() < until,
                "no frame with {parts:?} in {:#?}",
                self.seen
            );
            self.read(Duration::from_millis(200));
        }
    }

    /// What came since the last call and contains `part`.
    fn lines_with(&mut self, part: &str) -> Vec<String> {
        self.read(Duration::from_millis(500));
        std::mem::take(&mut self.seen)
            .into_iter()
            .filter(|line| line.contains(part))
            .collect()
    }

    fn read(&mut self, quiet: Duration) {
        while let Ok(line) = self.lines.recv_timeout(quiet) {
            match self
                .seen
                .last_mut()
                .filter(|_| line.starts_with([' ', '\t']))
            {
                Some(last) => *last += &line,
                None => self.seen.push(line),
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
