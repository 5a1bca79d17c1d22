//! What the driver says to and hears from the kernel about links, addresses and routes.
//!
//! Two sockets. One listens to the kernel's notifications; when it overruns, notifications are
//! lost, which is told and answered by a new dump. The other asks and gets its answers, which
//! cannot be lost: on a socket that does both, an overrun would swallow an answer, and the one
//! who waits for it would wait for ever.
//!
//! Only what is needed is taken out of the messages, into types of our own.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::proto::sys::SocketAddr;
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};

use crate::cidr::Cidr;
use crate::desired::{Address, Route};
use crate::mac::Mac;
use crate::reconcile::{OUR_PROTOCOL, Op, Seen, SeenAddress, SeenRoute};

/// An Ethernet link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it can carry frames, which implies `up`.
    pub carrier: bool,
    /// Whether it is made of software: veth, bridge, tunnel...
    pub is_virtual: bool,
}

/// What a notification means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Something of links or addresses: look again.
    Look,
    /// A route went that carried our mark, or was taken by somebody.
    RouteGone {
        /// Whether it carried our mark.
        ours: bool,
    },
    /// Nothing to us.
    Nothing,
    /// The connection is gone.
    Closed,
}

type Events = Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin>;

/// Both sockets.
pub struct Netlink {
    handle: Handle,
    events: Events,
}

impl Netlink {
    /// Opens both sockets; the listening one first, so that no change falls between the first
    /// dump and the first notification. Must be called within a tokio runtime.
    pub fn open() -> io::Result<Netlink> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
        ];
        let (listener, listener_handle, events) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(async move {
            // The handle keeps the connection from ending.
            let _handle = listener_handle;
            listener.await;
        });
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        tokio::spawn(connection);
        Ok(Netlink {
            handle,
            events: Box::new(events),
        })
    }

    /// The next notification.
    pub fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        self.events.poll_next_unpin(cx).map(|event| match event {
            None => Change::Closed,
            Some((message, _)) => change(&message.payload),
        })
    }

    /// All Ethernet links that are not part of another (a bridge or bond has the say there).
    pub async fn links(&self) -> Result<Vec<Link>, rtnetlink::Error> {
        let messages: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        Ok(messages.iter().filter_map(link).collect())
    }

    /// All IPv4 addresses, and the unicast routes of the main table. `now` is the time since boot.
    pub async fn seen(&self, now: Duration) -> Result<Seen, rtnetlink::Error> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let addresses: Vec<AddressMessage> = request.execute().try_collect().await?;
        let request = RouteMessageBuilder::<Ipv4Addr>::new()
            .protocol(RouteProtocol::Unspec)
            .kind(RouteType::Unspec)
            .build();
        let routes: Vec<RouteMessage> = self
            .handle
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await?;
        Ok(Seen {
            addresses: addresses.iter().filter_map(|m| address(m, now)).collect(),
            routes: routes.iter().filter_map(route).collect(),
        })
    }

    /// Switches a link on, with this MTU if one is given.
    pub async fn bring_up(&self, link: u32, mtu: Option<u32>) -> Result<(), rtnetlink::Error> {
        let mut message = LinkUnspec::new_with_index(link).up();
        if let Some(mtu) = mtu {
            message = message.mtu(mtu);
        }
        self.handle.link().set(message.build()).execute().await
    }

    /// Carries out one operation. What is already as wanted is no error.
    pub async fn apply(&self, op: Op, now: Duration) -> Result<(), rtnetlink::Error> {
        let result = match op {
            Op::SetAddress(link, address) => {
                let cidr = address.cidr;
                let ip = IpAddr::V4(cidr.address());
                let mut request = self.handle.address().add(link, ip, cidr.prefix()).replace();
                request.message_mut().attributes.extend([
                    AddressAttribute::CacheInfo(lifetime(address.until, now)),
                    AddressAttribute::Flags(AddressFlags::Noprefixroute),
                    AddressAttribute::Protocol(AddressProtocol::Other(OUR_PROTOCOL)),
                ]);
                request.execute().await
            }
            Op::RemoveAddress(link, cidr) => {
                let mut message = AddressMessage::default();
                message.header.family = AddressFamily::Inet;
                message.header.index = link;
                message.header.prefix_len = cidr.prefix();
                let local = AddressAttribute::Local(IpAddr::V4(cidr.address()));
                message.attributes.push(local);
                self.handle.address().del(message).execute().await
            }
            Op::SetRoute(link, route) => {
                let request = self.handle.route().add(route_message(link, &route));
                request.replace().execute().await
            }
            Op::RemoveRoute(link, route) => {
                self.handle
                    .route()
                    .del(route_message(link, &route))
                    .execute()
                    .await
            }
        };
        match result {
            Err(rtnetlink::Error::NetlinkError(error))
                if matches!(op, Op::RemoveAddress(..) | Op::RemoveRoute(..))
                    && matches!(
                        -error.raw_code(),
                        libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV
                    ) =>
            {
                Ok(())
            }
            result => result,
        }
    }
}

fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Change {
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
        _ => Change::Nothing,
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
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
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn address(message: &AddressMessage, now: Duration) -> Option<SeenAddress> {
    let (mut local, mut until, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => local = Some(*address),
            AddressAttribute::CacheInfo(info) if info.ifa_valid != u32::MAX => {
                until = Some(now + Duration::from_secs(info.ifa_valid.into()));
            }
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == OUR_PROTOCOL,
            _ => {}
        }
    }
    Some(SeenAddress {
        link: message.header.index,
        address: Address {
            cidr: Cidr::new(local?, message.header.prefix_len)?,
            until,
        },
        ours,
    })
}

fn is_ours(message: &RouteMessage) -> bool {
    u8::from(message.header.protocol) == OUR_PROTOCOL
}

fn route(message: &RouteMessage) -> Option<SeenRoute> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut to, mut link) = (Ipv4Addr::UNSPECIFIED, 0);
    let mut route = Route {
        to: Cidr::DEFAULT,
        via: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        source: Ipv4Addr::UNSPECIFIED,
        metric: 0,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(long) => table = *long,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.via = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => route.source = *address,
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
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || header.tos != 0 {
        return None;
    }
    route.to = Cidr::new(to, header.destination_prefix_length)?;
    Some(SeenRoute {
        link,
        route,
        ours: is_ours(message),
    })
}

fn route_message(link: u32, route: &Route) -> RouteMessage {
    let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.to.address(), route.to.prefix())
        .output_interface(link)
        .pref_source(route.source)
        .priority(route.metric)
        .protocol(RouteProtocol::from(OUR_PROTOCOL));
    match route.via {
        Some(via) => builder = builder.gateway(via),
        None => builder = builder.scope(RouteScope::Link),
    }
    if route.onlink {
        builder = builder.onlink();
    }
    if let Some(mtu) = route.mtu {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
        builder.get_mut().attributes.push(metrics);
    }
    builder.build()
}

/// Lifetimes for the kernel: it removes the address itself when we are not there to do it.
fn lifetime(until: Option<Duration>, now: Duration) -> netlink_packet_route::address::CacheInfo {
    // All ones is for ever; zero is refused.
    let seconds = until.map_or(u32::MAX, |until| {
        let left = until.saturating_sub(now).as_secs().max(1);
        u32::try_from(left)
            .unwrap_or(u32::MAX - 1)
            .min(u32::MAX - 1)
    });
    let mut info = netlink_packet_route::address::CacheInfo::default();
    info.ifa_valid = seconds;
    info.ifa_preferred = seconds;
    info
}
