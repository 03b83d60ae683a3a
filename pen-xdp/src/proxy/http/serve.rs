//! One client's connection.

use std::convert::Infallible;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::StatusCode;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use pen_common::control::{Refused, Stage};
use socket2::SockRef;

use super::forward::{Client, forward};
use super::guard::HEAD_MAX;
use super::io::{ClientIo, Clock, Signs};
use super::kept::Kept;
use crate::proxy::service::Service;
use crate::proxy::session::{Places, Visitor};
use crate::proxy::stream::Stream;

/// Answers a client's requests, one after the other, until one of both sides has enough.
pub(in crate::proxy) async fn serve(stream: Stream, visitor: Visitor, places: Places) {
    let connection = Arc::clone(&places.connection);
    let service = &connection.service;
    connection.reached(Stage::Kept);
    let signs = Arc::new(Signs::default());
    let stream = Arc::new(stream);
    let settings = service.settings();
    let idle = settings.relay.idle;
    let _cut = connection.cuts(&stream);
    let at = Arc::clone(&connection);
    let io = ClientIo::new(at, Arc::clone(&stream), Arc::clone(&signs), idle);
    let client = Rc::new(Client {
        service: Arc::clone(service),
        visitor,
        signs: Arc::clone(&signs),
        places,
    });
    let kept = Kept::new();
    let answer = service_fn(|request| {
        let (client, busy) = (Rc::clone(&client), kept.begin());
        async move {
            let answer = forward(client, request).await;
            Ok::<_, Infallible>(answer.map(|body| body.with(busy)))
        }
    });
    let mut connection = pin!(
        Builder::new()
            .timer(Clock)
            .header_read_timeout(settings.head_timeout)
            .max_buf_size(HEAD_MAX)
            .title_case_headers(true)
            .serve_connection(io, answer)
            .with_upgrades()
    );
    let ended = loop {
        tokio::select! {
            // First what has come, so that nobody who asked is sent away.
            biased;
            ended = &mut connection => break ended,
            () = kept.is_to_end() => {
                if is_asked(&stream, &signs) {
                    continue;
                }
                connection.as_mut().graceful_shutdown();
                break connection.await;
            }
        }
    };
    let Err(error) = ended else {
        return;
    };
    tracing::debug!("service {}: {visitor:?}: {error}", service.name);
    if signs.broken.load(Ordering::Relaxed) {
        // A client that takes the end of the connection for the end of the answer is told by a
        // reset that it is none. If the kernel can't, the answer is just short.
        let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
    }
    note(service, &visitor, &error, &signs);
}

/// Whether more of a request has come than hyper has seen: a part of its head, or bytes that the
/// event loop did not tell of yet.
fn is_asked(stream: &Stream, signs: &Signs) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    let waiting = SockRef::from(stream).peek(&mut byte);
    signs.in_head.load(Ordering::Relaxed) || waiting.is_ok_and(|count| count > 0)
}

/// Counts a client whom hyper refused.
fn note(service: &Service, visitor: &Visitor, error: &hyper::Error, signs: &Signs) {
    let (why, status) = if error.is_timeout() && signs.in_head.load(Ordering::Relaxed) {
        (Refused::SlowHead, None)
    } else if error.is_parse_too_large() {
        (
            Refused::BadRequest,
            Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        )
    } else if error.is_parse() {
        (Refused::BadRequest, Some(StatusCode::BAD_REQUEST))
    } else {
        return;
    };
    service.count(why);
    if let Some(mut line) = service.line(visitor) {
        line.refused(why);
        // hyper answered that by itself.
        if let Some(status) = status {
            line.answered(status);
        }
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

    const SOON: Duration = Duration::from_millis(20);

    /// Serves a client, whose word is given back; and how many requests were refused as bad ones.
    /// The service's only server can't be reached: who would go there is answered 502, or 503.
    async fn served(client: impl AsyncFnOnce(UnixStream) -> String) -> (String, u64) {
        let service = service("web", &Arc::new(Connections::default()));
        let places = Places {
            _service: service.connections.enter().await,
            _everyone: Arc::new(Gate::new(1)).enter().await,
            connection: service.begin(None),
        };
        let visitor = Visitor {
            address: None,
            port: 0,
            listener: 0,
        };
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
            assert_eq!((answer.matches("HTTP/").count(), refused), (1, 1), "{then}");
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
