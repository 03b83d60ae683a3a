//! Is a back end a neighbour on the DSR interface? Only then can a MAC rewrite reach it.
//!
//! The kernel's routing table knows, except about a dedicated interface: one without an address
//! has no route, and what the table says then (the default route of another interface, or
//! nothing) says nothing about its segment. There the back end is assumed to be a neighbour;
//! it is shown without a MAC if it isn't.
//!
//! | the route says | interface has a subnet of that family | it has none |
//! |---|---|---|
//! | on-link, this interface | yes | yes |
//! | gateway on this interface | no | no |
//! | on-link, another interface | no | assumed |
//! | gateway on another interface | no | assumed |
//! | nothing | no | assumed |

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::Netlink;
use crate::nic;
use crate::ownership::Owned;

/// The answer of the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    OnLink { ifindex: u32 },
    Gateway { gateway: IpAddr, ifindex: u32 },
    Local,
    Broadcast,
    Nowhere,
}

/// Whether a MAC rewrite on interface `ifindex` can reach the back end.
///
/// # Errors
/// A sentence for the operator that names the back end, what stands between, and the mend.
pub fn check_layer2(ifindex: u32, backend: IpAddr) -> Result<(), String> {
    let name = nic::name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"));
    if let Some(what) = impossible(backend) {
        return Err(format!(
            "back end {backend} is {what}; give the address of one machine on the segment of {name}"
        ));
    }
    let look = || -> io::Result<(Owned, Route)> {
        let mut netlink = Netlink::open()?;
        Ok((Owned::read(&mut netlink)?, route(&mut netlink, backend)?))
    };
    let (owned, route) = look().map_err(|error| {
        format!("the kernel doesn't say whether back end {backend} is on the segment: {error}")
    })?;
    let route = if owned.has(backend) {
        Route::Local
    } else {
        route
    };
    let subnet = owned.has_subnet(ifindex, backend);
    judge(
        &Question {
            backend,
            ifindex,
            name: &name,
            subnet,
        },
        route,
    )
}

struct Question<'a> {
    backend: IpAddr,
    ifindex: u32,
    name: &'a str,
    /// The interface has a subnet of the back end's family.
    subnet: bool,
}

fn judge(question: &Question<'_>, route: Route) -> Result<(), String> {
    let Question {
        backend,
        name,
        subnet,
        ..
    } = *question;
    let here = |ifindex: u32| ifindex == question.ifindex;
    match route {
        Route::Local => Err(format!(
            "back end {backend} is an address of this host; DSR needs another machine: take the \
             address from this host, or use a proxy service"
        )),
        Route::Broadcast => Err(format!(
            "back end {backend} is a broadcast address; give the address of one machine on the \
             segment of {name}"
        )),
        Route::OnLink { ifindex } if here(ifindex) => Ok(()),
        Route::Gateway { gateway, ifindex } if here(ifindex) || subnet => Err(format!(
            "back end {backend} is behind gateway {gateway}; DSR works on one segment only: give \
             the back end an address on the segment of {name}, or, if it is on it, add the route \
             'ip route add {backend} dev {name}'"
        )),
        Route::OnLink { ifindex } if subnet => {
            let other = nic::name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"));
            Err(format!(
                "back end {backend} is on the segment of {other}, not of {name}: set dsr_if to \
                 {other}, or give the back end an address on the segment of {name}"
            ))
        }
        Route::Nowhere if subnet => Err(format!(
            "no route leads to back end {backend}: give it an address on the segment of {name}, \
             or, if it is on it, add the route 'ip route add {backend} dev {name}'"
        )),
        Route::OnLink { .. } | Route::Gateway { .. } | Route::Nowhere => Ok(()),
    }
}

