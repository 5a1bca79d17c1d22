//! What the driver says to and hears from the kernel about links, addresses and routes.
//!
//! Two sockets. One listens to the kernel's notifications; when it overruns, notifications are
//! lost, which is told and answered by a new dump. The other asks and gets its answers, which
//! cannot be lost: on a socket that does both, an overrun would swallow an answer, and the one
//! who waits for it would wait for ever.
//!
//! What the messages mean is said by [`rtnl`].

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::proto::sys::SocketAddr;
use rtnetlink::{Handle, LinkUnspec, LinkVlan, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::link::Link;
use crate::reconcile::{Op, Seen};
use crate::rtnl::{self, Change};

/// The kernel's index of the loopback link: `LOOPBACK_IFINDEX` of `net/flow.h`.
const LOOPBACK: u32 = 1;

type Events = Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin>;

/// Both sockets.
pub struct Netlink {
    handle: Handle,
    /// Serves `handle`. When it has ended, whatever is asked fails.
    requests: JoinHandle<()>,
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
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Ifinfo,
        ];
        let (listener, listener_handle, events) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(async move {
            // The handle keeps the connection from ending.
            let _handle = listener_handle;
            listener.await;
        });
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        Ok(Netlink {
            handle,
            requests: tokio::spawn(connection),
            events: Box::new(events),
        })
    }

    /// What the notifications since the last call mean; `None` when one of the connections is gone.
    ///
    /// All of them are taken at once, and each kind is told once: every one is answered by a dump,
    /// and somebody else, such as a router that floods the link with advertisements, can have them made
    /// faster than the kernel makes dumps.
    pub fn poll_changes(&mut self, cx: &mut Context<'_>) -> Poll<Option<BTreeSet<Change>>> {
        let mut changes = BTreeSet::new();
        while let Poll::Ready(event) = self.events.poll_next_unpin(cx) {
            let Some((message, _)) = event else {
                return Poll::Ready(None);
            };
            changes.insert(rtnl::change(&message.payload));
        }
        if Pin::new(&mut self.requests).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if changes.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(changes))
    }

    /// All links that can be ours.
    pub async fn links(&self) -> Result<Vec<Link>, rtnetlink::Error> {
        let messages: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        Ok(messages.iter().filter_map(rtnl::link).collect())
    }

    /// All addresses, and the unicast routes of the main table. `now` is the time since boot.
    pub async fn seen(&self, now: Duration) -> Result<Seen, rtnetlink::Error> {
        let mut seen = Seen::default();
        let addresses = self.handle.address().get().execute();
        let addresses: Vec<AddressMessage> = addresses.try_collect().await?;
        let addresses = addresses.iter().filter_map(|m| rtnl::address(m, now));
        seen.addresses.extend(addresses);
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
            .protocol(RouteProtocol::Unspec)
            .kind(RouteType::Unspec)
            .build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
            .protocol(RouteProtocol::Unspec)
            .kind(RouteType::Unspec)
            .build();
        for request in [v4, v6] {
            let routes = self.handle.route().get(request).execute();
            let routes: Vec<RouteMessage> = routes.try_collect().await?;
            seen.routes.extend(routes.iter().filter_map(rtnl::route));
        }
        Ok(seen)
    }

    /// Switches a link on, or sets its MTU.
    pub async fn set_link(
        &self,
        link: u32,
        up: bool,
        mtu: Option<u32>,
    ) -> Result<(), rtnetlink::Error> {
        let mut message = LinkUnspec::new_with_index(link);
        if up {
            message = message.up();
        }
        if let Some(mtu) = mtu {
            message = message.mtu(mtu);
        }
        self.handle.link().set(message.build()).execute().await
    }

    /// Switches the loopback link on.
    pub async fn loopback_up(&self) -> Result<(), rtnetlink::Error> {
        self.set_link(LOOPBACK, true, None).await
    }

    /// Makes a VLAN. One that exists is no error.
    pub async fn add_vlan(&self, name: &str, link: u32, id: u16) -> Result<(), rtnetlink::Error> {
        let message = LinkVlan::new(name, link, id).build();
        let result = self.handle.link().add(message).execute().await;
        tolerate(result, &[libc::EEXIST])
    }

    /// Carries out one operation. What is already as wanted is no error.
    pub async fn apply(&self, op: &Op, now: Duration) -> Result<(), rtnetlink::Error> {
        match op {
            Op::SetAddress(link, address) => {
                let net = address.net;
                let addresses = self.handle.address();
                let mut request = addresses.add(*link, net.addr(), net.prefix_len()).replace();
                let attributes = &mut request.message_mut().attributes;
                if address.broadcast.is_some() {
                    // The crate has put the last address of the prefix there.
                    attributes.retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
                }
                attributes.extend(rtnl::address_attributes(address, now));
                request.execute().await
            }
            Op::RemoveAddress(link, net) => {
                let request = self.handle.address().del(address_message(*link, *net));
                let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
                tolerate(request.execute().await, &gone)
            }
            Op::SetRoute(link, route) => {
                let Some(message) = rtnl::route_message(*link, route) else {
                    return Ok(());
                };
                let request = self.handle.route().add(message);
                request.replace().execute().await
            }
            Op::RemoveRoute(link, route) => {
                let Some(message) = rtnl::route_message(*link, route) else {
                    return Ok(());
                };
                let request = self.handle.route().del(message);
                tolerate(request.execute().await, &[libc::ESRCH, libc::ENODEV])
            }
        }
    }
}

fn address_message(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.index = link;
    message.header.prefix_len = net.prefix_len();
    let address: IpAddr = net.addr();
    message.attributes.push(AddressAttribute::Local(address));
    message
}

/// These errors mean that it is as wanted already.
fn tolerate(result: Result<(), rtnetlink::Error>, codes: &[i32]) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if codes.contains(&-error.raw_code()) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn the_end_of_either_connection_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut netlink = Netlink::open().expect("netlink needs no privilege");
            netlink.links().await.expect("a dump");
            netlink.requests.abort();
            // Links of the host may change meanwhile.
            while poll_fn(|cx| netlink.poll_changes(cx)).await.is_some() {}
            let error = netlink.links().await.expect_err("nobody asks the kernel");
            assert!(matches!(error, rtnetlink::Error::RequestFailed), "{error}");
        });
    }
}
