//! Standard error where it is systemd's journal, which writes the time itself and reads the level
//! from the beginning of each line (sd-daemon(3)).

use std::{
    env,
    io::{self, Write},
};

use nix::sys::stat::fstat;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::log::severity;

/// Device and inode of what the journal reads (systemd.exec(5)).
const STREAM: &str = "JOURNAL_STREAM";

/// Whether the journal reads standard error. It need not, where the variable is set: whoever started
/// Pen may have sent it elsewhere.
pub(super) fn reads_stderr() -> bool {
    let Ok(stream) = env::var(STREAM) else {
        return false;
    };
    fstat(io::stderr()).is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

/// Writes to standard error.
pub(super) struct Journal;

/// What is written of one event.
pub(super) struct Entry {
    severity: u8,
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Entry;

    fn make_writer(&'a self) -> Entry {
        Entry {
            severity: severity(&Level::INFO),
        }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Entry {
        Entry {
            severity: severity(about.level()),
        }
    }
}

impl Write for Entry {
    /// An event comes in one call.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&self.lines(text))?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Entry {
    /// The journal takes each line for an entry of its own.
    fn lines(&self, text: &[u8]) -> Vec<u8> {
        let mut all = Vec::with_capacity(text.len() + 8);
        for line in text.trim_ascii_end().split(|byte| *byte == b'\n') {
            all.extend(format!("<{}>", self.severity).as_bytes());
            all.extend(line);
            all.push(b'\n');
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_the_level() {
        let entry = Entry { severity: 4 };
        assert_eq!(entry.lines(b"one\ntwo\n"), b"<4>one\n<4>two\n");
    }
}
