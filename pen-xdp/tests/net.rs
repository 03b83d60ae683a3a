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
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use pen::announce::{Announced, Announcer, solicited_node};
use pen::neighbor::{Resolved, check_layer2};
use pen::nic::{self, HookMode, Nic, Wanted, restore_left_over, who_holds_xdp};
use pen::ownership::local_addresses;
use pen::watch::{NetEvent, Watch};
use tokio::time::timeout;

/// Set for the second run: the names of this run's namespaces begin with it.
const INSIDE: &str = "PEN_TEST_NAMESPACE";
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0xbe, 1];

/// Runs `ip` and the like; the test fails if it does.
fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let out = Command::new(program).args(words).output().unwrap();
    assert!(
        out.status.success(),
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
        body(&move |line| run(&format!("ip netns exec {prefix}-be {line}")));
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

/// Waits for an event, past all others.
async fn expect(watch: &mut Watch, wanted: NetEvent) {
    let mut others = Vec::new();
    let wait = async {
        loop {
            match watch.next().await.unwrap() {
                event if event == wanted => return,
                event => others.push(event),
            }
        }
    };
    let came = timeout(Duration::from_secs(20), wait).await;
    assert!(came.is_ok(), "{wanted:?} never came; {others:?} did");
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
            expect(&mut watch, mac_of("192.0.2.10", BACKEND_MAC)).await;
            if watch.neighbors().mac(address("2001:db8::10")).is_none() {
                expect(&mut watch, mac_of("2001:db8::10", BACKEND_MAC)).await;
            }
            assert!(
                watch.neighbors().managed(),
                "kernels since 5.16 manage entries"
            );
            assert_eq!(watch.neighbors().mac(address("192.0.2.9")), None);

            // Deleted by hand: gone at once, and made again without being asked.
            run("ip neigh del 192.0.2.10 dev eth1");
            expect(&mut watch, no_mac_of("192.0.2.10")).await;
            expect(&mut watch, mac_of("192.0.2.10", BACKEND_MAC)).await;

            // Another machine takes the address over and says so.
            be("ip link set eth0 address 02:00:00:00:be:02");
            be("arping -c 1 -A -I eth0 192.0.2.10");
            let moved = [2, 0, 0, 0, 0xbe, 2];
            expect(&mut watch, mac_of("192.0.2.10", moved)).await;

            // The carrier goes and comes: the kernel forgets, we don't.
            be("ip link set eth0 down");
            expect(&mut watch, NetEvent::LinkDown).await;
            expect(&mut watch, no_mac_of("192.0.2.10")).await;
            be("ip link set eth0 up");
            let nic::LinkState { mac, mtu, .. } = Nic::open("eth1").unwrap().link;
            expect(&mut watch, NetEvent::LinkUp { mac, mtu }).await;
            expect(&mut watch, mac_of("192.0.2.10", moved)).await;
        });
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
        runtime().block_on(async {
            let nic = Nic::open("eth1").unwrap();
            let mut killed = Watch::open(&nic).unwrap();
            killed
                .want(&addresses(&["192.0.2.10", "192.0.2.11"]))
                .unwrap();
            expect(&mut killed, mac_of("192.0.2.10", BACKEND_MAC)).await;
            std::mem::forget(killed);

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
