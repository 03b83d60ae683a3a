//! Every key of a `[[service]]`, and of Pen's commands and flags for the one service of a line.

mod by_name;
pub(crate) mod left_out;
mod values;

use ::toml::Value;

use super::keys::{Key, key, number, path, read_acl_number, text};
use super::{
    BACKLOG_MAX, Balance, CLIENTS_MAX_MAX, CONN_MAX_MAX, HEAD_TIMEOUT_MAX, Mode, PENDING_MAX_MAX,
    SECONDS_MAX, Service, TIMEOUT_MAX, TLS_TIMEOUT_MAX, VLAN_MAX,
};
use values::{
    read_hsts, read_listen, read_log, read_networks, read_sni_route, read_source, read_spare,
    read_ssl_option, within, write_balance, write_listen, write_networks, write_spare,
};

/// What commands empty a list by.
pub(crate) const NONE: &str = "none";

/// Keys of proxies that speak of a client's whole connection: HTTP has requests.
const OF_STREAMS: &[&str] = &[
    "tcp_fastclose",
    "queue_timeout",
    "transparent",
    "send_proxy",
    "sni_route",
];

/// Keys of proxies that speak of connections: datagrams have none.
const OF_CONNECTIONS: &[&str] = &[
    "timeout",
    "pending_max",
    "backlog",
    "tcp_fastclose",
    "keepalive",
    "queue_timeout",
    "transparent",
    "accept_proxy",
    "send_proxy",
    "certificate",
    "key",
    "chain",
    "ssl_sni_path",
    "ssl_ocsp_response",
    "ssl_ticket_keys",
    "tls_timeout",
    "client_handshakes_max",
    "ssl_option",
    "ssl_ciphers",
    "client_certificate",
    "client_ca",
    "client_ca_path",
    "client_crl",
    "server_tls",
    "server_ca",
    "server_tls_name",
    "server_certificate",
    "server_key",
    "sni_route",
];

impl Mode {
    /// Whether a key with this value of [`Key::only`] means something in this mode.
    pub(crate) fn knows(self, key: &str, only: Option<Self>) -> bool {
        let of_proxies = only == Some(Self::Tcp);
        only.is_none_or(|only| only == self)
            || match self {
                Self::Udp => of_proxies && !OF_CONNECTIONS.contains(&key),
                Self::Http => of_proxies && !OF_STREAMS.contains(&key),
                Self::Dsr | Self::Tcp => false,
            }
    }
}

