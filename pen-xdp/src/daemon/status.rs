//! What `status` shows: the daemon, its plane and its queues at one moment.

use pen_common::{
    control::{
        ConfigStatus, Degraded, FrameAccount, InterfaceStatus, NicChange, PlaneStatus, QueueStatus,
        Status, XdpStatistics,
    },
    tables::Mac,
};

use super::{Daemon, conflict};
use crate::plane::{QueueReport, coarse_ns};

impl Daemon {
    /// Everything about this daemon.
    pub(super) fn status(&self) -> Status {
        let seen = self.seen();
        let config = self.state.config();
        let nic = &self.keeper.nic;
        let taken = self.rungs.iter().find(|rung| rung.taken);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            generation: self.publisher.generation(),
            config: ConfigStatus {
                source: self.source.clone(),
                last_error: None,
            },
            interface: InterfaceStatus {
                name: nic.name.clone(),
                index: nic.index,
                mac: Mac::new(nic.link.mac).to_string(),
                mtu: nic.link.mtu,
                driver: nic.driver.clone(),
            },
            plane: PlaneStatus {
                wanted: config.plane,
                actual: self.plane,
                why: taken.map(|rung| rung.why.clone()).unwrap_or_default(),
                rungs: self.rungs.clone(),
            },
            xdp: self.xdp.clone(),
            busy: config.busy,
            queues: self.queues(),
            degraded: self.degraded(),
            vips: seen.vips(),
            pools: seen.pools(),
            counters: seen.counters(),
            nic_changes: self.nic_changes(),
        }
    }

    /// What was found at start, and what has come up since.
    fn degraded(&self) -> Vec<Degraded> {
        let conflicts = conflict::conflicts(self.state.config(), self.watch.owned());
        self.degraded.iter().cloned().chain(conflicts).collect()
    }

    /// The queues as they were opened, with what their workers report now.
    fn queues(&self) -> Vec<QueueStatus> {
        let reports = self
            .workers
            .as_ref()
            .map(|workers| workers.report())
            .unwrap_or_default();
        let mut queues = self.queues.clone();
        for report in reports.iter().flat_map(|worker| &worker.queues) {
            let Some(status) = queues.get_mut(report.queue as usize) else {
                continue;
            };
            status.frames = Some(frames(report));
            status.xdp_statistics = Some(XdpStatistics {
                rx_dropped: report.losses.dropped,
                rx_ring_full: report.losses.ring_full,
                rx_fill_ring_empty_descs: report.losses.fill_empty,
                rx_invalid_descs: report.losses.invalid,
                ..XdpStatistics::default()
            });
            status.heartbeat_age_ms = match self.memory.heartbeat(report.queue) {
                0 => None,
                beat => Some(coarse_ns().saturating_sub(beat) / 1_000_000),
            };
        }
        queues
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
