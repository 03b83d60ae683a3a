//! The certificates of a service: one for everybody, and a folder of them for those who ask for a
//! name.
//!
//! What handshakes look at is a table that is made anew when a file has changed, and swapped: nobody
//! waits for a disk, and connections that are open keep what they began with.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pen_common::config::{SslOption, TlsOptions};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm};

use super::certificate::{CertificateError, Files};
use super::directory::{Found, scan};
use super::held::{Certificate, Held, Renewed};
use super::names::Names;
use crate::files::{self, in_full};

/// How long files may be away before their certificate is dropped: who renews by putting another
/// link or folder in the place of one removes that first.
const AWAY: Duration = Duration::from_secs(1);
/// Certificates in trouble that are named in the log at once.
const NAMED_MAX: usize = 20;
/// Links that lead to links, as the kernel has it (path_resolution(7)) in a smaller number.
const LINKS_MAX: u32 = 8;
/// As many certificates are not worth a thread.
const ALONE: usize = 32;
/// Of a folder with more than these, keys are taken on trust at first: a start that reads them all is
/// not to wait until they are checked.
const CHECKED_AT_ONCE: usize = 1000;
/// So many of them are checked before files are looked at again: renewals do not wait for all.
const CHECKED_A_LOOK: usize = 500;

/// Ciphers of TLS 1.3, where they have nothing to do with the certificate's key.
const BY_ANY: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];
/// Ciphers of TLS 1.2 for keys of ECDSA.
const BY_ECDSA: [CipherSuite; 3] = [
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];
/// Those for keys of RSA.
const BY_RSA: [CipherSuite; 3] = [
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Store {
    sources: Sources,
    held: Mutex<Read>,
    table: RwLock<Arc<Table>>,
    counts: Counts,
}

/// Where certificates come from, and what may be done with them.
#[derive(Debug, PartialEq, Eq)]
struct Sources {
    default: Option<Files>,
    folder: Option<PathBuf>,
    allow_unstapled: bool,
    no_tls13: bool,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    pub(super) default: Option<Held>,
    /// By the certificate's file.
    pub(super) named: HashMap<PathBuf, Held>,
    /// Folders in the folder.
    nested: Vec<PathBuf>,
    /// Why the folder can't be listed now.
    pub(super) folder_trouble: Option<String>,
}

/// What handshakes look at.
#[derive(Debug, Default)]
struct Table {
    default: Option<Arc<Certificate>>,
    names: Names,
}

/// Handshakes that are worth a count.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// They asked for a name that is not there.
    pub(super) unknown: AtomicU64,
    /// Their certificate asks to be stapled, and there was nothing fresh to staple.
    pub(super) withheld: AtomicU64,
}

impl Store {
    /// Reads all certificates of a service; `None` if it speaks no TLS.
    ///
    /// # Errors
    /// That for everybody can't be used, the folder can't be listed, or there is none at all. One of
    /// the folder's that can't be used is in [`Store::troubles`].
    pub(super) fn open(options: &TlsOptions) -> Result<Option<Self>, CertificateError> {
        let sources = Sources::of(options);
        let now = now();
        let mut read = Read::default();
        if let Some(files) = &sources.default {
            read.default = Some(Held::open(files.clone(), now)?);
        }
        if let Some(folder) = &sources.folder {
            let scan = scan(folder).map_err(|error| CertificateError::Unreadable {
                path: folder.clone(),
                error,
            })?;
            let read_one = match scan.found.len() > CHECKED_AT_ONCE {
                true => Held::read_on_trust,
                false => Held::read,
            };
            read.named = read_all(scan.found, |name, files| read_one(name, files, now));
            read.nested = scan.folders;
            if !read.serves() {
                return Err(CertificateError::NothingServed(folder.clone()));
            }
        }
        let none = sources.default.is_none() && sources.folder.is_none();
        let table = Table::of(&read);
        let store = Self {
            sources,
            held: Mutex::new(read),
            table: RwLock::new(Arc::new(table)),
            counts: Counts::default(),
        };
        Ok((!none).then_some(store))
    }