/// Keys of a `[[service]]`. Those of one mode only are faults in another.
pub(crate) const SERVICE: &[Key<Service>] = &[
    key!(
        "name",
        "unique among services",
        |s, given| given.text("name").map(|name| name.clone_into(&mut s.name)),
        |s| text(&s.name)
    ),
    Key {
        name: "listen",
        help: "one VIP or a list: ADDRESS, ADDRESS:PORT, [IPV6]:PORT, each with /udp for UDP; in \
               proxy mode also PORT alone (all addresses) and /PATH (a Unix socket)",
        read: read_listen,
        write: write_listen,
        list: true,
        only: None,
    },
    key!(
        "mode",
        "how it is served: dsr, or by a proxy: tcp, udp or http",
        |s, given| given.word("mode").map(|mode| s.mode = mode),
        |s| text(s.mode)
    ),
    key!(
        "pool",
        "name of the pool that serves it; that of the service if left out",
        |s, given| given.text("pool").map(|pool| pool.clone_into(&mut s.pool)),
        |s| text(&s.pool)
    ),
    key!(
        Mode::Dsr,
        "vlan",
        "VLAN that its frames carry; left out, they are taken with and without tags",
        |s, given| given
            .number("vlan", 1..=VLAN_MAX)
            .map(|vlan| s.vlan = Some(vlan)),
        |s| s.vlan.and_then(number)
    ),
    key!(
        Mode::Dsr,
        "hash",
        "what chooses the back end: flow (Pen's -r) or source (the client's address alone)",
        |s, given| given.word("hash").map(|hash| s.hash = hash),
        |s| text(s.hash)
    ),
    Key {
        name: "balance",
        help: "how servers are chosen, one or a list: roundrobin, hash, weight, prio, least, stubborn",
        read: |s, given| {
            let switch = given.word::<Balance>("balance")?;
            s.proxy.balance.set(switch, true);
            Ok(())
        },
        write: write_balance,
        list: true,
        only: Some(Mode::Tcp),
    },
    key!(
        Mode::Tcp,
        "timeout",
        "seconds that a connection to a server may take (-t)",
        |s, given| within("timeout", given, 1..=TIMEOUT_MAX, &mut s.proxy.timeout),
        |s| number(s.proxy.timeout)
    ),
    key!(
        Mode::Tcp,
        "idle_timeout",
        "seconds without a byte after which a connection is closed; 0 is never, in mode udp 60",
        |s, given| within(
            "idle_timeout",
            given,
            0..=SECONDS_MAX,
            &mut s.proxy.idle_timeout
        ),
        |s| number(s.proxy.idle_timeout)
    ),
    key!(
        Mode::Tcp,
        "blacklist",
        "seconds that a server gets no clients after a failed connection (-b)",
        |s, given| within("blacklist", given, 0..=SECONDS_MAX, &mut s.proxy.blacklist),
        |s| number(s.proxy.blacklist)
    ),
    key!(
        Mode::Tcp,
        "tracking",
        "seconds that a client's server is remembered (-T); 0 is for ever",
        |s, given| within("tracking", given, 0..=SECONDS_MAX, &mut s.proxy.tracking),
        |s| number(s.proxy.tracking)
    ),
    key!(
        Mode::Tcp,
        "clients_max",
        "clients that are remembered (-c)",
        |s, given| within(
            "clients_max",
            given,
            1..=CLIENTS_MAX_MAX,
            &mut s.proxy.clients_max
        ),
        |s| number(s.proxy.clients_max)
    ),
    key!(
        Mode::Tcp,
        "conn_max",
        "connections at the same time (-x)",
        |s, given| within("conn_max", given, 1..=CONN_MAX_MAX, &mut s.proxy.conn_max),
        |s| number(s.proxy.conn_max)
    ),
    key!(
        Mode::Tcp,
        "pending_max",
        "connections to servers under way before no more clients are taken",
        |s, given| within(
            "pending_max",
            given,
            1..=PENDING_MAX_MAX,
            &mut s.proxy.pending_max
        ),
        |s| number(s.proxy.pending_max)
    ),
    key!(
        Mode::Tcp,
        "backlog",
        "clients that the kernel keeps waiting (-q)",
        |s, given| within("backlog", given, 1..=BACKLOG_MAX, &mut s.proxy.backlog),
        |s| number(s.proxy.backlog)
    ),
    key!(
        Mode::Tcp,
        "tcp_fastclose",
        "whose end of its stream ends the connection: off, up (the server's), down or both",
        |s, given| given
            .word("tcp_fastclose")
            .map(|side| s.proxy.tcp_fastclose = side),
        |s| text(s.proxy.tcp_fastclose)
    ),
    key!(
        Mode::Tcp,
        "keepalive",
        "whether the kernel asks silent peers if they are still there: true or false",
        |s, given| given.flag("keepalive").map(|flag| s.proxy.keepalive = flag),
        |s| Some(Value::Boolean(s.proxy.keepalive))
    ),
    key!(
        Mode::Tcp,
        "source",
        "address that connections to servers come from",
        |s, given| read_source(given).map(|source| s.proxy.source = Some(source)),
        |s| s.proxy.source.and_then(text)
    ),
    key!(
        "client_acl",
        "number of the access list that clients must pass; in DSR asked of every packet",
        |s, given| read_acl_number("client_acl", given).map(|acl| s.proxy.client_acl = acl),
        |s| number(s.proxy.client_acl)
    ),
    key!(
        Mode::Tcp,
        "emergency",
        "HOST:PORT that serves when no server can (-e)",
        |s, given| read_spare("emergency", given).map(|spare| s.proxy.emergency = Some(spare)),
        |s| s.proxy.emergency.as_ref().and_then(write_spare)
    ),
    key!(
        Mode::Tcp,
        "abuse",
        "HOST:PORT that serves clients whom the access list denies (-B)",
        |s, given| read_spare("abuse", given).map(|spare| s.proxy.abuse = Some(spare)),
        |s| s.proxy.abuse.as_ref().and_then(write_spare)
    ),
    key!(
        Mode::Tcp,
        "queue_timeout",
        "seconds that a client waits while all servers are full; 0 lets it go at once",
        |s, given| within(
            "queue_timeout",
            given,
            0..=TIMEOUT_MAX,
            &mut s.proxy.queue_timeout
        ),
        |s| number(s.proxy.queue_timeout)
    ),
    key!(
        Mode::Tcp,
        "client_conn_max",
        "connections of one client (an IPv4 address, an IPv6 /64) at a time; 0 is no limit",
        |s, given| within(
            "client_conn_max",
            given,
            0..=CONN_MAX_MAX,
            &mut s.proxy.client_conn_max
        ),
        |s| number(s.proxy.client_conn_max)
    ),
    key!(
        Mode::Tcp,
        "client_conn_rate",
        "new connections of one client in a second; 0 is no limit",
        |s, given| within(
            "client_conn_rate",
            given,
            0..=CONN_MAX_MAX,
            &mut s.proxy.client_conn_rate
        ),
        |s| number(s.proxy.client_conn_rate)
    ),
    key!(
        Mode::Tcp,
        "transparent",
        "whether servers see the client's own address; --check says what routes that needs",
        |s, given| given
            .flag("transparent")
            .map(|flag| s.proxy.transparent = flag),
        |s| Some(Value::Boolean(s.proxy.transparent))
    ),
    Key {
        name: "accept_proxy",
        help: "one network or a list, as in access lists: their clients are proxies and begin with a \
               header of the PROXY protocol (v1 or v2), from all others it is data",
        read: |s, given| read_networks("accept_proxy", given, &mut s.proxy.accept_proxy),
        write: |s| write_networks(&s.proxy.accept_proxy),
        list: true,
        only: Some(Mode::Tcp),
    },
    key!(
        Mode::Tcp,
        "send_proxy",
        "header of the PROXY protocol that servers are sent: off, v1 or v2",
        |s, given| given
            .word("send_proxy")
            .map(|version| s.proxy.send_proxy = version),
        |s| text(s.proxy.send_proxy)
    ),
    Key {
        name: "sni_route",
        help: "NAME SERVICE, one or a list: who begins to speak TLS and asks for NAME gets SERVICE, \
               whose connection it is from then on, unread; *.NAME stands for all with one label there",
        read: read_sni_route,
        write: |s| {
            let routes = s.proxy.sni_routes.iter().filter_map(text);
            Some(Value::Array(routes.collect()))
        },
        list: true,
        only: Some(Mode::Tcp),
    },
    key!(
        Mode::Http,
        "head_timeout",
        "seconds that the head of a request may take, and a client's silence between two requests",
        |s, given| within(
            "head_timeout",
            given,
            1..=HEAD_TIMEOUT_MAX,
            &mut s.proxy.head_timeout
        ),
        |s| number(s.proxy.head_timeout)
    ),
    Key {
        name: "trusted",
        help: "networks whose X-Forwarded-For is kept and added to, one or a list: IP or IP/LENGTH; \
               that of all others is replaced",
        read: |s, given| read_networks("trusted", given, &mut s.proxy.trusted),
        write: |s| write_networks(&s.proxy.trusted),
        list: true,
        only: Some(Mode::Http),
    },
    key!(
        Mode::Http,
        "reason_header",
        "whether answers that are Pen's own say why in X-Pen-Reason: true or false",
        |s, given| given
            .flag("reason_header")
            .map(|flag| s.proxy.reason_header = flag),
        |s| Some(Value::Boolean(s.proxy.reason_header))
    ),
    key!(
        Mode::Tcp,
        "log",
        "file that a line is added to for each connection, flow or request (-l); ADDRESS:PORT: by \
         UDP, for penlogd; off: none",
        |s, given| read_log(given).map(|target| s.proxy.log = target),
        |s| s.proxy.log.as_ref().and_then(text)
    ),
    key!(
        Mode::Tcp,
        "log_format",
        "how a line of the log is written: pen, common, combined or json",
        |s, given| given
            .word("log_format")
            .map(|format| s.proxy.log_format = format),
        |s| text(s.proxy.log_format)
    ),
    key!(
        Mode::Http,
        "redirect",
        "where every request is sent, to the same host and target: https or https:PORT; no pool then",
        |s, given| given.word("redirect").map(|to| s.proxy.redirect = Some(to)),
        |s| s.proxy.redirect.and_then(text)
    ),
    key!(
        Mode::Http,
        "hsts",
        "seconds that browsers are to ask over HTTPS alone, with includeSubDomains and preload behind \
         them: said in every answer over TLS; off: not at all",
        |s, given| read_hsts(given).map(|hsts| s.proxy.hsts = hsts),
        |s| s.proxy.hsts.and_then(text)
    ),
    key!(
        Mode::Tcp,
        "certificate",
        "file with the certificate and its chain, PEM (-E): clients speak TLS then",
        |s, given| given
            .path("certificate")
            .map(|file| s.proxy.tls.certificate = Some(file)),
        |s| s.proxy.tls.certificate.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "key",
        "file with the certificate's key, PEM (-K); left out, it is in the certificate's file",
        |s, given| given.path("key").map(|file| s.proxy.tls.key = Some(file)),
        |s| s.proxy.tls.key.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "chain",
        "file with more of the certificate's chain, PEM (-G)",
        |s, given| given
            .path("chain")
            .map(|file| s.proxy.tls.chain = Some(file)),
        |s| s.proxy.tls.chain.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "ssl_ocsp_response",
        "file with an OCSP answer for the certificate, checked and stapled while it is fresh",
        |s, given| given
            .path("ssl_ocsp_response")
            .map(|file| s.proxy.tls.staple = Some(file)),
        |s| s.proxy.tls.staple.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "ssl_sni_path",
        "folder with certificates that clients ask for by name: NAME.crt with NAME.key, NAME.ca and \
         NAME.ocsp, or NAME.pem, or NAME/fullchain.pem with NAME/privkey.pem",
        |s, given| given
            .path("ssl_sni_path")
            .map(|folder| s.proxy.tls.directory = Some(folder)),
        |s| s.proxy.tls.directory.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "ssl_ticket_keys",
        "file with keys of session tickets that machines share, one in base64 a line, as HAProxy's \
         tls-ticket-keys",
        |s, given| given
            .path("ssl_ticket_keys")
            .map(|file| s.proxy.tls.ticket_keys = Some(file)),
        |s| s.proxy.tls.ticket_keys.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "tls_timeout",
        "seconds that a client's handshake may take",
        |s, given| within(
            "tls_timeout",
            given,
            1..=TLS_TIMEOUT_MAX,
            &mut s.proxy.tls.timeout
        ),
        |s| number(s.proxy.tls.timeout)
    ),
    key!(
        Mode::Tcp,
        "client_handshakes_max",
        "TLS handshakes of one client (an IPv4 address, an IPv6 /64) at a time, others wait; 0 is no \
         limit",
        |s, given| within(
            "client_handshakes_max",
            given,
            0..=CONN_MAX_MAX,
            &mut s.proxy.tls.handshakes_max
        ),
        |s| number(s.proxy.tls.handshakes_max)
    ),
    Key {
        name: "ssl_option",
        help: "one or a list: no_tlsv1.2 or no_tlsv1.3; allow_unstapled; no_sslv2, no_sslv3, no_tlsv1, no_tlsv1.1 and \
               cipher_server_preference ask for what is always so",
        read: read_ssl_option,
        write: |s| {
            let options = s.proxy.tls.options.iter().filter_map(text);
            Some(Value::Array(options.collect()))
        },
        list: true,
        only: Some(Mode::Tcp),
    },
    key!(
        Mode::Tcp,
        "ssl_ciphers",
        "ciphers that are offered, the best first, as OpenSSL writes lists; names of TLS 1.3's choose \
         there, all others speak of TLS 1.2",
        |s, given| given
            .word("ssl_ciphers")
            .map(|list| s.proxy.tls.ciphers = Some(list)),
        |s| s.proxy.tls.ciphers.as_ref().and_then(text)
    ),
    key!(
        Mode::Tcp,
        "client_certificate",
        "whether clients must show a certificate over TLS: off, optional (who shows one must show a \
         good one) or required (-R)",
        |s, given| given
            .word("client_certificate")
            .map(|which| s.proxy.tls.client_certificate = which),
        |s| text(s.proxy.tls.client_certificate)
    ),
    key!(
        Mode::Tcp,
        "client_ca",
        "file with the authorities of clients' certificates, PEM; without it and client_ca_path, \
         those of chain that signed themselves",
        |s, given| given
            .path("client_ca")
            .map(|file| s.proxy.tls.client_ca = Some(file)),
        |s| s.proxy.tls.client_ca.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "client_ca_path",
        "folder with more of these authorities: files NAME.pem, NAME.crt, or as OpenSSL names them \
         by their hashes (-A)",
        |s, given| given
            .path("client_ca_path")
            .map(|folder| s.proxy.tls.client_ca_path = Some(folder)),
        |s| s.proxy.tls.client_ca_path.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "client_crl",
        "file with these authorities' lists of revoked certificates, PEM: a client of whose \
         certificate none of them tells is refused",
        |s, given| given
            .path("client_crl")
            .map(|file| s.proxy.tls.client_crl = Some(file)),
        |s| s.proxy.tls.client_crl.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "server_tls",
        "whether servers are spoken to over TLS: off, verified (their certificates are checked) or \
         unverified",
        |s, given| given
            .word("server_tls")
            .map(|wanted| s.proxy.server_tls.wanted = wanted),
        |s| text(s.proxy.server_tls.wanted)
    ),
    key!(
        Mode::Tcp,
        "server_ca",
        "file or folder with the authorities of servers' certificates, PEM; left out, the system's",
        |s, given| given
            .path("server_ca")
            .map(|file| s.proxy.server_tls.authorities = Some(file)),
        |s| s.proxy.server_tls.authorities.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "server_tls_name",
        "name that servers are asked for (SNI) and must have a certificate for; left out, each one's \
         host as written",
        |s, given| given
            .text("server_tls_name")
            .map(|name| s.proxy.server_tls.name = Some(name.to_owned())),
        |s| s.proxy.server_tls.name.as_ref().and_then(text)
    ),
    key!(
        Mode::Tcp,
        "server_certificate",
        "file with the certificate that servers get who ask for one, and its chain, PEM",
        |s, given| given
            .path("server_certificate")
            .map(|file| s.proxy.server_tls.certificate = Some(file)),
        |s| s.proxy.server_tls.certificate.as_deref().and_then(path)
    ),
    key!(
        Mode::Tcp,
        "server_key",
        "file with that certificate's key, PEM; left out, it is in the certificate's file",
        |s, given| given
            .path("server_key")
            .map(|file| s.proxy.server_tls.key = Some(file)),
        |s| s.proxy.server_tls.key.as_deref().and_then(path)
    ),
];
