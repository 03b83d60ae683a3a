//! What `status`, `servers` and `counters` show of services, pools and reasons.

use pen_common::{
    config::Config,
    control::{
        BackendState, BackendStatus, Counter, Owner, PoolStatus, ServerStatus, Servers,
        ServersOfPool, VipStatus,
    },
    flow_table::FLOW_IDLE_S,
    maglev,
    tables::{BACKENDS_MAX, BackendId},
    verdict::Reason,
};

use super::{
    snapshot::Snapshot,
    state::{Standing, State},
};
use crate::mapped::{Mapped, Traffic};

/// Everything that these replies are made of.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Desired and observed.
    pub state: &'a State,
    /// In force.
    pub snapshot: &'a Snapshot,
    /// Counters.
    pub memory: &'a Mapped,
}

impl Seen<'_> {
    fn config(&self) -> &Config {
        self.state.config()
    }

    /// The VIPs, in the order of the configuration.
    pub fn vips(&self) -> Vec<VipStatus> {
        let mut vips = Vec::new();
        for service in self.config().dsr_services() {
            vips.extend(service.listeners.iter().map(|listener| VipStatus {
                address: listener.address,
                port: listener.port,
                protocol: listener.protocol,
                vlan: service.vlan,
                service: service.name.clone(),
                pool: service.pool.clone(),
                hash: service.hash,
                owner: match self.state.is_local(listener.address) {
                    true => Owner::Kernel,
                    false => Owner::Own,
                },
            }));
        }
        vips
    }

    /// The pools with their back ends.
    pub fn pools(&self) -> Vec<PoolStatus> {
        let flows = self.flows();
        let pools = self.config().dsr_pools().zip(&self.snapshot.pools);
        let status = pools.map(|(pool, table)| {
            let shares = maglev::shares(&table.slots);
            let backends = pool.backends.iter().enumerate().map(|(index, backend)| {
                let id = self.state.id(&pool.name, &backend.name);
                let standing = self.state.standing(&pool.name, backend);
                let Traffic { frames, bytes } = self.memory.traffic(id);
                BackendStatus {
                    index,
                    id: u32::from(id),
                    name: backend.name.clone(),
                    address: backend.address,
                    mac: self
                        .state
                        .mac_of(backend.address)
                        .map(|mac| mac.to_string()),
                    weight: backend.weight,
                    state: state_word(standing),
                    blacklist_left_s: match standing {
                        Standing::Blacklisted(seconds) => u32::try_from(seconds).ok(),
                        Standing::Serving
                        | Standing::NoWeight
                        | Standing::Gone
                        | Standing::NoMac => None,
                    },
                    slots: shares.get(&id).map_or(0, |slots| *slots as u32),
                    flows: flows.get(usize::from(id)).copied().unwrap_or_default(),
                    frames,
                    bytes,
                }
            });
            PoolStatus {
                name: pool.name.clone(),
                table_size: pool.table_size,
                backends: backends.collect(),
            }
        });
        status.collect()
    }

    /// Pen's `servers`: of one service's pool, or of all pools.
    ///
    /// # Errors
    /// There is no such service.
    pub fn servers(&self, service: Option<&str>) -> Result<Servers, String> {
        let flows = self.flows();
        servers(self.state, service, |id| Went {
            conn: flows.get(usize::from(id)).copied().unwrap_or_default(),
            sx: self.memory.traffic(id).bytes,
        })
    }

    /// Flows of each back end that are not silent for longer than a UDP flow may be.
    pub fn flows(&self) -> Vec<u32> {
        let mut flows = vec![0; BACKENDS_MAX as usize];
        for entry in self.memory.flows() {
            if entry.age_s <= FLOW_IDLE_S
                && let Some(count) = flows.get_mut(usize::from(entry.backend))
            {
                *count += 1;
            }
        }
        flows
    }

    /// Every reason with its count.
    pub fn counters(&self) -> Vec<Counter> {
        let counters = Reason::ALL.iter().map(|reason| Counter {
            reason: reason.label().to_owned(),
            text: reason.text().to_owned(),
            count: self.memory.count(*reason),
        });
        counters.collect()
    }
}

/// What went to a back end past the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Went {
    /// Flows.
    pub conn: u32,
    /// Bytes.
    pub sx: u64,
}

/// Pen's `servers`, as far as the state knows them; `went` says what went to each.
///
/// # Errors
/// There is no such service.
pub fn servers(
    state: &State,
    service: Option<&str>,
    went: impl Fn(BackendId) -> Went,
) -> Result<Servers, String> {
    let config = state.config();
    let only = match service {
        None => None,
        Some(name) => {
            let found = config.services.iter().find(|service| service.name == name);
            let found = found.ok_or_else(|| format!("there is no service {name:?}"))?;
            Some(found.pool.as_str())
        }
    };
    let pools = config
        .pools
        .iter()
        .filter(|pool| only.is_none_or(|only| pool.name == only));
    let pools = pools.map(|pool| ServersOfPool {
        pool: pool.name.clone(),
        servers: pool
            .backends
            .iter()
            .enumerate()
            .map(|(index, backend)| {
                let Went { conn, sx } = went(state.id(&pool.name, &backend.name));
                ServerStatus {
                    index,
                    name: backend.name.clone(),
                    address: backend.address,
                    path: backend.path().map(|path| path.display().to_string()),
                    port: backend.port,
                    conn,
                    max: backend.max,
                    hard: backend.hard,
                    // Whoever reads this asks whom new clients get.
                    weight: if backend.gone { 0 } else { backend.weight },
                    prio: backend.prio,
                    sx,
                    rx: 0,
                }
            })
            .collect(),
    });
    Ok(Servers {
        pools: pools.collect(),
    })
}

const fn state_word(standing: Standing) -> BackendState {
    match standing {
        Standing::Serving => BackendState::Up,
        Standing::NoWeight => BackendState::Drained,
        Standing::Gone => BackendState::Gone,
        Standing::NoMac => BackendState::NoMac,
        Standing::Blacklisted(_) => BackendState::Blacklisted,
    }
}
