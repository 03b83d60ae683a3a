//! What a command line may not say, or says without effect.

use pen::cli::{Action, Stop, parse};

use super::{SERVED, World, config, served, start, wrong};

#[test]
fn flags_of_proxy_mode_are_refused_in_dsr_and_out_of_range() {
    for (words, expected) in [
        (
            "-b 1",
            "-b: `-b` belongs to proxy mode, and dsr_if makes this DSR",
        ),
        ("-e x", "-e: `-e` belongs to proxy mode"),
        ("-h", "-h: `-h` belongs to proxy mode"),
        ("-s", "-s: `-s` belongs to proxy mode"),
        ("-t 1", "-t: `-t` belongs to proxy mode"),
        ("-B x", "-B: `-B` belongs to proxy mode"),
        ("-T 1", "-T: `-T` belongs to proxy mode"),
        ("-W", "-W: `-W` belongs to proxy mode"),
        ("-H", "-H: `-H` belongs to proxy mode"),
        ("-E x", "-E: `-E` belongs to proxy mode"),
        ("-K x", "-K: `-K` belongs to proxy mode"),
        ("-A x", "-A: `-A` belongs to proxy mode"),
        ("-R", "-R: `-R` belongs to proxy mode"),
        (
            "-R 80 10.0.0.11",
            "service \"pen\": `client_certificate` (-R) asks clients that speak TLS",
        ),
        (
            "-R -E x 80 10.0.0.11",
            "service \"pen\": `client_certificate` (-R) has no authority",
        ),
        (
            "-K x 80 10.0.0.11",
            "service \"pen\": `key` is the key of a certificate, and there is none",
        ),
        (
            "-t 0 80 10.0.0.11",
            "-t: timeout = 0 is out of range (1..=3600)",
        ),
        (
            "-x many 80 10.0.0.11",
            "-x: conn_max = \"many\" is not a number (1..=1000000)",
        ),
        (
            "-c 0 80 10.0.0.11",
            "-c: clients_max = 0 is out of range (1..=10000000)",
        ),
        (
            "-e web9 80 10.0.0.11",
            "emergency server: host name \"web9\" does not resolve",
        ),
        (
            "-U /run/sock 10.0.0.11",
            "listen \"/run/sock\": a UDP proxy has no Unix sockets",
        ),
    ] {
        let mut words: Vec<&str> = words.split(' ').collect();
        if words.len() < 3 {
            words.extend(SERVED);
        }
        let errors = start(&words)
            .read(&World::default())
            .unwrap_err()
            .to_string();
        assert!(errors.starts_with(expected), "{words:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn each_flag_with_a_value_refuses_bad_ones_and_wants_one() {
    for (flag, bad, key) in [
        ("-b", "-1", "blacklist"),
        ("-c", "many", "clients_max"),
        ("-e", ":80", "emergency"),
        ("-l", "", "log"),
        ("-O", "tracking x", "tracking"),
        ("-o", "tracking x", "tracking"),
        ("-p", "", "pid_file"),
        ("-q", "0", "backlog"),
        ("-t", "0", "timeout"),
        ("-x", "0", "conn_max"),
        ("-A", "", "client_ca_path"),
        ("-B", "a b", "abuse"),
        ("-C", "host:4711", "control"),
        ("-E", "", "certificate"),
        ("-F", "none", "can't read none"),
        ("-G", "", "chain"),
        ("-K", "", "key"),
        ("-T", "1.5", "tracking"),
    ] {
        let words = ["pen", flag, bad, "80", "10.0.0.11"];
        let why = match parse(words) {
            Ok(Action::Run(start)) => start.read(&World::default()).unwrap_err().to_string(),
            Err(Stop::Wrong(why)) => why,
            other => panic!("{flag} gave {other:?}"),
        };
        assert!(why.contains(key), "{flag}: {why}");
        assert_eq!(why.trim_end().lines().count(), 1, "{flag}: {why}");
        let why = wrong(&["80", "10.0.0.11", flag]);
        assert!(why.contains("a value is required"), "{flag}: {why}");
    }
    for flag in [
        "-d", "-f", "-h", "-r", "-s", "-H", "-R", "-U", "-W", "-X", "-a", "-D", "-n", "-P", "-Q",
    ] {
        let why = wrong(&[&format!("{flag}="), "80", "10.0.0.11"]);
        assert!(why.contains("unexpected"), "{flag}: {why}");
    }
}

#[test]
fn flags_for_what_is_not_there_are_refused_by_name() {
    for (flag, takes_value) in "i+ N Z"
        .split(' ')
        .map(|flag| (format!("-{}", &flag[..1]), flag.len() > 1))
    {
        let mut words = vec![flag.as_str()];
        words.extend(takes_value.then_some("1"));
        words.extend(["80", "10.0.0.11"]);
        let text = wrong(&words);
        assert!(text.starts_with(&format!("error: {flag} (")), "{text}");
        assert!(text.contains(") is"), "{text}");
    }
}

#[test]
fn flags_that_restrict_the_process_are_refused_not_ignored() {
    for (words, expected) in [
        (
            ["-j", "/var/empty"],
            "error: -j (chroot) confines nobody who is root: name a user to go on as (-u)\n",
        ),
        (
            ["-L", "tls1"],
            "error: -L (TLS protocol) chooses nothing: TLS 1.2 and 1.3 are spoken, and by -O \
             \"ssl_option no_tlsv1.2\" 1.3 alone\n",
        ),
    ] {
        assert_eq!(wrong(&[&words[..], &SERVED].concat()), expected);
    }
}

#[test]
fn flags_that_dsr_lines_carry_are_accepted_with_a_note() {
    let words = [
        "-u", "root", "-m", "50", "-x1000", "-c", "4096", "-q", "500", "-a",
    ];
    let words = [&words, &SERVED[..]].concat();
    let mut notes = start(&words).notes().to_vec();
    let checked = start(&words).read(&World::default()).unwrap();
    notes.extend_from_slice(checked.notes());
    for flag in ["-u root", "-m", "-x", "-c", "-q", "-a"] {
        let begin = format!("{flag} has no effect: ");
        let count = notes.iter().filter(|note| note.starts_with(&begin)).count();
        assert_eq!(count, 1, "{flag}: {notes:?}");
    }
    // It says that root is meant to stay.
    let mut expected = served(&[]);
    expected.user = Some("root".to_owned());
    assert_eq!(config(&words), expected);
    let words = ["--config", "pen.toml", "-x1000"];
    assert_eq!(
        start(&words).notes(),
        ["-x has no effect: the file says conn_max"]
    );
    assert_eq!(config(&words), config(&words[..2]));
}

#[test]
fn wrong_use() {
    for (words, expected) in [
        (&["-k"][..], "unexpected argument '-k'"),
        (&["--foregruond"], "'--foreground'"),
        (&["--print-confg", "toml"], "'--print-config'"),
        (&["--print-config", "-r"], "possible values: toml, commands"),
        (&["--print-config"], "possible values: toml, commands"),
        (&["--print-config", "tmol"], "'toml'"),
        (
            &["--print-config", "toml", "--check"],
            "cannot be used with",
        ),
        (
            &["--print-config", "toml", "--detach", "eth1"],
            "cannot be used with",
        ),
        (&["-O"], "value is required"),
        (
            &["-C", "ctl"],
            "control = \"ctl\" is neither a path nor a port: write /run/pen.ctl, 127.0.0.1:8888 or",
        ),
        (&["-p", ""], "pid_file = \"\" is not a path"),
        (
            &["--config", "pen.toml", "10.0.0.100"],
            "cannot be used with",
        ),
        (
            &["--config", "pen.toml", "-O", "debug 1"],
            "cannot be used with",
        ),
        (&["--config", "pen.toml", "-F", "x"], "cannot be used with"),
        (&["--config", "pen.toml", "-r"], "cannot be used with"),
        (&["--config", "pen.toml", "-U"], "cannot be used with"),
        (&["--config", "pen.toml", "-t", "1"], "cannot be used with"),
        (&["--config", "pen.toml", "-h"], "cannot be used with"),
        (&["--detach", "eth1", "-s"], "cannot be used with"),
        (&["--detach", "eth1", "10.0.0.100"], "cannot be used with"),
        (&["--detach", "eth1", "--check"], "cannot be used with"),
        (
            &["--detach", "no/such"],
            "\"no/such\" can't be the name of an interface",
        ),
        (&["--detach"], "value is required"),
    ] {
        let text = wrong(words);
        assert!(
            text.contains(expected),
            "{words:?}\ngave: {text}\nnot:  {expected}"
        );
    }
}
