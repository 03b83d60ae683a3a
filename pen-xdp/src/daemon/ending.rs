//! The end: nobody is taken any more, and those who are here may finish, for a while.

use std::time::{Duration, Instant};

use pen_common::config::OnStop;

use super::{Daemon, notify};

/// How long whoever asked for the end has to get the answer, and who has knocked to be let in.
const FAREWELL: Duration = Duration::from_millis(100);

/// How it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// Not before, for whoever asked for it.
    not_before: Instant,
    /// At the latest.
    until: Instant,
    /// Whether forwarding past the kernel ends, whatever the configuration says.
    detaches: bool,
}

impl Daemon {
    /// Begins to end; `command` told it to, or a signal did.
    pub(super) fn end(&mut self, command: Option<&str>) {
        let now = Instant::now();
        let patience = self.change.state.config().drain_timeout;
        let waits = command.is_some() || patience > 0;
        let farewell = if waits { FAREWELL } else { Duration::ZERO };
        let until = now + Duration::from_secs(patience.into()).max(farewell);
        self.ending.get_or_insert(Ending {
            not_before: now + farewell,
            until,
            detaches: false,
        });
        notify::stopping();
        if let Some(command) = command {
            tracing::info!("{command}: told to stop by the control socket");
        }
        if patience == 0 {
            return;
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.drain();
            self.left = proxy.let_go();
        }
        if self.left > 0 {
            let left = self.left;
            tracing::info!(
                "{left} connections have {patience} s to end; a second SIGTERM ends them"
            );
        }
    }

    /// Forwarding past the kernel ends with it.
    pub(super) fn detaches(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.detaches = true;
        }
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        let Some(ending) = self.ending else {
            return false;
        };
        let now = Instant::now();
        now >= ending.until || now >= ending.not_before && self.left == 0
    }

    /// Whether the program goes on by itself, and what was cut is said.
    pub(super) fn keeps_forwarding(&self) -> bool {
        let patience = self.change.state.config().drain_timeout;
        if self.left > 0 && self.ending.is_some() && patience > 0 {
            tracing::warn!("{} connections were cut", self.left);
        }
        let detaches = self.ending.is_some_and(|ending| ending.detaches);
        !detaches && self.change.state.config().on_stop == OnStop::Keep
    }
}
