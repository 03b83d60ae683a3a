//! The name that a client asks for, overheard: all that it says stays in its socket, for whoever
//! serves it.

use std::cell::RefCell;
use std::io::{self, ErrorKind};

use tokio::io::Interest;

use super::handshake::Failed;
use super::hello::{self, Hello, SEEN_MAX, Unread};
use crate::proxy::stream::Stream;

thread_local! {
    /// What is looked at. One for each thread: nothing is kept from one look to the next.
    static SEEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a client began with.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Overheard {
    /// A ClientHello; the name is in lower case.
    Asked(Option<String>),
    /// None, for this reason.
    Otherwise(&'static str),
}

/// How far a look got.
enum Look {
    /// Fewer bytes than there must be, which is how many there are.
    Few(usize),
    Enough(Hello),
}

/// Waits until it is known what a client begins with, which need not ever be so.
///
/// # Errors
/// It has left without a byte, or its connection broke.
pub(in crate::proxy) async fn overhear(client: &Stream) -> Result<Overheard, Failed> {
    let mut total = 1;
    loop {
        // Asked before the look: an end that was known by then is behind all that is seen.
        let ready = client.ready(Interest::READABLE).await?;
        match look(client, total).map_err(|error| Failed::of(error, total > 1))? {
            Look::Few(0) if ready.is_read_closed() => return Err(Failed::Nothing),
            Look::Few(_) if ready.is_read_closed() => {
                return Ok(Overheard::Otherwise("its stream ended in the ClientHello"));
            }
            Look::Few(_) => {}
            Look::Enough(Hello::NeedMore { total: more }) => total = more,
            Look::Enough(Hello::Whole(name)) => return Ok(Overheard::Asked(name)),
            Look::Enough(Hello::No(why)) => return Ok(Overheard::Otherwise(text(why))),
        }
    }
}

fn text(why: Unread) -> &'static str {
    match why {
        Unread::NotTls => "it speaks no TLS",
        Unread::Malformed => "its ClientHello is malformed",
        Unread::TooLong => "its ClientHello is too long",
    }
}

/// Looks at what has come, if that is `total` bytes. Where it is less, the socket counts as read, so
/// that the next wait is for more.
fn look(client: &Stream, total: usize) -> io::Result<Look> {
    let mut few = 0;
    let looked = client.try_io(Interest::READABLE, || {
        SEEN.with_borrow_mut(|seen| {
            seen.resize(SEEN_MAX, 0);
            let (wanted, _) = seen.split_at_mut(total.min(SEEN_MAX));
            // Counted first, which copies nothing: bytes that come one by one must not cost more
            // and more.
            few = client.count(wanted)?;
            if few < total {
                return Err(ErrorKind::WouldBlock.into());
            }
            let got = client.peek(seen)?;
            Ok(hello::read(seen.get(..got).unwrap_or_default()))
        })
    });
    match looked {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Look::Few(few)),
        looked => looked.map(Look::Enough),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream, UnixStream};
    use tokio::time::{sleep, timeout};

    use super::super::hello::tests::{hello, records};
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn both() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(listener.accept(), far);
        let far = far.unwrap();
        far.set_nodelay(true).unwrap();
        (Stream::from(near.unwrap().0), far)
    }

    fn asked(name: &str) -> Overheard {
        Overheard::Asked(Some(name.to_owned()))
    }

    #[tokio::test]
    async fn nothing_is_taken_however_it_comes() {
        let whole = records(&hello(Some("a.test"), 300), 40);
        for pieces in [1, 7, whole.len()] {
            let (near, mut far) = both().await;
            let (said, heard) = tokio::join!(
                async {
                    for piece in whole.chunks(pieces) {
                        far.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    far.write_all(b"more").await
                },
                timeout(SOON, overhear(&near)),
            );
            said.unwrap();
            assert_eq!(heard.unwrap().unwrap(), asked("a.test"));
            drop(far);
            let mut all = Vec::new();
            let mut buffer = [0; 999];
            loop {
                near.readable().await.unwrap();
                match near.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(got) => all.extend_from_slice(&buffer[..got]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            assert_eq!(all, [&whole[..], b"more"].concat());
        }
    }

    /// More than a socket takes by itself before somebody reads.
    #[tokio::test]
    async fn the_longest_is_heard() {
        for size in [100, 1000, 16 << 10] {
            let body = hello(Some("long.test"), 0).len();
            let whole = records(&hello(Some("long.test"), (64 << 10) - body - 4), size);
            let (near, mut far) = both().await;
            let heard = timeout(SOON, overhear(&near));
            let (said, heard) = tokio::join!(far.write_all(&whole), heard);
            said.unwrap();
            assert_eq!(heard.unwrap().unwrap(), asked("long.test"), "{size}");
        }
    }

    /// It must not be asked again and again whether a stream that has ended has more.
    #[tokio::test]
    async fn who_ends_its_stream_is_not_waited_for() {
        let whole = records(&hello(Some("a.test"), 0), 999);
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = Stream::from(near);
        far.write_all(&whole).await.unwrap();
        far.shutdown().await.unwrap();
        let heard = timeout(SOON, overhear(&near)).await.unwrap();
        assert_eq!(heard.unwrap(), asked("a.test"));
        let (near, mut far) = both().await;
        far.write_all(&whole[..whole.len() - 1]).await.unwrap();
        far.shutdown().await.unwrap();
        let heard = timeout(SOON, overhear(&near)).await.unwrap();
        let cut = Overheard::Otherwise("its stream ended in the ClientHello");
        assert_eq!(heard.unwrap(), cut);
        let (near, far) = both().await;
        drop(far);
        let heard = timeout(SOON, overhear(&near)).await.unwrap();
        assert!(matches!(heard, Err(Failed::Nothing)), "{heard:?}");
    }

    #[tokio::test]
    async fn what_is_no_tls_is_known_by_its_first_byte() {
        let (near, mut far) = both().await;
        far.write_all(b"G").await.unwrap();
        let heard = timeout(SOON, overhear(&near)).await.unwrap();
        let plain = Overheard::Otherwise("it speaks no TLS");
        assert_eq!(heard.unwrap(), plain);
        // Who says nothing is waited for, without asking again and again.
        let (near, _far) = both().await;
        let short = Duration::from_millis(50);
        assert!(timeout(short, overhear(&near)).await.is_err());
        sleep(short).await;
    }
}
