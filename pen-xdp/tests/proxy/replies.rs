//! What scripts that know Pen parse: each reply byte for byte. Where one is not Pen's,
//! docs/moving-from-pen.md says so.

use lab::{Nginx, Station};

use crate::python::{self, Manner};
use crate::rig::{Pen, addresses, answerers, lab, server};

#[test]
fn replies_are_pens() {
    if !lab::ready("replies_are_pens") {
        return;
    }
    let lab = lab(2);
    let (first, second) = (server(0), server(1));
    let words = [
        "-O",
        "acl 1 permit all",
        "-O",
        "client_acl 1",
        "-b",
        "40",
        "80",
        &format!("{first}:80:10:20:2:1"),
        &second,
    ];
    let pen = Pen::start(&lab, &words);
    let control = pen.control.display();
    let servers = format!(
        "0 addr {first} port 80 conn 0 max 10 hard 20 weight 2 prio 1 sx 0 rx 0\n\
         1 addr {second} port 80 conn 0 max 0 hard 0 weight 1 prio 0 sx 0 rx 0\n"
    );
    for (command, reply) in [
        ("servers", servers.as_str()),
        ("recent", ""),
        (
            "mode",
            "no hash no roundrobin no stubborn no weight no prio\n",
        ),
        ("blacklist", "40\n"),
        ("client_acl", "1\n"),
        ("clients_max", "2048\n"),
        // Pen: 500.
        ("conn_max", "10000\n"),
        ("debug", "0\n"),
        ("idle_timeout", "Idle timeout: 0 seconds\n"),
        ("listen", "[::]:80\n"),
        ("log", ""),
        ("timeout", "3\n"),
        ("tracking", "0\n"),
        ("web_stats", ""),
        ("pid", &format!("{}\n", pen.process.id())),
        ("control", &format!("{control}\n")),
        ("exit", "Exit is not enabled; restart with -X flag\n"),
        (
            "frobnicate",
            "do_cmd: ignoring command starting with 'frobnicate'\n",
        ),
        // Setters of values answer with these, others in silence; a comment is no command.
        ("timeout 4", "4\n"),
        ("idle_timeout 60", "Idle timeout: 60 seconds\n"),
        ("clients_max 4096", "4096\n"),
        ("conn_max 600", "600\n"),
        ("blacklist 31", "31\n"),
        ("tracking 9", "9\n"),
        ("pending_max 50", ""),
        ("roundrobin", ""),
        ("stubborn", ""),
        ("no stubborn", ""),
        ("server 1 weight 7 max 5", ""),
        ("acl 1 permit 10.0.0.0 255.0.0.0", ""),
        ("no acl 1", ""),
        ("tcp_fastclose both", ""),
        ("tcp_nodelay", ""),
        ("log /dev/null", "/dev/null\n"),
        ("web_stats /dev/null/no", "/dev/null/no\n"),
        ("# a remark", ""),
        ("", ""),
        ("timeout", "4\n"),
        ("idle_timeout", "Idle timeout: 60 seconds\n"),
        ("clients_max", "4096\n"),
        ("conn_max", "600\n"),
        ("blacklist", "31\n"),
        ("tracking", "9\n"),
        ("log", "/dev/null\n"),
        ("web_stats", "/dev/null/no\n"),
        ("mode", "no hash roundrobin no stubborn no weight no prio\n"),
    ] {
        assert_eq!(pen.say(command), reply, "{command}");
    }
    let changed = servers.replace("max 0 hard 0 weight 1", "max 5 hard 0 weight 7");
    assert_eq!(pen.say("servers"), changed);
    pen.stop();
}

#[test]
fn clients_and_connections_are_told_in_pens_lines() {
    if !lab::ready("clients_and_connections_are_told_in_pens_lines") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start(&lab, 0, &[80]).unwrap();
    let _echo = python::serve(&lab, 1, 80, Manner::Echo);
    let pen = Pen::start(&lab, &["-r", "80", &server(0), &server(1)]);
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be0"]);
    pen.wait_until_idle();
    let recent = pen.say("recent");
    let client = Station::client().v4();
    let (sx, rx) = recent
        .strip_prefix(&format!("{client} connects 1 sx "))
        .and_then(|rest| rest.strip_suffix('\n')?.split_once(" rx "))
        .unwrap_or_else(|| panic!("{recent}"));
    let (sx, rx): (u64, u64) = (sx.parse().unwrap(), rx.parse().unwrap());
    assert!(sx > rx && rx > 0, "{recent}");
    // A server is sent what clients send: the other way round.
    let servers = pen.say("servers");
    let first = format!(
        "0 addr {} port 80 conn 0 max 0 hard 0 weight 1 prio 0",
        server(0)
    );
    assert_eq!(
        servers.lines().next().unwrap(),
        format!("{first} sx {rx} rx {sx}")
    );
    let _held = python::start_client(
        &lab,
        "c = connect(); c.sendall(b'12345'); assert c.recv(5) == b'12345'\n\
         print('ready', flush=True); time.sleep(60)",
    );
    // Pen's five lines; ours are behind them.
    let told = pen.say("connection 0");
    let five =
        "Connection 0:\nstate = 2\ndownfd = -1, upfd = -1\nclient = -1, server = 1\npend = 0\n";
    assert!(told.starts_with(five), "{told}");
    assert!(
        told[five.len()..].starts_with("service pen client "),
        "{told}"
    );
    assert_eq!(told.lines().count(), 6);
    let expected = format!("{client} connects 2 sx {} rx {}\n", sx + 5, rx + 5);
    assert_eq!(pen.say("recent"), expected);
    pen.stop();
}
