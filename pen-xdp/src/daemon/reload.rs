//! The configuration read again, and another one put in place of the one in force.

use std::{sync::Arc, time::Instant};

use pen_common::{
    config::Config,
    control::{Action, ConfigStatus, Form, Request, Value},
};

use super::{
    Daemon,
    change::Waiting,
    conflict,
    drafts::{Draft, Made, Purpose},
    log, notify,
    start::{DsrReady, claim},
};
use crate::{
    cli::{Start, System},
    control::{
        names::names,
        state::{Command, Refusal},
    },
    keeper::{
        Keeper, backends,
        child::{is_kept, read_configuration},
    },
    names::Names,
    proxy::Proxy,
};

/// Where the configuration comes from, and what the last look at it came to.
pub(super) struct Reload {
    pub(super) start: Arc<Start>,
    refused: Option<String>,
}

impl Reload {
    pub(super) fn new(start: Start) -> Self {
        Self {
            start: Arc::new(start),
            refused: None,
        }
    }

    pub(super) fn status(&self) -> ConfigStatus {
        ConfigStatus {
            source: self.start.source(),
            refused: self.refused.clone(),
        }
    }

    /// Whoever wanted the source to be made so hears this.
    pub(super) fn came_to(&mut self, outcome: Result<(), String>) {
        self.refused = outcome.err();
    }
}

impl Daemon {
    /// SIGHUP: files that were renamed are opened again, and what the source says now is made so.
    pub(super) fn hang_up(&mut self) {
        self.reloading.get_or_insert_with(notify::reloading);
        let logs = self.proxy.as_ref().map_or(0, Proxy::reopen_logs);
        if logs > 0 {
            tracing::info!("SIGHUP: {logs} access logs are opened again");
        }
        let request = Request {
            form: Form::Raw,
            service: None,
            action: Action::Reload,
        };
        self.read_again(
            Waiting {
                request,
                answer: None,
            },
            Purpose::Replace,
        );
    }

    /// Reads the source again, to make it so or to tell about it.
    pub(super) fn read_again(&mut self, waiting: Waiting, purpose: Purpose) {
        let start = Arc::clone(&self.reload.start);
        self.draft(waiting, purpose, move || {
            read_configuration();
            start
                .read(&System)
                .map(Made::whole)
                .map_err(|faults| faults.to_string())
        });
    }

    /// Has a configuration made; see [`Made`].
    pub(super) fn draft(
        &mut self,
        waiting: Waiting,
        purpose: Purpose,
        make: impl FnOnce() -> Result<Made, String> + Send + 'static,
    ) {
        if self.drafts.is_full() {
            let why = "too many changes are in the making: try again in a moment";
            return self.tell(waiting, Err(why.to_owned()));
        }
        self.drafts.begin(waiting, purpose, make);
    }

    /// A configuration is made.
    pub(super) async fn made(&mut self, draft: Draft) {
        let Draft {
            waiting,
            purpose,
            made,
        } = draft;
        let edited = matches!(made, Ok(Made::Edit(_)));
        let config = made.and_then(|made| match made {
            Made::Whole(checked) => {
                let (config, notes) = checked.into_parts();
                for note in notes.iter().filter(|_| purpose == Purpose::Replace) {
                    tracing::warn!("{note}");
                }
                Ok(config)
            }
            Made::Edit(edit) => edit(self.change.state.config()),
        });
        let told = match (config, purpose) {
            (Err(why), _) => Err(why),
            (Ok(config), Purpose::Plan) => {
                self.plan(&config).map(|plan| Value::Plan(Box::new(plan)))
            }
            (Ok(config), Purpose::Diff) => Ok(Value::Text(self.differs_from(&config))),
            (Ok(config), Purpose::Replace) => match self.replace(config, edited).await {
                Ok(()) => return self.change.waiting.push(waiting),
                Err(why) => Err(why),
            },
        };
        self.tell(waiting, told);
    }

    /// Puts a configuration in place of the one in force; it is published by and by.
    async fn replace(&mut self, config: Config, edited: bool) -> Result<(), String> {
        if self.ending.is_some() {
            return Err("Pen is stopping".to_owned());
        }
        let told = |error: anyhow::Error| format!("{error:#}");
        let begins = self.dsr.is_none() && self.begins.is_none() && !is_kept();
        let claimed = match config.dsr_services().next() {
            Some(_) if begins => Some(claim(&config).await.map_err(told)?),
            Some(_) | None => {
                self.reachable(&config)?;
                None
            }
        };
        // One that is to go is still there, and another one can't be had beside it.
        let fixed = self.change.last().config().fixed_against(&config);
        if self.dsr.is_some() && !fixed.is_empty() {
            return Err(Refusal::Restart(fixed.join(", ")).to_string());
        }
        let before = self.change.state.clone();
        let command = match edited {
            true => Command::Edit(Box::new(config)),
            false => Command::Replace(Box::new(config)),
        };
        let replaced = self.change.state.apply(command);
        replaced.map_err(|refusal| refusal.to_string())?;
        if let Some(claimed) = claimed {
            match DsrReady::of(claimed, &mut self.change.state).await {
                Ok(ready) => self.begins = Some(ready),
                Err(error) => {
                    self.change.state = before;
                    return Err(told(error));
                }
            }
        }
        if let Some(dsr) = &mut self.dsr {
            dsr.watch_back_ends(&self.change);
            let published = backends(self.change.last().config());
            let new = &backends(self.change.state.config()) - &published;
            self.change.seeks(new, Instant::now());
        }
        Ok(())
    }

    /// Looks at what no configuration knows by itself.
    pub(super) fn reachable(&self, config: &Config) -> Result<(), String> {
        let told = |error: anyhow::Error| format!("{error:#}");
        let opened;
        let keeper = match (&self.dsr, config.dsr_services().next()) {
            (Some(dsr), _) => &dsr.keeper,
            (None, None) => return Ok(()),
            // It is confined to what a proxy needs.
            (None, Some(service)) if is_kept() => {
                return Err(format!(
                    "service {:?} is the first in DSR, which begins with a start where Pen goes on as \
                     another user: restart it",
                    service.name
                ));
            }
            (None, Some(_)) => {
                opened = Keeper::open(config).map_err(told)?;
                opened.check_privileges().map_err(|e| e.to_string())?;
                &opened
            }
        };
        conflict::refuse(config).map_err(told)?;
        let segments = keeper.segments(config).map_err(told)?;
        for note in &segments.notes {
            tracing::warn!("{note}");
        }
        let unreachable = keeper.unreachable(&segments);
        match unreachable.is_empty() {
            true => Ok(()),
            false => Err(unreachable.join("\n")),
        }
    }

    /// What is to follow a configuration that is in force now.
    pub(super) fn follow_config(&mut self) {
        let state = &self.change.state;
        log::set_log_level(state.config().debug);
        let names = names(state.config());
        if names != self.followed {
            self.names = Names::follow(state.answers().0.clone());
            self.followed = names;
        }
    }
}
