//! Open files: each client takes one, and its server another.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::routes::Routes;

/// Descriptors that a client and its server take.
const PER_CLIENT: u64 = 2;
/// What the rest of the process needs.
const OTHERS: u64 = 100;
/// Of what is allowed, the share that is left to pipes and to connections kept for later.
const SPARE: u64 = 8;

/// How many clients this process can serve at a time, with the limit of open files raised as far as
/// it may be; and a sentence if that is fewer than `routes` allow.
pub(super) fn clients_max(routes: &Routes) -> (u32, Option<String>) {
    let limit = Resource::RLIMIT_NOFILE;
    let (soft, hard) = getrlimit(limit).unwrap_or((u64::MAX, u64::MAX));
    let raised = setrlimit(limit, hard, hard).is_ok();
    let allowed = if raised { hard } else { soft };
    let wanted: u64 = routes
        .iter()
        .map(|route| u64::from(route.options.conn_max))
        .sum();
    let free = allowed.saturating_sub(OTHERS + allowed / SPARE);
    let possible = (free / PER_CLIENT).max(1);
    let warning = (possible < wanted).then(|| {
        format!(
            "{allowed} open files are enough for {possible} clients at a time, and {wanted} are \
             allowed: more have to wait; mend: a greater limit (ulimit -n, LimitNOFILE=), or a \
             smaller conn_max"
        )
    });
    (u32::try_from(possible).unwrap_or(u32::MAX), warning)
}
