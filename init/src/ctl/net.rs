//! `initctl net`: the network, as netcfg tells it, and what may be asked of it.
//!
//! netcfg has a socket of its own and is asked there, PID 1 has no part in it: `init netcfg` runs
//! without one, too. Each link is a block that begins with what matters most: its address, or why
//! it has none.

use super::client::{Client, Failure, NETCFG};
use super::service::Block;
use super::text::{clean, duration, moment};
use netcfg::control::protocol::{Reply, Verb};
use netcfg::status::{
    AddressStatus, Counters, Dhcp4Status, Dhcp6Status, LinkStatus, RouteStatus, Source, Status,
};
use std::fmt::Write;
use std::path::PathBuf;

/// Where netcfg has its socket, on the machine.
pub(super) const RUNTIME_DIR: &str = "/run/netcfg";

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NetCall {
    pub runtime_dir: PathBuf,
    pub json: bool,
    pub verb: Verb,
    /// Of `net`: only this link.
    pub link: Option<String>,
}

/// The verb and the link that the words after `net` mean.
pub(super) fn parse(
    words: &mut dyn Iterator<Item = String>,
) -> Result<(Verb, Option<String>), String> {
    let first = words.next();
    let link = words.next();
    let needed =
        |link: Option<String>, verb: &str| link.ok_or_else(|| format!("net {verb} needs a LINK"));
    match (first.as_deref(), link) {
        (Some("renew"), link) => Ok((
            Verb::Renew {
                link: needed(link, "renew")?,
            },
            None,
        )),
        (Some("release"), link) => Ok((
            Verb::Release {
                link: needed(link, "release")?,
            },
            None,
        )),
        (_, Some(more)) => Err(format!("`{more}` is too much")),
        (_, None) => Ok((Verb::Net {}, first)),
    }
}

/// Asks; what is to be shown.
pub(super) fn answer(call: &NetCall) -> Result<String, Failure> {
    let mut client = Client::connect(&call.runtime_dir, NETCFG)?;
    let line = client.ask(&call.verb)?;
    if call.json && call.link.is_none() {
        return Ok(line);
    }
    let reply: Reply = NETCFG.read(&line)?;
    match &call.verb {
        Verb::Renew { link } => Ok(format!("netcfg renews the lease of {}\n", clean(link))),
        Verb::Release { link } => Ok(format!("netcfg gives the lease of {} back\n", clean(link))),
        Verb::Net {} => {
            let status = reply
                .net
                .ok_or_else(|| Failure::Lost("netcfg answered without a status".into()))?;
            show(call, status)
        }
    }
}

fn show(call: &NetCall, mut status: Status) -> Result<String, Failure> {
    let Some(name) = &call.link else {
        return Ok(render(&status));
    };
    if status.link(name).is_none() {
        let names: Vec<&str> = status.links.iter().map(|l| l.name.as_str()).collect();
        let there = match names.join(", ") {
            none if none.is_empty() => "there is none".to_owned(),
            names => format!("there are {names}"),
        };
        return Err(Failure::Refused(format!(
            "no link is called {name}; {there}"
        )));
    }
    status.links.retain(|link| link.name == *name);
    if call.json {
        return serde_json::to_string(&Reply::net(status))
            .map(|line| line + "\n")
            .map_err(|e| Failure::Lost(format!("the status: {e}")));
    }
    let links: Vec<String> = status.links.iter().map(block).collect();
    Ok(links.concat())
}

/// The machine, then each link, then what was not as it should be.
fn render(status: &Status) -> String {
    let mut shown = Block(String::from("network\n"));
    let by = match &status.default_link {
        Some(link) => format!("by {link}"),
        None => "nowhere: no link has a default route".into(),
    };
    shown.line("default", &by);
    let resolver = &status.resolver;
    let servers = match resolver.servers.is_empty() {
        true => "no server".into(),
        false => resolver.servers.join(", "),
    };
    let search = match resolver.search.is_empty() {
        true => String::new(),
        false => format!("; search {}", resolver.search.join(", ")),
    };
    shown.line("dns", &format!("{servers}{search} ({})", resolver.path));
    shown.line("hostname", status.hostname.as_deref().unwrap_or(""));
    if let Some(clock) = &status.clock {
        let text = format!(
            "{:+} ms off against {}, {} ago",
            clock.offset_ms,
            clock.server,
            seconds(clock.ago_s)
        );
        shown.line("clock", &text);
    }
    shown.line("sandbox", status.sandbox_gap.as_deref().unwrap_or(""));
    let links: Vec<String> = status.links.iter().map(block).collect();
    shown.0.push_str(&links.concat());
    if status.links.is_empty() {
        shown
            .0
            .push_str("no Ethernet link; is there a driver for it?\n");
    }
    if !status.warnings.is_empty() {
        shown.0.push_str("last warnings\n");
    }
    for warning in &status.warnings {
        let link = warning.link.as_deref().unwrap_or("");
        let said = [link, &warning.reason, &warning.detail];
        let said: Vec<&str> = said.into_iter().filter(|part| !part.is_empty()).collect();
        let at = moment(warning.at_s.saturating_mul(1000));
        shown.line(&at, &said.join(" "));
    }
    shown.0
}

