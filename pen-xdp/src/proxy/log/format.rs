//! From a record to a line. Whatever clients send, a line stays one line, and a field one field.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pen_common::config::LogFormat;
use serde::Serialize;

use super::record::{At, Http, Record, ServedBy, first_line};

/// What stands where there is nothing.
const NOTHING: &[u8] = b"-";

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Adds the line to `out`, without an end of line.
pub(super) fn write(out: &mut Vec<u8>, record: &Record, format: LogFormat) {
    match format {
        LogFormat::Pen => pen(out, record),
        LogFormat::Common => ncsa(out, record, false),
        LogFormat::Combined => ncsa(out, record, true),
        LogFormat::Json => json(out, record),
    }
}

/// What penlogd is sent; `None` of clients whom nobody served, as it looks entries up by server.
pub(super) fn for_penlogd(record: &Record) -> Option<Vec<u8>> {
    record.server.as_ref()?;
    let mut line = b"+ ".to_vec();
    client(&mut line, record);
    line.push(b' ');
    server_address(&mut line, record);
    line.push(b' ');
    dotted_first(&mut line, record);
    Some(line)
}

/// `CLIENT EPOCH SERVER FIRSTLINE`.
fn pen(out: &mut Vec<u8>, record: &Record) {
    client(out, record);
    put(
        out,
        format_args!(" {} ", since_epoch(record.begun).as_secs()),
    );
    server_address(out, record);
    out.push(b' ');
    dotted_first(out, record);
}

/// NCSA's common or combined line, then server, choice, tries, times and end.
fn ncsa(out: &mut Vec<u8>, record: &Record, combined: bool) {
    client(out, record);
    put(out, format_args!(" - - [{}] \"", common_time(record.begun)));
    let http = record.http.as_ref();
    match http.filter(|http| http.method.is_some()) {
        Some(http) => escaped(out, &request_line(http)),
        None => out.extend_from_slice(NOTHING),
    }
    match http.map(|http| http.status).filter(|status| *status > 0) {
        Some(status) => put(out, format_args!("\" {status} {}", record.bytes_out)),
        None => put(out, format_args!("\" - {}", record.bytes_out)),
    }
    if combined {
        for field in [
            http.and_then(|http| http.referer.as_ref()),
            http.and_then(|http| http.user_agent.as_ref()),
        ] {
            out.extend_from_slice(b" \"");
            escaped(out, field.map_or(NOTHING, |field| field));
            out.push(b'"');
        }
    }
    out.push(b' ');
    match &record.server {
        Some(server) => word(out, server.name.as_bytes()),
        None => out.extend_from_slice(NOTHING),
    }
    put(out, format_args!(" {} {} ", why(record), record.tries));
    match record.connect {
        Some(connect) => put(out, format_args!("{}", seconds(connect))),
        None => out.extend_from_slice(NOTHING),
    }
    put(
        out,
        format_args!(" {} {}", seconds(record.duration), record.ended),
    );
}

/// Why a server was chosen, or nobody.
fn why(record: &Record) -> &'static str {
    match (record.refused, record.chosen) {
        (Some(refused), _) => refused.word(),
        (None, Some(chosen)) => chosen.word(),
        (None, None) => "-",
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    service: &'a str,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a str>,
    tries: u32,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<u64>,
    duration_ms: u64,
    ended: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
}

fn json(out: &mut Vec<u8>, record: &Record) {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let http = record.http.as_ref();
    let asked = http.filter(|http| http.method.is_some());
    let line = Line {
        time: iso_time(record.begun),
        service: &record.service,
        listener: &record.listener,
        client: record.client.map(|client| client.ip().to_string()),
        client_port: record.client.map(|client| client.port()),
        server: record.server.as_ref().map(|server| server.name.as_str()),
        server_address: record.server.as_ref().map(|server| match &server.at {
            At::Ip(address) => address.to_string(),
            At::Path(path) => path.clone(),
        }),
        chosen: record.chosen.map(|chosen| chosen.word()),
        refused: record.refused.map(|refused| refused.word()),
        tries: record.tries,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        connect_ms: record.connect.map(ms),
        duration_ms: ms(record.duration),
        ended: record.ended.word(),
        sni: record.sni.as_deref(),
        client_certificate: record.common_name.as_deref(),
        method: http.and_then(|http| http.method.as_deref()),
        target: asked.map(|http| text(&http.target)),
        version: asked.map(|http| http.version),
        status: http.map(|http| http.status).filter(|status| *status > 0),
        host: http.and_then(|http| http.host.as_ref()).map(text),
        referer: http.and_then(|http| http.referer.as_ref()).map(text),
        user_agent: http.and_then(|http| http.user_agent.as_ref()).map(text),
    };
    let before = out.len();
    if serde_json::to_writer(&mut *out, &line).is_err() {
        // A vector takes everything, and the fields are text and numbers.
        out.truncate(before);
    }
}

