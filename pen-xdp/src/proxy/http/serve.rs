//! One client's connection.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use pen_common::control::{Refused, Stage};
use socket2::SockRef;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::answers::Words;
use super::client::Client;
use super::forward::{self, Asked, Next};
use super::head::{Fault, HEAD_MAX, Search};
use super::headers::Given;
use super::kept::Kept;
use super::pending::Got;
use crate::proxy::buffers::SIZE;
use crate::proxy::session::{LAST_WORD, Places, Visitor};
use crate::proxy::stream::Stream;

/// How long a client may go on sending that is told to stop, and how much, in bytes.
const DRAINED_FOR: Duration = Duration::from_secs(2);
const DRAINED_MAX: usize = 16 << 20;
/// Requests that a client may have answered before the other connections of the thread get their
/// turn.
const TURN: u32 = 16;

/// What came instead of a request, or with it.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are requests, and none is kept"
)]
enum Came {
    Request(Asked),
    /// None, and it is over.
    End,
    /// A head that is not whole in time.
    Slow,
    Fault(Fault),
}

/// Answers a client's requests, one after the other, until one of both sides has enough.
pub(in crate::proxy) async fn serve(stream: Stream, visitor: Visitor, places: Places) {
    let connection = Arc::clone(&places.connection);
    connection.reached(Stage::Kept);
    let _cut = connection.cuts(&stream);
    let mut client = Client::new(&stream, visitor, &connection);
    let kept = Kept::new();
    for count in 1_u32.. {
        if count % TURN == 0 {
            // Who sends many at once never waits, and others do.
            yield_now().await;
        }
        let next = match next(&mut client, &kept).await {
            // Boxed: most connections are idle at most times, and have no request to keep room for.
            Came::Request(asked) => Box::pin(forward::serve(&mut client, asked)).await,
            Came::End => Next::Close,
            Came::Slow => {
                refused(&client, Refused::SlowHead, None);
                // It had its time.
                return stream.close(LAST_WORD).await;
            }
            Came::Fault(fault) => answer_fault(&mut client, fault).await,
        };
        match next {
            Next::Keep => {}
            // What is not read would throw away the end of the answer.
            Next::Close if !client.inbox.is_empty() || is_asked(&stream) => {
                return drain(&mut client).await;
            }
            Next::Close => return stream.close(LAST_WORD).await,
            Next::Leave => return,
            Next::Drain => return drain(&mut client).await,
            Next::Reset => {
                // A client that takes the end of the connection for the end of the answer is told by
                // a reset that it is none. If the kernel can't, the answer is just short.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return;
            }
        }
    }
}

/// Waits for a request.
async fn next(client: &mut Client<'_>, kept: &Kept) -> Came {
    let patience = client.service().settings().head_timeout;
    let mut due = Instant::now() + patience;
    let mut search = Search::default();
    let (mut begun, mut partial, mut room_wanted) = (false, false, false);
    let mut is_to_end = pin!(kept.is_to_end());
    let mut skipped = 0;
    loop {
        skipped += skip_lines(client);
        if skipped > HEAD_MAX {
            return Came::Fault(Fault::TooLong);
        }
        if !client.inbox.is_empty() && (!partial || search.finds_end(client.inbox.bytes())) {
            match forward::take(client, kept) {
                Ok(Some(asked)) => return Came::Request(asked),
                Ok(None) if !partial => {
                    partial = true;
                    continue;
                }
                // Its end is there, and it has none: there is more than one way to read it.
                Ok(None) => return Came::Fault(Fault::TooLong),
                Err(fault) => return Came::Fault(fault),
            }
        }
        if client.inbox.len() >= HEAD_MAX {
            return Came::Fault(Fault::TooLong);
        }
        if !client.inbox.is_empty() && !std::mem::replace(&mut begun, true) {
            due = Instant::now() + patience;
        }
        match client.read(HEAD_MAX) {
            Ok(Got::Bytes(_)) => continue,
            Ok(Got::Nothing) => {}
            Ok(Got::End) | Err(_) => return Came::End,
        }
        if std::mem::take(&mut room_wanted) && !begun && !is_asked(client.stream) {
            return Came::End;
        }
        let (stream, alarm) = (client.stream, &mut client.alarm);
        let late = poll_fn(|context| {
            if stream.poll_readable(context).is_ready() {
                return Poll::Ready(false);
            }
            if !begun && is_to_end.as_mut().poll(context).is_ready() {
                room_wanted = true;
                return Poll::Ready(false);
            }
            alarm.poll(Some(due), context).map(|()| true)
        })
        .await;
        if room_wanted {
            is_to_end.set(kept.is_to_end());
        }
        match late {
            true if begun => return Came::Slow,
            true => return Came::End,
            false => {}
        }
    }
}

/// Empty lines before a request are ignored (RFC 9112, 2.2); how many bytes these were.
fn skip_lines(client: &mut Client<'_>) -> usize {
    let empty = |byte: &&u8| matches!(byte, b'\r' | b'\n');
    let count = client.inbox.bytes().iter().take_while(empty).count();
    client.inbox.consume(count);
    count
}

/// Whether something has come that the event loop did not tell of yet.
fn is_asked(stream: &Stream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    let waiting = SockRef::from(stream).peek(&mut byte);
    waiting.is_ok_and(|count| count > 0)
}

