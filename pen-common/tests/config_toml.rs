//! The TOML form: what is read, what is written back.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

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
            proxy: ProxyOptions::default(),
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

[[acl]]
number = 2
lines = ["permit 10.1.2.3 255.0.0.0", "deny all"]

[[service]]
name = "proxy"
listen = ["80", "0.0.0.0:81", "/run/p.sock"]
mode = "tcp"
balance = ["weight", "stubborn"]
timeout = 4
idle_timeout = 600
blacklist = 31
tracking = 5
clients_max = 6
conn_max = 7
pending_max = 8
backlog = 9
tcp_fastclose = "both"
keepalive = true
source = "10.0.0.9"
client_acl = 2
emergency = "web1:8080"
abuse = "/run/abuse"

[[pool]]
name = "proxy"
[[pool.backend]]
address = "127.0.0.1"
port = 8080
acl = 3
[[pool.backend]]
name = "other"
address = "127.0.0.1"
port = 8081
[[pool.backend]]
address = "/run/web"

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
    let pool = &config.pools[1];
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
            acl: 0,
        }
    );
    assert_eq!(
        (pool.backends[1].name.as_str(), pool.backends[1].weight),
        ("2001:db8::2", 0)
    );
    every_key_of_a_proxy(&config);
    assert_eq!(read(&config.to_toml()).unwrap().config(), &config);
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

fn every_key_of_a_proxy(config: &Config) {
    let line = |permit, network: &str, prefix| AclLine {
        permit,
        network: network.parse().unwrap(),
        prefix,
    };
    let lines = vec![
        line(true, "10.0.0.0", 8),
        line(false, "0.0.0.0", 0),
        line(false, "::", 0),
    ];
    assert_eq!(config.acls, [Acl::default(), Acl::default(), Acl { lines }]);
    let service = &config.services[1];
    assert_eq!((service.mode, service.pool.as_str()), (Mode::Tcp, "proxy"));
    let listeners: Vec<String> = service.listeners.iter().map(ToString::to_string).collect();
    assert_eq!(listeners, ["[::]:80", "0.0.0.0:81"]);
    let mut balance = Switches::default();
    balance.set(Balance::Weight, true);
    balance.set(Balance::Stubborn, true);
    let web1 = Ipv4Addr::new(10, 0, 0, 11).into();
    let expected = ProxyOptions {
        balance,
        timeout: 4,
        idle_timeout: 600,
        blacklist: 31,
        tracking: 5,
        clients_max: 6,
        conn_max: 7,
        pending_max: 8,
        backlog: 9,
        tcp_fastclose: FastClose::Both,
        keepalive: true,
        source: Some(Ipv4Addr::new(10, 0, 0, 9).into()),
        client_acl: 2,
        emergency: Some(Backend {
            name: "web1".to_owned(),
            host: "web1".to_owned(),
            port: 8080,
            ..Backend::new(web1)
        }),
        abuse: Some(Backend {
            name: "/run/abuse".to_owned(),
            host: "/run/abuse".to_owned(),
            ..Backend::new(Ipv4Addr::UNSPECIFIED.into())
        }),
        paths: vec![PathBuf::from("/run/p.sock")],
    };
    assert_eq!(service.proxy, expected);
    let backends = &config.pools[0].backends;
    assert_eq!(
        (backends[0].port, backends[0].acl, backends[0].path()),
        (8080, 3, None)
    );
    assert_eq!(backends[2].path(), Some(Path::new("/run/web")));
    assert!(!config.needs_table(&config.pools[0]) && config.needs_table(&config.pools[1]));
    // 251 slots of two bytes, up to the next word.
    assert_eq!(config.slot_bytes(), 504);
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
fn table_memory_holds_every_table_twice() {
    let mut config = read(SMALL).unwrap().config().clone();
    config.pools[0].table_size = TABLE_SIZE_MAX;
    // Four slots are a word, and the last one of a table is its own.
    let slots = u64::from(TABLE_SIZE_MAX).div_ceil(4) * 8;
    assert_eq!(config.slot_bytes(), slots);
    assert_eq!(config.table_memory_needed(), slots * 2);
    assert!(config.table_memory() >= slots * 4 - 8);
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
        errors
            .contains("table_memory = 1048576 is too small: the pools' tables, old and new, take"),
        "{errors}"
    );
}

