//! Bytes on their way through.

use std::{fs, time::Duration};

use lab::{Nginx, Station};

use crate::user::folder;
use crate::{
    python::{self, Manner},
    rig::{PORT, Pen, addresses, answerers, lab, server},
};

#[test]
fn downloads_arrive_whole_over_both_families() {
    if !lab::ready("downloads_arrive_whole_over_both_families") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let v6 = format!("[{}]:80", Station::backend(1).v6());
    let pen = Pen::start(&lab, &["-r", "80", &server(0), &v6]);
    for address in addresses().into_iter().chain(addresses()) {
        assert!(lab::download_is_intact(&lab, address, PORT).unwrap());
    }
    pen.wait_until_idle();
    let servers = pen.servers();
    for server in &servers {
        // Two downloads of 16 MiB each, and their heads.
        assert!(server.rx > 32 << 20 && server.rx < 33 << 20, "{servers:?}");
        assert!(server.sx > 100 && server.sx < 1000, "{servers:?}");
    }
    pen.stop();
}

#[test]
fn half_of_a_connection_may_end_before_the_other() {
    if !lab::ready("half_of_a_connection_may_end_before_the_other") {
        return;
    }
    let lab = lab(1);
    let _count = python::serve(&lab, 0, 80, Manner::CountToEnd);
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let script = "c = connect()\n\
                  c.sendall(b'x' * 20_000_000); c.shutdown(s.SHUT_WR)\n\
                  print(c.recv(100).decode(), c.recv(1))\n";
    assert_eq!(python::client(&lab, script), "20000000 b''");
    pen.stop();
}

