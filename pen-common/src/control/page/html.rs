//! The page in HTML: nothing moves, nothing is loaded, and no text of a stranger's is markup.

use std::fmt::{self, Display, Write as _};

use super::{Guests, PAGE_ROWS_MAX, ServerOnPage, ServicePage, StatusPage, number};

/// Before everything that differs. Colours are the system's, light or dark; a table that is wider
/// than a telephone is moved by itself.
const HEAD: &str = "\
<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>Pen status page</title>
<style>
:root { color-scheme: light dark; }
body { background: Canvas; color: CanvasText; font: 1rem/1.4 system-ui, sans-serif; margin: 1rem; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1.2rem; margin-bottom: 0; overflow-wrap: anywhere; }
.wide { margin: 1rem 0; overflow-x: auto; }
table { border-collapse: collapse; }
caption { font-weight: bold; padding: .2rem 0; text-align: left; }
caption span { font-weight: normal; }
th, td { border: 1px solid GrayText; padding: .15rem .5rem; }
td { font-variant-numeric: tabular-nums; text-align: right; }
td.text { text-align: left; }
</style>
</head>
<body>
<h1>Pen status page</h1>
";

/// Pen's, with its columns in its order.
struct Table {
    title: &'static str,
    columns: &'static [&'static str],
}

const SERVERS: Table = Table {
    title: "Servers",
    columns: &[
        "server",
        "address",
        "status",
        "port",
        "connections",
        "max soft",
        "max hard",
        "sent",
        "received",
        "weight",
        "prio",
    ],
};

const CLIENTS: Table = Table {
    title: "Active clients",
    columns: &[
        "client",
        "address",
        "age(secs)",
        "last server",
        "connects",
        "sent",
        "received",
    ],
};

const CONNECTIONS: Table = Table {
    title: "Active connections",
    columns: &[
        "connection",
        "downfd",
        "upfd",
        "pending data down",
        "pending data up",
        "client",
        "server",
    ],
};

/// The whole page.
pub(super) fn page(page: &StatusPage) -> String {
    let mut out = HEAD.to_owned();
    let _infallible = writeln!(out, "<p>{}</p>", Escaped(&page.summary()));
    page.services.iter().for_each(|one| service(&mut out, one));
    out.push_str("</body>\n</html>\n");
    out
}

fn service(out: &mut String, service: &ServicePage) {
    let _infallible = writeln!(
        out,
        "<section>\n<h2>{}</h2>\n<p>{} at {}</p>",
        Escaped(&service.service),
        service.mode,
        Escaped(&service.listen.join(" "))
    );
    let rows = service.servers.iter().map(server);
    SERVERS.write(out, "", rows);
    if let Some(guests) = &service.guests {
        clients(out, guests);
        connections(out, guests);
    }
    out.push_str("</section>\n");
}

fn server(row: &ServerOnPage) -> Vec<Cell> {
    let server = &row.server;
    let address = match &server.path {
        Some(path) => path.clone(),
        None => server.address.to_string(),
    };
    vec![
        Cell::number(server.index),
        Cell::Text(address, Some(server.name.clone())),
        Cell::number(row.blacklist_left_s),
        Cell::number(server.port),
        Cell::number(server.conn),
        Cell::number(server.max),
        Cell::number(server.hard),
        Cell::number(server.sx),
        Cell::number(server.rx),
        Cell::number(server.weight),
        Cell::number(server.prio),
    ]
}

fn clients(out: &mut String, guests: &Guests) {
    let rows = guests.clients.iter().enumerate();
    let rows = rows.map(|(place, client)| {
        vec![
            Cell::number(place),
            Cell::Text(client.address.to_string(), None),
            Cell::number(client.age_ms / 1000),
            Cell::Number(number(client.server)),
            Cell::number(client.connects),
            Cell::number(client.sx),
            Cell::number(client.rx),
        ]
    });
    CLIENTS.write(out, &guests.clients_line(), rows);
}

/// Descriptors are nobody's business, and nothing is pending between two looks: as `connection N`
/// has them.
fn connections(out: &mut String, guests: &Guests) {
    let rows = guests.connections.iter().zip(guests.places());
    let rows = rows.map(|(connection, place)| {
        vec![
            Cell::number(connection.number),
            Cell::number(-1),
            Cell::number(-1),
            Cell::number(0),
            Cell::number(0),
            Cell::Number(number(place)),
            Cell::Number(number(connection.index)),
        ]
    });
    CONNECTIONS.write(out, &guests.connections_line(), rows);
}

/// What stands in a table.
enum Cell {
    /// At the right.
    Number(String),
    /// At the left; who points at it is shown the second text.
    Text(String, Option<String>),
}

impl Cell {
    fn number(number: impl Display) -> Self {
        Self::Number(number.to_string())
    }
}

impl Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(text) => write!(f, "<td>{}</td>", Escaped(text)),
            Self::Text(text, None) => write!(f, "<td class=\"text\">{}</td>", Escaped(text)),
            Self::Text(text, Some(more)) => {
                let (text, more) = (Escaped(text), Escaped(more));
                write!(f, "<td class=\"text\" title=\"{more}\">{text}</td>")
            }
        }
    }
}

impl Table {
    /// The table with its title, then some words in plain letters.
    fn write(&self, out: &mut String, plain: &str, mut rows: impl Iterator<Item = Vec<Cell>>) {
        let _infallible = write!(
            out,
            "<div class=\"wide\">\n<table>\n<caption>{}",
            self.title
        );
        if !plain.is_empty() {
            let _infallible = write!(out, " <span>{}</span>", Escaped(plain));
        }
        out.push_str("</caption>\n<thead>\n<tr>");
        for column in self.columns {
            let _infallible = write!(out, "<th scope=\"col\">{column}</th>");
        }
        out.push_str("</tr>\n</thead>\n<tbody>\n");
        for row in rows.by_ref().take(PAGE_ROWS_MAX) {
            out.push_str("<tr>");
            for cell in row {
                let _infallible = write!(out, "{cell}");
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody>\n");
        let more = rows.count();
        if more > 0 {
            let width = self.columns.len();
            let _infallible = writeln!(
                out,
                "<tfoot>\n<tr><td class=\"text\" colspan=\"{width}\">and {more} more</td></tr>\n</tfoot>"
            );
        }
        out.push_str("</table>\n</div>\n");
    }
}

/// A text that is no markup, between tags and in quoted values alike (HTML, section 13.3).
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;"),
                '<' => f.write_str("&lt;"),
                '>' => f.write_str("&gt;"),
                '"' => f.write_str("&quot;"),
                '\'' => f.write_str("&#39;"),
                // No control character may stand in a page, not even by its number.
                control if control.is_control() => f.write_str("\u{fffd}"),
                other => f.write_char(other),
            }?;
        }
        Ok(())
    }
}
