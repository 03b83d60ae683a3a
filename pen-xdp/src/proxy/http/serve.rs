//! One client's connection.

use std::convert::Infallible;
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
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = kept.is_to_end() => {
            connection.as_mut().graceful_shutdown();
            connection.await
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
    if let Some(mut line) = service.line(&visitor) {
        line.refused(why);
        // hyper answered that by itself.
        if let Some(status) = status {
            line.answered(status);
        }
    }
}