fn impossible(backend: IpAddr) -> Option<&'static str> {
    if backend.is_unspecified() {
        return Some("no address");
    }
    if backend.is_loopback() {
        return Some("a loopback address");
    }
    if backend.is_multicast() {
        return Some("a multicast address");
    }
    match backend {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address in IPv6 dress, which no machine answers for")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn route(netlink: &mut Netlink, backend: IpAddr) -> io::Result<Route> {
    let mut message = RouteMessage::default();
    let (family, bits) = match backend {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header = RouteHeader {
        address_family: family,
        destination_prefix_length: bits,
        ..message.header
    };
    message
        .attributes
        .push(RouteAttribute::Destination(backend.into()));
    let answer = match netlink.ask(RouteNetlinkMessage::GetRoute(message)) {
        Ok(answer) => answer,
        Err(error) => {
            // Unreachable, and the answers of blackhole, prohibit and unreachable routes.
            let nowhere = [
                libc::ENETUNREACH,
                libc::EHOSTUNREACH,
                libc::EINVAL,
                libc::EACCES,
                libc::ESRCH,
            ];
            return match error.raw_os_error() {
                Some(number) if nowhere.contains(&number) => Ok(Route::Nowhere),
                _ => Err(error),
            };
        }
    };
    let RouteNetlinkMessage::NewRoute(answer) = answer else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    Ok(read(&answer))
}

fn read(answer: &RouteMessage) -> Route {
    if answer.header.kind == RouteType::Local {
        return Route::Local;
    }
    if matches!(
        answer.header.kind,
        RouteType::Broadcast | RouteType::Multicast
    ) {
        return Route::Broadcast;
    }
    if answer.header.kind != RouteType::Unicast {
        return Route::Nowhere;
    }
    let (mut oif, mut gateway) = (None, None);
    for attribute in &answer.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            oif = Some(*index);
        } else if let RouteAttribute::Gateway(RouteAddress::Inet(v4))
        | RouteAttribute::Via(RouteVia::Inet(v4)) = attribute
        {
            gateway = Some(IpAddr::V4(*v4));
        } else if let RouteAttribute::Gateway(RouteAddress::Inet6(v6))
        | RouteAttribute::Via(RouteVia::Inet6(v6)) = attribute
        {
            gateway = Some(IpAddr::V6(*v6));
        }
    }
    match (oif, gateway) {
        (Some(ifindex), Some(gateway)) => Route::Gateway { gateway, ifindex },
        (Some(ifindex), None) => Route::OnLink { ifindex },
        (None, _) => Route::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u32 = 1000;
    const ELSEWHERE: u32 = 1001;

    fn judged(route: Route, subnet: bool) -> Result<(), String> {
        let backend = "192.0.2.10".parse().unwrap();
        judge(
            &Question {
                backend,
                ifindex: HERE,
                name: "eth1",
                subnet,
            },
            route,
        )
    }

    #[test]
    fn the_table_at_the_head_of_this_file() {
        let gateway = "192.0.2.254".parse().unwrap();
        let table = [
            (Route::OnLink { ifindex: HERE }, true, true),
            (
                Route::Gateway {
                    gateway,
                    ifindex: HERE,
                },
                false,
                false,
            ),
            (Route::OnLink { ifindex: ELSEWHERE }, false, true),
            (
                Route::Gateway {
                    gateway,
                    ifindex: ELSEWHERE,
                },
                false,
                true,
            ),
            (Route::Nowhere, false, true),
            (Route::Local, false, false),
            (Route::Broadcast, false, false),
        ];
        for (route, with_subnet, without) in table {
            assert_eq!(
                judged(route, true).is_ok(),
                with_subnet,
                "{route:?} with a subnet"
            );
            assert_eq!(
                judged(route, false).is_ok(),
                without,
                "{route:?} without a subnet"
            );
        }
    }

    #[test]
    fn a_refusal_names_back_end_gateway_and_mend() {
        let gateway = "192.0.2.254".parse().unwrap();
        let text = judged(
            Route::Gateway {
                gateway,
                ifindex: HERE,
            },
            true,
        )
        .unwrap_err();
        for part in ["192.0.2.10", "192.0.2.254", "eth1", "ip route add"] {
            assert!(text.contains(part), "'{part}' is missing in: {text}");
        }
    }

    #[test]
    fn addresses_that_are_no_machine() {
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(impossible(address.parse().unwrap()).is_some(), "{address}");
            assert!(
                check_layer2(HERE, address.parse().unwrap()).is_err(),
                "{address}"
            );
        }
        for address in ["192.0.2.1", "2001:db8::1", "fe80::1"] {
            assert!(impossible(address.parse().unwrap()).is_none(), "{address}");
        }
    }

    #[test]
    fn a_next_hop_of_the_other_family_is_a_gateway() {
        let mut answer = RouteMessage::default();
        answer.header.kind = RouteType::Unicast;
        answer.attributes.push(RouteAttribute::Oif(HERE));
        assert_eq!(read(&answer), Route::OnLink { ifindex: HERE });
        answer.attributes.push(RouteAttribute::Via(RouteVia::Inet6(
            "fe80::1".parse().unwrap(),
        )));
        let gateway = "fe80::1".parse().unwrap();
        assert_eq!(
            read(&answer),
            Route::Gateway {
                gateway,
                ifindex: HERE
            }
        );
    }
}
