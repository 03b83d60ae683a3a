//! The TOML form: what is read, what is refused with which line and words, what is written back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use pen_common::config::*;
use proptest::prelude::*;

struct Nowhere;

impl Outside for Nowhere {
    fn resolve(&self, host: &str) -> Result<IpAddr, String> {
        match host {
            "web1" => Ok(Ipv4Addr::new(10, 0, 0, 11).into()),
            "web2" => Ok(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 12).into()),
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

#[test]
fn a_small_file_and_all_its_defaults() {
    let config = read(SMALL).unwrap().config().clone();
    let expected = Config {
        interface: "eth1".to_owned(),
        services: vec![Service {
            name: "web".to_owned(),
            listeners: vec![Listener {
                address: Ipv4Addr::new(10, 0, 0, 100).into(),
                port: 80,
                protocol: Protocol::Tcp,
            }],
            mode: Mode::Dsr,
            pool: "web".to_owned(),
            vlan: None,
            hash: HashBy::Flow,
        }],
        pools: vec![Pool {
            name: "web".to_owned(),
            table_size: 65_537,
            backends: vec![Backend::new(Ipv4Addr::new(10, 0, 0, 11).into())],
        }],
        ..Config::default()
    };
    assert_eq!(config, expected);
    assert_eq!(
        (config.plane, config.busy, config.xdp_mode),
        (Plane::Auto, Busy::Auto, XdpMode::Auto)
    );
    assert_eq!(
        (config.bpffs.as_path(), config.foreground),
        (Path::new("/sys/fs/bpf"), false)
    );
    assert!(config.finish_checksums);
}

#[test]
fn every_key_of_every_table() {
    let text = r#"
interface = "eth1"
plane = "af_xdp"
xdp_mode = "native"
busy = "always"
workers = 2
zero_copy = "never"
multi_buffer = "never"
ring_size = 512
seed = 7
finish_checksums = false
table_memory = "64MiB"
control = "/run/pen/ctl"
pid_file = "/run/pen/pid"
foreground = true
debug = 2
bpffs = "/bpf"
run_dir = "/run/other"

[[service]]
name = "dns"
listen = ["10.0.0.100:53/udp", "[2001:db8::100]:53/udp", "10.0.0.101"]
mode = "dsr"
pool = "resolvers"
vlan = 12
hash = "source"

[[pool]]
name = "resolvers"
table_size = 251
[[pool.backend]]
name = "first"
address = "web1"
port = 53
weight = 3
max = 10
hard = 20
prio = 4
blacklist = 5
[[pool.backend]]
address = "[2001:db8::2]"
weight = 0
"#;
    let config = read(text).unwrap().config().clone();
    assert_eq!(config.interface, "eth1");
    assert_eq!(config.plane, Plane::AfXdp);
    assert_eq!(config.xdp_mode, XdpMode::Native);
    assert_eq!(config.busy, Busy::Always);
    assert_eq!(config.workers, Workers::Count(2));
    assert_eq!(
        (config.zero_copy, config.multi_buffer),
        (Use::Never, Use::Never)
    );
    assert_eq!(
        (config.ring_size, config.seed, config.finish_checksums),
        (512, 7, false)
    );
    assert_eq!(
        (config.table_memory, config.table_memory()),
        (Some(64 << 20), 64 << 20)
    );
    assert_eq!(config.control, Some(PathBuf::from("/run/pen/ctl")));
    assert_eq!(config.pid_file, Some(PathBuf::from("/run/pen/pid")));
    assert_eq!((config.foreground, config.debug), (true, 2));
    assert_eq!(
        (config.bpffs.as_path(), config.run_dir.as_path()),
        (Path::new("/bpf"), Path::new("/run/other"))
    );
    let service = &config.services[0];
    let listeners: Vec<String> = service.listeners.iter().map(ToString::to_string).collect();
    assert_eq!(
        listeners,
        [
            "10.0.0.100:53/udp",
            "[2001:db8::100]:53/udp",
            "10.0.0.101:0"
        ]
    );
    assert_eq!(
        (service.pool.as_str(), service.vlan, service.hash),
        ("resolvers", Some(12), HashBy::Source)
    );
    let pool = &config.pools[0];
    assert_eq!(pool.table_size, 251);
    assert_eq!(
        pool.backends[0],
        Backend {
            name: "first".to_owned(),
            host: "web1".to_owned(),
            address: Ipv4Addr::new(10, 0, 0, 11).into(),
            port: 53,
            weight: 3,
            max: 10,
            hard: 20,
            prio: 4,
            blacklist: 5,
        }
    );
    assert_eq!(
        (pool.backends[1].name.as_str(), pool.backends[1].weight),
        ("2001:db8::2", 0)
    );
    for (table, keys) in documented() {
        for (key, help) in keys {
            assert!(
                text.contains(&format!("\n{key} = ")),
                "{table} {key} is not in this test"
            );
            assert!(!help.is_empty());
        }
    }
}

/// `text` with `from` replaced by `to`, which must change it.
fn changed(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    SMALL.replacen(from, to, 1)
}

#[test]
fn faults_name_line_thing_and_key() {
    let top = |line: &str| format!("{line}\n{SMALL}");
    let backend = |table: &str| changed("\"10.0.0.11\"", table);
    let service = |line: &str| changed("[[pool]]", &format!("{line}\n[[pool]]"));
    let pool = |line: &str| changed("backend =", &format!("{line}\nbackend ="));
    for (text, expected) in [
        ("plane = ".to_owned(), "pen.toml:1: not TOML"),
        (
            "a = 1\na = 2".to_owned(),
            "pen.toml:2: not TOML: duplicate key",
        ),
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
            top("control = \"4711\""),
            "pen.toml:1: control = \"4711\" is not a path: a control port over TCP isn't there yet",
        ),
        (
            top("pid_file = \"\""),
            "pen.toml:1: pid_file = \"\" is not a path",
        ),
        (
            top("debug = 256"),
            "pen.toml:1: debug = 256 is out of range (0..=255)",
        ),
        (
            changed("eth1", "a name that is too long"),
            "pen.toml:1: \"a name that is too long\" can't be the name of an interface",
        ),
        (
            changed("interface = \"eth1\"", ""),
            "no interface: give -O \"dsr_if eth1\" or interface = \"eth1\"",
        ),
        (
            changed("[[service]]", "[service]"),
            "pen.toml:2: `service` is a list of tables: write [[service]]",
        ),
        (
            service("moed = \"dsr\""),
            "pen.toml:6: service \"web\": unknown key `moed`; did you mean `mode`?",
        ),
        (
            service("mode = \"http\""),
            "pen.toml:6: service \"web\": mode = \"http\" belongs to proxy mode, which isn't there yet",
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
        (
            format!("{SMALL}[[pool]]\nname = \"web\"\nbackend = [\"10.0.0.12\"]\n"),
            "pen.toml:10: pool \"web\": there are two pools of this name",
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
        ("interface = \"eth1\"".to_owned(), "nothing to serve"),
    ] {
        let errors = read(&text).expect_err(&text).to_string();
        assert!(
            errors.contains(expected),
            "{text}\ngave: {errors}\nnot:  {expected}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
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
fn seeds() {
    let seed = |value: &str| {
        read(&format!("seed = {value}\n{SMALL}"))
            .unwrap()
            .config()
            .seed
    };
    assert_eq!(seed("1"), 1);
    assert_eq!(seed("\"1\""), 1);
    assert_eq!(seed("\"0xff\""), 255);
    // FNV-1a's published test vector.
    assert_eq!(seed("\"foobar\""), 0x8594_4171_f739_67e8);
    assert_eq!(read(SMALL).unwrap().config().seed, SEED_DEFAULT);
}

#[test]
fn table_memory_leaves_room_for_the_largest_pool_twice() {
    let mut config = read(SMALL).unwrap().config().clone();
    config.pools[0].table_size = TABLE_SIZE_MAX;
    let slots = u64::from(TABLE_SIZE_MAX) * SLOT_BYTES;
    assert_eq!(config.slot_bytes(), slots);
    assert_eq!(config.table_memory(), slots * 4);
    config.pools[0].table_size = TABLE_SIZE_MIN;
    assert_eq!(config.table_memory(), TABLE_MEMORY_MIN);
    config.pools = vec![
        Pool {
            table_size: TABLE_SIZE_DEFAULT,
            ..Pool::new("p")
        };
        POOLS_MAX
    ];
    assert!(
        config.table_memory() <= 256 << 20,
        "{}",
        config.table_memory()
    );
    config.table_memory = Some(TABLE_MEMORY_MIN);
    let errors = config.check().unwrap_err().to_string();
    assert!(
        errors.contains("table_memory = 1048576 is too small: the pools' tables take"),
        "{errors}"
    );
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

fn path() -> impl Strategy<Value = PathBuf> {
    "/[a-z\"\\\\ é/]{1,12}".prop_map(PathBuf::from)
}

fn address(v4: u32) -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..0xffff).prop_map(move |low| Ipv4Addr::from(v4 + low).into()),
        any::<u32>().prop_map(move |low| {
            Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(v4) << 32 | u128::from(low)).into()
        }),
    ]
}

prop_compose! {
    fn backend()(
        address in address(0x0a01_0000),
        name in proptest::option::of("[a-z][a-z0-9.é\\\\']{0,12}"),
        weight in any::<u16>(),
        (max, hard, prio, blacklist) in any::<(u32, u32, u32, u32)>(),
    ) -> Backend {
        let plain = Backend::new(address);
        let name = name.unwrap_or_else(|| plain.name.clone());
        Backend { name, weight, max, hard, prio, blacklist, ..plain }
    }
}

prop_compose! {
    fn service()(
        name in "[a-zé'#=]{1,12}",
        listeners in proptest::collection::hash_set(
            (address(0x0a00_0000), any::<u16>(), any::<bool>()), 1..5),
        vlan in proptest::option::of(1u16..=4094),
        source in any::<bool>(),
    ) -> Service {
        Service {
            listeners: listeners
                .into_iter()
                .map(|(address, port, udp)| Listener {
                    address,
                    port,
                    protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                })
                .collect(),
            vlan,
            hash: if source { HashBy::Source } else { HashBy::Flow },
            ..Service::new(&name)
        }
    }
}

fn pick<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

prop_compose! {
    fn top()(
        (plane, xdp_mode, busy) in (pick(Plane::ALL), pick(XdpMode::ALL), pick(Busy::ALL)),
        (zero_copy, multi_buffer) in (pick(Use::ALL), pick(Use::ALL)),
        workers in proptest::option::of(1u16..=256),
        ring in 6u32..=13,
        (seed, debug, foreground, finish_checksums) in any::<(u64, u8, bool, bool)>(),
        table_memory in proptest::option::of(64u64 << 20..=TABLE_MEMORY_MAX),
        (control, pid_file) in (proptest::option::of(path()), proptest::option::of(path())),
        (bpffs, run_dir) in (path(), path()),
    ) -> Config {
        Config {
            interface: "eth0.12".to_owned(),
            workers: workers.map_or(Workers::Auto, Workers::Count),
            ring_size: 1 << ring,
            plane, xdp_mode, busy, zero_copy, multi_buffer, seed, debug, foreground,
            finish_checksums, table_memory, control, pid_file, bpffs, run_dir,
            services: Vec::new(),
            pools: Vec::new(),
        }
    }
}

/// Drops what `check` would refuse as a duplicate, and gives each service a pool.
fn whole(
    mut config: Config,
    services: Vec<Service>,
    backends: Vec<Vec<Backend>>,
    sizes: u32,
) -> Config {
    let (mut names, mut vips) = (Vec::new(), Vec::new());
    for (index, mut service) in services.into_iter().enumerate() {
        service.listeners.retain(|vip| !vips.contains(vip));
        vips.extend(service.listeners.clone());
        if service.listeners.is_empty() || names.contains(&service.name) {
            continue;
        }
        names.push(service.name.clone());
        service.pool = if index % 2 == 0 {
            service.name.clone()
        } else {
            format!("{index}")
        };
        let mut pool = Pool::new(&service.pool);
        pool.table_size = if index as u32 % 2 == sizes {
            TABLE_SIZE_DEFAULT
        } else {
            1021
        };
        for backend in backends.get(index).into_iter().flatten() {
            let twin = |b: &Backend| b.name == backend.name || b.address == backend.address;
            if !pool.backends.iter().any(twin) {
                pool.backends.push(backend.clone());
            }
        }
        config.services.push(service);
        config.pools.push(pool);
    }
    config
}

proptest! {
    #[test]
    fn written_then_read_is_the_same(
        top in top(),
        services in proptest::collection::vec(service(), 1..5),
        backends in proptest::collection::vec(proptest::collection::vec(backend(), 1..6), 5),
        sizes in 0u32..2,
    ) {
        let config = whole(top, services, backends, sizes);
        let text = config.to_toml();
        let again = read(&text).map_err(|errors| {
            TestCaseError::fail(format!("{errors}\n{text}"))
        })?;
        prop_assert_eq!(again.config(), &config, "{}", text);
        prop_assert_eq!(again.config().to_toml(), text);
    }

    #[test]
    fn any_text_has_an_answer(text in "\\PC*", at in 0usize..200, junk in "\\PC{0,4}") {
        // Neither call may panic; noise alone never makes a configuration.
        prop_assert!(read(&text).is_err());
        let mut damaged: Vec<char> = SMALL.chars().collect();
        let at = at.min(damaged.len());
        damaged.splice(at..at, junk.chars());
        let _answer = read(&damaged.into_iter().collect::<String>());
    }
}
