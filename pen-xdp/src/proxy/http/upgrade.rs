//! Connections that go on in another protocol: bytes pass as in TCP mode.

use std::io;
use std::sync::atomic::Ordering;

use super::client::{Client, write_all};
use super::pool::Link;
use crate::proxy::log::ended;
use crate::proxy::relay::{End, Side, Witness, relay};
use crate::proxy::service::Visit;
use crate::proxy::session::LAST_WORD;

/// Passes bytes both ways until the connection is over. What both sides have sent already is
/// theirs: nobody has looked at it. Whether it ended in order.
pub(super) async fn pass(client: &mut Client<'_>, visit: &mut Visit, mut link: Link) -> bool {
    if let Err((side, error)) = early(client, visit, &mut link).await {
        let failed = End::Failed { side, error };
        visit.ended(ended(&failed));
        return false;
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
    let in_order = matches!(end, End::Closed | End::FastClose(_));
    if in_order && link.stream.is_tls() {
        link.stream.close(LAST_WORD).await;
    }
    in_order
}

/// Passes what is here of both sides, the answer to the client first.
///
/// # Errors
/// Whose connection broke.
async fn early(
    client: &mut Client<'_>,
    visit: &Visit,
    link: &mut Link,
) -> Result<(), (Side, io::Error)> {
    let idle = visit.settings.relay.idle;
    if let Some(own) = visit.witness().map(Witness::counts) {
        let (up, down) = (client.inbox.len(), link.inbox.len());
        own.up.fetch_add(up as u64, Ordering::Relaxed);
        own.down.fetch_add(down as u64, Ordering::Relaxed);
    }
    client.outbox.push(link.inbox.bytes());
    link.inbox.clear();
    let told = client.write_all(idle).await;
    told.map_err(|error| (Side::Client, error))?;
    let before = client.inbox.len();
    let written = write_all(&link.stream, &mut client.inbox, &mut client.alarm, idle).await;
    let sent = before - client.inbox.len();
    link.counts().up.fetch_add(sent as u64, Ordering::Relaxed);
    written.map_err(|error| (Side::Server, error))
}
