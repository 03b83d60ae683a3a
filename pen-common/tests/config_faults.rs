//! What is wrong with a configuration: told with file, line, thing, key and mend; and what is not.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use pen_common::config::*;

struct Nowhere;

impl Outside for Nowhere {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        match host {
            "web1" => Ok(vec![Ipv4Addr::new(10, 0, 0, 11).into()]),
            _ => Err("no such host".to_owned()),
        }
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("there are no files here".to_owned())
    }
}

fn read(text: &str) -> Result<Checked, ConfigErrors> {
    Config::from_toml(text, "pen.toml", &Nowhere)
}

const SMALL: &str = r#"interface = "eth1"
[[service]]
name = "web"
listen = "10.0.0.100:80"

[[pool]]
name = "web"
backend = ["10.0.0.11"]
"#;

/// `text` with `from` replaced by `to`, which must change it.
fn changed(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    SMALL.replacen(from, to, 1)
}

/// Holds that each text is refused with exactly one fault, which contains what is expected.
fn refused(rows: &[(String, &str)]) {
    for (text, expected) in rows {
        let errors = read(text).expect_err(text).to_string();
        assert!(
            errors.contains(expected),
            "{text}\ngave: {errors}\nnot:  {expected}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn faults_of_the_top_level() {
    let top = |line: &str| format!("{line}\n{SMALL}");
    refused(&[
        (
            top("plain = \"xdp\""),
            "pen.toml:1: unknown key `plain`; did you mean `plane`?",
        ),
        (
            top("plane = \"xpd\""),
            "pen.toml:1: plane = \"xpd\" is none of auto, af_xdp, xdp, af_packet; did you mean `xdp`?",
        ),
        (
            top("plane = 3"),
            "pen.toml:1: plane = 3: a text in quotes is wanted",
        ),
        (
            top("plane = [\"xdp\"]"),
            "pen.toml:1: plane: no array can stand here",
        ),
        (
            top("workers = 0"),
            "pen.toml:1: workers = 0 is out of range (1..=256)",
        ),
        (
            top("workers = \"many\""),
            "pen.toml:1: workers = \"many\" is neither auto nor a number",
        ),
        (
            top("ring_size = 100"),
            "pen.toml:1: ring_size = 100 is not a power of two in 64..=8192",
        ),
        (
            top("ring_size = \"64\""),
            "pen.toml:1: ring_size = \"64\": a number without quotes is wanted (64..=8192)",
        ),
        (
            top("finish_checksums = 1"),
            "pen.toml:1: finish_checksums = 1 is neither true nor false",
        ),
        (top("seed = -1"), "pen.toml:1: seed = -1 is out of range"),
    ]);
}

#[test]
fn faults_of_the_top_level_in_numbers_sizes_and_paths() {
    let top = |line: &str| format!("{line}\n{SMALL}");
    refused(&[
        (top("seed = \"\""), "pen.toml:1: seed = \"\" is empty"),
        (
            top("seed = \"0xz\""),
            "pen.toml:1: seed = \"0xz\" is not a hexadecimal number",
        ),
        (
            top("seed = 99999999999999999999"),
            "pen.toml:1: seed: 99999999999999999999 does not fit 64 bits",
        ),
        (
            top("table_memory = 1048576.5"),
            "pen.toml:1: table_memory: no float can stand here",
        ),
        (
            top("table_memory = 4096"),
            "pen.toml:1: table_memory = 4096 is out of range",
        ),
        (
            top("table_memory = \"9PiB\""),
            "pen.toml:1: table_memory = \"9PiB\" is not a size",
        ),
        (
            top("table_memory = \"2GiB\""),
            "pen.toml:1: table_memory = \"2GiB\" is out of range",
        ),
        (
            top("control = \"ctl\""),
            "pen.toml:1: control = \"ctl\" is neither a path nor a port",
        ),
        (
            top("control = 65536"),
            "pen.toml:1: control = 65536 is neither a path nor a port",
        ),
        (
            top("control = \"[::]:8888\"\ncontrol_acl = 2"),
            "pen.toml:1: control = \"[::]:8888\" can be reached from other machines, and access list 2",
        ),
        (
            top("control = 8888\ncontrol_mode = \"0660\""),
            "pen.toml:2: control_mode speaks of a socket's file, and control names a port",
        ),
        (
            top("control = 8888\ncontrol_owner = \":adm\""),
            "pen.toml:2: control_owner speaks of a socket's file, and control names a port",
        ),
        (
            top("control_mode = 660"),
            "pen.toml:1: control_mode = 660: octal digits in quotes are wanted: \"0660\"",
        ),
        (
            top("pid_file = \"\""),
            "pen.toml:1: pid_file = \"\" is not a path",
        ),
        (
            top("debug = 256"),
            "pen.toml:1: debug = 256 is out of range (0..=255)",
        ),
    ]);
}

#[test]
fn faults_of_the_whole() {
    refused(&[
        ("plane = ".to_owned(), "pen.toml:1: not TOML"),
        (
            "a = 1\na = 2".to_owned(),
            "pen.toml:2: not TOML: duplicate key",
        ),
        (
            changed("eth1", "a name that is too long"),
            "pen.toml:1: \"a name that is too long\" can't be the name of an interface",
        ),
        (
            changed("interface = \"eth1\"", ""),
            "no interface: give -O \"dsr_if eth1\" or interface = \"eth1\"",
        ),
        ("interface = \"eth1\"".to_owned(), "nothing to serve"),
    ]);
}

#[test]
fn faults_of_services() {
    let service = |line: &str| changed("[[pool]]", &format!("{line}\n[[pool]]"));
    refused(&[
        (
            service("moed = \"dsr\""),
            "pen.toml:6: service \"web\": unknown key `moed`; did you mean `mode`?",
        ),
        (
            service("vlan = 4095"),
            "pen.toml:6: service \"web\": vlan = 4095 is out of range (1..=4094)",
        ),
        (
            service("vlan = 0"),
            "pen.toml:6: service \"web\": vlan = 0 is out of range (1..=4094)",
        ),
        (
            service("hash = \"flows\""),
            "pen.toml:6: service \"web\": hash = \"flows\" is none of flow, source; did you mean `flow`?",
        ),
        (
            service("pool = \"wbe\""),
            "pen.toml:6: service \"web\": there is no pool \"wbe\"; did you mean `web`?",
        ),
    ]);
}

#[test]
fn faults_of_vips() {
    refused(&[
        (
            changed("[[service]]", "[service]"),
            "pen.toml:2: `service` is a list of tables: write [[service]]",
        ),
        (
            changed("listen = \"10.0.0.100:80\"", ""),
            "pen.toml:2: service \"web\": it has no VIP",
        ),
        (
            changed("10.0.0.100:80", "10.0.0.100:http"),
            "pen.toml:4: service \"web\": VIP \"10.0.0.100:http\": port = \"http\" is not a number (0..=65535)",
        ),
        (
            changed("10.0.0.100:80", "10.0.0.100:65536"),
            "pen.toml:4: service \"web\": VIP \"10.0.0.100:65536\": port = 65536 is out of range (0..=65535)",
        ),
        (
            changed("10.0.0.100:80", "10.0.0.100/sctp"),
            "VIP \"10.0.0.100/sctp\": \"sctp\" is none of tcp, udp",
        ),
        (
            changed("10.0.0.100:80", "2001:db8::1"),
            "an IPv6 address is written in brackets: [2001:db8::1], [2001:db8::1]:80",
        ),
        (
            changed("10.0.0.100:80", "www:80"),
            "\"www\" is not an address (names are not looked up for VIPs)",
        ),
        (
            changed("10.0.0.100:80", "224.0.0.1:80"),
            "224.0.0.1 can't be reached through an interface: use a unicast address",
        ),
        (
            changed("10.0.0.100:80", "80"),
            "\"80\" is a port without an address",
        ),
        (
            changed("\"10.0.0.100:80\"", "[\"10.0.0.1:80\", \"10.0.0.1:80\"]"),
            "pen.toml:4: service \"web\": VIP 10.0.0.1:80 stands here twice",
        ),
        (
            format!("{SMALL}[[service]]\nname = \"web\"\nlisten = \"10.0.0.101\"\n"),
            "pen.toml:10: service \"web\": there are two services of this name",
        ),
        (
            format!(
                "{SMALL}[[service]]\nname = \"two\"\npool = \"web\"\nlisten = \"10.0.0.100:80/tcp\"\n"
            ),
            "pen.toml:12: service \"two\": VIP 10.0.0.100:80 is taken by service \"web\" already",
        ),
    ]);
}

#[test]
fn faults_of_pools() {
    let pool = |line: &str| changed("backend =", &format!("{line}\nbackend ="));
    refused(&[
        (
            pool("table_size = 65536"),
            "pen.toml:8: pool \"web\": table_size = 65536 is not a prime: the next one is 65537",
        ),
        (
            pool("table_size = 250"),
            "pen.toml:8: pool \"web\": table_size = 250 is out of range (251..=5000011)",
        ),
        (
            changed("[\"10.0.0.11\"]", "\"10.0.0.11\""),
            "pen.toml:8: pool \"web\": backend takes a list",
        ),
        (
            changed("[\"10.0.0.11\"]", "[]"),
            "pen.toml:8: pool \"web\": it has no back end: give at least one",
        ),
        (
            format!("{SMALL}[[pool]]\nname = \"web\"\nbackend = [\"10.0.0.12\"]\n"),
            "pen.toml:10: pool \"web\": there are two pools of this name",
        ),
    ]);
}

#[test]
fn faults_of_back_ends_in_pens_form() {
    let backend = |table: &str| changed("\"10.0.0.11\"", table);
    refused(&[
        (
            backend("7"),
            "pen.toml:8: pool \"web\": a back end is a text or a table",
        ),
        (
            backend("\"web9\""),
            "pen.toml:8: pool \"web\": back end \"web9\": host name \"web9\" does not resolve: no such host; check it, or write the address",
        ),
        (
            backend("\"10.0.0.300\""),
            "\"10.0.0.300\" is not an address: four numbers up to 255 make one",
        ),
        (
            backend("\"10.0.0.11:80:1:2:70000\""),
            "weight = 70000 is out of range (0..=65535)",
        ),
        (
            backend("\"10.0.0.11:81\""),
            "pen.toml:8: pool \"web\": back end \"10.0.0.11\": port 81 is not that of VIP 10.0.0.100:80 (service \"web\"): DSR forwards at layer 2 and can't translate ports",
        ),
        (
            backend("\"10.0.0.11\", \"10.0.0.11\""),
            "the pool has two back ends of this name",
        ),
        (
            backend("\"web1\", \"10.0.0.11\""),
            "back end \"10.0.0.11\": its address 10.0.0.11 is that of back end \"web1\" already",
        ),
        (
            backend("\"10.0.0.100\""),
            "its address 10.0.0.100 is a VIP: give the machine's own address",
        ),
    ]);
}

#[test]
fn faults_of_back_ends_as_tables() {
    let backend = |table: &str| changed("\"10.0.0.11\"", table);
    refused(&[
        (
            backend("{ weight = 1 }"),
            "pen.toml:8: pool \"web\": back end \"\": it has no address",
        ),
        (
            backend("{ address = \"web1\", wieght = 1 }"),
            "pen.toml:8: pool \"web\": back end \"web1\": unknown key `wieght`; did you mean `weight`?",
        ),
        (
            backend("{ address = \"web1\", weight = 70000 }"),
            "pen.toml:8: pool \"web\": back end \"web1\": weight = 70000 is out of range (0..=65535)",
        ),
        (
            backend("{ address = \"web1\", weight = -1 }"),
            "weight = -1 is out of range (0..=65535)",
        ),
        (
            backend("{ address = \"10.0.0.1:80\" }"),
            "address = \"10.0.0.1:80\" is not an address; if a port is meant, write port = ... beside it",
        ),
        (
            backend("{ address = \"web1\", name = \"12\" }"),
            "back end \"12\": its name is a number",
        ),
        (
            backend("{ address = \"web1\", name = \"a b\" }"),
            "back end \"a b\": a name has 1 to 253 letters and no blanks",
        ),
        (
            backend("{ address = \"::1\" }"),
            "::1 can't be reached through an interface",
        ),
    ]);
}

#[test]
fn all_faults_come_at_once_in_the_order_of_lines() {
    let text = SMALL
        .replace("eth1\"", "eth1\"\nbusy = \"no\"")
        .replace(".100:80", ".100:x");
    let errors = read(&text).unwrap_err();
    let lines: Vec<Option<usize>> = errors
        .0
        .iter()
        .map(|error| error.place.as_ref().and_then(|place| place.line))
        .collect();
    assert_eq!(lines, [Some(2), Some(5)]);
}

#[test]
fn what_is_allowed_on_purpose() {
    for (name, text) in [
        (
            "an IPv4 back end behind an IPv6 VIP",
            changed("10.0.0.100:80", "[2001:db8::1]:80"),
        ),
        (
            "the VIP's own port",
            changed("\"10.0.0.11\"", "\"10.0.0.11:80\""),
        ),
        (
            "TCP and UDP on one port",
            changed(
                "\"10.0.0.100:80\"",
                "[\"10.0.0.1:53\", \"10.0.0.1:53/udp\"]",
            ),
        ),
        (
            "a port beside all ports",
            changed("\"10.0.0.100:80\"", "[\"10.0.0.1:53\", \"10.0.0.1\"]"),
        ),
    ] {
        let checked = read(&text).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert_eq!(checked.notes(), [""; 0], "{name}");
    }
}

#[test]
fn notes_for_what_works_but_surprises() {
    let pool =
        "{ address = \"10.0.0.11\", weight = 1 }, { address = \"10.0.0.12\", weight = 1000 }";
    for (text, expected) in [
        (
            changed("\"10.0.0.11\"", pool),
            "pool \"web\": shares will be off by more than 1 %: 65537 slots are fewer than 100100",
        ),
        (
            changed("\"10.0.0.11\"", "{ address = \"web1\", weight = 0 }"),
            "every back end has weight 0",
        ),
        (
            changed("\"10.0.0.11\"", "\"10.0.0.11:80\"").replace(".100:80", ".100"),
            "its port 80 means nothing behind VIP 10.0.0.100:0",
        ),
        (
            format!("{SMALL}[[pool]]\nname = \"spare\"\nbackend = [\"10.0.0.12\"]\n"),
            "pool \"spare\": no service uses it",
        ),
    ] {
        let checked = read(&text).unwrap();
        assert_eq!(checked.notes().len(), 1, "{:?}", checked.notes());
        assert!(
            checked.notes()[0].contains(expected),
            "{:?}",
            checked.notes()
        );
    }
}

#[test]
fn limits_hold() {
    let base = read(SMALL).unwrap().config().clone();
    let mut many = base.clone();
    many.services[0].listeners = (0..=VIPS_MAX)
        .map(|n| Listener {
            address: Ipv4Addr::from(0x0b00_0000 + u32::try_from(n).unwrap()).into(),
            port: 80,
            protocol: Protocol::Tcp,
        })
        .collect();
    assert!(
        many.clone()
            .check()
            .unwrap_err()
            .to_string()
            .contains("4097 VIPs are more than 4096")
    );
    many.services[0].listeners.pop();
    many.check().unwrap();
    let backends = |count: u32| {
        (0..count)
            .map(|n| Backend::new(Ipv4Addr::from(0x0c00_0001 + n).into()))
            .collect()
    };
    let mut crowd = base.clone();
    crowd.pools[0].backends = backends(4097);
    let errors = crowd.clone().check().unwrap_err().to_string();
    assert!(
        errors.contains("4097 back ends are more than 4096"),
        "{errors}"
    );
    crowd.pools[0].backends.pop();
    crowd.check().unwrap();
    let mut pools = base;
    pools.pools = (0..257)
        .map(|n| Pool {
            backends: backends(1),
            ..Pool::new(&format!("p{n}"))
        })
        .collect();
    pools.services[0].pool = "p0".to_owned();
    let errors = pools.check().unwrap_err().to_string();
    assert_eq!(errors, "257 pools are more than 256");
}
