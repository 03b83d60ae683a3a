//! The way to a keeper, taken out of the process that serves: what it is asked then is what someone
//! could ask who has taken that process over.

use std::{
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use pen::keeper::request::{Answer, Request, receive, send};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// The process that serves for this keeper.
pub(crate) fn serving(keeper: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    children.trim().parse().unwrap()
}

pub(crate) struct Way {
    pub(crate) stream: UnixStream,
    serving: nix::unistd::Pid,
}

impl Way {
    /// The one to this keeper.
    pub(crate) fn to(keeper: u32) -> Self {
        let serving = serving(keeper).cast_signed();
        let process = pidfd_open(Pid::from_raw(serving).unwrap(), PidfdFlags::empty()).unwrap();
        for entry in fs::read_dir(format!("/proc/{serving}/fd")).unwrap() {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).unwrap();
            if !target.to_str().unwrap().starts_with("socket:") {
                continue;
            }
            let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            let descriptor = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap();
            let of = socket_peercred(&descriptor);
            if of.is_ok_and(|of| of.pid.as_raw_pid() == keeper.cast_signed()) {
                return Self {
                    stream: UnixStream::from(descriptor),
                    serving: nix::unistd::Pid::from_raw(serving),
                };
            }
        }
        panic!("no way to the keeper");
    }

    /// Stops the process that serves while it waits for no answer: the answers that come are ours
    /// then.
    pub(crate) fn hold(&self) {
        loop {
            kill(self.serving, Signal::SIGSTOP).unwrap();
            let mut wait = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wait, 300u16).unwrap() == 0 {
                return;
            }
            self.let_go();
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn let_go(&self) {
        kill(self.serving, Signal::SIGCONT).unwrap();
    }

    pub(crate) fn ask(&self, request: &Request) -> (Answer, Vec<OwnedFd>) {
        self.ask_with(request, &[])
    }

    pub(crate) fn ask_with(
        &self,
        request: &Request,
        beside: &[BorrowedFd<'_>],
    ) -> (Answer, Vec<OwnedFd>) {
        send(&self.stream, request, beside).unwrap();
        receive(&self.stream).unwrap().unwrap()
    }

    /// Why a request is refused.
    pub(crate) fn refused(&self, request: &Request, beside: &[BorrowedFd<'_>]) -> String {
        match self.ask_with(request, beside) {
            (Answer::Refused { why, .. }, given) if given.is_empty() => why,
            other => panic!("{request:?}: {other:?}"),
        }
    }
}
