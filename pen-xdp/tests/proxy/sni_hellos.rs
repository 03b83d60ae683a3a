//! What clients begin with where a name leads them: in pieces, slowly, half of it, or none at all.

use lab::Lab;

use crate::{
    python::{self, Manner},
    rig::{Pen, lab, server},
    sni_routes::{hidden, start},
};

/// For scripts: a ClientHello for a name with bytes in it that nobody asks for, in records of some
/// size, and what comes back.
const HELLOS: &str = "\
def hello(name, more=0, size=16000):\n\
\x20sni = struct.pack('>HBH', len(name) + 3, 0, len(name)) + name\n\
\x20ext = struct.pack('>HH', 0, len(sni)) + sni + struct.pack('>HH', 0xfafa, more) + bytes(more)\n\
\x20m = b'\\3\\3' + bytes(32) + b'\\0' + struct.pack('>HH', 2, 0x1301) + b'\\1\\0' + struct.pack('>H', len(ext)) + ext\n\
\x20m = b'\\1' + len(m).to_bytes(3, 'big') + m\n\
\x20return b''.join(b'\\x16\\3\\1' + struct.pack('>H', len(m[i:i + size])) + m[i:i + size] for i in range(0, len(m), size))\n\
def nodelay():\n\
\x20c = connect(443); c.setsockopt(s.IPPROTO_TCP, s.TCP_NODELAY, 1); return c\n\
def rest(c, count=1 << 30):\n\
\x20got = b''\n\
\x20try:\n\
\x20 while len(got) < count and (b := c.recv(1 << 20)): got += b\n\
\x20except OSError: pass\n\
\x20return got\n\
def echoed(c, bytes): return rest(c, len(bytes)) == bytes\n";

/// Pen that leads `one.test` to a server that sends back what it gets.
fn leading(lab: &Lab, keys: &str) -> Pen {
    let keys = format!("sni_route = \"one.test one\"\n{keys}");
    start(lab, &keys, &hidden("one", &format!("{}:80", server(0))))
}

fn script(lab: &Lab, text: &str) -> String {
    python::client(lab, &format!("{HELLOS}{text}"))
}

#[test]
fn a_hello_is_understood_in_whatever_pieces_it_comes() {
    if !lab::ready("a_hello_is_understood_in_whatever_pieces_it_comes") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let pen = leading(&lab, "");
    let before = pen.cpu_seconds();
    let said = script(
        &lab,
        "h = hello(b'one.test'); c = nodelay()\n\
         for b in h: c.sendall(bytes([b])); time.sleep(.002)\n\
         print(echoed(c, h))\n\
         for size in [1, 7, 100, 16000]:\n\
         \x20h = hello(b'One.test', 2000, size); c = nodelay(); c.sendall(h + b'more'); print(echoed(c, h + b'more'))\n\
         h = hello(b'one.test', 3000, 40)\n\
         c = nodelay()\n\
         for i in range(0, len(h), 50): c.sendall(h[i:i + 50]); time.sleep(.001)\n\
         print(echoed(c, h))\n\
         h = hello(b'one.test', 65400, 1000); print(len(h) > 65536)\n\
         c = nodelay(); c.sendall(h); print(echoed(c, h))\n\
         c = nodelay()\n\
         for i in range(0, len(h), 700): c.sendall(h[i:i + 700]); time.sleep(.001)\n\
         print(echoed(c, h))\n",
    );
    assert_eq!(said, ["True"; 9].join("\n"));
    let used = pen.cpu_seconds() - before;
    assert!(used < 1.0, "{used} s");
    pen.wait_until_idle();
    let edge = pen.service();
    assert_eq!((edge.led, edge.accepted), (8, 0));
    pen.stop();
}

