//! What others make of our TLS: sslyze, by Mozilla's recommendations, and curl for the one thing that
//! a grade is not given without.

use std::path::Path;
use std::time::Duration;

use lab::Nginx;

use crate::{
    authority::{Authority, Wish},
    certificates::{ECDSA, RSA},
    rig::{Pen, addresses, lab, server},
};

const LIMIT: Duration = Duration::from_secs(120);

/// Where packaging/sslyze.sh puts it.
fn sslyze() -> Option<String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = top.join("target/sslyze/bin/sslyze").canonicalize().ok()?;
    Some(program.to_str()?.to_owned())
}

/// The one line that the README promises A+ for, as others see it.
#[test]
fn one_line_is_what_mozilla_recommends() {
    let name = "one_line_is_what_mozilla_recommends";
    if !lab::ready(name) {
        return;
    }
    let Some(sslyze) = sslyze() else {
        return lab::skip(name, "sslyze: packaging/sslyze.sh installs it");
    };
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let authority = Authority::new(&lab);
    let ca = authority.ca();
    for (subject, kind) in [("ecdsa", ECDSA), ("rsa", RSA)] {
        authority.issue(Wish {
            kind,
            ..Wish::of(subject, "pen.test")
        });
        let (crt, key) = (
            authority.file(subject, "crt"),
            authority.file(subject, "key"),
        );
        let words = [
            "-H",
            "-O",
            "hsts 63072000",
            "-E",
            &crt,
            "-K",
            &key,
            "443",
            &server(0),
        ];
        let pen = Pen::start(&lab, &words);
        let [v4, _] = addresses();
        let target = format!("pen.test:443{{{v4}}}");
        let ask = |config: &str| {
            let words = [
                &*format!("--mozilla_config={config}"),
                "--certinfo_ca_file",
                &ca,
                &target,
            ];
            lab.client().run_for(LIMIT, &sslyze, words).unwrap()
        };
        let output = ask("intermediate");
        let text = output.text();
        assert!(output.ok(), "{text}");
        assert!(text.contains("pen.test:443: OK - Compliant."), "{text}");
        for right in [
            "TLS 1.0 Cipher Suites: Attempted to connect using 80 cipher suites; the server rejected all",
            "Client Renegotiation DoS Attack: OK - Not vulnerable",
            "Secure Renegotiation: OK - Supported",
        ] {
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words(&text).contains(&words(right)), "{right}: {text}");
        }
        // It can say no: nothing but TLS 1.3 would be modern.
        let output = ask("modern");
        assert!(
            !output.ok() && output.text().contains("FAILED"),
            "{}",
            output.text()
        );

        let url = format!("https://{v4}:443/");
        let output = lab.client().run_for(LIMIT, "curl", ["-skI", &url]).unwrap();
        let hsts = "strict-transport-security: max-age=63072000";
        assert!(
            output.text().to_lowercase().contains(hsts),
            "{}",
            output.text()
        );
        pen.wait_until_idle();
        pen.stop();
    }
}
