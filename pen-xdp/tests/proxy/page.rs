//! The status page: what a browser gets, where it is written, and that no text is markup there.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use lab::{Lab, Nginx, Signal, Station};
use serde::Deserialize;

use crate::python::{self, Manner};
use crate::rig::{Pen, addresses, answerers, lab, server, wait_for};

const LIMIT: Duration = Duration::from_secs(15);
/// What a page must not take for markup; a name can't hold more of it.
const HOSTILE: &str = "<script>alert(1)</script>&amp;'";

/// A page as `page.py` takes it apart.
#[derive(Debug, Deserialize)]
struct Page {
    /// Title, heading, the line with the time, a line for each service.
    said: Vec<String>,
    tables: Vec<Table>,
}

#[derive(Debug, Deserialize)]
struct Table {
    service: String,
    caption: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    titles: Vec<Vec<String>>,
}

impl Page {
    #[track_caller]
    fn read(html: &str) -> Self {
        let mut parser = Command::new("python3");
        parser.args(["-c", include_str!("page.py")]);
        let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
        let mut child = parser.stdin(stdin).stdout(stdout).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(html.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{html}");
        let page: Self = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(page.said[..2], ["Pen status page"; 2]);
        page
    }

    #[track_caller]
    fn table(&self, service: &str, caption: &str) -> &Table {
        let mut tables = self.tables.iter();
        let found = tables.find(|one| one.service == service && one.caption.starts_with(caption));
        found.unwrap_or_else(|| panic!("no {caption} of {service} in {self:?}"))
    }
}

fn cells(text: &str) -> Vec<&str> {
    text.split(" | ").collect()
}

#[test]
fn the_page_has_pens_three_tables_with_what_is_so() {
    if !lab::ready("the_page_has_pens_three_tables_with_what_is_so") {
        return;
    }
    let lab = lab(2);
    let _echo: Vec<_> = (0..2)
        .map(|at| python::serve(&lab, at, 80, Manner::Echo))
        .collect();
    let (first, second) = (server(0), server(1));
    let line = ["-r", "80", &format!("{first}:80:10:20:2:1"), &second];
    let pen = Pen::start(&lab, &line);
    pen.change("server 0 blacklist 60");
    let held = python::start_client(
        &lab,
        "c = connect(); c.sendall(b'12345'); assert c.recv(5) == b'12345'\n\
         print('ready', flush=True); time.sleep(60)",
    );
    // The client may have the bytes a moment before they are counted.
    wait_for("the answer's bytes", || pen.service().servers[1].sx == 5);
    let page = Page::read(&pen.say("status"));
    let time = page.said[2].strip_prefix("Time ").unwrap();
    let (time, counts) = time.split_once(", ").unwrap();
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    assert_eq!(shape, "9999-99-99 99:99:99");
    assert_eq!(counts, "2 servers, 1 current");

    let servers = page.table("pen", "Servers");
    let head = "server | address | status | port | connections | max soft | max hard | sent | \
                received | weight | prio";
    assert_eq!(servers.head, cells(head));
    let left: u32 = servers.rows[0][2].parse().unwrap();
    assert!((50..=60).contains(&left), "{left}");
    let expected = format!("0 | {first} | {left} | 80 | 0 | 10 | 20 | 0 | 0 | 2 | 1");
    assert_eq!(servers.rows[0], cells(&expected));
    let expected = format!("1 | {second} | 0 | 80 | 1 | 0 | 0 | 5 | 5 | 1 | 0");
    assert_eq!(servers.rows[1], cells(&expected));

    let clients = page.table("pen", "Active clients");
    assert_eq!(
        clients.caption,
        "Active clients Max number of clients: 2048"
    );
    let head = "client | address | age(secs) | last server | connects | sent | received";
    assert_eq!(clients.head, cells(head));
    let age: u32 = clients.rows[0][2].parse().unwrap();
    assert!(age < 20, "{age}");
    let expected = format!("0 | {} | {age} | 1 | 1 | 5 | 5", Station::client().v4());
    assert_eq!(clients.rows, [cells(&expected)]);

    let connections = page.table("pen", "Active connections");
    let said = "Active connections Number of connections: 10000 max, 1 used, 0 last";
    assert_eq!(connections.caption, said);
    let head = "connection | downfd | upfd | pending data down | pending data up | client | server";
    assert_eq!(connections.head, cells(head));
    assert_eq!(connections.rows, [cells("0 | -1 | -1 | 0 | 0 | 0 | 1")]);

    // The client is gone, and remembered; the times are so still.
    drop(held);
    pen.wait_until_idle();
    let page = Page::read(&pen.say("-s pen status"));
    assert!(page.said[2].ends_with(", 2 servers, 0 current"));
    assert_eq!(page.table("pen", "Active clients").rows.len(), 1);
    assert_eq!(page.table("pen", "Active connections").rows.len(), 0);
    let refusal = pen.say("-s web status");
    assert_eq!(refusal, "there is no service \"web\"\n");
    // For penctl it is what it was.
    assert_eq!(pen.service().servers.len(), 2);
    pen.stop();
}

/// A service past the kernel, one whose server is a Unix socket, and one for HTTP, of the worst
/// names that there can be.
fn hostile(lab: &Lab, file: &Path) -> Pen {
    let folder = lab.folder().join("pen");
    fs::create_dir_all(&folder).unwrap();
    let (control, config) = (folder.join("control"), folder.join("pen.toml"));
    let socket = format!("/run/<script>&amp;\"'{HOSTILE}");
    let text = format!(
        "interface = \"eth0\"\nplane = \"xdp\"\nforeground = true\ncontrol = {control:?}\nbpffs = {:?}\n\
         run_dir = {:?}\nweb_stats = {file:?}\n\
         [[service]]\nname = \"past{HOSTILE}\"\nlisten = \"{vip}:80\"\npool = \"past\"\n\
         [[service]]\nname = \"unix{HOSTILE}\"\nmode = \"tcp\"\nlisten = \"81\"\npool = \"unix\"\n\
         [[service]]\nname = \"site\"\nmode = \"http\"\nlisten = \"82\"\n\
         [[pool]]\nname = \"past\"\nbackend = [{{ name = \"{HOSTILE}\", address = \"{be0}\" }}]\n\
         [[pool]]\nname = \"unix\"\nbackend = [{{ name = \"{HOSTILE}\", address = {socket:?} }}]\n\
         [[pool]]\nname = \"site\"\nbackend = [\"{be0}:80\"]\n",
        lab.bpffs(),
        folder.join("run"),
        vip = Station::vip(0).v4(),
        be0 = server(0),
    );
    fs::write(&config, text).unwrap();
    Pen::start_file(lab, &config, &control)
}

#[test]
fn no_text_of_a_strangers_is_markup() {
    if !lab::ready("no_text_of_a_strangers_is_markup") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let file = lab.folder().join("pen.html");
    let pen = hostile(&lab, &file);
    for address in addresses() {
        let url = match address {
            std::net::IpAddr::V4(v4) => format!("http://{v4}:82/{HOSTILE}"),
            std::net::IpAddr::V6(v6) => format!("http://[{v6}]:82/{HOSTILE}"),
        };
        let from = format!("X-Forwarded-For: {HOSTILE}");
        let words = [
            "-s",
            "-g",
            "-o",
            "/dev/null",
            "-A",
            HOSTILE,
            "-H",
            &from,
            &url,
        ];
        lab.client().run_ok("curl", words).unwrap();
    }
    let html = pen.say("status");
    assert!(!html.contains("<script"), "{html}");
    assert_eq!(fs::read_to_string(&file).unwrap(), html);
    let page = Page::read(&html);
    let past = page.table(&format!("past{HOSTILE}"), "Servers");
    assert_eq!(past.titles[0], [HOSTILE]);
    let unix = page.table(&format!("unix{HOSTILE}"), "Servers");
    assert_eq!(unix.rows[0][1], format!("/run/<script>&amp;\"'{HOSTILE}"));
    let site = page.table("site", "Active clients");
    assert_eq!(site.rows.len(), 2, "one of each family");
    assert!(site.rows.iter().all(|row| row[4] == "1" && row[3] == "0"));
    // Past the kernel nobody is seen.
    let of_past = page
        .tables
        .iter()
        .filter(|one| one.service.starts_with("past"));
    assert_eq!(of_past.count(), 1);
    pen.stop();
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o7777
}

#[test]
fn user1_writes_the_page_and_what_is_in_its_way_stays() {
    if !lab::ready("user1_writes_the_page_and_what_is_in_its_way_stays") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let file = lab.folder().join("pen.html");
    let at = |file: &PathBuf| file.to_str().unwrap().to_owned();
    let pen = Pen::start(&lab, &["-w", &at(&file), "80", &server(0)]);
    assert_eq!(pen.say("web_stats"), format!("{}\n", at(&file)));
    assert!(!file.exists());
    for address in addresses() {
        assert_eq!(answerers(&lab, address, 1), ["be0"]);
    }
    pen.wait_until_idle();
    pen.process.signal(Signal::Usr1).unwrap();
    wait_for("the page", || file.exists());
    let page = Page::read(&fs::read_to_string(&file).unwrap());
    assert_eq!(page.table("pen", "Active clients").rows.len(), 2);
    assert_eq!(mode(&file), 0o644);

    // Elsewhere, while it runs; where a link leads nobody writes.
    let (victim, link) = (lab.folder().join("victim"), lab.folder().join("link"));
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, &link).unwrap();
    let generation = pen.change(&format!("web_stats {}", at(&link)));
    pen.process.signal(Signal::Usr1).unwrap();
    let warned = format!("web_stats {}: something else", at(&link));
    pen.process.wait_for_line(&warned, LIMIT).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let gone = lab.folder().join("no").join("page");
    pen.change(&format!("web_stats {}", at(&gone)));
    let page = Page::read(&pen.say("status"));
    assert_eq!(page.tables.len(), 3);
    pen.process.wait_for_line("web_stats ", LIMIT).unwrap();
    pen.process
        .wait_for_line("is its directory there", LIMIT)
        .unwrap();

