//! The TOML form: what is read, what is written back.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use pen_common::config::*;
use proptest::prelude::*;

struct Nowhere;

impl Outside for Nowhere {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        match host {
            "web1" => Ok(vec![Ipv4Addr::new(10, 0, 0, 11).into()]),
            "many" => {
                let mut all: Vec<IpAddr> =
                    vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
                all.extend((1..=200).rev().map(|last| IpAddr::from([10, 0, 2, last])));
                all.extend([IpAddr::from([224, 0, 0, 1]), IpAddr::from([10, 0, 2, 7])]);
                Ok(all)
            }
            "web2" => Ok(vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 12).into()]),
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
control_mode = "0660"
control_owner = "root:adm"
control_acl = 2
tarpit_acl = 3
pid_file = "/run/pen/pid"
foreground = true
debug = 2
user = "nobody"
allow_exit = true
drain_timeout = 30
on_stop = "keep"
web_stats = "/var/www/pen.html"
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
mode = "http"
balance = ["weight", "stubborn"]
timeout = 4
idle_timeout = 600
blacklist = 31
tracking = 5
clients_max = 6
conn_max = 7
pending_max = 8
backlog = 9
keepalive = true
client_conn_max = 11
client_conn_rate = 12
source = "10.0.0.9"
client_acl = 2
emergency = "web1:8080"
abuse = "/run/abuse"
accept_proxy = ["10.1.2.3/8", "2001:db8::/32"]
head_timeout = 11
trusted = ["10.0.0.0/8", "::1"]
reason_header = true
log = "/var/log/proxy"
log_format = "json"
certificate = "/etc/pen/cert.pem"
key = "/etc/pen/key.pem"
chain = "/etc/pen/chain.pem"
ssl_ocsp_response = "/etc/pen/cert.ocsp"
ssl_sni_path = "/etc/pen/sni"
ssl_ticket_keys = "/etc/pen/tickets"
tls_timeout = 13
client_handshakes_max = 14
ssl_option = ["no_sslv3", "allow_unstapled", "no_tlsv1.2"]
ssl_ciphers = "ECDHE+AESGCM"
client_certificate = "optional"
client_ca = "/etc/pen/clients.pem"
client_ca_path = "/etc/pen/clients"
client_crl = "/etc/pen/clients.crl"
server_tls = "verified"
server_ca = "/etc/pen/servers.pem"
server_tls_name = "back.test"
server_certificate = "/etc/pen/own.pem"
server_key = "/etc/pen/own.key"
hsts = "63072000 includeSubDomains"

[[service]]
name = "stream"
listen = "82"
mode = "tcp"
pool = "proxy"
tcp_fastclose = "both"
queue_timeout = 10
transparent = true
send_proxy = "v2"
sni_route = ["WWW.example.org. proxy", "*.apps.example.org proxy"]

[[service]]
name = "clear"
listen = "83"
mode = "http"
redirect = "https:8443"

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
    let control = ControlAt::Path(PathBuf::from("/run/pen/ctl"));
    assert_eq!(
        (config.control.as_ref(), config.control_mode),
        (Some(&control), 0o660)
    );
    let owner = config.control_owner.as_ref().unwrap();
    assert_eq!(
        (owner.to_string().as_str(), config.control_acl),
        ("root:adm", 2)
    );
    assert_eq!(config.tarpit_acl, Some(3));
    assert_eq!(config.pid_file, Some(PathBuf::from("/run/pen/pid")));
    assert_eq!((config.foreground, config.debug), (true, 2));
    assert_eq!(config.user.as_deref(), Some("nobody"));
    assert!(config.allow_exit);
    assert_eq!((config.drain_timeout, config.on_stop), (30, OnStop::Keep));
    assert_eq!(config.web_stats, Some(PathBuf::from("/var/www/pen.html")));
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
            further: Vec::new(),
            of: None,
            gone: false,
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
    assert_eq!((service.mode, service.pool.as_str()), (Mode::Http, "proxy"));
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
        keepalive: true,
        client_conn_max: 11,
        client_conn_rate: 12,
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
        accept_proxy: Acl {
            lines: vec![line(true, "10.0.0.0", 8), line(true, "2001:db8::", 32)],
        },
        head_timeout: 11,
        trusted: Acl {
            lines: vec![line(true, "10.0.0.0", 8), line(true, "::1", 128)],
        },
        reason_header: true,
        paths: vec![PathBuf::from("/run/p.sock")],
        log: Some(LogTarget::File(PathBuf::from("/var/log/proxy"))),
        log_format: LogFormat::Json,
        hsts: Some("63072000 includeSubDomains".parse().unwrap()),
        tls: TlsOptions {
            certificate: Some(PathBuf::from("/etc/pen/cert.pem")),
            key: Some(PathBuf::from("/etc/pen/key.pem")),
            chain: Some(PathBuf::from("/etc/pen/chain.pem")),
            staple: Some(PathBuf::from("/etc/pen/cert.ocsp")),
            directory: Some(PathBuf::from("/etc/pen/sni")),
            ticket_keys: Some(PathBuf::from("/etc/pen/tickets")),
            timeout: 13,
            handshakes_max: 14,
            options: vec![
                SslOption::NoSslv3,
                SslOption::NoTlsv1_2,
                SslOption::AllowUnstapled,
            ],
            ciphers: Some("ECDHE+AESGCM".parse().unwrap()),
            client_certificate: ClientCertificate::Optional,
            client_ca: Some(PathBuf::from("/etc/pen/clients.pem")),
            client_ca_path: Some(PathBuf::from("/etc/pen/clients")),
            client_crl: Some(PathBuf::from("/etc/pen/clients.crl")),
        },
        server_tls: ServerTlsOptions {
            wanted: ServerTls::Verified,
            authorities: Some(PathBuf::from("/etc/pen/servers.pem")),
            name: Some("back.test".to_owned()),
            certificate: Some(PathBuf::from("/etc/pen/own.pem")),
            key: Some(PathBuf::from("/etc/pen/own.key")),
        },
        ..ProxyOptions::default()
    };
    assert_eq!(service.proxy, expected);
    // What speaks of whole connections.
    let expected = ProxyOptions {
        tcp_fastclose: FastClose::Both,
        queue_timeout: 10,
        transparent: true,
        send_proxy: SendProxy::V2,
        sni_routes: ["www.example.org", "*.apps.example.org"]
            .map(|name| SniRoute {
                name: name.to_owned(),
                service: "proxy".to_owned(),
            })
            .to_vec(),
        ..ProxyOptions::default()
    };
    assert_eq!(config.services[2].proxy, expected);
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

proptest! {
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

#[test]
fn a_name_has_its_addresses_in_order_once_and_is_written_as_a_name() {
    let text = "interface = \"eth1\"\n[[service]]\nname = \"a\"\nlisten = \"10.0.0.100:80\"\n\
                [[pool]]\nname = \"a\"\nbackend = [\"many\"]\n";
    let checked = read(text).unwrap();
    let backend = &checked.config().pools[0].backends[0];
    assert_eq!(backend.address, IpAddr::from([10, 0, 2, 1]));
    assert_eq!(backend.further[0], IpAddr::from([10, 0, 2, 2]));
    assert_eq!(backend.further.len(), ADDRESSES_MAX - 1);
    assert!(backend.further.is_sorted() && !backend.further.iter().any(IpAddr::is_multicast));
    let written = checked.config().to_toml();
    assert!(
        written.contains("many") && !written.contains("10.0.2."),
        "{written}"
    );
    assert_eq!(read(&written).unwrap().config(), checked.config());
}