    /// Whether it is what `options` ask for.
    pub(super) fn is_of(&self, options: &TlsOptions) -> bool {
        self.sources == Sources::of(options)
    }

    /// Looks at all files, reads again what has changed, and says in the log what came of it.
    pub(super) fn refresh(&self) -> Look {
        let now = now();
        // A copy, so that nobody who asks for the status waits for a disk. Nobody else changes it.
        let mut read = self.read().clone();
        let mut changes = Changes::default();
        if let (Some(held), Some(files)) = (&mut read.default, &self.sources.default) {
            let renewed = held.renew(files, now);
            changes.note(renewed, held, now);
        }
        if let Some(folder) = &self.sources.folder {
            match scan(folder) {
                Ok(scan) => {
                    read.folder_trouble = None;
                    changes.other_folders = read.nested != scan.folders;
                    read.nested = scan.folders;
                    read.follow(scan.found, &mut changes, now);
                }
                Err(error) => {
                    let why = format!(
                        "{}: {error}; what was in it is still served",
                        folder.display()
                    );
                    if read.folder_trouble.as_ref() != Some(&why) {
                        changes.broken.push(why.clone());
                        read.folder_trouble = Some(why);
                    }
                }
            }
        }
        let more = read.check_keys(CHECKED_A_LOOK, &mut changes, now);
        if changes.other_table {
            let table = Arc::new(Table::of(&read));
            *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        }
        *self.read() = read;
        changes.log();
        Look {
            changed: changes.other_table || changes.other_folders,
            again: match more {
                true => Some(Duration::ZERO),
                false => changes.away.then_some(AWAY),
            },
        }
    }

    /// Checks the keys that were taken on trust, of a store that nobody uses yet; else
    /// [`Store::refresh`] does.
    ///
    /// # Errors
    /// There is no certificate left.
    pub(super) fn check_keys(&self) -> Result<(), CertificateError> {
        let mut read = self.read();
        read.check_keys(usize::MAX, &mut Changes::default(), now());
        match &self.sources.folder {
            Some(folder) if !read.serves() => Err(CertificateError::NothingServed(folder.clone())),
            Some(_) | None => Ok(()),
        }
    }

    /// What is wrong with certificates, a sentence each.
    pub(super) fn troubles(&self) -> Vec<String> {
        let now = now();
        let read = self.read();
        let each = read.all().filter_map(|held| held.trouble(now));
        read.folder_trouble.iter().cloned().chain(each).collect()
    }

    /// Every folder in which something happens when a file of this store becomes another one, and
    /// the folders around them that can be swapped.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        let read = self.read().clone();
        let mut folders = BTreeSet::new();
        let mut places: BTreeSet<PathBuf> = read.nested.iter().cloned().collect();
        places.extend(self.sources.folder.clone());
        for file in read.all().flat_map(|held| held.files.iter()) {
            // What leads to a folder is looked at once for all files in it.
            match files::link(file) {
                Ok(_) => folders.extend(around(file)),
                Err(_) => places.extend(file.parent().map(in_full)),
            }
        }
        folders.extend(places.iter().flat_map(|place| around(place)));
        folders.extend(places);
        folders
    }

    /// What was read, for a moment.
    pub(super) fn read(&self) -> MutexGuard<'_, Read> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of certificates by name.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.sources.folder.as_deref()
    }

    /// How many names can be asked for.
    pub(super) fn names(&self) -> usize {
        self.table().names.len()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Store {
    /// The first certificate for the name that the client can use; the one for everybody if the name
    /// is not known.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table();
        let now = now();
        let named = hello
            .server_name()
            .map_or(&[][..], |name| table.names.find(name));
        if named.is_empty() && hello.server_name().is_some() && self.sources.folder.is_some() {
            self.counts.unknown.fetch_add(1, Ordering::Relaxed);
        }
        let offered: Vec<_> = match named.is_empty() {
            true => table.default.iter().collect(),
            false => named.iter().collect(),
        };
        let (mut ready, bare): (Vec<_>, Vec<_>) = offered
            .into_iter()
            .partition(|one| self.sources.allow_unstapled || !one.lacks_staple(now));
        if ready.is_empty() && !bare.is_empty() {
            self.counts.withheld.fetch_add(1, Ordering::Relaxed);
        }
        // Where one has expired another may do.
        ready.sort_by_key(|one| !one.is_valid(now));
        let any = if self.sources.no_tls13 {
            &[][..]
        } else {
            &BY_ANY
        };
        let fits = ready
            .iter()
            .find(|one| is_usable(one.key(now), &hello, any));
        // Without one that fits rustls says why there is no handshake.
        let chosen = fits.or(ready.first())?;
        Some(Arc::clone(chosen.key(now)))
    }
}

