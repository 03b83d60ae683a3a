//! What people see: the status as a page, Pen's lines where scripts may read along.

use std::net::SocketAddr;

use pen_common::config::Mode;
use pen_common::control::{
    AccessLogStatus, BackendState, ConnectionStatus, Counter, DsrStatus, Envelope, NameStatus,
    OcspQuestion, Plan, PoolStatus, ProxyStatus, QueueStatus, RecentClient, ServedBy, Servers,
    ServiceLine, Status, VipStatus,
};
use serde::de::DeserializeOwned;

use crate::table::{Table, bytes, duration, labelled};
use crate::{certificates, server_tls};

/// Where sentences begin on the first lines of the status.
const INDENT: usize = 11;

/// The text for the value of an answer to a command that began with `word`.
///
/// # Errors
/// A sentence, if the value hasn't the shape that this command's answers have.
pub(crate) fn human(word: &str, envelope: Envelope) -> Result<String, String> {
    let value = envelope.value.unwrap_or_default();
    Ok(match word {
        "status" => status(&shape(value)?),
        "servers" => servers(&shape(value)?),
        "counters" => counters(&shape::<Vec<Counter>>(value)?),
        "connections" => connections(&shape::<Vec<ConnectionStatus>>(value)?),
        "connection" => shape::<ConnectionStatus>(value)?.lines(),
        "recent" => recent(&shape::<Vec<RecentClient>>(value)?),
        "ocsp" => certificates::questions(&shape::<Vec<OcspQuestion>>(value)?),
        "service" => shape::<Vec<ServiceLine>>(value)?
            .iter()
            .map(|line| format!("{line}\n"))
            .collect(),
        "apply" if !value.is_null() => {
            let lines = shape::<Plan>(value)?.lines();
            lines.iter().map(|line| format!("{line}\n")).collect()
        }
        _ => plain(&value),
    })
}

/// Pen's text for a value without a shape of its own: silence for a change that was applied.
fn plain(value: &serde_json::Value) -> String {
    match (value.is_null(), value.as_str()) {
        (true, _) => String::new(),
        // A configuration ends like a file, and may be empty.
        (false, Some(text)) if text.is_empty() || text.ends_with('\n') => text.to_owned(),
        (false, Some(text)) => format!("{text}\n"),
        (false, None) => format!("{value}\n"),
    }
}

fn shape<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|why| {
        format!("the answer has another shape than expected ({why}): is pen of another version?")
    })
}

/// Pen's lines, which scripts parse; several pools are each headed by their name.
fn servers(servers: &Servers) -> String {
    let mut out = String::new();
    for pool in &servers.pools {
        if servers.pools.len() > 1 {
            out.push_str(&format!("pool {}\n", pool.pool));
        }
        for server in &pool.servers {
            out.push_str(&format!("{server}\n"));
        }
    }
    out
}

/// Everybody who is connected.
fn connections(connections: &[ConnectionStatus]) -> String {
    let mut table = Table::new(&[
        ">#",
        "service",
        "client",
        "server",
        "chosen by",
        ">age",
        ">sent",
        ">received",
        "stage",
    ]);
    for connection in connections {
        let server = connection.server.clone();
        table.row(vec![
            connection.number.to_string(),
            connection.service.clone(),
            connection
                .client
                .map_or_else(|| "unix".to_owned(), |client| client.to_string()),
            server.unwrap_or_else(|| "-".to_owned()),
            connection
                .chosen_by
                .map_or_else(|| "-".to_owned(), |by| by.to_string()),
            duration(connection.age_ms / 1000),
            bytes(connection.sx),
            bytes(connection.rx),
            connection.stage.to_string(),
        ]);
    }
    match table.is_empty() {
        true => "  nobody is connected\n".to_owned(),
        false => table.text(),
    }
}

/// Pen's lines, which scripts parse.
fn recent(clients: &[RecentClient]) -> String {
    clients.iter().map(|client| format!("{client}\n")).collect()
}

/// Counters that are not zero.
fn counters(counters: &[Counter]) -> String {
    let mut table = Table::new(&[">count", "reason", "meaning"]);
    for counter in counters.iter().filter(|counter| counter.count > 0) {
        table.row(vec![
            counter.count.to_string(),
            counter.reason.clone(),
            counter.text.clone(),
        ]);
    }
    match table.is_empty() {
        true => "  all are 0\n".to_owned(),
        false => table.text(),
    }
}

