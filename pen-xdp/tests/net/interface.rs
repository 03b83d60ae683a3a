//! The interface: what it is, what is set on it, who is on its hook, which addresses are here.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use pen::netlink::Netlink;
use pen::nic::{self, HookMode, Nic, Wanted, restore_left_over, who_holds_xdp};
use pen::ownership::Owned;
use pen::watch::{NetEvent, Watch};

use crate::pair::{Scratch, address, expect, in_lab, run, runtime};

fn owned_now() -> Owned {
    Owned::read(&mut Netlink::open().unwrap()).unwrap()
}

#[test]
fn addresses_and_link_changes_are_told() {
    in_lab("interface::addresses_and_link_changes_are_told", |_| {
        runtime().block_on(async {
            let mut watch = Watch::open(&Nic::open("eth1").unwrap()).unwrap();
            let vip = address("198.51.100.80");
            assert!(!watch.owned().has(vip));
            run("ip addr add 198.51.100.80/32 dev lo");
            expect(&mut watch, NetEvent::AddressAdded(vip)).await;
            assert!(watch.owned().has(vip) && owned_now().has(vip));
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
    in_lab("interface::the_interface_is_described", |_| {
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
fn the_holder_of_the_hook_is_named() {
    in_lab("interface::the_holder_of_the_hook_is_named", |_| {
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
    in_lab("interface::settings_are_made_and_taken_back", |_| {
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
    in_lab(
        "interface::after_a_kill_the_operators_values_come_back",
        |_| {
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
        },
    );
}
