//! Services that take nobody any more, and the connections that they still have.

use std::sync::{Arc, Weak};

use pen_common::control::Stage;

use super::Proxy;
use super::connections::Connection;
use super::service::Service;

/// Services that are no more, while they have connections.
#[derive(Debug, Default)]
pub(super) struct Gone(Vec<Weak<Service>>);

impl Gone {
    /// Some more are no more.
    pub(super) fn add<'a>(&mut self, services: impl Iterator<Item = &'a Arc<Service>>) {
        self.0.extend(services.map(Arc::downgrade));
    }

    fn has(&self, connection: &Connection) -> bool {
        let service = Arc::as_ptr(&connection.service);
        self.0
            .iter()
            .any(|gone| std::ptr::eq(gone.as_ptr(), service))
    }
}

impl Proxy {
    /// Takes no clients any more: those who have knocked already are the last ones.
    pub fn drain(&mut self) {
        self.doors.close();
        self.gone.add(self.services.iter());
    }

    /// Ends connections of services that are no more as soon as nothing is under way on them. Returns
    /// how many there are still.
    pub fn let_go(&mut self) -> usize {
        self.gone.0.retain(|service| service.strong_count() > 0);
        if self.gone.0.is_empty() {
            return 0;
        }
        let all = self.connections.all();
        let theirs = all.iter().filter(|connection| self.gone.has(connection));
        let mut count = 0;
        for connection in theirs {
            count += 1;
            if connection.stage() == Stage::Kept {
                connection.release();
            }
        }
        count
    }
}
