//! Why the program can't be loaded or attached, in words that say what mends it.

use std::{error::Error, io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError, util::KernelVersion};

use super::SOCKETS;
use crate::nic::Holder;

/// The first kernel that has all that the program needs: programs for frames in several buffers.
const KERNEL_MAJOR_MIN: u8 = 5;
/// Of that major version.
const KERNEL_MINOR_MIN: u8 = 18;

/// A privilege that Pen needs, as capabilities(7) names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Loading programs, making maps.
    Bpf,
    /// Loading programs that calculate with addresses of packets as this one does.
    PerfMon,
    /// Attaching to an interface, changing its settings.
    NetAdmin,
    /// Opening AF_XDP and packet sockets.
    NetRaw,
}

impl Capability {
    const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::PerfMon => "CAP_PERFMON",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
        }
    }

    const fn purpose(self) -> &'static str {
        match self {
            Self::Bpf => "to load the XDP program",
            Self::PerfMon => "for the kernel's verifier to take the XDP program",
            Self::NetAdmin => "to attach it to an interface",
            Self::NetRaw => "to open AF_XDP and packet sockets",
        }
    }

    fn held(self) -> bool {
        let has = |capability| {
            caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or_default()
        };
        match self {
            // Until 5.8 the one stood for the others, and it still does.
            Self::Bpf => has(caps::Capability::CAP_BPF) || has(caps::Capability::CAP_SYS_ADMIN),
            Self::PerfMon => {
                has(caps::Capability::CAP_PERFMON) || has(caps::Capability::CAP_SYS_ADMIN)
            }
            Self::NetAdmin => has(caps::Capability::CAP_NET_ADMIN),
            Self::NetRaw => has(caps::Capability::CAP_NET_RAW),
        }
    }
}

