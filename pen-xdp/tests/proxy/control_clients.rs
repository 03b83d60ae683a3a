//! Clients of the control socket who mean harm or know no better: all are answered, refused or sent
//! away, and whoever asks for something real is answered within seconds.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use lab::Nginx;

use crate::rig::{Pen, addresses, answerers, lab, say, server, wait_for};

/// What an operator waits for an answer, in the worst case.
const SECONDS: Duration = Duration::from_secs(4);

fn connect(pen: &Pen) -> UnixStream {
    let stream = UnixStream::connect(&pen.control).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Sends bytes and reads whatever comes; an error is as good as an end.
fn throw(pen: &Pen, bytes: &[u8]) -> String {
    let mut stream = connect(pen);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A normal command is answered soon.
#[track_caller]
fn is_answered(pen: &Pen) {
    let begun = Instant::now();
    let (sender, answer) = mpsc::channel();
    let control = pen.control.clone();
    thread::spawn(move || sender.send(say(&control, "pid")));
    let answer = answer
        .recv_timeout(SECONDS)
        .expect("the operator is not answered");
    assert_eq!(answer, format!("{}\n", pen.process.id()));
    assert!(begun.elapsed() < SECONDS);
}

fn descriptors(pen: &Pen) -> usize {
    let folder = format!("/proc/{}/fd", pen.process.id());
    std::fs::read_dir(Path::new(&folder)).unwrap().count()
}

#[test]
fn noise_of_any_length_has_an_answer() {
    if !lab::ready("noise_of_any_length_has_an_answer") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let idle = pen.descriptors();
    let pid = format!("{}\n", pen.process.id());
    let too_long = "the request is longer than 4095 bytes\n";
    assert_eq!(throw(&pen, &[b'x'; 4095]), too_long);
    assert_eq!(throw(&pen, &vec![b' '; 10_000_000]), too_long);
    let blanks = [&b"pid"[..], &[b' '; 4000], b"\n"].concat();
    assert_eq!(throw(&pen, &blanks), pid);
    for garbage in [
        &b"\0\0\0\0\n"[..],
        b"\xff\xfe\x80",
        b"pid\0\n",
        b"\x1b[2J\x07\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let answer = throw(&pen, garbage);
        assert!(
            answer.starts_with("do_cmd: ignoring command starting with '"),
            "{answer:?}"
        );
        assert!(!answer.trim_end().contains(char::is_control), "{answer:?}");
    }
    let mut seed = 7_u32;
    for length in 0..200_usize {
        let bytes = (0..length * 31).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        throw(&pen, &bytes.collect::<Vec<u8>>());
    }
    // Half a request: in two pieces, without an end, and left alone.
    let mut stream = connect(&pen);
    stream.write_all(b"p").unwrap();
    thread::sleep(Duration::from_millis(100));
    stream.write_all(b"id\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, pid);
    assert_eq!(throw(&pen, b"pid"), pid);
    assert_eq!(throw(&pen, b""), "");
    let mut half = connect(&pen);
    half.write_all(b"serv").unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert_eq!(
        answer,
        "no whole line came within 5 s: send one line, then read the answer\n"
    );
    // Who leaves at once has had his change all the same, and nobody else's time.
    for _ in 0..200 {
        drop(connect(&pen));
    }
    connect(&pen).write_all(b"server 0 weight 7\n").unwrap();
    wait_for("the weight", || pen.servers()[0].weight == 7);
    is_answered(&pen);
    for address in addresses() {
        assert_eq!(answerers(&lab, address, 1), ["be0"]);
    }
    pen.wait_until_idle();
    drop(half);
    drop(stream);
    // Without a line of the proxy's, of which some may be kept: as many as before.
    wait_for("all clients to be gone", || descriptors(&pen) <= idle + 2);
    pen.stop();
}

#[test]
fn silent_clients_do_not_lock_out_the_operator() {
    if !lab::ready("silent_clients_do_not_lock_out_the_operator") {
        return;
    }
    let lab = lab(1);
    let pen = Pen::start(&lab, &["80", &server(0)]);
    // More than are served at a time: some say nothing, some half of something, some never end.
    let mut held: Vec<UnixStream> = (0..150).map(|_| connect(&pen)).collect();
    for (at, stream) in held.iter_mut().enumerate() {
        let bytes: &[u8] = match at % 3 {
            0 => b"",
            1 => b"sta",
            _ => b"status\n",
        };
        // One that was sent away already is no matter.
        let _ = stream.write_all(bytes);
    }
    is_answered(&pen);
    // They come again as soon as they are sent away.
    let control = pen.control.clone();
    let (stop, stopped) = mpsc::channel::<()>();
    let again = thread::spawn(move || {
        let mut silent = Vec::new();
        while stopped.try_recv().is_err() {
            silent.extend(UnixStream::connect(&control));
            if silent.len() > 300 {
                silent.drain(..100);
            }
        }
    });
    for _ in 0..5 {
        is_answered(&pen);
    }
    stop.send(()).unwrap();
    again.join().unwrap();
    drop(held);
    is_answered(&pen);
    pen.stop();
}

#[test]
fn who_never_reads_a_large_answer_is_sent_away() {
    if !lab::ready("who_never_reads_a_large_answer_is_sent_away") {
        return;
    }
    let lab = lab(1);
    let folder = lab.folder().join("many");
    std::fs::create_dir_all(&folder).unwrap();
    let (config, control) = (folder.join("pen.toml"), folder.join("control"));
    // A page that no socket's buffer takes whole.
    let servers: Vec<String> = (0..4000)
        .map(|at| format!("\"10.{}.{}.1\"", at / 250, at % 250))
        .collect();
    let text = format!(
        "foreground = true\ncontrol = {control:?}\n[[service]]\nname = \"web\"\nmode = \"tcp\"\n\
         listen = \"80\"\n[[pool]]\nname = \"web\"\nbackend = [{}]\n",
        servers.join(", ")
    );
    std::fs::write(&config, text).unwrap();
    let pen = Pen::start_file(&lab, &config, &control);
    let idle = pen.descriptors();
    let deaf: Vec<UnixStream> = (0..64)
        .map(|_| {
            let mut stream = connect(&pen);
            stream.write_all(b"status\n").unwrap();
            stream
        })
        .collect();
    is_answered(&pen);
    let whole = say(&control, "status");
    assert!(
        whole.len() > 400_000 && whole.ends_with("</html>\n"),
        "{}",
        whole.len()
    );
    wait_for("the deaf to be sent away", || descriptors(&pen) <= idle + 2);
    drop(deaf);
    pen.stop();
}

#[test]
fn a_thousand_at_once_are_all_answered() {
    if !lab::ready("a_thousand_at_once_are_all_answered") {
        return;
    }
    let lab = lab(1);
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let idle = pen.descriptors();
    let (sender, answers) = mpsc::channel();
    for number in 0..1000 {
        let (sender, control) = (sender.clone(), pen.control.clone());
        let one = move || {
            let line = match number % 4 {
                0 => "pid",
                1 => "server 0 weight 1",
                2 => "servers",
                _ => "nonsense",
            };
            let answer = say(&control, line);
            sender.send((number, answer)).unwrap();
        };
        thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(one)
            .unwrap();
    }
    drop(sender);
    is_answered(&pen);
    let mut count = 0;
    let end = Instant::now() + Duration::from_secs(60);
    while count < 1000 {
        let left = end.saturating_duration_since(Instant::now());
        let (number, answer) = answers.recv_timeout(left).expect("some are stuck");
        match number % 4 {
            0 => assert_eq!(answer, format!("{}\n", pen.process.id())),
            1 => assert_eq!(answer, ""),
            2 => assert!(answer.starts_with("0 addr "), "{answer}"),
            _ => assert!(answer.starts_with("do_cmd: "), "{answer}"),
        }
        count += 1;
    }
    wait_for("all clients to be gone", || descriptors(&pen) <= idle);
    pen.stop();
}
