//! The configuration read again while clients are served: what stays is not disturbed, what is gone
//! goes, what is new comes; and what is wrong changes nothing.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use lab::{Lab, Nginx, Process, Signal, Station};
use pen_common::control::Envelope;

use crate::{
    python::{self, Manner},
    rig::{Pen, lab, server, wait_for},
};

const LIMIT: Duration = Duration::from_secs(30);

/// Pen and the file that it is configured by.
struct Filed {
    pen: Pen,
    file: PathBuf,
}

/// A service and its pool.
fn service(name: &str, mode: &str, listen: &str, to: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nmode = \"{mode}\"\nlisten = \"{listen}\"\n\
         [[pool]]\nname = \"{name}\"\nbackend = [\"{to}\"]\n"
    )
}

impl Filed {
    fn start(lab: &Lab, top: &str, services: &[String]) -> Self {
        let folder = lab.folder().join("filed");
        fs::create_dir_all(&folder).unwrap();
        let (control, file) = (folder.join("control"), folder.join("pen.toml"));
        let top = format!("control = {control:?}\n{top}\n");
        fs::write(&file, top.clone() + &services.concat()).unwrap();
        fs::write(folder.join("top"), top).unwrap();
        let pen = Pen::start_file(lab, &file, &control);
        Self { pen, file }
    }

    fn top(&self) -> String {
        fs::read_to_string(self.file.with_file_name("top")).unwrap()
    }

    fn write(&self, services: &[String]) {
        fs::write(&self.file, self.top() + &services.concat()).unwrap();
    }

    /// Sends SIGHUP and waits for what the log says of it for the `nth` time.
    fn hang_up(&self, said: &str, nth: usize) {
        self.pen.process.signal(Signal::Hup).unwrap();
        wait_for(said, || {
            let log = self.pen.process.output();
            log.lines().filter(|line| line.contains(said)).count() == nth
        });
    }

