//! `manual FOLDER` writes Pen's man pages and its completions for shells.
//!
//! All of it is made of what the programs go by, so that it can't say anything else than they do:
//! flags from the command lines, keys from the tables that files and commands are read by. A
//! program of its own, so that the daemon carries none of it.

mod keys;
mod page;

use std::{env, fs, path::Path};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use page::Page;

fn main() -> Result<()> {
    let folder = env::args_os().nth(1);
    let folder = folder.context("usage: manual FOLDER")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
    let pen = pen::cli::command();
    let penctl = pen_ctl::Arguments::command();
    let pages = [
        ("pen.1", page::program(&pen, "pen", &PEN)?),
        ("penctl.1", page::program(&penctl, "penctl", &PENCTL)?),
        ("pen.toml.5", keys::page()?),
    ];
    for (name, text) in pages {
        write(&folder.join(name), &text)?;
    }
    for command in [pen, penctl] {
        complete(command, folder)?;
    }
    Ok(())
}

const PEN: Page = Page {
    name: "load balancer for TCP, UDP and HTTP, as a proxy or past the kernel",
    after: "EXAMPLES",
    sections: &[
        (
            "EXIT STATUS",
            "0: it served and was told to stop, or did what it was asked. 1: it could not go on. \
             2: wrong use, a configuration that is not good, or something that it needs is not \
             there; standard error says what mends it.",
        ),
        (
            "SIGNALS",
            "TERM and INT stop it in order: nothing stays on the interface. HUP opens its logs \
             again. After KILL the program in the kernel goes on forwarding; the next start takes \
             over, or --detach cleans up.",
        ),
        (
            "SERVICE MANAGERS",
            "With -f Pen tells a manager when it serves, reloads and stops, and signs of life from \
             the daemon's loop where a watchdog waits for them (sd_notify(3)). Sockets that it \
             hands over (sd_listen_fds(3)) are taken by the listeners of proxies that have the \
             same address, port and protocol, or path; one that no listener has is refused. All \
             threads take clients from such a socket, so that those who wait there outlive a \
             restart. A socket for UDP has one thread, unless it was opened with ReusePort=yes. \
             Where standard error is the journal, lines carry its levels and no time.",
        ),
        ("SEE ALSO", "penctl(1), pen.toml(5)"),
    ],
};

const PENCTL: Page = Page {
    name: "shows and changes a running pen",
    after: "COMMANDS",
    sections: &[("SEE ALSO", "pen(1), pen.toml(5)")],
};

/// For each shell that distributions install.
fn complete(mut command: Command, folder: &Path) -> Result<()> {
    let name = command.get_name().to_owned();
    for (shell, file) in [
        (Shell::Bash, format!("{name}.bash")),
        (Shell::Zsh, format!("_{name}")),
        (Shell::Fish, format!("{name}.fish")),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, &name, &mut text);
        write(&folder.join(file), &text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}
