//! One file or address that lines go to. Only the writer writes.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pen_common::config::LogTarget;

use super::format::{for_penlogd, write};
use super::{Entry, LineCounts};
use crate::files;

/// Bytes that are written in one call.
const BATCH: usize = 64 << 10;
/// Without a fault for so long a log works again: one whose reader is slow is not told of line by
/// line.
const CALM: Duration = Duration::from_secs(1);
/// A log names clients: others than its owner and group don't read it.
const MODE: u32 = 0o640;

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Sink {
    target: LogTarget,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    out: Out,
    batch: Vec<u8>,
    /// Where each line of the batch ends, and whose it is.
    ends: Vec<(usize, Arc<LineCounts>)>,
    /// The rest of a line that was written in part, and whose it is: it comes before all others,
    /// so that no line begins in the middle of another.
    cut: Option<(Vec<u8>, Arc<LineCounts>)>,
    /// Lines that were lost since it could last be written, and when the last one was; `None` if it
    /// can be.
    lost: Option<(u64, Instant)>,
}

#[derive(Debug)]
enum Out {
    File(File),
    Datagrams(UdpSocket),
}

impl Sink {
    /// # Errors
    /// It can't be had, for what the kernel says.
    pub(super) fn open(target: LogTarget) -> io::Result<Self> {
        let state = State {
            out: Out::open(&target)?,
            batch: Vec::new(),
            ends: Vec::new(),
            cut: None,
            lost: None,
        };
        Ok(Self {
            target,
            state: Mutex::new(state),
        })
    }

    pub(in crate::proxy) fn target(&self) -> &LogTarget {
        &self.target
    }

    /// Goes on in the file that has the name now. If there is none to be had it stays with the one
    /// that it has.
    pub(super) fn reopen(&self) {
        let target = &self.target;
        match Out::open(target) {
            Ok(out) => {
                let mut state = self.state();
                let same = state.out.is_at(&out);
                state.out = out;
                // Where the name leads to the same file, its rest still belongs there.
                if let Some((_, counts)) = state.cut.take_if(|_| !same) {
                    counts.failed();
                }
            }
            Err(error) => tracing::error!(
                "log {target} can't be opened again: {error}; lines go where they went before"
            ),
        }
    }

    /// Takes the line of a record; it is written by [`Sink::flush`] at the latest.
    pub(super) fn add(&self, Entry { log, record }: Entry) {
        let mut state = self.state();
        if let Out::Datagrams(socket) = &state.out
            && let LogTarget::Datagrams(to) = &self.target
        {
            let line = match log.is_early() {
                true => for_penlogd(&record),
                false => {
                    let mut line = Vec::new();
                    write(&mut line, &record, log.format);
                    Some(line)
                }
            };
            let sent = line.map(|line| socket.send_to(&line, to));
            if let Some(sent) = sent {
                state.sent(&self.target, sent.map(drop), &log.counts);
            }
            return;
        }
        write(&mut state.batch, &record, log.format);
        state.batch.push(b'\n');
        let end = state.batch.len();
        state.ends.push((end, Arc::clone(&log.counts)));
        if end >= BATCH {
            state.flush(&self.target);
        }
    }

    /// Writes the rest of a line that was written in part, if there is one.
    pub(super) fn finish(&self) {
        let mut state = self.state();
        if state.cut.is_some() {
            state.flush(&self.target);
        }
    }

    /// Writes what is there.
    pub(super) fn flush(&self) {
        self.state().flush(&self.target);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out {
    /// Whether both are one file.
    fn is_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => {
                identity(one).is_some_and(|one| identity(other) == Some(one))
            }
            (Self::File(_) | Self::Datagrams(_), _) => false,
        }
    }

    fn open(target: &LogTarget) -> io::Result<Self> {
        match target {
            LogTarget::File(path) => files::append(path, MODE).map(Self::File),
            LogTarget::Datagrams(to) => {
                let any = match to.ip() {
                    IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                    IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
                };
                // Not connected: that nobody listened for one line says nothing of the next.
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_nonblocking(true)?;
                Ok(Self::Datagrams(socket))
            }
        }
    }
}

