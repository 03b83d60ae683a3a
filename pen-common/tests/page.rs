//! The status page: its markup, and how much of it a log gets.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::{IpAddr, Ipv4Addr};

use pen_common::config::Mode;
use pen_common::control::*;

const HOSTILE: &str = "<script>&\"'</script>\u{1b}";
const ESCAPED: &str = "&lt;script&gt;&amp;&quot;&#39;&lt;/script&gt;\u{fffd}";

fn server(index: usize) -> ServerOnPage {
    ServerOnPage {
        server: ServerStatus {
            index,
            name: HOSTILE.to_owned(),
            address: Ipv4Addr::new(10, 77, 0, 11).into(),
            path: None,
            port: 80,
            conn: 3,
            max: 10,
            hard: 20,
            weight: 2,
            prio: 1,
            sx: 5,
            rx: 6,
        },
        blacklist_left_s: 7,
    }
}

fn client(last: u32) -> RecentClient {
    RecentClient {
        address: IpAddr::from(Ipv4Addr::from(0x0a00_0000 + last)),
        connects: 4,
        sx: 948,
        rx: 504,
        age_ms: 1999,
        server: Some(1),
    }
}

fn connection(number: u32, age_ms: u64, client: &str) -> ConnectionStatus {
    ConnectionStatus {
        number,
        service: "web".to_owned(),
        client: Some(client.parse().unwrap()),
        server: None,
        index: None,
        chosen_by: None,
        stage: Stage::Queue,
        age_ms,
        sx: 0,
        rx: 0,
    }
}

fn page(clients: u32) -> StatusPage {
    let guests = Guests {
        clients_max: 2048,
        clients: (1..=clients).map(client).collect(),
        conn_max: 500,
        connections: vec![
            connection(0, 10, "[::ffff:10.0.0.2]:1"),
            connection(4, 20, "192.0.2.1:2"),
        ],
    };
    let service = |name: &str, guests| ServicePage {
        service: name.to_owned(),
        mode: Mode::Tcp,
        listen: vec![HOSTILE.to_owned(), "[::]:80".to_owned()],
        servers: vec![server(0), server(1)],
        guests,
    };
    StatusPage {
        time: "2026-11-22 17:46:29".to_owned(),
        services: vec![service("web", Some(guests)), service(HOSTILE, None)],
    }
}

#[test]
fn rows_are_pens_and_every_text_is_escaped() {
    let html = page(2).html();
    assert!(!html.contains("<script"), "{html}");
    for part in [
        "<!DOCTYPE html>\n<html lang=\"en\">\n",
        "<title>Pen status page</title>",
        "color-scheme: light dark",
        // Two of flows, each 3, and two connections.
        "<p>Time 2026-11-22 17:46:29, 4 servers, 8 current</p>",
        "<h2>web</h2>",
        &format!("<h2>{ESCAPED}</h2>\n<p>tcp at {ESCAPED} [::]:80</p>"),
        &format!(
            "<tr><td>0</td><td class=\"text\" title=\"{ESCAPED}\">10.77.0.11</td><td>7</td>\
             <td>80</td><td>3</td><td>10</td><td>20</td><td>5</td><td>6</td><td>2</td><td>1</td></tr>"
        ),
        "<caption>Active clients <span>Max number of clients: 2048</span></caption>",
        "<tr><td>1</td><td class=\"text\">10.0.0.2</td><td>1</td><td>1</td><td>4</td><td>948</td>\
         <td>504</td></tr>",
        "<span>Number of connections: 500 max, 2 used, 0 last</span>",
        "<tr><td>0</td><td>-1</td><td>-1</td><td>0</td><td>0</td><td>1</td><td>-1</td></tr>",
        // Its client is not remembered.
        "<tr><td>4</td><td>-1</td><td>-1</td><td>0</td><td>0</td><td>-1</td><td>-1</td></tr>",
    ] {
        assert!(html.contains(part), "{part} is not in\n{html}");
    }
    // Past the kernel there is one table.
    assert_eq!(html.matches("<table>").count(), 4);
    assert!(!html.contains("more"));
}

#[test]
fn a_crowd_is_cut_and_counted() {
    let many = u32::try_from(PAGE_ROWS_MAX).unwrap() + 3;
    let html = page(many).html();
    assert!(html.contains("<td class=\"text\" colspan=\"7\">and 3 more</td>"));
    assert_eq!(html.matches("<td>504</td></tr>").count(), PAGE_ROWS_MAX);

    let lines = page(many).lines();
    assert_eq!(lines.len(), STATISTICS_LINES_MAX);
    let all = 1 + 2 + 1 + many as usize + 1 + 2 + 2;
    let more = all - (STATISTICS_LINES_MAX - 1);
    let last = lines.last().unwrap();
    assert_eq!(
        *last,
        format!("{more} more lines; `status` shows everything")
    );
}

#[test]
fn lines_have_the_same_numbers() {
    let lines = page(1).lines();
    let expected = [
        "Time 2026-11-22 17:46:29, 4 servers, 8 current",
        "service web: server 0 addr 10.77.0.11 port 80 conn 3 max 10 hard 20 weight 2 prio 1 sx 5 \
         rx 6 blacklist 7",
    ];
    assert_eq!(lines[..2], expected);
    assert_eq!(lines[3], "service web: Max number of clients: 2048");
    let client = "service web: client 10.0.0.1 connects 4 sx 948 rx 504 age 1 server 1";
    assert_eq!(lines[4], client);
    let connections = "service web: Number of connections: 500 max, 2 used, 0 last";
    assert_eq!(lines[5], connections);
    let one =
        "connection 4 service web client 192.0.2.1:2 server - by - stage queue age 0 sx 0 rx 0";
    assert_eq!(lines[7], one);
    assert_eq!(lines.len(), 10);
}
