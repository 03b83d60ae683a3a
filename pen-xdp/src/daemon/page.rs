//! The status page: what it shows is gathered here, and goes to its file, to whoever asks in Pen's
//! words, or into the log.

use std::{
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

use pen_common::{
    config::Service,
    control::{
        Guests, ProxyStatus, Reply, Request, ServerOnPage, ServerStatus, ServicePage, StatusPage,
        Value,
    },
};
use tokio::task::spawn_blocking;

use super::Daemon;
use crate::files;
use crate::replace_file::{How, Links};
use crate::{
    control::{
        report::{self, Went},
        socket::ReplyTo,
        state::{Standing, State},
    },
    proxy::{Observer, Proxy, plain_time},
};

/// Everybody may read it who comes to the web server's folder.
const AS_PAGE: How = How {
    mode: 0o644,
    links: Links::Refuse,
};

impl Daemon {
    /// Answers `status` in Pen's way: the page, which goes to its file as well. Who is connected is
    /// looked at on a thread of its own, and nobody else waits for it.
    pub(super) fn show_page(&self, request: Request, answer: ReplyTo) {
        let page = match self.page(request.service.as_deref()) {
            Ok(page) => page,
            Err(why) => return self.reply(&request, answer, Err(why)),
        };
        // A page of one service is not what the file is to hold.
        let file = self.page_file().filter(|_| request.service.is_none());
        let (observer, generation) = (self.observer(), self.generation());
        spawn_blocking(move || {
            let html = with_guests(page, observer.ok().as_ref()).html();
            if let Some(file) = file {
                write(&file, &html);
            }
            let reply = Reply {
                generation,
                outcome: Ok(Value::Page(html)),
            };
            answer.send(&request, &reply);
        });
    }

    /// What SIGUSR1 asks for: the page into its file, or lines into the log where there is none.
    pub(super) fn statistics(&self) {
        let page = match self.page(None) {
            Ok(page) => page,
            Err(why) => return tracing::warn!("SIGUSR1: {why}"),
        };
        let (file, observer) = (self.page_file(), self.observer());
        spawn_blocking(move || {
            let page = with_guests(page, observer.ok().as_ref());
            match file {
                Some(file) => write(&file, &page.html()),
                None => page
                    .lines()
                    .iter()
                    .for_each(|line| tracing::info!("SIGUSR1: {line}")),
            }
        });
    }

    fn page_file(&self) -> Option<PathBuf> {
        self.change.state.config().web_stats.clone()
    }

    /// All services, or one, without their clients.
    fn page(&self, service: Option<&str>) -> Result<StatusPage, String> {
        let state = &self.change.state;
        let servers = match &self.dsr {
            Some(dsr) => dsr.seen(state).servers(service),
            None => report::servers(state, service, |_| Went::default()),
        }?;
        let pools = servers.pools.into_iter();
        let pools: HashMap<String, Vec<ServerStatus>> =
            pools.map(|pool| (pool.pool, pool.servers)).collect();
        let proxies = self.proxy.as_ref().map(Proxy::status).unwrap_or_default();
        let services = state.config().services.iter();
        let services = services.filter(|one| service.is_none_or(|name| name == one.name));
        let services = services.map(|service| {
            let servers = pools.get(&service.pool).cloned().unwrap_or_default();
            let proxy = proxies.iter().find(|proxy| proxy.service == service.name);
            match proxy {
                Some(proxy) => proxied(service, proxy, servers),
                None => forwarded(service, state, servers),
            }
        });
        Ok(StatusPage {
            time: plain_time(SystemTime::now()),
            services: services.collect(),
        })
    }
}

/// A service in DSR.
fn forwarded(service: &Service, state: &State, servers: Vec<ServerStatus>) -> ServicePage {
    let pool = state.config().pool(&service.pool);
    let left = |server: &ServerStatus| {
        let backend = pool?.backends.get(server.index)?;
        match state.standing(&service.pool, backend) {
            Standing::Blacklisted(seconds) => u32::try_from(seconds).ok(),
            Standing::Serving | Standing::NoWeight | Standing::Gone | Standing::NoMac => None,
        }
    };
    let rows = servers.into_iter().map(|server| ServerOnPage {
        blacklist_left_s: left(&server).unwrap_or_default(),
        server,
    });
    on_page(service, rows.collect(), None)
}

/// A service of the proxy: its pool's servers with what went there from this service.
fn proxied(service: &Service, proxy: &ProxyStatus, servers: Vec<ServerStatus>) -> ServicePage {
    let port = service.listeners.first().map_or(0, |at| at.port);
    let rows = servers.into_iter().map(|mut server| {
        let mut seen = proxy.servers.iter();
        let seen = seen.find(|row| row.index == Some(server.index));
        let count = seen.map(|row| (row.conn, row.sx, row.rx));
        (server.conn, server.sx, server.rx) = count.unwrap_or_default();
        if server.port == 0 && server.path.is_none() {
            server.port = port;
        }
        ServerOnPage {
            blacklist_left_s: seen
                .and_then(|row| row.blacklist_left_s)
                .unwrap_or_default(),
            server,
        }
    });
    let guests = Guests {
        clients_max: service.proxy.clients_max,
        clients: Vec::new(),
        conn_max: proxy.conn_max,
        connections: Vec::new(),
    };
    on_page(service, rows.collect(), Some(guests))
}

fn on_page(service: &Service, servers: Vec<ServerOnPage>, guests: Option<Guests>) -> ServicePage {
    ServicePage {
        service: service.name.clone(),
        mode: service.mode,
        listen: service.listen_texts(),
        servers,
        guests,
    }
}

/// Puts in who is connected and who was.
fn with_guests(mut page: StatusPage, observer: Option<&Observer>) -> StatusPage {
    let Some(observer) = observer else {
        return page;
    };
    let mut connections = HashMap::<_, Vec<_>>::new();
    for connection in observer.connections(None).unwrap_or_default() {
        let of_service = connections.entry(connection.service.clone());
        of_service.or_default().push(connection);
    }
    let mut clients = observer.clients();
    for service in &mut page.services {
        if let Some(guests) = &mut service.guests {
            guests.connections = connections.remove(&service.service).unwrap_or_default();
            guests.clients = clients.remove(&service.service).unwrap_or_default();
        }
    }
    page
}

fn write(file: &Path, html: &str) {
    if let Err(error) = files::replace(file, html, AS_PAGE) {
        let mend = if error.kind() == ErrorKind::NotFound {
            "; is its directory there?"
        } else {
            ""
        };
        tracing::warn!("web_stats {}: {error}{mend}", file.display());
    }
}