/// Everything, most important first, in a page for a terminal.
pub(crate) fn status(status: &Status) -> String {
    let mut out = head(status);
    if let Some(dsr) = &status.dsr {
        out.push_str(&data_plane(dsr));
    }
    for service in &status.proxy {
        out.push_str(&proxied(service));
    }
    if !status.names.is_empty() {
        out.push_str("\nHost names\n");
        out.push_str(&names(&status.names));
    }
    out
}

/// What host names stand for, and what is wrong with any.
fn names(names: &[NameStatus]) -> String {
    let mut table = Table::new(&[">heard", ">again in", "name", "addresses"]);
    let mut faults = String::new();
    for name in names {
        let addresses: Vec<String> = name.addresses.iter().map(ToString::to_string).collect();
        table.row(vec![
            format!("{} ago", duration(name.age_s)),
            duration(name.next_s),
            name.name.clone(),
            addresses.join(" "),
        ]);
        let failed = name
            .error
            .iter()
            .map(|why| format!("look-up failed: {why}"));
        let unused = name.unused.iter().map(|why| format!("not used: {why}"));
        for fault in failed.chain(unused) {
            faults.push_str(&labelled(&format!("  {}: ", name.name), 4, &fault));
        }
    }
    table.text() + &faults
}

fn data_plane(dsr: &DsrStatus) -> String {
    let mut out = "\nVIPs\n".to_owned();
    out.push_str(&vips(&dsr.vips));
    for pool in &dsr.pools {
        out.push_str(&format!(
            "\nPool {} ({} slots)\n",
            pool.name, pool.table_size
        ));
        out.push_str(&backends(pool));
    }
    if !dsr.queues.is_empty() {
        out.push_str("\nQueues\n");
        out.push_str(&queues(&dsr.queues));
    }
    out.push_str("\nCounters that are not 0\n");
    out.push_str(&counters(&dsr.counters));
    out
}

/// One service of proxy mode, its servers and why clients were not served.
fn proxied(service: &ProxyStatus) -> String {
    let place = match service.listen.is_empty() {
        true => "reached by name alone".to_owned(),
        false => format!("on {}", service.listen.join(" ")),
    };
    let mut out = format!("\nService {} ({}) {place}\n", service.service, service.mode);
    let who = match service.mode {
        Mode::Http => "requests",
        Mode::Tcp | Mode::Udp | Mode::Dsr => "clients",
    };
    let line = format!(
        "{} of {} connections, {} wait; {} {who} taken",
        service.connections, service.conn_max, service.waiting, service.accepted
    );
    out.push_str(&labelled("", 2, &line));
    match &service.redirect {
        Some(to) => out.push_str(&labelled(
            "",
            2,
            &format!("redirects every request to {to}"),
        )),
        None => out.push_str(&labelled("", 2, &service.balance)),
    }
    if !service.sni_routes.is_empty() {
        let (routes, led) = (service.sni_routes.join(", "), service.led);
        let line = format!("led {led} clients to other services by name: {routes}");
        out.push_str(&labelled("", 2, &line));
    }
    // Of a single listener that says the same as the line above.
    if service.listeners.len() > 1 {
        let listeners = service.listeners.iter();
        let taken = listeners.map(|at| format!("{} took {}", at.listen, at.taken));
        out.push_str(&labelled("", 2, &taken.collect::<Vec<_>>().join(", ")));
    }
    if let Some(log) = &service.log {
        out.push_str(&labelled("", 2, &access_log(log)));
    }
    if let Some(certificates) = &service.certificates {
        out.push_str(&certificates::text(certificates));
    }
    let mut table = Table::new(&[
        ">#",
        "server",
        "address",
        ">weight",
        "state",
        ">conn",
        ">connects",
        ">failed",
        ">sent",
        ">received",
    ]);
    for server in &service.servers {
        table.row(vec![
            server
                .index
                .map_or_else(|| "-".to_owned(), |index| index.to_string()),
            server.name.clone(),
            server.address.clone(),
            server.weight.to_string(),
            standing(server.state, server.blacklist_left_s),
            server.conn.to_string(),
            server.connects.to_string(),
            server.failures.to_string(),
            bytes(server.sx),
            bytes(server.rx),
        ]);
    }
    let has_none = service.redirect.is_some() || service.pool.is_empty();
    if !has_none || !table.is_empty() {
        out.push_str(&table.text());
    }
    if let Some(tls) = &service.server_tls {
        out.push_str(&server_tls::text(tls, &service.servers));
    }
    if service.refused.iter().any(|counter| counter.count > 0) {
        out.push_str("  Clients that were not served\n");
        out.push_str(&counters(&service.refused));
    }
    out
}

