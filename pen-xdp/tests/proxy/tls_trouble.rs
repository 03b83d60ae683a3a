//! TLS with clients that are slow, silent or none, and with files that can't be used.

use std::{fs, time::Duration};

use lab::{Lab, Nginx};

use crate::{
    certificates::{ECDSA, RSA, make},
    crowd::echo,
    python,
    rig::{Pen, addresses, lab, server, wait_for},
    tls::client,
};

/// What `pen` says to a line that it must refuse, started and checked.
fn refused(lab: &Lab, words: &[&str]) -> String {
    let to = server(0);
    let run = |first: &[&str]| {
        let words = [first, words, &["80", &to]].concat();
        let pen = env!("CARGO_BIN_EXE_pen");
        let output = lab.balancer().run_for(Duration::from_secs(10), pen, &words);
        let output = output.unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{words:?}: {}",
            output.text()
        );
        output.text()
    };
    run(&["--check"]);
    run(&["-f"])
}

#[test]
fn a_hello_in_pieces_is_one_and_half_a_hello_ends_in_time() {
    if !lab::ready("a_hello_in_pieces_is_one_and_half_a_hello_ends_in_time") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let words = [
        "-E",
        &certificate.whole,
        "-O",
        "tls_timeout 2",
        "80",
        &server(0),
    ];
    let pen = Pen::start(&lab, &words);
    let script = "for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):\n\
         \x20c = Loose(context(v, v)); c.c.setsockopt(s.IPPROTO_TCP, s.TCP_NODELAY, 1)\n\
         \x20for byte in c.hello(): c.c.sendall(bytes([byte])); time.sleep(0.001)\n\
         \x20c.do(c.s.do_handshake); c.do(c.s.write, b'GET / HTTP/1.0\\r\\n\\r\\n')\n\
         \x20print(c.do(c.s.read, 100)[:12])\n";
    assert_eq!(
        client(&lab, &certificate, script),
        "b'HTTP/1.1 200'\nb'HTTP/1.1 200'"
    );
    // Silent, half a hello, and one byte now and then.
    let script = "all = [Loose() for n in range(3)]; start = time.monotonic()\n\
         all[1].c.sendall(all[1].hello()[:100]); hello = all[2].hello()\n\
         try:\n\
         \x20for byte in hello: all[2].c.sendall(bytes([byte])); time.sleep(0.1)\n\
         except OSError: pass\n\
         for c in all:\n\
         \x20try: print(c.c.recv(100))\n\
         \x20except ConnectionResetError: print(b'')\n\
         print(time.monotonic() - start < 5)\n";
    let said = client(&lab, &certificate, script);
    assert_eq!(said, "b''\nb''\nb''\nTrue");
    assert_eq!(pen.refused("slow-handshake"), 3);
    // Who leaves in the middle is counted, who only looks is not.
    let script = "c = Loose(); c.c.sendall(c.hello()[:100]); c.c.close()\n\
         connect().close()\n\
         c = connect(); c.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'); print(c.recv(100).hex())\n";
    // An alert: decode_error or protocol_version, fatal.
    let said = client(&lab, &certificate, script);
    assert!(said.starts_with("1503"), "{said}");
    wait_for("two to be counted", || pen.refused("bad-handshake") == 2);
    pen.wait_until_idle();
    let service = pen.service();
    assert_eq!((service.accepted, service.servers[0].connects), (7, 2));
    pen.stop();
}

#[test]
fn two_thousand_half_handshakes_hinder_nobody() {
    if !lab::ready("two_thousand_half_handshakes_hinder_nobody") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let words = ["-E", &certificate.whole, "80", &server(0)];
    let pen = Pen::start(&lab, &words);
    let before = (pen.resident_kib(), pen.descriptors());
    let script = format!(
        "import resource, socket as s, ssl, time\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n\
         i, o = ssl.MemoryBIO(), ssl.MemoryBIO()\n\
         b = ssl.create_default_context().wrap_bio(i, o, server_hostname='pen.test')\n\
         try: b.do_handshake()\n\
         except ssl.SSLWantReadError: pass\n\
         hello, held = o.read(), []\n\
         for n in range(2000):\n\
         \x20c = s.create_connection(('{}', 80), timeout=20); held.append(c)\n\
         \x20c.sendall(hello if n % 2 else hello[:len(hello) // 2])\n\
         print('ready', flush=True)\n\
         for c in held:\n\
         \x20try:\n\
         \x20 while c.recv(10000): pass\n\
         \x20except OSError: pass\n\
         print('over', flush=True)\n",
        addresses()[1]
    );
    let crowd = python::start(lab.client(), &script);
    wait_for("all to be in the middle of it", || {
        let stages = pen.say("connections");
        stages.matches(" stage handshake ").count() == 2000
    });
    let each = (pen.resident_kib().saturating_sub(before.0)) / 2000;
    assert!(each < 40, "{each} KiB for each half of a handshake");
    let page = "c = tls(); c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(c.recv(100)[:12])\n";
    assert_eq!(client(&lab, &certificate, page), "b'HTTP/1.1 200'");
    crowd
        .wait_for_line("over", Duration::from_secs(30))
        .unwrap();
    wait_for("all to be counted", || {
        pen.refused("slow-handshake") == 2000
    });
    pen.wait_until_idle();
    pen.gives_back_all_but(before.1);
    pen.stop();
}

