//! OCSP answers, of a real responder's making: stapled while they are good, and not a moment longer.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Lab, Nginx, Output, Station};

use crate::{
    authority::{Authority, Wish},
    rig::{Pen, addresses, lab, server, wait_for},
    tls_names::{folder, handshake, put, subject},
};

/// Whether who asks for `name` and for a staple gets one, which openssl finds right.
pub(crate) fn is_stapled(lab: &Lab, authority: &Authority<'_>, name: &str) -> bool {
    let ca = authority.ca();
    let said = handshake(lab, &["-servername", name, "-status", "-CAfile", &ca]);
    let none = said.contains("OCSP response: no response sent");
    let good = said.contains("OCSP Response Status: successful (0x0)")
        && said.contains("Cert Status: good");
    assert!(none != good, "{said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    good
}

pub(crate) fn start(lab: &Lab, authority: &Authority<'_>, more: &[&str]) -> Pen {
    let own = authority.file("default", "pem");
    let ca = authority.ca();
    Pen::start(
        lab,
        &[&["-E", &own, "-G", &ca], more, &["80", &server(0)]].concat(),
    )
}

#[test]
fn good_answers_are_stapled_and_bad_ones_never() {
    if !lab::ready("good_answers_are_stapled_and_bad_ones_never") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    for name in ["default", "named", "other"] {
        authority.issue(Wish::of(name, &format!("{name}.test")));
    }
    let files = [
        ("crt", "named.test.crt"),
        ("key", "named.test.key"),
        ("ca", "named.test.ca"),
    ];
    put(&authority, "named", &folder, &files);
    let answer = lab.folder().join("default.ocsp");
    let words = [
        format!("ssl_ocsp_response {}", answer.display()),
        format!("ssl_sni_path {}", folder.display()),
    ];
    // Its file is not there yet; that is said, and no reason not to start.
    let pen = start(&lab, &authority, &["-O", &words[0], "-O", &words[1]]);
    assert!(pen.process.output().contains("default.ocsp: No such file"));
    assert!(!is_stapled(&lab, &authority, "default.test"));

    authority.answer("default", &answer);
    authority.answer("named", &folder.join("named.test.ocsp"));
    for name in ["default.test", "named.test"] {
        wait_for("a staple", || is_stapled(&lab, &authority, name));
    }
    let status = pen.service().certificates.unwrap();
    assert_eq!((status.stapled, status.in_trouble), (2, 0), "{status:?}");
    let left = status.shown.iter().map(|one| one.staple_left_s.unwrap());
    assert!(left.min().unwrap() > 86_000, "{status:?}");

    // None of these is good, and each is named. What is no word of the issuer's takes nothing away.
    let good = fs::read(&answer).unwrap();
    let mut flipped = good.clone();
    // In what is signed; behind the signature are certificates that nobody may need.
    flipped[60] ^= 1;
    let noise: Vec<u8> = (0..200u32).map(|n| (n * 37 % 251) as u8).collect();
    let other = lab.folder().join("other.ocsp");
    authority.answer("other", &other);
    authority.enter("default", "R");
    let revoked = lab.folder().join("revoked.ocsp");
    authority.answer("default", &revoked);
    for (what, bytes) in [
        ("half", good[..good.len() / 2].to_vec()),
        ("flipped", flipped),
        ("noise", noise),
        ("another's", fs::read(other).unwrap()),
        ("revoked", fs::read(revoked).unwrap()),
        ("empty", Vec::new()),
    ] {
        let kept = what != "revoked";
        become_so(&pen, &answer, &bytes, kept);
        assert_eq!(is_stapled(&lab, &authority, "default.test"), kept, "{what}");
        assert!(is_stapled(&lab, &authority, "named.test"), "{what}");
        fs::write(&answer, &good).unwrap();
        wait_for("the staple to be back", || {
            let status = pen.service().certificates.unwrap();
            status.in_trouble == 0 && is_stapled(&lab, &authority, "default.test")
        });
    }
    pen.wait_until_idle();
    pen.stop();
}

/// Writes an answer, and waits until it is refused; whether the one before is `kept`.
fn become_so(pen: &Pen, answer: &Path, bytes: &[u8], kept: bool) {
    fs::write(answer, bytes).unwrap();
    wait_for("a refusal", || {
        let status = pen.service().certificates.unwrap();
        let trouble = status.shown[0].trouble.clone().unwrap_or_default();
        let said = trouble.contains("default.ocsp: ");
        status.in_trouble == 1 && said && trouble.ends_with("still stapled") == kept
    });
}

#[test]
fn a_certificate_that_must_be_stapled_is_not_served_without() {
    if !lab::ready("a_certificate_that_must_be_stapled_is_not_served_without") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let authority = Authority::new(&lab);
    let wish = Wish::of("default", "default.test");
    authority.issue(Wish {
        must_staple: true,
        ..wish
    });
    let answer = lab.folder().join("default.ocsp");
    let word = format!("ssl_ocsp_response {}", answer.display());
    let pen = start(&lab, &authority, &["-O", &word]);
    assert_eq!(subject(&lab, "default.test", &[]), "-");
    let status = pen.service().certificates.unwrap();
    assert_eq!((status.withheld, status.stapled), (1, 0), "{status:?}");
    assert_eq!(pen.refused("bad-handshake"), 1);

    authority.answer("default", &answer);
    wait_for("the staple", || {
        subject(&lab, "default.test", &[]) == "default"
    });
    assert!(is_stapled(&lab, &authority, "default.test"));
    fs::remove_file(&answer).unwrap();
    wait_for("the staple to be gone", || {
        subject(&lab, "default.test", &[]) == "-"
    });
    // Its owner may want it all the same.
    pen.change("ssl_option allow_unstapled");
    assert_eq!(subject(&lab, "default.test", &[]), "default");
    assert!(!is_stapled(&lab, &authority, "default.test"));
    let trouble = pen.service().certificates.unwrap().shown.remove(0).trouble;
    assert!(trouble.unwrap().contains("default.ocsp"));
    let page = pen.say("json status");
    assert!(page.contains("default.ocsp"), "{page}");
    let [v4, _] = addresses();
    let url = format!("https://{v4}:80/");
    let output = lab
        .client()
        .run_for(Duration::from_secs(15), "curl", ["-sSk", &url]);
    assert!(output.unwrap().ok());
    pen.wait_until_idle();
    pen.stop();
}

/// `penctl SOCKET WORDS`, where the daemon runs.
fn penctl(lab: &Lab, pen: &Pen, words: &[&str]) -> Output {
    penctl_by(lab, pen, &[], words)
}

/// The same, by a program that becomes the one that its last words name.
fn penctl_by(lab: &Lab, pen: &Pen, by: &[&str], words: &[&str]) -> Output {
    let penctl = Path::new(env!("CARGO_BIN_EXE_pen")).with_file_name("penctl");
    assert!(
        penctl.exists(),
        "there is no penctl beside pen: cargo build -p pen-ctl"
    );
    let socket = pen.control.to_str().unwrap();
    let words = [by, &[penctl.to_str().unwrap(), socket], words].concat();
    let (program, words) = words.split_first().unwrap();
    lab.balancer()
        .run_for(Duration::from_secs(60), program, words)
        .unwrap()
}

#[test]
fn one_line_fetches_all_answers_and_a_bad_one_takes_the_place_of_none() {
    if !lab::ready("one_line_fetches_all_answers_and_a_bad_one_takes_the_place_of_none") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    let url = format!("http://{}:8888/", Station::client().v4());
    for name in ["default", "named", "nested"] {
        let names = format!("{name}.test");
        authority.issue(Wish {
            responder: Some(&url),
            ..Wish::of(name, &names)
        });
    }
    authority.issue(Wish::of("silent", "silent.test"));
    let files = [
        ("crt", "named.test.crt"),
        ("key", "named.test.key"),
        ("ca", "named.test.ca"),
    ];
    put(&authority, "named", &folder, &files);
    put(&authority, "silent", &folder, &[("pem", "silent.test.pem")]);
    // Whose issuer is not in its chain: nobody can be asked.
    authority.issue(Wish {
        responder: Some(&url),
        ..Wish::of("alone", "alone.test")
    });
    put(&authority, "alone", &folder, &[("pem", "alone.test.pem")]);
    let nested = folder.join("nested.test");
    fs::create_dir(&nested).unwrap();
    let chain =
        [authority.file("nested", "crt"), authority.ca()].map(|file| fs::read(file).unwrap());
    fs::write(nested.join("fullchain.pem"), chain.concat()).unwrap();
    put(&authority, "nested", &nested, &[("key", "privkey.pem")]);
    let answer = lab.folder().join("default.ocsp");
    let words = [
        format!("ssl_ocsp_response {}", answer.display()),
        format!("ssl_sni_path {}", folder.display()),
    ];
    let pen = start(&lab, &authority, &["-O", &words[0], "-O", &words[1]]);
    let files = [
        answer.clone(),
        folder.join("named.test.ocsp"),
        nested.join("ocsp.der"),
    ];
    let there = || files.iter().filter(|file| file.exists()).count();

    // Nobody answers.
    let output = penctl(&lab, &pen, &["ocsp-fetch"]);
    let said = output.text();
    assert!(
        !output.ok()
            && said.matches("Connection refused").count() == 1
            && said.matches("did not answer before").count() == 2
            && said.contains("alone.test.pem: its issuer is not known"),
        "{said}"
    );
    assert_eq!(there(), 0);

    let responder = authority.respond(8888);
    let output = penctl(&lab, &pen, &["ocsp-fetch"]);
    assert!(!output.ok(), "{}", output.text());
    fs::remove_file(folder.join("alone.test.pem")).unwrap();
    wait_for("it to be gone", || {
        pen.service().certificates.unwrap().served == 4
    });
    let output = penctl(&lab, &pen, &["ocsp-fetch"]);
    assert!(output.ok(), "{}", output.text());
    assert_eq!(
        (output.text().lines().count(), there()),
        (3, 3),
        "{}",
        output.text()
    );
    for name in ["default.test", "named.test", "nested.test"] {
        wait_for("a staple", || is_stapled(&lab, &authority, name));
    }
    let listed = penctl(&lab, &pen, &["ocsp"]).text();
    assert_eq!(
        listed.lines().filter(|line| line.contains(&url)).count(),
        3,
        "{listed}"
    );

    // Where the disk is full what is there stays, and no piece of an answer beside it.
    let full = "cp -a \"$0\" \"$0.save\" && mount -t tmpfs -o size=1m none \"$0\" && \
                cp -a \"$0.save/.\" \"$0\" && { cat /dev/zero >\"$0/ballast\"; \"$@\"; } || rc=$?; \
                rm \"$0/ballast\" && diff -r \"$0.save\" \"$0\" && echo as before; exit $rc";
    let by = ["unshare", "-m", "sh", "-c", full, folder.to_str().unwrap()];
    let output = penctl_by(&lab, &pen, &by, &["ocsp-fetch"]);
    let said = output.text();
    let lacks = said.matches("No space left on device (os error 28)");
    assert!(
        !output.ok() && lacks.count() == 2 && said.contains("as before"),
        "{said}"
    );

    // One is revoked: that is said, its file stays as it was, and the others are renewed.
    let before: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    drop(responder);
    authority.enter("named", "R");
    let responder = authority.respond(8888);
    let output = penctl(&lab, &pen, &["ocsp-fetch"]);
    let said = output.text();
    assert!(
        !output.ok() && said.contains("named.test.crt: ") && said.contains("revoked"),
        "{said}"
    );
    assert_eq!(fs::read(&files[1]).unwrap(), before[1]);
    assert_eq!(said.matches(" is good for ").count(), 2, "{said}");
    let left: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(
        !left
            .iter()
            .any(|path| path.to_string_lossy().ends_with(".new")),
        "{left:?}"
    );
    drop(responder);

    let refused = penctl(
        &lab,
        &pen,
        &["ocsp-check", "/nowhere", answer.to_str().unwrap()],
    );
    assert!(
        !refused.ok()
            && refused
                .text()
                .contains("no certificate of /nowhere is served")
    );
    pen.wait_until_idle();
    pen.stop();
}
