//! Messages of rtnetlink to types of our own, and back. Pure.
//!
//! Only what is needed is taken out of a message; an attribute that this does not know, and a
//! kernel newer or older than the crate that decodes them, change nothing about the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::NetlinkPayload;

use crate::desired::{Address, Route};
use crate::link::{Device, Link};
use crate::mac::Mac;
use crate::reconcile::{Detection, OUR_PROTOCOL, SeenAddress, SeenRoute};

/// What a notification means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Something of links or addresses, or nobody knows what: look again.
    Look,
    /// A route went that carried our mark, or was taken by somebody.
    RouteGone {
        /// Whether it carried our mark.
        ours: bool,
    },
    /// A default route of IPv6 came: the kernel learns them from router advertisements.
    Router,
    /// Nothing to us.
    Nothing,
}

/// What `payload` means to us.
pub fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Change {
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_),
        )
        // ENOBUFS: some notifications are lost, nobody knows which.
        | NetlinkPayload::Overrun(_) => Change::Look,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(message)) => {
            Change::RouteGone { ours: is_ours(message) }
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(message)) => {
            let header = &message.header;
            let is_default = header.destination_prefix_length == 0;
            if is_default && header.address_family == AddressFamily::Inet6 && !is_ours(message) {
                Change::Router
            } else {
                Change::Nothing
            }
        }
        _ => Change::Nothing,
    }
}

/// An Ethernet link that is not part of another: a bridge or a bond has the say over its parts.
pub fn link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    if header.link_layer_type != LinkLayerType::Ether || header.flags.contains(LinkFlags::Loopback)
    {
        return None;
    }
    let mut link = Link {
        index: header.index,
        name: String::new(),
        mac: Mac([0; 6]),
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        is_virtual: false,
        inet6_flags: 0,
        device: Device::default(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = Mac::from_slice(bytes)?,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(_) => return None,
            LinkAttribute::LinkInfo(infos) => {
                link.is_virtual |= infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)));
            }
            LinkAttribute::AfSpecUnspec(families) => {
                link.inet6_flags = families.iter().find_map(inet6_flags).unwrap_or_default();
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// Whether this is the loopback link, and switched off.
pub fn is_idle_loopback(message: &LinkMessage) -> bool {
    let flags = message.header.flags;
    flags.contains(LinkFlags::Loopback) && !flags.contains(LinkFlags::Up)
}

fn inet6_flags(family: &AfSpecUnspec) -> Option<u32> {
    let AfSpecUnspec::Inet6(attributes) = family else {
        return None;
    };
    attributes.iter().find_map(|attribute| match attribute {
        AfSpecInet6::Flags(flags) => Some(flags.bits()),
        _ => None,
    })
}

/// An address. `now` is the time since boot, from which the kernel's lifetimes count.
pub fn address(message: &AddressMessage, now: Duration) -> Option<SeenAddress> {
    let (mut local, mut remote, mut times, mut ours) = (None, None, [None, None], false);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => remote = Some(*address),
            AddressAttribute::Flags(long) => flags = *long,
            AddressAttribute::CacheInfo(info) => {
                times = [info.ifa_preferred, info.ifa_valid].map(|seconds| {
                    // All ones is for ever.
                    let ends = (seconds != u32::MAX).then_some(seconds)?;
                    Some(now.saturating_add(Duration::from_secs(ends.into())))
                });
            }
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == OUR_PROTOCOL,
            _ => {}
        }
    }
    let [preferred, until] = times;
    // IFA_LOCAL is ours, IFA_ADDRESS perhaps that of the other end; IPv6 has only the latter.
    let net = IpNet::new(local.or(remote)?, message.header.prefix_len).ok()?;
    let detection = if flags.contains(AddressFlags::Dadfailed) {
        Detection::Failed
    } else if flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic) {
        Detection::Running
    } else {
        Detection::Passed
    };
    Some(SeenAddress {
        link: message.header.index,
        address: Address {
            net,
            preferred,
            until,
            broadcast: None,
        },
        ours,
        detection,
    })
}

fn is_ours(message: &RouteMessage) -> bool {
    u8::from(message.header.protocol) == OUR_PROTOCOL
}

/// A unicast route of the main table.
pub fn route(message: &RouteMessage) -> Option<SeenRoute> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut to, mut link) = (any, 0);
    let mut route = Route {
        to: IpNet::from(any),
        via: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        source: None,
        metric: 0,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(long) => table = *long,
            RouteAttribute::Destination(address) => to = ip(address)?,
            RouteAttribute::Gateway(address) => route.via = Some(ip(address)?),
            RouteAttribute::PrefSource(address) => route.source = Some(ip(address)?),
            RouteAttribute::Oif(index) => link = *index,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let wanted = table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.tos == 0
        && header.kind == RouteType::Unicast
        && !header.flags.contains(RouteFlags::Cloned);
    if !wanted {
        return None;
    }
    route.to = IpNet::new(to, header.destination_prefix_length).ok()?;
    Some(SeenRoute {
        link,
        route,
        ours: is_ours(message),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The message for a route of ours.
pub fn route_message(link: u32, route: &Route) -> Option<RouteMessage> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.to.addr(), route.to.prefix_len())
        .ok()?
        .output_interface(link)
        .priority(route.metric)
        .protocol(RouteProtocol::from(OUR_PROTOCOL));
    if let Some(source) = route.source {
        builder = builder.pref_source(source).ok()?;
    }
    match route.via {
        Some(via) => builder = builder.gateway(via).ok()?,
        None if route.to.addr().is_ipv4() => builder = builder.scope(RouteScope::Link),
        None => {}
    }
    if route.onlink {
        builder = builder.onlink();
    }
    if let Some(mtu) = route.mtu {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
        builder.get_mut().attributes.push(metrics);
    }
    Some(builder.build())
}

/// The attributes of an address of ours beside the address itself.
pub fn address_attributes(address: &Address, now: Duration) -> Vec<AddressAttribute> {
    // Not zero: the kernel refuses that. It removes the address itself when we are not there.
    let seconds = |until: Option<Duration>| {
        until.map_or(u32::MAX, |until| {
            let left = until.saturating_sub(now).as_secs();
            u32::try_from(left)
                .unwrap_or(u32::MAX - 1)
                .min(u32::MAX - 1)
        })
    };
    let mut info = CacheInfo::default();
    info.ifa_valid = seconds(address.until).max(1);
    info.ifa_preferred = seconds(address.preferred).min(info.ifa_valid);
    let mut attributes = vec![
        AddressAttribute::CacheInfo(info),
        AddressAttribute::Flags(AddressFlags::Noprefixroute),
        AddressAttribute::Protocol(AddressProtocol::Other(OUR_PROTOCOL)),
    ];
    attributes.extend(address.broadcast.map(AddressAttribute::Broadcast));
    attributes
}
