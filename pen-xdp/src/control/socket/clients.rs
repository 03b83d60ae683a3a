//! The clients that are served at a time. So many have a place; who comes then gets that of the one
//! that has held up the others for longest, and nobody waits for one that says nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};

/// Clients that are served at once; others wait in the kernel's queue.
pub(super) const CLIENTS_MAX: usize = 64;
/// Between two looks for somebody who has had his time.
const LOOK: Duration = Duration::from_millis(20);

/// What a client is to do next, and how long it may while others wait for its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Say its line.
    Say,
    /// Say what its line promised.
    Tell,
    /// Nothing: it is the daemon's turn.
    Wait,
    /// Take its answer.
    Take,
    /// Leave.
    Leave,
}

impl Turn {
    /// Who speaks to us at once needs a moment; an answer may be long.
    const fn patience(self) -> Option<Duration> {
        match self {
            Self::Say => Some(Duration::from_millis(250)),
            Self::Tell => Some(Duration::from_secs(5)),
            Self::Wait => None,
            Self::Take => Some(Duration::from_secs(1)),
            Self::Leave => Some(Duration::ZERO),
        }
    }
}

/// Whose turn it is in a conversation, and since when.
#[derive(Debug)]
pub(super) struct Turns(Mutex<(Turn, Instant)>);

impl Turns {
    fn begin() -> Arc<Self> {
        Arc::new(Self(Mutex::new((Turn::Say, Instant::now()))))
    }

    /// It is this turn from now on.
    pub(super) fn next(&self, turn: Turn) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (turn, Instant::now());
    }

    /// By how much the client has outstayed its time.
    fn overdue(&self, now: Instant) -> Option<Duration> {
        let (turn, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.duration_since(since).checked_sub(turn.patience()?)
    }
}

/// Those that have a place.
#[derive(Debug, Default)]
pub(super) struct Clients {
    tasks: JoinSet<()>,
    places: Vec<(AbortHandle, Arc<Turns>)>,
}

impl Clients {
    /// Serves a client, once there is a place.
    pub(super) async fn serve<F>(&mut self, conversation: impl FnOnce(Arc<Turns>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.make_room().await;
        let turns = Turns::begin();
        let task = self.tasks.spawn(conversation(Arc::clone(&turns)));
        self.places.push((task, turns));
    }

    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.places.retain(|(task, _)| !task.is_finished());
            if self.places.len() < CLIENTS_MAX {
                return;
            }
            let now = Instant::now();
            let places = self.places.iter().enumerate();
            let overdue = places.filter_map(|(at, (_, turns))| Some((turns.overdue(now)?, at)));
            if let Some((_, at)) = overdue.max() {
                let (task, _) = self.places.swap_remove(at);
                task.abort();
                tracing::debug!("a control client that held up others was sent away");
                return;
            }
            tokio::select! {
                _ = self.tasks.join_next() => {}
                () = sleep(LOOK) => {}
            }
        }
    }
}
