//! Configurations that are being made: read from files, with host names looked up. That waits for
//! disks and name servers, so threads do it; what comes of it is taken in the order of asking.

use std::{collections::VecDeque, time::Duration};

use pen_common::config::{Checked, Config};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout_at},
};

use super::change::Waiting;

/// Those that may be in the making: others who ask are to be answered meanwhile.
const DRAFTS_MAX: usize = 8;
/// How long one may take. A thread that hangs in a look-up is left behind.
const PATIENCE: Duration = Duration::from_secs(50);

/// What is to become of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is to be in force.
    Replace,
    /// What would change is to be told.
    Plan,
    /// How it differs from the one in force is to be told.
    Diff,
}

/// A change of whatever configuration is in force when it is its turn.
pub(super) type Edit = Box<dyn FnOnce(&Config) -> Result<Config, String> + Send>;

/// What was made.
pub(super) enum Made {
    /// All of it.
    Whole(Box<Checked>),
    /// A change.
    Edit(Edit),
}

impl Made {
    pub(super) fn whole(checked: Checked) -> Self {
        Self::Whole(Box::new(checked))
    }
}

/// One that is done.
pub(super) struct Draft {
    pub(super) waiting: Waiting,
    pub(super) purpose: Purpose,
    pub(super) made: Result<Made, String>,
}

struct Making {
    waiting: Waiting,
    purpose: Purpose,
    work: JoinHandle<Result<Made, String>>,
    until: Instant,
}

/// All that are in the making.
#[derive(Default)]
pub(super) struct Drafts(VecDeque<Making>);

impl Drafts {
    /// Whether there are as many as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= DRAFTS_MAX
    }

    /// Has one made.
    pub(super) fn begin(
        &mut self,
        waiting: Waiting,
        purpose: Purpose,
        make: impl FnOnce() -> Result<Made, String> + Send + 'static,
    ) {
        let work = spawn_blocking(make);
        self.0.push_back(Making {
            waiting,
            purpose,
            work,
            until: Instant::now() + PATIENCE,
        });
    }

    /// The next one, when it is done; never if there is none. Nothing is lost when the future is
    /// dropped before it is ready.
    pub(super) async fn next(&mut self) -> Draft {
        let Some(first) = self.0.front_mut() else {
            return std::future::pending().await;
        };
        let made = match timeout_at(first.until, &mut first.work).await {
            Ok(made) => made.unwrap_or_else(|error| Err(format!("it was not made: {error}"))),
            Err(_) => Err(format!(
                "it was not made within {} s: a name server or a disk does not answer",
                PATIENCE.as_secs()
            )),
        };
        match self.0.pop_front() {
            Some(Making {
                waiting, purpose, ..
            }) => Draft {
                waiting,
                purpose,
                made,
            },
            None => std::future::pending().await,
        }
    }
}
