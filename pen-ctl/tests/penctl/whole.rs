//! Whole configurations: what is sent of a file, and what is shown of one.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use pen_common::control::*;

use crate::{Folder, err, out, penctl, reply, serve};

/// Serves one connection: reads as much as its line promises, answers, gives back all of it.
fn serve_whole(folder: &Folder, reply: String) -> JoinHandle<String> {
    let listener = UnixListener::bind(folder.socket()).unwrap();
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut request = Vec::new();
        let whole = |request: &[u8]| {
            let end = request.iter().position(|byte| *byte == b'\n');
            end.is_some_and(|end| request.len() > end + body_bytes(&request[..end]))
        };
        let mut part = [0; 4096];
        while !whole(&request) {
            let count = stream.read(&mut part).unwrap();
            assert!(count > 0, "it ended early");
            request.extend(&part[..count]);
        }
        stream.write_all(reply.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    })
}

#[test]
fn apply_sends_a_file_whole_and_shows_what_it_would_change() {
    let plan = Plan {
        changes: vec!["service web: timeout".to_owned()],
        opens: vec!["[::]:81 (tcp)".to_owned()],
        closes: vec!["[::]:80 (tcp)".to_owned()],
        pools: vec![PoolPlan {
            pool: "web".to_owned(),
            slots: 65_537,
            slots_moved: 16_000,
            flows: 40,
            flows_moved: 7,
        }],
    };
    let shown = "service web: timeout\nopens [::]:81 (tcp)\ncloses [::]:80 (tcp)\n\
                 pool web: 16000 of 65537 slots and 7 of 40 flows move\n";
    let text = "[[service]]\nname = \"ä\"\n".repeat(2000);
    for (name, words, begins, answer, expected) in [
        (
            "a.toml",
            &["apply"][..],
            "json apply toml",
            Value::Applied,
            "",
        ),
        (
            "a.cfg",
            &["apply"],
            "json apply commands",
            Value::Applied,
            "",
        ),
        (
            "a.toml",
            &["--plan", "apply"],
            "json plan toml",
            Value::Plan(Box::new(plan)),
            shown,
        ),
        (
            "a.toml",
            &["--plan", "apply"],
            "json plan toml",
            Value::Plan(Box::default()),
            "nothing changes\n",
        ),
    ] {
        let folder = Folder::new();
        let file = folder.0.join(name);
        std::fs::write(&file, &text).unwrap();
        let server = serve_whole(&folder, reply(answer));
        let words = [&["SOCK"], words, &[file.to_str().unwrap()]].concat();
        let output = penctl(&folder, &words);
        assert_eq!(
            (out(&output).as_str(), err(&output).as_str()),
            (expected, "")
        );
        assert_eq!(output.status.code(), Some(0));
        let sent = server.join().unwrap();
        assert_eq!(
            sent.trim_end(),
            format!("{begins} {}\n{text}", text.len()).trim_end()
        );
    }
}

#[test]
fn what_can_not_be_sent_is_said_before_anybody_is_asked() {
    let folder = Folder::new();
    for (words, why) in [
        (&["SOCK", "apply"][..], "apply takes one file"),
        (&["SOCK", "apply", "a", "b"], "apply takes one file"),
        (
            &["SOCK", "apply", "/no/such.toml"],
            "can't read /no/such.toml: No such file",
        ),
        (&["SOCK", "--plan", "status"], "--plan goes with apply"),
    ] {
        let output = penctl(&folder, words);
        assert!(err(&output).contains(why), "{}", err(&output));
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn a_file_that_the_daemon_writes_is_the_askers() {
    let folder = Folder::new();
    let here = std::env::current_dir().unwrap();
    for (words, expected) in [
        (
            &["SOCK", "write", "a.cfg"][..],
            format!("json write {}/a.cfg\n", here.display()),
        ),
        (
            &["SOCK", "config", "save", "/a.cfg"],
            "json config save /a.cfg\n".to_owned(),
        ),
        (&["SOCK", "config", "save"], "json config save\n".to_owned()),
    ] {
        let server = serve(&folder, reply(Value::Applied));
        let output = penctl(&folder, words);
        assert_eq!(server.join().unwrap(), expected);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        std::fs::remove_file(folder.socket()).unwrap();
    }
}

#[test]
fn a_configuration_is_shown_as_it_stands_and_services_in_lines() {
    let line = ServiceLine {
        service: "web".to_owned(),
        mode: pen_common::config::Mode::Http,
        listen: vec!["[::]:80".to_owned(), "/run/web".to_owned()],
        pool: "web".to_owned(),
        servers: 3,
    };
    let text = "[[service]]\nname = \"web\"\n";
    for (words, answer, expected) in [
        (
            &["SOCK", "config", "show"][..],
            Value::Whole(text.to_owned()),
            text,
        ),
        (&["SOCK", "config", "diff"], Value::Text(String::new()), ""),
        (
            &["SOCK", "service"],
            Value::Services(vec![line]),
            "web mode http servers 3 listen [::]:80 /run/web\n",
        ),
    ] {
        let folder = Folder::new();
        let server = serve(&folder, reply(answer));
        let output = penctl(&folder, words);
        server.join().unwrap();
        assert_eq!(
            (out(&output).as_str(), output.status.code()),
            (expected, Some(0))
        );
    }
}
