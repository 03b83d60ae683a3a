use std::{cell::Cell, net::Shutdown, sync::atomic::Ordering::Relaxed, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    join,
    net::{TcpListener, TcpStream, UnixStream},
    time::{sleep, timeout},
};

use super::*;
use crate::proxy::{buffers, pipes};

const MOMENT: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(10);
/// A prime, so that a byte lost or doubled is seen wherever it happens.
const PERIOD: usize = 65_521;
const COPY: Options = Options {
    idle: None,
    fast_close: FastClose::Off,
    splice_after: u64::MAX,
};
const SPLICE: Options = Options {
    splice_after: 0,
    ..COPY
};

/// As the real one, and both streams end as when they are dropped.
async fn relay<'a>(
    client: &'a Stream,
    server: &'a Stream,
    options: &Options,
    account: impl Into<Account<'a>>,
) -> End {
    let end = super::relay(client, server, options, account).await;
    if matches!(end, End::Closed) {
        for stream in [client, server] {
            // It may have ended before.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
    end
}

/// Xorshift: the same bytes and sizes in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

/// Two periods, so that a slice of one period can start anywhere in the first.
fn pattern(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let once: Vec<u8> = (0..PERIOD).map(|_| random.below(256) as u8).collect();
    [once.clone(), once].concat()
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), total: usize, seed: u64) {
    let pattern = pattern(seed);
    let mut random = Random(seed + 1);
    let mut sent = 0;
    while sent < total {
        let most = [10, 5_000, PERIOD][random.below(3)];
        let size = (1 + random.below(most)).min(total - sent);
        let start = sent % PERIOD;
        stream
            .write_all(&pattern[start..start + size])
            .await
            .unwrap();
        sent += size;
        if random.below(50) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    stream.shutdown().await.unwrap();
}

/// Reads to the end of the stream and compares.
async fn receive(stream: &mut (impl AsyncRead + Unpin), total: usize, seed: u64) {
    let pattern = pattern(seed);
    let mut random = Random(seed + 2);
    let mut buffer = vec![0; PERIOD];
    let mut got = 0;
    loop {
        let most = 1 + random.below(PERIOD);
        let size = stream.read(&mut buffer[..most]).await.unwrap();
        if size == 0 {
            break;
        }
        let start = got % PERIOD;
        assert!(
            buffer[..size] == pattern[start..start + size],
            "other bytes at {got}"
        );
        got += size;
    }
    assert_eq!(got, total);
}

async fn tcp() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (far, near) = join!(TcpStream::connect(at), listener.accept());
    (far.unwrap(), Stream::from(near.unwrap().0))
}

fn unix() -> (UnixStream, Stream) {
    let (far, near) = UnixStream::pair().unwrap();
    (far, Stream::from(near))
}

/// A reset instead of an end.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

fn assert_given_back() {
    assert_eq!((buffers::gauge().used(), pipes::gauge().used()), (0, 0));
}

async fn intact<F: AsyncRead + AsyncWrite>(
    [(client, client_near), (server, server_near)]: [(F, Stream); 2],
    options: &Options,
) {
    const UP: usize = 7_000_001;
    const DOWN: usize = 9_000_011;
    let counts = Counts::default();
    let (mut client_reads, mut client_writes) = split(client);
    let (mut server_reads, mut server_writes) = split(server);
    let (end, (), (), (), ()) = join!(
        relay(&client_near, &server_near, options, &counts),
        send(&mut client_writes, UP, 11),
        send(&mut server_writes, DOWN, 12),
        receive(&mut server_reads, UP, 11),
        receive(&mut client_reads, DOWN, 12),
    );
    assert!(matches!(end, End::Closed), "{end:?}");
    assert_eq!(counts.up.load(Relaxed), UP as u64);
    assert_eq!(counts.down.load(Relaxed), DOWN as u64);
    assert_given_back();
}

#[tokio::test]
async fn copied_bytes_arrive_whole_and_in_order() {
    intact([tcp().await, tcp().await], &COPY).await;
    intact([unix(), unix()], &COPY).await;
    assert_eq!(pipes::gauge().spare(), 0, "nothing was spliced");
}

#[tokio::test]
async fn spliced_bytes_arrive_whole_and_in_order() {
    intact([tcp().await, tcp().await], &SPLICE).await;
    assert!(pipes::gauge().spare() > 0, "something was spliced");
    intact([unix(), unix()], &SPLICE).await;
    assert_eq!(buffers::gauge().spare(), 0, "nothing was copied");
}

#[tokio::test]
async fn bytes_arrive_whole_when_copies_and_splices_take_turns() {
    let options = Options {
        splice_after: 100_000,
        ..COPY
    };
    intact([tcp().await, tcp().await], &options).await;
    intact([unix(), unix()], &options).await;
    assert!(pipes::gauge().spare() > 0 && buffers::gauge().spare() > 0);
}

#[tokio::test]
async fn one_half_may_end_long_before_the_other() {
    for options in [COPY, SPLICE] {
        for turned in [false, true] {
            let counts = Counts::default();
            let ((mut first, first_near), (mut second, second_near)) = (tcp().await, tcp().await);
            let (client, server) = match turned {
                false => (&first_near, &second_near),
                true => (&second_near, &first_near),
            };
            let talk = async {
                first.write_all(b"question").await.unwrap();
                first.shutdown().await.unwrap();
                let mut heard = String::new();
                second.read_to_string(&mut heard).await.unwrap();
                assert_eq!(heard, "question");
                for _ in 0..3 {
                    sleep(MOMENT / 5).await;
                    second.write_all(b"answer ").await.unwrap();
                }
                drop(second);
                heard.clear();
                first.read_to_string(&mut heard).await.unwrap();
                assert_eq!(heard, "answer answer answer ");
            };
            let (end, ()) = join!(relay(client, server, &options, &counts), talk);
            assert!(matches!(end, End::Closed), "{end:?}");
            assert_given_back();
        }
    }
}

#[tokio::test]
async fn fast_close_ends_with_the_side_it_names_and_delivers_what_was_read() {
    for setting in FastClose::ALL {
        for side in [Side::Client, Side::Server] {
            let options = Options {
                fast_close: *setting,
                ..COPY
            };
            let counts = Counts::default();
            let ((mut client, client_near), (mut server, server_near)) = (tcp().await, tcp().await);
            let mut over = pin!(relay(&client_near, &server_near, &options, &counts));
            let (ends, hears) = match side {
                Side::Client => (&mut client, &mut server),
                Side::Server => (&mut server, &mut client),
            };
            ends.write_all(b"last words").await.unwrap();
            ends.shutdown().await.unwrap();
            let ended = timeout(MOMENT, &mut over).await;
            let mut heard = [0; 10];
            hears.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"last words");
            let fast = match setting {
                FastClose::Off => false,
                FastClose::Up => side == Side::Server,
                FastClose::Down => side == Side::Client,
                FastClose::Both => true,
            };
            match ended {
                Ok(End::FastClose(by)) => assert!(fast && by == side, "{setting} {side}"),
                Ok(other) => panic!("{setting} {side}: {other:?}"),
                Err(_) => assert!(!fast, "{setting} {side}"),
            }
        }
    }
}