/// Whether a client can check what a key signs; for TLS 1.2 the cipher has a say in it as well. `any`
/// are ciphers that have not.
fn is_usable(key: &CertifiedKey, hello: &ClientHello<'_>, any: &[CipherSuite]) -> bool {
    if key.key.choose_scheme(hello.signature_schemes()).is_none() {
        return false;
    }
    let of_its_kind = match key.key.algorithm() == SignatureAlgorithm::ECDSA {
        true => BY_ECDSA,
        false => BY_RSA,
    };
    let mut suites = hello.cipher_suites().iter();
    suites.any(|suite| any.contains(suite) || of_its_kind.contains(suite))
}

impl Sources {
    fn of(options: &TlsOptions) -> Self {
        let default = options.certificate.clone().map(|certificate| Files {
            certificate,
            key: options.key.clone(),
            chain: options.chain.clone(),
            staple: options.staple.clone(),
        });
        Self {
            default,
            folder: options.directory.clone(),
            allow_unstapled: options.has(SslOption::AllowUnstapled),
            no_tls13: options.has(SslOption::NoTlsv1_3),
        }
    }
}

impl Read {
    /// All certificates, that for everybody first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Held> {
        self.default.iter().chain(self.named.values())
    }

    fn serves(&self) -> bool {
        self.all().any(|held| held.certificate().is_some())
    }

    /// Checks keys that were taken on trust, this many at most; whether there are more.
    fn check_keys(&mut self, most: usize, changes: &mut Changes, now: i64) -> bool {
        let unchecked = self.named.values_mut();
        let mut unchecked = unchecked.filter(|held| held.has_unchecked_key());
        for held in unchecked.by_ref().take(most) {
            let came = held.check_key(now);
            changes.note(came, held, now);
        }
        unchecked.next().is_some()
    }

    /// Goes by what is in the folder now.
    fn follow(&mut self, found: Vec<Found>, changes: &mut Changes, now: i64) {
        let (known, new): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|one| self.named.contains_key(&one.files.certificate));
        let known = known.into_iter().map(|one| one.files);
        let known: HashMap<PathBuf, Files> = known
            .map(|files| (files.certificate.clone(), files))
            .collect();
        let mut there = Vec::new();
        self.named.retain(|path, held| {
            if known.contains_key(path) {
                return true;
            }
            let since = held.gone.get_or_insert_with(Instant::now);
            let away = since.elapsed() < AWAY;
            if away {
                changes.away = true;
            } else {
                changes.dropped.push(path.display().to_string());
                changes.other_table = true;
            }
            away
        });
        for (path, held) in &mut self.named {
            there.extend(known.get(path).map(|files| (held, files)));
        }
        let renewed = on_all_cores(there, |(held, files)| (held.renew(files, now), held));
        for (renewed, held) in renewed {
            changes.note(renewed, held, now);
        }
        for (path, held) in read_all(new, |name, files| Held::read(name, files, now)) {
            changes.note(Renewed::Changed, &held, now);
            self.named.insert(path, held);
        }
    }
}

