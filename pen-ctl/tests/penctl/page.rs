//! A daemon with everything that `status` can show, and the page that is made of it.

use std::net::Ipv4Addr;

use pen_common::config::{Busy, HashBy, LogFormat, Mode, Plane, Protocol, XdpMode};
use pen_common::control::*;

fn backend(index: usize, name: &str, slots: u32) -> BackendStatus {
    BackendStatus {
        index,
        id: 1,
        name: name.to_owned(),
        address: Ipv4Addr::new(10, 77, 0, 11).into(),
        mac: Some("02:00:00:00:00:11".to_owned()),
        weight: 1,
        state: BackendState::Up,
        blacklist_left_s: None,
        slots,
        flows: 1_200,
        frames: 1_234_567,
        bytes: 123_456_789,
    }
}

fn queue(number: u32, served_by: ServedBy) -> QueueStatus {
    let worker = (served_by == ServedBy::Worker).then_some(number);
    QueueStatus {
        queue: number,
        served_by,
        worker,
        core: worker,
        zero_copy: false,
        multi_buffer: true,
        need_wakeup: worker.is_some(),
        busy_poll: worker.is_some(),
        tx_budget: None,
        heartbeat_age_ms: worker.map(|_| 3),
        frames: worker.map(|_| FrameAccount {
            posted_receive: 2048,
            in_hand: 12,
            posted_send: 36,
            total: 4096,
        }),
        xdp_statistics: worker.map(|_| XdpStatistics {
            rx_ring_full: 5,
            invalid_descs: 4,
            unsent: 6,
            ..XdpStatistics::default()
        }),
    }
}

pub(crate) fn full_status() -> Status {
    let vip = VipStatus {
        address: Ipv4Addr::new(10, 77, 0, 100).into(),
        port: 80,
        protocol: Protocol::Tcp,
        vlan: None,
        service: "web".to_owned(),
        pool: "web".to_owned(),
        hash: HashBy::Flow,
        owner: Owner::Own,
    };
    Status {
        version: "0.1.0".to_owned(),
        pid: 4711,
        uptime_s: 3_725,
        generation: 7,
        config: ConfigStatus {
            refused: Some("pen.toml line 3: no".to_owned()),
            source: "/etc/pen/pen.toml".to_owned(),
        },
        degraded: vec![Degraded {
            what: "tx budget".to_owned(),
            why: "kernel 6.1".to_owned(),
        }],
        dsr: Some(DsrStatus {
            interface: InterfaceStatus {
                name: "eth1".to_owned(),
                index: 3,
                mac: "02:00:00:00:00:01".to_owned(),
                mtu: 1500,
                driver: "veth".to_owned(),
            },
            plane: PlaneStatus {
                wanted: Plane::Auto,
                actual: Plane::Xdp,
                why: "the driver has no native mode".to_owned(),
                rungs: vec![
                    Rung {
                        plane: Plane::AfXdp,
                        taken: false,
                        why: "XDP is generic here".to_owned(),
                    },
                    Rung {
                        plane: Plane::Xdp,
                        taken: true,
                        why: "it works".to_owned(),
                    },
                ],
            },
            xdp: XdpStatus {
                mode: Some(XdpMode::Generic),
                why: "native was refused".to_owned(),
            },
            busy: Busy::Auto,
            queues: vec![queue(0, ServedBy::Worker), queue(1, ServedBy::Program)],
            vips: vec![
                vip.clone(),
                VipStatus {
                    address: "2001:db8::100".parse().unwrap(),
                    port: 0,
                    protocol: Protocol::Udp,
                    vlan: Some(12),
                    owner: Owner::Kernel,
                    ..vip
                },
            ],
            pools: vec![PoolStatus {
                name: "web".to_owned(),
                table_size: 65_537,
                backends: vec![
                    backend(0, "web1", 43_691),
                    BackendStatus {
                        mac: None,
                        state: BackendState::NoMac,
                        flows: 0,
                        frames: 0,
                        bytes: 0,
                        ..backend(1, "10.77.0.11", 0)
                    },
                    BackendStatus {
                        state: BackendState::Blacklisted,
                        blacklist_left_s: Some(17),
                        ..backend(2, "web3", 0)
                    },
                ],
            }],
            counters: vec![Counter {
                reason: "not-a-vip".to_owned(),
                text: "other traffic".to_owned(),
                count: 9,
            }],
            nic_changes: vec![NicChange {
                what: "gro".to_owned(),
                before: "on".to_owned(),
                now: "off".to_owned(),
            }],
        }),
        names: vec![NameStatus {
            name: "web".to_owned(),
            addresses: vec![Ipv4Addr::new(10, 77, 0, 11).into()],
            unused: vec!["224.0.0.1: it is no address of one machine".to_owned()],
            age_s: 75,
            next_s: 4,
            error: Some("A: no answer".to_owned()),
        }],
        proxy: vec![proxied()],
    }
}

