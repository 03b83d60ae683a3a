//! Debian's `pen` and ours, side by side: the same command lines and commands to both, before the
//! same servers. What differs has its reason in `docs/moving-from-pen.md`; nothing else may differ.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use lab::{DebianPen, Lab, Nginx, Process, Signal, Station};

use crate::rig::{lab, server, wait_for};

const PAGE: &str = include_str!("../../../docs/moving-from-pen.md");
const LIMIT: Duration = Duration::from_secs(15);
/// Where both listen.
const PORT: u16 = 80;
/// Ends both at their control sockets: only when neither listens does the next pair start.
const STOP: Duration = Duration::from_secs(10);

/// What is done to both, one after the other.
enum Step {
    /// A command; both answer the same.
    Say(&'static str),
    /// A command; the answers differ, for this reason of the page's.
    Other(&'static str, &'static str),
    /// So many clients, one after the other; the same servers answer them.
    Visit(usize),
    /// So many clients; others answer them, for this reason.
    VisitOther(usize, &'static str),
    /// Both end, and well.
    Ends,
}

use Step::{Ends, Other, Say, Visit, VisitOther};

/// A command line, words and `{0}`, `{1}` for servers, `{dead}` for one where nobody is, `{file}`,
/// `{client}` and `{listen}`; and what is done then.
struct Case {
    line: &'static str,
    file: &'static str,
    steps: &'static [Step],
}

const fn case(line: &'static str, steps: &'static [Step]) -> Case {
    Case {
        line,
        file: "",
        steps,
    }
}

const FIRST: &str = "begins with the first server";
const HASHED: &str = "Which server a client gets differs from Pen's";
const ONE: &str = "`weight` is 1 where none was given (Pen: 0)";
const REFUSED: &str = "is refused (Pen: ignored)";

const CASES: &[Case] = &[
    case("-r {listen} {0} {1}", &[VisitOther(3, FIRST), Say("mode")]),
    case(
        "{listen} {0} {1}",
        &[VisitOther(3, FIRST), Say("mode"), Say("recent")],
    ),
    case(
        "-r {listen} {0}:0:0:1 {1}:0:0:1",
        &[Visit(0), Say("servers")],
    ),
    case("-h {listen} {0} {1}", &[Say("mode"), VisitOther(2, HASHED)]),
    case(
        "-W {listen} {0}:0:0:3 {1}:0:0:1",
        &[Say("mode"), Visit(3), Say("servers")],
    ),
    case("-W {listen} {0}:9:12:1:5 {1}:8:11:3:4", &[Say("servers")]),
    case("-s -r {listen} {0} {1}", &[Say("mode")]),
    case(
        "-b 5 {listen} {0}",
        &[Say("blacklist"), Say("blacklist 7"), Say("blacklist")],
    ),
    case(
        "-t 7 {listen} {0}",
        &[Say("timeout"), Say("timeout 4"), Say("timeout")],
    ),
    case(
        "-T 60 {listen} {0}",
        &[Say("tracking"), Say("tracking 0"), Say("tracking")],
    ),
    case(
        "-c 4000 {listen} {0}",
        &[
            Say("clients_max"),
            Say("clients_max 5000"),
            Say("clients_max"),
        ],
    ),
    case(
        "-x 700 {listen} {0}",
        &[Say("conn_max"), Say("conn_max 800"), Say("conn_max")],
    ),
    case("-q 100 -m 10 {listen} {0}", &[Visit(1)]),
    case("-S 2 -n -D -Q {listen} {0}", &[Visit(1)]),
    case("-a -P {listen} {0}", &[Visit(1)]),
    case(
        "-O prio {listen} {0}:0:0:1:2 {1}:0:0:1:1",
        &[Say("mode"), Visit(2)],
    ),
    case(
        "-o prio -O hash {listen} {0} {1}",
        &[Say("mode"), Say("no prio"), Say("no hash"), Say("mode")],
    ),
    case(
        "-B {1} -O acl:1:deny:{client} -O client_acl:1 {listen} {0}",
        &[Visit(2), Say("client_acl")],
    ),
    case(
        "-e {1} -O acl:1:deny:{client} -O client_acl:1 {listen} {0}",
        &[VisitOther(1, "never to the emergency server")],
    ),
    case("-O server:0:blacklist:60 {listen} {0} {1}", &[Visit(2)]),
    case(
        "{listen} {0} {1}",
        &[
            Say("server 0 blacklist 60"),
            Visit(1),
            Say("server 0 blacklist 0"),
        ],
    ),
    case(
        "{listen} {0} {1}",
        &[
            Say("server 0 weight 5"),
            Say("server 1 weight 2 max 7 hard 9 prio 3"),
            Say("servers"),
        ],
    ),
    case("{listen} {0} {1}", &[Other("servers", ONE)]),
    case(
        "{listen} {0}",
        &[Other("server 0 size 5", REFUSED), Say("server 0 max 3")],
    ),
    case(
        "-H {listen} {0}",
        &[Visit(2), Say("no http"), Say("http"), Visit(1)],
    ),
    case(
        "{listen} {0}",
        &[Say("nonsense"), Say("pid"), Say("control")],
    ),
    case("{listen} {0}", &[Say("exit"), Visit(1)]),
    case("-X {listen} {0}", &[Say("exit"), Ends]),
    case("{listen} {0}", &[Ends]),
    case(
        "{listen} {0}",
        &[
            Say("log /dev/null"),
            Say("log"),
            Say("no log"),
            Say("web_stats /dev/null"),
            Say("no web_stats"),
            Say("web_stats"),
            Say("listen"),
        ],
    ),
    case(
        "{listen} {0}",
        &[
            Say("acl 1 permit 10.0.0.0 255.0.0.0"),
            Say("no acl 1"),
            Say("client_acl 1"),
            Say("client_acl"),
            Visit(1),
        ],
    ),
    case(
        "{listen} {0}",
        &[Other(
            "client_acl 12",
            "a number that is no list's is refused (Pen: became 0)",
        )],
    ),
    case(
        "{listen} {0}",
        &[
            Say("debug"),
            Say("debug 1"),
            Say("keepalive"),
            Say("no keepalive"),
            Say("pending_max 50"),
            Visit(1),
        ],
    ),
    case(
        "{listen} {0}",
        &[
            Say("tcp_fastclose up"),
            Say("tcp_fastclose off"),
            Other("tcp_fastclose x", "any other word is refused (Pen: off)"),
        ],
    ),
    case(
        "{listen} {0}",
        &[
            Say("idle_timeout"),
            Say("idle_timeout 9"),
            Say("idle_timeout"),
        ],
    ),
    case(
        "{listen} {0}",
        &[
            Say("stubborn"),
            Say("roundrobin"),
            Say("weight"),
            Say("mode"),
        ],
    ),
    case(
        "{listen} {0}",
        &[
            Other("no roundrobn", "An unknown word after `no`"),
            Say("no tcp_nodelay"),
            Say("no block"),
        ],
    ),
    case(
        "{listen} {0}",
        &[
            Say("server 1 address 10.77.0.12 port 80 weight 1"),
            Say("server 0 weight 1"),
            Say("servers"),
            VisitOther(1, FIRST),
        ],
    ),
    case(
        "-r {listen} {dead} {1}",
        &[VisitOther(4, "A server that refuses is left at once")],
    ),
    case("-e {1} {listen} {dead}", &[Visit(0)]),
    Case {
        line: "-F {file}",
        file: "# a file of Pen's\nlisten {listen}\nserver 0 address {host0} port 80 weight 1\nserver 1 address {host1} port 80 max 5 hard 6 weight 1\nblacklist 9\ntimeout 4\nno roundrobin\n",
        steps: &[
            Say("servers"),
            Say("blacklist"),
            Say("timeout"),
            VisitOther(2, FIRST),
        ],
    },
    Case {
        line: "-F {file} {listen} {0}",
        file: "conn_max 900\nacl 2 deny 192.0.2.0 255.255.255.0\nclient_acl 2\nweight\n",
        steps: &[
            Say("conn_max"),
            Say("client_acl"),
            Say("mode"),
            VisitOther(1, "(Pen: gets no clients)"),
        ],
    },
];

/// One of the two at work.
struct One {
    process: Process,
    control: PathBuf,
}

/// Both programs, and where they are tried.
struct Two<'a> {
    lab: &'a Lab,
    debian: DebianPen,
    folder: PathBuf,
}

fn words(case: &Case, file: &Path) -> Vec<String> {
    let address = |index| format!("{}:80", server(index));
    let line = case.line.split(' ').map(|word| {
        // Words of a command, which blanks part.
        let word = match word.contains(':') && word.starts_with(|c: char| c.is_alphabetic()) {
            true => word.replace(':', " "),
            false => word.to_owned(),
        };
        filled(&word)
            .replace("{0}", &address(0))
            .replace("{1}", &address(1))
            .replace("{dead}", &format!("{}:9", server(0)))
            .replace("{file}", file.to_str().unwrap())
    });
    line.collect()
}

fn filled(text: &str) -> String {
    text.replace("{listen}", &format!("{}:{PORT}", Station::balancer(0).v4()))
        .replace("{client}", &Station::client().v4().to_string())
        .replace("{host0}", &server(0))
        .replace("{host1}", &server(1))
}

impl Two<'_> {
    fn start(&self, ours: bool, case: &Case) -> One {
        let control = self.folder.join(if ours { "ours" } else { "debian" });
        let file = self.folder.join("file");
        fs::write(&file, filled(case.file)).unwrap();
        let own = ["-f", "-u", "root", "-C", control.to_str().unwrap()];
        let mut all: Vec<String> = own.iter().map(|word| (*word).to_owned()).collect();
        all.extend(words(case, &file));
        let machine = self.lab.balancer();
        let program = match ours {
            true => PathBuf::from(env!("CARGO_BIN_EXE_pen")),
            false => self.debian.program(),
        };
        let mut command = machine.command(&program, all);
        if !ours {
            command.env("LD_LIBRARY_PATH", self.debian.libraries());
        }
        let process = machine.spawn_command(command, &program).unwrap();
        wait_for("the control socket", || {
            assert!(process.is_running(), "{}: {}", case.line, process.output());
            UnixStream::connect(&control).is_ok()
        });
        One { process, control }
    }

