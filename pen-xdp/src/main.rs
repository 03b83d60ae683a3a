//! The program `pen`: reads what is wanted, then serves, checks or cleans up.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    process::{Command, ExitCode, Stdio},
};

use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use pen::{
    cli::{self, Action, Detach, EXIT_WRONG, Start, Stop, System, WithoutNames},
    daemon::{
        Daemon,
        check::check,
        log::{log_to_stderr, log_to_syslog},
        notify,
        pid_file::PidFile,
    },
    ebpf::{self, Detached},
    lock::InterfaceLock,
    nic::restore_left_over,
    privileges::give_up_root,
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
    let Some(config) = read(start, &System) else {
        return ExitCode::from(EXIT_WRONG);
    };
    if !config.foreground && !background {
        return to_background();
    }
    let logging = if background {
        // Out of the caller's session: its terminal's end is not ours.
        setsid()
            .map_err(io::Error::from)
            .and_then(|_| log_to_syslog(config.debug))
    } else {
        log_to_stderr(config.debug);
        Ok(())
    };
    if let Err(error) = logging {
        eprintln!("pen: can't go to the background: {error}; try -f");
        return ExitCode::FAILURE;
    }
    if let Err(error) = give_up_root(&config) {
        eprintln!("pen: {error:#}");
        return ExitCode::from(EXIT_WRONG);
    }
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
    let pid_file = config.pid_file.clone();
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
    notify::ready(&daemon.in_one_line());
    if background && let Err(error) = let_go() {
        tracing::error!("whoever started this daemon did not wait for it: {error}");
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

/// Tells whoever started us that we serve, and gives up the streams that we share with him: a
/// script that reads our output to its end must see the end.
fn let_go() -> io::Result<()> {
    writeln!(io::stdout(), "{READY}")?;
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
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            eprintln!("pen: can't start in the background: {error}; try -f");
            return ExitCode::FAILURE;
        }
    };
    let mut line = String::new();
    let said = child
        .stdout
        .take()
        .map(|stdout| BufReader::new(stdout).read_line(&mut line));
    if matches!(said, Some(Ok(_))) && line.trim() == READY {
        return ExitCode::SUCCESS;
    }
    match child
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
    let detached = ebpf::detach(bpffs, interface);
    let restored = restore_left_over(interface, run_dir);
    let not_restored = restored.as_ref().map(Vec::as_slice).unwrap_or_default();
    for sentence in not_restored {
        eprintln!("pen: {sentence}");
    }
    match (detached, &restored) {
        (Ok(Detached::Nothing), Ok(_)) => println!("{interface}: nothing of pen's is attached"),
        (Ok(Detached::Removed), Ok(_)) => println!("{interface}: detached"),
        (Ok(Detached::StillHeld(holder)), Ok(_)) => {
            eprintln!(
                "pen: {interface}: pins removed, but the program stays with {holder}; stop it"
            );
            return ExitCode::from(EXIT_WRONG);
        }
        (Err(error), _) => {
            eprintln!("pen: {interface}: can't detach: {error}");
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
