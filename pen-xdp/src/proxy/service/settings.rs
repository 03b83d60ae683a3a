//! What a service's connections go by.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pen_common::config::{Acl, ProxyOptions, Redirect, SendProxy};

use crate::proxy::connect::From;
use crate::proxy::relay;

/// Bytes in one direction without a pause after which the kernel passes them on by itself. A page
/// with its pictures does not pay for a pipe, a download does.
const SPLICE_AFTER: u64 = 256 << 10;

/// What a connection goes by from its beginning to its end.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Settings {
    pub(in crate::proxy) timeout: Duration,
    /// How long a client waits while all servers are full.
    pub(in crate::proxy) queue: Duration,
    pub(in crate::proxy) source: Option<IpAddr>,
    transparent: bool,
    pub(in crate::proxy) keepalive: bool,
    pub(in crate::proxy) send_proxy: SendProxy,
    pub(in crate::proxy) relay: relay::Options,
    /// How long the head of a request may take.
    pub(in crate::proxy) head_timeout: Duration,
    /// Whose word counts for where a request comes from.
    pub(in crate::proxy) trusted: Arc<Acl>,
    /// Whether answers of our own say why.
    pub(in crate::proxy) reason_header: bool,
    /// What browsers are told of HTTPS.
    pub(in crate::proxy) hsts: Option<Arc<str>>,
    /// Where all requests are sent.
    pub(super) redirect: Option<Redirect>,
}

impl Settings {
    /// As a route's options have it.
    pub(super) fn of(options: &ProxyOptions) -> Self {
        let idle = u64::from(options.idle_timeout);
        Self {
            timeout: Duration::from_secs(options.timeout.into()),
            queue: Duration::from_secs(options.queue_timeout.into()),
            source: options.source,
            transparent: options.transparent,
            keepalive: options.keepalive,
            send_proxy: options.send_proxy,
            relay: relay::Options {
                idle: (idle > 0).then(|| Duration::from_secs(idle)),
                fast_close: options.tcp_fastclose,
                splice_after: SPLICE_AFTER,
            },
            head_timeout: Duration::from_secs(options.head_timeout.into()),
            trusted: Arc::new(options.trusted.clone()),
            reason_header: options.reason_header,
            redirect: options.redirect,
            hsts: options.hsts.map(|hsts| hsts.header().into()),
        }
    }

    /// The address that servers see of this client. One that is given comes first, as in Pen.
    pub(in crate::proxy) fn from(&self, client: Option<IpAddr>) -> From {
        match (self.source, client) {
            (Some(source), _) => From::Own(source),
            (None, Some(client)) if self.transparent => From::Client(client),
            (None, _) => From::Any,
        }
    }
}
