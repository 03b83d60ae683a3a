//! Neighbours, ownership, announcements and interface settings against a real kernel.
//!
//! ```text
//!   lb: eth1 ---- veth ---- be: eth0      one pair of namespaces a test
//! ```
//!
//! A test can't enter a namespace by itself without unsafe code, so it runs this very program
//! again by `ip netns exec`, for itself alone. Needs root, iproute2 and ethtool.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use pen::announce::{Announced, Announcer, solicited_node};
use pen::neighbor::{Neighbors, Resolved, check_layer2};
use pen::nic::{self, HookMode, Nic, Wanted, restore_left_over, who_holds_xdp};
use pen::ownership::local_addresses;
use pen::watch::{NetEvent, Watch};
use tokio::time::timeout;

/// Set for the second run: the names of this run's namespaces begin with it.
const INSIDE: &str = "PEN_TEST_NAMESPACE";
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0xbe, 1];

/// Runs `ip` and the like; the test fails if it does. A leading `-` says that it may.
fn run(line: &str) -> String {
    let mut words = line.trim_start_matches('-').split_whitespace();
    let program = words.next().unwrap();
    let out = Command::new(program).args(words).output().unwrap();
    assert!(
        line.starts_with('-') || out.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// The namespaces of one test; gone with it, however it ends.
struct Namespaces(String);

impl Namespaces {
    fn new(test: &str) -> Namespaces {
        let made = Namespaces(format!("pen-t-{test}-{}", std::process::id()));
        let (lb, be) = (made.0.clone() + "-lb", made.0.clone() + "-be");
        run(&format!("ip netns add {lb}"));
        run(&format!("ip netns add {be}"));
        run(&format!(
            "ip link add eth1 netns {lb} numrxqueues 2 numtxqueues 2 type veth peer name eth0 netns {be}"
        ));
        run(&format!(
            "ip -n {be} link set eth0 address 02:00:00:00:be:01"
        ));
        run(&format!("ip -n {be} link set eth0 up"));
        run(&format!("ip -n {be} addr add 192.0.2.10/24 dev eth0"));
        run(&format!(
            "ip -n {be} addr add 2001:db8::10/64 dev eth0 nodad"
        ));
        run(&format!("ip -n {lb} link set eth1 up"));
        made
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for end in ["-lb", "-be"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &(self.0.clone() + end)])
                .status();
        }
    }
}

fn root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

