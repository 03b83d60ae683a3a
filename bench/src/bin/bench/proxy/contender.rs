//! The proxies that are measured, configured alike: one thread for each core, one server, taken in
//! turn, TCP_NODELAY, no log; for HTTP servers are told the client (X-Forwarded-For) with each request,
//! but for Debian's pen, and connections to them are kept.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::server::FORWARDED;
use lab::DebianPen;

/// Connections that a proxy must be ready for.
const CLIENTS_MAX: u32 = 12_000;
const HAPROXY_SPLICE: &str = "mode tcp\n    option splice-request\n    option splice-response";
/// Whoever asks gets a connection to the server that another client had before, as with Pen.
const HAPROXY_HTTP: &str = "mode http\n    option forwardfor\n    http-reuse always";
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A proxy and its mode. A mode of its own (HTTP, say) is a contender of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    Pen,
    Haproxy,
    /// HAProxy that splices each byte, both ways.
    HaproxySplice,
    Nginx,
    DebianPen,
    PenHttp,
    HaproxyHttp,
    NginxHttp,
    DebianPenHttp,
    /// Over TLS, with a certificate of P-256, in HTTP mode.
    PenTls,
    HaproxyTls,
    DebianPenTls,
    /// With one of RSA-2048.
    PenTlsRsa,
    HaproxyTlsRsa,
    /// With a folder of certificates of each kind beside it; see [`super::names`].
    PenNames,
    PenNamesRsa,
}

impl Contender {
    /// The kind of the certificates that it has by name, if any.
    pub(super) fn has_names(self) -> Option<&'static str> {
        let mut kinds = [(Self::PenNames, "ecdsa"), (Self::PenNamesRsa, "rsa")].into_iter();
        let found = kinds.find(|(contender, _)| *contender == self);
        found.map(|(_, kind)| kind)
    }

    /// Whether clients speak TLS with it.
    pub(crate) const fn is_tls(self) -> bool {
        matches!(
            self,
            Self::PenTls
                | Self::HaproxyTls
                | Self::DebianPenTls
                | Self::PenTlsRsa
                | Self::HaproxyTlsRsa
                | Self::PenNames
                | Self::PenNamesRsa
        )
    }

    /// Its program, with its version.
    pub(crate) fn name(self) -> String {
        let version = match self {
            Self::Pen
            | Self::PenHttp
            | Self::PenTls
            | Self::PenTlsRsa
            | Self::PenNames
            | Self::PenNamesRsa => return "Pen".into(),
            Self::Haproxy
            | Self::HaproxySplice
            | Self::HaproxyHttp
            | Self::HaproxyTls
            | Self::HaproxyTlsRsa => version_of("haproxy", "version "),
            Self::Nginx | Self::NginxHttp => version_of("nginx", "nginx/"),
            Self::DebianPen | Self::DebianPenTls => return "Debian's pen".into(),
            Self::DebianPenHttp => return "Debian's pen -H".into(),
        };
        match self {
            Self::HaproxySplice => format!("HAProxy {version}, forced splice"),
            Self::Nginx | Self::NginxHttp => format!("nginx {version}"),
            Self::HaproxyTls | Self::HaproxyTlsRsa => {
                format!("HAProxy {version} with OpenSSL {}", openssl_of_haproxy())
            }
            Self::Haproxy | Self::HaproxyHttp => format!("HAProxy {version}"),
            Self::Pen
            | Self::PenHttp
            | Self::PenTls
            | Self::PenTlsRsa
            | Self::PenNames
            | Self::PenNamesRsa
            | Self::DebianPen
            | Self::DebianPenHttp
            | Self::DebianPenTls => version,
        }
    }

    /// What it does otherwise than the others of its row; empty if nothing.
    pub(crate) const fn note(self) -> &'static str {
        match self {
            // It looks at nothing but what a connection begins with.
            Self::DebianPenHttp => {
                "Debian's pen adds X-Forwarded-For to the first request of a connection only"
            }
            Self::Pen
            | Self::Haproxy
            | Self::HaproxySplice
            | Self::Nginx
            | Self::DebianPen
            | Self::PenHttp
            | Self::HaproxyHttp
            | Self::NginxHttp
            | Self::PenTls
            | Self::HaproxyTls
            | Self::PenTlsRsa
            | Self::HaproxyTlsRsa
            | Self::PenNames
            | Self::PenNamesRsa => "",
            Self::DebianPenTls => {
                "Debian's pen in TCP mode; it exchanges keys by P-256 alone, so handshakes of TLS 1.3 \
                 take it one more round"
            }
        }
    }

    /// What is to be started for it; writes its configuration.
    ///
    /// # Errors
    /// Something of it is not installed.
    pub(crate) fn program(self, place: &Place) -> Result<Program> {
        match self {
            Self::Pen => pen(place, &[]),
            Self::PenHttp => pen(place, &["-H"]),
            Self::Haproxy => haproxy(place, haproxy_config(place, "mode tcp")),
            Self::HaproxySplice => haproxy(place, haproxy_config(place, HAPROXY_SPLICE)),
            Self::HaproxyHttp => haproxy(place, haproxy_config(place, HAPROXY_HTTP)),
            Self::Nginx => nginx(place, nginx_config(place)),
            Self::NginxHttp => nginx(place, nginx_http_config(place)),
            Self::DebianPen => debian_pen(place, &["-O", "tcp_nodelay"]),
            Self::DebianPenHttp => debian_pen(place, &["-O", "tcp_nodelay", "-H"]),
            Self::PenTls => pen(place, &["-H", "-E", &place.certificate("ecdsa")]),
            Self::PenTlsRsa => pen(place, &["-H", "-E", &place.certificate("rsa")]),
            Self::PenNames => pen_with_names(place, "ecdsa"),
            Self::PenNamesRsa => pen_with_names(place, "rsa"),
            Self::HaproxyTls => haproxy(place, haproxy_tls_config(place, "ecdsa")),
            Self::HaproxyTlsRsa => haproxy(place, haproxy_tls_config(place, "rsa")),
            Self::DebianPenTls => {
                let file = place.certificate("ecdsa");
                debian_pen(place, &["-O", "tcp_nodelay", "-E", &file, "-K", &file])
            }
        }
    }

    /// What it is asked for to see that it works: where servers are to be told the client, there is
    /// an answer only if they are.
    pub(crate) fn probe(self) -> &'static str {
        match self {
            Self::PenHttp | Self::HaproxyHttp | Self::NginxHttp | Self::DebianPenHttp => FORWARDED,
            Self::PenTls
            | Self::HaproxyTls
            | Self::PenTlsRsa
            | Self::HaproxyTlsRsa
            | Self::PenNames
            | Self::PenNamesRsa => FORWARDED,
            Self::Pen
            | Self::Haproxy
            | Self::HaproxySplice
            | Self::Nginx
            | Self::DebianPen
            | Self::DebianPenTls => "/",
        }
    }
}

