//! HTTP over TLS: what clients and servers are told of it.

use crate::{
    certificates::{ECDSA, make},
    http,
    rig::{Pen, lab, server},
    tls::client,
};

/// Asks over TLS, for a host, and what an answer says of HTTPS.
const ASK: &str = r#"
import http.client
def over():
    h = http.client.HTTPConnection('pen.test'); h.sock = tls(); return h
def ask(h, path='/', host='pen.test:80'):
    h.request('GET', path, headers={'Host': host}); r = h.getresponse(); return r, r.read()
def told(r): return (r.status, r.getheader('Strict-Transport-Security'))
def raw(text):
    c = tls(); c.sendall(text.encode()); got = b''
    while data := c.recv(65536): got += data
    return got.decode()
"#;

#[test]
fn every_answer_over_tls_says_that_https_is_to_be_used() {
    if !lab::ready("every_answer_over_tls_says_that_https_is_to_be_used") {
        return;
    }
    let lab = lab(1);
    let web = http::serve(&lab, 0, 0);
    let certificate = make(&lab, "ecdsa", ECDSA);
    let own = ["-E", &certificate.chain, "-K", &certificate.key, "-H"];
    let hsts = ["-O", "hsts 63072000 includeSubDomains"];
    let to = ["80", &server(0)];
    let pen = Pen::start(&lab, &[&own[..], &hsts, &to].concat());
    let script = format!(
        "{ASK}\n\
         h = over(); print(told(ask(h)[0])); print(told(ask(h, '/nonsense')[0]))\n\
         print(told(ask(over(), host='other.test')[0]))\n\
         for text in ['GET /\\r\\n\\r\\n', 'GET / HTTP/1.1\\r\\nHost: a\\r\\nX: ' + 'x' * 70000]:\n\
         \x20t = raw(text).lower(); print(t.split()[1], t.count('strict-transport-security: max-age=63072000; includesubdomains\\r\\n'))\n"
    );
    let value = "'max-age=63072000; includeSubDomains'";
    let expected = format!("(200, {value})\n(502, {value})\n(421, {value})\n400 1\n431 1");
    assert_eq!(client(&lab, &certificate, &script), expected);
    assert_eq!(pen.refused("misdirected"), 1);
    pen.change("no hsts");
    let script = format!("{ASK}\nprint(told(ask(over())[0]))\n");
    assert_eq!(client(&lab, &certificate, &script), "(200, None)");
    pen.stop();
    // Nobody believes it over clear HTTP, so that nobody says it.
    let pen = Pen::start(&lab, &[&["-H"][..], &hsts, &to].concat());
    let script = "r, b = ask(over()); print(r.status, r.getheader('Strict-Transport-Security'))\n";
    assert_eq!(http::client(&lab, script), "200 None");
    pen.stop();
    assert!(http::said(&web, "REQ") > 0);
}

#[test]
fn servers_hear_of_tls_and_requests_for_other_hosts_go_nowhere() {
    if !lab::ready("servers_hear_of_tls_and_requests_for_other_hosts_go_nowhere") {
        return;
    }
    let lab = lab(1);
    let web = http::serve(&lab, 0, 0);
    let certificate = make(&lab, "ecdsa", ECDSA);
    let own = ["-E", &certificate.chain, "-K", &certificate.key, "-H"];
    let pen = Pen::start(&lab, &[&own[..], &["80", &server(0)]].concat());
    let script = format!(
        "{ASK}\n\
         r, b = ask(over()); print(b'X-Forwarded-Proto: https\\n' in b, b'X-Forwarded-Host: pen.test:80\\n' in b)\n\
         h = over()\n\
         for host in ['other.test', '10.77.0.2', 'PEN.test.', 'pen.test']: print(ask(h, host=host)[0].status)\n\
         print(raw('GET http://other.test/ HTTP/1.1\\r\\nHost: pen.test\\r\\nConnection: close\\r\\n\\r\\n').split()[1])\n"
    );
    let expected = "True True\n421\n421\n200\n200\n421";
    assert_eq!(client(&lab, &certificate, &script), expected);
    assert_eq!(http::said(&web, "REQ"), 3);
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn every_orderly_end_of_http_is_told_within_tls() {
    if !lab::ready("every_orderly_end_of_http_is_told_within_tls") {
        return;
    }
    let lab = lab(1);
    let _web = http::serve(&lab, 0, 0);
    let certificate = make(&lab, "ecdsa", ECDSA);
    let own = ["-E", &certificate.chain, "-K", &certificate.key, "-H"];
    let more = ["-O", "head_timeout 1", "80", &server(0)];
    let pen = Pen::start(&lab, &[&own[..], &more].concat());
    // A truncated stream is an exception there.
    let script = format!(
        "{ASK}\n\
         host = '\\r\\nHost: pen.test\\r\\n'\n\
         for text in ['GET / HTTP/1.0\\r\\n\\r\\n', 'GET / HTTP/1.1' + host + 'Connection: close\\r\\n\\r\\n',\n\
         \x20'GET / HTTP/1.1' + host + '\\r\\n', 'GET /toclose HTTP/1.0\\r\\n\\r\\n', 'bad\\r\\n\\r\\n', 'GET / HTTP',\n\
         \x20'POST / HTTP/1.1' + host + 'Content-Length : 900000\\r\\n\\r\\n' + 'x' * 900000]:\n\
         \x20print(raw(text).split()[1:2])\n\
         try: print(raw('GET /short HTTP/1.1' + host + '\\r\\n'))\n\
         except (ssl.SSLEOFError, ConnectionResetError): print('cut')\n"
    );
    let expected = "['200']\n['200']\n['200']\n['200']\n['400']\n[]\n['400']\ncut";
    assert_eq!(client(&lab, &certificate, &script), expected);
    pen.wait_until_idle();
    pen.stop();
}