    /// What each step comes to.
    fn run(&self, ours: bool, case: &Case) -> Vec<String> {
        let mut one = self.start(ours, case);
        let mut seen = Vec::new();
        for step in case.steps {
            seen.push(match step {
                Say(command) | Other(command, _) => one.say(command),
                Visit(count) | VisitOther(count, _) => {
                    let seen = self.visitors(*count);
                    one.wait_for_the_last_to_go();
                    seen
                }
                Ends => {
                    if !case.line.contains("-X") {
                        one.process.signal(Signal::Term).unwrap();
                    }
                    one.process.wait(STOP).unwrap().to_string()
                }
            });
        }
        if one.process.is_running() {
            one.process.stop(Signal::Term, STOP).unwrap();
        }
        // Debian's leaves it behind.
        let _ = fs::remove_file(&one.control);
        seen
    }

    fn visitors(&self, count: usize) -> String {
        let address = Station::balancer(0).v4().into();
        let visit = || match lab::fetch(self.lab.client(), address, PORT, "/") {
            Ok(page) => page.split(' ').next().unwrap().to_owned(),
            Err(_) => "nobody".to_owned(),
        };
        (0..count).map(|_| visit()).collect::<Vec<_>>().join(" ")
    }
}

impl One {
    /// A client has its page before the program has closed its connection: what is asked next
    /// must not depend on who is faster.
    fn wait_for_the_last_to_go(&self) {
        let gone = |line: &str| line.contains(" conn 0 ");
        wait_for("an end of all connections", || {
            let servers = self.say("servers");
            !servers.is_empty() && servers.lines().all(gone)
        });
    }