fn access_log(log: &AccessLogStatus) -> String {
    let target = match &log.target {
        Some(target) => format!("log {target} ({})", log.format),
        None => "log off".to_owned(),
    };
    format!(
        "{target}: {} lines written, {} dropped, {} failed",
        log.written, log.dropped, log.failed
    )
}

fn head(status: &Status) -> String {
    let mut out = format!(
        "pen {}, pid {}, up {}, generation {}\n",
        status.version,
        status.pid,
        duration(status.uptime_s),
        status.generation
    );
    let mut line = |label: &str, text: &str| out.push_str(&labelled(label, INDENT, text));
    line("Config", &format!("from {}", status.config.source));
    if let Some(why) = &status.config.refused {
        let why = format!("not as it is written: {}", why.replace('\n', "; "));
        line("", &why);
    }
    if let Some(dsr) = &status.dsr {
        data_plane_head(dsr, &mut line);
    }
    for degraded in &status.degraded {
        line("Degraded", &format!("{}: {}", degraded.what, degraded.why));
    }
    for change in status.dsr.iter().flat_map(|dsr| &dsr.nic_changes) {
        line(
            "NIC",
            &format!("{}: {} (was {})", change.what, change.now, change.before),
        );
    }
    out
}

fn data_plane_head(dsr: &DsrStatus, line: &mut impl FnMut(&str, &str)) {
    let interface = &dsr.interface;
    let driver = if interface.driver.is_empty() {
        "unknown"
    } else {
        &interface.driver
    };
    line(
        "Interface",
        &format!(
            "{} (index {}), {}, mtu {}, driver {driver}",
            interface.name, interface.index, interface.mac, interface.mtu
        ),
    );
    let plane = &dsr.plane;
    line(
        "Plane",
        &format!("{} (wanted: {}): {}", plane.actual, plane.wanted, plane.why),
    );
    for rung in plane.rungs.iter().filter(|rung| !rung.taken) {
        line("", &format!("not {}: {}", rung.plane, rung.why));
    }
    let mode = dsr.xdp.mode.map_or("none", |mode| mode.word());
    line("XDP", &format!("{mode}: {}", dsr.xdp.why));
}

fn vips(vips: &[VipStatus]) -> String {
    let mut table = Table::new(&[
        "address", "proto", "vlan", "service", "pool", "hash", "owner",
    ]);
    for vip in vips {
        let address = match vip.port {
            0 => format!("{} all ports", vip.address),
            port => SocketAddr::new(vip.address, port).to_string(),
        };
        table.row(vec![
            address,
            vip.protocol.to_string(),
            vip.vlan
                .map_or_else(|| "any".to_owned(), |vlan| vlan.to_string()),
            vip.service.clone(),
            vip.pool.clone(),
            vip.hash.to_string(),
            vip.owner.to_string(),
        ]);
    }
    table.text()
}

fn backends(pool: &PoolStatus) -> String {
    let mut table = Table::new(&[
        ">#", "back end", "mac", ">weight", "state", ">share", ">flows", ">frames", ">bytes",
    ]);
    for backend in &pool.backends {
        // The address as a name is not said twice.
        let address = backend.address.to_string();
        table.row(vec![
            backend.index.to_string(),
            if address == backend.name {
                address
            } else {
                format!("{} {address}", backend.name)
            },
            backend.mac.clone().unwrap_or_else(|| "unknown".to_owned()),
            backend.weight.to_string(),
            standing(backend.state, backend.blacklist_left_s),
            share(backend.slots, pool.table_size),
            backend.flows.to_string(),
            backend.frames.to_string(),
            bytes(backend.bytes),
        ]);
    }
    table.text()
}

