//! What `status` shows: the daemon, its plane and its queues at one moment.

use pen_common::{
    control::{
        ConfigStatus, Degraded, FrameAccount, InterfaceStatus, NicChange, PlaneStatus, QueueStatus,
        Status, XdpStatistics,
    },
    tables::Mac,
};

use super::{Daemon, conflict};
use crate::plane::{Losses, QueueReport, coarse_ns};

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
            status.xdp_statistics = Some(statistics(report.losses));
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
    use super::*;

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
}
