//! Who may come, and to whom those go who may not.

use lab::{Nginx, Station};

use crate::rig::{Pen, addresses, answerers, lab, server};

fn client() -> String {
    Station::client().v4().to_string()
}

#[test]
fn a_denied_client_never_reaches_the_emergency_server() {
    if !lab::ready("a_denied_client_never_reaches_the_emergency_server") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let deny = format!("acl 1 deny {}", client());
    let words = [
        "-O",
        &deny,
        "-O",
        "client_acl 1",
        "-e",
        &server(1),
        "80",
        &server(0),
    ];
    let pen = Pen::start(&lab, &words);
    assert_eq!(answerers(&lab, addresses()[0], 3), ["-"; 3]);
    // The list speaks of IPv4 only: whom no line matches gets the opposite of the last one.
    assert_eq!(answerers(&lab, addresses()[1], 2), ["be0"; 2]);
    pen.wait_until_idle();
    assert_eq!(pen.refused("acl-denied"), 3);
    assert_eq!(pen.service().servers[1].connects, 0);
    pen.stop();
}

#[test]
fn a_denied_client_is_sent_to_the_abuse_server() {
    if !lab::ready("a_denied_client_is_sent_to_the_abuse_server") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    // The bits beyond the mask don't matter; in Pen such a line matched nothing.
    let deny = "acl 3 deny 10.77.0.99 255.255.255.0";
    let words = [
        "-O",
        deny,
        "-O",
        "client_acl 3",
        "-B",
        &server(1),
        "80",
        &server(0),
    ];
    let pen = Pen::start(&lab, &words);
    assert_eq!(answerers(&lab, addresses()[0], 3), ["be1"; 3]);
    pen.change("no acl 3");
    // An empty list lets everyone pass, and nobody is remembered as an abuser.
    assert_eq!(answerers(&lab, addresses()[0], 3), ["be0"; 3]);
    pen.stop();
}

#[test]
fn a_server_with_a_list_of_its_own_serves_those_on_it_alone() {
    if !lab::ready("a_server_with_a_list_of_its_own_serves_those_on_it_alone") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let permit = format!("acl 2 permit {}", Station::client().v6());
    let words = [
        "-r",
        "-O",
        &permit,
        "-O",
        "server 0 acl 2",
        "80",
        &server(0),
        &server(1),
    ];
    let pen = Pen::start(&lab, &words);
    assert_eq!(answerers(&lab, addresses()[0], 3), ["be1"; 3]);
    let both = answerers(&lab, addresses()[1], 4);
    assert_eq!(
        both.iter().filter(|name| *name == "be0").count(),
        2,
        "{both:?}"
    );
    pen.stop();
}

#[test]
fn a_full_server_takes_no_more_and_one_that_was_full_does_again() {
    if !lab::ready("a_full_server_takes_no_more_and_one_that_was_full_does_again") {
        return;
    }
    let lab = lab(1);
    let _echo = crate::python::serve(&lab, 0, 80, crate::python::Manner::Echo);
    let limited = format!("{}:80:2", server(0));
    let pen = Pen::start(&lab, &["-r", "80", &limited]);
    let said = crate::python::client(
        &lab,
        "held = [connect(), connect()]\n\
         for c in held: c.sendall(b'a'); assert c.recv(1) == b'a'\n\
         third = connect()\n\
         print(third.recv(1))\n\
         for c in held: c.close()\n\
         print('closed', flush=True)\n",
    );
    assert_eq!(said, "b''\nclosed");
    assert_eq!(pen.refused("server-full"), 1);
    pen.wait_until_idle();
    let said = crate::python::client(&lab, "c = connect(); c.sendall(b'z'); print(c.recv(1))\n");
    assert_eq!(said, "b'z'");
    pen.stop();
}

#[test]
fn a_client_waits_for_room_and_not_for_ever() {
    if !lab::ready("a_client_waits_for_room_and_not_for_ever") {
        return;
    }
    let lab = lab(2);
    let _echo: Vec<_> = (0..2)
        .map(|at| crate::python::serve(&lab, at, 80, crate::python::Manner::Echo))
        .collect();
    let (first, second) = (format!("{}:80:1", server(0)), format!("{}:80:1", server(1)));
    let pen = Pen::start(
        &lab,
        &["-r", "-O", "queue_timeout 2", "80", &first, &second],
    );
    let said = crate::python::client(
        &lab,
        "held = [connect(), connect()]\n\
         for c in held: c.sendall(b'a'); assert c.recv(1) == b'a'\n\
         start = time.monotonic()\n\
         waits = []\n\
         for n in range(3):\n\
         \x20waits.append(connect()); waits[n].sendall(b'%d' % n); time.sleep(0.2)\n\
         held[1].close(); print(waits[0].recv(1), time.monotonic() - start < 1.5)\n\
         waits[0].close(); print(waits[1].recv(1), time.monotonic() - start < 1.5)\n\
         try: print(waits[2].recv(1))\n\
         except ConnectionResetError: print(b'')\n\
         print(1.9 < time.monotonic() - start < 4)\n",
    );
    // First come, first served; the last one has waited long enough.
    assert_eq!(said, "b'0' True\nb'1' True\nb''\nTrue");
    pen.wait_until_idle();
    assert_eq!(pen.refused("server-full"), 1);
    assert_eq!(pen.service().waiting, 0);
    pen.stop();
}

#[test]
fn one_client_takes_no_more_than_its_share() {
    if !lab::ready("one_client_takes_no_more_than_its_share") {
        return;
    }
    let lab = lab(1);
    let _echo = crate::python::serve(&lab, 0, 80, crate::python::Manner::Echo);
    let pen = Pen::start(&lab, &["-O", "client_conn_max 3", "80", &server(0)]);
    let burst = "def served(c):\n\
                 \x20try: c.sendall(b'x'); return c.recv(1) == b'x'\n\
                 \x20except OSError: return False\n\
                 held = [connect() for _ in range(5)]\n\
                 print(sum(served(c) for c in held))\n";
    let said = crate::python::client(&lab, burst);
    assert_eq!(said, "3");
    pen.wait_until_idle();
    assert_eq!(pen.refused("client-connections"), 2);
    // Who left has room again.
    let said = crate::python::client(&lab, burst);
    assert_eq!(said, "3");
    pen.change("client_conn_max 0");
    // One more is let in each second that the burst takes.
    pen.change("client_conn_rate 1");
    pen.wait_until_idle();
    let said: u64 = crate::python::client(&lab, burst).parse().unwrap();
    assert!((1..=4).contains(&said), "{said}");
    assert_eq!(pen.refused("client-rate"), 5 - said);
    pen.stop();
}
