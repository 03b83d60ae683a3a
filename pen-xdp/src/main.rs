//! The program `pen`: reads what is wanted, then serves, checks or cleans up.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    process::{Command, ExitCode, Stdio},
};

use anyhow::Context;
use nix::unistd::{User, dup2_stderr, dup2_stdout, setsid};
use pen::{
    cli::{self, Action, Detach, EXIT_WRONG, Start, Stop, System, WithoutNames},
    confinement::{Whom, confine},
    daemon::{
        Daemon,
        check::check,
        log::{log_to_stderr, log_to_syslog},
        notify,
        pid_file::PidFile,
    },
    ebpf::{self, Detached},
    keeper::{child, process},
    lock::InterfaceLock,
    nic::restore_left_over,
    privileges,
};
use pen_common::config::{Config, ConfigForm, Outside};

/// Tells the process in the background that somebody waits to hear that it serves.
const BACKGROUND: &str = "PEN_BACKGROUND";
/// What it says then.
const READY: &str = "ready";

fn main() -> ExitCode {
    let action = match cli::parse(std::env::args_os()) {
        Ok(action) => action,
        Err(Stop::Shown(text)) => {
            // A reader that went away has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Stop::Wrong(text)) => {
            eprintln!("{}", text.trim_end());
            return ExitCode::from(EXIT_WRONG);
        }
    };
    match action {
        Action::Run(start) => run(&start),
        Action::Check(start) => check_only(&start),
        Action::Print(start, form) => print(&start, form),
        Action::Detach(detach) => clean(&detach),
    }
}

/// The configuration, or every fault that it has on standard error.
fn read(start: &Start, outside: &dyn Outside) -> Option<Config> {
    match start.read(outside) {
        Ok(checked) => {
            let (config, notes) = checked.into_parts();
            // The caller's process has said them already.
            let said = std::env::var_os(BACKGROUND).is_some();
            for note in start.notes().iter().chain(&notes).filter(|_| !said) {
                eprintln!("pen: note: {note}");
            }
            Some(config)
        }
        Err(errors) => {
            eprintln!("{errors}");
            None
        }
    }
}

fn run(start: &Start) -> ExitCode {
    let background = std::env::var_os(BACKGROUND).is_some();
    match child::join() {
        Ok(Some(user)) => return run_kept(start, &user, background),
        Ok(None) => {}
        Err(error) => return wrong(&error),
    }
    // Out of the caller's session: its terminal's end is not ours.
    if background && let Err(error) = setsid() {
        eprintln!("pen: can't go to the background: {error}; try -f");
        return ExitCode::FAILURE;
    }
    // What is said of it is said by who serves: a keeper asks no name server.
    let known = start.read(&WithoutNames::default()).ok();
    let known = known.map(|checked| checked.into_parts().0);
    if let Some(config) = known.filter(|config| config.foreground || background) {
        match privileges::user(&config) {
            Ok(Some(user)) => return keep(start, &config, &user, background),
            Ok(None) => {}
            Err(error) => return wrong(&error),
        }
    }
    let Some(config) = read(start, &System) else {
        return ExitCode::from(EXIT_WRONG);
    };
    if let Err(error) = privileges::user(&config) {
        return wrong(&error);
    }
    if !config.foreground && !background {
        return to_background();
    }
    match log(&config, background) {
        Ok(()) => run_loop(start, config, background),
        Err(code) => code,
    }
}

fn wrong(error: &anyhow::Error) -> ExitCode {
    eprintln!("pen: {error:#}");
    ExitCode::from(EXIT_WRONG)
}

/// Logs to where it is read; the exit code if it can't be.
fn log(config: &Config, background: bool) -> Result<(), ExitCode> {
    let logging = if background {
        log_to_syslog(config.debug)
    } else {
        log_to_stderr(config.debug);
        Ok(())
    };
    logging.map_err(|error| {
        eprintln!("pen: can't go to the background: {error}; try -f");
        ExitCode::FAILURE
    })
}

/// Stays root, and has another process serve that does not.
fn keep(start: &Start, config: &Config, user: &User, background: bool) -> ExitCode {
    if let Err(code) = log(config, background) {
        return code;
    }
    let ready = || match background {
        true => let_go(),
        false => Ok(()),
    };
    match process::keep(config, start, user, ready) {
        Ok(code) => code,
        Err(error) => wrong(&error),
    }
}

/// Serves without any right, for what a keeper gives.
fn run_kept(start: &Start, user: &str, background: bool) -> ExitCode {
    if let Err(error) = privileges::give_up_root(user).and_then(|()| child::die_with_keeper()) {
        return wrong(&error);
    }
    let Some(config) = read(start, &System) else {
        return ExitCode::from(EXIT_WRONG);
    };
    if let Err(code) = log(&config, background) {
        return code;
    }
    match confine_for(&config) {
        Ok(()) => run_loop(start, config, background),
        Err(error) => wrong(&error),
    }
}

fn confine_for(config: &Config) -> anyhow::Result<()> {
    let confined = confine(Whom::of(config))?;
    if !confined.from_files {
        tracing::warn!(
            "this kernel has no Landlock: what the user may read and write, Pen may; mend: boot \
             with lsm=landlock,..."
        );
    }
    confined.sockets.map_or(Ok(()), child::have_sockets)
}

