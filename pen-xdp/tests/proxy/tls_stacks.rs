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
