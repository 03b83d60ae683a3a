//! The loop that joins everything: what happens outside becomes commands, commands change the
//! state, the state is published, and whoever asked hears of it.

mod change;
pub mod check;
mod configuration;
mod conflict;
mod connections;
mod drafts;
mod dsr;
mod echo;
mod ending;
mod flow_clock;
mod journal;
pub mod log;
pub mod notify;
pub mod open;
mod page;
pub mod pid_file;
mod queues;
mod reload;
mod signals;
pub mod start;
mod status;
mod workers;

use std::{
    collections::{BTreeMap, BTreeSet},
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
    control::{Action, EXIT_IS_OFF, Form, Reply, Request, Value, mode_line},
};
use tokio::{
    sync::mpsc,
    time::{Duration, interval},
};

use crate::{
    control::{
        grace::NoGrace,
        names::Answers,
        permission::Permission,
        routes::routes,
        socket::{Asked, ControlSocket, ReplyTo},
        state::Command,
    },
    keeper::{self, child::main_pid},
    names::Names,
    plane::{Workers, coarse_ns},
    proxy::{Inherited, Proxy},
    watch::NetEvent,
};
use change::{Change, Waiting, grace_over};
use drafts::{Drafts, Made, Purpose};
use dsr::Dsr;
use ending::Ending;
use notify::{Reloading, Watchdog};
use reload::Reload;
use signals::{Heard, Signals};
use start::DsrReady;

/// How often the daemon looks at what nobody tells it: the clock, its workers.
const TICK: Duration = Duration::from_millis(100);
/// Requests that wait to be looked at.
const REQUESTS: usize = 64;