/// Where a proxy listens, whom it asks, and a folder of its own.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) at: SocketAddr,
    pub(crate) server: SocketAddr,
    /// See [`super::tls::make_certificates`].
    pub(crate) certificates: PathBuf,
}

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
    /// What `LD_LIBRARY_PATH` must be, if anything.
    pub(crate) libraries: Option<OsString>,
}

/// The version that a program tells after `mark`, without Debian's part.
fn version_of(program: &str, mark: &str) -> String {
    let output = Command::new(program).arg("-v").output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr)
        },
    );
    version_in(&text, mark)
        .unwrap_or("of unknown version")
        .to_owned()
}

fn version_in<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(mark)?;
    let end = after.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let version = &after[..end.unwrap_or(after.len())];
    (!version.is_empty()).then_some(version)
}

fn pen(place: &Place, more: &[&str]) -> Result<Program> {
    let file = |name: &str| place.folder.join(name).display().to_string();
    let program = lab::binary("pen")?.display().to_string();
    let (control, pid) = (file("control"), file("pid"));
    let (most, at, server) = place.words();
    let words = [
        &program, "-f", "-r", "-C", &control, "-p", &pid, "-x", &most,
    ];
    Ok(started(&[&words[..], more, &[&at, &server]].concat()))
}

fn pen_with_names(place: &Place, kind: &str) -> Result<Program> {
    let names = place.certificates.join(format!("{kind}-names"));
    let names = format!("ssl_sni_path {}", names.display());
    pen(place, &["-H", "-E", &place.certificate(kind), "-O", &names])
}

fn debian_pen(place: &Place, more: &[&str]) -> Result<Program> {
    let debian = DebianPen::fetch()?;
    let program = debian.program().display().to_string();
    let (most, at, server) = place.words();
    let words = [&program, "-f", "-r", "-x", &most];
    Ok(Program {
        libraries: Some(debian.libraries()),
        ..started(&[&words[..], more, &[&at, &server]].concat())
    })
}

fn haproxy(place: &Place, config: String) -> Result<Program> {
    let file = place.folder.join("haproxy.cfg");
    fs::write(&file, config)?;
    let file = file.display().to_string();
    Ok(started(&["haproxy", "-db", "-f", &file]))
}