/// Answers what is no clear request. Where the next one begins is not known.
async fn answer_fault(client: &mut Client<'_>, fault: Fault) -> Next {
    tracing::debug!("a request is refused: {fault:?}");
    let settings = client.service().settings();
    let words = if fault == Fault::TooLong {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Words::plain(status, Refused::BadRequest.text())
    } else {
        Words::refusal(Refused::BadRequest, settings.reason_header)
    };
    let given = Given::plain(1, false, client.hsts(&settings));
    client.outbox.push(&words.written(given, false));
    refused(client, Refused::BadRequest, Some(words.status));
    match client.write_all(settings.relay.idle).await {
        Ok(()) => Next::Drain,
        Err(_) => Next::Leave,
    }
}

/// Counts a client who was not understood.
fn refused(client: &Client<'_>, why: Refused, status: Option<StatusCode>) {
    let service = client.service();
    service.count(why);
    if let Some(mut line) = service.line(&client.visitor) {
        line.refused(why);
        if let Some(status) = status {
            line.answered(status.as_u16());
        }
    }
}

/// Lets a client know that no more is read, and waits until it knows: what it still sends would
/// throw away what it was answered.
async fn drain(client: &mut Client<'_>) {
    client.inbox.clear();
    if client.stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let due = Instant::now() + DRAINED_FOR;
    let mut drained = 0;
    while drained < DRAINED_MAX && Instant::now() < due {
        match client.read(SIZE) {
            Ok(Got::Bytes(count)) => {
                drained += count;
                client.inbox.clear();
                yield_now().await;
                continue;
            }
            Ok(Got::Nothing) => {}
            Ok(Got::End) | Err(_) => return,
        }
        let (stream, alarm) = (client.stream, &mut client.alarm);
        poll_fn(|context| match stream.poll_readable(context) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => alarm.poll(Some(due), context),
        })
        .await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::LocalSet;
    use tokio::time::sleep;

    use super::super::kept::{close_oldest, tests::ALONE};
    use super::*;
    use crate::proxy::connections::{Connections, tests::service};
    use crate::proxy::gate::Gate;
    use crate::proxy::listeners::Listener;
    use crate::proxy::service::Service;

    const SOON: Duration = Duration::from_millis(20);

    /// A service, and a client of it.
    async fn visited() -> (Arc<Service>, Visitor, Places) {
        let service = service("web", &Arc::new(Connections::default()));
        let places = Places {
            _service: service.connections.enter().await,
            _everyone: Arc::new(Gate::new(1)).enter().await,
            connection: service.begin(None),
        };
        let visitor = Visitor {
            address: None,
            port: 0,
            listener: Listener::new("[::]:80"),
        };
        (service, visitor, places)
    }

    /// Serves a client, whose word is given back; and how many requests were refused as bad ones.
    /// The service's only server can't be reached: who would go there is answered 502, or 503.
    async fn served(client: impl AsyncFnOnce(UnixStream) -> String) -> (String, u64) {
        let (service, visitor, places) = visited().await;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = serve(Stream::from(theirs), visitor, places);
        let both = async { tokio::join!(client(ours), serving) };
        let (word, ()) = LocalSet::new().run_until(both).await;
        (word, service.refused(Refused::BadRequest))
    }

    /// All that comes until the end; who is refused may be cut off.
    async fn rest(mut stream: UnixStream) -> String {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_idle_connection_keeps_no_room_for_a_request() {
        let (_, visitor, places) = visited().await;
        let stream = Stream::from(UnixStream::pair().unwrap().0);
        let size = size_of_val(&serve(stream, visitor, places));
        assert!(size <= 1024, "{size}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_head_that_ends_behind_the_longest_is_not_taken() {
        let begin = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        let ends = "\r\nHost: b\r\n\r\n";
        let next = "GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let told = async |first: usize, then: usize| {
            let first = format!("{begin}{}", "x".repeat(first - begin.len()));
            let then = format!("{}{ends}{next}", "x".repeat(then - ends.len()));
            served(async |mut client| {
                client.write_all(first.as_bytes()).await.unwrap();
                sleep(SOON).await;
                client.write_all(then.as_bytes()).await.unwrap();
                rest(client).await
            })
            .await
        };
        for (first, then) in [
            (65_000, 10_000),
            (60_000, 6000),
            (65_000, HEAD_MAX - 65_000 + 1),
        ] {
            let (answer, refused) = told(first, then).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{then}: {answer}");
            assert_eq!(
                (answer.matches("HTTP/1.1 ").count(), refused),
                (1, 1),
                "{then}"
            );
        }
        // The longest is looked at: it names two hosts.
        let (answer, _) = told(65_000, HEAD_MAX - 65_000).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_asks_while_room_is_made_is_answered() {
        let _alone = ALONE.lock().await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        for early in [0, 5, request.len()] {
            let (answer, _) = served(async |mut client| {
                let kept = request.replace("close", "keep-alive");
                client.write_all(kept.as_bytes()).await.unwrap();
                sleep(SOON).await;
                let mut first = [0; 1000];
                let count = client.read(&mut first).await.unwrap();
                assert!(first[..count].starts_with(b"HTTP/1.1 50"));
                client.try_write(&request.as_bytes()[..early]).unwrap();
                if early < request.len() {
                    sleep(SOON).await;
                }
                close_oldest(1);
                if early < request.len() {
                    sleep(SOON).await;
                    let _ = client.try_write(&request.as_bytes()[early..]);
                }
                rest(client).await
            })
            .await;
            // Who was idle is gone.
            assert_eq!(
                answer.starts_with("HTTP/1.1 50"),
                early > 0,
                "{early}: {answer}"
            );
        }
    }
}
