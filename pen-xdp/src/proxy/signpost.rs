//! Leads clients of a service to others by the name that they ask for when they begin to speak TLS
//! (SNI, RFC 6066 section 3). What they say stays in the socket: a service that ends TLS does so as
//! if they had come there, and one that does not passes it on as it came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pen_common::config::Acl;
use pen_common::control::Stage;
use tokio::time::{Instant, timeout_at};

use super::balance::Refused;
use super::connections::Presence;
use super::routes::Route;
use super::service::Service;
use super::session::{Places, Visitor};
use super::stream::Stream;
use super::tls::handshake::Failed;
use super::tls::{InFlight, Overheard, by_name, overhear};

/// A service's routes by name.
#[derive(Debug)]
pub(super) struct Signpost {
    services: HashMap<Box<str>, Arc<Service>>,
    /// The service's own list: whom it denies no name leads anywhere.
    client_acl: Acl,
    /// Whether the service has servers for those whom no name leads.
    serves: bool,
    /// How long a ClientHello may take, and wait for its turn.
    timeout: Duration,
    handshakes_max: u32,
    in_flight: Arc<InFlight>,
}

impl Signpost {
    /// The one that a route asks for, if it does. Clients take turns as they did `before`.
    pub(super) fn of(
        route: &Route,
        services: &[Arc<Service>],
        before: Option<&Self>,
    ) -> Option<Arc<Self>> {
        let options = &route.options;
        if options.sni_routes.is_empty() {
            return None;
        }
        let led = options.sni_routes.iter().filter_map(|led| {
            let to = services.iter().find(|service| service.name == led.service);
            Some((led.name.as_str().into(), Arc::clone(to?)))
        });
        Some(Arc::new(Self {
            services: led.collect(),
            client_acl: route.client_acl.clone(),
            serves: !route.pool.is_empty() || route.emergency.is_some(),
            timeout: Duration::from_secs(options.tls.timeout.into()),
            handshakes_max: options.tls.handshakes_max,
            in_flight: before
                .map(|before| Arc::clone(&before.in_flight))
                .unwrap_or_default(),
        }))
    }

    /// Leads a client to the service that it asks for, with places there; with those that it has if
    /// no name leads it and the service it came to serves it. What it asks for goes with it. `None`
    /// if nobody serves it.
    pub(super) async fn lead(
        &self,
        client: &Stream,
        visitor: &Visitor,
        places: Places,
    ) -> Option<(Places, Option<String>)> {
        let address = visitor.address.map(|address| address.ip());
        if address.is_some_and(|address| !self.client_acl.permits(address)) {
            return Some((places, None));
        }
        let service = &places.connection.service;
        let end = Instant::now() + self.timeout;
        let (name, why) = match self.heard(client, visitor, &places.connection, end).await {
            Ok(Overheard::Asked(Some(name))) => (Some(name), "no route is for what it asks for"),
            Ok(Overheard::Asked(None)) => (None, "it asks for no name"),
            Ok(Overheard::Otherwise(why)) => (None, why),
            // Who only looks whether we are there is no client who was not served.
            Err(Failed::Nothing) => return None,
            Err(why) => {
                let refused = match why {
                    Failed::Late => Refused::SlowHandshake,
                    Failed::Refused(_) | Failed::Left | Failed::Nothing | Failed::Broken(_) => {
                        Refused::BadHandshake
                    }
                };
                service.turn_away(refused, visitor);
                tracing::debug!("service {}: no name of {visitor:?}: {why}", service.name);
                return None;
            }
        };
        let to = name.as_ref().and_then(|name| by_name(&self.services, name));
        if let (Some(to), Some(asked)) = (to, &name) {
            let places = led(places, visitor, to, asked)?;
            return Some((places, name));
        }
        if self.serves {
            places.connection.reached(Stage::Connecting);
            return Some((places, name));
        }
        let line = service.turn_away(Refused::UnknownName, visitor);
        if let (Some(mut line), Some(name)) = (line, &name) {
            line.names(name);
        }
        let name = name.unwrap_or_default();
        tracing::debug!("service {}: {visitor:?} {name:?}: {why}", service.name);
        None
    }

    async fn heard(
        &self,
        client: &Stream,
        visitor: &Visitor,
        connection: &Presence,
        end: Instant,
    ) -> Result<Overheard, Failed> {
        connection.reached(Stage::Handshake);
        let _cut = connection.cuts(client);
        let address = visitor.address.map(|address| address.ip());
        let heard = timeout_at(end, async {
            let _turn = self.in_flight.turn(address, self.handshakes_max).await;
            overhear(client).await
        });
        heard.await.unwrap_or(Err(Failed::Late))
    }
}

/// The client's places in the service that it is led to. Nobody waits for one there: it would do so
/// with places in hand that clients of other services want.
fn led(places: Places, visitor: &Visitor, to: &Arc<Service>, name: &str) -> Option<Places> {
    let Some(in_service) = to.connections.try_enter() else {
        if let Some(mut line) = to.turn_away(Refused::TooManyConnections, visitor) {
            line.names(name);
        }
        return None;
    };
    places.connection.service.leads();
    Some(Places {
        _service: in_service,
        connection: places.connection.led_to(to),
        ..places
    })
}
