use pen_common::control::{Ended, Refused};
use serde_json::{Value, json};

use super::*;
use crate::proxy::log::record::tests::record;

/// What nobody should send.
const HOSTILE: &[u8] = b"a\"b\\c\nd\r\x1b[0m\xff\xc3\xa9\0";

fn line(record: &Record, format: LogFormat) -> String {
    let mut out = Vec::new();
    write(&mut out, record, format);
    String::from_utf8(out).unwrap()
}

/// A client whom nobody served.
fn refused() -> Record {
    Record {
        server: None,
        chosen: None,
        refused: Some(Refused::AclDenied),
        tries: 0,
        bytes_in: 0,
        bytes_out: 0,
        connect: None,
        duration: Duration::ZERO,
        ended: Ended::Refused,
        http: None,
        ..record()
    }
}

#[test]
fn pens_line_is_pens() {
    let expected = "192.0.2.9 971186136 10.0.0.1 GET /a?b HTTP/1.1";
    assert_eq!(line(&record(), LogFormat::Pen), expected);
    let expected = "192.0.2.9 971186136 - ";
    assert_eq!(line(&refused(), LogFormat::Pen), expected);
    // Over TCP the first line is what it is.
    let mut tcp = record();
    (tcp.http, tcp.client) = (None, None);
    tcp.first = Some(HOSTILE.into());
    tcp.server = Some(ServedBy {
        name: "s".to_owned(),
        at: At::Path("/run/a b".to_owned()),
    });
    let expected = "unix 971186136 /run/a\\x20b a\"b\\c";
    assert_eq!(line(&tcp, LogFormat::Pen), expected);
    tcp.first = Some(b"\x16\x03\x01 \xff\xc3\xa9".as_slice().into());
    let expected = "unix 971186136 /run/a\\x20b ... ...";
    assert_eq!(line(&tcp, LogFormat::Pen), expected);
    let mut long = record();
    long.http.as_mut().unwrap().target = [b'x'; 2000].to_vec();
    let long = line(&long, LogFormat::Pen);
    assert_eq!(long.len(), "192.0.2.9 971186136 10.0.0.1 ".len() + 100);
}

#[test]
fn penlogd_gets_a_plus_and_no_time_and_nothing_of_those_whom_nobody_served() {
    let sent = for_penlogd(&record()).unwrap();
    assert_eq!(sent, b"+ 192.0.2.9 10.0.0.1 GET /a?b HTTP/1.1");
    assert_eq!(for_penlogd(&refused()), None);
}

#[test]
fn ncsas_fields_come_first_and_pens_behind() {
    let expected = "192.0.2.9 - - [10/Oct/2000:13:55:36 +0000] \"GET /a?b HTTP/1.1\" 200 2326 \
                    web1 roundrobin 1 0.003 12.345 whole";
    assert_eq!(line(&record(), LogFormat::Common), expected);
    let expected = "192.0.2.9 - - [10/Oct/2000:13:55:36 +0000] \"GET /a?b HTTP/1.1\" 200 2326 \
                    \"http://r/\" \"curl/8\" web1 roundrobin 1 0.003 12.345 whole";
    assert_eq!(line(&record(), LogFormat::Combined), expected);
    let expected = "192.0.2.9 - - [10/Oct/2000:13:55:36 +0000] \"-\" - 0 \"-\" \"-\" - acl-denied \
                    0 - 0.000 refused";
    assert_eq!(line(&refused(), LogFormat::Combined), expected);
    // A server that was chosen and did not answer: the reason is that of the refusal.
    let mut late = record();
    (late.refused, late.ended) = (Some(Refused::TooLate), Ended::Refused);
    let late = line(&late, LogFormat::Common);
    assert!(
        late.ends_with(" web1 too-late 1 0.003 12.345 refused"),
        "{late}"
    );
}

