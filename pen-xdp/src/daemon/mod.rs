//! The loop that joins everything: what happens outside becomes commands, commands change the
//! state, the state is published, and whoever asked hears of it.

mod change;
pub mod check;
mod conflict;
mod connections;
mod dsr;
mod flow_clock;
mod journal;
pub mod log;
pub mod notify;
pub mod open;
pub mod pid_file;
mod queues;
mod signals;
pub mod start;
mod status;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::Result;
use pen_common::{
    config::{self, Service},
    control::{Action, EXIT_IS_OFF, Reply, Request, Value, mode_line},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, interval, sleep},
};

use crate::{
    control::{
        grace::NoGrace,
        names::Answers,
        routes::routes,
        socket::{Asked, ControlSocket},
        state::Command,
    },
    names::Names,
    plane::{Workers, coarse_ns},
    proxy::Proxy,
    watch::NetEvent,
};
use change::{Change, Waiting, grace_over};
use dsr::Dsr;
use notify::Watchdog;
use signals::{Heard, Signals, not_read_again};

/// How often the daemon looks at what nobody tells it: the clock, its workers.
const TICK: Duration = Duration::from_millis(100);
/// How long whoever asked for the end has to get the answer.
const FAREWELL: Duration = Duration::from_millis(100);
/// Requests that wait to be looked at.
const REQUESTS: usize = 64;

/// A running daemon.
pub struct Daemon {
    started: Instant,
    source: String,
    /// Of the configuration in force.
    generation: Arc<AtomicU64>,
    /// What serves services of proxy mode, if there are any.
    proxy: Option<Proxy>,
    /// What serves services in DSR, if there are any.
    dsr: Option<Dsr>,
    socket: Option<ControlSocket>,
    change: Change,
    signals: Signals,
    names: Names,
    /// Somebody was let stop it by `exit`.
    ending: bool,
}

