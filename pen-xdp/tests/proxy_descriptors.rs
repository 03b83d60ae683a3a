//! Connections that come and go leave no descriptor, buffer or pipe behind. A program of its own:
//! the descriptors are those of the whole process.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{fs, time::Duration};

use pen::proxy::{
    buffers, pipes,
    relay::{Counts, End, Options, relay},
    stream::Stream,
};
use pen_common::config::FastClose;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::UnixStream,
    time::timeout,
};

const SPLICE: Options = Options {
    idle: Some(Duration::from_secs(60)),
    fast_close: FastClose::Off,
    splice_after: 0,
};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A question and its answer, and both sides leave.
async fn whole(options: &Options) {
    let ((mut client, client_near), (mut server, server_near)) = (pair(), pair());
    let counts = Counts::default();
    let talk = async {
        let mut heard = [0; 100];
        client.write_all(&[1; 100]).await.unwrap();
        server.read_exact(&mut heard).await.unwrap();
        server.write_all(&heard).await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        drop((client, server));
    };
    let (end, ()) = join!(relay(&client_near, &server_near, options, &counts), talk);
    assert!(matches!(end, End::Closed), "{end:?}");
}

/// A relay that is dropped with bytes in its hands.
async fn cut_off(options: &Options) {
    let ((_client, client_near), (server, server_near)) = (pair(), pair());
    let counts = Counts::default();
    let bytes = vec![0; 1 << 20];
    while server.try_write(&bytes).is_ok() {}
    let fill = async {
        // Until the relay is full as well.
        while timeout(Duration::from_millis(1), server.writable())
            .await
            .is_ok()
        {
            while server.try_write(&bytes).is_ok() {}
        }
    };
    tokio::select! {
        end = relay(&client_near, &server_near, options, &counts) => panic!("{end:?}"),
        () = fill => {}
    }
}

fn pair() -> (UnixStream, Stream) {
    let (far, near) = UnixStream::pair().unwrap();
    (far, Stream::from(near))
}

#[tokio::test]
async fn nothing_is_left_of_thousands_of_connections() {
    let copy = Options {
        splice_after: u64::MAX,
        ..SPLICE
    };
    let before = descriptors();
    for _ in 0..1000 {
        for options in [&copy, &SPLICE] {
            whole(options).await;
        }
    }
    for _ in 0..200 {
        for options in [&copy, &SPLICE] {
            cut_off(options).await;
        }
    }
    let (buffers, pipes) = (buffers::gauge(), pipes::gauge());
    assert_eq!((buffers.used(), pipes.used()), (0, 0));
    assert_eq!(descriptors(), before + 2 * pipes.spare());
    assert!(
        buffers.spare() <= 2 && pipes.spare() <= 2,
        "{buffers:?} {pipes:?}"
    );
}