fn standing(state: BackendState, blacklist_left_s: Option<u32>) -> String {
    match (state, blacklist_left_s) {
        (BackendState::Blacklisted, Some(seconds)) => format!("{state} {seconds} s"),
        (state, _) => state.to_string(),
    }
}

fn share(slots: u32, table_size: u32) -> String {
    format!(
        "{:.1} %",
        f64::from(slots) * 100.0 / f64::from(table_size.max(1))
    )
}

fn queues(queues: &[QueueStatus]) -> String {
    let mut table = Table::new(&[
        ">queue",
        "served by",
        "how",
        ">alive",
        ">receive",
        ">hand",
        ">send",
        ">total",
        "features",
    ]);
    for queue in queues {
        let frames = |count: fn(&pen_common::control::FrameAccount) -> u64| {
            queue
                .frames
                .as_ref()
                .map(count)
                .map_or_else(String::new, |count| count.to_string())
        };
        table.row(vec![
            queue.queue.to_string(),
            served_by(queue),
            match (queue.served_by, queue.zero_copy) {
                (ServedBy::Program, _) => String::new(),
                (ServedBy::Worker, true) => "zero copy".to_owned(),
                (ServedBy::Worker, false) => "copy".to_owned(),
            },
            queue
                .heartbeat_age_ms
                .map_or_else(String::new, |age| format!("{age} ms")),
            frames(|frames| frames.posted_receive),
            frames(|frames| frames.in_hand),
            frames(|frames| frames.posted_send),
            frames(|frames| frames.total),
            features(queue),
        ]);
    }
    let mut out = table.text();
    for queue in queues {
        out.push_str(&queue_faults(queue));
    }
    out
}

fn served_by(queue: &QueueStatus) -> String {
    let worker = queue
        .worker
        .map_or_else(String::new, |worker| format!(" {worker}"));
    let core = queue
        .core
        .map_or_else(String::new, |core| format!(" (core {core})"));
    format!("{}{worker}{core}", queue.served_by)
}

fn features(queue: &QueueStatus) -> String {
    let budget = queue
        .tx_budget
        .map(|budget| format!("tx {budget}"))
        .unwrap_or_default();
    [
        ("jumbo", queue.multi_buffer),
        ("wakeup", queue.need_wakeup),
        ("busy-poll", queue.busy_poll),
        (budget.as_str(), !budget.is_empty()),
    ]
    .iter()
    .filter_map(|(name, on)| on.then_some(*name))
    .collect::<Vec<_>>()
    .join(" ")
}

/// A line for what a queue's frame account or the kernel's counts say is wrong; mostly none.
/// An empty send ring is no fault: the kernel looks there whenever it is woken.
fn queue_faults(queue: &QueueStatus) -> String {
    let mut faults = Vec::new();
    if queue.frames.is_some_and(|frames| !frames.adds_up()) {
        faults.push("FRAMES ARE MISSING: the account does not add up".to_owned());
    }
    if let Some(counts) = queue.xdp_statistics {
        for (name, count) in [
            ("dropped on receive", counts.rx_dropped),
            ("not sent", counts.unsent),
            ("bad descriptors", counts.invalid_descs),
            ("receive ring full", counts.rx_ring_full),
            ("fill ring empty", counts.rx_fill_ring_empty_descs),
        ] {
            if count > 0 {
                faults.push(format!("{name} {count}"));
            }
        }
    }
    match faults.is_empty() {
        true => String::new(),
        false => labelled(&format!("  queue {}: ", queue.queue), 4, &faults.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_redirects_shows_where_to_and_no_servers() {
        let service = ProxyStatus {
            service: "clear".to_owned(),
            mode: Mode::Http,
            listen: vec!["[::]:80".to_owned()],
            pool: String::new(),
            redirect: Some("https:8443".to_owned()),
            sni_routes: Vec::new(),
            led: 0,
            listeners: Vec::new(),
            log: None,
            certificates: None,
            server_tls: None,
            balance: "no hash".to_owned(),
            connections: 1,
            conn_max: 10,
            waiting: 0,
            accepted: 7,
            refused: Vec::new(),
            servers: Vec::new(),
        };
        let expected = "\nService clear (http) on [::]:80\n\
                        \x20 1 of 10 connections, 0 wait; 7 requests taken\n\
                        \x20 redirects every request to https:8443\n";
        assert_eq!(proxied(&service), expected);
    }
}