#[test]
fn idle_clients_hold_little_memory() {
    if !lab::ready("idle_clients_hold_little_memory") {
        return;
    }
    let lab = lab(1);
    let count = 1000;
    let _server = python::start(lab.backend(0), &echo(count));
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = Pen::start(&lab, &["-E", &certificate.whole, "80", &server(0)]);
    let before = pen.resident_kib();
    let script = format!(
        "import resource, socket as s, ssl, time\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n\
         x = ssl.create_default_context(cafile={:?}); held = []\n\
         for n in range({count}):\n\
         \x20c = x.wrap_socket(s.create_connection(('{}', 80)), server_hostname='pen.test', suppress_ragged_eofs=False)\n\
         \x20c.sendall(b'x'); assert c.recv(1) == b'x'; held.append(c)\n\
         print('ready', flush=True)\n\
         time.sleep(60)\n",
        certificate.ca,
        addresses()[0]
    );
    let client = lab.client().spawn("python3", ["-c", &script]).unwrap();
    client
        .wait_for_line("ready", Duration::from_secs(60))
        .unwrap();
    let each = (pen.resident_kib() - before) as f64 / count as f64;
    println!("{each:.1} KiB for each idle connection over TLS");
    assert!(each <= 24.0, "{each} KiB for each idle connection");
    pen.rests();
    drop(client);
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn a_reader_that_is_slow_holds_little_memory_and_no_thread() {
    if !lab::ready("a_reader_that_is_slow_holds_little_memory_and_no_thread") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    for mode in [&[][..], &["-H"]] {
        let pen = Pen::start(
            &lab,
            &[mode, &["-E", &certificate.whole, "80", &server(0)]].concat(),
        );
        let before = pen.resident_kib();
        let script = format!(
            "import socket as s, ssl, time\n\
             x = ssl.create_default_context(cafile={:?}); held = []\n\
             x.options &= ~getattr(ssl, 'OP_IGNORE_UNEXPECTED_EOF', 0)\n\
             for n in range(50):\n\
             \x20c = x.wrap_socket(s.create_connection(('{}', 80)), server_hostname='pen.test', suppress_ragged_eofs=False)\n\
             \x20c.sendall(b'GET /big HTTP/1.0\\r\\n\\r\\n'); held.append(c)\n\
             time.sleep(0.5)\n\
             print('ready', flush=True)\n\
             time.sleep(4)\n\
             for c in held:\n\
             \x20n = 0\n\
             \x20while data := c.recv(100000): n += len(data)\n\
             \x20assert n > 16 << 20, n\n\
             print('over', flush=True)\n\
             time.sleep(60)\n",
            certificate.ca,
            addresses()[0]
        );
        let slow = python::start(lab.client(), &script);
        let cpu = pen.cpu_seconds();
        std::thread::sleep(Duration::from_secs(2));
        let used = pen.cpu_seconds() - cpu;
        assert!(used < 0.2, "{used} CPU seconds for nothing");
        let held = pen.resident_kib().saturating_sub(before);
        assert!(
            held < 10 << 10,
            "{held} KiB for 50 clients that do not read"
        );
        slow.wait_for_line("over", Duration::from_secs(60)).unwrap();
        drop(slow);
        pen.wait_until_idle();
        pen.stop();
    }
}

#[test]
fn records_that_hold_nothing_keep_no_thread_busy() {
    if !lab::ready("records_that_hold_nothing_keep_no_thread_busy") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = Pen::start(&lab, &["-E", &certificate.whole, "80", &server(0)]);
    // Fatal: records of no kind, and too many warnings, end a connection.
    let script = "for junk in (b'\\x17\\x03\\x03\\x00\\x00', b'\\x63\\x03\\x03\\x00\\x01x'):\n\
         \x20c = Loose(); c.do(c.s.do_handshake)\n\
         \x20try:\n\
         \x20 while True: c.c.sendall(junk * 10000)\n\
         \x20except OSError as e: print(type(e).__name__ in ('ConnectionResetError', 'BrokenPipeError'))\n\
         c = tls(); c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(c.recv(100)[:12])\n";
    let said = client(&lab, &certificate, script);
    assert_eq!(said, "True\nTrue\nb'HTTP/1.1 200'");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn files_that_can_not_be_used_are_named_and_change_nothing() {
    if !lab::ready("files_that_can_not_be_used_are_named_and_change_nothing") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (own, other) = (make(&lab, "ecdsa", ECDSA), make(&lab, "rsa", RSA));
    let text = refused(&lab, &["-E", &own.chain, "-K", &other.key]);
    assert!(
        text.contains(&own.chain) && text.contains(&other.key),
        "{text}"
    );
    assert!(
        text.contains("is not that of the first certificate"),
        "{text}"
    );
    let text = refused(&lab, &["-E", "/nowhere.pem"]);
    assert!(text.contains("/nowhere.pem: No such file"), "{text}");
    let text = refused(&lab, &["-E", &own.chain]);
    assert!(
        text.contains(&format!("{} holds no private key", own.chain)),
        "{text}"
    );
    let text = refused(&lab, &["-E", &own.key]);
    assert!(
        text.contains(&format!("{} holds no certificate", own.key)),
        "{text}"
    );
    let locked = lab.folder().join("locked.pem");
    let locked = locked.to_str().unwrap();
    let lock = [
        "pkey", "-aes128", "-passout", "pass:x", "-in", &own.key, "-out", locked,
    ];
    lab.client().run_ok("openssl", lock).unwrap();
    let text = refused(&lab, &["-E", &own.chain, "-K", locked]);
    assert!(
        text.contains(&format!("the key in {locked} is encrypted")),
        "{text}"
    );
    let text = refused(&lab, &["-K", &own.key]);
    assert!(text.contains("add `certificate`"), "{text}");

    let pen = Pen::start(&lab, &["-E", &own.whole, "80", &server(0)]);
    let generation = pen.status().generation;
    let broken = lab.folder().join("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    for file in ["/nowhere.pem", &other.chain, broken.to_str().unwrap()] {
        let refusal = pen.ask(&format!("certificate {file}")).refusal.unwrap();
        assert!(refusal.contains(file), "{refusal}");
    }
    assert_eq!(pen.status().generation, generation);
    assert_eq!(pen.say("certificate").trim(), own.whole);
    let page = "c = tls(); c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(c.recv(100)[:12])\n";
    assert_eq!(client(&lab, &own, page), "b'HTTP/1.1 200'");
    // One that can be used is, by who comes from then on.
    pen.change(&format!("certificate {}", other.whole));
    assert_eq!(client(&lab, &other, page), "b'HTTP/1.1 200'");
    pen.stop();
}

#[test]
fn a_clients_handshakes_take_turns_and_others_do_not_wait() {
    if !lab::ready("a_clients_handshakes_take_turns_and_others_do_not_wait") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let one = ["-E", &certificate.whole, "-O", "client_handshakes_max 1"];
    let pen = Pen::start(&lab, &[&one[..], &["80", &server(0)]].concat());
    let script = format!(
        "import queue\n\
         first = connect(); first.sendall(b'\\x16\\x03\\x01'); time.sleep(.2)\n\
         done = queue.Queue()\n\
         threading.Thread(target=lambda: done.put(tls().version()), daemon=True).start()\n\
         try: print(done.get(timeout=1))\n\
         except queue.Empty: print('waits')\n\
         other = s.create_connection(('{}', 80), timeout=10)\n\
         print(tls(c=other).version())\n\
         first.close()\n\
         print(done.get(timeout=5))\n",
        addresses()[1]
    );
    let said = client(&lab, &certificate, &script);
    assert_eq!(said, "waits\nTLSv1.3\nTLSv1.3");
    pen.wait_until_idle();
    pen.stop();
}
