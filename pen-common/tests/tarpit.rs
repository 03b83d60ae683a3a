//! The tarpit in the configuration: which addresses it takes, and which it must leave alone.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use pen_common::config::*;
use pen_common::ranges::TARPIT;
use pen_common::testing::World;

struct Outer;

impl Outside for Outer {
    fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, String> {
        Err("no names".to_owned())
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("no files".to_owned())
    }
}

const DSR: &str = "interface = \"eth1\"\n[[service]]\nname = \"web\"\nlisten = \"10.0.0.100:80\"\n";
const TCP: &str = "[[service]]\nname = \"web\"\nlisten = \"80\"\nmode = \"tcp\"\n";

fn read(top: &str, service: &str, lines: &str) -> Result<Checked, String> {
    let text = format!(
        "{top}\n{service}[[pool]]\nname = \"web\"\nbackend = [\"10.0.0.11:80\"]\n\
         [[acl]]\nnumber = 4\nlines = [{lines}]\n"
    );
    Config::from_toml(&text, "t", &Outer).map_err(|errors| errors.to_string())
}

#[test]
fn an_address_that_somebody_has_is_refused_by_name() {
    let refused = |lines| read("tarpit_acl = 4", DSR, lines).unwrap_err();
    let why = refused("\"permit 10.0.0.0/24\"");
    let expected = "t:1: the tarpit would answer for service \"web\": list 4 permits 10.0.0.100; deny it \
                    in a line before";
    assert_eq!(why, expected);
    let why = refused("\"deny 10.0.0.100\", \"permit 10.0.0.0/24\"");
    assert!(
        why.contains("back end \"10.0.0.11\" of pool \"web\""),
        "{why}"
    );
    let why = refused("\"permit all\", \"deny 10.0.0.0/24\"");
    assert!(why.contains("permits 10.0.0.100"), "{why}");
    let why = read("tarpit_acl = 10", DSR, "").unwrap_err();
    assert!(why.contains("tarpit_acl = 10 is out of range"), "{why}");
    let lines = "\"deny 10.0.0.100\", \"deny 10.0.0.11\", \"permit 10.0.0.0/24\"";
    assert_eq!(read("tarpit_acl = 4", DSR, lines).unwrap().notes(), [""; 0]);
}

#[test]
fn what_has_no_effect_is_noted() {
    let notes = |top, service, lines| read(top, service, lines).unwrap().notes().join("; ");
    let all = "\"permit 10.0.9.0/24\"";
    assert_eq!(notes("tarpit_acl = -1", DSR, all), "");
    assert!(notes("tarpit_acl = 4", DSR, "").contains("list 4 is empty"));
    assert!(notes("tarpit_acl = 9", DSR, all).contains("list 9 is empty"));
    assert!(notes("tarpit_acl = 4", TCP, all).contains("no service in DSR"));
}

/// Whether each of these addresses is trapped, as the tables say.
fn trapped(config: &Config, others: &[&str], addresses: &[&str]) -> Vec<bool> {
    let others: BTreeSet<IpAddr> = others.iter().map(|ip| ip.parse().unwrap()).collect();
    let rows = config.acl_rows(&others).unwrap();
    let mut world = World::new();
    world.set_lists(&rows.into_iter().collect::<Vec<_>>());
    let tables = world.tables();
    let addresses = addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap());
    let said = addresses.map(|ip| tables.admits(TARPIT, ip.into()));
    said.collect()
}

#[test]
fn what_lines_permit_is_taken_and_nothing_else() {
    let lines = "\"deny 10.0.0.240/30\", \"permit 10.0.0.240/28\", \"deny 2001:db8::/32\"";
    let config = read("tarpit_acl = 4", DSR, lines).unwrap();
    let config = config.config();
    let addresses = [
        "10.0.0.239",
        "10.0.0.240",
        "10.0.0.243",
        "10.0.0.244",
        "10.0.0.255",
        "10.0.1.0",
        "2001:db8::1",
        "2001:db9::1",
        "::1",
    ];
    let mut expected = [false; 9];
    (expected[3], expected[4]) = (true, true);
    assert_eq!(trapped(config, &[], &addresses), expected);
    // Addresses of this host, and of those who lead on.
    expected[3] = false;
    let others = ["10.0.0.244", "fe80::1", "127.0.0.1"];
    assert_eq!(trapped(config, &others, &addresses), expected);
    let denies = read("tarpit_acl = 4", DSR, "\"deny 10.0.0.9\"").unwrap();
    let nobody = trapped(denies.config(), &[], &addresses);
    assert_eq!(nobody, [false; 9], "the last line says nothing of others");
    let empty = read("tarpit_acl = 4", DSR, "").unwrap();
    let rows = empty.config().acl_rows(&BTreeSet::new()).unwrap();
    assert!(!rows.contains_key(&TARPIT));
}
