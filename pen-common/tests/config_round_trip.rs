//! Whatever configuration there can be: written as TOML and read, it is the same, and so it is as
//! commands, where these can say it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use pen_common::config::*;
use proptest::prelude::*;

struct Nowhere;

impl Outside for Nowhere {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        Err(format!("{host}: there are no names here"))
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("there are no files here".to_owned())
    }
}

fn read(text: &str) -> Result<Checked, ConfigErrors> {
    Config::from_toml(text, "pen.toml", &Nowhere)
}

fn path() -> impl Strategy<Value = PathBuf> {
    "/[a-z\"\\\\ é/]{1,12}".prop_map(PathBuf::from)
}

fn address(v4: u32) -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..0xffff).prop_map(move |low| Ipv4Addr::from(v4 + low).into()),
        any::<u32>().prop_map(move |low| {
            Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(v4) << 32 | u128::from(low)).into()
        }),
    ]
}

prop_compose! {
    fn backend()(
        address in address(0x0a01_0000),
        name in proptest::option::of("[a-z][a-z0-9.é\\\\']{0,12}"),
        weight in any::<u16>(),
        (max, hard, prio, blacklist) in any::<(u32, u32, u32, u32)>(),
    ) -> Backend {
        let plain = Backend::new(address);
        let name = name.unwrap_or_else(|| plain.name.clone());
        Backend { name, weight, max, hard, prio, blacklist, ..plain }
    }
}

fn spare() -> impl Strategy<Value = Option<Backend>> {
    let at = (
        address(0x0a02_0000),
        any::<u16>(),
        any::<[u32; 3]>(),
        1..=u16::MAX,
    );
    let inet = at.prop_map(|(address, port, [max, hard, prio], weight)| Backend {
        port,
        max,
        hard,
        prio,
        weight,
        ..Backend::new(address)
    });
    let unix = "/[a-z.é]{1,12}".prop_map(|path| Backend {
        name: path.clone(),
        host: path,
        ..Backend::new(Ipv4Addr::UNSPECIFIED.into())
    });
    proptest::option::of(prop_oneof![inet, unix])
}

prop_compose! {
    fn proxy()(
        switches in any::<[bool; 6]>(),
        (timeout, idle_timeout) in (1..=TIMEOUT_MAX, 0..=SECONDS_MAX),
        (blacklist, tracking) in (0..=SECONDS_MAX, 0..=SECONDS_MAX),
        (clients_max, conn_max) in (1..=CLIENTS_MAX_MAX, 1..=CONN_MAX_MAX),
        (pending_max, backlog) in (1..=PENDING_MAX_MAX, 1..=BACKLOG_MAX),
        (tcp_fastclose, keepalive) in (pick(FastClose::ALL), any::<bool>()),
        source in proptest::option::of(address(0x0a03_0000)),
        client_acl in 0..ACLS_MAX as u8,
        (emergency, abuse) in (spare(), spare()),
        (queue_timeout, client_conn_max) in (0..=TIMEOUT_MAX, 0..=CONN_MAX_MAX),
        (client_conn_rate, transparent) in (0..=CONN_MAX_MAX, any::<bool>()),
        proxies in proptest::collection::vec((address(0x0a04_0000), 0u8..=32), 0..3),
        (send_proxy, log, log_format) in (pick(SendProxy::ALL), log(), pick(LogFormat::ALL)),
        (head_timeout, mut trusted, reason_header) in (1..=HEAD_TIMEOUT_MAX, acl(), any::<bool>()),
        redirect in proptest::option::weighted(0.3, 1..=u16::MAX),
        hsts in proptest::option::weighted(0.3, (any::<u32>(), any::<bool>(), any::<bool>())),
        (tls, server_tls) in (tls(), server_tls()),
        led in any::<bool>(),
    ) -> ProxyOptions {
        let mut balance = Switches::default();
        for (switch, on) in Balance::ALL.iter().zip(switches) {
            balance.set(*switch, on);
        }
        trusted.lines.iter_mut().for_each(|line| line.permit = true);
        ProxyOptions {
            balance, timeout, idle_timeout, blacklist, tracking, clients_max, conn_max,
            pending_max, backlog, tcp_fastclose, keepalive, source, client_acl, emergency, abuse,
            queue_timeout, client_conn_max, client_conn_rate, transparent,
            head_timeout, trusted, reason_header,
            redirect: redirect.map(|port| Redirect { port }),
            hsts: hsts.map(|(max_age, subdomains, preload)| Hsts { max_age, subdomains, preload }),
            paths: Vec::new(),
            accept_proxy: accept_proxy(&proxies),
            send_proxy,
            log,
            log_format,
            // Where they lead is known when there are other services.
            sni_routes: match led && !tls.is_spoken() {
                true => vec!["*.a-b.test -".parse().unwrap(), "c.test -".parse().unwrap()],
                false => Vec::new(),
            },
            tls,
            server_tls,
        }
    }
}