/// Runs `body` inside the lb namespace of a fresh pair. `be(command)` runs a command in the
/// other one.
fn in_lab(test: &str, body: fn(&dyn Fn(&str) -> String)) {
    if let Ok(prefix) = std::env::var(INSIDE) {
        body(&move |line| {
            let (may_fail, line) = match line.strip_prefix('-') {
                Some(line) => ("-", line),
                None => ("", line),
            };
            run(&format!("{may_fail}ip netns exec {prefix}-be {line}"))
        });
        return;
    }
    if !root() {
        let why = format!("{test}: needs root, for network namespaces");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        println!("SKIPPED: {why}");
        return;
    }
    let lab = Namespaces::new(test);
    let status = Command::new("ip")
        .args(["netns", "exec", &(lab.0.clone() + "-lb")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, &lab.0)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its namespace");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Waits for events in any order, past all others.
async fn expect_all<const N: usize>(watch: &mut Watch, wanted: [NetEvent; N]) {
    let (mut missing, mut others) = (wanted.to_vec(), Vec::new());
    let wait = async {
        while !missing.is_empty() {
            let event = watch.next().await.unwrap();
            match missing.iter().position(|wanted| *wanted == event) {
                Some(index) => drop(missing.remove(index)),
                None => others.push(event),
            }
        }
    };
    let came = timeout(Duration::from_secs(20), wait).await;
    assert!(came.is_ok(), "never came: {missing:?}; {others:?} did");
}

async fn expect(watch: &mut Watch, wanted: NetEvent) {
    expect_all(watch, [wanted]).await;
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|text| address(text)).collect()
}

fn mac_of(backend: &str, mac: [u8; 6]) -> NetEvent {
    NetEvent::Neighbor(Resolved {
        address: address(backend),
        mac: Some(mac),
    })
}

fn no_mac_of(backend: &str) -> NetEvent {
    NetEvent::Neighbor(Resolved {
        address: address(backend),
        mac: None,
    })
}

/// A directory of this test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("pen-t-{test}-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The interface has no IPv4 address, as a dedicated one; one of three back ends doesn't exist
/// and must not hold up the others.
#[test]
fn macs_appear_change_vanish_and_come_back() {
    in_lab("macs_appear_change_vanish_and_come_back", |be| {
        runtime().block_on(async {
            let mut watch = Watch::open(&Nic::open("eth1").unwrap()).unwrap();
            let backends = addresses(&["192.0.2.9", "192.0.2.10", "2001:db8::10"]);
            assert!(watch.want(&backends).unwrap().is_empty());
            // A namespace without any IPv4 address: the kernel resolves nothing until there is one.
            run("ip link set lo up");
            expect(&mut watch, mac_of("192.0.2.10", BACKEND_MAC)).await;
            assert!(
                watch.neighbors().managed(),
                "kernels since 5.16 manage entries"
            );
            assert_eq!(watch.neighbors().mac(address("192.0.2.9")), None);

            // Deleted by hand: gone at once, and made again without being asked.
            run("ip neigh del 192.0.2.10 dev eth1");
            let back = mac_of("192.0.2.10", BACKEND_MAC);
            expect_all(&mut watch, [no_mac_of("192.0.2.10"), back]).await;

            // Another machine takes the address over and says so.
            be("sysctl -q net.ipv4.conf.eth0.arp_notify=1");
            be("ip link set eth0 address 02:00:00:00:be:02");
            let moved = [2, 0, 0, 0, 0xbe, 2];
            expect(&mut watch, mac_of("192.0.2.10", moved)).await;

            // The carrier goes and comes: the kernel forgets, we don't.
            be("ip link set eth0 down");
            expect_all(&mut watch, [NetEvent::LinkDown, no_mac_of("192.0.2.10")]).await;
            be("ip link set eth0 up");
            let nic::LinkState { mac, mtu, .. } = Nic::open("eth1").unwrap().link;
            let back = mac_of("192.0.2.10", moved);
            expect_all(&mut watch, [NetEvent::LinkUp { mac, mtu }, back]).await;
        });
    });
}

/// More than the kernel's table holds of ordinary entries (1,024 by default).
#[test]
fn four_thousand_back_ends_fit_into_the_table() {
    in_lab("four_thousand_back_ends_fit_into_the_table", |_| {
        run("ip link set lo up");
        let backends = (0..4096).map(|n| address(&format!("10.2.{}.{}", n / 250, n % 250 + 1)));
        let mut neighbors = Neighbors::open(Nic::open("eth1").unwrap().index).unwrap();
        let asked = neighbors.want(&backends.collect()).unwrap();
        assert!(asked.failed.is_empty(), "{:?}", asked.failed.first());
        let held = || {
            run("ip neigh show nud all dev eth1")
                .matches("10.2.")
                .count()
        };
        assert_eq!(held(), 4096);
        neighbors.close().unwrap();
        assert_eq!(held(), 0);
    });
}

/// As on a kernel before 5.16. The first back end doesn't exist; the others must not wait for it.
#[test]
fn an_old_kernel_is_asked_for_each_mac() {
    in_lab("an_old_kernel_is_asked_for_each_mac", |_| {
        run("ip link set lo up");
        let mut neighbors = Neighbors::open_unmanaged(Nic::open("eth1").unwrap().index).unwrap();
        let backends = ["192.0.2.9", "192.0.2.10", "2001:db8::10"];
        assert!(
            neighbors
                .want(&addresses(&backends))
                .unwrap()
                .failed
                .is_empty()
        );
        let until = Instant::now() + Duration::from_secs(20);
        let missing = |neighbors: &Neighbors| {
            backends[1..]
                .iter()
                .any(|be| neighbors.mac(address(be)) != Some(BACKEND_MAC))
        };
        while missing(&neighbors) {
            assert!(Instant::now() < until, "{}", run("ip neigh show dev eth1"));
            std::thread::sleep(Duration::from_millis(100));
            neighbors.resync().unwrap();
        }
        assert!(!neighbors.managed() && !run("ip neigh show dev eth1").contains("managed"));
        assert_eq!(neighbors.mac(address("192.0.2.9")), None);
        // Vanished ones are made again, stale ones verified.
        run("ip neigh del 192.0.2.10 dev eth1");
        run("ip neigh change 2001:db8::10 dev eth1 nud stale");
        neighbors.refresh().unwrap();
        assert!(!run("ip neigh show 2001:db8::10 dev eth1").contains("STALE"));
        std::thread::sleep(Duration::from_millis(200));
        neighbors.resync().unwrap();
        assert_eq!(neighbors.mac(address("192.0.2.10")), Some(BACKEND_MAC));
        neighbors.close().unwrap();
        assert_eq!(run("ip neigh show 192.0.2.10 dev eth1"), "");
    });
}

#[test]
fn neighbour_entries_are_left_as_found() {
    in_lab("neighbour_entries_are_left_as_found", |_| {
        run("ip addr add 192.0.2.1/24 dev eth1");
        run("ip neigh add 192.0.2.20 lladdr 02:00:00:00:00:20 dev eth1 nud permanent");
        run("ip neigh add 192.0.2.21 lladdr 02:00:00:00:00:21 dev eth1 nud stale");
        run("ip neigh add 192.0.2.22 dev eth1 managed");
        let entry = |address: &str| run(&format!("ip neigh show {address} dev eth1"));
        runtime().block_on(async {
            let mut watch = Watch::open(&Nic::open("eth1").unwrap()).unwrap();
            let backends = ["192.0.2.10", "192.0.2.20", "192.0.2.21", "192.0.2.22"];
            assert!(watch.want(&addresses(&backends)).unwrap().is_empty());
            // Known from the table, without waiting for anybody.
            expect(&mut watch, mac_of("192.0.2.20", [2, 0, 0, 0, 0, 0x20])).await;
            expect(&mut watch, mac_of("192.0.2.21", [2, 0, 0, 0, 0, 0x21])).await;
            expect(&mut watch, mac_of("192.0.2.10", BACKEND_MAC)).await;
            assert!(entry("192.0.2.20").contains("PERMANENT"));
            assert!(entry("192.0.2.21").contains("managed"));
            watch.close().unwrap();
        });
        assert_eq!(entry("192.0.2.10"), "");
        assert!(entry("192.0.2.20").contains("PERMANENT"));
        assert!(
            entry("192.0.2.21").contains("lladdr 02:00:00:00:00:21"),
            "{}",
            entry("192.0.2.21")
        );
        assert!(
            !entry("192.0.2.21").contains("managed"),
            "{}",
            entry("192.0.2.21")
        );
        assert!(
            entry("192.0.2.22").contains("managed"),
            "{}",
            entry("192.0.2.22")
        );
    });
}

/// A killed process removes nothing; what it left is adopted or swept by the next one.
#[test]
fn entries_of_a_killed_process_are_swept() {
    in_lab("entries_of_a_killed_process_are_swept", |_| {
        run("ip link set lo up");
        runtime().block_on(async {
            let nic = Nic::open("eth1").unwrap();
            let mut killed = Watch::open(&nic).unwrap();
            killed
                .want(&addresses(&["192.0.2.10", "192.0.2.11"]))
                .unwrap();
            expect(&mut killed, mac_of("192.0.2.10", BACKEND_MAC)).await;
            killed.leave();

            let mut next = Watch::open(&nic).unwrap();
            next.want(&addresses(&["192.0.2.10"])).unwrap();
            // Taken over with its MAC: no gap.
            expect(&mut next, mac_of("192.0.2.10", BACKEND_MAC)).await;
            assert_eq!(run("ip neigh show 192.0.2.11 dev eth1"), "");
            next.close().unwrap();
            assert_eq!(run("ip neigh show 192.0.2.10 dev eth1"), "");
        });
    });
}

#[test]
fn only_neighbours_can_be_back_ends() {
    in_lab("only_neighbours_can_be_back_ends", |_| {
        let eth1 = Nic::open("eth1").unwrap().index;
        let check = |backend: &str| check_layer2(eth1, address(backend));
        let refused = |backend: &str, part: &str| {
            let text = check(backend).unwrap_err();
            assert!(text.contains(backend) && text.contains(part), "{text}");
        };
        // A dedicated interface: no address, no route, and a default route elsewhere.
        assert_eq!(check("192.0.2.10"), Ok(()));
        assert_eq!(check("2001:db8::10"), Ok(()));
        run("ip link add eth9 type veth peer name eth10");
        run("ip link set eth9 up");
        run("ip link set eth10 up");
        run("ip addr add 198.51.100.1/24 dev eth9");
        run("ip route add default via 198.51.100.254");
        assert_eq!(check("192.0.2.10"), Ok(()));

        run("ip addr add 192.0.2.1/24 dev eth1");
        assert_eq!(check("192.0.2.10"), Ok(()));
        refused("203.0.113.1", "198.51.100.254");
        refused("198.51.100.7", "eth9");
        refused("192.0.2.1", "this host");
        refused("192.0.2.255", "broadcast");
        run("ip route add 203.0.113.0/24 via 192.0.2.254");
        refused("203.0.113.1", "192.0.2.254");
        // The mend that the refusal names.
        run("ip route add 203.0.113.1 dev eth1");
        assert_eq!(check("203.0.113.1"), Ok(()));
        // IPv6: still none of its own.
        assert_eq!(check("2001:db8::10"), Ok(()));
        run("ip addr add 2001:db8::1/64 dev eth1 nodad");
        assert_eq!(check("2001:db8::10"), Ok(()));
        refused("2001:db8:9::10", "no route");
        run("ip -6 route add default via 2001:db8::fe");
        refused("2001:db8:9::10", "2001:db8::fe");
    });
}

#[test]
fn addresses_and_link_changes_are_told() {
    in_lab("addresses_and_link_changes_are_told", |_| {
        runtime().block_on(async {
            let mut watch = Watch::open(&Nic::open("eth1").unwrap()).unwrap();
            let vip = address("198.51.100.80");
            assert!(!watch.owned().has(vip));
            run("ip addr add 198.51.100.80/32 dev lo");
            expect(&mut watch, NetEvent::AddressAdded(vip)).await;
            assert!(watch.owned().has(vip) && local_addresses().unwrap().contains(&vip));
            run("ip addr del 198.51.100.80/32 dev lo");
            expect(&mut watch, NetEvent::AddressRemoved(vip)).await;
            run("ip addr add 2001:db8::80/128 dev eth1 nodad");
            expect(&mut watch, NetEvent::AddressAdded(address("2001:db8::80"))).await;

            let mac = Nic::open("eth1").unwrap().link.mac;
            run("ip link set eth1 mtu 1400");
            expect(&mut watch, NetEvent::LinkChanged { mac, mtu: 1400 }).await;
            run("ip link set eth1 address 02:00:00:00:00:77");
            let changed = NetEvent::LinkChanged {
                mac: [2, 0, 0, 0, 0, 0x77],
                mtu: 1400,
            };
            expect(&mut watch, changed).await;
            run("ethtool -L eth1 rx 1 tx 1");
            expect(&mut watch, NetEvent::Queues { rx: 1, tx: 1 }).await;
            run("ip link del eth1");
            expect(&mut watch, NetEvent::LinkGone).await;
        });
    });
}

/// Nobody reads while the kernel tells of 20,000 neighbours; what matters is in the flood.
#[test]
fn lost_notifications_are_made_good() {
    in_lab("lost_notifications_are_made_good", |_| {
        let scratch = Scratch::new("lost");
        fs::create_dir_all(&scratch.0).unwrap();
        let batch = scratch.0.join("batch");
        let line = |n: u32| {
            let (high, low) = (n / 250, n % 250 + 1);
            format!("neigh replace 10.1.{high}.{low} lladdr 02:00:00:00:00:01 dev eth1\n")
        };
        let mut lines: String = (0..10_000).map(line).collect();
        lines += "addr add 192.0.2.80/32 dev lo\nneigh replace 192.0.2.10 dev eth1 lladdr \
                  02:00:00:00:be:01 nud permanent\n";
        lines.extend((0..10_000).map(line));
        fs::write(&batch, lines).unwrap();
        runtime().block_on(async {
            let mut watch = Watch::open(&Nic::open("eth1").unwrap()).unwrap();
            watch.want(&addresses(&["192.0.2.10"])).unwrap();
            run(&format!("ip -batch {}", batch.display()));
            let told = [
                NetEvent::AddressAdded(address("192.0.2.80")),
                mac_of("192.0.2.10", BACKEND_MAC),
            ];
            expect_all(&mut watch, told).await;
            assert!(watch.lost() > 0, "the flood was too small");
        });
    });
}

#[test]
fn the_interface_is_described() {
    in_lab("the_interface_is_described", |_| {
        run("ip link set eth1 mtu 1450");
        let nic = Nic::open("eth1").unwrap();
        assert_eq!(
            (nic.driver.as_str(), nic.rx_queues, nic.tx_queues),
            ("veth", 2, 2)
        );
        assert_eq!((nic.link.up, nic.link.mtu), (true, 1450));
        let mac = fs::read_to_string("/sys/class/net/eth1/address").unwrap();
        let shown: Vec<String> = nic
            .link
            .mac
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(mac.trim(), shown.join(":"));
        assert!(nic.features["rx-gro"].changeable);
        fs::write("/proc/sys/net/ipv4/conf/eth1/forwarding", "0").unwrap();
        assert!(!nic::forwarding("eth1").v4);
        fs::write("/proc/sys/net/ipv4/conf/eth1/forwarding", "1").unwrap();
        assert!(nic::forwarding("eth1").v4);
        assert!(!nic::forwarding("eth1").v6);
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        assert!(nic::forwarding("eth1").v6);
    });
}

#[test]
fn announcements_reach_the_segment() {
    in_lab("announcements_reach_the_segment", |_| {
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
        "a_filtering_interface_hears_solicitations_only_as_a_member",
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
                    be(&format!("-ping -q -c1 -W1 {vip}"));
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
        },
    );
}

/// More groups than one socket may be a member of.
#[test]
fn a_thousand_groups_are_joined() {
    in_lab("a_thousand_groups_are_joined", |_| {
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

#[test]
fn the_holder_of_the_hook_is_named() {
    in_lab("the_holder_of_the_hook_is_named", |_| {
        let index = Nic::open("eth1").unwrap().index;
        assert_eq!(who_holds_xdp(index).unwrap(), None);
        let gone = who_holds_xdp(u32::MAX / 2).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
        let mut object = Ebpf::load(&holder_object()).unwrap();
        let program: &mut Xdp = object.program_mut("holder").unwrap().try_into().unwrap();
        program.load().unwrap();
        for (mode, shown) in [
            (XdpMode::Skb, HookMode::Generic),
            (XdpMode::Driver, HookMode::Native),
        ] {
            let link = program.attach("eth1", mode).unwrap();
            let holder = who_holds_xdp(index).unwrap().unwrap();
            assert_eq!(
                (holder.mode, holder.program_name.as_deref()),
                (shown, Some("holder"))
            );
            assert_eq!(holder.process.map(|(pid, _)| pid), Some(std::process::id()));
            assert!(holder.link_id.is_some());
            program.detach(link).unwrap();
            assert_eq!(who_holds_xdp(index).unwrap(), None);
        }
    });
}

/// A program that only passes, by the C compiler that building Pen needs anyway.
fn holder_object() -> Vec<u8> {
    let source = "__attribute__((section(\"xdp\"), used)) int holder(void *c) { return 2; }\n\
                  char terms[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";
    let mut clang = Command::new("clang")
        .args(["-target", "bpf", "-O2", "-c", "-x", "c", "-o", "-", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("clang, which building Pen needs");
    clang
        .stdin
        .take()
        .unwrap()
        .write_all(source.as_bytes())
        .unwrap();
    let out = clang.wait_with_output().unwrap();
    assert!(out.status.success());
    out.stdout
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

fn gro() -> bool {
    let all = run("ethtool -k eth1");
    all.lines()
        .any(|line| line.starts_with("generic-receive-offload: on"))
}

fn knob(name: &str) -> String {
    fs::read_to_string(format!("/sys/class/net/eth1/{name}"))
        .unwrap()
        .trim()
        .into()
}

#[test]
fn settings_are_made_and_taken_back() {
    in_lab("settings_are_made_and_taken_back", |_| {
        let scratch = Scratch::new("settings");
        run("ethtool -K eth1 gro on");
        fs::write("/sys/class/net/eth1/gro_flush_timeout", "7000").unwrap();
        let nic = Nic::open("eth1").unwrap();
        let wanted = Wanted {
            generic: true,
            busy_poll: true,
            tagged: true,
        };
        let remembered = nic.apply(wanted, &scratch.0).unwrap();
        // veth has no VLAN filter and no LRO: nothing to refuse about.
        assert_eq!(remembered.refused, Vec::<String>::new());
        assert!(!gro());
        assert_eq!(
            (knob("napi_defer_hard_irqs"), knob("gro_flush_timeout")),
            ("2".into(), "200000".into())
        );
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
        // Someone else's change is not undone.
        fs::write("/sys/class/net/eth1/napi_defer_hard_irqs", "5").unwrap();
        assert_eq!(remembered.restore(), Vec::<String>::new());
        assert!(gro());
        assert_eq!(
            (knob("napi_defer_hard_irqs"), knob("gro_flush_timeout")),
            ("5".into(), "7000".into())
        );
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    });
}

#[test]
fn after_a_kill_the_operators_values_come_back() {
    in_lab("after_a_kill_the_operators_values_come_back", |_| {
        let scratch = Scratch::new("kill");
        run("ethtool -K eth1 gro on");
        fs::write("/sys/class/net/eth1/gro_flush_timeout", "7000").unwrap();
        let nic = Nic::open("eth1").unwrap();
        let busy = Wanted {
            generic: true,
            busy_poll: true,
            tagged: false,
        };
        for _ in 0..3 {
            // Dropped without restore(), as a kill does it.
            drop(nic.apply(busy, &scratch.0).unwrap());
            assert!(!gro());
        }
        // The next start wants less: the rest goes back, with the operator's value.
        let generic = Wanted {
            busy_poll: false,
            ..busy
        };
        drop(nic.apply(generic, &scratch.0).unwrap());
        assert!(!gro());
        assert_eq!(knob("gro_flush_timeout"), "7000");
        assert_eq!(knob("napi_defer_hard_irqs"), "0");
        // Nothing is started: only cleaned.
        assert_eq!(
            restore_left_over("eth1", &scratch.0).unwrap(),
            Vec::<String>::new()
        );
        assert!(gro());
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    });
}
