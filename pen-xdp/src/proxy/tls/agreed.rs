//! What all services agree to with clients that speak TLS, and demand of servers that do.

use std::sync::Arc;

use anyhow::Error;

use super::renewal::Watched;
use super::servers::Demands;
use super::terms::Terms;
use crate::proxy::routes::Routes;

/// What one service has of both.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct Agreement {
    /// For clients; `None` if they speak none.
    pub(in crate::proxy) terms: Option<Arc<Terms>>,
    /// For servers; likewise.
    pub(in crate::proxy) demands: Option<Arc<Demands>>,
}

/// See the module; in the order of the routes that it was made for.
#[derive(Debug, Default)]
pub struct Agreed(pub(in crate::proxy) Vec<Agreement>);

impl Agreed {
    /// Makes both for all routes that want some; those `before` that were made of the same stay.
    ///
    /// # Errors
    /// Names the first service that can't have some, and what mends it.
    pub(in crate::proxy) fn make(routes: &Routes, before: &[Agreement]) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            let before = before.get(at).cloned().unwrap_or_default();
            let named = |error: Error| error.context(format!("service {:?}", route.service));
            let terms = Terms::make(route, before.terms.as_ref());
            let demands = Demands::make(route, before.demands.as_ref());
            all.push(Agreement {
                terms: terms.map_err(|error| named(error.into()))?,
                demands: demands.map_err(|error| named(error.into()))?,
            });
        }
        Ok(Self(all))
    }

    /// All whose files may change.
    pub(in crate::proxy) fn watched(&self) -> Vec<Arc<dyn Watched>> {
        let mut all: Vec<Arc<dyn Watched>> = Vec::new();
        for Agreement { terms, demands } in &self.0 {
            all.extend(terms.clone().map(|one| one as Arc<dyn Watched>));
            all.extend(demands.clone().map(|one| one as Arc<dyn Watched>));
        }
        all
    }
}
