//! Connections that go on in another protocol: bytes pass as in TCP mode.

use std::io;
use std::sync::atomic::Ordering;

use super::client::Client;
use super::pending::try_write;
use super::pool::Link;
use crate::proxy::log::ended;
use crate::proxy::relay::{Witness, relay};
use crate::proxy::service::Visit;
use crate::proxy::stream::Stream;

/// Passes bytes both ways until the connection is over. What both sides have sent already is
/// theirs: nobody has looked at it.
pub(super) async fn pass(client: &mut Client<'_>, visit: &mut Visit, mut link: Link) {
    if early(client, visit, &mut link).await.is_err() {
        return;
    }
    let (counts, witness) = (link.counts(), visit.witness());
    let connection = client.connection;
    let _cut = connection.cuts(&link.stream);
    let options = &visit.settings.relay;
    let account = connection.account(counts, witness);
    let end = relay(client.stream, &link.stream, options, account).await;
    let (service, name) = (&connection.service.name, &link.point().name);
    tracing::trace!("service {service}: switched at {name}: {end:?}");
    visit.ended(ended(&end));
}

/// Passes what is here of both sides, the answer to the client first.
async fn early(client: &mut Client<'_>, visit: &Visit, link: &mut Link) -> io::Result<()> {
    if let Some(own) = visit.witness().map(Witness::counts) {
        let (up, down) = (client.inbox.len(), link.inbox.len());
        own.up.fetch_add(up as u64, Ordering::Relaxed);
        own.down.fetch_add(down as u64, Ordering::Relaxed);
    }
    client.outbox.push(link.inbox.bytes());
    link.inbox.clear();
    client.write_all(visit.settings.relay.idle).await?;
    let sent = client.inbox.len();
    write_all(&link.stream, client.inbox.bytes()).await?;
    client.inbox.clear();
    let up = &link.counts().up;
    up.fetch_add(sent as u64, Ordering::Relaxed);
    Ok(())
}

async fn write_all(stream: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match try_write(stream, bytes)? {
            0 => stream.writable().await?,
            sent => bytes = &bytes[sent..],
        }
    }
    Ok(())
}
