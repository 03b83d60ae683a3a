//! By which machines this host's routes lead on: nobody but they may answer for their addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};

use crate::netlink::Netlink;

/// The gateways of all routes of this network namespace, at this moment.
///
/// # Errors
/// The kernel does not list its routes.
pub fn gateways() -> io::Result<BTreeSet<IpAddr>> {
    let routes = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    let mut found = BTreeSet::new();
    for message in Netlink::open()?.dump(routes)? {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            collect(&route.attributes, &mut found);
        }
    }
    Ok(found)
}

fn collect(attributes: &[RouteAttribute], found: &mut BTreeSet<IpAddr>) {
    for attribute in attributes {
        if let RouteAttribute::Gateway(RouteAddress::Inet(v4))
        | RouteAttribute::Via(RouteVia::Inet(v4)) = attribute
        {
            found.insert((*v4).into());
        }
        if let RouteAttribute::Gateway(RouteAddress::Inet6(v6))
        | RouteAttribute::Via(RouteVia::Inet6(v6)) = attribute
        {
            found.insert((*v6).into());
        }
        if let RouteAttribute::MultiPath(hops) = attribute {
            for hop in hops {
                collect(&hop.attributes, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteNextHop;

    #[test]
    fn gateways_of_all_kinds_are_found() {
        let hop = |gateway| {
            let mut hop = RouteNextHop::default();
            hop.attributes.push(RouteAttribute::Gateway(gateway));
            hop
        };
        let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let (six, via) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let attributes = [
            RouteAttribute::Priority(3),
            RouteAttribute::Gateway(RouteAddress::Inet(one)),
            RouteAttribute::Via(RouteVia::Inet6(via)),
            RouteAttribute::MultiPath(vec![
                hop(RouteAddress::Inet(two)),
                hop(RouteAddress::Inet6(six)),
            ]),
            RouteAttribute::Destination(RouteAddress::Inet([10, 9, 9, 9].into())),
        ];
        let mut found = BTreeSet::new();
        collect(&attributes, &mut found);
        assert_eq!(
            found,
            BTreeSet::from([one.into(), two.into(), six.into(), via.into()])
        );
    }
}