#[test]
fn a_fast_close_does_not_wait_for_the_other_half() {
    if !lab::ready("a_fast_close_does_not_wait_for_the_other_half") {
        return;
    }
    let lab = lab(1);
    let _silent = python::serve(&lab, 0, 80, Manner::Silent);
    let pen = Pen::start(&lab, &["-O", "tcp_fastclose down", "80", &server(0)]);
    let script = "c = connect(); c.sendall(b'x'); c.shutdown(s.SHUT_WR)\n\
                  print(c.recv(1))\n";
    assert_eq!(python::client(&lab, script), "b''");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn an_idle_connection_ends_and_a_busy_one_does_not() {
    if !lab::ready("an_idle_connection_ends_and_a_busy_one_does_not") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let pen = Pen::start(&lab, &["-O", "idle_timeout 1", "80", &server(0)]);
    let script = "idle, busy = connect(), connect()\n\
                  start = time.monotonic()\n\
                  for n in range(8):\n\
                  \x20busy.sendall(b'b'); assert busy.recv(1) == b'b'\n\
                  \x20time.sleep(0.4)\n\
                  print(idle.recv(1), busy.sendall(b'c'), busy.recv(1))\n\
                  busy.settimeout(5)\n\
                  print(busy.recv(1), time.monotonic() - start < 6)\n";
    assert_eq!(python::client(&lab, script), "b'' None b'c'\nb'' True");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn unix_sockets_on_both_sides() {
    if !lab::ready("unix_sockets_on_both_sides") {
        return;
    }
    let lab = lab(1);
    let folder = lab.folder().join("sockets");
    fs::create_dir_all(&folder).unwrap();
    let (front, back) = (folder.join("front"), folder.join("back"));
    // A dead process's socket is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&front).unwrap());
    let script = format!(
        "import socket as s\n\
         l = s.socket(s.AF_UNIX); l.bind('{}'); l.listen()\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20c, _ = l.accept(); c.sendall(c.recv(100).upper()); c.close()\n",
        back.display()
    );
    let _back = python::start(lab.balancer(), &script);
    let pen = Pen::start(&lab, &[front.to_str().unwrap(), back.to_str().unwrap()]);
    let client = format!(
        "import socket as s\n\
         for n in range(3):\n\
         \x20c = s.socket(s.AF_UNIX); c.connect('{}'); c.sendall(b'pen'); print(c.recv(100))\n",
        front.display()
    );
    let said = lab.balancer().run_ok("python3", ["-c", &client]).unwrap();
    assert_eq!(said.stdout, "b'PEN'\n".repeat(3));
    pen.stop();
    assert!(!front.exists());
    assert!(back.exists(), "it is the server's");
}

#[test]
fn connections_come_from_the_address_that_is_given() {
    if !lab::ready("connections_come_from_the_address_that_is_given") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    lab.balancer().ip("addr add 10.77.0.9/24 dev eth0").unwrap();
    let pen = Pen::start(&lab, &["-O", "source 10.77.0.9", "80", &server(0)]);
    let page = lab::fetch(lab.client(), addresses()[0], PORT, "/").unwrap();
    assert!(page.starts_with("be0 10.77.0.9 "), "{page}");
    pen.stop();
}

#[test]
fn nothing_spins_while_a_reader_is_slow() {
    if !lab::ready("nothing_spins_while_a_reader_is_slow") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let script = format!(
        "import socket as s, time\n\
         held = []\n\
         for n in range(50):\n\
         \x20c = s.create_connection(('{}', 80)); c.sendall(b'GET /big HTTP/1.0\\r\\n\\r\\n'); held.append(c)\n\
         time.sleep(0.5)\n\
         print('ready', flush=True)\n\
         time.sleep(60)\n",
        addresses()[0]
    );
    let _slow = python::start(lab.client(), &script);
    let (cpu, memory) = (pen.cpu_seconds(), pen.resident_kib());
    std::thread::sleep(Duration::from_secs(2));
    let used = pen.cpu_seconds() - cpu;
    assert!(used < 0.2, "{used} CPU seconds for nothing");
    assert!(memory < 100 << 10, "{memory} KiB");
    // Others are served meanwhile.
    assert_eq!(answerers(&lab, addresses()[0], 5), ["be0"; 5]);
    pen.stop();
}

#[test]
fn a_transparent_service_shows_its_clients_to_the_servers() {
    if !lab::ready("a_transparent_service_shows_its_clients_to_the_servers") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let v6 = format!("[{}]", Station::backend(1).v6());
    let words = ["-r", "-O", "transparent", "80", &server(0), &v6];
    let checked = ["--check"].iter().chain(&words);
    let checked = lab
        .balancer()
        .run_ok(env!("CARGO_BIN_EXE_pen"), checked)
        .unwrap();
    let commands: Vec<&str> = checked
        .stdout
        .lines()
        .filter_map(|l| l.strip_prefix("  ip "))
        .collect();
    assert_eq!(commands.len(), 4, "{}", checked.stdout);
    for command in commands {
        lab.balancer().ip(command).unwrap();
    }
    // Answers to the client go the way that they came.
    let (client, balancer) = (Station::client(), Station::balancer(0));
    let route = format!("route add {} via {}", client.v4(), balancer.v4());
    lab.backend(0).ip(&route).unwrap();
    let route = format!("-6 route add {} via {}", client.v6(), balancer.v6());
    lab.backend(1).ip(&route).unwrap();
    folder(&lab);
    let page = |to| lab::fetch(lab.client(), to, PORT, "/").unwrap();
    // Nobody else than root may do it: a keeper does it for another user.
    for user in ["root", "nobody"] {
        let all = [&["-u", user], &words[..]].concat();
        let pen = Pen::start(&lab, &all);
        for (address, client) in addresses().into_iter().zip(client.addresses()) {
            let pages = [page(address), page(address)];
            let own = pages
                .iter()
                .filter(|page| page.contains(&format!(" {client} ")))
                .count();
            // The server of the other family sees Pen.
            assert_eq!(own, 1, "{user}: {pages:?}");
        }
        pen.stop();
    }
}

#[test]
fn an_address_that_this_host_lacks_is_no_servers_fault() {
    if !lab::ready("an_address_that_this_host_lacks_is_no_servers_fault") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["-O", "source 10.77.0.9", "80", &server(0)]);
    assert_eq!(answerers(&lab, addresses()[0], 3), ["-"; 3]);
    pen.wait_until_idle();
    assert_eq!(pen.refused("host-lacks"), 3);
    let server = pen.service().servers.remove(0);
    assert_eq!((server.failures, server.blacklist_left_s), (0, None));
    assert!(
        pen.process
            .output()
            .contains("Cannot assign requested address")
    );
    lab.balancer().ip("addr add 10.77.0.9/24 dev eth0").unwrap();
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be0"]);
    pen.stop();
}