#[test]
fn a_stranger_ends_no_field_and_no_line() {
    let mut hostile = record();
    let http = hostile.http.as_mut().unwrap();
    http.target = HOSTILE.to_vec();
    http.referer = Some(HOSTILE.to_vec());
    http.user_agent = Some(HOSTILE.to_vec());
    http.host = Some(HOSTILE.to_vec());
    hostile.server.as_mut().unwrap().name = "a \"b".to_owned();
    let shown = r#"a\"b\\c\x0Ad\x0D\x1B[0m\xFF\xC3\xA9\x00"#;
    let expected = format!(
        "192.0.2.9 - - [10/Oct/2000:13:55:36 +0000] \"GET {shown} HTTP/1.1\" 200 2326 \"{shown}\" \
         \"{shown}\" a\\x20\\\"b roundrobin 1 0.003 12.345 whole"
    );
    assert_eq!(line(&hostile, LogFormat::Combined), expected);
    let json = line(&hostile, LogFormat::Json);
    assert!(!json.contains('\n') && !json.contains('\x1b'), "{json}");
    let read: Value = serde_json::from_str(&json).unwrap();
    let text = "a\"b\\c\nd\r\x1b[0m\u{fffd}é\0";
    for key in ["target", "referer", "user_agent", "host"] {
        assert_eq!(read[key], json!(text), "{key}");
    }
    for format in LogFormat::ALL {
        let line = line(&hostile, *format);
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

#[test]
fn json_has_everything_by_name_and_no_names_without_a_value() {
    let read: Value = serde_json::from_str(&line(&record(), LogFormat::Json)).unwrap();
    let expected = json!({
        "time": "2000-10-10T13:55:36.123Z", "service": "shop", "listener": "[::]:80",
        "client": "192.0.2.9", "client_port": 40001,
        "server": "web1", "server_address": "10.0.0.1:8080", "chosen": "roundrobin",
        "tries": 1, "bytes_in": 7, "bytes_out": 2326, "connect_ms": 3, "duration_ms": 12345,
        "ended": "whole", "method": "GET", "target": "/a?b", "version": "HTTP/1.1",
        "status": 200, "host": "example.com", "referer": "http://r/", "user_agent": "curl/8",
    });
    assert_eq!(read, expected);
    let mut secured = record();
    (secured.sni, secured.common_name) = (Some("a.test".into()), Some("an \"n\"".into()));
    let read: Value = serde_json::from_str(&line(&secured, LogFormat::Json)).unwrap();
    let both = (&read["sni"], &read["client_certificate"]);
    assert_eq!(both, (&json!("a.test"), &json!("an \"n\"")));
    let mut unix = refused();
    unix.client = None;
    let read: Value = serde_json::from_str(&line(&unix, LogFormat::Json)).unwrap();
    let expected = json!({
        "time": "2000-10-10T13:55:36.123Z", "service": "shop", "listener": "[::]:80",
        "refused": "acl-denied", "tries": 0, "bytes_in": 0, "bytes_out": 0, "duration_ms": 0,
        "ended": "refused",
    });
    assert_eq!(read, expected);
}

#[test]
fn a_request_that_nobody_could_read_has_a_status_and_no_words() {
    let mut bad = refused();
    bad.http = Some(Http {
        status: 400,
        ..Http::default()
    });
    let common = line(&bad, LogFormat::Common);
    assert!(common.contains("\"-\" 400 0 - "), "{common}");
    let read: Value = serde_json::from_str(&line(&bad, LogFormat::Json)).unwrap();
    assert_eq!(read["status"], 400);
    assert_eq!(read.get("target"), None);
    assert_eq!(line(&bad, LogFormat::Pen), "192.0.2.9 971186136 - ");
}

#[test]
fn days_are_those_of_the_calendar() {
    for (days, expected) in [
        (0, (1970, 1, 1)),
        (58, (1970, 2, 28)),
        (59, (1970, 3, 1)),
        (789, (1972, 2, 29)),
        (10_956, (1999, 12, 31)),
        (11_016, (2000, 2, 29)),
        (20_513, (2026, 3, 1)),
        (47_540, (2100, 2, 28)),
        (47_541, (2100, 3, 1)),
    ] {
        assert_eq!(date(days), expected, "{days}");
    }
    // One day after the other, for a whole cycle.
    let mut before = date(0);
    for days in 1..146_097 {
        let now = date(days);
        let next = now == (before.0, before.1, before.2 + 1)
            || now == (before.0, before.1 + 1, 1)
            || now == (before.0 + 1, 1, 1);
        assert!(
            next && (1..=12).contains(&now.1) && now.2 <= 31,
            "{before:?} {now:?}"
        );
        before = now;
    }
}
