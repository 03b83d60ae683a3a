//! TLS to servers: who is believed, who is not, and that clients do not notice.

use std::fs;

use lab::{Lab, Process, Station};

use crate::{
    authority::{Authority, Wish},
    python::{self, Manner},
    rig::{Pen, lab, server, wait_for_file},
    tls_peers::{LATE, ask, at, authority, clear, handshake, said, serve, serve_at, trouble},
};

/// What keeps a server running, of whatever kind.
enum Running {
    Script(#[allow(dead_code, reason = "it runs while it is held")] Process),
    Nginx(#[allow(dead_code, reason = "it runs while it is held")] lab::Nginx),
}

#[test]
fn servers_are_verified_by_their_names_and_addresses() {
    if !lab::ready("servers_are_verified_by_their_names_and_addresses") {
        return;
    }
    let lab = lab(2);
    let authority = authority(&lab);
    let good = authority.file("good", "pem");
    let web = serve(&lab, 0, &good, "");
    let hosts = lab.folder().join("hosts");
    let [v4, v6] = Station::backend(0).addresses();
    fs::write(&hosts, format!("{v4} web.test\n")).unwrap();
    let ca = format!("server_ca {}", authority.ca());
    let own = ["-O", "server_tls verified", "-O", &ca];
    let named = "server_tls_name web.test";
    for (place, more, asked) in [
        ("web.test:443".to_owned(), None, "SNI web.test"),
        (format!("{v4}:443"), None, "SNI None"),
        (format!("[{v6}]:443"), None, "SNI None"),
        (format!("[{v6}]:443"), Some(named), "SNI web.test"),
    ] {
        let mut words = own.to_vec();
        words.extend(more.iter().flat_map(|more| ["-O", *more]));
        words.extend(["80", &place]);
        let pen = Pen::start_with(&lab, &hosts, "/etc/hosts", &words);
        assert!(handshake(&pen, 0).is_none());
        assert_eq!(ask(&lab, 1), "be0", "{place}: {}", pen.process.output());
        assert_eq!(said(&web, "SNI").pop().unwrap(), asked, "{place}");
        let seen = handshake(&pen, 0).unwrap();
        assert_eq!(seen.trouble, None);
        // Of its addresses as many as there is room for.
        let [other, _] = Station::backend(1).addresses();
        let addresses = [v4, v6, other].map(|at| at.to_string());
        assert_eq!(seen.names[0], "web.test");
        assert_eq!(seen.names[1..], addresses);
        assert_eq!(seen.subject.as_deref(), Some("CN=good"));
        assert_eq!(seen.version.as_deref(), Some("TLSv1.3"));
        let left = seen.left_s.unwrap() / 3600;
        assert!((29 * 24..=30 * 24).contains(&left), "{left} hours");
        let status = pen.service().server_tls.unwrap();
        assert_eq!(status.authorities, Some(authority.ca()));
        pen.stop();
    }
    let all = said(&web, "CONN");
    assert_eq!(all, ["CONN TLSv1.3 full None None"; 4]);
    // A path is called what it is said to be.
    let path = lab.folder().join("web").to_str().unwrap().to_owned();
    let web = serve_at(&lab, &path, &good);
    let pen = Pen::start(&lab, &[&own[..], &["-O", named, "80", &path]].concat());
    assert_eq!(ask(&lab, 1), "unix", "{}", pen.process.output());
    assert_eq!(said(&web, "SNI"), ["SNI web.test"]);
    pen.stop();
    let pen = Pen::start(&lab, &["-O", "server_tls unverified", "80", &path]);
    assert_eq!(ask(&lab, 1), "unix", "{}", pen.process.output());
    assert_eq!(said(&web, "SNI"), ["SNI web.test", "SNI None"]);
    pen.stop();
}

#[test]
fn who_is_not_to_be_believed_is_passed_over_while_the_client_waits() {
    if !lab::ready("who_is_not_to_be_believed_is_passed_over_while_the_client_waits") {
        return;
    }
    let lab = lab(2);
    let (authority, stranger) = (authority(&lab), Authority::called(&lab, "stranger"));
    let own = server(0);
    authority.issue(Wish::of("other", "other.test 10.9.9.9"));
    authority.issue(Wish::of("nameless", ""));
    authority.issue(Wish::of("expired", &own));
    authority.expire("expired", "20260102000000Z");
    stranger.issue(Wish::of("strange", &own));
    let _good = serve(&lab, 1, &authority.file("good", "pem"), "");
    let of = |authority: &Authority<'_>, name: &str| {
        Running::Script(serve(&lab, 0, &authority.file(name, "pem"), ""))
    };
    let script = |manner| Running::Script(python::serve(&lab, 0, 443, manner));
    let ca = format!("server_ca {}", authority.ca());
    let untrusted = format!("its certificate is signed by nobody in {}", authority.ca());
    type Start<'a> = Box<dyn Fn() -> Running + 'a>;
    let bad: [(Start<'_>, &str); 8] = [
        (Box::new(|| of(&stranger, "strange")), &untrusted),
        (
            Box::new(|| of(&authority, "expired")),
            "its certificate expired 2026-01-02",
        ),
        (
            Box::new(|| of(&authority, "other")),
            "but for other.test, 10.9.9.9",
        ),
        (Box::new(|| of(&authority, "nameless")), "its certificate"),
        (
            Box::new(|| Running::Nginx(clear(&lab, 0))),
            "it speaks no TLS here",
        ),
        (Box::new(|| script(Manner::Silent)), "not over in time"),
        (
            Box::new(|| script(Manner::CloseEarly)),
            "it ended the connection",
        ),
        (
            Box::new(|| script(Manner::Reset)),
            "it ended the connection",
        ),
    ];
    for (start, why) in bad {
        let _bad = start();
        let timeout = LATE.as_secs().to_string();
        let words = ["-r", "-t", &timeout, "-O", "server_tls verified", "-O", &ca];
        let pen = Pen::start(&lab, &[&words[..], &["80", &at(0), &at(1)]].concat());
        // In turns: one of them came to the bad one first.
        assert_eq!(ask(&lab, 3), "be1 be1 be1", "{why}");
        assert!(
            trouble(&pen, 0).contains(why),
            "{why}: {}",
            trouble(&pen, 0)
        );
        let servers = pen.service().servers;
        assert_eq!(servers[0].failures, 1, "{servers:?}");
        assert!(servers[0].blacklist_left_s.is_some(), "{servers:?}");
        assert_eq!((servers[1].failures, servers[1].connects), (0, 3));
        assert_eq!(pen.refused("no-server"), 0);
        let output = pen.process.output();
        let told = format!("server {own} ({own}:443) can't be reached: no TLS with it: ");
        let line = output.lines().find(|line| line.contains(&told));
        let line = line.unwrap_or_else(|| panic!("{why}: {output}"));
        assert!(line.contains(why) && line.contains("WARN"), "{line}");
        pen.wait_until_idle();
        pen.stop();
    }
}

#[test]
fn nobody_gets_a_byte_where_no_server_is_believed() {
    if !lab::ready("nobody_gets_a_byte_where_no_server_is_believed") {
        return;
    }
    let lab = lab(1);
    let (authority, stranger) = (authority(&lab), Authority::called(&lab, "stranger"));
    stranger.issue(Wish::of("strange", &server(0)));
    let web = serve(&lab, 0, &stranger.file("strange", "pem"), "");
    let ca = format!("server_ca {}", authority.ca());
    let own = ["-O", "server_tls verified", "-O", &ca];
    for (mode, reason) in [(&[][..], "no-server"), (&["-H"], "connect-failed")] {
        let pen = Pen::start(&lab, &[mode, &own, &["80", &at(0)]].concat());
        match mode.is_empty() {
            true => assert_eq!(ask(&lab, 1), "-"),
            false => {
                let script = "c = connect(); c.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n\
                              print(c.recv(1000).split()[1].decode())\n";
                assert_eq!(python::client(&lab, script), "502");
            }
        }
        assert_eq!(pen.refused(reason), 1);
        pen.stop();
    }
    assert_eq!(said(&web, "CONN"), [""; 0]);
    assert_eq!(said(&web, "REFUSED").len(), 2);
}

#[test]
fn unverified_servers_are_taken_as_they_are_and_that_is_said() {
    if !lab::ready("unverified_servers_are_taken_as_they_are_and_that_is_said") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    authority.issue(Wish {
        days: "-1",
        ..Wish::of("expired", "other.test")
    });
    // Without extensions it is of version 1, as many are that servers signed themselves.
    authority.issue(Wish::of("old", ""));
    for (name, left) in [("expired", -1), ("old", 30)] {
        let _web = serve(&lab, 0, &authority.file(name, "pem"), "");
        let pen = Pen::start(&lab, &["-O", "server_tls unverified", "80", &at(0)]);
        assert_eq!(ask(&lab, 2), "be0 be0", "{name}: {}", trouble(&pen, 0));
        let seen = handshake(&pen, 0).unwrap();
        let days = seen.left_s.unwrap().div_euclid(24 * 3600);
        assert!((left - 1..=left).contains(&days), "{name}: {days}");
        let status = pen.service().server_tls.unwrap();
        assert_eq!(status.authorities, None);
        let output = pen.process.output();
        let warnings = output.lines().filter(|line| {
            line.contains("WARN") && line.contains("servers' certificates are not checked")
        });
        assert_eq!(warnings.count(), 1, "{output}");
        pen.stop();
    }
}

/// A certificate for the first back end that signed itself, as its owners make one, and that with its
/// key.
fn made_itself(lab: &Lab) -> (String, String) {
    let place = server(0);
    let at_file = |name: &str| lab.folder().join(name).to_str().unwrap().to_owned();
    let (crt, key, both) = (at_file("own.crt"), at_file("own.key"), at_file("own.pem"));
    let names = format!("subjectAltName=IP:{place}");
    let words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "9",
        "-subj",
        "/CN=own",
        "-addext",
        &names,
        "-keyout",
        &key,
        "-out",
        &crt,
    ];
    lab.client().run_ok("openssl", words).unwrap();
    let all = [&crt, &key].map(|file| fs::read_to_string(file).unwrap());
    fs::write(&both, all.concat()).unwrap();
    (crt, both)
}

#[test]
fn a_certificate_that_is_named_itself_is_good_for_its_server_and_for_no_other() {
    if !lab::ready("a_certificate_that_is_named_itself_is_good_for_its_server_and_for_no_other") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let place = server(0);
    authority.issue(Wish::of("named", &place));
    authority.issue(Wish::of("forged", &place));
    let (crt, both) = made_itself(&lab);
    for (shown, believed, served) in [
        (both, crt.clone(), "be0"),
        (
            authority.file("named", "pem"),
            authority.file("named", "crt"),
            "be0",
        ),
        (
            authority.file("forged", "pem"),
            authority.file("named", "crt"),
            "-",
        ),
        (authority.file("forged", "pem"), crt, "-"),
    ] {
        let _web = serve(&lab, 0, &shown, "");
        let ca = format!("server_ca {believed}");
        let words = ["-O", "server_tls verified", "-O", &ca, "80", &at(0)];
        let pen = Pen::start(&lab, &words);
        assert_eq!(
            ask(&lab, 1),
            served,
            "{shown} by {believed}: {}",
            trouble(&pen, 0)
        );
        pen.stop();
    }
}

/// Makes a certificate that `own.key` signed itself, of version 3 and no authority's or of version
/// 1, and one that this key signed for a place: `old` or not, in a folder; what the second is in.
const ISSUE: &str = "set -e; cd \"$1\"\n\
     new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'\n\
     openssl req $new -subj /CN=own -keyout own.key -out own.csr\n\
     printf \"subjectAltName=IP:$2\\n\" > leaf.ext\n\
     case $3 in\n\
     old) openssl x509 -req -in own.csr -signkey own.key -days 9 -out own.crt ;;\n\
     *) (cat leaf.ext; echo basicConstraints=CA:FALSE) > own.ext\n\
     \x20openssl x509 -req -in own.csr -signkey own.key -days 9 -extfile own.ext -out own.crt ;;\n\
     esac\n\
     openssl req $new -subj /CN=leaf -keyout leaf.key -out leaf.csr\n\
     openssl x509 -req -in leaf.csr -CA own.crt -CAkey own.key -CAcreateserial -days 9 \\\n\
     -extfile leaf.ext -out leaf.crt\n\
     cat leaf.crt leaf.key own.crt > leaf.pem\n";

#[test]
fn who_has_a_servers_key_issues_no_certificates_by_it() {
    if !lab::ready("who_has_a_servers_key_issues_no_certificates_by_it") {
        return;
    }
    let lab = lab(1);
    for kind in ["new", "old"] {
        let folder = lab.folder().join(kind);
        fs::create_dir(&folder).unwrap();
        let folder = folder.to_str().unwrap();
        let words = ["-c", ISSUE, "sh", folder, &server(0), kind];
        lab.client().run_ok("sh", words).unwrap();
        let _web = serve(&lab, 0, &format!("{folder}/leaf.pem"), "");
        let ca = format!("server_ca {folder}/own.crt");
        let words = ["-O", "server_tls verified", "-O", &ca, "80", &at(0)];
        let pen = Pen::start(&lab, &words);
        assert_eq!(ask(&lab, 1), "-", "{kind}");
        let why = trouble(&pen, 0);
        assert!(why.contains("its certificate"), "{kind}: {why}");
        pen.stop();
    }
}

#[test]
fn servers_are_shown_a_certificate_if_they_ask() {
    if !lab::ready("servers_are_shown_a_certificate_if_they_ask") {
        return;
    }
    let lab = lab(1);
    let (authority, clients) = (authority(&lab), Authority::called(&lab, "clients"));
    clients.issue(Wish::of("pen", "pen.test"));
    let asks = format!(
        "x.load_verify_locations({:?}); x.verify_mode = ssl.CERT_REQUIRED",
        clients.ca()
    );
    let web = serve(&lab, 0, &authority.file("good", "pem"), &asks);
    let ca = format!("server_ca {}", authority.ca());
    let own = ["-O", "server_tls verified", "-O", &ca];
    let whole = format!("server_certificate {}", clients.file("pen", "pem"));
    let apart = format!("server_certificate {}", clients.file("pen", "crt"));
    let key = format!("server_key {}", clients.file("pen", "key"));
    for (more, served) in [
        (&["-O", &*whole][..], "be0"),
        (&["-O", &apart, "-O", &key], "be0"),
        (&[], "-"),
    ] {
        let pen = Pen::start(&lab, &[&own[..], more, &["80", &at(0)]].concat());
        assert_eq!(ask(&lab, 1), served, "{more:?}");
        let shown = pen.service().server_tls.unwrap().certificate;
        assert_eq!(shown.is_some(), !more.is_empty());
        if let Some(shown) = shown {
            assert_eq!((shown.key.as_deref(), shown.trouble), (Some("ECDSA"), None));
            assert!(shown.left_s.unwrap() > 29 * 24 * 3600);
        }
        pen.stop();
    }
    assert_eq!(said(&web, "CONN"), ["CONN TLSv1.3 full None pen"; 2]);
}

#[test]
fn who_made_its_certificate_itself_is_told_how_it_is_believed() {
    if !lab::ready("who_made_its_certificate_itself_is_told_how_it_is_believed") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let (crt, both) = made_itself(&lab);
    let at_file = |path: &str| lab.folder().join(path).to_str().unwrap().to_owned();
    for kind in ["new", "old"] {
        let folder = at_file(kind);
        fs::create_dir(&folder).unwrap();
        let words = ["-c", ISSUE, "sh", &folder, &server(0), kind];
        lab.client().run_ok("sh", words).unwrap();
        let both =
            ["crt", "key"].map(|ending| fs::read_to_string(format!("{folder}/own.{ending}")));
        fs::write(
            format!("{folder}/own.pem"),
            both.map(Result::unwrap).concat(),
        )
        .unwrap();
    }
    let own = |kind: &str| ["pem", "crt"].map(|ending| at_file(&format!("{kind}.{ending}")));
    let by_itself = "name this very certificate by `server_ca`";
    for ([shown, named], why, mend, served) in [
        ([both, crt], "an authority's (CA:TRUE", by_itself, "be0"),
        (
            own("new/own"),
            "signed its certificate itself",
            by_itself,
            "be0",
        ),
        (
            own("new/leaf"),
            "by one that is no authority's",
            by_itself,
            "be0",
        ),
        // rustls reads none of these, so that there is no way to believe one.
        (
            own("old/own"),
            "X.509 version 1",
            "make one of version 3",
            "-",
        ),
    ] {
        let _web = serve(&lab, 0, &shown, "");
        let ca = format!("server_ca {}", authority.ca());
        let own = ["-b", "0", "-O", "server_tls verified", "-O", &ca];
        let pen = Pen::start(&lab, &[&own[..], &["80", &at(0)]].concat());
        assert_eq!(ask(&lab, 1), "-", "{shown}");
        let told = trouble(&pen, 0);
        assert!(told.contains(why) && told.contains(mend), "{why}: {told}");
        // Done as it was said.
        pen.change(&format!("server_ca {named}"));
        assert_eq!(ask(&lab, 1), served, "{shown}: {}", trouble(&pen, 0));
        pen.stop();
    }
}

#[test]
fn what_a_server_showed_is_known_after_trouble() {
    if !lab::ready("what_a_server_showed_is_known_after_trouble") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let names = Station::backend(0).addresses().map(|at| at.to_string());
    authority.issue(Wish::of("addressed", &names.join(" ")));
    let own = lab.folder().join("own.pem");
    fs::copy(authority.file("good", "pem"), &own).unwrap();
    let options = [
        "server_tls verified".to_owned(),
        format!("server_ca {}", authority.ca()),
        format!("server_certificate {}", own.display()),
    ];
    let words: Vec<_> = options.iter().flat_map(|option| ["-O", option]).collect();
    let pen = Pen::start(&lab, &[&["-b", "0"], &words[..], &["80", &at(0)]].concat());
    let web = serve(&lab, 0, &authority.file("addressed", "pem"), "");
    assert_eq!(ask(&lab, 1), "be0", "{}", trouble(&pen, 0));
    let before = handshake(&pen, 0).unwrap();
    assert_eq!((&before.trouble, &before.names[..]), (&None, &names[..]));
    drop(web);
    let _bad = python::serve(&lab, 0, 443, Manner::CloseEarly);
    assert_eq!(ask(&lab, 1), "-");
    let after = handshake(&pen, 0).unwrap();
    assert!(
        after.trouble.is_some() && after.version.is_none(),
        "{after:?}"
    );
    assert_eq!(after.names, names);
    assert_eq!(after.subject.as_deref(), Some("CN=addressed"));
    assert_eq!(after.not_after, before.not_after);
    assert!(after.left_s.unwrap() > 29 * 24 * 3600, "{after:?}");
    // Of what servers are shown as well: what is in force is told beside what is wrong.
    fs::write(&own, "-----BEGIN CERTIFICATE-----\nx\n").unwrap();
    wait_for_file("the trouble to be told", || {
        pen.service().server_tls.unwrap().trouble.is_some()
    });
    let shown = pen.service().server_tls.unwrap().certificate.unwrap();
    assert!(shown.left_s.unwrap() > 29 * 24 * 3600, "{shown:?}");
    pen.stop();
}
