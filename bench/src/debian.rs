//! Debian's `pen`, the program that Pen succeeds, unpacked aside: it is never installed, so it
//! can't meet ours.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The package, and the libraries of its own that a system may lack.
const PACKAGES: [&str; 2] = ["pen", "libgeoip1"];

/// Where Debian's `pen` was unpacked.
#[derive(Debug, Clone)]
pub struct DebianPen {
    folder: PathBuf,
}

impl DebianPen {
    /// Fetches and unpacks it into `target/debian-pen`, unless it is there.
    ///
    /// # Errors
    /// This is no Debian, or its archive can't be reached.
    pub fn fetch() -> Result<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
        let debian = Self {
            folder: target.join("debian-pen"),
        };
        if debian.program().is_file() && debian.version().is_ok() {
            return Ok(debian);
        }
        let folder = &debian.folder;
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        // A user of its own can't write here: apt falls back to being root and says so.
        let mut download = Command::new("apt-get");
        download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
        run(download.args(PACKAGES).current_dir(folder))?;
        for entry in fs::read_dir(folder)?.flatten() {
            let file = entry.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(folder))?;
            }
        }
        debian.version()?;
        Ok(debian)
    }

    /// The program.
    pub fn program(&self) -> PathBuf {
        self.folder.join("usr/bin/pen")
    }

    /// What `LD_LIBRARY_PATH` must be for it.
    pub fn libraries(&self) -> OsString {
        let triplet = format!("{}-linux-gnu", env::consts::ARCH);
        self.folder.join("usr/lib").join(triplet).into_os_string()
    }

    /// The version of the package.
    ///
    /// # Errors
    /// It was not fetched, or the program does not start.
    pub fn version(&self) -> Result<String> {
        let program = self.program();
        let output = Command::new(&program)
            .arg("-h")
            .env("LD_LIBRARY_PATH", self.libraries())
            .output()
            .with_context(|| format!("starting {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        ensure!(
            text.contains("usage"),
            "{} does not start: {text}",
            program.display()
        );
        let mut files = fs::read_dir(&self.folder)?
            .flatten()
            .map(|entry| entry.file_name());
        // pen_VERSION_ARCHITECTURE.deb
        let file = files.find_map(|name| {
            let name = name.into_string().ok()?;
            name.strip_prefix("pen_")?
                .split('_')
                .next()
                .map(str::to_owned)
        });
        file.with_context(|| format!("no package pen in {}", self.folder.display()))
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {}", name.display()))?;
    ensure!(
        output.status.success(),
        "{} failed:\n{}",
        name.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