prop_compose! {
    fn server_tls()(
        verified in any::<bool>(),
        authorities in proptest::option::of(path()),
        name in pick(&["web.test", "10.0.0.1", "2001:db8::1"]),
        files in proptest::option::of((path(), proptest::option::of(path()))),
        spoken in proptest::option::of(Just(())),
    ) -> ServerTlsOptions {
        if spoken.is_none() {
            return ServerTlsOptions::default();
        }
        let (certificate, key) = files.unzip();
        ServerTlsOptions {
            wanted: if verified { ServerTls::Verified } else { ServerTls::Unverified },
            authorities: authorities.filter(|_| verified),
            // Servers may be at paths, which have none.
            name: Some(name.to_owned()),
            certificate,
            key: key.flatten(),
        }
    }
}

prop_compose! {
    fn tls()(
        certificate in proptest::option::of(path()),
        files in proptest::array::uniform3(proptest::option::of(path())),
        directory in proptest::option::of(path()),
        ticket_keys in proptest::option::of(path()),
        timeout in 1..=TLS_TIMEOUT_MAX,
        handshakes_max in 0..=1000u32,
        options in proptest::collection::vec(pick(SslOption::ALL), 0..4),
        ciphers in proptest::option::of(pick(&["HIGH", "ECDHE+AESGCM:!ECDSA", "RC4:HIGH"])),
        asked in pick(ClientCertificate::ALL),
        of_clients in proptest::array::uniform3(proptest::option::of(path())),
    ) -> TlsOptions {
        let [client_ca, client_ca_path, client_crl] = of_clients;
        let spoken = certificate.is_some() || directory.is_some();
        // Who is asked for a certificate is asked for one of somebody's.
        let possible = spoken && client_ca.is_some();
        let asked = Some(asked).filter(|_| possible).unwrap_or(ClientCertificate::Off);
        let [key, chain, staple] = files.map(|file| file.filter(|_| certificate.is_some()));
        let mut tls = TlsOptions {
            certificate,
            key,
            chain,
            staple,
            directory,
            ticket_keys,
            timeout,
            handshakes_max,
            options: Vec::new(),
            ciphers: ciphers.map(|list| list.parse().unwrap()),
            client_certificate: asked,
            client_ca,
            client_ca_path,
            client_crl,
        };
        for option in options {
            // Without both there is nothing to speak.
            if option != SslOption::NoTlsv1_3 || !tls.has(SslOption::NoTlsv1_2) {
                tls.set(option);
            }
        }
        if tls.has(SslOption::NoTlsv1_3) {
            tls.options.retain(|option| *option != SslOption::NoTlsv1_2);
        }
        tls
    }
}

fn log() -> impl Strategy<Value = Option<LogTarget>> {
    let target = "/[a-z:.é]{1,12}|[a-z][a-z.]{3,9}|10\\.0\\.0\\.1:[1-9][0-9]{0,3}|\\[::1\\]:9";
    proptest::option::of(target.prop_map(|text| text.parse().unwrap()))
}

fn accept_proxy(proxies: &[(IpAddr, u8)]) -> Acl {
    let mut service = Service::new("");
    for (address, prefix) in proxies {
        let network = format!("{address}/{prefix}");
        service.set("accept_proxy", &network).unwrap();
    }
    service.proxy.accept_proxy
}

prop_compose! {
    fn acl()(
        lines in proptest::collection::vec((any::<bool>(), address(0x0a00_0000), 0u8..=32), 0..4),
    ) -> Acl {
        let mut acl = Acl::default();
        for (permit, address, prefix) in lines {
            let verb = if permit { "permit" } else { "deny" };
            let line = format!("acl 0 {verb} {address}/{prefix}");
            let Ok(Some(Command::Acl(0, change))) = Command::parse(&line) else {
                panic!("{line}")
            };
            acl.change(&change);
        }
        acl
    }
}

