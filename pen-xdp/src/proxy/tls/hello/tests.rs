use super::*;

/// A ClientHello with a name, or without extensions, and so many bytes more in one that nobody knows.
pub(in crate::proxy::tls) fn hello(name: Option<&str>, more: usize) -> Vec<u8> {
    let mut body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    if let Some(name) = name {
        let extensions = [extension(name.as_bytes()), padding(more)].concat();
        body.extend(vector(&extensions));
    }
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO], &length[1..], &body].concat()
}

/// A message in records with so many bytes of it in each.
pub(in crate::proxy::tls) fn records(message: &[u8], size: usize) -> Vec<u8> {
    let records = message.chunks(size);
    let records = records.map(|part| [&[HANDSHAKE, 3, 1][..], &vector(part)].concat());
    records.collect::<Vec<_>>().concat()
}

fn vector(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    [&length.to_be_bytes()[..], content].concat()
}

fn extension(name: &[u8]) -> Vec<u8> {
    let entry = [&[HOST_NAME][..], &vector(name)].concat();
    [&[0, 0][..], &vector(&vector(&entry))].concat()
}

/// In extensions of a size that may be.
fn padding(more: usize) -> Vec<u8> {
    match more {
        0 => Vec::new(),
        more => [&[0xfa, 0xfa][..], &vector(&vec![0; more.saturating_sub(4)])].concat(),
    }
}

fn named(name: &str) -> Hello {
    Hello::Whole(Some(name.to_owned()))
}

/// What is read at last, with the bytes one by one; at each step, what is needed is more than there
/// is, and what was found stays.
fn by_steps(bytes: &[u8]) -> Hello {
    let mut needed = 1;
    let mut found = None;
    for count in 0..=bytes.len() {
        let now = read(&bytes[..count]);
        if let Some(found) = &found {
            assert_eq!(now, *found, "{count}");
            continue;
        }
        match now {
            Hello::NeedMore { total } => {
                assert!(total > count && total >= needed, "{total} at {count}");
                needed = total;
            }
            now @ (Hello::Whole(_) | Hello::No(_)) => found = Some(now),
        }
    }
    found.unwrap_or(Hello::NeedMore { total: needed })
}

#[test]
fn the_name_is_read_from_whatever_records() {
    let message = hello(Some("WWW.example.org"), 700);
    for size in [1, 3, 4, 5, 100, 9999] {
        let whole = records(&message, size);
        assert_eq!(by_steps(&whole), named("www.example.org"), "{size}");
        let more = [&whole[..], b"anything"].concat();
        assert_eq!(read(&more), named("www.example.org"), "{size}");
        let cut = read(&whole[..whole.len() - 1]);
        assert!(matches!(cut, Hello::NeedMore { .. }), "{size}");
    }
}

#[test]
fn who_asks_for_no_name_is_heard_as_well() {
    assert_eq!(by_steps(&records(&hello(None, 0), 99)), Hello::Whole(None));
    for name in ["", "a b", "ä.de", "[::1]", "a/../b", &"a".repeat(254)] {
        let read = read(&records(&hello(Some(name), 0), 999));
        match name {
            // It must not be empty.
            "" => assert_eq!(read, Hello::No(Unread::Malformed)),
            name => assert_eq!(read, Hello::Whole(None), "{name}"),
        }
    }
}

#[test]
fn what_is_no_hello_is_known_as_soon_as_can_be() {
    use Unread::*;
    let good = records(&hello(Some("a.test"), 0), 999);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (bytes, why) in [
        (b"GET / HTTP/1.0\r\n".to_vec(), NotTls),
        (b"\x80\x2e\x01\x03\x01".to_vec(), NotTls),
        (changed(0, 21), NotTls),
        (changed(1, 2), NotTls),
        (vec![HANDSHAKE, 3, 1, 0, 0], NotTls),
        (vec![HANDSHAKE, 3, 1, 0xff, 0xff], NotTls),
        (changed(5, 2), Malformed),
        (changed(6, 1), TooLong),
        (changed(8, good[8] - 1), Malformed),
        (changed(43, 200), Malformed),
        (
            [&records(&hello(None, 0), 9)[..14], b"x"].concat(),
            Malformed,
        ),
    ] {
        assert_eq!(by_steps(&bytes), Hello::No(why), "{bytes:?}");
    }
}

#[test]
fn two_names_are_none() {
    let start = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let of = |extensions: &[u8]| server_name(&[&start[..], &vector(extensions)].concat());
    let (one, other) = (extension(b"a.test"), extension(b"b.test"));
    assert_eq!(of(&one), Some(Some("a.test".to_owned())));
    assert_eq!(of(&[&one[..], &other].concat()), None);
    let entries = [&one[6..], &other[6..]].concat();
    let both = [&[0, 0][..], &vector(&vector(&entries))].concat();
    assert_eq!(of(&both), None);
    // What comes behind a name of another type can't be read.
    let strange = [&[9][..], &vector(b"x"), &one[6..]].concat();
    let strange = [&[0, 0][..], &vector(&vector(&strange))].concat();
    assert_eq!(of(&strange), Some(None));
    let behind = [&one[..2], &vector(&[&one[4..], b"x"].concat())].concat();
    assert_eq!(of(&behind), None);
    assert_eq!(of(&[0, 0, 0, 2, 0, 0]), None);
    assert_eq!(server_name(&start[..33]), None);
}

#[test]
fn the_longest_is_read_and_a_longer_one_is_not() {
    let longest = hello(Some("a.test"), MESSAGE_MAX - hello(Some("a.test"), 0).len());
    assert_eq!(longest.len(), MESSAGE_MAX);
    for size in [64, 1000, RECORD_MAX] {
        assert_eq!(read(&records(&longest, size)), named("a.test"));
    }
    let small = records(&longest, 9);
    assert_eq!(read(&small), Hello::No(Unread::TooLong));
    assert_eq!(
        read(&[HANDSHAKE, 3, 1, 0, 9, 1, 1, 0, 0]),
        Hello::No(Unread::TooLong)
    );
}
