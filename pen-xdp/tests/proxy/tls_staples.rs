//! OCSP answers, of a real responder's making: stapled while they are good, and not a moment longer.

use std::fs;
use std::path::Path;

use lab::{Lab, Nginx};

use crate::{
    authority::{Authority, Wish},
    rig::{Pen, addresses, lab, server, wait_for},
    tls_names::{folder, handshake, put, subject},
};

/// Whether who asks for `name` and for a staple gets one, which openssl finds right.
fn is_stapled(lab: &Lab, authority: &Authority<'_>, name: &str) -> bool {
    let ca = authority.ca();
    let said = handshake(lab, &["-servername", name, "-status", "-CAfile", &ca]);
    let none = said.contains("OCSP response: no response sent");
    let good = said.contains("OCSP Response Status: successful (0x0)")
        && said.contains("Cert Status: good");
    assert!(none != good, "{said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    good
}

fn start(lab: &Lab, authority: &Authority<'_>, more: &[&str]) -> Pen {
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

    // None of these is good, and each is named.
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
        become_so(&pen, &answer, &bytes, what);
        assert!(!is_stapled(&lab, &authority, "default.test"), "{what}");
        assert!(is_stapled(&lab, &authority, "named.test"), "{what}");
        fs::write(&answer, &good).unwrap();
        wait_for("the staple to be back", || {
            is_stapled(&lab, &authority, "default.test")
        });
    }
    pen.wait_until_idle();
    pen.stop();
}

/// Writes an answer, and waits until it is refused.
fn become_so(pen: &Pen, answer: &Path, bytes: &[u8], what: &str) {
    fs::write(answer, bytes).unwrap();
    wait_for(what, || {
        let status = pen.service().certificates.unwrap();
        let trouble = status.shown[0].trouble.clone().unwrap_or_default();
        status.in_trouble == 1 && trouble.contains("default.ocsp: ")
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
    let page = pen.say("status");
    assert!(page.contains("default.ocsp"), "{page}");
    let [v4, _] = addresses();
    let url = format!("https://{v4}:80/");
    let output = lab
        .client()
        .run_for(std::time::Duration::from_secs(15), "curl", ["-sSk", &url]);
    assert!(output.unwrap().ok());
    pen.wait_until_idle();
    pen.stop();
}