/// A service of one mode made one of the other.
fn proxied(mut service: Service, proxy: ProxyOptions, path: Option<PathBuf>) -> Service {
    let http = service.name.len().is_multiple_of(2);
    for listener in &mut service.listeners {
        listener.protocol = Protocol::Tcp;
        listener.port = listener.port.max(1);
    }
    service.listeners.sort();
    service.listeners.dedup();
    service.mode = if http { Mode::Http } else { Mode::Tcp };
    let default = ProxyOptions::default();
    let proxy = match http {
        true => ProxyOptions {
            tcp_fastclose: default.tcp_fastclose,
            queue_timeout: default.queue_timeout,
            transparent: default.transparent,
            send_proxy: default.send_proxy,
            emergency: proxy.emergency.filter(|_| proxy.redirect.is_none()),
            sni_routes: Vec::new(),
            ..proxy
        },
        false => ProxyOptions {
            head_timeout: default.head_timeout,
            trusted: default.trusted,
            reason_header: default.reason_header,
            redirect: default.redirect,
            hsts: default.hsts,
            ..proxy
        },
    };
    (service.vlan, service.hash) = (None, HashBy::Flow);
    service.proxy = proxy;
    // Then each server needs a port.
    let spares = [&mut service.proxy.emergency, &mut service.proxy.abuse];
    for spare in spares.into_iter().flatten() {
        if spare.path().is_none() {
            spare.port = spare.port.max(1);
        }
    }
    service.proxy.paths.extend(path);
    service
}

prop_compose! {
    fn service()(
        name in "[a-zé'#=]{1,12}",
        listeners in proptest::collection::hash_set(
            (address(0x0a00_0000), any::<u16>(), any::<bool>()), 1..5),
        vlan in proptest::option::of(1u16..=4094),
        source in any::<bool>(),
        client_acl in 0..ACLS_MAX as u8,
    ) -> Service {
        Service {
            listeners: listeners
                .into_iter()
                .map(|(address, port, udp)| Listener {
                    address,
                    port,
                    protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                })
                .collect(),
            vlan,
            hash: if source { HashBy::Source } else { HashBy::Flow },
            proxy: ProxyOptions { client_acl, ..ProxyOptions::default() },
            ..Service::new(&name)
        }
    }
}

fn control() -> impl Strategy<Value = ControlAt> {
    let port = pick(&["127.0.0.1:8888", "[::1]:1"]).prop_map(|at| at.parse().unwrap());
    prop_oneof![path().prop_map(ControlAt::Path), port]
}

fn pick<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

prop_compose! {
    fn top()(
        (plane, xdp_mode, busy) in (pick(Plane::ALL), pick(XdpMode::ALL), pick(Busy::ALL)),
        (zero_copy, multi_buffer) in (pick(Use::ALL), pick(Use::ALL)),
        workers in proptest::option::of(1u16..=256),
        ring in 6u32..=13,
        (seed, debug, foreground, finish_checksums) in any::<(u64, u8, bool, bool)>(),
        (allow_exit, drain_timeout, on_stop) in (any::<bool>(), any::<u32>(), pick(OnStop::ALL)),
        table_memory in proptest::option::of(64u64 << 20..=TABLE_MEMORY_MAX),
        (control, pid_file) in (proptest::option::of(control()), proptest::option::of(path())),
        (mode, owner) in (0u32..=0o777, proptest::option::of(pick(&["root", "root:adm", ":adm"]))),
        control_acl in 0u8..10,
        tarpit_acl in proptest::option::of(0u8..10),
        web_stats in proptest::option::of(path()),
        user in proptest::option::of("[a-z]{1,9}"),
        (bpffs, run_dir) in (path(), path()),
    ) -> Config {
        // Files alone have these.
        let of_file = !matches!(control, Some(ControlAt::Port(_)));
        let control_mode = if of_file { mode } else { CONTROL_MODE_DEFAULT };
        let control_owner = owner.filter(|_| of_file).map(|owner| owner.parse().unwrap());
        Config {
            interface: "eth0.12".to_owned(),
            workers: workers.map_or(Workers::Auto, Workers::Count),
            ring_size: 1 << ring,
            plane, xdp_mode, busy, zero_copy, multi_buffer, seed, debug, foreground, allow_exit,
            drain_timeout, on_stop,
            finish_checksums, table_memory, control, control_mode, control_owner, control_acl, pid_file, web_stats, user, bpffs, run_dir,
            tarpit_acl,
            acls: Vec::new(),
            services: Vec::new(),
            pools: Vec::new(),
        }
    }
}

