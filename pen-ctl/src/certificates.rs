//! The certificates of a service, for a terminal.

use pen_common::control::{CertificateStatus, CertificatesStatus, OcspQuestion};

use crate::table::{Table, duration, labelled};

/// How many there are, those that want to be seen, and what is wrong.
pub(crate) fn text(status: &CertificatesStatus) -> String {
    let mut line = format!(
        "TLS: {} certificates for {} names, {} stapled",
        status.served, status.names, status.stapled
    );
    for (count, what) in [
        (status.unknown, "handshakes for names that are not there"),
        (status.withheld, "refused for want of a staple"),
    ] {
        if count > 0 {
            line.push_str(&format!("; {count} {what}"));
        }
    }
    let mut out = labelled("", 2, &line);
    let mut table = Table::new(&["certificate", "key", "expires", "staple"]);
    for one in &status.shown {
        table.row(row(one));
    }
    out.push_str(&table.text());
    let said = status.shown.iter().filter_map(|one| one.trouble.as_ref());
    for why in said.clone() {
        out.push_str(&labelled("  trouble: ", 4, why));
    }
    let more = status.in_trouble.saturating_sub(said.count());
    if more > 0 {
        out.push_str(&labelled("", 2, &format!("{more} more are in trouble")));
    }
    out
}

fn row(one: &CertificateStatus) -> Vec<String> {
    let expires = expiry(one.left_s);
    let staple = match (one.staple_left_s, &one.responder) {
        (Some(left), _) => format!("for {}", duration(left.unsigned_abs())),
        (None, Some(_)) => "none".to_owned(),
        (None, None) => "-".to_owned(),
    };
    vec![
        one.file.clone(),
        one.key.clone().unwrap_or_default(),
        expires,
        staple,
    ]
}

/// In how many seconds a certificate expires, or when it did.
pub(crate) fn expiry(left_s: Option<i64>) -> String {
    match left_s {
        None => "not served".to_owned(),
        Some(left) if left < 0 => format!("{} AGO", duration(left.unsigned_abs())),
        Some(left) => format!("in {}", duration(left.unsigned_abs())),
    }
}

/// Whose staples can be asked for, a line each.
pub(crate) fn questions(questions: &[OcspQuestion]) -> String {
    let lines = questions.iter().map(|question| format!("{question}\n"));
    lines.collect()
}