fn proxied() -> ProxyStatus {
    let first = ProxyServerStatus {
        index: Some(0),
        name: "web1".to_owned(),
        address: "10.77.0.11:80".to_owned(),
        weight: 1,
        state: BackendState::Up,
        blacklist_left_s: None,
        conn: 12,
        connects: 4321,
        failures: 0,
        sx: 1_234_567,
        rx: 123_456_789,
        handshake: Some(HandshakeStatus {
            age_s: 5,
            version: Some("TLSv1.3".to_owned()),
            subject: Some("CN=web1.test".to_owned()),
            names: vec!["web1.test".to_owned(), "www.test".to_owned()],
            not_after: Some(1_800_000_000),
            left_s: Some(90_000),
            trouble: None,
        }),
    };
    let denied = Counter {
        reason: "acl-denied".to_owned(),
        text: "the access list denies the client".to_owned(),
        count: 5,
    };
    ProxyStatus {
        service: "shop".to_owned(),
        mode: Mode::Tcp,
        listen: vec!["[::]:80".to_owned(), "/run/shop".to_owned()],
        pool: "web".to_owned(),
        redirect: None,
        sni_routes: vec!["www.example.org web".to_owned(), "*.x.org x".to_owned()],
        led: 9,
        balance: "no hash roundrobin no stubborn no weight no prio".to_owned(),
        connections: 13,
        conn_max: 10_000,
        waiting: 0,
        accepted: 4_400,
        refused: vec![denied],
        listeners: vec![
            ListenerStatus {
                listen: "[::]:80".to_owned(),
                taken: 4_300,
            },
            ListenerStatus {
                listen: "/run/shop".to_owned(),
                taken: 100,
            },
        ],
        log: Some(AccessLogStatus {
            target: Some("/var/log/shop".to_owned()),
            format: LogFormat::Combined,
            written: 4_350,
            dropped: 7,
            failed: 30,
        }),
        certificates: Some(CertificatesStatus {
            served: 3,
            names: 7,
            stapled: 1,
            unknown: 5,
            withheld: 0,
            in_trouble: 1,
            shown: vec![
                CertificateStatus {
                    file: "/etc/pen/shop.crt".to_owned(),
                    key: Some("RSA".to_owned()),
                    not_after: Some(1_800_000_000),
                    left_s: Some(-7_200),
                    staple_left_s: None,
                    responder: None,
                    trouble: Some("/etc/pen/shop.crt: it has expired".to_owned()),
                },
                CertificateStatus {
                    file: "/etc/pen/web.crt".to_owned(),
                    key: Some("ECDSA".to_owned()),
                    not_after: Some(1_800_000_000),
                    left_s: Some(90_000),
                    staple_left_s: Some(3_660),
                    responder: Some("http://ocsp.test/".to_owned()),
                    trouble: None,
                },
            ],
        }),
        server_tls: Some(ServerTlsStatus {
            authorities: Some("/etc/pen/servers.pem".to_owned()),
            certificate: Some(CertificateStatus {
                file: "/etc/pen/own.pem".to_owned(),
                key: Some("ECDSA".to_owned()),
                not_after: Some(1_800_000_000),
                left_s: Some(3_660),
                staple_left_s: None,
                responder: None,
                trouble: None,
            }),
            trouble: Some("/etc/pen/servers.pem: no such file".to_owned()),
        }),
        servers: vec![
            first.clone(),
            ProxyServerStatus {
                index: None,
                name: "unix".to_owned(),
                address: "/run/back".to_owned(),
                state: BackendState::Blacklisted,
                blacklist_left_s: Some(17),
                failures: 3,
                handshake: Some(HandshakeStatus {
                    age_s: 75,
                    version: None,
                    subject: None,
                    names: vec!["10.77.0.12".to_owned()],
                    not_after: Some(1_800_000_000),
                    left_s: Some(-75),
                    trouble: Some("its certificate expired 2026-01-02".to_owned()),
                }),
                ..first
            },
        ],
    }
}