/// Drops what `check` would refuse as a duplicate, and gives each service a pool that has one.
fn whole(
    mut config: Config,
    services: Vec<Service>,
    backends: Vec<Vec<Backend>>,
    sizes: u32,
) -> Config {
    let (mut names, mut vips) = (Vec::new(), Vec::new());
    for (index, mut service) in services.into_iter().enumerate() {
        service.listeners.retain(|vip| !vips.contains(vip));
        vips.extend(service.listeners.clone());
        if service.listeners.is_empty() || names.contains(&service.name) {
            continue;
        }
        names.push(service.name.clone());
        if service.redirect().is_some() {
            service.pool.clear();
            config.services.push(service);
            continue;
        }
        service.pool = if index % 2 == 0 {
            service.name.clone()
        } else {
            format!("{index}")
        };
        let mut pool = Pool::new(&service.pool);
        pool.table_size = if index as u32 % 2 == sizes {
            TABLE_SIZE_DEFAULT
        } else {
            1021
        };
        for backend in backends.get(index).into_iter().flatten() {
            let twin = |b: &Backend| b.name == backend.name || b.address == backend.address;
            if !pool.backends.iter().any(twin) {
                pool.backends.push(backend.clone());
            }
        }
        config.services.push(service);
        config.pools.push(pool);
    }
    config
}

/// Gives routes by name somewhere to lead to, and none of those pools that only they could have.
fn lead(config: &mut Config) {
    let leads = |service: &Service| !service.proxy.sni_routes.is_empty();
    let serves = |service: &&Service| {
        let tls = service.proxy.tls.is_spoken();
        let reads = service.mode == Mode::Http && tls && service.redirect().is_none();
        reads || (service.mode == Mode::Tcp && !leads(service))
    };
    let target = config.services.iter().find(serves);
    let target = target.map(|service| service.name.clone());
    for service in &mut config.services {
        match &target {
            None => service.proxy.sni_routes.clear(),
            Some(target) => {
                let routes = service.proxy.sni_routes.iter_mut();
                routes.for_each(|route| route.service.clone_from(target));
            }
        }
        if leads(service) && service.listeners.len() > 1 {
            let pool = std::mem::take(&mut service.pool);
            config.pools.retain(|other| other.name != pool);
        }
    }
}

/// A world that has the commands alone.
struct File(String);

impl Outside for File {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        Nowhere.resolve(host)
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Ok(self.0.clone())
    }
}

fn read_commands(text: &str) -> Result<Checked, ConfigErrors> {
    let line = PenLine {
        file: Some(PathBuf::from("pen.cfg")),
        ..PenLine::default()
    };
    line.read(Config::default(), &File(text.to_owned()))
}

/// What commands can say of a configuration: the first service, and everything about that.
fn one_line(mut config: Config) -> Config {
    config.services.truncate(1);
    let service = &mut config.services[0];
    config.pools.retain(|pool| pool.name == service.pool);
    (service.name, service.vlan) = (SERVICE_DEFAULT.to_owned(), None);
    match config.pools.first_mut() {
        None => service.pool.clear(),
        Some(pool) => {
            (pool.name, pool.table_size) = (SERVICE_DEFAULT.to_owned(), TABLE_SIZE_DEFAULT);
            service.pool = SERVICE_DEFAULT.to_owned();
            for backend in &mut pool.backends {
                backend.name.clone_from(&backend.host);
            }
        }
    }
    if service.mode != Mode::Dsr {
        config.interface.clear();
    }
    match service.proxy.paths.is_empty() {
        true => service.listeners.truncate(1),
        false => service.listeners.clear(),
    }
    service.proxy.sni_routes.clear();
    let (tls, servers) = (&mut service.proxy.tls, &mut service.proxy.server_tls);
    let paths = [
        &mut config.pid_file,
        &mut config.web_stats,
        &mut tls.certificate,
        &mut tls.key,
        &mut tls.chain,
        &mut tls.staple,
        &mut tls.directory,
        &mut tls.ticket_keys,
        &mut tls.client_ca,
        &mut tls.client_ca_path,
        &mut tls.client_crl,
        &mut servers.authorities,
        &mut servers.certificate,
        &mut servers.key,
    ];
    let control = match &mut config.control {
        Some(ControlAt::Path(path)) => Some(path),
        Some(ControlAt::Port(_)) | None => None,
    };
    let paths = paths.into_iter().flatten().chain(control);
    for path in paths.chain([&mut config.bpffs, &mut config.run_dir]) {
        *path = PathBuf::from(path.display().to_string().replace(' ', "_"));
    }
    config
}