#[test]
fn who_sends_junk_costs_little_and_is_refused() {
    if !lab::ready("who_sends_junk_costs_little_and_is_refused") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let pen = leading(&lab, "");
    let before = pen.resident_kib();
    let said = script(
        &lab,
        "import os\n\
         long = b'\\1\\x10\\0\\0' + bytes(1 << 20)\n\
         long = b''.join(b'\\x16\\3\\1\\x3e\\x80' + long[i:i + 16000].ljust(16000) for i in range(0, len(long), 16000))\n\
         tiny = hello(b'one.test', 60000, 2)\n\
         for junk in [os.urandom(1 << 20), b'\\x16' * (1 << 20), bytes(1 << 20), long, tiny, b'\\x16\\3\\1' + os.urandom(1 << 20)] * 5:\n\
         \x20c = connect(443)\n\
         \x20try: c.sendall(junk)\n\
         \x20except OSError: pass\n\
         \x20assert rest(c) == b''\n\
         h = hello(b'one.test'); c = nodelay(); c.sendall(h); print(echoed(c, h))\n",
    );
    assert_eq!(said, "True");
    pen.wait_until_idle();
    assert_eq!(pen.refused("unknown-name"), 30);
    let grown = pen.resident_kib().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more than before");
    pen.stop();
}

#[test]
fn who_is_slow_is_refused_in_time_and_costs_nothing() {
    if !lab::ready("who_is_slow_is_refused_in_time_and_costs_nothing") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    // So that a socket is full before the hello is whole.
    let small = "net.ipv4.tcp_rmem=4096 8192 8192";
    lab.balancer().sysctl(&[small]).unwrap();
    let pen = leading(&lab, "tls_timeout = 2");
    let before = pen.cpu_seconds();
    let said = script(
        &lab,
        "start = time.time(); h = hello(b'one.test')\n\
         silent, slow, full = connect(443), nodelay(), nodelay()\n\
         slow.sendall(h[:-1])\n\
         full.setblocking(False); sent = 0; big = hello(b'one.test', 60000)\n\
         while sent < len(big):\n\
         \x20try: sent += full.send(big[sent:])\n\
         \x20except BlockingIOError:\n\
         \x20 if time.time() > start + 1: break\n\
         \x20 time.sleep(.05)\n\
         full.settimeout(10)\n\
         print([rest(c) for c in [silent, slow, full]], 1.9 < time.time() - start < 4)\n",
    );
    assert_eq!(said, "[b'', b'', b''] True");
    pen.wait_until_idle();
    assert_eq!(pen.refused("slow-handshake"), 3);
    let used = pen.cpu_seconds() - before;
    assert!(used < 0.3, "{used} s");
    pen.stop();
}

#[test]
fn who_ends_its_stream_is_served_or_refused_at_once() {
    if !lab::ready("who_ends_its_stream_is_served_or_refused_at_once") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let pen = leading(&lab, "client_handshakes_max = 1");
    let before = pen.cpu_seconds();
    let said = script(
        &lab,
        "start = time.time(); h = hello(b'one.test')\n\
         c = connect(443); c.sendall(h); c.shutdown(s.SHUT_WR); print(rest(c) == h)\n\
         c = connect(443); c.sendall(h[:-1]); c.shutdown(s.SHUT_WR); print(rest(c))\n\
         c = connect(443); c.shutdown(s.SHUT_WR); print(rest(c))\n\
         c = connect(443); c.setsockopt(s.SOL_SOCKET, s.SO_LINGER, struct.pack('ii', 1, 0)); c.close()\n\
         print(time.time() - start < 2)\n\
         slow = connect(443); slow.sendall(h[:9]); time.sleep(.2)\n\
         c = connect(443); c.sendall(h); c.settimeout(1); print(rest(c))\n\
         slow.close(); c.settimeout(5); print(rest(c, len(h)) == h)\n",
    );
    assert_eq!(said, "True\nb''\nb''\nTrue\nb''\nTrue");
    pen.wait_until_idle();
    // Who left without a byte only looked.
    assert_eq!(
        pen.refused("unknown-name") + pen.refused("bad-handshake"),
        2
    );
    assert_eq!(pen.service().led, 2);
    let used = pen.cpu_seconds() - before;
    assert!(used < 0.3, "{used} s");
    pen.stop();
}