/// Forty pools of 65,537 slots: the words that their ends share with nobody count as well.
#[test]
fn a_table_memory_that_holds_one_copy_only_is_refused() {
    let mut config = read(SMALL).unwrap().config().clone();
    let pool = config.pools[0].clone();
    config.pools = (0..40)
        .map(|number| Pool {
            name: format!("p{number}"),
            table_size: TABLE_SIZE_DEFAULT,
            ..pool.clone()
        })
        .collect();
    config.services[0].pool = "p0".to_owned();
    let needed = 40 * 16_385 * 8 * 2;
    assert_eq!(config.table_memory_needed(), needed);
    for refused in [needed / 2, needed - 1] {
        config.table_memory = Some(refused);
        let errors = config.clone().check().unwrap_err().to_string();
        assert!(errors.contains("is too small"), "{errors}");
    }
    config.table_memory = Some(needed);
    config.check().unwrap();
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

fn spare() -> impl Strategy<Value = Option<Backend>> {
    let at = (
        address(0x0a02_0000),
        any::<u16>(),
        any::<[u32; 3]>(),
        1..=u16::MAX,
    );
    let inet = at.prop_map(|(address, port, [max, hard, prio], weight)| Backend {
        port,
        max,
        hard,
        prio,
        weight,
        ..Backend::new(address)
    });
    let unix = "/[a-z.é]{1,12}".prop_map(|path| Backend {
        name: path.clone(),
        host: path,
        ..Backend::new(Ipv4Addr::UNSPECIFIED.into())
    });
    proptest::option::of(prop_oneof![inet, unix])
}

prop_compose! {
    fn proxy()(
        switches in any::<[bool; 6]>(),
        (timeout, idle_timeout) in (1..=TIMEOUT_MAX, 0..=SECONDS_MAX),
        (blacklist, tracking) in (0..=SECONDS_MAX, 0..=SECONDS_MAX),
        (clients_max, conn_max) in (1..=CLIENTS_MAX_MAX, 1..=CONN_MAX_MAX),
        (pending_max, backlog) in (1..=PENDING_MAX_MAX, 1..=BACKLOG_MAX),
        (tcp_fastclose, keepalive) in (pick(FastClose::ALL), any::<bool>()),
        source in proptest::option::of(address(0x0a03_0000)),
        client_acl in 0..ACLS_MAX as u8,
        (emergency, abuse) in (spare(), spare()),
    ) -> ProxyOptions {
        let mut balance = Switches::default();
        for (switch, on) in Balance::ALL.iter().zip(switches) {
            balance.set(*switch, on);
        }
        ProxyOptions {
            balance, timeout, idle_timeout, blacklist, tracking, clients_max, conn_max,
            pending_max, backlog, tcp_fastclose, keepalive, source, client_acl, emergency, abuse,
            paths: Vec::new(),
        }
    }
}

prop_compose! {
    fn acl()(
        lines in proptest::collection::vec((any::<bool>(), address(0x0a00_0000), 0u8..=32), 0..4),
    ) -> Acl {
        let mut acl = Acl::default();
        for (permit, address, prefix) in lines {
            let verb = if permit { "permit" } else { "deny" };
            let line = format!("acl 0 {verb} {address}/{prefix}");
            let Ok(Some(Command::Acl(0, change))) = Command::parse(&line) else {
                panic!("{line}")
            };
            acl.change(&change);
        }
        acl
    }
}

/// A service of one mode made one of the other.
fn proxied(mut service: Service, proxy: ProxyOptions, path: Option<PathBuf>) -> Service {
    for listener in &mut service.listeners {
        listener.protocol = Protocol::Tcp;
        listener.port = listener.port.max(1);
    }
    service.listeners.sort();
    service.listeners.dedup();
    service.mode = Mode::Tcp;
    (service.vlan, service.hash) = (None, HashBy::Flow);
    service.proxy = proxy;
    // Then each server needs a port.
    let spares = [&mut service.proxy.emergency, &mut service.proxy.abuse];
    for spare in spares.into_iter().flatten() {
        if spare.path().is_none() {
            spare.port = spare.port.max(1);
        }
    }
    service.proxy.paths.extend(path);
    service
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
            acls: Vec::new(),
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
        acls in proptest::collection::vec(acl(), 0..ACLS_MAX),
        proxies in proptest::collection::vec(proptest::option::of(proxy()), 5),
        ports in any::<[u16; 4]>(),
    ) {
        let services = services.into_iter().zip(proxies).enumerate();
        let services = services.map(|(index, (service, proxy))| match proxy {
            None => service,
            Some(proxy) => {
                let path = (index % 2 == 0).then(|| PathBuf::from(format!("/run/é{index}")));
                proxied(service, proxy, path)
            }
        });
        let mut config = whole(Config { acls, ..top }, services.collect(), backends, sizes);
        for (service, pool) in config.services.iter().zip(&mut config.pools) {
            for (backend, port) in pool.backends.iter_mut().zip(ports.into_iter().cycle()) {
                if service.mode == Mode::Tcp {
                    (backend.port, backend.acl) = (port.max(1), (port % 10) as u8);
                }
            }
        }
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
