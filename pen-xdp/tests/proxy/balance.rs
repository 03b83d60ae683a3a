//! Who serves whom.

use lab::Nginx;

use crate::rig::{Pen, addresses, answerers, lab, server};

#[test]
fn servers_take_turns_from_server_0_on() {
    if !lab::ready("servers_take_turns_from_server_0_on") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["-r", "80", &server(0), &server(1), &server(2)]);
    // Pen began with server 1.
    assert_eq!(
        answerers(&lab, addresses()[0], 4),
        ["be0", "be1", "be2", "be0"]
    );
    assert_eq!(answerers(&lab, addresses()[1], 3), ["be1", "be2", "be0"]);
    pen.wait_until_idle();
    let connects: Vec<u64> = pen.service().servers.iter().map(|s| s.connects).collect();
    assert_eq!(connects, [3, 2, 2]);
    pen.stop();
}

#[test]
fn a_client_comes_back_to_its_server_and_another_one_does_not() {
    if !lab::ready("a_client_comes_back_to_its_server_and_another_one_does_not") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["80", &server(0), &server(1), &server(2)]);
    assert_eq!(answerers(&lab, addresses()[0], 4), ["be0"; 4]);
    // The same machine's other address is another client.
    assert_eq!(answerers(&lab, addresses()[1], 3), ["be1"; 3]);
    pen.change("server 0 blacklist 60");
    assert_eq!(answerers(&lab, addresses()[0], 2), ["be2"; 2]);
    pen.change("server 0 blacklist 0");
    // It has a new server now.
    assert_eq!(answerers(&lab, addresses()[0], 2), ["be2"; 2]);
    pen.stop();
}

#[test]
fn prio_and_weight_choose_and_failover_keeps_to_their_order() {
    if !lab::ready("prio_and_weight_choose_and_failover_keeps_to_their_order") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let servers: Vec<String> = (0..3).map(server).collect();
    let prio: Vec<String> = [2, 3, 1]
        .iter()
        .zip(&servers)
        .map(|(prio, host)| format!("{host}:80:0:0:1:{prio}"))
        .collect();
    let pen = Pen::start(
        &lab,
        &["-r", "-O", "prio", "80", &prio[0], &prio[1], &prio[2]],
    );
    assert_eq!(answerers(&lab, addresses()[0], 2), ["be2"; 2]);
    // Pen went on by number, to server 0 here and to server 1 if 0 was gone.
    pen.change("server 2 blacklist 60");
    assert_eq!(answerers(&lab, addresses()[0], 2), ["be0"; 2]);
    pen.change("server 0 blacklist 60");
    assert_eq!(answerers(&lab, addresses()[0], 2), ["be1"; 2]);
    assert_eq!(
        pen.say("mode"),
        "no hash roundrobin no stubborn no weight prio\n"
    );
    pen.stop();
}

#[test]
fn the_least_connections_for_the_weight_count() {
    if !lab::ready("the_least_connections_for_the_weight_count") {
        return;
    }
    let lab = lab(2);
    let held: Vec<_> = (0..2)
        .map(|index| crate::python::serve(&lab, index, 80, crate::python::Manner::Silent))
        .collect();
    let heavy = format!("{}:80:0:0:3", server(1));
    let pen = Pen::start(&lab, &["-r", "-W", "80", &server(0), &heavy]);
    let hold = "held = [connect() for _ in range(40)]\n\
                print('held', flush=True)\n\
                time.sleep(60)\n";
    let script = format!(
        "import socket as s, time\n\
         def connect(): return s.create_connection(('{}', 80))\n{hold}",
        addresses()[0]
    );
    let client = lab.client().spawn("python3", ["-c", &script]).unwrap();
    client
        .wait_for_line("held", std::time::Duration::from_secs(10))
        .unwrap();
    // The kernel takes clients for Pen.
    crate::rig::wait_for("a server for each", || {
        let conn = pen.servers().into_iter().map(|server| server.conn);
        conn.sum::<u32>() == 40
    });
    let conn: Vec<u32> = pen.servers().iter().map(|server| server.conn).collect();
    assert_eq!(conn, [10, 30]);
    // Servers that say nothing do not end what their clients end.
    drop((client, held));
    pen.wait_until_idle();
    pen.stop();
}
