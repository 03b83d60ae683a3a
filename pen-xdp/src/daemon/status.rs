//! What `status` shows: the daemon, its plane and its queues at one moment.

use pen_common::{
    config::Config,
    control::{
        Counter, Degraded, DsrStatus, FrameAccount, InterfaceStatus, NicChange, PlaneStatus,
        QueueStatus, Servers, Status, XdpStatistics,
    },
    tables::Mac,
};

use super::{Daemon, conflict, dsr::Dsr};
use crate::{
    control::{
        report::{self, Went},
        state::State,
    },
    keeper::child::main_pid,
    plane::{Losses, QueueReport, WorkerReport, coarse_ns},
    proxy::Proxy,
};

impl Daemon {
    /// Everything about this daemon.
    pub(super) fn status(&self) -> Status {
        let state = &self.change.state;
        let (dsr, degraded) = match &self.dsr {
            Some(dsr) => {
                let (status, degraded) = dsr.status(state);
                (Some(status), degraded)
            }
            None => (None, Vec::new()),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: main_pid(),
            uptime_s: self.started.elapsed().as_secs(),
            generation: self.generation(),
            config: self.reload.status(),
            degraded,
            dsr,
            proxy: self.proxy.as_ref().map(Proxy::status).unwrap_or_default(),
            names: self.names.status(&state.unused().0),
        }
    }

    /// Pen's `servers`: of one service's pool, or of all pools.
    pub(super) fn servers(&self, service: Option<&str>) -> Result<Servers, String> {
        let state = &self.change.state;
        let mut servers = match &self.dsr {
            Some(dsr) => dsr.seen(state).servers(service),
            None => report::servers(state, service, |_| Went::default()),
        }?;
        let Some(proxy) = &self.proxy else {
            return Ok(servers);
        };
        for pool in &mut servers.pools {
            // The port that a server's connections go to if it names none.
            let mut users = state.config().proxy_services();
            let port = users
                .find(|service| service.pool == pool.pool)
                .and_then(|service| service.listeners.first())
                .map_or(0, |listener| listener.port);
            for server in &mut pool.servers {
                let (conn, sent, received) = proxy.traffic(&pool.pool, &server.name);
                server.conn += conn;
                server.sx += sent;
                server.rx += received;
                if server.port == 0 && server.path.is_none() {
                    server.port = port;
                }
            }
        }
        Ok(servers)
    }

    /// Every reason of the data plane, and every reason why the proxy served no client.
    pub(super) fn counters(&self) -> Vec<Counter> {
        let state = &self.change.state;
        let dsr = self.dsr.as_ref().map(|dsr| dsr.seen(state).counters());
        let mut counters = dsr.unwrap_or_default();
        counters.extend(self.proxy.as_ref().map(Proxy::refusals).unwrap_or_default());
        counters
    }
}

impl Dsr {
    fn status(&self, state: &State) -> (DsrStatus, Vec<Degraded>) {
        let seen = self.seen(state);
        let (queues, degraded) = self.queues(state.config());
        let config = state.config();
        let nic = &self.keeper.nic;
        let taken = self.opened.rungs.iter().find(|rung| rung.taken);
        let status = DsrStatus {
            interface: InterfaceStatus {
                name: nic.name.clone(),
                index: nic.index,
                mac: Mac::new(nic.link.mac).to_string(),
                mtu: nic.link.mtu,
                driver: nic.driver.clone(),
            },
            plane: PlaneStatus {
                wanted: config.plane,
                actual: self.opened.plane,
                why: taken.map(|rung| rung.why.clone()).unwrap_or_default(),
                rungs: self.opened.rungs.clone(),
            },
            xdp: self.opened.xdp.clone(),
            busy: config.busy,
            queues,
            vips: seen.vips(),
            pools: seen.pools(),
            counters: seen.counters(),
            nic_changes: self.nic_changes(),
        };
        (status, degraded)
    }

    /// The queues as they were opened, with what their workers report now; and what works less well
    /// than it could, since the start or now.
    fn queues(&self, config: &Config) -> (Vec<QueueStatus>, Vec<Degraded>) {
        let reports = self
            .opened
            .workers
            .as_ref()
            .map(|workers| workers.report())
            .unwrap_or_default();
        let mut queues = self.opened.queues.clone();
        let mut degraded = self.opened.degraded.clone();
        for worker in &reports {
            degraded.extend(heard(&mut queues, worker));
        }
        for status in queues.iter_mut().filter(|queue| queue.frames.is_some()) {
            status.heartbeat_age_ms = match self.opened.memory.heartbeat(status.queue) {
                0 => None,
                beat => Some(coarse_ns().saturating_sub(beat) / 1_000_000),
            };
        }
        degraded.extend(conflict::conflicts(config, self.watch.owned()));
        (queues, degraded)
    }