fn client(out: &mut Vec<u8>, record: &Record) {
    match record.client {
        Some(client) => put(out, format_args!("{}", client.ip())),
        None => out.extend_from_slice(b"unix"),
    }
}

/// Without the port, as in Pen.
fn server_address(out: &mut Vec<u8>, record: &Record) {
    match &record.server {
        Some(ServedBy {
            at: At::Ip(address),
            ..
        }) => put(out, format_args!("{}", address.ip())),
        Some(ServedBy {
            at: At::Path(path), ..
        }) => word(out, path.as_bytes()),
        None => out.extend_from_slice(NOTHING),
    }
}

/// The client's first line in Pen's manner: a dot for each byte that is no printable ASCII.
fn dotted_first(out: &mut Vec<u8>, record: &Record) {
    let asked = record.http.as_ref().filter(|http| http.method.is_some());
    let request = asked.map(request_line);
    let first = record.first.as_deref().or(request.as_deref());
    let shown = |byte: &u8| match byte {
        b' '..=b'~' => *byte,
        _ => b'.',
    };
    out.extend(first_line(first.unwrap_or_default()).iter().map(shown));
}

fn request_line(http: &Http) -> Vec<u8> {
    let mut line = http.method.clone().unwrap_or_default().into_bytes();
    line.push(b' ');
    line.extend_from_slice(&http.target);
    line.push(b' ');
    line.extend_from_slice(http.version.as_bytes());
    line
}

/// Between quotes, as Apache and nginx do: quotes and backslashes with a backslash, all but
/// printable ASCII as `\xHH`.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => put(out, format_args!("\\x{byte:02X}")),
        }
    }
}

/// As [`escaped`], and blanks too: a field that has no quotes around it.
fn word(out: &mut Vec<u8>, bytes: &[u8]) {
    for part in bytes.split_inclusive(|byte| *byte == b' ') {
        match part.strip_suffix(b" ") {
            Some(before) => {
                escaped(out, before);
                out.extend_from_slice(b"\\x20");
            }
            None => escaped(out, part),
        }
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes everything.
    let _ = out.write_fmt(text);
}

/// With milliseconds.
fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}

/// A clock before 1970 is not set, and counts as 1970.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `10/Oct/2000:13:55:36 +0000`: UTC, as a line must mean the same wherever it is read.
fn common_time(time: SystemTime) -> String {
    let since = since_epoch(time);
    let (year, month, day) = date(since.as_secs() / 86_400);
    let name = MONTHS[month as usize - 1];
    format!("{day:02}/{name}/{year}:{} +0000", clock(since))
}

/// `2000-10-10T13:55:36.123Z`.
fn iso_time(time: SystemTime) -> String {
    let since = since_epoch(time);
    let (year, month, day) = date(since.as_secs() / 86_400);
    let (clock, ms) = (clock(since), since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{clock}.{ms:03}Z")
}

/// `2000-10-10 13:55:36`, UTC as well.
pub(crate) fn plain_time(time: SystemTime) -> String {
    let since = since_epoch(time);
    let (year, month, day) = date(since.as_secs() / 86_400);
    format!("{year:04}-{month:02}-{day:02} {}", clock(since))
}

fn clock(since: Duration) -> String {
    let second = since.as_secs() % 86_400;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{hour:02}:{minute:02}:{:02}", second % 60)
}

/// Year, month and day of a day since 1970 in the Gregorian calendar. Years are counted from March,
/// so that the leap day is the last one and months have lengths that a line through them gives.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = match from_march < 10 {
        true => from_march + 3,
        false => from_march - 9,
    };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
