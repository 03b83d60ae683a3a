//! A service that sends every request to HTTPS.

use lab::{Nginx, Station};

use crate::{
    http::client,
    rig::{Pen, addresses, lab, server},
};

/// Sends `CASES` as they are written; each answer is its status, and where to.
const ASK: &str = r#"
def first(text):
    head = raw(text).split('\r\n\r\n')[0].split('\r\n')
    fields = dict(l.lower().split(': ', 1) for l in head[1:])
    assert not any('strict' in name or name == 'x-evil' for name in fields), head
    where = [l.split(': ', 1)[1] for l in head if l.startswith('Location: ')]
    return head[0].split()[1] + ' ' + ''.join(where)
for case in CASES: print(first(case))
"#;

/// The answers to requests whose lines end at `|`.
fn answers(lab: &lab::Lab, cases: &[&str]) -> Vec<String> {
    let cases: Vec<String> = cases.iter().map(|case| case.replace('|', "\r\n")).collect();
    let script = format!("CASES = {cases:?}\n{ASK}").replace("\\0", "\\x00");
    client(lab, &script)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[test]
fn curl_is_sent_to_https_and_its_connection_is_kept() {
    if !lab::ready("curl_is_sent_to_https_and_its_connection_is_kept") {
        return;
    }
    let lab = lab(1);
    let pen = Pen::start(&lab, &["-H", "-O", "redirect https", "80"]);
    for (address, host) in [
        (addresses()[0], addresses()[0].to_string()),
        (addresses()[1], format!("[{}]", addresses()[1])),
    ] {
        let url = format!("http://{host}/a/b?c=d%20e");
        let twice = [url.as_str(); 2];
        let format = "%{http_code} %{redirect_url} %{num_connects}\n";
        for (more, status) in [(&["-I"][..], 301), (&["-d", "x=y"], 308), (&[], 301)] {
            let words = ["-s", "-o", "/dev/null", "-o", "/dev/null", "-w", format];
            let words = words.iter().chain(more).chain(&twice);
            let said = lab.client().run_ok("curl", words).unwrap().stdout;
            let line = |connects| format!("{status} https://{host}/a/b?c=d%20e {connects}");
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines, [line(1), line(0)], "{address} {more:?}");
        }
    }
    pen.wait_until_idle();
    let service = pen.service();
    assert_eq!((service.accepted, service.connections), (12, 0));
    assert_eq!(service.redirect.as_deref(), Some("https"));
    assert_eq!(service.servers, []);
    // Elsewhere from now on, while it runs.
    pen.change("redirect https:8443");
    let answer = answers(&lab, &["GET / HTTP/1.1|Host: a:80|Connection: close||"]);
    assert_eq!(answer, ["301 https://a:8443/"]);
    assert_eq!(pen.ask("redirect").value.unwrap(), "https:8443");
    for command in [
        "server 0 weight 2",
        "-s pen server 0 weight 2",
        "redirect off",
    ] {
        assert!(!pen.ask(command).ok, "{command}");
    }
    pen.stop();
}

#[test]
fn requests_of_every_form_are_sent_on_or_refused() {
    if !lab::ready("requests_of_every_form_are_sent_on_or_refused") {
        return;
    }
    let lab = lab(1);
    let pen = Pen::start(&lab, &["-H", "-O", "redirect https", "80"]);
    let long = format!("/{}?{}", "p".repeat(4096), "q".repeat(4096));
    let asks = format!("GET {long} HTTP/1.1|Host: a|Connection: close||");
    let close = "|Connection: close||";
    let cases = [
        ("GET http://b:81/x?y HTTP/1.1|Host: a", "301 https://b/x?y"),
        (
            "GET /x HTTP/1.1|Host: [2001:db8::1]:80",
            "301 https://[2001:db8::1]/x",
        ),
        ("DELETE /x HTTP/1.1|Host: a:8080", "308 https://a/x"),
        ("OPTIONS * HTTP/1.1|Host: a", "308 https://a"),
        ("GET /x HTTP/1.0|Host: a", "301 https://a/x"),
        ("CONNECT a:443 HTTP/1.1|Host: a:443", "501"),
        ("GET /x HTTP/1.0", "400"),
        ("GET /x HTTP/1.1", "400"),
        ("GET /x HTTP/1.1|Host:", "400"),
        ("GET /x HTTP/1.1|Host: a|Host: b", "400"),
        ("GET /x HTTP/1.1|Host: a\rX-Evil: 1", "400"),
        ("GET /x HTTP/1.1|Host: a\0b", "400"),
        ("GET /x HTTP/1.1|Host: a%0d%0aX-Evil: 1", "400"),
        ("GET /x HTTP/1.1|Host: a b", "400"),
        ("GET /x HTTP/1.1|Host: a/b", "400"),
        ("GET /x HTTP/1.1|Host: u@a", "400"),
        ("GET http://u@a/x HTTP/1.1|Host: a", "400"),
        ("GET /\rX-Evil: HTTP/1.1|Host: a", "400"),
        (
            "POST /x HTTP/1.1|Host: a|Content-Length: 1|Transfer-Encoding: chunked",
            "400",
        ),
    ];
    let whole: Vec<String> = cases
        .iter()
        .map(|(case, _)| format!("{case}{close}"))
        .collect();
    let mut whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    whole.push(&asks);
    let mut expected: Vec<String> = cases
        .iter()
        .map(|(_, answer)| (*answer).to_owned())
        .collect();
    expected.push(format!("301 https://a{long}"));
    assert_eq!(answers(&lab, &whole), expected);
    let refused = cases.iter().filter(|(_, answer)| *answer == "400").count();
    pen.wait_until_idle();
    assert_eq!(pen.refused("bad-request"), refused as u64);
    // A body is not waited for, and what follows one is answered.
    let script = "print(raw('POST /1 HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 3\\r\\n\\r\\nabc'\n\
                  \x20'GET /2 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\nGET /3 HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n')\n\
                  \x20.count('Location: https://a/'))\n";
    assert_eq!(client(&lab, script), "3");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn limits_and_access_lists_hold_where_nothing_is_served() {
    if !lab::ready("limits_and_access_lists_hold_where_nothing_is_served") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let abuse = server(0);
    let denied = format!("acl 1 deny {}", Station::client().v4());
    let words = ["-H", "-O", "redirect https", "-B", &abuse, "80"];
    let pen = Pen::start(&lab, &words);
    let ask = ["GET / HTTP/1.1|Host: a|Connection: close||"];
    assert_eq!(answers(&lab, &ask), ["301 https://a/"]);
    pen.change("client_conn_rate 2");
    let many = [ask[0]; 4];
    let said = answers(&lab, &many);
    assert_eq!(
        said.iter().filter(|said| *said == "429").count() as u64,
        pen.refused("client-rate")
    );
    assert!(said.contains(&"429".to_owned()), "{said:?}");
    pen.change("client_conn_rate 0");
    pen.change(&denied);
    pen.change("client_acl 1");
    assert_eq!(answers(&lab, &ask), ["200"]);
    assert_eq!(pen.service().servers[0].connects, 1);
    pen.stop();
    let words = [
        "-H",
        "-O",
        "redirect https",
        "-O",
        &denied,
        "-O",
        "client_acl 1",
        "80",
    ];
    let pen = Pen::start(&lab, &words);
    assert_eq!(answers(&lab, &ask), ["403"]);
    assert_eq!(pen.refused("acl-denied"), 1);
    pen.stop();
}