/// The program can't do its work on this interface.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A privilege is missing.
    #[error(
        "{} is missing, needed {}; run pen as root, or grant it \
         (AmbientCapabilities= in a systemd unit)",
        .0.name(),
        .0.purpose()
    )]
    Privilege(Capability),
    /// The kernel is too old.
    #[error(
        "kernel {0} has no XDP programs for frames in several buffers; \
         Linux {KERNEL_MAJOR_MIN}.{KERNEL_MINOR_MIN} or later is needed, or plane = af_packet"
    )]
    OldKernel(KernelVersion),
    /// The kernel says that it does not know something, whatever its age: built without it, or a
    /// vendor's mixture.
    #[error(
        "this kernel has no {what}, by its own word ({error}); \
         Linux {since} or later with {option} is needed, or plane = af_packet"
    )]
    Lacks {
        /// What is missing.
        what: &'static str,
        /// The first kernel that can have it.
        since: &'static str,
        /// The kernel's build option.
        option: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// No BPF file system to pin in.
    #[error(
        "{} is no BPF file system and none can be mounted there: {source}; \
         mend: mount -t bpf bpf {}",
        path.display(),
        path.display()
    )]
    NoBpffs {
        /// Where it should be.
        path: PathBuf,
        /// Why it can't be mounted.
        source: io::Error,
    },
    /// Another daemon has the interface's pins.
    #[error("{ifname} is served by another pen, with another run_dir; stop that one first")]
    Served {
        /// Interface.
        ifname: String,
    },
    /// Another program is on the interface.
    #[error(
        "the XDP hook of {ifname} is taken by {}; end that one, or: ip link set {ifname} xdp off, \
         or: pen --detach {ifname}",
        holder.as_ref().map_or_else(|| "another program".to_owned(), Holder::to_string)
    )]
    Held {
        /// Interface.
        ifname: String,
        /// Who, if it can be told.
        holder: Option<Holder>,
    },
    /// The driver or the kernel refuses the mode.
    #[error("the XDP program is refused: {0}")]
    Refused(String),
    /// The kernel's verifier refuses the program.
    #[error("the kernel's verifier refuses the XDP program: {reason}; please report it")]
    Verifier {
        /// Its last words.
        reason: String,
    },
    /// Anything else.
    #[error("{what}: {source}")]
    Other {
        /// What failed, and what mends it where something does.
        what: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl OpenError {
    pub(super) fn other(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Other {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The committed object lacks something; its own test would have failed.
    pub(super) fn broken(name: &str) -> Self {
        Self::other(
            "the XDP object is damaged; reinstall pen",
            format!("no {name}"),
        )
    }

    /// Maps could not be made.
    pub(super) fn load(error: EbpfError) -> Self {
        if let EbpfError::MapError(MapError::CreateError { name, io_error }) = error {
            return Self::no_map(&name, io_error);
        }
        Self::other("the XDP object can't be loaded", error)
    }

    /// The kernel refused to make a map.
    fn no_map(name: &str, error: io::Error) -> Self {
        let (what, since, option) = match (error.raw_os_error(), name) {
            (Some(libc::ENOSYS), _) => ("BPF", "4.18", "CONFIG_BPF_SYSCALL"),
            // How it answers to a type or a flag that it does not know.
            (Some(libc::EINVAL), SOCKETS) => (
                "maps of AF_XDP sockets (BPF_MAP_TYPE_XSKMAP)",
                "4.18",
                "CONFIG_XDP_SOCKETS",
            ),
            (Some(libc::EINVAL), _) => (
                "arrays that a process can map (BPF_F_MMAPABLE)",
                "5.5",
                "CONFIG_BPF_SYSCALL",
            ),
            (Some(libc::ENOMEM), _) => {
                let what = format!("no memory for map {name}; lower table_memory");
                return Self::other(what, error);
            }
            _ => return Self::other(format!("map {name} can't be made"), error),
        };
        Self::Lacks {
            what,
            since,
            option,
            error,
        }
    }

    /// The program could not be loaded.
    pub(super) fn verify(error: ProgramError) -> Self {
        let ProgramError::LoadError {
            io_error,
            verifier_log,
        } = &error
        else {
            return Self::other("the XDP program can't be loaded", error);
        };
        if io_error.raw_os_error() == Some(libc::EPERM) {
            return Self::other(
                "the kernel allows no BPF here (a container, lockdown?)",
                error,
            );
        }
        Self::not_verified(
            io::Error::from_raw_os_error(io_error.raw_os_error().unwrap_or_default()),
            &verifier_log.to_string(),
        )
    }

    fn not_verified(error: io::Error, log: &str) -> Self {
        let last = log
            .lines()
            .rev()
            .find(|line| !line.is_empty() && !line.starts_with("processed"));
        match last {
            // Not even looked at: the kernel does not know the flag that the program comes with.
            None if error.raw_os_error() == Some(libc::EINVAL) => Self::Lacks {
                what: "XDP programs for frames in several buffers (BPF_F_XDP_HAS_FRAGS)",
                since: "5.18",
                option: "CONFIG_BPF_SYSCALL",
                error,
            },
            last => Self::Verifier {
                reason: format!("{error}: {}", last.unwrap_or_default()),
            },
        }
    }
}

/// Checks the privileges of this thread and, where BPF is among them, the kernel's age: a plane
/// without a program is what an old kernel is left with.
///
/// # Errors
/// The first that is missing.
pub fn check_privileges(needed: &[Capability]) -> Result<(), OpenError> {
    // A kernel that does not say its version is asked for what it can do, later.
    check_on(KernelVersion::current().ok(), needed, Capability::held)
}

fn check_on(
    kernel: Option<KernelVersion>,
    needed: &[Capability],
    held: impl Fn(Capability) -> bool,
) -> Result<(), OpenError> {
    if let Some(kernel) = kernel
        && needed.contains(&Capability::Bpf)
    {
        check_age(kernel)?;
    }
    match needed.iter().find(|capability| !held(**capability)) {
        Some(missing) => Err(OpenError::Privilege(*missing)),
        None => Ok(()),
    }
}

fn check_age(kernel: KernelVersion) -> Result<(), OpenError> {
    if kernel < KernelVersion::new(KERNEL_MAJOR_MIN, KERNEL_MINOR_MIN, 0) {
        return Err(OpenError::OldKernel(kernel));
    }
    Ok(())
}

/// CPUs that the program may run on: each has a row of counters.
///
/// # Errors
/// /sys is not mounted.
pub fn possible_cpus() -> io::Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    Ok(cpus as u32)
}

/// Why attaching failed.
pub(super) enum NotAttached {
    /// Somebody else is there.
    Held,
    /// The mode is refused.
    Refused(String),
}

pub(super) fn not_attached(error: &ProgramError) -> NotAttached {
    let code = errno(error);
    match code {
        Some(libc::EBUSY | libc::EEXIST) => NotAttached::Held,
        _ => NotAttached::Refused(match code {
            Some(libc::EOPNOTSUPP) => "the driver has none (EOPNOTSUPP)".into(),
            Some(libc::ERANGE) => {
                "the MTU, or that of the other end, is too large for this driver (ERANGE)".into()
            }
            Some(libc::ENOSPC) => {
                "too few queues: veth wants as many receive queues as its peer has transmit \
                 queues (ENOSPC)"
                    .into()
            }
            Some(libc::EINVAL) => {
                "the driver refuses (EINVAL): its MTU, queue count or offloads; dmesg may say"
                    .into()
            }
            Some(_) | None => chain(error),
        }),
    }
}

/// The error number at the root of an error.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let own = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error);
    own.or_else(|| error.source().and_then(errno))
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_refused_only_where_a_program_is_needed() {
        let old = Some(KernelVersion::new(4, 19, 0));
        let with_program = [Capability::Bpf, Capability::NetAdmin];
        let without = [Capability::NetAdmin, Capability::NetRaw];
        let refused = check_on(old, &with_program, |_| true);
        assert!(matches!(refused, Err(OpenError::OldKernel(_))));
        assert!(check_on(old, &without, |_| true).is_ok());
        assert!(check_on(None, &with_program, |_| true).is_ok());
        let refused = check_on(old, &without, |held| held != Capability::NetRaw);
        assert!(matches!(
            refused,
            Err(OpenError::Privilege(Capability::NetRaw))
        ));
    }

    #[test]
    fn an_old_kernel_is_told_its_age() {
        let text = |major, minor| {
            check_age(KernelVersion::new(major, minor, 9)).map_err(|error| error.to_string())
        };
        for (major, minor) in [(4, 19), (5, 10), (5, 17)] {
            let text = text(major, minor).unwrap_err();
            assert!(text.starts_with(&format!("kernel {major}.{minor}.9 has no XDP programs")));
            assert!(text.contains("Linux 5.18 or later"), "{text}");
        }
        assert_eq!(text(5, 18), Ok(()));
        assert_eq!(text(6, 1), Ok(()));
    }

    #[test]
    fn what_a_kernel_does_not_know_is_named() {
        let error = io::Error::from_raw_os_error;
        let cases = [
            (
                OpenError::no_map("SOCKETS", error(libc::EINVAL)),
                ["BPF_MAP_TYPE_XSKMAP", "Linux 4.18", "CONFIG_XDP_SOCKETS"],
            ),
            (
                OpenError::no_map("VIPS", error(libc::EINVAL)),
                ["BPF_F_MMAPABLE", "Linux 5.5", "af_packet"],
            ),
            (
                OpenError::no_map("VIPS", error(libc::ENOSYS)),
                ["no BPF", "CONFIG_BPF_SYSCALL", "af_packet"],
            ),
            (
                OpenError::not_verified(error(libc::EINVAL), ""),
                ["BPF_F_XDP_HAS_FRAGS", "Linux 5.18", "af_packet"],
            ),
        ];
        for (refused, words) in cases {
            let text = refused.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }

    #[test]
    fn what_is_no_lack_keeps_its_own_words() {
        let error = io::Error::from_raw_os_error;
        let memory = OpenError::no_map("SLOTS", error(libc::ENOMEM)).to_string();
        assert!(memory.contains("table_memory"), "{memory}");
        let log = "0: (b7) r0 = 0\nR1 type=scalar expected=fp\nprocessed 2 insns\n";
        let verifier = OpenError::not_verified(error(libc::EINVAL), log).to_string();
        assert!(verifier.contains("R1 type=scalar"), "{verifier}");
    }
}
