#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;

use data_encoding::BASE64;
use pen_common::config::TlsOptions;

use super::*;

const NOW: i64 = 1_700_000_000;
const SESSION: &[u8] = b"a session with its secrets";

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let name = format!("pen-tickets-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// A file with keys of these numbers.
    fn write(&self, name: &str, numbers: &[u8]) -> PathBuf {
        let lines = numbers.iter().map(|number| BASE64.encode(&[*number; 80]));
        let path = self.0.join(name);
        fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
        path
    }

    fn keys(&self, numbers: &[u8]) -> Keys {
        Keys::read(&self.write("keys", numbers)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn scope(clients: &[u8]) -> Scope {
    Scope::of(false, &[], &TlsOptions::default(), clients)
}

fn sealed(keys: &Keys) -> Vec<u8> {
    seal(keys.writing(), &scope(b""), SESSION, NOW).unwrap()
}

fn opened(keys: &Keys, ticket: &[u8]) -> Option<Vec<u8>> {
    open(keys, &scope(b""), ticket, NOW)
}

#[test]
fn a_ticket_is_read_by_who_has_the_key() {
    let folder = Folder::new("read");
    let (here, there) = (folder.keys(&[1, 2, 3]), folder.keys(&[1, 2, 3]));
    let ticket = sealed(&here);
    assert_eq!(opened(&there, &ticket).unwrap(), SESSION);
    assert_eq!(ticket[..NAME], [2; NAME]);
    let secret = SESSION
        .windows(8)
        .any(|part| ticket.windows(8).any(|window| window == part));
    assert!(!secret);
    // None is like another.
    assert_ne!(sealed(&here), ticket);
    assert_eq!(
        open(
            &here,
            &scope(b""),
            &seal(here.writing(), &scope(b""), b"", NOW).unwrap(),
            NOW
        )
        .unwrap(),
        b""
    );
}

#[test]
fn a_key_is_known_before_it_is_used_and_after() {
    let folder = Folder::new("rotation");
    let files =
        [&[1, 2, 3][..], &[2, 3, 4], &[3, 4, 5], &[4, 5, 6]].map(|numbers| folder.keys(numbers));
    let tickets: Vec<_> = files.iter().map(sealed).collect();
    for (reader, keys) in files.iter().enumerate() {
        for (writer, ticket) in tickets.iter().enumerate() {
            let known = reader.abs_diff(writer) <= 1;
            assert_eq!(opened(keys, ticket).is_some(), known, "{reader} {writer}");
        }
    }
}

#[test]
fn other_keys_and_other_scopes_read_nothing() {
    let folder = Folder::new("other");
    let keys = folder.keys(&[1]);
    let ticket = sealed(&keys);
    assert_eq!(opened(&folder.keys(&[2]), &ticket), None);
    assert_eq!(open(&keys, &scope(b"required"), &ticket, NOW), None);
    // A key of that name with another secret.
    let name = BASE64.encode(&[&[1; NAME][..], &[9; 64]].concat());
    let path = folder.write("keys", &[]);
    fs::write(&path, name).unwrap();
    assert_eq!(opened(&Keys::read(&path).unwrap(), &ticket), None);
    // The name of another key that is known: not even that may be changed.
    let both = folder.keys(&[1, 2]);
    let mut renamed = sealed(&both);
    renamed[..NAME].copy_from_slice(&[2; NAME]);
    assert_eq!(opened(&both, &renamed), None);
}

#[test]
fn nothing_of_a_ticket_can_be_changed_or_left_out() {
    let folder = Folder::new("tampered");
    let keys = folder.keys(&[1, 2, 3]);
    let ticket = sealed(&keys);
    for at in 0..ticket.len() {
        for bit in 0..8 {
            let mut other = ticket.clone();
            other[at] ^= 1 << bit;
            assert_eq!(opened(&keys, &other), None, "byte {at}");
        }
        assert_eq!(opened(&keys, &ticket[..at]), None, "{at} bytes");
        assert_eq!(opened(&keys, &ticket[at + 1..]), None, "from {at}");
    }
    assert_eq!(opened(&keys, &[&ticket[..], &[0]].concat()), None);
    assert_eq!(opened(&keys, &vec![2; 1 << 20]), None);
}

#[test]
fn a_ticket_ends_by_its_time() {
    let folder = Folder::new("time");
    let keys = folder.keys(&[1]);
    let ticket = sealed(&keys);
    let lifetime = i64::from(LIFETIME);
    for (later, good) in [
        (-SKEW - 1, false),
        (-SKEW, true),
        (0, true),
        (lifetime - 1, true),
        (lifetime, false),
        (i64::MAX - NOW, false),
    ] {
        let read = open(&keys, &scope(b""), &ticket, NOW + later);
        assert_eq!(read.is_some(), good, "{later}");
    }
    // Of a clock that is no clock.
    let odd = seal(keys.writing(), &scope(b""), SESSION, i64::MIN).unwrap();
    assert_eq!(opened(&keys, &odd), None);
}

#[test]
fn a_session_that_is_too_long_gets_no_ticket() {
    let folder = Folder::new("long");
    let keys = folder.keys(&[1]);
    let most = TICKET_MAX - NAME - SALT - ISSUED - AES_256_GCM.tag_len();
    let ticket = seal(keys.writing(), &scope(b""), &vec![7; most], NOW).unwrap();
    assert_eq!(opened(&keys, &ticket).unwrap().len(), most);
    assert!(seal(keys.writing(), &scope(b""), &vec![7; most + 1], NOW).is_none());
}

#[test]
fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
    let folder = Folder::new("file");
    let path = folder.write("keys", &[1, 2, 3]);
    let file = Arc::new(TicketFile::open(&path).unwrap());
    let tickets = Tickets {
        file: Arc::clone(&file),
        scope: scope(b""),
    };
    let ticket = tickets.encrypt(SESSION).unwrap();
    assert!(!file.refresh().changed);
    fs::write(&path, "broken").unwrap();
    file.refresh();
    let trouble = file.trouble().unwrap();
    assert!(
        trouble.contains(", line 1: ") && trouble.ends_with("read before still count"),
        "{trouble}"
    );
    assert_eq!(tickets.decrypt(&ticket).unwrap(), SESSION);
    fs::remove_file(&path).unwrap();
    file.refresh();
    assert!(file.trouble().unwrap().contains("No such file"));
    assert_eq!(tickets.decrypt(&ticket).unwrap(), SESSION);
    folder.write("keys", &[2, 3, 4]);
    assert!(file.refresh().changed);
    assert_eq!(file.trouble(), None);
    assert_eq!(tickets.decrypt(&ticket).unwrap(), SESSION);
    folder.write("keys", &[3, 4, 5, 6]);
    file.refresh();
    assert_eq!(tickets.decrypt(&ticket), None);
}