proptest! {
    #[test]
    fn written_then_read_is_the_same(
        top in top(),
        services in proptest::collection::vec(service(), 1..5),
        backends in proptest::collection::vec(proptest::collection::vec(backend(), 1..6), 5),
        sizes in 0u32..2,
        acls in proptest::collection::vec(acl(), 0..ACLS_MAX),
        proxies in proptest::collection::vec(proptest::option::of(proxy()), 5),
        ports in any::<[u16; 4]>(),
    ) {
        let services = services.into_iter().zip(proxies).enumerate();
        let services = services.map(|(index, (service, proxy))| match proxy {
            None => service,
            Some(proxy) => {
                let path = (index % 2 == 0).then(|| PathBuf::from(format!("/run/é{index}")));
                proxied(service, proxy, path)
            }
        });
        let mut config = whole(Config { acls, ..top }, services.collect(), backends, sizes);
        // A list that would take somebody's address is refused.
        if config.check_tarpit().is_err() {
            config.tarpit_acl = None;
        }
        for service in &config.services {
            let pool = config.pools.iter_mut().find(|pool| pool.name == service.pool);
            let Some(pool) = pool else { continue };
            for (backend, port) in pool.backends.iter_mut().zip(ports.into_iter().cycle()) {
                if service.mode != Mode::Dsr {
                    (backend.port, backend.acl) = (port.max(1), (port % 10) as u8);
                }
            }
        }
        lead(&mut config);
        let text = config.to_toml();
        let again = read(&text).map_err(|errors| {
            TestCaseError::fail(format!("{errors}\n{text}"))
        })?;
        prop_assert_eq!(again.config(), &config, "{}", text);
        prop_assert_eq!(again.config().to_toml(), text);
        // Who only led has nobody then.
        let first = &config.services[0];
        if !first.pool.is_empty() || first.redirect().is_some() {
            let line = one_line(config);
            let text = line.to_commands().map_err(|errors| {
                TestCaseError::fail(format!("{errors}\n{line:#?}"))
            })?;
            let again = read_commands(&text).map_err(|errors| {
                TestCaseError::fail(format!("{errors}\n{text}"))
            })?;
            prop_assert_eq!(again.config(), &line, "{}", text);
            prop_assert_eq!(again.config().to_commands().unwrap(), text);
        }
    }
}

#[test]
fn what_commands_can_not_say_is_refused_by_name() {
    const POOL: &str = "[[pool]]\nname = \"pen\"\nbackend = [\"10.0.0.1:80\"]\n";
    let service = |keys: &str| format!("[[service]]\nname = \"pen\"\n{keys}\n{POOL}");
    for (text, expected) in [
        (
            service("mode = \"tcp\"\nlisten = [\"80\", \"81\"]"),
            "service \"pen\": it listens at 2 places: only a TOML file can say so",
        ),
        (
            format!(
                "control = \"/a b\"\n{}",
                service("mode = \"tcp\"\nlisten = \"80\"")
            ),
            "control = \"/a b\" is no word of a command: only a TOML file can say so",
        ),
        (
            format!(
                "interface = \"eth1\"\n{}",
                service("listen = \"10.0.0.9:80\"\nvlan = 7")
            )
            .replace("0.1:80", "0.1"),
            "service \"pen\": vlan = 7: only a TOML file can say so",
        ),
        (
            format!(
                "interface = \"eth1\"\n{}",
                service("mode = \"tcp\"\nlisten = \"80\"")
            ),
            "interface = \"eth1\": by commands that makes it DSR: leave it out",
        ),
        (
            service("mode = \"tcp\"\nlisten = \"80\"\npool = \"pen\"").replacen("pen", "web", 1),
            "service \"web\": commands call their service \"pen\": give it that name",
        ),
        (
            service("mode = \"tcp\"\nlisten = \"80\"").replace(
                "\"10.0.0.1:80\"",
                "{ name = \"big\", address = \"10.0.0.1\", port = 80 }",
            ),
            "{ name = \"big\", address = \"10.0.0.1\", port = 80 },: only a TOML file can say so",
        ),
        (
            format!(
                "{}[[service]]\nname = \"b\"\nmode = \"tcp\"\nlisten = \"81\"\npool = \"pen\"",
                service("mode = \"tcp\"\nlisten = \"80\"")
            ),
            "there are 2 services: only a TOML file can say so",
        ),
    ] {
        let checked = read(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let errors = checked.config().to_commands().unwrap_err().to_string();
        assert_eq!(errors, expected, "{text}");
        let toml = checked.config().written(ConfigForm::Toml).unwrap();
        assert_eq!(read(&toml).unwrap().config(), checked.config());
    }
}
