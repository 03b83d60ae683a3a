//! Servers and clients that misbehave in ways that no real program offers.

use std::time::Duration;

use lab::{Lab, Namespace, Process, Station};

const LIMIT: Duration = Duration::from_secs(10);

/// What a server does with each connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    /// Takes it and never says anything.
    Silent,
    /// Ends it with a reset after the first bytes.
    Reset,
    /// Ends it at once, without a word.
    CloseEarly,
    /// Reads all there is to read, until the end, and then says how many bytes that was.
    CountToEnd,
    /// Sends back what it gets; at the end of that, ends.
    Echo,
}

/// A server on back end `index`, on all its addresses of both families.
pub(crate) fn serve(lab: &Lab, index: usize, port: u16, manner: Manner) -> Process {
    let body = match manner {
        Manner::Silent => "time.sleep(1000)",
        Manner::Reset => {
            "c.recv(1); c.setsockopt(s.SOL_SOCKET, s.SO_LINGER, struct.pack('ii', 1, 0)); c.close()"
        }
        Manner::CloseEarly => "c.close()",
        Manner::CountToEnd => {
            "n = 0\n\
             \x20 while True:\n\
             \x20  b = c.recv(65536)\n\
             \x20  if not b: break\n\
             \x20  n += len(b)\n\
             \x20 c.sendall(b'%d' % n); c.close()"
        }
        Manner::Echo => {
            "while True:\n\
             \x20  b = c.recv(65536)\n\
             \x20  if not b: break\n\
             \x20  c.sendall(b)\n\
             \x20 c.close()"
        }
    };
    let script = format!(
        "import socket as s, struct, threading, time\n\
         l = s.create_server(('::', {port}), family=s.AF_INET6, dualstack_ipv6=True, backlog=1000)\n\
         def one(c):\n\
         \x20try:\n\
         \x20 {body}\n\
         \x20except OSError: pass\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20threading.Thread(target=one, args=(l.accept()[0],), daemon=True).start()\n"
    );
    start(lab.backend(index), &script)
}

/// A script that says `ready` when it is.
pub(crate) fn start(machine: &Namespace, script: &str) -> Process {
    let process = machine.spawn("python3", ["-c", script]).unwrap();
    process.wait_for_line("ready", LIMIT).unwrap();
    process
}

/// What a script prints on the client, with `connect()` for a connection to Pen.
pub(crate) fn client(lab: &Lab, script: &str) -> String {
    let words = ["-c", &of_client(script)];
    let output = lab
        .client()
        .run_for(Duration::from_secs(60), "python3", words);
    let output = output.unwrap();
    assert!(output.ok(), "{}", output.text());
    output.stdout.trim().to_owned()
}

/// A script on the client, with `connect()` as well, that says `ready` and goes on.
pub(crate) fn start_client(lab: &Lab, script: &str) -> Process {
    start(lab.client(), &of_client(script))
}

fn of_client(script: &str) -> String {
    let to = Station::balancer(0).v4();
    format!(
        "import socket as s, struct, time\n\
         def connect(port=80):\n\
         \x20c = s.create_connection(('{to}', port), timeout=10)\n\
         \x20c.settimeout(10)\n\
         \x20return c\n\
         {script}"
    )
}
