//! What host names stand for, looked up again whenever it may have changed.
//!
//! A task for each name asks, waits as long as the answer holds, and asks again; nothing here knows
//! of back ends. The daemon takes all answers whole whenever one of them is another one.

mod lookup;
mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use pen_common::control::NameStatus;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use lookup::look_up;
use pace::{Answer, Pace};

/// Names that are asked for at the same time; the others wait their turn.
const AT_ONCE: usize = 16;

/// The names of a configuration, followed until this is dropped.
#[derive(Debug)]
pub struct Names {
    heard: watch::Receiver<BTreeMap<String, Pace>>,
    again: Arc<Notify>,
    _tasks: JoinSet<()>,
}

/// What the tasks have in common.
#[derive(Clone)]
struct Shared {
    heard: watch::Sender<BTreeMap<String, Pace>>,
    again: Arc<Notify>,
    room: Arc<Semaphore>,
}

impl Names {
    /// Follows these names from now on: what each stands for so far. Call it inside a tokio runtime
    /// with I/O and time.
    pub fn follow(names: BTreeMap<String, Vec<IpAddr>>) -> Self {
        let now = Instant::now();
        let paces = names.into_iter();
        let paces: BTreeMap<_, _> = paces
            .map(|(name, addresses)| (name, Pace::new(addresses, now)))
            .collect();
        let all: Vec<String> = paces.keys().cloned().collect();
        let (sender, heard) = watch::channel(paces);
        let shared = Shared {
            heard: sender,
            again: Arc::new(Notify::new()),
            room: Arc::new(Semaphore::new(AT_ONCE)),
        };
        let mut tasks = JoinSet::new();
        for name in all {
            let look =
                |name: String, before: Vec<IpAddr>| async move { look_up(&name, &before).await };
            tasks.spawn(follow(name, shared.clone(), look));
        }
        Self {
            heard,
            again: shared.again,
            _tasks: tasks,
        }
    }

    /// All answers, as soon as one is another one than the last time. Nothing is lost when the
    /// future is dropped before it is ready.
    pub async fn changed(&mut self) -> BTreeMap<String, Vec<IpAddr>> {
        if self.heard.changed().await.is_err() {
            // There are no names, and so nobody who could say anything.
            std::future::pending::<()>().await;
        }
        let heard = self.heard.borrow_and_update();
        let heard = heard.iter();
        heard
            .map(|(name, pace)| (name.clone(), pace.addresses().to_vec()))
            .collect()
    }

    /// Looks all of them up at once.
    pub fn look_up(&self) {
        self.again.notify_waiters();
    }

    /// Each name with what is known of it. Why an address is not made use of stands in `unused`.
    pub fn status(&self, unused: &BTreeMap<String, BTreeSet<String>>) -> Vec<NameStatus> {
        let now = Instant::now();
        let heard = self.heard.borrow();
        let names = heard.iter().map(|(name, pace)| {
            let unused = unused.get(name).into_iter().flatten();
            pace.status(name, unused.cloned().collect(), now)
        });
        names.collect()
    }
}

/// Asks by `look`, which is given the name and what it stood for so far.
async fn follow<A>(name: String, shared: Shared, look: impl Fn(String, Vec<IpAddr>) -> A)
where
    A: Future<Output = Result<Answer, String>>,
{
    loop {
        let before = {
            let heard = shared.heard.borrow();
            heard.get(&name).map(|pace| pace.addresses().to_vec())
        };
        // Nobody closes it.
        let turn = shared.room.acquire().await;
        // Who wants it looked up from now on may want to hear of what this answer knows nothing of.
        let mut again = pin!(shared.again.notified());
        again.as_mut().enable();
        let answer = look(name.clone(), before.unwrap_or_default()).await;
        drop(turn);
        let mut wait = None;
        shared.heard.send_if_modified(|heard| {
            let Some(pace) = heard.get_mut(&name) else {
                return false;
            };
            let taken = pace.take(answer, Instant::now());
            wait = Some(taken.wait);
            tell(&name, &taken.told);
            taken.changed
        });
        // It is there from the start to the end.
        let Some(wait) = wait else { return };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = again => {}
        }
    }
}

fn tell(name: &str, told: &pace::Told) {
    match told {
        pace::Told::Nothing => {}
        pace::Told::Changed(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            tracing::info!("{name} is {} now", addresses.join(", "));
        }
        pace::Told::Failed(why) => {
            tracing::warn!("{name} can't be looked up and stays what it was: {why}");
        }
        pace::Told::Works => tracing::info!("{name} is looked up again"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_look_up_that_is_asked_for_during_another_one_follows_it() {
        let pace = Pace::new(Vec::new(), Instant::now());
        let (heard, _seen) = watch::channel(BTreeMap::from([("web".to_owned(), pace)]));
        let shared = Shared {
            heard,
            again: Arc::new(Notify::new()),
            room: Arc::new(Semaphore::new(1)),
        };
        let again = Arc::clone(&shared.again);
        let asked = Arc::new(AtomicU32::new(0));
        let second = Arc::new(Notify::new());
        let signal = Arc::clone(&second);
        let look = move |_: String, _: Vec<IpAddr>| {
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => again.notify_waiters(),
                _ => signal.notify_one(),
            }
            async {
                Ok(Answer {
                    addresses: vec![IpAddr::from([10, 0, 0, 1])],
                    holds: Duration::from_secs(3600),
                    lacks: None,
                })
            }
        };
        let following = tokio::spawn(follow("web".to_owned(), shared, look));
        let limit = Duration::from_secs(5);
        let seen = tokio::time::timeout(limit, second.notified()).await;
        following.abort();
        assert!(seen.is_ok(), "it was not looked up again");
    }
}