/// A file's device and inode.
fn identity(file: &File) -> Option<(u64, u64)> {
    let metadata = file.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl State {
    fn flush(&mut self, target: &LogTarget) {
        let batch = std::mem::take(&mut self.batch);
        let ends = std::mem::take(&mut self.ends);
        if let Some((rest, counts)) = self.cut.take() {
            let (written, result) = self.put(&rest);
            match result {
                Ok(()) => self.sent(target, Ok(()), &counts),
                Err(error) => {
                    self.cut = Some((rest[written..].to_vec(), counts));
                    self.fail(target, &error, ends.iter().map(|(_, counts)| counts));
                    return self.keep(batch, ends);
                }
            }
        }
        let (written, result) = self.put(&batch);
        let whole = ends.partition_point(|(end, _)| *end <= written);
        for (_, counts) in &ends[..whole] {
            self.sent(target, Ok(()), counts);
        }
        if let Err(error) = result {
            let mut lost = &ends[whole..];
            let begun = whole.checked_sub(1).map_or(0, |last| ends[last].0);
            if let Some(((end, counts), rest)) = lost.split_first()
                && written > begun
            {
                self.cut = Some((batch[written..*end].to_vec(), Arc::clone(counts)));
                lost = rest;
            }
            self.fail(target, &error, lost.iter().map(|(_, counts)| counts));
        }
        self.keep(batch, ends);
    }

    /// The room of a batch that is done with is used again.
    fn keep(&mut self, mut batch: Vec<u8>, mut ends: Vec<(usize, Arc<LineCounts>)>) {
        batch.clear();
        ends.clear();
        (self.batch, self.ends) = (batch, ends);
    }

    /// How many of the bytes are written, and why not all.
    fn put(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let Out::File(file) = &mut self.out else {
            return (bytes.len(), Ok(()));
        };
        let mut written = 0;
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Counts one line.
    fn sent(&mut self, target: &LogTarget, result: io::Result<()>, counts: &Arc<LineCounts>) {
        match result {
            Ok(()) => {
                counts.wrote();
                let over = |lost: &mut (u64, Instant)| lost.1.elapsed() >= CALM;
                if let Some((lost, _)) = self.lost.take_if(over) {
                    tracing::info!("log {target} is written again; {lost} lines were lost");
                }
            }
            Err(error) => self.fail(target, &error, std::iter::once(counts)),
        }
    }

    /// Counts lines that are lost, and says so once until it goes on again.
    fn fail<'a>(
        &mut self,
        target: &LogTarget,
        error: &io::Error,
        lines: impl Iterator<Item = &'a Arc<LineCounts>>,
    ) {
        let count = lines.map(|counts| counts.failed()).count() as u64;
        if self.lost.is_none() {
            let unread = [ErrorKind::WouldBlock, ErrorKind::BrokenPipe];
            let mend = match unread.contains(&error.kind()) {
                true => "; nobody reads it, or not fast enough",
                false => "",
            };
            tracing::error!(
                "log {target} can't be written: {error}{mend}; lines are lost until it can"
            );
        }
        let before = self.lost.map_or(0, |(before, _)| before);
        self.lost = Some((before + count, Instant::now()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::fs;
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::{Path, PathBuf};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use pen_common::config::LogFormat;

    use super::super::record::tests::record;
    use super::super::ring::Ring;
    use super::super::{Http, Log};
    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("pen-log-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn log(sink: &Arc<Sink>) -> Arc<Log> {
        Arc::new(Log {
            service: "web".into(),
            format: LogFormat::Pen,
            sink: Arc::clone(sink),
            ring: Arc::new(Ring::new(1)),
            counts: Arc::default(),
        })
    }

    /// Adds a line of so many bytes of target, which begin with this number.
    fn add(log: &Arc<Log>, number: usize, length: usize) {
        let mut record = Box::new(record());
        record.http = Some(Http {
            method: Some("GET".to_owned()),
            target: format!("/{number:0length$}").into_bytes(),
            version: "HTTP/1.1",
            ..Http::default()
        });
        let log_of = Arc::clone(log);
        log.sink.add(Entry {
            log: log_of,
            record,
        });
    }

    #[test]
    fn lines_that_can_not_be_written_are_counted() {
        let target = LogTarget::File("/dev/full".into());
        let sink = Arc::new(Sink::open(target).unwrap());
        let log = log(&sink);
        for round in 1..=2 {
            for number in 0..3 {
                add(&log, number, 1);
            }
            sink.flush();
            assert_eq!(log.counts.read(), [0, 0, 3 * round]);
        }
        assert_eq!(sink.state().lost.unwrap().0, 6);
    }

    #[test]
    fn a_fifo_that_nobody_reads_is_waited_for_by_nobody_and_no_line_is_cut_in_two() {
        let folder = Folder::new("fifo");
        let path = folder.0.join("log");
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let sink = Arc::new(Sink::open(LogTarget::File(path.clone())).unwrap());
        let log = log(&sink);
        // A pipe takes 64 KiB.
        for number in 0..3000 {
            add(&log, number, 50);
        }
        sink.flush();
        let [written, dropped, failed] = log.counts.read();
        assert!(
            written > 500 && failed > 1000 && dropped == 0,
            "{written} {failed}"
        );
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        let mut text = Vec::new();
        let mut buffer = [0; 8192];
        let mut empty = |text: &mut Vec<u8>| {
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                text.extend_from_slice(&buffer[..count]);
            }
        };
        empty(&mut text);
        // The same FIFO: what is cut is finished there, and by itself.
        sink.reopen();
        sink.finish();
        assert!(sink.state().cut.is_none());
        for number in 9000..9010 {
            add(&log, number, 50);
        }
        sink.flush();
        empty(&mut text);
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let [written, _, failed] = log.counts.read();
        assert_eq!(lines.len() as u64, written);
        assert_eq!(written + failed, 3010);
        let length = lines[0].len();
        for line in &lines {
            assert!(
                line.len() == length && line.ends_with(" HTTP/1.1"),
                "{line:?}"
            );
        }
        assert!(lines[lines.len() - 1].contains("9009 HTTP"));
    }

    #[test]
    fn a_renamed_file_gets_no_more_lines_once_it_is_opened_again() {
        let folder = Folder::new("rename");
        let path = folder.0.join("log");
        let sink = Arc::new(Sink::open(LogTarget::File(path.clone())).unwrap());
        let log = log(&sink);
        let mut lines = 0;
        let mut one = || {
            add(&log, lines, 1);
            sink.flush();
            lines += 1;
        };
        one();
        let old = folder.0.join("log.1");
        fs::rename(&path, &old).unwrap();
        one();
        sink.reopen();
        one();
        let count = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((count(&old), count(&path)), (2, 1));
        // Its folder is gone: it stays with what it has.
        fs::remove_dir_all(&folder.0).unwrap();
        sink.reopen();
        one();
        assert_eq!(log.counts.read(), [4, 0, 0]);
    }

    #[test]
    fn a_new_log_is_for_its_owner_and_group() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("mode");
        let path = folder.0.join("log");
        let _sink = Sink::open(LogTarget::File(path.clone())).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0);
        assert_eq!(mode & 0o600, 0o600);
    }
}
