//! Changes of services and of the access lists that they go by: switches and keys, most of which mean
//! something in proxy mode only.

use pen_common::config::{AclChange, Balance, Change, HashBy, Mode, Service};

use super::{Refusal, State};

impl State {
    /// Layer 2 forwarding knows no access lists of servers.
    pub(super) fn refuse_what_means_nothing(
        &self,
        pool: usize,
        changes: &[Change],
    ) -> Result<(), Refusal> {
        let in_dsr = self.config.needs_table(&self.config.pools[pool]);
        let acl = changes
            .iter()
            .any(|change| matches!(change, Change::Acl(_)));
        match acl && in_dsr {
            false => Ok(()),
            true => Err(Refusal::Meaningless(
                "a server's access list means nothing in DSR: use a firewall at the server".into(),
            )),
        }
    }

    /// # Errors
    /// The tables have no room for so long a list, or the tarpit would take somebody's address.
    pub(super) fn change_acl(&mut self, number: u8, change: &AclChange) -> Result<bool, Refusal> {
        if !self.in_dsr(number) {
            self.config.change_acl(number, change);
            return Ok(false);
        }
        let before = self.config.acls.clone();
        self.config.change_acl(number, change);
        let rows = self.config.acl_rows(&self.others());
        let fits = rows.map(drop).map_err(|full| full.to_string());
        if let Err(why) = fits.and_then(|()| self.config.check_tarpit()) {
            self.config.acls = before;
            return Err(Refusal::Value(why));
        }
        Ok(self.config.acls != before)
    }

    /// Whether a service in DSR goes by this list, or the tarpit.
    fn in_dsr(&self, acl: u8) -> bool {
        let mut services = self.config.dsr_services();
        self.config.tarpit_acl == Some(acl)
            || services.any(|service| service.proxy.client_acl == acl)
    }

    pub(super) fn switch(
        &mut self,
        service: Option<&str>,
        switch: Balance,
        on: bool,
    ) -> Result<bool, Refusal> {
        let knows = |service: &Service| service.mode != Mode::Dsr || switch == Balance::RoundRobin;
        self.find(service)?;
        let services = self.config.services.iter_mut();
        let named = services.filter(|s| service.is_none_or(|name| s.name == name));
        let (mut found, mut changed) = (false, false);
        for service in named.filter(|service| knows(service)) {
            let before = (service.hash, service.proxy.balance);
            match service.mode {
                Mode::Dsr => service.hash = if on { HashBy::Flow } else { HashBy::Source },
                Mode::Tcp | Mode::Udp | Mode::Http => service.proxy.balance.set(switch, on),
            }
            (found, changed) = (
                true,
                changed || before != (service.hash, service.proxy.balance),
            );
        }
        match found {
            true => Ok(changed),
            false => Err(Refusal::Meaningless(format!(
                "`{switch}` means nothing in DSR, where a hash chooses back ends"
            ))),
        }
    }

    pub(super) fn set_option(
        &mut self,
        service: Option<&str>,
        key: &str,
        value: &str,
    ) -> Result<bool, Refusal> {
        let index = self.only_index(service, key)?;
        let service = &mut self.config.services[index];
        if !service.has_key(key) {
            let mode = service.mode;
            let why = format!("`{key}` means nothing with mode = \"{mode}\"");
            return Err(Refusal::Meaningless(why));
        }
        if key == "redirect" && service.redirect().is_none() {
            return Err(Refusal::Meaningless(
                "a service with servers can't be made to redirect while Pen runs: write it into \
                 the configuration and restart"
                    .to_owned(),
            ));
        }
        // Tried on a copy: a value that can't stand there changes nothing.
        let mut changed = service.clone();
        changed.set(key, value).map_err(Refusal::Value)?;
        let whole = changed.proxy.tls.check();
        let whole = whole.and_then(|()| changed.proxy.server_tls.check());
        whole.map_err(|(_, why)| Refusal::Value(why))?;
        if service.only_leads() && !changed.only_leads() {
            return Err(Refusal::Meaningless(
                "the service has no servers of its own, so that one route must stay: name another \
                 one first"
                    .to_owned(),
            ));
        }
        let in_dsr = service.mode == Mode::Dsr;
        let before = std::mem::replace(service, changed);
        // What leads to this service counts as well as where it leads.
        let config = &self.config;
        let services = config.services.iter();
        let proxies = services.filter(|service| service.mode != Mode::Dsr);
        let mut faults = proxies.filter_map(|service| {
            let routes = config.check_sni_routes(service);
            let checked = routes.map_err(|faults| faults.join("; "));
            let checked = checked.and_then(|()| config.check_targets(service));
            Some(format!("service {:?}: {}", service.name, checked.err()?))
        });
        if let Some(fault) = faults.next() {
            drop(faults);
            self.config.services[index] = before;
            return Err(Refusal::Value(fault));
        }
        if in_dsr && let Err(full) = config.acl_rows(&self.others()) {
            self.config.services[index] = before;
            return Err(Refusal::Value(full.to_string()));
        }
        Ok(in_dsr && self.config.services[index] != before)
    }

    /// The service that a command means by a key of it.
    ///
    /// # Errors
    /// There is none of that name, several could be meant, or it is served in DSR, where the key means
    /// nothing.
    pub fn only(&self, name: Option<&str>, key: &str) -> Result<&Service, Refusal> {
        self.only_index(name, key)
            .map(|index| &self.config.services[index])
    }

    fn only_index(&self, name: Option<&str>, key: &str) -> Result<usize, Refusal> {
        self.find(name)?;
        let services = self.config.services.iter().enumerate();
        let knows = |service: &Service| service.mode != Mode::Dsr || service.has_key(key);
        let mut meant = services.filter(|(_, service)| match name {
            Some(name) => service.name == name,
            None => knows(service),
        });
        match (meant.next(), meant.next()) {
            (Some((index, service)), None) if knows(service) => Ok(index),
            (Some(_), Some(_)) => Err(Refusal::NotFound(format!(
                "which service's {key}? Say -s NAME first"
            ))),
            (Some(_) | None, _) => Err(Refusal::Meaningless(format!(
                "`{key}` means nothing in DSR"
            ))),
        }
    }

    /// # Errors
    /// There is no service of that name.
    fn find(&self, service: Option<&str>) -> Result<(), Refusal> {
        let Some(name) = service else { return Ok(()) };
        match self.config.services.iter().any(|s| s.name == name) {
            true => Ok(()),
            false => Err(Refusal::NotFound(format!("there is no service {name:?}"))),
        }
    }
}
