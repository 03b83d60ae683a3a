//! The configuration as a whole, by command: another one put in force, what that would change, how
//! the one in force differs from what is written, and that one written down.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use pen_common::{
    config::{Config, ConfigForm, Edit, LookedUp},
    control::{Applied, Plan, PoolPlan, Reply, Request, ServiceLine, Value},
    tables::{BackendId, Mac},
};
use similar::TextDiff;

use super::{Daemon, Made, Purpose, change::Waiting};
use crate::{
    cli::{System, WithoutFiles},
    control::{
        snapshot::Snapshot,
        socket::ReplyTo,
        state::{Command, State},
    },
    files,
    keeper::backends,
    replace_file::{How, Links},
};

/// How long a diff may be made as short as it can be.
const DIFF: Duration = Duration::from_millis(100);
/// Mode of a configuration's file that is new: who knows the seed in it can aim flows.
const MODE: u32 = 0o600;

impl Daemon {
    /// Another configuration is asked for, or what it would change.
    pub(super) fn apply(&mut self, applied: Applied, waiting: Waiting) {
        let purpose = match applied.plan {
            true => Purpose::Plan,
            false => Purpose::Replace,
        };
        let start = Arc::clone(&self.reload.start);
        self.draft(waiting, purpose, move || {
            let text = (applied.text.as_str(), "what was sent");
            let read = start.read_instead(applied.form, text, &WithoutFiles);
            read.map(Made::whole).map_err(|faults| faults.to_string())
        });
    }

    /// A change of it is asked for.
    pub(super) fn edit(&mut self, edit: Edit, waiting: Waiting) {
        let service = waiting.request.service.clone();
        self.draft(waiting, Purpose::Replace, move || {
            let found = LookedUp::ask(&edit, &System);
            Ok(Made::Edit(Box::new(move |config: &Config| {
                config.edited(service.as_deref(), &edit, &found)
            })))
        });
    }

    /// The services, in the order of the configuration.
    pub(super) fn services(&self) -> Vec<ServiceLine> {
        let config = self.change.state.config();
        let services = config.services.iter().map(|service| ServiceLine {
            service: service.name.clone(),
            mode: service.mode,
            listen: service.listen_texts(),
            pool: service.pool.clone(),
            servers: config
                .pool(&service.pool)
                .map_or(0, |pool| pool.backends.len()),
        });
        services.collect()
    }

    /// How the configuration in force differs from this one; nothing if it doesn't.
    pub(super) fn differs_from(&self, written: &Config) -> String {
        let source = self.reload.status().source;
        let ours = self.change.state.config().as_written().to_toml();
        let theirs = written.as_written().to_toml();
        let diff = TextDiff::configure()
            .timeout(DIFF)
            .diff_lines(&theirs, &ours);
        let text = diff.unified_diff().header(&source, "in force").to_string();
        text.trim_end().to_owned()
    }

    /// What another configuration would change.
    ///
    /// # Errors
    /// As putting it in force.
    pub(super) fn plan(&self, config: &Config) -> Result<Plan, String> {
        self.reachable(config)?;
        let state = &self.change.state;
        let mut next = state.clone();
        let replaced = next.apply(Command::Replace(Box::new(config.clone())));
        replaced.map_err(|refusal| refusal.to_string())?;
        let difference = state.config().difference(next.config());
        let mut plan = Plan::of(&difference);
        if let Some(dsr) = &self.dsr {
            // Taken for found: they will be, or the table is another one all the same.
            for address in &backends(next.config()) - &backends(state.config()) {
                let mac = Some(Mac(1));
                let found = next.apply(Command::Neighbor { address, mac });
                found.map_err(|refusal| refusal.to_string())?;
            }
            let after =
                Snapshot::compile(&next, Some(&dsr.opened.snapshot)).map_err(|e| e.to_string())?;
            let flows = dsr.seen(state).flows();
            plan.pools = pools(state, (&dsr.opened.snapshot, &after), &flows);
        }
        Ok(plan)
    }

    /// Writes the configuration in force to a file.
    pub(super) fn write_config(&self, file: Option<PathBuf>, request: Request, answer: ReplyTo) {
        let config = self.change.state.config().as_written();
        let meant = match &file {
            Some(file) => Some((file.as_path(), form_of(file))),
            None => self.reload.start.file(),
        };
        let written = match meant {
            Some((path, form)) => config
                .written(form)
                .map(|text| (path.to_owned(), text))
                .map_err(|faults| faults.to_string()),
            None => Err(
                "Pen was started by a line that is more than its file: name a file to write to"
                    .to_owned(),
            ),
        };
        let (path, text) = match written {
            Ok(written) => written,
            Err(why) => return self.reply(&request, answer, Err(why)),
        };
        let (generation, own) = (self.generation(), file.is_none());
        // A disk may be slow, and everybody else is not to wait for it.
        tokio::task::spawn_blocking(move || {
            let written = write(&path, &text, own).map_err(|error| format!("{error:#}"));
            let reply = Reply {
                generation,
                outcome: written.map(|()| Value::Applied),
            };
            answer.send(&request, &reply);
        });
    }
}

/// `own` is the file that Pen was started with: a link of the administrator's stays one.
fn write(path: &Path, text: &str, own: bool) -> Result<()> {
    let how = How {
        mode: MODE,
        links: if own { Links::Follow } else { Links::Refuse },
    };
    files::replace(path, text, how)
        .with_context(|| format!("{} can't be written", path.display()))?;
    tracing::info!("the configuration was written to {}", path.display());
    Ok(())
}

/// The form that a file's name asks for.
fn form_of(path: &Path) -> ConfigForm {
    match path
        .extension()
        .is_some_and(|extension| extension == "toml")
    {
        true => ConfigForm::Toml,
        false => ConfigForm::Commands,
    }
}

/// What becomes of each pool's table between two snapshots.
fn pools(state: &State, (now, then): (&Snapshot, &Snapshot), flows: &[u32]) -> Vec<PoolPlan> {
    let changed = now.pools.iter().filter_map(|pool| {
        let next = then.pools.iter().find(|next| next.name == pool.name);
        let slots = next.map_or(&[][..], |next| &next.slots);
        let same = pool
            .slots
            .iter()
            .zip(slots)
            .filter(|(one, other)| one == other);
        let moved = pool.slots.len() - same.count();
        let backends = state.config().pool(&pool.name)?.backends.iter();
        let ids = backends.map(|backend| state.id(&pool.name, &backend.name));
        let count = |id: BackendId| flows.get(usize::from(id)).copied().unwrap_or_default();
        let all: Vec<(BackendId, u32)> = ids.map(|id| (id, count(id))).collect();
        let leaving = all.iter().filter(|(id, _)| !then.backends.contains_key(id));
        let plan = PoolPlan {
            pool: pool.name.clone(),
            slots: pool.slots.len() as u32,
            slots_moved: moved as u32,
            flows: all.iter().map(|(_, count)| count).sum(),
            flows_moved: leaving.map(|(_, count)| count).sum(),
        };
        (plan.slots_moved > 0 || plan.flows_moved > 0).then_some(plan)
    });
    changed.collect()
}