    /// Sends a configuration over the control socket.
    fn apply(&self, what: &str, text: &str) -> Envelope {
        let mut stream = UnixStream::connect(&self.pen.control).unwrap();
        let line = format!("json {what} toml {}\n{text}", text.len());
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

const IN_FORCE: &str = "the configuration is as it is written";

/// A client that is connected to these ports, and asks on each line that it is sent: `port` echoes.
fn connected(lab: &Lab, ports: &[u16]) -> Process {
    python::start_client(
        lab,
        &format!(
            "all = {{p: connect(p) for p in {ports:?}}}\n\
             def ask(p):\n\
             \x20try: all[p].sendall(b'x'); return 'echo' if all[p].recv(1) == b'x' else 'end'\n\
             \x20except OSError as e: return type(e).__name__\n\
             print('first', *[ask(p) for p in all], flush=True)\n\
             print('ready', flush=True)\n\
             import signal\n\
             signal.signal(signal.SIGUSR1, lambda *_: print('asked', *[ask(p) for p in all], flush=True))\n\
             while True: time.sleep(1)"
        ),
    )
}

/// New connections to a port, one after the other for as long as this runs; says how many failed.
fn hammer(lab: &Lab, port: u16) -> Process {
    python::start_client(
        lab,
        &format!(
            "import signal\n\
             print('ready', flush=True)\n\
             done = []\n\
             signal.signal(signal.SIGUSR1, lambda *_: done.append(1))\n\
             good, bad = 0, []\n\
             while not done:\n\
             \x20try:\n\
             \x20 c = connect({port}); c.sendall(b'GET / HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n'); b = b''\n\
             \x20 while True:\n\
             \x20  p = c.recv(9999)\n\
             \x20  if not p: break\n\
             \x20  b += p\n\
             \x20 good += b.startswith(b'HTTP/1.'); c.close()\n\
             \x20 if not b.startswith(b'HTTP/1.'): bad.append(b)\n\
             \x20except OSError as e: bad.append(e)\n\
             print('hammered', good, len(bad), bad[:3], flush=True)"
        ),
    )
}

fn fetched(lab: &Lab, port: u16) -> Result<String, String> {
    let address = Station::balancer(0).v4();
    let page = lab::fetch(lab.client(), address.into(), port, "/");
    page.map(|page| page.split(' ').next().unwrap_or_default().to_owned())
        .map_err(|error| format!("{error:#}"))
}

#[test]
fn what_stays_is_not_disturbed_what_is_gone_goes_and_what_is_new_comes() {
    if !lab::ready("what_stays_is_not_disturbed_what_is_gone_goes_and_what_is_new_comes") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let _echo = python::serve(&lab, 0, 7000, Manner::Echo);
    let (web0, web1) = (format!("{}:80", server(0)), format!("{}:80", server(1)));
    let echo = format!("{}:7000", server(0));
    let stays = service("stays", "tcp", "7000", &echo);
    let before = [
        stays.clone(),
        service("goes", "tcp", "7001", &echo),
        service("web", "tcp", "80", &web0),
    ];
    let filed = Filed::start(&lab, "", &before);
    let client = connected(&lab, &[7000, 7001]);
    let hammer = hammer(&lab, 80);
    assert_eq!(fetched(&lab, 80), Ok("be0".to_owned()));

    // Another server, another mode, and the same place: nobody who comes is turned away.
    filed.write(&[
        stays.clone(),
        service("new", "tcp", "81", &web1),
        service("web", "http", "80", &web1),
    ]);
    filed.hang_up(IN_FORCE, 1);
    assert_eq!(fetched(&lab, 80), Ok("be1".to_owned()));
    assert_eq!(fetched(&lab, 81), Ok("be1".to_owned()));
    // Nobody comes to what is gone, and who is there may finish.
    let gone = fetched(&lab, 7001).unwrap_err();
    assert!(gone.contains("Couldn't connect"), "{gone}");
    client.signal(Signal::Usr1).unwrap();
    client.wait_for_line("asked echo echo", LIMIT).unwrap();
    let listed = filed.pen.say("service");
    let names: Vec<_> = listed
        .lines()
        .map(|l| l.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["stays", "new", "web"], "{listed}");

    // And back, many times.
    for round in 2..6 {
        filed.write(&before);
        filed.hang_up(IN_FORCE, 2 * round - 2);
        filed.write(&[stays.clone(), service("web", "http", "80", &web1)]);
        filed.hang_up(IN_FORCE, 2 * round - 1);
    }
    hammer.signal(Signal::Usr1).unwrap();
    let said = hammer.wait_for_line("hammered", LIMIT).unwrap();
    let words: Vec<&str> = said.split("hammered ").nth(1).unwrap().split(' ').collect();
    assert!(words[0].parse::<u32>().unwrap() > 20, "{said}");
    assert_eq!(words[1], "0", "{said}");
    client.signal(Signal::Usr1).unwrap();
    wait_for("the client's second answer", || {
        client.output().matches("asked echo echo").count() == 2
    });
    drop(client);
    filed.pen.stop();
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_status_says_why() {
    if !lab::ready("a_file_that_is_wrong_changes_nothing_and_status_says_why") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let web0 = format!("{}:80", server(0));
    let web = service("web", "tcp", "80", &web0);
    let filed = Filed::start(&lab, "", std::slice::from_ref(&web));
    let generation = filed.pen.ask("status").generation;
    // Somebody else's port, on Pen's machine.
    let _taken = python::start(
        lab.balancer(),
        "import socket as s, time\n\
         l = s.create_server(('0.0.0.0', 82))\nprint('ready', flush=True)\ntime.sleep(1000)",
    );
    let other = service("other", "tcp", "81", &web0);
    let wrong = [
        (
            vec![web.clone(), "[[service]]\nmane = \"x\"\n".to_owned()],
            "unknown key `mane`; did you mean `name`?",
        ),
        // What comes before in the file is not done either.
        (
            vec![other.clone(), service("taken", "tcp", "82", &web0)],
            "service \"taken\": can't listen on [::]:82",
        ),
        (
            vec![
                other.clone(),
                service("web", "tcp", "80", "no.such.host.invalid:80"),
            ],
            "no.such.host.invalid",
        ),
        (
            vec!["control_mode = \"660\"\n".to_owned(), web.clone()],
            "control_mode can't be changed while Pen runs",
        ),
        (
            vec![web.clone(), service("past", "dsr", "192.0.2.1:80", &web0)],
            "no interface",
        ),
    ];
    for (nth, (services, why)) in wrong.iter().enumerate() {
        filed.write(services);
        filed.hang_up("SIGHUP: nothing was changed", nth + 1);
        let refused = filed.pen.status().config.refused.unwrap_or_default();
        assert!(refused.contains(why), "{refused}");
        // Whoever asks by command hears it as well.
        let refusal = filed.pen.ask("reload").refusal.unwrap_or_default();
        assert!(refusal.contains(why), "{refusal}");
        assert_eq!(filed.pen.ask("status").generation, generation);
        assert_eq!(fetched(&lab, 80), Ok("be0".to_owned()));
        assert!(fetched(&lab, 81).is_err());
    }
    filed.write(&[web, other]);
    assert!(filed.pen.ask("reload").ok);
    assert_eq!(filed.pen.status().config.refused, None);
    assert_eq!(fetched(&lab, 81), Ok("be0".to_owned()));
    filed.pen.stop();
}

#[test]
fn servers_come_and_go_by_command_and_what_is_saved_loads_to_the_same() {
    if !lab::ready("servers_come_and_go_by_command_and_what_is_saved_loads_to_the_same") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let own = lab.folder().join("own.cfg");
    fs::write(
        &own,
        format!("roundrobin\nlisten 80\nserver 0 address {}\n", server(0)),
    )
    .unwrap();
    let pen = Pen::start(&lab, &["-F", own.to_str().unwrap()]);
    let who = |count| {
        let address = Station::balancer(0).v4().into();
        crate::rig::answerers(&lab, address, count)
    };
    assert_eq!(who(2), ["be0", "be0"]);
    // As Pen's scripts do it, and as ours.
    pen.change(&format!("server 1 address {} port 80 weight 2", server(1)));
    pen.change(&format!("server add {}:80 weight 3", server(2)));
    let mut three = who(3);
    three.sort();
    assert_eq!(three, ["be0", "be1", "be2"]);
    let servers = pen.servers();
    let weights: Vec<_> = servers.iter().map(|one| (one.index, one.weight)).collect();
    assert_eq!(weights, [(0, 1), (1, 2), (2, 3)]);
    pen.change("server drain 0");
    assert!(!who(4).contains(&"be0".to_owned()));
    pen.change("server undrain 0");
    assert!(who(3).contains(&"be0".to_owned()));
    pen.change("server remove 0");
    assert!(!who(4).contains(&"be0".to_owned()));
    assert_eq!(pen.servers()[0].weight, 2);

    // Pen's `listen` opens another place, and the one before is closed.
    pen.change("listen 81");
    wait_for("the old place to be closed", || fetched(&lab, 80).is_err());
    assert!(fetched(&lab, 81).unwrap().starts_with("be"));
    for (wrong, why) in [
        ("server remove 7", "there is no server 7"),
        ("server add 10.0.0.300", "is not an address"),
        ("server 9 address 10.0.0.1", "there is no server 9"),
        ("server 2 port 80", "give it an address"),
        ("listen nowhere:x", "nowhere"),
        ("server add /no/such", "why"),
    ] {
        let refusal = pen.ask(wrong).refusal;
        match why {
            "why" => assert_eq!(refusal, None, "{wrong}"),
            why => assert!(
                refusal.as_deref().unwrap_or_default().contains(why),
                "{refusal:?}"
            ),
        }
    }
    pen.change("server remove 2");
    assert!(pen.ask("server remove 1").ok);
    let refusal = pen.ask("server remove 0").refusal.unwrap();
    assert!(refusal.contains("is the last server"), "{refusal}");

    // What is in force is not what is written, until it is saved: in both forms.
    let diff = pen.say("config diff");
    assert!(diff.contains("\n+listen = [\"[::]:81\"]"), "{diff}");
    let shown = pen.say("config show");
    let toml = lab.folder().join("saved.toml");
    pen.change(&format!("write {}", toml.display()));
    assert_eq!(fs::read_to_string(&toml).unwrap(), shown);
    pen.change("config save");
    assert_eq!(pen.say("config diff").trim(), "");
    let saved = fs::read_to_string(&own).unwrap();
    assert_eq!(saved, pen.say("config show commands"));
    pen.change("reload");
    assert_eq!(pen.say("config show"), shown);
    pen.stop();
}

#[test]
fn a_whole_configuration_is_applied_or_only_told_of() {
    if !lab::ready("a_whole_configuration_is_applied_or_only_told_of") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (web0, web1) = (format!("{}:80", server(0)), format!("{}:80", server(1)));
    let filed = Filed::start(&lab, "", &[service("web", "tcp", "80", &web0)]);
    let next =
        filed.top() + &service("web", "tcp", "80", &web1) + &service("more", "tcp", "81", &web0);
    let plan = filed.apply("plan", &next);
    let plan: pen_common::control::Plan = serde_json::from_value(plan.value.unwrap()).unwrap();
    assert_eq!(plan.opens, ["[::]:81 (tcp)"]);
    assert!(plan.closes.is_empty(), "{plan:?}");
    let changes = plan.changes.join("\n");
    for line in [
        "service more: new",
        &format!("server {} of web: new", server(1)),
    ] {
        assert!(changes.contains(line), "{changes}");
    }
    // Nothing has changed by that.
    assert_eq!(fetched(&lab, 80), Ok("be0".to_owned()));
    assert!(fetched(&lab, 81).is_err());
    assert!(filed.apply("apply", &next).ok);
    assert_eq!(fetched(&lab, 80), Ok("be1".to_owned()));
    assert_eq!(fetched(&lab, 81), Ok("be0".to_owned()));
    let plan = filed.apply("plan", &next).value.unwrap();
    assert_eq!(plan["changes"], serde_json::json!([]));

    // Half of one, one that is wrong, and one that is too long.
    for (what, text, why) in [
        (
            "apply toml 99999",
            next.as_str(),
            "99999 bytes were to follow",
        ),
        ("apply toml 99999999", "", "bytes at most"),
        ("apply yaml 1", "x", "yaml"),
    ] {
        let mut stream = UnixStream::connect(&filed.pen.control).unwrap();
        stream
            .write_all(format!("json {what}\n{text}").as_bytes())
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.contains("\"ok\":false") && answer.contains(why),
            "{answer}"
        );
    }
    let refusal = filed.apply("apply", "[[service]]\n").refusal.unwrap();
    assert!(refusal.contains("what was sent"), "{refusal}");
    // The line's own file is what a reload goes by.
    filed.pen.change("reload");
    assert_eq!(fetched(&lab, 80), Ok("be0".to_owned()));
    filed.pen.stop();
}

#[test]
fn who_is_connected_may_finish_when_it_stops() {
    if !lab::ready("who_is_connected_may_finish_when_it_stops") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let start = || Pen::start(&lab, &["--drain-timeout", "20", "80", &server(0)]);
    let connects = |pen: &Pen| {
        let client = python::start_client(
            &lab,
            "import signal\n\
             c = connect(); c.sendall(b'x'); c.recv(1)\n\
             print('ready', flush=True)\n\
             signal.signal(signal.SIGUSR1, lambda *_: (c.sendall(b'y'), print('got', c.recv(1), flush=True), c.close()))\n\
             while True: time.sleep(1)",
        );
        wait_for("the connection", || pen.service().connections == 1);
        client
    };
    let pen = start();
    let client = connects(&pen);
    pen.process.signal(Signal::Term).unwrap();
    pen.process
        .wait_for_line("1 connections have 20 s", LIMIT)
        .unwrap();
    assert!(fetched(&lab, 80).is_err(), "nobody is taken any more");
    // It answers while it waits.
    assert!(pen.ask("status").ok);
    let refusal = pen.ask("reload").refusal.unwrap();
    assert!(refusal.contains("Pen is stopping"), "{refusal}");
    client.signal(Signal::Usr1).unwrap();
    client.wait_for_line("got b'y'", LIMIT).unwrap();
    pen.stopped();

    // Who can't wait says it again, and hears what that cost.
    let mut pen = start();
    let _client = connects(&pen);
    pen.process.signal(Signal::Term).unwrap();
    pen.process
        .wait_for_line("1 connections have 20 s", LIMIT)
        .unwrap();
    let status = pen
        .process
        .stop(Signal::Term, Duration::from_secs(5))
        .unwrap();
    assert!(status.success());
    let log = pen.process.output();
    assert!(log.contains("1 connections were cut"), "{log}");
}

#[test]
fn listeners_change_where_they_are_and_a_refusal_leaves_them() {
    if !lab::ready("listeners_change_where_they_are_and_a_refusal_leaves_them") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let web0 = format!("{}:80", server(0));
    let path = lab.folder().join("filed").join("front");
    let at = |listen: &str, backlog: u32| {
        format!(
            "[[service]]\nname = \"web\"\nmode = \"tcp\"\nlisten = [{listen:?}, {path:?}]\n\
             backlog = {backlog}\n[[pool]]\nname = \"web\"\nbackend = [\"{web0}\"]\n"
        )
    };
    let filed = Filed::start(&lab, "", &[at("80", 500)]);
    let hammer = hammer(&lab, 80);
    let waiting = || {
        let ss = lab
            .balancer()
            .run_ok("ss", ["-ltnH", "sport = :80"])
            .unwrap();
        let lines = ss
            .stdout
            .lines()
            .map(|line| line.split_whitespace().nth(2).unwrap().to_owned());
        let mut all: Vec<String> = lines.collect();
        all.dedup();
        all
    };
    assert_eq!(waiting(), ["500"]);
    filed.write(&[at("80", 77)]);
    assert!(filed.pen.ask("reload").ok);
    assert_eq!(waiting(), ["77"]);
    hammer.signal(Signal::Usr1).unwrap();
    let said = hammer.wait_for_line("hammered", LIMIT).unwrap();
    assert!(said.contains(" 0 []"), "{said}");
    // From all addresses to one of them, and back: nobody else has the place. Whose handshake is half
    // done then comes again.
    let one = format!("{}:80", Station::balancer(0).v4());
    for listen in [one.as_str(), "80", "0.0.0.0:80", "80"] {
        filed.write(&[at(listen, 77)]);
        let answer = filed.pen.ask("reload");
        assert!(answer.ok, "{listen}: {:?}", answer.refusal);
        assert_eq!(fetched(&lab, 80), Ok("be0".to_owned()));
    }
    // What can't be had takes nothing of what is there.
    let _taken = python::start(
        lab.balancer(),
        "import socket as s, time\n\
         l = s.create_server(('0.0.0.0', 82))\nprint('ready', flush=True)\ntime.sleep(1000)",
    );
    filed.write(&[at("80", 9), service("taken", "tcp", "82", &web0)]);
    let refusal = filed.pen.ask("reload").refusal.unwrap();
    assert!(refusal.contains("can't listen on [::]:82"), "{refusal}");
    assert_eq!(waiting(), ["77"]);
    let through = lab.balancer().run_ok(
        "curl",
        ["-s", "--unix-socket", path.to_str().unwrap(), "http://a/"],
    );
    assert!(through.unwrap().stdout.starts_with("be0"));
    filed.pen.stop();
    assert!(!path.exists());
}

#[test]
fn who_waits_at_a_full_service_is_served_by_the_one_that_takes_its_place() {
    if !lab::ready("who_waits_at_a_full_service_is_served_by_the_one_that_takes_its_place") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let _echo = python::serve(&lab, 0, 7000, Manner::Echo);
    let full = service("full", "tcp", "80", &format!("{}:7000", server(0)))
        .replace("[[pool]]", "conn_max = 1\n[[pool]]");
    let filed = Filed::start(&lab, "", &[full]);
    let held = connected(&lab, &[80]);
    // As many wait as there are threads to take them, and more.
    let waiting = hammer(&lab, 80);
    std::thread::sleep(Duration::from_millis(500));
    filed.write(&[service("next", "http", "80", &format!("{}:80", server(0)))]);
    assert!(filed.pen.ask("reload").ok);
    wait_for("somebody to be served", || {
        fetched(&lab, 80) == Ok("be0".to_owned())
    });
    waiting.signal(Signal::Usr1).unwrap();
    let said = waiting.wait_for_line("hammered", LIMIT).unwrap();
    assert!(said.contains(" 0 []"), "{said}");
    // Who was there before goes on where he was.
    held.signal(Signal::Usr1).unwrap();
    held.wait_for_line("asked echo", LIMIT).unwrap();
    drop(held);
    filed.pen.stop();
}

#[test]
fn what_is_sent_reads_no_file_of_this_hosts() {
    if !lab::ready("what_is_sent_reads_no_file_of_this_hosts") {
        return;
    }
    let lab = lab(1);
    let secret = lab.folder().join("secret");
    fs::write(&secret, "a-very-secret-word\n").unwrap();
    let filed = Filed::start(&lab, "", &[service("web", "tcp", "80", &server(0))]);
    for what in ["apply", "plan"] {
        let text = format!(
            "listen 80\nserver 0 address 10.0.0.1\ninclude {}\n",
            secret.display()
        );
        let mut stream = UnixStream::connect(&filed.pen.control).unwrap();
        let line = format!("json {what} commands {}\n{text}", text.len());
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("no file is read for it"), "{answer}");
        assert!(!answer.contains("a-very-secret-word"), "{answer}");
    }
    filed.pen.stop();
}