    fn nic_changes(&self) -> Vec<NicChange> {
        let changes = self.keeper.changes().iter().map(|change| NicChange {
            what: change.setting.to_string(),
            before: change.before.clone(),
            now: change.after.clone(),
        });
        changes.collect()
    }
}

fn frames(report: &QueueReport) -> FrameAccount {
    FrameAccount {
        posted_receive: report.accounting.receive.into(),
        in_hand: report.accounting.hand.into(),
        posted_send: report.accounting.send.into(),
        total: report.accounting.total.into(),
    }
}

/// Puts what a worker says into its queues' rows; gives what it lacks.
fn heard(queues: &mut [QueueStatus], worker: &WorkerReport) -> Vec<Degraded> {
    let mut found = None;
    for report in &worker.queues {
        let Some(status) = queues.get_mut(report.queue as usize) else {
            continue;
        };
        found = found.or(Some((status.worker, status.core)));
        status.frames = Some(frames(report));
        status.xdp_statistics = Some(statistics(report.losses));
        // At the start it is the core that was asked for.
        status.core = status.core.filter(|_| worker.pinned);
    }
    let Some((Some(number), core)) = found else {
        return Vec::new();
    };
    let not_pinned = core.filter(|_| !worker.pinned).map(|core| {
        format!(
            "it can't be kept on core {core} and runs where the scheduler puts it; mend: allow pen \
             that core (taskset, AllowedCPUs= in a systemd unit)"
        )
    });
    let lost = worker.events_lost;
    let unheard = (lost > 0).then(|| {
        format!("{lost} of its messages found no room and are not in the log; counters are whole")
    });
    let whys = not_pinned.into_iter().chain(unheard);
    whys.map(|why| Degraded {
        what: format!("worker {number}"),
        why,
    })
    .collect()
}

/// Every loss is shown: a field that is added to one side must be dealt with here.
fn statistics(losses: Losses) -> XdpStatistics {
    let Losses {
        dropped,
        ring_full,
        fill_empty,
        invalid,
        unsent,
    } = losses;
    XdpStatistics {
        rx_dropped: dropped,
        invalid_descs: invalid,
        rx_ring_full: ring_full,
        rx_fill_ring_empty_descs: fill_empty,
        unsent,
    }
}

#[cfg(test)]
mod tests {
    use pen_common::control::ServedBy;

    use super::*;
    use crate::{daemon::open, plane::Accounting};

    #[test]
    fn every_loss_is_shown_under_its_own_name() {
        let shown = statistics(Losses {
            dropped: 1,
            ring_full: 2,
            fill_empty: 3,
            invalid: 4,
            unsent: 5,
        });
        let expected = XdpStatistics {
            rx_dropped: 1,
            rx_ring_full: 2,
            rx_fill_ring_empty_descs: 3,
            invalid_descs: 4,
            unsent: 5,
        };
        assert_eq!(shown, expected);
    }

    /// A queue that worker 2 serves on core 5, and what this worker says.
    fn worker(pinned: bool, events_lost: u64) -> (Vec<QueueStatus>, WorkerReport) {
        let queue = QueueStatus {
            worker: Some(2),
            core: Some(5),
            ..open::queue_status(0, ServedBy::Worker)
        };
        let report = WorkerReport {
            pinned,
            events_lost,
            queues: vec![QueueReport {
                queue: 0,
                accounting: Accounting::new(8),
                received: 0,
                sent: 0,
                not_whole: 0,
                losses: Losses::default(),
                failing: false,
            }],
        };
        (vec![queue], report)
    }

    #[test]
    fn a_core_that_was_not_had_is_not_shown_as_had() {
        let (mut queues, report) = worker(true, 0);
        assert!(heard(&mut queues, &report).is_empty());
        assert_eq!(queues[0].core, Some(5));
        assert!(queues[0].frames.is_some());
        let (mut queues, report) = worker(false, 0);
        let degraded = heard(&mut queues, &report);
        assert_eq!(queues[0].core, None);
        assert_eq!((degraded.len(), degraded[0].what.as_str()), (1, "worker 2"));
        assert!(degraded[0].why.contains("core 5"), "{}", degraded[0].why);
    }

    #[test]
    fn messages_that_were_lost_are_told() {
        let (mut queues, report) = worker(true, 3);
        let degraded = heard(&mut queues, &report);
        assert!(degraded[0].why.starts_with("3 of its messages"));
    }
}
