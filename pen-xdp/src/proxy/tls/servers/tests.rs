use std::net::SocketAddr;

use pen_common::config::{Acl, ServerTls, ServerTlsOptions};
use rustls::pki_types::ServerName;

use super::*;
use crate::proxy::connections::tests::route;
use crate::proxy::routes::{Place, Server};

fn server(host: Option<&str>, place: Place) -> Server {
    Server {
        number: Some(0),
        name: "one".to_owned(),
        host: host.map(str::to_owned),
        place,
        weight: 1,
        prio: 0,
        max: 0,
        hard: 0,
        acl: Acl::default(),
        blacklisted_until_ms: None,
    }
}

fn options(name: Option<&str>) -> ServerTlsOptions {
    ServerTlsOptions {
        wanted: ServerTls::Unverified,
        name: name.map(str::to_owned),
        ..ServerTlsOptions::default()
    }
}

#[test]
fn servers_are_asked_for_their_names_and_addresses_for_themselves() {
    let v4 = || Place::Tcp(SocketAddr::from(([192, 0, 2, 1], 443)));
    let v6 = || Place::Tcp("[2001:db8::1]:443".parse().unwrap());
    for (given, host, place, expected) in [
        (None, Some("web.test"), v4(), "web.test"),
        (Some("all.test"), Some("web.test"), v4(), "all.test"),
        (
            Some("all.test"),
            None,
            Place::Unix("/run/web".into()),
            "all.test",
        ),
        (Some("192.0.2.9"), None, v4(), "192.0.2.9"),
        (None, None, v4(), "192.0.2.1"),
        (None, None, v6(), "2001:db8::1"),
        (None, None, Place::Unix("/run/web".into()), "0.0.0.0"),
    ] {
        let demands = Demands::open(false, &options(given), &Folder::default()).unwrap();
        let peer = Peer::new(&server(host, place));
        let name = peer.name(&demands.spoken()).unwrap();
        assert_eq!(name.to_str(), expected);
        let is_address = expected.parse::<std::net::IpAddr>().is_ok();
        assert_eq!(matches!(name, ServerName::IpAddress(_)), is_address);
    }
}

#[test]
fn what_is_not_changed_stays_and_sessions_with_it() {
    let mut route = route("web");
    assert!(Demands::make(&route, None).unwrap().is_none());
    route.options.server_tls = options(None);
    let first = Demands::make(&route, None).unwrap().unwrap();
    route.options.timeout += 1;
    let second = Demands::make(&route, Some(&first)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let (spoken, peer) = (second.spoken(), Peer::new(&route.servers[0]));
    assert!(peer.is_of(&route.servers[0]));
    let config = peer.config(&spoken);
    assert!(Arc::ptr_eq(&config, &peer.config(&spoken)));
    // Who did not do what was agreed is asked anew.
    peer.saw(peer::Seen::Trouble("it is late".to_owned()));
    assert!(!Arc::ptr_eq(&config, &peer.config(&spoken)));
    assert_eq!(peer.status().unwrap().trouble.unwrap(), "it is late");
    route.options.server_tls = options(Some("web.test"));
    let third = Demands::make(&route, Some(&first)).unwrap().unwrap();
    assert!(!Arc::ptr_eq(&spoken, &third.spoken()));
    route.servers[0].host = Some("web.test".to_owned());
    assert!(!peer.is_of(&route.servers[0]));
}
