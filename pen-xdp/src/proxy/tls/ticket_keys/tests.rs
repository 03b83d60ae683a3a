#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use super::*;

/// A line with a key of so many bytes, all of the same number.
fn line(number: u8, length: usize) -> String {
    BASE64.encode(&vec![number; length])
}

fn parse(text: &str) -> Result<Keys, TicketKeysError> {
    Keys::parse(Path::new("/etc/pen/tickets"), text.as_bytes())
}

/// Numbers of the keys: that which encrypts, then all that decrypt.
fn numbers(text: &str) -> (u8, Vec<u8>) {
    let keys = parse(text).unwrap();
    let known = (0..=255).filter(|number| keys.find(&[*number; NAME]).is_some());
    (keys.writing().name()[0], known.collect())
}

fn wrong(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_last_but_one_encrypts_and_the_last_three_decrypt() {
    for (lines, writing, known) in [
        (&[1][..], 1, &[1][..]),
        (&[1, 2], 1, &[1, 2]),
        (&[1, 2, 3], 2, &[1, 2, 3]),
        (&[1, 2, 3, 4], 3, &[2, 3, 4]),
        (&[9, 1, 2, 3, 4, 5, 6], 5, &[4, 5, 6]),
        // Long out of use, it may come again.
        (&[4, 1, 2, 3, 4], 3, &[2, 3, 4]),
    ] {
        for length in [48, 80] {
            let text: Vec<_> = lines.iter().map(|number| line(*number, length)).collect();
            for end in ["\n", "\r\n", "\n\n", ""] {
                let text = text.join("\n") + end;
                assert_eq!(numbers(&text), (writing, known.to_vec()), "{text:?}");
            }
        }
    }
    // Bits behind the last byte, which HAProxy takes.
    let odd = line(1, 80).replace("E=", "F=");
    assert_ne!(odd, line(1, 80));
    assert_eq!(numbers(&odd), (1, vec![1]));
    let both = format!("{}\n{}\n{}", line(1, 48), line(2, 80), line(3, 48));
    assert_eq!(numbers(&both), (2, vec![1, 2, 3]));
}

#[test]
fn faults_name_file_line_and_mend() {
    let good = line(1, 80);
    for (text, at, what) in [
        (format!("{good}\nno base64\n"), ", line 2: ", "no base64"),
        (
            format!("{good}\n\n{}\n", &line(2, 80)[1..]),
            ", line 3: ",
            "no base64",
        ),
        (format!("# mine\n{good}\n"), ", line 1: ", "no base64"),
        (
            format!("{}\n{good}", line(2, 47)),
            ", line 1: ",
            "and this has 47",
        ),
        (
            format!("{}\n{good}", line(2, 81)),
            ", line 1: ",
            "and this has 81",
        ),
        (
            format!("{good}\n{}", line(2, 32)),
            ", line 2: ",
            "and this has 32",
        ),
        (
            format!("{good}\n{}", line(2, 5000)),
            ", line 2: ",
            "and this has 5000",
        ),
        (
            format!("{good}{}\n", line(2, 80)),
            ", line 1: ",
            "and this has 160",
        ),
        (
            format!("{good}\n{good}"),
            ", line 2: ",
            "of that in line 1; leave",
        ),
        (String::new(), " holds no key", "write one"),
        ("\n \n\r\n".to_owned(), " holds no key", "write one"),
    ] {
        let said = wrong(&text);
        assert!(
            said.starts_with(&format!("/etc/pen/tickets{at}")) && said.contains(what),
            "{text:?}: {said}"
        );
    }
    // The same name, and another secret.
    let other = BASE64.encode(&[&[1; NAME][..], &[7; 32]].concat());
    let said = wrong(&format!("{}\n{good}\n{other}", line(2, 80)));
    assert!(
        said.contains(", line 3: ") && said.contains("in line 2"),
        "{said}"
    );
}

/// `openssl rand -base64 80` writes two lines, of which the first looks like a key.
#[test]
fn a_key_that_openssl_wrapped_is_told() {
    let key = line(1, 80);
    let (first, rest) = key.split_at(64);
    let said = wrong(&format!("{}\n{first}\n{rest}\n", line(2, 80)));
    assert!(
        said.contains(", line 3: this is the rest of a key that begins in line 2; join"),
        "{said}"
    );
    // With a line between it is none.
    let said = wrong(&format!("{first}\n\n{rest}\n"));
    assert!(
        said.contains(", line 3: a key has 48 or 80 bytes"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let said = Keys::read(Path::new("/nowhere/tickets"))
        .unwrap_err()
        .to_string();
    assert!(said.starts_with("/nowhere/tickets: No such file"), "{said}");
}

#[test]
fn nothing_secret_is_shown() {
    let key = BASE64.encode(&[&[1; NAME][..], &[0xab; 64]].concat());
    let shown = format!("{:?}", parse(&key).unwrap());
    assert!(shown.contains("[1, 1, 1"), "{shown}");
    assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
}

/// Whatever is in a file: an answer, and no panic.
#[test]
fn any_bytes_have_an_answer() {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for length in 0..2000 {
        let bytes: Vec<u8> = (0..length).map(|_| next()).collect();
        assert!(Keys::parse(Path::new("x"), &bytes).is_err());
    }
}
