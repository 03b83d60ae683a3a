//! What travels in one packet: of a short connection the packets are what costs most.

use lab::Lab;

use crate::certificates::{ECDSA, make};
use crate::python;
use crate::rig::{Pen, lab, server};
use crate::tls;

/// How many packets of a TCP connection have come (`tcpi_segs_in` of `struct tcp_info`, linux/tcp.h).
const PACKETS: &str = "def packets(c):\n\
    \x20info = c.getsockopt(s.IPPROTO_TCP, s.TCP_INFO, 256)\n\
    \x20return struct.unpack_from('I', info, 140)[0]\n";

/// A server on a back end that does this with each connection `c`.
fn serve(lab: &Lab, index: usize, body: &str) -> lab::Process {
    let script = format!(
        "import socket as s, struct, threading, time\n\
         {PACKETS}\
         l = s.create_server(('', 80), backlog=100)\n\
         def one(c):\n\
         {body}\
         print('ready', flush=True)\n\
         while True: threading.Thread(target=one, args=(l.accept()[0],), daemon=True).start()\n"
    );
    python::start(lab.backend(index), &script)
}

/// The fewest of several connections: a kernel that is kept waiting may send the parts alone. 0 is of
/// a script that was late.
fn fewest(said: &str) -> u32 {
    let each = said.split_whitespace().map(|count| count.parse().unwrap());
    each.filter(|count| *count > 0).min().unwrap()
}

#[test]
fn the_last_bytes_the_word_and_the_end_of_a_connection_are_one_packet() {
    if !lab::ready("the_last_bytes_the_word_and_the_end_of_a_connection_are_one_packet") {
        return;
    }
    let lab = lab(2);
    // It waits until the request is acknowledged, which is a packet of its own.
    let answer = "\x20while c.recv(999):\n\
                  \x20 time.sleep(0.5); c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi')\n";
    let _keeps = serve(&lab, 0, answer);
    // Over TLS the word comes to the client before the end below, if that is another packet.
    let script = |connected: &str, ends: &str| {
        format!(
            "import struct\n\
             {PACKETS}\
             for n in range(5):\n\
             \x20c = {connected}; c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n\
             \x20{ends}; time.sleep(0.3)\n\
             \x20before = packets(c); got = b''\n\
             \x20while b := c.recv(999): got += b\n\
             \x20assert got.endswith(b'\\r\\n\\r\\nhi'), got\n\
             \x20time.sleep(0.1); print(packets(c) - before)\n"
        )
    };
    let ends = "\x20c.recv(999); time.sleep(0.5)\n\
                \x20c.send(b'HTTP/1.0 200 OK\\r\\n\\r\\nhi', s.MSG_MORE); c.close()\n";
    let _ends = serve(&lab, 1, ends);
    let half = "c.shutdown(s.SHUT_WR)";
    for (words, ends) in [
        (["-H", "80", &server(0)], "pass"),
        (["-r", "80", &server(1)], "pass"),
        // The last end of both is left to closing them.
        (["-r", "80", &server(1)], half),
    ] {
        let pen = Pen::start(&lab, &words);
        let said = python::client(&lab, &script("connect()", ends));
        assert_eq!(fewest(&said), 1, "{words:?} {ends}");
        pen.stop();
    }
    let certificate = make(&lab, "one", ECDSA);
    let pen = Pen::start(&lab, &["-H", "-E", &certificate.whole, "80", &server(0)]);
    for most in ["TLSv1_2", "TLSv1_3"] {
        let connected = format!("tls(context(most=ssl.TLSVersion.{most}))");
        let said = tls::client(&lab, &certificate, &script(&connected, "pass"));
        assert_eq!(fewest(&said), 1, "{most}");
    }
    pen.stop();
}

#[test]
fn a_server_gets_the_first_bytes_with_the_connection_and_may_begin_itself() {
    if !lab::ready("a_server_gets_the_first_bytes_with_the_connection_and_may_begin_itself") {
        return;
    }
    let lab = lab(1);
    let counts = serve(
        &lab,
        0,
        "\x20c.recv(999); count = packets(c)\n\
         \x20c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n %d' % count); c.close()\n",
    );
    // It waits for the place of another one, with what it says on its way.
    let waits = "for n in range(5):\n\
                  \x20held, c = connect(), connect(); c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); got = b''\n\
                  \x20time.sleep(0.2); held.close()\n\
                  \x20while b := c.recv(999): got += b\n\
                  \x20print(got.split()[-1].decode())\n";
    // Who it is is said first, whatever it has to say itself.
    let silent = "for n in range(5): print(connect().recv(99).split()[-1].decode())\n";
    // Of the packet that asks for the connection some kernels count nothing there.
    let direct = format!(
        "for n in range(5):\n\
         \x20c = s.socket(); c.setsockopt(s.IPPROTO_TCP, s.TCP_QUICKACK, 0); c.connect(('{}', 80))\n\
         \x20c.sendall(b'x'); print(c.recv(99).split()[-1].decode())\n",
        server(0)
    );
    let least = fewest(&python::client(&lab, &direct));
    for (words, script) in [
        (&["-x", "1"][..], waits),
        (&["-x", "1", "-H"], waits),
        (&["-O", "send_proxy v1"], silent),
    ] {
        let pen = Pen::start(&lab, &[words, &["80", &server(0)]].concat());
        assert_eq!(fewest(&python::client(&lab, script)), least, "{words:?}");
        pen.stop();
    }
    drop(counts);
    // A server that begins does not wait for what its client has not said: the kernel would let it
    // for 200 ms.
    let _begins = serve(&lab, 0, "\x20c.sendall(b'220'); c.recv(1); c.close()\n");
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let script = "for n in range(10):\n\
                  \x20start = time.monotonic(); c = connect(); assert c.recv(9) == b'220'\n\
                  \x20print(int(1000 * (time.monotonic() - start))); c.close()\n";
    let took = fewest(&python::client(&lab, script));
    assert!(took < 150, "{took} ms");
    pen.stop();
}