fn assert_reset(end: &End, by: Side) {
    assert!(
        matches!(end, End::Failed { side, error } if *side == by
            && matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)),
        "{by}: {end:?}"
    );
}

#[tokio::test]
async fn a_reset_is_its_sides_also_after_its_stream_has_ended() {
    for options in [COPY, SPLICE] {
        for side in [Side::Client, Side::Server] {
            for ended in [false, true] {
                let counts = Counts::default();
                let ((client, client_near), (server, server_near)) = (tcp().await, tcp().await);
                let (mut breaks, _stays) = match side {
                    Side::Client => (client, server),
                    Side::Server => (server, client),
                };
                let breaking = async {
                    breaks.write_all(b"x").await.unwrap();
                    if ended {
                        breaks.shutdown().await.unwrap();
                    }
                    sleep(MOMENT / 5).await;
                    reset(breaks);
                };
                let over = relay(&client_near, &server_near, &options, &counts);
                let (end, ()) = join!(timeout(NEVER, over), breaking);
                assert_reset(&end.unwrap(), side);
                assert_given_back();
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_is_gone_is_seen_though_the_server_takes_nothing() {
    for options in [COPY, SPLICE] {
        let counts = Counts::default();
        let ((mut client, client_near), (_server, server_near)) = (tcp().await, tcp().await);
        let breaking = async {
            let bytes = vec![0; 1 << 20];
            while timeout(MOMENT, client.write_all(&bytes)).await.is_ok() {}
            reset(client);
        };
        let over = relay(&client_near, &server_near, &options, &counts);
        let (end, ()) = join!(timeout(NEVER, over), breaking);
        assert_reset(&end.unwrap(), Side::Client);
        assert_given_back();
    }
}

#[tokio::test]
async fn what_a_server_sent_before_it_broke_is_delivered() {
    for options in [COPY, SPLICE] {
        for client_writes in [false, true] {
            let counts = Counts::default();
            let ((mut client, client_near), (mut server, server_near)) = (tcp().await, tcp().await);
            server.write_all(&[7; 40_000]).await.unwrap();
            if client_writes {
                // What the server leaves unread makes a reset of its close.
                server_near.writable().await.unwrap();
                server_near.try_write(b"unread").unwrap();
                client.write_all(b"more").await.unwrap();
                drop(server);
            } else {
                reset(server);
            }
            sleep(MOMENT / 5).await;
            let end = relay(&client_near, &server_near, &options, &counts).await;
            assert_reset(&end, Side::Server);
            drop(client_near);
            let mut got = Vec::new();
            let _ = client.read_to_end(&mut got).await;
            assert_eq!(got.len(), 40_000);
            assert_given_back();
        }
    }
}

/// A socket that is closed with bytes unread forgets what it was told to send later.
#[tokio::test]
async fn the_last_bytes_are_on_their_way_before_a_client_with_unread_bytes_is_closed() {
    let options = Options {
        fast_close: FastClose::Up,
        ..COPY
    };
    let counts = Counts::default();
    let ((mut client, client_near), (mut server, server_near)) = (tcp().await, tcp().await);
    server.write_all(&[7; 1000]).await.unwrap();
    server.shutdown().await.unwrap();
    while !server_near.is_read_closed() {
        sleep(MOMENT / 10).await;
    }
    // More than both sockets to the server hold, which reads nothing.
    let _ = timeout(MOMENT, client.write_all(&vec![1; 16 << 20])).await;
    let end = relay(&client_near, &server_near, &options, &counts).await;
    assert!(matches!(end, End::FastClose(Side::Server)), "{end:?}");
    drop(client_near);
    let mut got = Vec::new();
    let _ = client.read_to_end(&mut got).await;
    assert_eq!(got.len(), 1000);
}

#[tokio::test]
async fn the_idle_time_begins_with_the_last_byte_of_either_direction() {
    let limit = 4 * MOMENT;
    let options = Options {
        idle: Some(limit),
        ..COPY
    };
    let counts = Counts::default();
    let ((_client, client_near), (mut server, server_near)) = (tcp().await, tcp().await);
    let last = async {
        for _ in 0..16 {
            sleep(MOMENT / 2).await;
            server.write_all(b"x").await.unwrap();
        }
        Instant::now()
    };
    let over = async {
        let end = relay(&client_near, &server_near, &options, &counts).await;
        (end, Instant::now())
    };
    let ((end, at), last) = join!(over, last);
    assert!(matches!(end, End::Idle), "{end:?}");
    assert_eq!(counts.down.load(Relaxed), 16);
    let after = at - last;
    // The relay reads the byte a moment after it was written, never before.
    assert!(after >= limit && after < limit + NEVER / 10, "{after:?}");
}

/// A relay that counts how often it is polled and the most bytes of one poll.
async fn watched(
    [client, server]: [&Stream; 2],
    options: &Options,
    counts: &Counts,
    seen: &Seen,
) -> End {
    let mut over = pin!(relay(client, server, options, counts));
    poll_fn(|context| {
        let total = || counts.up.load(Relaxed) + counts.down.load(Relaxed);
        let before = total();
        let polled = over.as_mut().poll(context);
        seen.polls.set(seen.polls.get() + 1);
        seen.most.set(seen.most.get().max(total() - before));
        polled
    })
    .await
}

#[derive(Default)]
struct Seen {
    polls: Cell<usize>,
    most: Cell<u64>,
}

#[tokio::test]
async fn a_slow_reader_stops_the_writer_and_nothing_turns_in_place() {
    for options in [COPY, SPLICE] {
        let (seen, counts) = (Seen::default(), Counts::default());
        let ((mut client, client_near), (mut server, server_near)) = (tcp().await, tcp().await);
        for socket in [SockRef::from(&client), SockRef::from(&server)] {
            socket.set_recv_buffer_size(65_536).unwrap();
            socket.set_send_buffer_size(65_536).unwrap();
        }
        for socket in [SockRef::from(&client_near), SockRef::from(&server_near)] {
            socket.set_recv_buffer_size(65_536).unwrap();
            socket.set_send_buffer_size(65_536).unwrap();
        }
        let bytes = vec![5; 65_536];
        let talk = async {
            let mut sent = 0;
            while let Ok(size) = timeout(2 * MOMENT, server.write(&bytes)).await {
                sent += size.unwrap();
            }
            // Two sockets on either side of a pipe, each of which the kernel doubles.
            assert!(sent < 4 * 2 * 65_536 + (1 << 20) + 65_536, "{sent} taken");
            let held = (buffers::gauge().used(), pipes::gauge().used());
            let spliced = options.splice_after == 0;
            assert_eq!(held, if spliced { (0, 1) } else { (1, 0) });
            let polls = seen.polls.get();
            sleep(4 * MOMENT).await;
            // This task's own timer polls the relay too, and the kernel probes a closed window now
            // and then, and may find room for some bytes.
            assert!(seen.polls.get() <= polls + 5, "polled for nothing");

            server.shutdown().await.unwrap();
            let mut got = 0;
            let mut buffer = vec![0; 1000];
            while let size @ 1.. = client.read(&mut buffer).await.unwrap() {
                got += size;
            }
            assert_eq!(got, sent);
            // The client keeps its half open: nothing may turn for that either.
            let polls = seen.polls.get();
            sleep(4 * MOMENT).await;
            assert!(seen.polls.get() <= polls + 5, "polled for nothing");
            client.shutdown().await.unwrap();
        };
        let ends = [&client_near, &server_near];
        let (end, ()) = join!(watched(ends, &options, &counts, &seen), talk);
        assert!(matches!(end, End::Closed), "{end:?}");
        assert_given_back();
    }
}

#[tokio::test]
async fn a_question_and_its_answer_are_two_polls() {
    let (seen, counts) = (Seen::default(), Counts::default());
    let ((mut client, client_near), (mut server, server_near)) = (tcp().await, tcp().await);
    let talk = tokio::spawn(async move {
        let mut heard = [0; 8];
        for _ in 0..1000 {
            client.write_all(b"question").await.unwrap();
            server.read_exact(&mut heard).await.unwrap();
            server.write_all(b"answer!!").await.unwrap();
            client.read_exact(&mut heard).await.unwrap();
        }
    });
    let ends = [&client_near, &server_near];
    let end = watched(ends, &COPY, &counts, &seen).await;
    talk.await.unwrap();
    assert!(matches!(end, End::Closed), "{end:?}");
    assert!(seen.polls.get() < 2 * 1000 + 20, "{}", seen.polls.get());
    assert_eq!(buffers::gauge().spare(), 1, "one buffer did it all");
}

#[tokio::test]
async fn a_connection_that_always_has_bytes_leaves_the_thread_after_its_share() {
    for options in [COPY, SPLICE] {
        let (seen, counts) = (Seen::default(), Counts::default());
        let ((client, client_near), (server, server_near)) = (tcp().await, tcp().await);
        // Threads of their own, so that there is always more to read and room to write.
        let mut writer = server.into_std().unwrap();
        let mut reader = client.into_std().unwrap();
        writer.set_nonblocking(false).unwrap();
        reader.set_nonblocking(false).unwrap();
        let writer = std::thread::spawn(move || {
            let bytes = vec![0; 1 << 20];
            (0..100).for_each(|_| io::Write::write_all(&mut writer, &bytes).unwrap());
        });
        let reader = std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()).unwrap());
        // The reader is at its end when the relay has passed the server's end on.
        let ends = [&client_near, &server_near];
        let end = watched(ends, &options, &counts, &seen).await;
        assert!(matches!(end, End::Closed), "{end:?}");
        writer.join().unwrap();
        assert_eq!(reader.join().unwrap(), 100 << 20);
        let most = seen.most.get();
        assert!(most <= (256 << 10) + (1 << 20), "{most} bytes in one poll");
    }
}

#[tokio::test]
async fn a_dropped_relay_closes_nothing_and_gives_back_what_it_held() {
    for options in [COPY, SPLICE] {
        let counts = Counts::default();
        let ((mut client, client_near), (mut server, server_near)) = (unix(), unix());
        let held = async {
            let bytes = vec![1; 1 << 20];
            while timeout(MOMENT / 5, server.write_all(&bytes)).await.is_ok() {}
            (buffers::gauge().used(), pipes::gauge().used())
        };
        tokio::select! {
            end = relay(&client_near, &server_near, &options, &counts) => panic!("{end:?}"),
            held = held => assert_eq!(held.0 + held.1, 1),
        }
        assert_given_back();
        assert_eq!(pipes::gauge().spare(), 0, "its bytes are closed with it");
        client.write_all(b"still here").await.unwrap();
        client_near.readable().await.unwrap();
        assert_eq!(client_near.try_read(&mut [0; 100]).unwrap(), 10);
        client_near.shutdown(Shutdown::Both).unwrap();
    }
}

#[tokio::test]
async fn an_idle_connection_holds_nothing() {
    let counts = Counts::default();
    let ((mut client, client_near), (mut server, server_near)) = (unix(), unix());
    let talk = async {
        for _ in 0..3 {
            client.write_all(&[0; 100_000]).await.unwrap();
            server.read_exact(&mut [0; 100_000]).await.unwrap();
            sleep(MOMENT / 5).await;
            assert_given_back();
        }
        drop((client, server));
    };
    let options = Options {
        splice_after: 50_000,
        ..COPY
    };
    let over = relay(&client_near, &server_near, &options, &counts);
    let size = size_of_val(&over);
    assert!(size <= 1024, "{size} bytes for a connection");
    let (end, ()) = join!(over, talk);
    assert!(matches!(end, End::Closed), "{end:?}");
    assert_eq!(counts.up.load(Relaxed), 300_000);
    assert!(pipes::gauge().spare() > 0 && buffers::gauge().spare() > 0);
}