    fn say(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // Elsewhere the same digits are another number.
        if answer.trim() == self.process.id().to_string() {
            return "PID\n".to_owned();
        }
        answer.replace(self.control.to_str().unwrap(), "CONTROL")
    }
}

#[test]
fn debians_pen_and_ours_do_the_same_but_for_what_the_page_says() {
    let name = "debians_pen_and_ours_do_the_same_but_for_what_the_page_says";
    if !lab::ready(name) {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let folder = lab.folder().join("two");
    fs::create_dir_all(&folder).unwrap();
    let two = Two {
        lab: &lab,
        debian: DebianPen::fetch().unwrap(),
        folder,
    };
    assert!(CASES.len() >= 40);
    let page: String = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut wrong = Vec::new();
    for case in CASES {
        let (debian, ours) = (two.run(false, case), two.run(true, case));
        for ((step, debian), ours) in case.steps.iter().zip(&debian).zip(&ours) {
            let (what, reason) = match step {
                Say(command) => ((*command).to_owned(), None),
                Other(command, reason) => ((*command).to_owned(), Some(*reason)),
                Visit(count) => (format!("{count} clients"), None),
                VisitOther(count, reason) => (format!("{count} clients"), Some(*reason)),
                Ends => ("its end".to_owned(), None),
            };
            let told = reason.is_none_or(|reason| page.contains(reason));
            // A reason for nothing is as wrong as none for something.
            if (debian == ours) != reason.is_none() || !told {
                wrong.push(format!(
                    "{}\n  {what}\n  Debian's: {debian:?}\n  ours:     {ours:?}\n  reason: {reason:?}",
                    case.line
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