fn run_loop(start: &Start, config: Config, background: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve(config, start.clone(), background));
            // A look-up of a name may wait for a name server, and is nobody's concern any more.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("pen: no event loop: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config, start: Start, background: bool) -> ExitCode {
    // A keeper writes it itself.
    let pid_file = config.pid_file.clone().filter(|_| !child::is_kept());
    // Before a living daemon is disturbed.
    if let Err(error) = pid_file.as_deref().map_or(Ok(()), PidFile::check) {
        eprintln!("pen: {error:#}");
        return ExitCode::from(EXIT_WRONG);
    }
    let mut daemon = match Daemon::start(config, start).await {
        Ok(Some(daemon)) => daemon,
        // Whoever waits for it in the background is not to take this for serving.
        Ok(None) if background => return ExitCode::FAILURE,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pen: {error:#}");
            return ExitCode::from(EXIT_WRONG);
        }
    };
    let pid_file = match pid_file.as_deref().map(PidFile::write).transpose() {
        Ok(pid_file) => pid_file,
        Err(error) => {
            eprintln!("pen: {error:#}");
            daemon.close();
            return ExitCode::from(EXIT_WRONG);
        }
    };
    tracing::info!("{}", daemon.in_one_line());
    if let Err(error) = serving(&daemon.in_one_line(), background) {
        tracing::error!("{error:#}");
        daemon.close();
        return ExitCode::FAILURE;
    }
    let result = daemon.run().await;
    if result.is_err() {
        notify::stopping();
    }
    daemon.close();
    drop(pid_file);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells all who wait for it that Pen serves.
fn serving(line: &str, background: bool) -> anyhow::Result<()> {
    let told = child::serving(line)?;
    if !told {
        notify::ready(line);
    }
    if background {
        let let_go = if told { give_up_streams() } else { let_go() };
        let_go.context("whoever started this daemon did not wait for it")?;
    }
    Ok(())
}

/// Tells whoever started us that we serve, and gives up the streams that we share with him: a
/// script that reads our output to its end must see the end.
fn let_go() -> io::Result<()> {
    writeln!(io::stdout(), "{READY}")?;
    give_up_streams()
}

fn give_up_streams() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Starts the same command line in the background and waits until it serves or says why not.
fn to_background() -> ExitCode {
    let started = std::env::current_exe().and_then(|program| {
        let mut command = Command::new(program);
        // They speak to this process, which ends when the other one serves.
        for variable in notify::OF_ONE_PROCESS {
            command.env_remove(variable);
        }
        command
            .args(std::env::args_os().skip(1))
            .env(BACKGROUND, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
    });
    let mut started = match started {
        Ok(started) => started,
        Err(error) => {
            eprintln!("pen: can't start in the background: {error}; try -f");
            return ExitCode::FAILURE;
        }
    };
    let mut line = String::new();
    let said = started
        .stdout
        .take()
        .map(|stdout| BufReader::new(stdout).read_line(&mut line));
    if matches!(said, Some(Ok(_))) && line.trim() == READY {
        return ExitCode::SUCCESS;
    }
    match started
        .wait()
        .ok()
        .and_then(|status| status.code())
        .map(u8::try_from)
    {
        Some(Ok(code)) => ExitCode::from(code),
        _ => ExitCode::FAILURE,
    }
}

fn check_only(start: &Start) -> ExitCode {
    let Some(config) = read(start, &System) else {
        return ExitCode::from(EXIT_WRONG);
    };
    match check(&config) {
        Ok(sentences) => {
            for sentence in sentences {
                println!("{sentence}");
            }
            println!("{}: configuration is good", start.source());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pen: {error:#}");
            ExitCode::from(EXIT_WRONG)
        }
    }
}

fn print(start: &Start, form: ConfigForm) -> ExitCode {
    let Some(config) = read(start, &WithoutNames::default()) else {
        return ExitCode::from(EXIT_WRONG);
    };
    match config.written(form) {
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            // Half of a configuration must not be taken for one.
            Err(error) => {
                eprintln!("pen: the configuration can't be written: {error}");
                ExitCode::FAILURE
            }
        },
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(EXIT_WRONG)
        }
    }
}

fn clean(
    Detach {
        interface,
        bpffs,
        run_dir,
    }: &Detach,
) -> ExitCode {
    // A living daemon takes its own things away when it is stopped.
    let _lock = match InterfaceLock::take_blocking(run_dir, interface) {
        Ok(lock) => lock,
        Err(error) => {
            eprintln!("pen: {error}");
            return ExitCode::from(EXIT_WRONG);
        }
    };
    let detached = match ebpf::detach(bpffs, interface) {
        Ok(detached) => detached,
        Err(error) => {
            eprintln!("pen: {interface}: can't detach: {error}");
            return ExitCode::from(EXIT_WRONG);
        }
    };
    let restored = restore_left_over(interface, run_dir);
    let not_restored = restored.as_ref().map(Vec::as_slice).unwrap_or_default();
    for sentence in not_restored {
        eprintln!("pen: {sentence}");
    }
    match (detached, &restored) {
        (Detached::Nothing, Ok(_)) => println!("{interface}: nothing of pen's is attached"),
        (Detached::Removed, Ok(_)) => println!("{interface}: detached"),
        (Detached::StillHeld(holder), Ok(_)) => {
            eprintln!(
                "pen: {interface}: pins removed, but the program stays with {holder}; stop it"
            );
            return ExitCode::from(EXIT_WRONG);
        }
        (_, Err(error)) => {
            eprintln!("pen: {interface}: settings can't be restored: {error:#}");
            return ExitCode::from(EXIT_WRONG);
        }
    }
    if !not_restored.is_empty() {
        return ExitCode::from(EXIT_WRONG);
    }
    ExitCode::SUCCESS
}
