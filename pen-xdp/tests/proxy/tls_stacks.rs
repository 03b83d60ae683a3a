//! Clients by other libraries than OpenSSL, and many of them at once.

use std::time::Duration;

use lab::Nginx;

use crate::{
    certificates::{ECDSA, RSA, make},
    rig::{Pen, addresses, lab, server},
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn gnutls_speaks_every_version_and_resumes() {
    if !lab::ready("gnutls_speaks_every_version_and_resumes") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    for (name, kind) in [("ecdsa", ECDSA), ("rsa", RSA)] {
        let certificate = make(&lab, name, kind);
        let pen = Pen::start(&lab, &["-H", "-E", &certificate.whole, "80", &server(0)]);
        let [v4, _] = addresses();
        for version in ["1.2", "1.3"] {
            let script = format!(
                "(printf 'GET / HTTP/1.1\\r\\nHost: pen.test\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1) | \
                 exec gnutls-cli --resume --waitresumption --x509cafile {} --sni-hostname pen.test \
                 --verify-hostname pen.test --priority NORMAL:-VERS-ALL:+VERS-TLS{version} --alpn http/1.1 \
                 -p 80 {v4}",
                certificate.ca
            );
            let output = lab.client().run_for(LIMIT, "sh", ["-c", &script]).unwrap();
            let text = output.text();
            assert!(output.ok() && text.contains("HTTP/1.1 200"), "{text}");
            assert!(text.contains(&format!("(TLS{version}")), "{text}");
            assert!(text.contains("This is a resumed session"), "{text}");
            assert!(text.contains("The certificate is trusted"), "{text}");
        }
        pen.wait_until_idle();
        assert_eq!(pen.refused("bad-handshake"), 0);
        pen.stop();
    }
}

#[test]
fn many_clients_keep_their_connections_or_begin_anew() {
    if !lab::ready("many_clients_keep_their_connections_or_begin_anew") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = Pen::start(&lab, &["-H", "-E", &certificate.whole, "80", &server(0)]);
    for address in addresses() {
        let url = match address.is_ipv4() {
            true => format!("https://{address}:80/"),
            false => format!("https://[{address}]:80/"),
        };
        for more in [&[][..], &["-H", "Connection: close"]] {
            let words = [&["-t", "1", "-c", "150", "-d", "2s"], more, &[&url]].concat();
            let output = lab.client().run_for(LIMIT, "wrk", &words).unwrap();
            let text = output.text();
            assert!(output.ok() && text.contains(" requests in "), "{text}");
            assert!(
                !text.contains("Socket errors") && !text.contains("Non-2xx"),
                "{text}"
            );
        }
    }
    pen.wait_until_idle();
    assert_eq!(pen.refused("slow-handshake"), 0);
    pen.stop();
}

#[test]
fn h2load_gets_every_answer_over_connections_that_are_kept() {
    let name = "h2load_gets_every_answer_over_connections_that_are_kept";
    if !lab::ready(name) {
        return;
    }
    if !lab::installed("h2load") {
        return lab::skip(name, "h2load (packaging/setup.sh test)");
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = Pen::start(&lab, &["-H", "-E", &certificate.whole, "80", &server(0)]);
    for (change, version) in [("no ssl_option", "1.3"), ("ssl_option no_tlsv1.3", "1.2")] {
        pen.change(change);
        for address in addresses() {
            let url = format!("https://{}/", lab::host_port(address, 80));
            // One by one, and four that are asked before the first has been answered.
            for ahead in ["1", "4"] {
                let before = pen.service().listeners[0].taken;
                let words = [
                    "--h1", "-n", "2000", "-c", "20", "-t", "1", "-m", ahead, &url,
                ];
                let output = lab.client().run_for(LIMIT, "h2load", words).unwrap();
                let text = output.text();
                let all = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, \
                           0 timeout";
                for expected in [
                    all,
                    "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx",
                    &format!("TLS Protocol: TLSv{version}"),
                ] {
                    assert!(text.contains(expected), "{expected}: {text}");
                }
                pen.wait_until_idle();
                assert_eq!(
                    pen.service().listeners[0].taken - before,
                    20,
                    "{ahead} {url}"
                );
            }
        }
    }
    assert_eq!(pen.refused("bad-handshake"), 0);
    pen.stop();
}