impl Table {
    fn of(read: &Read) -> Self {
        let named = read.named.values();
        let named = named.filter_map(|held| Some((held.name.as_str(), held.certificate()?)));
        Self {
            default: read.default.as_ref().and_then(Held::certificate).cloned(),
            names: Names::of(named),
        }
    }
}

/// What a look at the files came to, for who looks.
#[derive(Debug)]
pub(in crate::proxy) struct Look {
    /// Other certificates are served, and other files may be read.
    pub(super) changed: bool,
    /// Files are away, or keys are still to be checked: when to look again.
    pub(super) again: Option<Duration>,
}

impl Look {
    /// Both together.
    pub(super) fn join(&mut self, other: Self) {
        self.changed |= other.changed;
        self.again = self.again.into_iter().chain(other.again).min();
    }
}

/// What a look at the files came to, for the log.
#[derive(Debug, Default)]
struct Changes {
    renewed: Vec<String>,
    broken: Vec<String>,
    dropped: Vec<String>,
    other_table: bool,
    other_folders: bool,
    away: bool,
}

impl Changes {
    fn note(&mut self, renewed: Renewed, held: &Held, now: i64) {
        if renewed == Renewed::Same {
            return;
        }
        self.other_table |= renewed == Renewed::Changed;
        match held.trouble(now) {
            Some(why) => self.broken.push(why),
            None => self
                .renewed
                .push(held.files.certificate.display().to_string()),
        }
    }

    fn log(&self) {
        for (what, list) in [("read", &self.renewed), ("removed", &self.dropped)] {
            for path in list.iter().take(NAMED_MAX) {
                tracing::info!("certificate {path}: {what}");
            }
            if list.len() > NAMED_MAX {
                tracing::info!("certificates: {} more {what}", list.len() - NAMED_MAX);
            }
        }
        warn(&self.broken);
    }
}

/// Says what is wrong with certificates, not all of it if that is much.
pub(super) fn warn(troubles: &[String]) {
    for why in troubles.iter().take(NAMED_MAX) {
        tracing::warn!("certificate: {why}");
    }
    if troubles.len() > NAMED_MAX {
        tracing::warn!(
            "certificates: {} more are in trouble",
            troubles.len() - NAMED_MAX
        );
    }
}

/// Reads many.
fn read_all(
    found: Vec<Found>,
    read: impl Fn(String, Files) -> Held + Sync,
) -> HashMap<PathBuf, Held> {
    let read = on_all_cores(found, |Found { name, files }| {
        (files.certificate.clone(), read(name, files))
    });
    read.into_iter().collect()
}

/// Does the same for each of many, on all cores: where a key is checked when it is read that takes up
/// to half a millisecond.
fn on_all_cores<T: Send, R: Send>(all: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = all.len().div_ceil(cores);
    if share < ALONE {
        return all.into_iter().map(work).collect();
    }
    let mut rest = all.into_iter();
    let work = &work;
    thread::scope(|scope| {
        let mut running = Vec::new();
        for _ in 0..cores {
            let share: Vec<T> = rest.by_ref().take(share).collect();
            running.push(scope.spawn(move || share.into_iter().map(work).collect::<Vec<R>>()));
        }
        let joined = running.into_iter().flat_map(|one| match one.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

/// Every folder in which something happens when a file becomes another one: its own, the one around
/// that, and those of all links on the way, and of where they lead.
pub(super) fn around(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    lead_to(file, &mut folders, LINKS_MAX);
    folders
}

fn lead_to(path: &Path, folders: &mut BTreeSet<PathBuf>, links: u32) {
    let own = path.parent().map(in_full);
    folders.extend(own.as_deref().and_then(Path::parent).map(in_full));
    folders.extend(own);
    for part in path.ancestors() {
        let Ok(target) = files::link(part) else {
            continue;
        };
        let folder = part.parent().map(in_full).unwrap_or_default();
        if links > 0 {
            lead_to(&folder.join(target), folders, links - 1);
        }
        folders.insert(folder);
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}