fn nginx(place: &Place, config: String) -> Result<Program> {
    ensure!(
        Path::new(STREAM_MODULE).is_file(),
        "nginx has no module {STREAM_MODULE}; mend: packaging/setup.sh bench"
    );
    let path = |name: &str| place.folder.join(name).display().to_string();
    let (file, log) = (path("nginx.conf"), path("error.log"));
    fs::write(&file, config)?;
    let prefix = place.folder.display().to_string();
    Ok(started(&["nginx", "-p", &prefix, "-c", &file, "-e", &log]))
}

fn started(words: &[&str]) -> Program {
    Program {
        words: words.iter().map(ToString::to_string).collect(),
        libraries: None,
    }
}

impl Place {
    /// The file with a certificate of this kind and its key.
    fn certificate(&self, kind: &str) -> String {
        self.certificates
            .join(format!("{kind}.pem"))
            .display()
            .to_string()
    }

    /// Most connections, where to listen, the server: as a Pen is told them.
    fn words(&self) -> (String, String, String) {
        let most = CLIENTS_MAX.to_string();
        (most, self.at.to_string(), self.server.to_string())
    }
}

/// One thread. HAProxy sets TCP_NODELAY itself.
fn haproxy_config(place: &Place, mode: &str) -> String {
    let Place { at, server, .. } = place;
    format!(
        "global\n    nbthread 1\n    maxconn {CLIENTS_MAX}\n    no strict-limits\n\
         defaults\n    {mode}\n    timeout connect 5s\n    timeout client 60s\n    \
         timeout server 60s\n\
         listen bench\n    bind {at}\n    maxconn {CLIENTS_MAX}\n    balance roundrobin\n    \
         server web {server}\n"
    )
}

/// TLS as HAProxy's own documents have it for clients of today, the cipher that Pen prefers first.
fn haproxy_tls_config(place: &Place, kind: &str) -> String {
    let certificate = place.certificate(kind);
    let clear = haproxy_config(place, HAPROXY_HTTP);
    let global = "global\n    ssl-default-bind-options ssl-min-ver TLSv1.2\n    \
                  ssl-default-bind-ciphersuites TLS_AES_256_GCM_SHA384\n    \
                  ssl-default-bind-ciphers \
                  ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384\n";
    let at = format!("bind {}", place.at);
    clear
        .replacen("global\n", global, 1)
        .replacen(&at, &format!("{at} ssl crt {certificate}"), 1)
}

/// The version of OpenSSL that HAProxy runs with.
fn openssl_of_haproxy() -> String {
    let output = Command::new("haproxy").arg("-vv").output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let version = version_in(&text, "Running on OpenSSL version : OpenSSL ");
    version.unwrap_or("of unknown version").to_owned()
}

/// One worker. nginx sets TCP_NODELAY itself in this mode.
fn nginx_config(place: &Place) -> String {
    let Place { at, server, .. } = place;
    let connections = 2 * CLIENTS_MAX;
    format!(
        "load_module {STREAM_MODULE};\n\
         daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log crit;\n\
         events {{ worker_connections {connections}; }}\n\
         stream {{ access_log off; upstream web {{ server {server}; }}\n\
         server {{ listen {at}; proxy_pass web; }} }}\n"
    )
}

/// One worker, whose connections to the server are kept for as long as anybody wants.
fn nginx_http_config(place: &Place) -> String {
    let Place { at, server, .. } = place;
    let connections = 2 * CLIENTS_MAX;
    format!(
        "daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log crit;\n\
         events {{ worker_connections {connections}; }}\n\
         http {{ access_log off; tcp_nodelay on; keepalive_requests 1000000000;\n\
         upstream web {{ server {server}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {at}; location / {{ proxy_pass http://web; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_without_debians_part() {
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        assert_eq!(version_in(haproxy, "version "), Some("2.6.12"));
        assert_eq!(
            version_in("nginx version: nginx/1.22.1\n", "nginx/"),
            Some("1.22.1")
        );
        assert_eq!(version_in("nginx: not found", "nginx/"), None);
    }

    #[test]
    fn only_the_forced_splice_is_asked_for() {
        let place = Place {
            folder: PathBuf::new(),
            at: ([127, 0, 0, 1], 80).into(),
            server: ([127, 0, 0, 1], 8000).into(),
            certificates: PathBuf::from("/certificates"),
        };
        let tls = haproxy_tls_config(&place, "rsa");
        assert!(
            tls.contains("bind 127.0.0.1:80 ssl crt /certificates/rsa.pem\n"),
            "{tls}"
        );
        assert!(!haproxy_config(&place, "mode tcp").contains("splice"));
        let forced = haproxy_config(&place, HAPROXY_SPLICE);
        assert!(forced.contains("option splice-request"), "{forced}");
        assert!(forced.contains("option splice-response"), "{forced}");
        assert!(forced.contains("bind 127.0.0.1:80\n"), "{forced}");
    }
}
