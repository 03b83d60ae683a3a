//! The calls of the kernel that a proxy makes, and a data plane; all others fail with EPERM.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::Whom;

/// Whatever their arguments.
const CALLS: &[i64] = &[
    // Descriptors.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_pipe2,
    libc::SYS_splice,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Names of files, which Landlock holds to few.
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    // The network.
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // Threads and signals.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Time, chance, and what there is.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
];

/// Older names for the same, which the C library still uses where they are.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[i64] = &[];

/// Clients, servers, name servers; the kernel's list of own addresses, which the C library looks at
/// for a name.
const FAMILIES: [i32; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];
/// Of a descriptor: not to wait, not to be inherited, what waits in it, whether it is a terminal.
const IOCTLS: [u64; 6] = [
    libc::FIONBIO,
    libc::FIOCLEX,
    libc::FIONREAD,
    libc::TIOCOUTQ,
    libc::TCGETS,
    // Whose names of interfaces the C library asks for, in addresses like fe80::1%eth0.
    libc::SIOCGIFINDEX,
];
/// Which the keeper opens (`confinement/sockets.rs`): without it the kernel refuses.
const WORKERS_FAMILIES: &[i32] = &[libc::AF_XDP];
/// An interface's driver, features and queues (without CAP_NET_ADMIN nothing is set by it), and its
/// name, which libxdp asks for.
const DATA_PLANE_IOCTLS: &[u64] = &[libc::SIOCETHTOOL, libc::SIOCGIFNAME];
/// A thread's name; names for memory, by the C library.
const PRCTLS: [i32; 3] = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
/// What a new process has of its own: none may be had, in which it would be root, nor a process that
/// outlives this one.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Holds this thread, and all that it starts, to these calls.
pub(super) fn confine(whom: Whom) -> Result<()> {
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in CALLS.iter().chain(OLDER_CALLS) {
        allowed.insert(*call, Vec::new());
    }
    let (more_families, more_ioctls) = match whom {
        Whom::Proxy => (&[][..], &[][..]),
        Whom::DataPlane { workers: false } => (&[][..], DATA_PLANE_IOCTLS),
        Whom::DataPlane { workers: true } => (WORKERS_FAMILIES, DATA_PLANE_IOCTLS),
    };
    let families = FAMILIES.iter().chain(more_families);
    let families = families.map(|family| argument(0, SeccompCmpOp::Eq, *family as u64));
    allowed.insert(libc::SYS_socket, all(families)?);
    let ioctls = IOCTLS.iter().chain(more_ioctls);
    let ioctls = ioctls.map(|ioctl| argument(1, SeccompCmpOp::Eq, *ioctl));
    allowed.insert(libc::SYS_ioctl, all(ioctls)?);
    let prctls = PRCTLS.iter();
    let prctls = prctls.map(|prctl| argument(0, SeccompCmpOp::Eq, *prctl as u64));
    allowed.insert(libc::SYS_prctl, all(prctls)?);
    let mask = (NAMESPACES | libc::CLONE_THREAD) as u64;
    let thread = argument(0, SeccompCmpOp::MaskedEq(mask), libc::CLONE_THREAD as u64);
    allowed.insert(libc::SYS_clone, all([thread])?);
    // Its own threads and limits, and no other process's of this user.
    let own = u64::from(std::process::id());
    allowed.insert(libc::SYS_tgkill, all([argument(0, SeccompCmpOp::Eq, own)])?);
    let limited = [0, own].map(|whose| argument(0, SeccompCmpOp::Eq, whose));
    allowed.insert(libc::SYS_prlimit64, all(limited)?);
    let placed = argument(0, SeccompCmpOp::Eq, 0);
    allowed.insert(libc::SYS_sched_setaffinity, all([placed])?);
    // Its arguments can't be looked at: the C library is told that it is not there, and takes clone.
    let newer = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    apply(newer, SeccompAction::Allow, absent)?;
    // Of two filters the stricter one counts. Behind this one there is no third.
    allowed.insert(libc::SYS_clone3, Vec::new());
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    apply(allowed, refused, SeccompAction::Allow)
}

fn apply(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<()> {
    let machine = TargetArch::try_from(std::env::consts::ARCH).context("on this machine")?;
    let filter = SeccompFilter::new(rules, others, these, machine)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(apply_filter(&program)?)
}

fn argument(
    number: u8,
    how: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(number, SeccompCmpArgLen::Dword, how, value)?;
    SeccompRule::new(vec![condition])
}

fn all(
    rules: impl IntoIterator<Item = Result<SeccompRule, seccompiler::BackendError>>,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    rules.into_iter().collect()
}
