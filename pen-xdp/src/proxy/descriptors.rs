//! Open files: each client takes one, its server another.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::routes::Routes;

/// Descriptors that a client takes: its own, its server's, and a pipe's two for each direction
/// while the kernel passes bytes on.
const PER_CLIENT: u64 = 6;
/// What the rest of the process needs.
const OTHERS: u64 = 100;

/// Raises the limit of open files as far as this process may; a sentence if that is not far enough
/// for as many clients as `routes` allow.
pub(super) fn raise_limit(routes: &Routes) -> Option<String> {
    let limit = Resource::RLIMIT_NOFILE;
    let (soft, hard) = getrlimit(limit).ok()?;
    let raised = setrlimit(limit, hard, hard).is_ok();
    let allowed = if raised { hard } else { soft };
    let clients: u64 = routes
        .iter()
        .map(|route| u64::from(route.options.conn_max))
        .sum();
    let needed = clients * PER_CLIENT + OTHERS;
    (allowed < needed).then(|| {
        format!(
            "{clients} clients may need {needed} open files, and {allowed} are allowed: clients \
             wait when they are used up; mend: a smaller conn_max, or a greater limit (ulimit -n, \
             LimitNOFILE=)"
        )
    })
}
