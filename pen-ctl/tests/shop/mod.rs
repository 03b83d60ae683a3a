//! A service of proxy mode as a daemon would show it.

use pen_common::config::{LogFormat, Mode};
use pen_common::control::*;

/// With two listeners, a log, a server that is taken out and clients that were refused.
pub(crate) fn proxied() -> ProxyStatus {
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
        servers: vec![
            first.clone(),
            ProxyServerStatus {
                index: None,
                name: "unix".to_owned(),
                address: "/run/back".to_owned(),
                state: BackendState::Blacklisted,
                blacklist_left_s: Some(17),
                failures: 3,
                ..first
            },
        ],
    }
}
