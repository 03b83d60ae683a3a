//! The program `pen`: reads what is wanted, then serves, checks or cleans up.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
};

use pen::{
    cli::{self, Action, Detach, EXIT_WRONG, Start, Stop, System},
    daemon::{
        Daemon,
        check::check,
        start::{PidFile, log_to_stderr},
    },
    ebpf::{self, Detached},
    lock::InterfaceLock,
    nic::restore_left_over,
};
use pen_common::config::Config;

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
        Action::Detach(detach) => clean(&detach),
    }
}

/// The configuration, or every fault that it has on standard error.
fn read(start: &Start) -> Option<Config> {
    match start.read(&System) {
        Ok(checked) => {
            let (config, notes) = checked.into_parts();
            for note in start.notes().iter().chain(&notes) {
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
    let waited_for = std::env::var_os(BACKGROUND).is_some();
    let Some(config) = read(start) else {
        return ExitCode::from(EXIT_WRONG);
    };
    if !config.foreground && !waited_for {
        return to_background();
    }
    log_to_stderr(config.debug);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(config, start.source(), waited_for)),
        Err(error) => {
            eprintln!("pen: no event loop: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config, source: String, waited_for: bool) -> ExitCode {
    let pid_file = config.pid_file.clone();
    let mut daemon = match Daemon::start(config, source).await {
        Ok(Some(daemon)) => daemon,
        // Whoever waits for it in the background is not to take this for serving.
        Ok(None) if waited_for => return ExitCode::FAILURE,
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
    if waited_for {
        // Whoever started it in the background hears this and goes.
        println!("{READY}");
    }
    let result = daemon.run().await;
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

/// Starts the same command line in the background and waits until it serves or says why not.
fn to_background() -> ExitCode {
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(BACKGROUND, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
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
    let Some(config) = read(start) else {
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
    for sentence in restored.as_ref().map(Vec::as_slice).unwrap_or_default() {
        println!("{sentence}");
    }
    match (detached, restored) {
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
    ExitCode::SUCCESS
}
