//! UDP proxies, by Pen's line and by file.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::IpAddr;
use std::path::Path;

use pen_common::config::*;

struct World;

impl Outside for World {
    fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, String> {
        Err("no such host".to_owned())
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("no such file".to_owned())
    }
}

fn by_line(listen: &str, server: &str, commands: &[&str]) -> Result<Checked, ConfigErrors> {
    let line = PenLine {
        listen: Some(listen.to_owned()),
        servers: vec![server.to_owned()],
        udp: true,
        commands: commands.iter().map(|c| (*c).to_owned()).collect(),
        ..PenLine::default()
    };
    line.read(Config::default(), &World)
}

fn by_file(listen: &str, more: &str) -> Result<Checked, ConfigErrors> {
    let text = format!(
        "[[service]]\nname = \"dns\"\nmode = \"udp\"\nlisten = {listen}\n{more}\n\
         [[pool]]\nname = \"dns\"\nbackend = [\"10.0.0.11:5353\"]\n"
    );
    Config::from_toml(&text, "pen.toml", &World)
}

#[test]
fn a_line_and_a_file_say_where_it_listens() {
    for (text, shown) in [
        ("53", "[::]:53/udp"),
        ("53/udp", "[::]:53/udp"),
        ("domain", "[::]:53/udp"),
        ("0.0.0.0:53", "0.0.0.0:53/udp"),
        ("[2001:db8::1]:53/udp", "[2001:db8::1]:53/udp"),
    ] {
        let line = by_line(text, "10.0.0.11", &[]).unwrap();
        let file = by_file(&format!("[\"{text}\"]"), "").unwrap();
        for config in [line.config(), file.config()] {
            let service = &config.services[0];
            assert_eq!(service.mode, Mode::Udp, "{text}");
            assert_eq!(service.listeners[0].to_string(), shown);
            let again = Config::from_toml(&config.to_toml(), "t", &World).unwrap();
            assert_eq!(again.config(), config, "{}", config.to_toml());
        }
    }
}

#[test]
fn what_speaks_of_datagrams_is_taken() {
    let more = "idle_timeout = 5\nblacklist = 7\ntracking = 9\nclients_max = 10\nconn_max = 11\n\
                source = \"10.0.0.1\"\nclient_acl = 1\nbalance = [\"hash\"]\n\
                emergency = \"10.0.0.12:53\"\nabuse = \"10.0.0.13:53\"";
    let checked = by_file("\"53\"", more).unwrap();
    let service = &checked.config().services[0];
    assert_eq!(
        (service.proxy.idle_timeout, service.proxy.conn_max),
        (5, 11)
    );
    assert!(service.switches().has(Balance::Hash));
    let again = Config::from_toml(&checked.config().to_toml(), "t", &World).unwrap();
    assert_eq!(again.config(), checked.config());
}

#[test]
fn faults() {
    for (listen, more, expected) in [
        (
            "\"53/tcp\"",
            "",
            "listen \"53/tcp\": /tcp takes a service of its own with mode = \"tcp\"",
        ),
        (
            "\"/run/dns\"",
            "",
            "listen \"/run/dns\": a UDP proxy has no Unix sockets",
        ),
        ("\"0\"", "", "a proxy listens at one port, and 0 is none"),
        (
            "\"53\"",
            "timeout = 5",
            "`timeout` means nothing with mode = \"udp\": leave it out",
        ),
        (
            "\"53\"",
            "backlog = 500",
            "`backlog` means nothing with mode = \"udp\"",
        ),
        (
            "\"53\"",
            "vlan = 7",
            "`vlan` means nothing with mode = \"udp\"",
        ),
        (
            "\"53\"",
            "emergency = \"/run/dns\"",
            "a UDP proxy has no Unix sockets",
        ),
    ] {
        let errors = by_file(listen, more).unwrap_err().to_string();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains(expected), "{errors}");
    }
    let errors = by_line("53", "/run/dns", &[]).unwrap_err().to_string();
    assert!(
        errors.contains("a UDP proxy has no Unix sockets"),
        "{errors}"
    );
    let errors = by_line("53", "127.0.0.1", &[]).unwrap_err().to_string();
    assert!(errors.contains("it would connect to itself"), "{errors}");
}

#[test]
fn datagrams_know_no_tls() {
    for (key, value) in [
        ("certificate", "\"file\""),
        ("key", "\"file\""),
        ("chain", "\"file\""),
        ("ssl_sni_path", "\"folder\""),
        ("ssl_ocsp_response", "\"file\""),
        ("ssl_ticket_keys", "\"file\""),
        ("tls_timeout", "5"),
        ("client_handshakes_max", "5"),
        ("ssl_option", "\"no_tlsv1.2\""),
        ("ssl_ciphers", "\"HIGH\""),
        ("client_certificate", "\"required\""),
        ("client_ca", "\"file\""),
        ("client_ca_path", "\"folder\""),
        ("client_crl", "\"file\""),
        ("server_tls", "\"verified\""),
        ("server_ca", "\"file\""),
        ("server_tls_name", "\"web.test\""),
        ("server_certificate", "\"file\""),
        ("server_key", "\"file\""),
    ] {
        let errors = by_file("\"53\"", &format!("{key} = {value}")).unwrap_err();
        let expected = format!("`{key}` means nothing with mode = \"udp\": leave it out");
        assert!(errors.to_string().contains(&expected), "{errors}");
    }
}

#[test]
fn an_old_line_with_commands_for_connections_still_starts() {
    let checked = by_line("53", "10.0.0.11", &["timeout 9", "idle_timeout 5"]).unwrap();
    let proxy = &checked.config().services[0].proxy;
    assert_eq!((proxy.timeout, proxy.idle_timeout), (3, 5));
    let [note] = checked.notes() else {
        panic!("{:?}", checked.notes())
    };
    assert!(
        note.contains("`timeout` means nothing with mode = \"udp\""),
        "{note}"
    );
}

#[test]
fn both_protocols_may_have_one_port() {
    let text = "[[service]]\nname = \"tcp\"\nmode = \"tcp\"\nlisten = \"53\"\npool = \"dns\"\n\
                [[service]]\nname = \"udp\"\nmode = \"udp\"\nlisten = \"53\"\npool = \"dns\"\n\
                [[pool]]\nname = \"dns\"\nbackend = [\"10.0.0.11\"]\n";
    let checked = Config::from_toml(text, "pen.toml", &World).unwrap();
    assert_eq!(checked.notes(), [""; 0]);
    assert_eq!(checked.config().proxy_services().count(), 2);
}