    // Without a file it is in the log, with numbers that are right.
    assert_eq!(pen.say("no web_stats"), "");
    assert_eq!(pen.say("web_stats"), "");
    fs::remove_file(&file).unwrap();
    pen.process.signal(Signal::Usr1).unwrap();
    let line = pen.process.wait_for_line("client 10.77.0", LIMIT).unwrap();
    let client = Station::client().v4();
    let recent = pen.say("recent");
    let recent = recent
        .lines()
        .find(|line| line.starts_with(&client.to_string()))
        .unwrap();
    assert!(
        line.contains(&format!("SIGUSR1: service pen: client {recent} age ")),
        "{line}"
    );
    assert!(line.ends_with(" server 0"), "{line}");
    let servers = pen.say("servers");
    let said = format!(
        "SIGUSR1: service pen: server {} blacklist 0",
        servers.trim_end()
    );
    pen.process.wait_for_line(&said, LIMIT).unwrap();
    assert!(!file.exists());
    // The page was asked for all the same.
    assert_eq!(Page::read(&pen.say("status")).tables.len(), 3);
    assert_eq!(pen.status().generation, generation);
    let left: Vec<_> = fs::read_dir(lab.folder()).unwrap().collect();
    let left = left.iter().map(|entry| entry.as_ref().unwrap().file_name());
    assert!(
        left.clone()
            .all(|name| !name.to_str().unwrap().starts_with('.')),
        "{left:?}"
    );
    pen.stop();
}