pub(crate) const PAGE: &str = "\
pen 0.1.0, pid 4711, up 1 h 2 min, generation 7
Config     from /etc/pen/pen.toml
           not as it is written: pen.toml line 3: no
Interface  eth1 (index 3), 02:00:00:00:00:01, mtu 1500, driver veth
Plane      xdp (wanted: auto): the driver has no native mode
           not af_xdp: XDP is generic here
XDP        generic: native was refused
Degraded   tx budget: kernel 6.1
NIC        gro: off (was on)

VIPs
  address                  proto  vlan  service  pool  hash  owner
  10.77.0.100:80           tcp    any   web      web   flow  own
  2001:db8::100 all ports  udp    12    web      web   flow  kernel

Pool web (65537 slots)
  #  back end         mac                weight  state              share  flows   frames      bytes
  0  web1 10.77.0.11  02:00:00:00:00:11       1  up                66.7 %   1200  1234567  117.7 MiB
  1  10.77.0.11       unknown                 1  no-mac             0.0 %      0        0          0
  2  web3 10.77.0.11  02:00:00:00:00:11       1  blacklisted 17 s   0.0 %   1200  1234567  117.7 MiB

Queues
  queue  served by          how   alive  receive  hand  send  total  features
      0  worker 0 (core 0)  copy   3 ms     2048    12    36   4096  jumbo wakeup busy-poll
      1  program                                                     jumbo
  queue 0: FRAMES ARE MISSING: the account does not add up, not sent 6, bad descriptors 4, receive
    ring full 5

Counters that are not 0
  count  reason     meaning
      9  not-a-vip  other traffic

Service shop (tcp) on [::]:80 /run/shop
  13 of 10000 connections, 0 wait; 4400 clients taken
  no hash roundrobin no stubborn no weight no prio
  led 9 clients to other services by name: www.example.org web, *.x.org x
  [::]:80 took 4300, /run/shop took 100
  log /var/log/shop (combined): 4350 lines written, 7 dropped, 30 failed
  TLS: 3 certificates for 7 names, 1 stapled; 5 handshakes for names that are not there
  certificate        key    expires        staple
  /etc/pen/shop.crt  RSA    2 h 0 min AGO  -
  /etc/pen/web.crt   ECDSA  in 1 d 1 h     for 1 h 1 min
  trouble: /etc/pen/shop.crt: it has expired
  #  server  address        weight  state             conn  connects  failed     sent   received
  0  web1    10.77.0.11:80       1  up                  12      4321       0  1.2 MiB  117.7 MiB
  -  unix    /run/back           1  blacklisted 17 s    12      4321       3  1.2 MiB  117.7 MiB
  TLS to the servers, verified by /etc/pen/servers.pem
  who asks gets /etc/pen/own.pem, which expires in 1 h 1 min
  server  handshake       spoken   certificate         expires
  web1    5 s ago         TLSv1.3  web1.test www.test  in 1 d 1 h
  unix    1 min 15 s ago  FAILED   10.77.0.12          1 min 15 s AGO
  trouble: /etc/pen/servers.pem: no such file
  trouble: server unix: its certificate expired 2026-01-02
  Clients that were not served
  count  reason      meaning
      5  acl-denied  the access list denies the client

Host names
           heard  again in  name  addresses
  1 min 15 s ago       4 s  web   10.77.0.11
  web: look-up failed: A: no answer
  web: not used: 224.0.0.1: it is no address of one machine
";
