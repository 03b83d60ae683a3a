//! Proxies in the TOML form: what is wrong with them, beside DSR and alone; what README says.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use pen_common::config::*;

struct World;

impl Outside for World {
    /// Every name but one stands for an address of its own.
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        match host.bytes().last() {
            Some(_) if host == "web9" => Err("no such host".to_owned()),
            last => Ok(vec![Ipv4Addr::new(10, 0, 1, last.unwrap_or(0)).into()]),
        }
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("no such file".to_owned())
    }
}

const SMALL: &str = "[[service]]
name = \"web\"
mode = \"tcp\"
listen = \"80\"
[[pool]]
name = \"web\"
backend = [\"10.0.0.11:8080\"]
";

fn toml(text: &str) -> Result<Checked, ConfigErrors> {
    Config::from_toml(text, "pen.toml", &World)
}

#[test]
fn faults_in_toml() {
    assert_eq!(toml(SMALL).unwrap().notes(), [""; 0]);
    let service = |line: &str| SMALL.replacen("[[pool]]", &format!("{line}\n[[pool]]"), 1);
    let top = |text: &str| format!("{text}\n{SMALL}");
    for (text, expected) in [
        (
            service("vlan = 7"),
            ":5: service \"web\": `vlan` means nothing with mode = \"tcp\"",
        ),
        (
            service("hash = \"flow\""),
            ":5: service \"web\": `hash` means nothing with mode = \"tcp\"",
        ),
        (
            service("timeout = 0"),
            ":5: service \"web\": timeout = 0 is out of range (1..=3600)",
        ),
        (
            service("client_acl = 10"),
            "client_acl = 10 is out of range (0..=9)",
        ),
        (
            service("balance = [\"hash\", \"wieght\"]"),
            "balance = \"wieght\" is none of",
        ),
        (
            service("source = \"web1\""),
            "source = \"web1\" is not an address",
        ),
        (
            service("keepalive = 1"),
            "keepalive = 1 is neither true nor false",
        ),
        (
            service("emergency = \"web9:1\""),
            ":5: service \"web\": emergency: host name \"web9\"",
        ),
        (
            service("abuse = \"127.0.0.1:80\""),
            ":5: service \"web\": abuse: service \"web\" listens at",
        ),
        (
            service("backlog = 65536"),
            "backlog = 65536 is out of range (1..=65535)",
        ),
        (
            SMALL.replace("\"80\"", "\"80/udp\""),
            ":4: service \"web\": listen \"80/udp\": /udp takes",
        ),
        (
            SMALL.replace("\"80\"", "[\"/run/a\", \"/run/a\"]"),
            ":4: service \"web\": listen /run/a is there twice",
        ),
        (SMALL.replace("listen = \"80\"", ""), "it listens nowhere"),
        (
            SMALL.replace("11:8080\"", "11:1\", \"10.0.0.11:2\""),
            "two back ends of this name",
        ),
        (
            SMALL.replace("\"10.0.0.11:8080\"", "{ address = \"web1\", acl = 10 }"),
            "acl = 10 is out of range",
        ),
        (
            top("[[acl]]\nlines = [\"deny all\"]"),
            ":1: acl: it has no number",
        ),
        (
            top("[[acl]]\nnumber = 10"),
            ":2: number = 10 is out of range (0..=9)",
        ),
        (
            top("[[acl]]\nnumber = 1\nlines = [\"deny x\"]"),
            ":3: acl 1: ",
        ),
        (
            top("[[acl]]\nnumber = 1\n[[acl]]\nnumber = 1"),
            ":3: acl 1: there are two access lists",
        ),
        (
            top("[[acl]]\nnumber = 1\nline = []"),
            "unknown key `line`; did you mean `lines`?",
        ),
    ] {
        let errors = toml(&text).expect_err(&text).to_string();
        assert!(
            errors.contains(expected),
            "{text}\ngave: {errors}\nnot:  {expected}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn access_lists_of_dsr_must_fit_into_the_tables() {
    let text = |mode: &str, count: u32| {
        let networks = (0..count).map(|number| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + number * 2);
            format!("\"permit {address}\", ")
        });
        let lines: String = networks.collect();
        format!(
            "{mode}pool = \"p\"\nname = \"s\"\nclient_acl = 3\n[[acl]]\nnumber = 3\nlines = [{lines}]\n\
             [[pool]]\nname = \"p\"\nbackend = [\"10.9.0.11:80\"]\n"
        )
    };
    let dsr = "interface = \"eth1\"\n[[service]]\nlisten = \"10.9.0.100:80\"\n";
    let tcp = "[[service]]\nmode = \"tcp\"\nlisten = \"81\"\n";
    let (fits, many) = (RANGE_ENDS_MAX as u32 / 2, RANGE_ENDS_MAX as u32 / 2 + 1);
    toml(&text(dsr, fits)).unwrap();
    toml(&text(tcp, many)).unwrap();
    let errors = toml(&text(dsr, many)).unwrap_err().to_string();
    let expected = format!("make ranges of addresses with {} ends", many * 2);
    assert!(errors.contains(&expected), "{errors}");
    assert!(errors.contains("the longest list is acl 3"), "{errors}");
}

#[test]
fn keys_of_a_proxy_in_dsr() {
    let small = SMALL
        .replace(
            "mode = \"tcp\"\nlisten = \"80\"",
            "listen = \"10.0.0.100:80\"",
        )
        .replace(":8080", "");
    let small = format!("interface = \"eth1\"\n{small}");
    toml(&small).unwrap();
    for line in [
        "balance = \"hash\"",
        "timeout = 3",
        "idle_timeout = 3",
        "blacklist = 3",
        "tracking = 3",
        "clients_max = 3",
        "conn_max = 3",
        "pending_max = 3",
        "backlog = 3",
        "tcp_fastclose = \"up\"",
        "keepalive = false",
        "source = \"10.0.0.1\"",
        "queue_timeout = 3",
        "client_conn_max = 3",
        "client_conn_rate = 3",
        "transparent = true",
        "emergency = \"web2:1\"",
        "abuse = \"web2:1\"",
        "accept_proxy = \"10.0.0.0/8\"",
        "send_proxy = \"v1\"",
    ] {
        let text = small.replacen("[[pool]]", &format!("{line}\n[[pool]]"), 1);
        let errors = toml(&text).expect_err(line).to_string();
        let key = line.split(' ').next().unwrap();
        let expected = format!(
            "pen.toml:5: service \"web\": `{key}` means nothing with mode = \"dsr\": leave it out"
        );
        assert_eq!(errors, expected);
    }
    let path = small.replace("\"10.0.0.11\"", "\"/run/web\"");
    let errors = toml(&path).unwrap_err().to_string();
    assert!(
        errors.contains("a Unix socket can't be a back end in DSR"),
        "{errors}"
    );
}

/// What is not read but made is held to the same rules.
#[test]
fn a_made_configuration_is_checked() {
    let small = toml(SMALL).unwrap().into_parts().0;
    type Spoil = fn(&mut Config);
    let rows: &[(Spoil, &str)] = &[
        (
            |c| c.services[0].proxy.timeout = 0,
            "timeout = 0 is out of range",
        ),
        (
            |c| c.services[0].proxy.client_acl = 10,
            "client_acl = 10 is out of range",
        ),
        (
            |c| c.services[0].listeners[0].port = 0,
            "a proxy listens at one port",
        ),
        (
            |c| c.services[0].listeners[0].protocol = Protocol::Udp,
            "/udp takes a service of its own",
        ),
        (
            |c| c.services[0].hash = HashBy::Source,
            "`hash` means nothing",
        ),
        (
            |c| c.pools[0].backends[0].acl = 10,
            "acl = 10 is out of range",
        ),
        (
            |c| c.acls = vec![Acl::default(); 11],
            "11 access lists are more than 10",
        ),
        (
            |c| {
                let network = Ipv4Addr::new(10, 0, 0, 1).into();
                let lines = vec![AclLine {
                    permit: true,
                    network,
                    prefix: 8,
                }];
                c.acls = vec![Acl { lines }];
            },
            "acl 0: `permit 10.0.0.1/8` names no network",
        ),
    ];
    for (spoil, expected) in rows {
        let mut config = small.clone();
        spoil(&mut config);
        let errors = config.check().expect_err(expected).to_string();
        assert!(errors.contains(expected), "{errors}");
    }
}

/// A DSR service and a proxy, on one VIP and by one pool.
#[test]
fn both_modes_in_one_file() {
    let text = format!(
        "interface = \"eth1\"\n{SMALL}[[service]]\nname = \"dsr\"\nlisten = \"10.0.0.100:81\"\npool = \"both\"\n\
         [[service]]\nname = \"p\"\nmode = \"tcp\"\nlisten = \"10.0.0.100:82\"\npool = \"both\"\n\
         [[pool]]\nname = \"both\"\nbackend = [\"10.0.0.12\"]\n"
    );
    let checked = toml(&text).unwrap();
    assert_eq!(checked.notes(), [""; 0]);
    let config = checked.config();
    assert_eq!(config.slot_bytes(), 65_540 * 2);
    let errors = toml(&text.replace("interface = \"eth1\"\n", "")).unwrap_err();
    assert!(errors.to_string().starts_with("no interface"), "{errors}");
}

#[test]
fn a_redirect_beside_what_it_redirects_to() {
    let redirect =
        "[[service]]\nname = \"r\"\nmode = \"http\"\nlisten = \"81\"\nredirect = \"https\"\n";
    let checked = toml(&format!("{SMALL}{redirect}")).unwrap();
    assert_eq!(checked.notes(), [""; 0]);
    let service = &checked.config().services[1];
    assert_eq!(
        (service.pool.as_str(), checked.config().pools.len()),
        ("", 1)
    );
    for (line, what) in [
        ("pool = \"web\"", "its pool and servers"),
        ("emergency = \"10.0.0.11:80\"", "`emergency`"),
    ] {
        let errors = toml(&format!("{SMALL}{redirect}{line}\n")).unwrap_err();
        let errors = errors.to_string();
        assert!(
            errors.starts_with("pen.toml:13: service \"r\": "),
            "{errors}"
        );
        assert!(
            errors.contains(&format!("leave out {what}, or")),
            "{errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    let itself = toml(&format!("{SMALL}{redirect}abuse = \"127.0.0.1:81\"\n")).unwrap_err();
    assert!(
        itself.to_string().contains("would connect to itself"),
        "{itself}"
    );
}

/// What is led to by name, and a service beside it.
fn leading(routes: &str, more: &str) -> Result<Checked, ConfigErrors> {
    toml(&format!(
        "{SMALL}[[service]]\nname = \"edge\"\nmode = \"tcp\"\nlisten = \"443\"\n\
         sni_route = {routes}\n{more}"
    ))
}

/// A service that is nowhere listened for, in this mode.
fn hidden(mode: &str) -> String {
    format!("[[service]]\nname = \"hid\"\nmode = \"{mode}\"\npool = \"web\"\n")
}

#[test]
fn a_service_that_is_led_to_need_not_listen_and_who_leads_needs_no_servers() {
    let certificate = "certificate = \"/c.pem\"\n";
    let routes = "[\"A.test. web\", \"*.b.test hid\"]";
    let checked = leading(routes, &format!("{}{certificate}", hidden("http"))).unwrap();
    assert_eq!(checked.notes(), [""; 0]);
    let config = checked.config();
    let edge = &config.services[1];
    assert!(edge.only_leads() && edge.pool.is_empty());
    let written: Vec<String> = edge
        .proxy
        .sni_routes
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(written, ["a.test web", "*.b.test hid"]);
    assert_eq!(toml(&config.to_toml()).unwrap().config(), config);
    // A pool of its name is its own, wherever it stands.
    let pool = "[[pool]]\nname = \"edge\"\nbackend = [\"10.0.0.9:1\"]\n";
    let checked = leading("\"a.test web\"", pool).unwrap();
    assert_eq!(checked.config().services[1].pool, "edge");
    assert_eq!(toml(&checked.config().to_toml()).unwrap(), checked);
    let alone = toml(&format!("{SMALL}{}", hidden("tcp"))).unwrap_err();
    assert!(alone.to_string().contains("it listens nowhere"), "{alone}");
}

#[test]
fn routes_that_lead_where_nobody_can_be_served_are_refused() {
    let certificate = "certificate = \"/c.pem\"\n";
    let hid = "\"a.test hid\"";
    let none = String::new;
    for (routes, more, what) in [
        (
            "\"a.test wbe\"",
            none(),
            "there is no service \"wbe\"; did you mean `web`",
        ),
        (
            "\"a.test edge\"",
            none(),
            "leads to the service that it is of",
        ),
        ("\"a.test\"", none(), "takes a name and a service"),
        ("\"a/b web\"", none(), "\"a/b\" is no host name"),
        (
            "[\"a.test web\", \"A.test web\"]",
            none(),
            "there are two for a.test",
        ),
        (hid, hidden("http"), "reads requests, and TLS is what comes"),
        (hid, hidden("udp"), "takes datagrams"),
        (hid, hidden("dsr"), "is forwarded past Pen"),
        (
            hid,
            format!("{}sni_route = \"b.test web\"\n", hidden("tcp")),
            "leads by name itself",
        ),
        (
            hid,
            "[[service]]\nname = \"hid\"\nmode = \"http\"\nredirect = \"https\"\n".to_owned(),
            "sends every request elsewhere",
        ),
        (
            "\"a.test web\"",
            certificate.to_owned(),
            "a certificate ends it here",
        ),
        (
            "\"a.test web\"",
            "pool = \"wbe\"\n".to_owned(),
            "there is no pool \"wbe\"",
        ),
        (
            hid,
            format!("{}emergency = \"127.0.0.1:443\"\n", hidden("tcp")),
            "service \"edge\" listens at [::]:443 itself",
        ),
    ] {
        let errors = leading(routes, &more).unwrap_err().to_string();
        assert!(errors.contains(what), "{what}: {errors}");
    }
    for mode in ["http", "udp"] {
        let text = SMALL.replace("tcp", mode) + &hidden("tcp");
        let text = text.replace("listen", "sni_route = \"a.test hid\"\nlisten");
        let errors = toml(&text).unwrap_err().to_string();
        assert!(
            errors.contains("`sni_route` means nothing with mode"),
            "{errors}"
        );
    }
}

#[test]
fn routes_by_name_in_commands() {
    let mut service = Service::new("edge");
    let mut say = |line: &str| -> Result<String, String> {
        let command = Command::parse(line).map_err(|fault| fault.to_string())?;
        let Some(Command::Option {
            key,
            value: Some(value),
        }) = command
        else {
            panic!("{line}")
        };
        service.set(key, &value)?;
        Ok(service.shown("sni_route"))
    };
    for (line, shown) in [
        ("sni_route A.test  web", r#"["a.test web"]"#),
        ("sni_route none x", r#"["a.test web", "none x"]"#),
        ("sni_route a.test. other", r#"["a.test other", "none x"]"#),
        ("no sni_route A.TEST", r#"["none x"]"#),
        ("no sni_route none", "[]"),
        ("sni_route *.a.test web", r#"["*.a.test web"]"#),
        ("no sni_route", "[]"),
    ] {
        assert_eq!(say(line).unwrap(), shown, "{line}");
    }
    for (line, why) in [
        ("no sni_route a.test", "there is none for a.test"),
        ("sni_route a.test", "takes a name and a service"),
        ("sni_route none", "takes a name and a service"),
        ("sni_route -a.test", "takes a name and a service"),
        ("sni_route a b c", "takes a name and a service"),
        ("no sni_route a/b", "is no host name"),
    ] {
        let fault = say(line).unwrap_err();
        assert!(fault.contains(why), "{line}: {fault}");
    }
}

#[test]
fn the_readme_is_right() {
    let readme = include_str!("../../README.md");
    let (_, from) = readme.split_once("```toml\n").unwrap();
    let (example, _) = from.split_once("```").unwrap();
    let checked = toml(example).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(checked.notes(), [""; 0]);
    let modes: Vec<Mode> = checked.config().services.iter().map(|s| s.mode).collect();
    assert!(modes.contains(&Mode::Dsr) && modes.contains(&Mode::Tcp));
    for (table, keys) in documented() {
        for (key, _) in keys.iter().filter(|_| ["acl", "service"].contains(&table)) {
            let told = readme.contains(&format!("`{key}`"));
            let shown = example.contains(&format!("\n{key} = "));
            assert!(told || shown, "README names no {key} of {table}");
        }
    }
}
