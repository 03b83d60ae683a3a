//! TLS to the servers of a service, for a terminal.

use pen_common::control::{HandshakeStatus, ProxyServerStatus, ServerTlsStatus};

use crate::certificates;
use crate::table::{Table, duration, labelled};

/// How servers are spoken to, what the last handshakes came to, and what is wrong.
pub(crate) fn text(status: &ServerTlsStatus, servers: &[ProxyServerStatus]) -> String {
    let line = match &status.authorities {
        Some(place) => format!("TLS to the servers, verified by {place}"),
        None => "TLS to the servers, whose certificates are NOT VERIFIED".to_owned(),
    };
    let mut out = labelled("", 2, &line);
    if let Some(own) = &status.certificate {
        let expires = certificates::expiry(own.left_s);
        let line = format!("who asks gets {}, which expires {expires}", own.file);
        out.push_str(&labelled("", 2, &line));
    }
    let mut table = Table::new(&["server", "handshake", "spoken", "certificate", "expires"]);
    let seen = servers
        .iter()
        .filter_map(|server| Some((&server.name, server.handshake.as_ref()?)));
    for (name, handshake) in seen.clone() {
        table.row(row(name, handshake));
    }
    if !table.is_empty() {
        out.push_str(&table.text());
    }
    let own = status.certificate.as_ref();
    let own = own.and_then(|own| own.trouble.clone());
    let of_servers = seen.filter_map(|(name, handshake)| {
        let why = handshake.trouble.as_ref()?;
        Some(format!("server {name}: {why}"))
    });
    for why in status
        .trouble
        .clone()
        .into_iter()
        .chain(own)
        .chain(of_servers)
    {
        out.push_str(&labelled("  trouble: ", 4, &why));
    }
    out
}

fn row(name: &str, handshake: &HandshakeStatus) -> Vec<String> {
    let whose = match (handshake.names.as_slice(), &handshake.subject) {
        ([], Some(subject)) => subject.clone(),
        ([], None) => "-".to_owned(),
        (names, _) => names.join(" "),
    };
    vec![
        name.to_owned(),
        format!("{} ago", duration(handshake.age_s)),
        match &handshake.version {
            Some(version) => version.clone(),
            None => "FAILED".to_owned(),
        },
        whose,
        match handshake.left_s {
            None => "-".to_owned(),
            left => certificates::expiry(left),
        },
    ]
}
