//! One file of the configuration as it is written, and how a later one is laid over it.
//!
//! Every key is optional, so that a drop-in file says only what it changes: a value or a list that it sets
//! replaces that of the files before. `[[directory]]` alone is added to, because each entry is complete.

use super::update::UpdateSection;
use super::{DirectoryConfig, SystemConfig};
use netcfg::LinkConfig;
use netcfg::config::VlanConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use supervisor::config::ServiceConfig;

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct File {
    pub system: SystemConfig,
    pub directory: Vec<DirectoryConfig>,
    pub sysctl: BTreeMap<String, String>,
    pub network: NetworkSection,
    pub update: UpdateSection,
    pub service: BTreeMap<String, ServiceConfig>,
}

/// `[network]`, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct NetworkSection {
    link: Option<Vec<LinkConfig>>,
    vlan: Option<Vec<VlanConfig>>,
    ntp: Option<Vec<IpAddr>>,
}

impl File {
    /// Lays another file over this one.
    pub fn merge(&mut self, over: Self) {
        let Self {
            system,
            directory,
            sysctl,
            network,
            update,
            service,
        } = over;
        let SystemConfig { hostname, modules } = system;
        self.system.hostname = hostname.or_else(|| self.system.hostname.take());
        self.system.modules = modules.or_else(|| self.system.modules.take());
        self.directory.extend(directory);
        self.sysctl.extend(sysctl);
        self.network.merge(network);
        self.update.merge(update);
        for (name, config) in service {
            match self.service.get_mut(&name) {
                Some(known) => known.merge(config),
                None => drop(self.service.insert(name, config)),
            }
        }
    }
}

impl NetworkSection {
    fn merge(&mut self, over: Self) {
        let Self { link, vlan, ntp } = over;
        self.link = link.or_else(|| self.link.take());
        self.vlan = vlan.or_else(|| self.vlan.take());
        self.ntp = ntp.or_else(|| self.ntp.take());
    }

    /// With what stands for the keys that no file has.
    pub fn settle(self) -> netcfg::Config {
        let default = netcfg::Config::default();
        netcfg::Config {
            link: self.link.unwrap_or(default.link),
            vlan: self.vlan.unwrap_or(default.vlan),
            ntp: self.ntp.unwrap_or(default.ntp),
        }
    }
}
