//! Connections that go on in another protocol: bytes pass as in TCP mode.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::upgrade::OnUpgrade;
use pen_common::control::Refused;

use super::forward::Client;
use super::io::{ClientIo, ServerIo};
use crate::proxy::connections::Underway;
use crate::proxy::log::ended;
use crate::proxy::relay::{Witness, relay};
use crate::proxy::service::{Point, Visit};
use crate::proxy::stream::Stream;

/// Both sides of a connection that a server agreed to switch.
pub(super) struct Switch {
    pub(super) client: OnUpgrade,
    pub(super) server: OnUpgrade,
    pub(super) point: Arc<Point>,
    pub(super) visit: Visit,
    pub(super) _underway: Underway,
}

/// Passes bytes both ways until the connection is over. `at` keeps the client's places.
pub(super) async fn pass(switch: Switch, at: Rc<Client>) {
    let mut visit = switch.visit;
    let (server, client) = match tokio::try_join!(switch.server, switch.client) {
        Ok(both) => both,
        Err(error) => return tracing::debug!("a switch of protocols came to nothing: {error}"),
    };
    let (Ok(mut client), Ok(server)) =
        (client.downcast::<ClientIo>(), server.downcast::<ServerIo>())
    else {
        return tracing::error!("a connection is not the one that was given to hyper");
    };
    if at.signs.refused.load(Ordering::Relaxed) {
        // What came before the answer was taken for a request, and is not what was sent any more.
        return visit.refused(Refused::BadRequest);
    }
    let held = client.io.take_held();
    let (counts, witness) = (&switch.point.counts, visit.witness());
    let connection = &at.places.connection;
    let _cut = connection.cuts(&client.io.stream);
    if let Some(own) = witness.map(Witness::counts) {
        let up = client.read_buf.len() + held.len();
        own.up.fetch_add(up as u64, Ordering::Relaxed);
        let down = server.read_buf.len();
        own.down.fetch_add(down as u64, Ordering::Relaxed);
    }
    let early = async {
        write_all(&client.io.stream, &server.read_buf).await?;
        let down = &connection.counts.down;
        down.fetch_add(server.read_buf.len() as u64, Ordering::Relaxed);
        for bytes in [&client.read_buf[..], &held] {
            write_all(&server.io.stream, bytes).await?;
            counts.up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok::<_, io::Error>(())
    };
    if early.await.is_err() {
        return;
    }
    let options = &visit.settings.relay;
    let account = connection.account(counts, witness);
    let end = relay(&client.io.stream, &server.io.stream, options, account).await;
    visit.ended(ended(&end));
    tracing::trace!(
        "service {}: switched at {}: {end:?}",
        at.service.name,
        switch.point.name
    );
}

async fn write_all(stream: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
