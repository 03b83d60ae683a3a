//! What ends while Pen runs counts no longer from that second on: staples, and certificates of
//! clients that go on with a session.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lab::{Lab, Nginx};

use crate::{
    authority::{Authority, Wish},
    http,
    rig::{Pen, addresses, lab, server, wait_for, wait_for_file},
    tls_names::{folder, put, subject},
    tls_staples::{is_stapled, start},
};

const LIMIT: Duration = Duration::from_secs(60);
/// How long is good what is to end soon, in seconds: enough for what is done before on a busy
/// machine.
const BRIEF: u8 = 12;

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// Asks until nothing has been got for some times: all that was got was asked for before the `end`,
/// and all that was not came after it.
fn watch(end: f64, is_there: impl Fn() -> bool) {
    let (mut before, mut after) = (0, 0);
    let late = Instant::now() + LIMIT;
    while after < 5 {
        assert!(Instant::now() < late, "it does not end");
        let begun = now();
        if is_there() {
            assert!(begun < end, "{} s after its end", begun - end);
            assert_eq!(after, 0, "it is there again");
            before += 1;
        } else {
            let over = now();
            assert!(over >= end, "{} s before its end", end - over);
            after += 1;
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert!(before > 1, "it was there {before} times");
}

#[test]
fn a_staple_is_dropped_in_the_second_of_its_end_and_a_fresh_one_is_taken() {
    let name = "a_staple_is_dropped_in_the_second_of_its_end_and_a_fresh_one_is_taken";
    if !lab::ready(name) {
        return;
    }
    if !lab::installed("faketime") {
        return lab::skip(name, "faketime (packaging/setup.sh test)");
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    authority.issue(Wish::of("default", "default.test"));
    // What asks to be stapled is not served without.
    authority.issue(Wish {
        must_staple: true,
        ..Wish::of("named", "named.test")
    });
    let files = [
        ("crt", "named.test.crt"),
        ("key", "named.test.key"),
        ("ca", "named.test.ca"),
    ];
    put(&authority, "named", &folder, &files);
    let answers = [
        ("default", lab.folder().join("default.ocsp")),
        ("named", folder.join("named.test.ocsp")),
    ];
    let words = [
        format!("ssl_ocsp_response {}", answers[0].1.display()),
        format!("ssl_sni_path {}", folder.display()),
    ];
    let pen = start(&lab, &authority, &["-O", &words[0], "-O", &words[1]]);
    let status = || pen.service().certificates.unwrap();
    let is_there = |name: &str| match name {
        "default" => is_stapled(&lab, &authority, "default.test"),
        _ => subject(&lab, "named.test", &[]) == "named",
    };
    for (name, file) in &answers {
        let end = authority.answer_briefly(name, file, BRIEF);
        wait_for_file("the staple", || status().stapled == 1);
        let shown = status().shown.into_iter();
        let left: Vec<i64> = shown.filter_map(|one| one.staple_left_s).collect();
        assert!(
            left.len() == 1 && (1..=i64::from(BRIEF)).contains(&left[0]),
            "{left:?}"
        );
        watch(end, || is_there(name));
        let status = status();
        assert_eq!(status.stapled, 0, "{status:?}");
        let mut shown = status.shown.into_iter();
        let row = shown.find(|one| one.file.contains(name)).unwrap();
        let why = row.trouble.unwrap();
        assert!(why.contains("its OCSP answer has expired"), "{why}");
        assert_eq!(row.staple_left_s, None);
        let said = pen.say("json status");
        assert!(said.contains("its OCSP answer has expired"), "{said}");
    }
    for (at, (name, file)) in answers.iter().enumerate() {
        authority.answer(name, file);
        wait_for_file("a fresh staple", || status().stapled == at + 1);
        assert!(is_there(name));
    }
    assert_eq!(status().in_trouble, 0);
    pen.wait_until_idle();
    pen.stop();
}

/// What openssl's client gets that asks for one page.
fn visit(lab: &Lab, words: &[&str]) -> String {
    let to = format!("{}:80", addresses()[0]);
    let script = "printf 'GET / HTTP/1.1\\r\\nHost: default.test\\r\\nConnection: close\\r\\n\\r\\n' | \
                  timeout 10 openssl s_client -servername default.test -ign_eof -connect \"$@\" 2>&1";
    let all = [&["-c", script, "sh", &to], words].concat();
    lab.client().run_for(LIMIT, "sh", &all).unwrap().text()
}

/// How a visit went: whether by a session of before, and what the server was told of the client;
/// `-` if there was no answer.
fn outcome(text: &str) -> (bool, &str) {
    let mut lines = text.lines();
    let told = lines.find_map(|line| line.trim().strip_prefix("X-SSL-Client-Verify: "));
    let served = text.contains("HTTP/1.1 200");
    assert_eq!(served, told.is_some(), "{text}");
    (text.contains("Reused, TLSv1"), told.unwrap_or("-"))
}

#[test]
fn a_session_does_not_go_on_when_its_clients_certificate_has_expired() {
    if !lab::ready("a_session_does_not_go_on_when_its_clients_certificate_has_expired") {
        return;
    }
    let lab = lab(1);
    let _web = http::serve(&lab, 0, 0);
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("default", "default.test"));
    authority.issue(Wish::of("brief", "brief.test"));
    let (own, brief) = (
        authority.file("default", "pem"),
        authority.file("brief", "pem"),
    );
    let ca = format!("client_ca {}", authority.ca());
    let words = ["-H", "-R", "-E", &own, "-O", &ca, "80", &server(0)];
    let pen = Pen::start(&lab, &words);
    let session = |version: &str| {
        let file = lab.folder().join(format!("session{version}"));
        file.to_str().unwrap().to_owned()
    };
    let shown = ["-cert", &brief, "-key", &brief];
    let versions = ["-tls1_2", "-tls1_3"];
    let mut refused = 0;
    for (asked, nobody) in [("required", "-"), ("optional", "NONE")] {
        pen.change(&format!("client_certificate {asked}"));
        let end = (now() as i64) + i64::from(BRIEF);
        let date = ["-u", "-d", &format!("@{end}"), "+%Y%m%d%H%M%SZ"];
        let date = lab.client().run_ok("date", date).unwrap().stdout;
        authority.expire("brief", date.trim());
        for version in versions {
            let file = session(version);
            let text = visit(&lab, &[&[version, "-sess_out", &file][..], &shown].concat());
            assert_eq!(outcome(&text), (false, "SUCCESS"), "{version}: {text}");
            // It goes on, and so does what it becomes by going on, but for no longer.
            for _ in 0..2 {
                let text = visit(&lab, &[version, "-sess_in", &file, "-sess_out", &file]);
                assert_eq!(outcome(&text), (true, "SUCCESS"), "{version}: {text}");
            }
        }
        assert!(now() < end as f64, "this machine is too slow for {BRIEF} s");
        wait_for("its end", || now() >= (end + 1) as f64);
        for version in versions {
            let before = [version, "-sess_in", &session(version)];
            let text = visit(&lab, &before);
            assert_eq!(outcome(&text), (false, nobody), "{version} {asked}: {text}");
            let text = visit(&lab, &[&before[..], &shown].concat());
            assert_eq!(outcome(&text), (false, "-"), "{version} {asked}: {text}");
            refused += if nobody == "-" { 2 } else { 1 };
        }
        wait_for("all refusals", || pen.refused("bad-handshake") == refused);
    }
    pen.wait_until_idle();
    pen.stop();
}
