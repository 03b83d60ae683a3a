//! Back ends' MACs.

use std::fs;
use std::time::{Duration, Instant};

use pen::neighbor::{Neighbors, Resolved, check_layer2};
use pen::nic::{self, Nic};
use pen::watch::{NetEvent, Watch};

use crate::pair::{Scratch, address, addresses, expect, expect_all, in_lab, run, runtime};

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0xbe, 1];

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

/// The interface has no IPv4 address, as a dedicated one; one of three back ends doesn't exist
/// and must not hold up the others.
#[test]
fn macs_appear_change_vanish_and_come_back() {
    in_lab("neighbors::macs_appear_change_vanish_and_come_back", |be| {
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
            be.run("sysctl -q net.ipv4.conf.eth0.arp_notify=1");
            be.run("ip link set eth0 address 02:00:00:00:be:02");
            let moved = [2, 0, 0, 0, 0xbe, 2];
            expect(&mut watch, mac_of("192.0.2.10", moved)).await;

            // The carrier goes and comes: the kernel forgets, we don't.
            be.run("ip link set eth0 down");
            expect_all(&mut watch, [NetEvent::LinkDown, no_mac_of("192.0.2.10")]).await;
            be.run("ip link set eth0 up");
            let nic::LinkState { mac, mtu, .. } = Nic::open("eth1").unwrap().link;
            let back = mac_of("192.0.2.10", moved);
            expect_all(&mut watch, [NetEvent::LinkUp { mac, mtu }, back]).await;
        });
    });
}

/// More than the kernel's table holds of ordinary entries (1,024 by default).
#[test]
fn four_thousand_back_ends_fit_into_the_table() {
    in_lab(
        "neighbors::four_thousand_back_ends_fit_into_the_table",
        |_| {
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
        },
    );
}

/// As on a kernel before 5.16. The first back end doesn't exist; the others must not wait for it.
#[test]
fn an_old_kernel_is_asked_for_each_mac() {
    in_lab("neighbors::an_old_kernel_is_asked_for_each_mac", |_| {
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
    in_lab("neighbors::neighbour_entries_are_left_as_found", |_| {
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
    in_lab("neighbors::entries_of_a_killed_process_are_swept", |_| {
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
    in_lab("neighbors::only_neighbours_can_be_back_ends", |_| {
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

/// Nobody reads while the kernel tells of 20,000 neighbours; what matters is in the flood.
#[test]
fn lost_notifications_are_made_good() {
    in_lab("neighbors::lost_notifications_are_made_good", |_| {
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

/// As on a trunk: the watched interface leads nowhere, the back end answers on one on top of it.
#[test]
fn back_ends_of_another_interface_are_watched_too() {
    let name = "neighbors::back_ends_of_another_interface_are_watched_too";
    in_lab(name, |_| {
        run("ip link set lo up");
        run("ip link add trunk0 type veth peer name trunk1");
        run("ip link set trunk0 up");
        let eth1 = Nic::open("eth1").unwrap().index;
        runtime().block_on(async {
            let mut watch = Watch::open(&Nic::open("trunk0").unwrap()).unwrap();
            watch.want(&addresses(&["192.0.2.9"])).unwrap();
            let backends = addresses(&["192.0.2.10"]);
            assert!(watch.want_on(eth1, &backends).unwrap().is_empty());
            let there = mac_of("192.0.2.10", BACKEND_MAC);
            expect(&mut watch, there).await;
            run("ip neigh del 192.0.2.10 dev eth1");
            expect_all(&mut watch, [no_mac_of("192.0.2.10"), there]).await;
            watch.close().unwrap();
            assert_eq!(run("ip neigh show 192.0.2.10 dev eth1"), "");
        });
    });
}
