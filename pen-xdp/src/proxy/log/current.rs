//! The log that a service has at the moment: it may change while clients are there.

use std::mem::replace;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pen_common::config::LogFormat;
use pen_common::control::AccessLogStatus;

use super::{LineCounts, Log, Ring, Sink};

/// See the module. Lines that have begun end where they began.
#[derive(Debug)]
pub(in crate::proxy) struct Current {
    service: Arc<str>,
    ring: Arc<Ring>,
    /// They go on when the log changes.
    counts: Arc<LineCounts>,
    /// Where there is no log, nobody pays for the question.
    on: AtomicBool,
    log: Mutex<Option<Arc<Log>>>,
}

impl Current {
    /// None.
    pub(in crate::proxy) fn none(service: &str, ring: &Arc<Ring>) -> Self {
        Self {
            service: service.into(),
            ring: Arc::clone(ring),
            counts: Arc::default(),
            on: AtomicBool::new(false),
            log: Mutex::new(None),
        }
    }

    /// Another one from now on, or none.
    pub(in crate::proxy) fn set(&self, sink: Option<Arc<Sink>>, format: LogFormat) {
        let log = sink.map(|sink| {
            Arc::new(Log {
                service: Arc::clone(&self.service),
                format,
                sink,
                ring: Arc::clone(&self.ring),
                counts: Arc::clone(&self.counts),
            })
        });
        self.on.store(log.is_some(), Ordering::Relaxed);
        let before = replace(&mut *self.log(), log);
        // Which may close its file: apart from the lock that clients go through.
        drop(before);
    }

    pub(in crate::proxy) fn get(&self) -> Option<Arc<Log>> {
        match self.on.load(Ordering::Relaxed) {
            true => self.log().clone(),
            false => None,
        }
    }

    /// `None` if there is none and was none; `format` is the one that is configured.
    pub(in crate::proxy) fn status(&self, format: LogFormat) -> Option<AccessLogStatus> {
        let log = self.log();
        let [written, dropped, failed] = self.counts.read();
        let had = written + dropped + failed > 0;
        (log.is_some() || had).then(|| AccessLogStatus {
            target: log.as_ref().map(|log| log.sink.target().to_string()),
            format,
            written,
            dropped,
            failed,
        })
    }

    fn log(&self) -> MutexGuard<'_, Option<Arc<Log>>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