/// A running daemon.
pub struct Daemon {
    started: Instant,
    reload: Reload,
    drafts: Drafts,
    /// Host names that are asked for.
    followed: BTreeSet<String>,
    /// Of the configuration in force.
    generation: Arc<AtomicU64>,
    /// What serves services of proxy mode, if there are any.
    proxy: Option<Proxy>,
    /// What serves services in DSR, if there are any.
    dsr: Option<Dsr>,
    /// What the first service in DSR begins with, as soon as it is published.
    begins: Option<DsrReady>,
    socket: Option<ControlSocket>,
    /// Who may ask at a control port, in force.
    permission: Arc<Permission>,
    change: Change,
    signals: Signals,
    names: Names,
    /// What the service manager was told, until the reload is over.
    reloading: Option<Reloading>,
    /// Connections of services that are no more.
    left: usize,
    /// How it ends, as soon as it was told to.
    ending: Option<Ending>,
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
        let permission = Arc::clone(&self.permission);
        let serve = async {
            match &socket {
                Some(socket) => {
                    let generation = move || generation.load(Ordering::Relaxed);
                    let may_ask = move |client| permission.may_ask(client);
                    socket.serve(sender, generation, may_ask).await;
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
                draft = self.drafts.next() => self.made(draft).await,
                () = watchdog.due() => notify::alive(),
                result = grace_over(&mut self.change.grace) => self.graced(result),
                heard = self.signals.next() => match heard {
                    Heard::Stop if self.ending.is_some() => return Ok(()),
                    Heard::Stop => self.end(None),
                    Heard::Reload => self.hang_up(),
                    Heard::Statistics => self.statistics(),
                },
            }
            self.publish();
            if self.is_over() {
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
        let keeps = self.keeps_forwarding();
        let Self {
            proxy, dsr, socket, ..
        } = self;
        // Nobody is to be taken who can't be served to the end.
        drop(proxy);
        if let Some(dsr) = dsr {
            dsr.close(keeps);
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
            dsr.watch_back_ends(&self.change);
        }
    }

    fn tick(&mut self) {
        let now_ms = coarse_ns() / 1_000_000;
        self.change.observe(Command::Clock(now_ms));
        if let Some(dsr) = &mut self.dsr {
            dsr.tick(now_ms, &self.change.state);
        }
        if let Some(proxy) = &mut self.proxy {
            self.left = proxy.let_go();
        }
    }

    fn asked(&mut self, Asked { request, answer }: Asked) {
        if let Some(command) = Command::asked(&request) {
            return self.changes(command, Waiting::for_client(request, answer));
        }
        match request.action.clone() {
            Action::Status if request.form == Form::Raw => self.show_page(request, answer),
            Action::Reload => {
                self.read_again(Waiting::for_client(request, answer), Purpose::Replace);
            }
            Action::ConfigDiff => {
                self.read_again(Waiting::for_client(request, answer), Purpose::Diff);
            }
            Action::Apply(applied) => self.apply(applied, Waiting::for_client(request, answer)),
            Action::Edit(edit) => self.edit(edit, Waiting::for_client(request, answer)),
            Action::Write(file) => self.write_config(file, request, answer),
            Action::Connections => self.list(request, answer, |observer, service| {
                observer.connections(service).map(Value::Connections)
            }),
            Action::Recent(seconds) => self.list(request, answer, move |observer, service| {
                observer.recent(service, seconds).map(Value::Recent)
            }),
            Action::Ocsp => self.list(request, answer, |observer, service| {
                observer.ocsp_questions(service).map(Value::Ocsp)
            }),
            Action::OcspCheck {
                certificate,
                answer: file,
            } => self.list(request, answer, move |observer, service| {
                let checked = observer.check_ocsp_answer(service, &certificate, &file);
                checked.map(Value::Text)
            }),
            Action::Acl(..)
            | Action::Blank
            | Action::Close(_)
            | Action::ConfigShow(_)
            | Action::Connection(_)
            | Action::Control
            | Action::Counters
            | Action::Debug(_)
            | Action::Drain(..)
            | Action::Exit
            | Action::Listen
            | Action::Mode
            | Action::Nothing
            | Action::Option { .. }
            | Action::Pid
            | Action::Resolve
            | Action::Server(..)
            | Action::Servers
            | Action::Services
            | Action::Setting { .. }
            | Action::Status
            | Action::Stop
            | Action::Switch(..) => {
                let outcome = self.show(&request);
                self.reply(&request, answer, outcome);
            }
        }
    }

    /// A change that is in force only when it is published and nobody reads the old tables any more.
    fn changes(&mut self, command: Command, waiting: Waiting) {
        match self.change.state.apply(command) {
            Ok(_) => {
                self.readmit(&waiting.request);
                self.change.waiting.push(waiting);
            }
            Err(refusal) => self.tell(waiting, Err(refusal.to_string())),
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
            Action::Pid => Ok(Value::Number(u64::from(main_pid()))),
            Action::Control => {
                let at = config.control.as_ref().map(ToString::to_string);
                Ok(Value::Text(at.unwrap_or_default()))
            }
            Action::Listen => Ok(Value::Text(start::listen_line(config.services.iter()))),
            Action::Resolve => {
                self.names.look_up();
                Ok(Value::Applied)
            }
            Action::Exit => {
                if !config.allow_exit {
                    return Err(EXIT_IS_OFF.to_owned());
                }
                self.end(Some("exit"));
                Ok(Value::Applied)
            }
            Action::Debug(None) => Ok(Value::Number(u64::from(config.debug))),
            Action::Debug(Some(level)) => {
                log::set_log_level(*level);
                self.change.state.set_debug(*level);
                Ok(Value::Number(u64::from(*level)))
            }
            Action::Stop => {
                self.end(Some("stop"));
                self.detaches();
                Ok(Value::Applied)
            }
            Action::Services => Ok(Value::Services(self.services())),
            Action::ConfigShow(form) => {
                let written = config.as_written().written(*form);
                written
                    .map(Value::Whole)
                    .map_err(|faults| faults.to_string())
            }
            Action::Option { key, value: None } => {
                let found = self.change.state.only(service, key);
                let found = found.map_err(|refusal| refusal.to_string())?;
                Ok(Value::Text(found.shown(key)))
            }
            Action::Setting { key, value: None } => Ok(Value::Text(config.shown(key))),
            Action::Nothing | Action::Blank => Ok(Value::Applied),
            Action::Server(..)
            | Action::Switch(..)
            | Action::Option { .. }
            | Action::Setting { .. }
            | Action::Acl(..)
            | Action::Reload
            | Action::Apply(_)
            | Action::ConfigDiff
            | Action::Write(_)
            | Action::Edit(_)
            | Action::Drain(..)
            | Action::Connections
            | Action::Recent(_)
            | Action::Ocsp
            | Action::OcspCheck { .. } => Ok(Value::Applied),
        }
    }

    /// Tells whoever asked for a change what came of it.
    fn tell(&mut self, Waiting { request, answer }: Waiting, outcome: Result<Value, String>) {
        if request.action == Action::Reload {
            self.reload
                .came_to(outcome.as_ref().map(|_| ()).map_err(Clone::clone));
        }
        let outcome = match outcome {
            Ok(Value::Applied) => Ok(self.echo(&request)),
            other => other,
        };
        if answer.is_none() {
            self.reloading = None;
        }
        match (answer, outcome) {
            (Some(answer), outcome) => self.reply(&request, answer, outcome),
            (None, Ok(_)) => tracing::info!("SIGHUP: the configuration is as it is written"),
            (None, Err(why)) => tracing::error!("SIGHUP: nothing was changed: {why}"),
        }
    }

    fn reply(&self, request: &Request, answer: ReplyTo, outcome: Result<Value, String>) {
        let reply = Reply {
            generation: self.generation(),
            outcome,
        };
        answer.send(request, &reply);
    }

    /// Publishes what has changed, as soon as the publication before is over.
    fn publish(&mut self) {
        if !self.change.is_due(Instant::now()) {
            return;
        }
        let waiting = std::mem::take(&mut self.change.waiting);
        match self.publish_state() {
            Ok(()) => {
                let replaced = self.change.published();
                self.end_dsr();
                // Those that are gone are asked for no more.
                if let Some(dsr) = self.dsr.as_mut().filter(|_| replaced) {
                    dsr.watch_back_ends(&self.change);
                }
                self.change.graced = waiting;
                match &self.dsr {
                    Some(dsr) => {
                        self.change.epochs = dsr.opened.workers.as_ref().map(Workers::epochs);
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
                self.end_dsr();
                if let Some(dsr) = &mut self.dsr {
                    dsr.watch_back_ends(&self.change);
                }
                for waiting in waiting {
                    self.tell(waiting, Err(format!("{error:#}")));
                }
            }
        }
    }

    /// Cores that workers are kept on, and the proxy is not to use.
    fn taken(&self) -> BTreeSet<usize> {
        self.dsr.as_ref().map(Dsr::cores).unwrap_or_default()
    }

    /// Publishes the state to the data plane and to the proxy.
    fn publish_state(&mut self) -> Result<()> {
        if self.dsr.is_some() {
            self.change.look_for_gateways()?;
        }
        let state = &self.change.state;
        let routes = routes(state);
        // Whoever ends takes nobody any more.
        let ending = self.ending.is_some();
        let first = self.proxy.is_none() && !routes.0.is_empty() && !ending;
        let proxy = self.proxy.as_ref();
        let rerouted = first || !ending && proxy.is_some_and(|proxy| *proxy.routes() != routes);
        // Before anything is published: a listener, log or certificate that can't be had refuses the change.
        let prepared = match &mut self.proxy {
            Some(proxy) if rerouted => Some(keeper::prepare(proxy, routes.clone())?),
            Some(_) | None => None,
        };
        let begun = match first {
            true => Some(keeper::listen(routes, &mut Inherited::default())?.start(&self.taken())?),
            false => None,
        };
        let before = self.generation();
        // Last of what can fail.
        let begins = self.begin_dsr(before)?;
        let state = &self.change.state;
        let generation = match &mut self.dsr {
            Some(dsr) => {
                dsr.publish(state, rerouted || begins)?;
                let last = self.change.last();
                // An address of this host's that comes or goes is announced as soon as it is heard of.
                let configured = state.config().services != last.config().services;
                if begins || configured && start::own_vips(state) != start::own_vips(last) {
                    dsr.announce(dsr::ANNOUNCEMENTS, state);
                }
                dsr.opened.publisher.generation()
            }
            None => before + u64::from(rerouted),
        };
        if let (Some(proxy), Some(prepared)) = (&mut self.proxy, prepared) {
            proxy.update(prepared);
        }
        self.proxy = begun.or(self.proxy.take());
        self.follow_config();
        self.permission.follow(self.change.state.config());
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
        let watcher = dsr.opened.workers.as_ref().map(Workers::watcher);
        let readers = Arc::clone(&dsr.opened.readers);
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
        for waiting in std::mem::take(&mut self.change.graced) {
            let why = format!("it is published, but may not be in force everywhere yet: {error}");
            self.tell(waiting, Err(why));
        }
        self.change.take_back();
        for waiting in std::mem::take(&mut self.change.waiting) {
            let why = format!("nothing was changed, the change before is not over: {error}");
            self.tell(waiting, Err(why));
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
        for waiting in std::mem::take(&mut self.change.graced) {
            self.tell(waiting, Ok(Value::Applied));
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
