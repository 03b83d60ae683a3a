//! Servers that speak TLS, and what Pen is told of them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lab::{Lab, Nginx, Process, Station};
use pen_common::control::HandshakeStatus;

use crate::authority::{Authority, Wish};
use crate::python;
use crate::rig::{Pen, server};

/// Where they listen.
pub(crate) const PORT: u16 = 443;

/// `pump()` sends and reads at the same time until `done(GOT, ENDED)`, by one thread: Python's TLS
/// bears no two.
pub(crate) const PUMP: &str = r#"
import select, ssl, time
def pump(c, out, done):
    c.setblocking(False)
    got, ended, out, late = bytearray(), False, memoryview(out), time.monotonic() + 40
    waits = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    while out or not done(got, ended):
        assert time.monotonic() < late, (len(got), ended, len(out))
        moved = False
        if out:
            try: out = out[c.send(out[:65536]):]; moved = True
            except waits: pass
        if not ended:
            try: more = c.recv(65536); got += more; ended = not more; moved = True
            except waits: pass
        if not moved: select.select([c], [c] if out else [], [], 5)
    c.setblocking(True)
    return bytes(got)
"#;

/// Answers each connection with a line `NAME BYTES SHA256` about what it got until its end, and
/// sends as many bytes of its own before that as it is asked for: the first line says how many. It
/// tells what it was asked for, and how each connection ended.
const SERVER: &str = r#"
import hashlib, socket, ssl, sys, threading
def tell(*words):
    sys.stdout.write(' '.join(map(str, words)) + '\n'); sys.stdout.flush()
x = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
x.load_cert_chain(CERT)
x.options &= ~getattr(ssl, 'OP_IGNORE_UNEXPECTED_EOF', 0)
x.set_alpn_protocols(['http/1.1'])
x.sni_callback = lambda s, name, c: tell('SNI', name)
exec(MORE)
def line(c):
    got = b''
    while not got.endswith(b'\n'):
        more = c.recv(1)
        if not more: break
        got += more
    return got
def one(c):
    try: c = x.wrap_socket(c, server_side=True, suppress_ragged_eofs=False)
    except OSError as e: return tell('REFUSED', e)
    try:
        shown = c.getpeercert() or {}
        subject = dict(p for r in shown.get('subject', ()) for p in r).get('commonName')
        tell('CONN', c.version(), 'reused' if c.session_reused else 'full', c.selected_alpn_protocol(), subject)
        want = int(line(c) or 0)
        if want < 0: return c.unwrap()
        got = pump(c, b'0123456789abcdef' * (want // 16), lambda got, ended: ended)
        tell('END', len(got))
        c.sendall(b'%s %d %s\n' % (NAME, len(got), hashlib.sha256(got).hexdigest().encode()))
        c.unwrap()
    except OSError as e: tell('BROKEN', e.__class__.__name__)
    finally: c.close()
if PATH: l = socket.socket(socket.AF_UNIX); l.bind(PATH); l.listen()
else: l = socket.create_server(('::', 443), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
print('ready', flush=True)
while True: threading.Thread(target=one, args=(l.accept()[0],), daemon=True).start()
"#;

/// A server on back end `index` with this certificate. `more` is said in Python of its context `x`.
pub(crate) fn serve(lab: &Lab, index: usize, certificate: &str, more: &str) -> Process {
    let names = format!("NAME, PATH = b'be{index}', None\n");
    let names = names + &format!("CERT, MORE = {certificate:?}, {more:?}\n");
    python::start(lab.backend(index), &(names + PUMP + SERVER))
}

/// The same at a Unix socket beside Pen.
pub(crate) fn serve_at(lab: &Lab, path: &str, certificate: &str) -> Process {
    let names = format!("NAME, PATH = b'unix', {path:?}\nCERT, MORE = {certificate:?}, ''\n");
    python::start(lab.balancer(), &(names + PUMP + SERVER))
}

/// Lines of a server that begin so.
pub(crate) fn said(server: &Process, word: &str) -> Vec<String> {
    let output = server.output();
    let lines = output.lines().filter(|line| line.starts_with(word));
    lines.map(str::to_owned).collect()
}

/// An nginx that speaks TLS on back end `index`: `/` says what it knows of its client, `/big` is as
/// everywhere. `more` stands behind `listen`.
pub(crate) fn nginx(lab: &Lab, index: usize, certificate: &str, more: &str) -> Process {
    let machine = lab.backend(index);
    let folder = machine.folder().join("nginx-tls");
    fs::create_dir_all(&folder).unwrap();
    let www: PathBuf = lab::big_file(lab).unwrap().parent().unwrap().to_owned();
    let config = format!(
        "daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         access_log off; default_type text/plain;\n\
         client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;\n\
         uwsgi_temp_path t4; scgi_temp_path t5;\n\
         server {{\n\
         listen {PORT} ssl {more}; listen [::]:{PORT} ssl ipv6only=on {more};\n\
         ssl_certificate {certificate}; ssl_certificate_key {certificate};\n\
         location = / {{ return 200 \"be{index} $connection $ssl_session_reused $ssl_server_name \
         $http_host $http_x_forwarded_for $http_x_forwarded_proto $proxy_protocol_addr\\n\"; }}\n\
         location = /last {{ keepalive_timeout 0; return 200 \"be{index} $connection\\n\"; }}\n\
         location = /big {{ root {}; sendfile on; }}\n\
         }} }}\n",
        www.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let words = [
        "-p".into(),
        folder.clone(),
        "-c".into(),
        file,
        "-e".into(),
        folder.join("error.log"),
    ];
    let process = machine.spawn("nginx", words).unwrap();
    let pid = folder.join("nginx.pid");
    crate::rig::wait_for("nginx to run", || pid.exists());
    process
}

/// An authority with a certificate `good` for `web.test` and the addresses of the first two back
/// ends.
pub(crate) fn authority(lab: &Lab) -> Authority<'_> {
    let authority = Authority::new(lab);
    let addresses = [0, 1].map(|index| Station::backend(index).addresses());
    let mut names = "web.test".to_owned();
    for address in addresses.into_iter().flatten() {
        names += &format!(" {address}");
    }
    authority.issue(Wish::of("good", &names));
    authority
}

/// Back end `index` as a word of the command line, over TLS.
pub(crate) fn at(index: usize) -> String {
    format!("{}:{PORT}", server(index))
}

/// What a client gets that sends nothing, without TLS of its own; `-` for nothing.
pub(crate) fn ask(lab: &Lab, times: usize) -> String {
    let script = format!(
        "for n in range({times}):\n\
         \x20c = connect()\n\
         \x20try:\n\
         \x20 c.sendall(b'0\\n'); c.shutdown(s.SHUT_WR)\n\
         \x20 print((c.recv(100) or b'-').split()[0].decode())\n\
         \x20except OSError: print('-')\n"
    );
    python::client(lab, &script).replace('\n', " ")
}

/// The last handshake with server `index`.
pub(crate) fn handshake(pen: &Pen, index: usize) -> Option<HandshakeStatus> {
    pen.service().servers.remove(index).handshake
}

/// Why the last handshake with server `index` failed.
pub(crate) fn trouble(pen: &Pen, index: usize) -> String {
    handshake(pen, index)
        .and_then(|seen| seen.trouble)
        .unwrap_or_default()
}

/// How long a server may take that takes too long.
pub(crate) const LATE: Duration = Duration::from_secs(1);

/// Nginx in clear at the port of TLS.
pub(crate) fn clear(lab: &Lab, index: usize) -> Nginx {
    Nginx::start(lab, index, &[PORT]).unwrap()
}