fn block(link: &LinkStatus) -> String {
    let mut shown = Block(format!("{}: {}\n", clean(&link.name), headline(link)));
    let mut facts = vec![link.mac.clone(), format!("mtu {}", link.mtu)];
    facts.extend(link.driver.clone());
    facts.extend(link.path.clone());
    shown.line("link", &format!("{}, {}", link.index, facts.join(", ")));
    if let Some(entry) = &link.managed_by {
        let mut text = format!("by {entry}");
        if let Some(role) = &link.role {
            let _ = write!(text, ", role {role}");
        }
        if let Some(metric) = link.metric {
            let _ = write!(text, ", metric {metric}");
        }
        shown.line("managed", &text);
    }
    several(&mut shown, "address", link.addresses.iter().map(address));
    several(&mut shown, "route", link.routes.iter().map(route));
    if let Some(client) = &link.dhcp4 {
        several(&mut shown, "dhcp4", dhcp4(client));
    }
    if let Some(client) = &link.dhcp6 {
        several(&mut shown, "dhcp6", dhcp6(client));
    }
    if let Some(ra) = &link.ra {
        let mut text = match (ra.managed, ra.other) {
            (true, _) => "addresses by DHCPv6".to_owned(),
            (false, true) => "other things by DHCPv6".to_owned(),
            (false, false) => "no DHCPv6".to_owned(),
        };
        for (what, values) in [("dns", &ra.dns), ("search", &ra.search)] {
            if !values.is_empty() {
                let _ = write!(text, "; {what} {}", values.join(", "));
            }
        }
        shown.line("router", &text);
    }
    shown.line("dns", &link.dns.join(", "));
    shown.line("search", &link.search.join(", "));
    shown.line("ntp", &link.ntp.join(", "));
    shown.0
}

/// The first address that leads anywhere, or what stands in its way.
fn headline(link: &LinkStatus) -> String {
    let useful = |a: &&AddressStatus| a.source != Source::Kernel;
    let asking = link.dhcp4.as_ref().map(|client| {
        let Counters { sent, received, .. } = client.counters;
        format!("dhcp4 is {}, {sent} sent, {received} heard", client.phase)
    });
    clean(&match link.addresses.iter().find(useful) {
        _ if !link.up => "switched off".into(),
        _ if !link.carrier => "no carrier; is the cable in, and the other side on?".into(),
        Some(first) => first.address.clone(),
        None if link.managed_by.is_none() => {
            "left alone; no [[network.link]] of the configuration matches it".into()
        }
        None => format!(
            "no address; {}",
            asking.unwrap_or_else(|| "dhcp4 is off".into())
        ),
    })
}

fn address(address: &AddressStatus) -> String {
    let left = address
        .valid_s
        .map_or_else(String::new, |s| format!(", {} left", seconds(s)));
    format!("{} {}{left}", address.address, address.source.word())
}

fn route(route: &RouteStatus) -> String {
    let mut text = route.to.clone();
    if let Some(via) = &route.via {
        let _ = write!(text, " via {via}");
    }
    let _ = write!(text, " metric {}", route.metric);
    if let Some(mtu) = route.mtu {
        let _ = write!(text, " mtu {mtu}");
    }
    text
}

fn dhcp4(client: &Dhcp4Status) -> Vec<String> {
    let mut first = client.phase.clone();
    if let Some(address) = &client.address {
        let server = client.server.as_deref().unwrap_or("an unknown server");
        let time = client.lease_s.map_or_else(|| "ever".into(), seconds);
        let confirmed = if client.verified {
            "confirmed"
        } else {
            "not confirmed yet"
        };
        let _ = write!(first, ", {address} of {server} for {time}, {confirmed}");
    }
    let times = times(client.renew_in_s, client.rebind_in_s, client.expires_in_s);
    vec![first, times, counters(&client.counters)]
}

fn dhcp6(client: &Dhcp6Status) -> Vec<String> {
    let mut first = format!("{}, {}", client.mode, client.phase);
    if let Some(address) = &client.address {
        let server = client.server.as_deref().unwrap_or("an unknown server");
        let _ = write!(first, ", {address} of {server}");
    }
    let times = times(client.renew_in_s, client.rebind_in_s, client.expires_in_s);
    vec![first, times, counters(&client.counters)]
}

fn times(renew: Option<u64>, rebind: Option<u64>, expires: Option<u64>) -> String {
    let parts = [("renew", renew), ("rebind", rebind), ("expires", expires)];
    let known: Vec<String> = parts
        .iter()
        .filter_map(|(what, s)| Some(format!("{what} in {}", seconds((*s)?))))
        .collect();
    known.join(", ")
}

/// What is zero is no news, but for the two that tell a silent server from a silent client.
fn counters(counters: &Counters) -> String {
    let mut text = format!("{} sent, {} heard", counters.sent, counters.received);
    for (what, count) in [
        ("refused", counters.refused),
        ("bad options", counters.bad_options),
        ("NAKs", counters.naks),
        ("declined", counters.declines),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

/// A name, and lines to it; those that are empty are left out.
fn several(shown: &mut Block, name: &str, lines: impl IntoIterator<Item = String>) {
    let mut name = name;
    for line in lines.into_iter().filter(|line| !line.is_empty()) {
        shown.line(name, &line);
        name = "";
    }
}

fn seconds(seconds: u64) -> String {
    duration(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests;