impl Daemon {
    /// Serves until told to stop, or until the interface is gone.
    ///
    /// # Errors
    /// The interface or the kernel's notifications are lost.
    pub async fn run(&mut self) -> Result<()> {
        let (sender, mut requests) = mpsc::channel(REQUESTS);
        let socket = self.socket.take();
        let generation = Arc::clone(&self.generation);
        let serve = async {
            match &socket {
                Some(socket) => {
                    let generation = move || generation.load(Ordering::Relaxed);
                    socket.serve(sender, generation).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(serve);
        let mut tick = interval(TICK);
        let mut watchdog = Watchdog::start();
        loop {
            tokio::select! {
                event = next(&mut self.dsr) => self.happened(event?)?,
                heard = self.names.changed() => self.heard(heard),
                Some(asked) = requests.recv() => self.asked(asked),
                () = &mut serve => {}
                _ = tick.tick() => self.tick(),
                () = watchdog.due() => notify::alive(),
                result = grace_over(&mut self.change.grace) => self.graced(result),
                heard = self.signals.next() => match heard {
                    Heard::Stop => return Ok(()),
                    Heard::Reopen => self.reopen(),
                },
            }
            self.publish();
            if self.ending {
                tracing::info!("exit: told to stop by the control socket");
                sleep(FAREWELL).await;
                return Ok(());
            }
        }
    }

    /// What serves, and whom.
    pub fn in_one_line(&self) -> String {
        let config = self.change.state.config();
        let dsr = self.dsr.as_ref().map(|dsr| dsr.in_one_line(config));
        let proxy = self.proxy.as_ref().map(|proxy| {
            format!(
                "{} by {} proxy threads",
                start::listen_line(config.proxy_services()),
                proxy.threads()
            )
        });
        let both: Vec<String> = dsr.into_iter().chain(proxy).collect();
        format!(
            "serving {}, generation {}",
            both.join("; "),
            self.generation()
        )
    }

    /// Takes everything back that was set up.
    pub fn close(self) {
        let Self {
            proxy, dsr, socket, ..
        } = self;
        // Nobody is to be taken who can't be served to the end.
        drop(proxy);
        if let Some(dsr) = dsr {
            dsr.close();
        }
        drop(socket);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn happened(&mut self, event: NetEvent) -> Result<()> {
        match &mut self.dsr {
            Some(dsr) => dsr.happened(event, &mut self.change),
            None => Ok(()),
        }
    }

    /// Goes by what host names stand for now.
    fn heard(&mut self, heard: BTreeMap<String, Vec<IpAddr>>) {
        let before = self.change.state.unused().clone();
        self.change.observe(Command::Names(Answers(heard)));
        let unused = self.change.state.unused().0.iter();
        for (name, why) in unused.filter(|(name, why)| before.0.get(*name) != Some(*why)) {
            let why: Vec<&str> = why.iter().map(String::as_str).collect();
            tracing::warn!("not all addresses of {name} are used: {}", why.join("; "));
        }
        if let Some(dsr) = &mut self.dsr {
            dsr.watch_back_ends(&self.change.state);
        }
    }

    fn tick(&mut self) {
        let now_ms = coarse_ns() / 1_000_000;
        self.change.observe(Command::Clock(now_ms));
        if let Some(dsr) = &mut self.dsr {
            dsr.tick(now_ms, &self.change.state);
        }
    }

    /// Logs that were renamed go on under their old names.
    fn reopen(&self) {
        let _reloading = notify::reloading();
        match self.proxy.as_ref().map_or(0, Proxy::reopen_logs) {
            0 => not_read_again(""),
            count => not_read_again(&format!("{count} access logs are to be opened again; ")),
        }
    }

    fn asked(&mut self, Asked { request, answer }: Asked) {
        let outcome = match &request.action {
            Action::Server(server, changes) => self.change.state.apply(Command::Server {
                service: request.service.clone(),
                server: server.clone(),
                changes: changes.clone(),
            }),
            Action::Switch(switch, on) => self.change.state.apply(Command::Switch {
                service: request.service.clone(),
                switch: *switch,
                on: *on,
            }),
            Action::Option {
                key,
                value: Some(value),
            } => self.change.state.apply(Command::Option {
                service: request.service.clone(),
                key,
                value: value.clone(),
            }),
            Action::Acl(number, change) => self
                .change
                .state
                .apply(Command::Acl(*number, change.clone())),
            Action::Connections => {
                return self.list(request, answer, |observer, service| {
                    observer.connections(service).map(Value::Connections)
                });
            }
            &Action::Recent(seconds) => {
                return self.list(request, answer, move |observer, service| {
                    observer.recent(service, seconds).map(Value::Recent)
                });
            }
            Action::Ocsp => {
                return self.list(request, answer, |observer, service| {
                    observer.ocsp_questions(service).map(Value::Ocsp)
                });
            }
            Action::OcspCheck {
                certificate,
                answer: file,
            } => {
                let (certificate, file) = (certificate.clone(), file.clone());
                return self.list(request, answer, move |observer, service| {
                    observer
                        .check_ocsp_answer(service, &certificate, &file)
                        .map(Value::Text)
                });
            }
            Action::Option { value: None, .. }
            | Action::Connection(_)
            | Action::Close(_)
            | Action::Status
            | Action::Servers
            | Action::Counters
            | Action::Mode
            | Action::Pid
            | Action::Control
            | Action::Resolve
            | Action::Exit
            | Action::Listen
            | Action::Debug(_)
            | Action::Nothing
            | Action::Blank => {
                let outcome = self.show(&request);
                return self.reply(&request, answer, outcome);
            }
        };
        match outcome {
            // In force only when it is published and nobody reads the old tables any more.
            Ok(_) => {
                self.readmit(&request);
                self.change.waiting.push(Waiting { request, answer });
            }
            Err(refusal) => self.reply(&request, answer, Err(refusal.to_string())),
        }
    }

    /// `blacklist 0` also ends what no command began.
    fn readmit(&self, request: &Request) {
        let (Action::Server(server, changes), Some(proxy)) = (&request.action, &self.proxy) else {
            return;
        };
        let config = self.change.state.config();
        if changes.contains(&config::Change::Blacklist(0))
            && let Ok((pool, index)) = config.locate(request.service.as_deref(), server)
        {
            let pool = &config.pools[pool];
            proxy.readmit(&pool.name, &pool.backends[index].name);
        }
    }

    fn show(&mut self, request: &Request) -> Result<Value, String> {
        let service = request.service.as_deref();
        let config = self.change.state.config();
        match &request.action {
            Action::Status => Ok(Value::Status(Box::new(self.status()))),
            Action::Servers => self.servers(service).map(Value::Servers),
            Action::Counters => Ok(Value::Counters(self.counters())),
            Action::Connection(number) => {
                let found = self.observer()?.connection(service, *number)?;
                Ok(Value::Connection(Box::new(found)))
            }
            Action::Close(number) => self.observer()?.close(service, *number).map(Value::Text),
            Action::Mode => {
                let mut meant = config
                    .services
                    .iter()
                    .filter(|s| service.is_none_or(|name| name == s.name))
                    .map(Service::switches);
                let first = meant.next().ok_or("there is no such service")?;
                match meant.all(|other| other == first) {
                    true => Ok(Value::Text(mode_line(first))),
                    false => Err("which service's mode? Say -s NAME first".to_owned()),
                }
            }
            Action::Pid => Ok(Value::Number(u64::from(std::process::id()))),
            Action::Control => {
                let path = config
                    .control
                    .as_ref()
                    .map(|path| path.display().to_string());
                Ok(Value::Text(path.unwrap_or_default()))
            }
            Action::Listen => Ok(Value::Text(start::listen_line(config.services.iter()))),
            Action::Resolve => {
                self.names.look_up();
                Ok(Value::Applied)
            }
            Action::Exit => {
                self.ending = config.allow_exit;
                match config.allow_exit {
                    true => Ok(Value::Applied),
                    false => Err(EXIT_IS_OFF.to_owned()),
                }
            }
            Action::Debug(None) => Ok(Value::Number(u64::from(config.debug))),
            Action::Debug(Some(level)) => {
                log::set_log_level(*level);
                self.change.state.set_debug(*level);
                Ok(Value::Applied)
            }
            Action::Option { key, value: None } => {
                let found = self.change.state.only(service, key);
                let found = found.map_err(|refusal| refusal.to_string())?;
                Ok(Value::Text(found.shown(key)))
            }
            Action::Nothing | Action::Blank => Ok(Value::Applied),
            Action::Server(..)
            | Action::Switch(..)
            | Action::Option { .. }
            | Action::Acl(..)
            | Action::Connections
            | Action::Recent(_)
            | Action::Ocsp
            | Action::OcspCheck { .. } => Ok(Value::Applied),
        }
    }

    fn reply(
        &self,
        request: &Request,
        answer: oneshot::Sender<String>,
        outcome: Result<Value, String>,
    ) {
        let reply = Reply {
            generation: self.generation(),
            outcome,
        };
        if answer.send(reply.render(request.form)).is_err() {
            tracing::debug!("a control client left before its answer");
        }
    }

    /// Publishes what has changed, as soon as the publication before is over.
    fn publish(&mut self) {
        if !self.change.is_due(Instant::now()) {
            return;
        }
        let waiting = std::mem::take(&mut self.change.waiting);
        match self.publish_state() {
            Ok(()) => {
                self.change.published();
                self.change.graced = waiting;
                match &self.dsr {
                    Some(dsr) => {
                        self.change.epochs = dsr.workers.as_ref().map(Workers::epochs);
                        self.start_grace();
                    }
                    // Only a data plane may still read what was replaced.
                    None => self.in_force(),
                }
            }
            Err(error) => {
                tracing::error!("nothing was changed: {error:#}");
                self.change.take_back();
                self.change.refused(Instant::now());
                for Waiting { request, answer } in waiting {
                    self.reply(&request, answer, Err(format!("{error:#}")));
                }
            }
        }
    }

    /// Publishes the state to the data plane and to the proxy.
    fn publish_state(&mut self) -> Result<()> {
        let state = &self.change.state;
        let routes = routes(state);
        let rerouted = self
            .proxy
            .as_ref()
            .is_some_and(|proxy| *proxy.routes() != routes);
        // Before anything is published: a log or a certificate that can't be had refuses the change.
        let made = match &mut self.proxy {
            Some(proxy) if rerouted => Some((proxy.agree(&routes)?, proxy.open_logs(&routes)?)),
            Some(_) | None => None,
        };
        let before = self.generation();
        let generation = match &mut self.dsr {
            Some(dsr) => {
                dsr.publish(state, rerouted)?;
                dsr.publisher.generation()
            }
            None => before + u64::from(rerouted),
        };
        if let (Some(proxy), Some((agreed, logs))) = (&mut self.proxy, made) {
            proxy.update(routes, logs, &agreed);
        }
        if generation != before {
            self.generation.store(generation, Ordering::Relaxed);
            tracing::info!("generation {generation} is in force");
            notify::status(&self.in_one_line());
        }
        Ok(())
    }

    fn start_grace(&mut self) {
        let Some(dsr) = &self.dsr else { return };
        let then = self.change.epochs.clone();
        let watcher = dsr.workers.as_ref().map(Workers::watcher);
        let readers = Arc::clone(&dsr.readers);
        let pause = self.change.pause();
        self.change.grace = Some(tokio::task::spawn_blocking(move || {
            thread::sleep(pause);
            readers.wait(|| match (&then, &watcher) {
                (Some(then), Some(watcher)) => then.passed(&watcher.epochs()),
                _ => true,
            })
        }));
    }

    /// Tells everyone who waits that it does not go on. Nothing is published meanwhile.
    fn give_up(&mut self, error: &NoGrace) {
        for Waiting { request, answer } in std::mem::take(&mut self.change.graced) {
            let why = format!("it is published, but may not be in force everywhere yet: {error}");
            self.reply(&request, answer, Err(why));
        }
        self.change.take_back();
        for Waiting { request, answer } in std::mem::take(&mut self.change.waiting) {
            let why = format!("nothing was changed, the change before is not over: {error}");
            self.reply(&request, answer, Err(why));
        }
    }

    fn graced(&mut self, result: Result<(), NoGrace>) {
        self.change.grace = None;
        if let Err(error) = result {
            tracing::error!("{error}; changes wait");
            if self.change.wait_failed(Instant::now()) {
                self.give_up(&error);
            }
            return self.start_grace();
        }
        self.in_force();
    }

    /// Tells everyone who asked for what was published that nobody reads otherwise any more.
    fn in_force(&mut self) {
        self.change.waited();
        for Waiting { request, answer } in std::mem::take(&mut self.change.graced) {
            self.reply(&request, answer, Ok(Value::Applied));
        }
    }
}

/// What the kernel tells next; never anything without a data plane.
async fn next(dsr: &mut Option<Dsr>) -> Result<NetEvent> {
    match dsr {
        Some(dsr) => dsr.next().await,
        None => std::future::pending().await,
    }
}
