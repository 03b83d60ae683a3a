//! Clients that wait for a server while all have as many connections as they may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout_at};

use super::balance::Refused;
use super::service::{Point, Visit};

/// How often the first one looks without being told: a blacklist ends in silence.
const LOOK: Duration = Duration::from_millis(500);

/// First come, first served. A client that could only go to a server that stays full holds up those
/// behind it, as long as it may wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Held by the first one.
    first: Mutex<()>,
    /// A server may have room.
    room: Notify,
    waiting: AtomicU32,
}

impl Queue {
    /// A server may have room now.
    pub(super) fn room(&self) {
        self.room.notify_one();
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a server, until `end` at the longest.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn wait(
        &self,
        visit: &mut Visit,
        end: Instant,
    ) -> Result<Arc<Point>, Refused> {
        let _counted = Counted::new(&self.waiting);
        let Ok(_first) = timeout_at(end, self.first.lock()).await else {
            return Err(Refused::ServerFull);
        };
        loop {
            // From here on no room is missed.
            let room = self.room.notified();
            match visit.next() {
                Err(_) if visit.may_wait() && Instant::now() < end => {
                    let look = end.min(Instant::now() + LOOK);
                    let _looked = timeout_at(look, room).await;
                }
                result => return result,
            }
        }
    }
}

/// Counts who waits.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
