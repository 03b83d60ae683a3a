//! Who is remembered, limited, blacklisted, denied, and what is left then.

use super::*;

#[test]
fn a_client_is_sent_where_it_was_before() {
    let service = Service::new(rules(&[]), &plain(3));
    let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
    assert_eq!(service.visit(client(1)), "a");
    assert_eq!(service.visit(client(2)), "b");
    let (held, name) = service.connect(Client {
        address: Some(IpAddr::V6(mapped)),
        port: 9,
    });
    assert_eq!(
        (name.as_str(), held.attempt.chosen_by()),
        ("a", Some(ChosenBy::Tracking))
    );
    assert_eq!(service.visit(UNIX), "c");
    assert_eq!(service.visit(UNIX), "a");
    let recent = service.balancer.borrow().recent(0, 0);
    let known: Vec<_> = recent.iter().map(|r| (r.address, r.connects)).collect();
    let address = |number| client(number).address.unwrap();
    assert_eq!(known, [(address(1), 2), (address(2), 1)]);
}

#[test]
fn a_client_whose_connection_never_stood_is_not_remembered() {
    let service = Service::new(rules(&[]), &plain(2));
    assert_eq!(service.admit(client(1)).unwrap().next(), "a");
    assert_eq!(service.balancer.borrow().clients(), 0);
    assert_eq!(service.visit(client(1)), "b");
}

#[test]
fn a_server_is_forgotten_after_the_tracking_time() {
    let forgetful = Rules {
        tracking_ms: 1_000,
        ..rules(&[])
    };
    let service = Service::new(forgetful, &plain(3));
    assert_eq!(service.visit(client(1)), "a");
    service.now_ms.set(999);
    assert_eq!(service.visit(client(1)), "a");
    service.now_ms.set(1_999);
    assert_eq!(service.visit(client(1)), "b");
}

#[test]
fn new_clients_get_the_soft_limit_and_known_ones_the_hard_one() {
    let list = servers(2, |number, server| {
        (server.max, server.hard) = [(1, 3), (2, 1)][number];
    });
    let service = Service::new(rules(&[]), &list);
    let (_first, name) = service.connect(client(1));
    assert_eq!(name, "a");
    let _b = (service.connect(client(2)), service.connect(client(3)));
    assert_eq!(service.connections(), [1, 2]);
    let mut new = service.admit(client(4)).unwrap();
    assert_eq!(new.next(), "no-server");
    let full = |index| PassedOver {
        target: Target::Server(service.id(index)),
        why: Refused::ServerFull,
    };
    assert_eq!(new.attempt.passed_over(), [full(0), full(1)]);
    let _again = (service.connect(client(1)), service.connect(client(1)));
    assert_eq!(service.connections(), [3, 2]);
    assert_eq!(service.visit(client(1)), "no-server");
    assert_eq!(service.visit(client(2)), "no-server");
    assert_eq!(service.connections(), [3, 2]);
}

#[test]
fn a_server_gets_no_client_that_its_access_list_denies() {
    let list = servers(2, |number, server| {
        if number == 0 {
            server.acl = acl(false, client(1));
        }
    });
    let service = Service::new(rules(&[Balance::Prio]), &list);
    assert_eq!(service.visit(client(1)), "b");
    assert_eq!(service.visit(client(2)), "a");
    assert_eq!(service.visit(UNIX), "a");
}

#[test]
fn a_failed_server_gets_no_clients_for_a_while() {
    let service = Service::new(rules(&[Balance::Prio]), &plain(2));
    assert_eq!(service.visit(client(1)), "a");
    let mut held = service.admit(client(1)).unwrap();
    assert_eq!(held.next(), "a");
    held.failed();
    assert_eq!(service.connections(), [0, 0]);
    assert_eq!(held.next(), "b");
    assert_eq!(service.connections(), [0, 1]);
    let view = service.balancer.borrow().servers(0).next().unwrap().tally;
    assert_eq!((view.connects, view.failures), (1, 1));
    service.now_ms.set(29_999);
    assert_eq!(service.visit(client(2)), "b");
    service.now_ms.set(30_000);
    assert_eq!(service.visit(client(2)), "b", "it is its server now");
    assert_eq!(service.visit(client(3)), "a");
}

#[test]
fn a_command_excludes_and_readmits() {
    let service = Service::new(rules(&[Balance::Prio]), &plain(2));
    let mut held = service.admit(client(1)).unwrap();
    assert_eq!(held.next(), "a");
    service.blacklist(0, Some(100_000));
    held.failed();
    service.now_ms.set(99_999);
    let shown = |index: usize| {
        let balancer = service.balancer.borrow();
        balancer
            .servers(service.now_ms.get())
            .nth(index)
            .unwrap()
            .blacklisted_until_ms
    };
    assert_eq!((shown(0), shown(1)), (Some(100_000), None));
    assert_eq!(service.visit(client(2)), "b");
    service.blacklist(0, None);
    assert_eq!((service.visit(client(3)), shown(0)), ("a".to_owned(), None));
}

#[test]
fn when_all_are_blacklisted_the_client_is_refused() {
    for switch in Balance::ALL {
        let service = Service::new(rules(&[*switch]), &plain(2));
        (0..2).for_each(|index| service.blacklist(index, Some(5)));
        let refused = service.visit(client(1));
        assert_eq!(refused, "no-server", "{switch}");
        service.now_ms.set(5);
        assert_eq!(service.visit(client(1)).len(), 1);
    }
}

#[test]
fn the_emergency_server_is_last_and_tried_once() {
    let rules = Rules {
        emergency: true,
        abuse: true,
        ..rules(&[])
    };
    let service = Service::new(rules, &plain(2));
    let mut held = service.admit(client(1)).unwrap();
    assert_eq!(held.all_that_fail(), ["a", "b", "emergency", "no-server"]);
    let (held, name) = service.connect(client(1));
    assert_eq!(
        (name.as_str(), held.attempt.chosen_by()),
        ("emergency", Some(ChosenBy::Emergency))
    );
    let tally = service.balancer.borrow().emergency();
    assert_eq!(
        (tally.connections, tally.connects, tally.failures),
        (1, 1, 1)
    );
    drop(held);
    assert_eq!(service.balancer.borrow().emergency().connections, 0);
    service.now_ms.set(30_000);
    assert_ne!(service.visit(client(1)), "emergency");
}

/// Pen gives a denied client to the emergency server.
#[test]
fn a_denied_client_gets_to_the_abuse_server_or_nowhere() {
    let mut deny = Rules {
        emergency: true,
        client_acl: acl(false, client(1)),
        ..rules(&[])
    };
    let service = Service::new(deny.clone(), &plain(1));
    assert_eq!(service.admit(client(1)).err(), Some(Refused::AclDenied));
    assert_eq!(service.visit(client(2)), "a");
    assert_eq!(service.visit(UNIX), "a");
    deny.abuse = true;
    service.update(deny.clone(), &plain(1));
    let mut held = service.admit(client(1)).unwrap();
    assert_eq!(held.all_that_fail(), ["abuse", "acl-denied"]);
    assert_eq!(service.visit(client(1)), "abuse");
    assert_eq!(service.balancer.borrow().clients(), 1, "client 2 alone");
    let mut held = service.admit(client(1)).unwrap();
    deny.abuse = false;
    service.update(deny, &plain(1));
    assert_eq!(held.next(), "acl-denied");
}

#[test]
fn a_hard_limit_alone_limits_nothing() {
    let list = servers(1, |_, server| server.hard = 1);
    let service = Service::new(rules(&[]), &list);
    let _held = (service.connect(client(1)), service.connect(client(1)));
    let (held, _) = service.connect(client(1));
    assert_eq!(held.attempt.chosen_by(), Some(ChosenBy::Tracking));
}

#[test]
fn taking_turns_counts_also_for_clients_that_are_known() {
    let service = Service::new(rules(&[]), &plain(2));
    assert_eq!(service.visit(client(1)), "a");
    service.update(rules(&[Balance::RoundRobin]), &plain(2));
    let names: Vec<_> = (0..3).map(|_| service.visit(client(1))).collect();
    assert_eq!(names, ["b", "a", "b"]);
}

#[test]
fn a_denied_client_is_not_seen() {
    let mut rules = Rules {
        clients_max: 2,
        abuse: true,
        ..rules(&[])
    };
    let service = Service::new(rules.clone(), &plain(3));
    let names = [service.visit(client(1)), service.visit(client(2))];
    assert_eq!(names, ["a", "b"]);
    rules.client_acl = acl(false, client(1));
    service.update(rules, &plain(3));
    assert_eq!(service.visit(client(1)), "abuse");
    assert_eq!(service.visit(client(3)), "c");
    let recent = service.balancer.borrow().recent(0, 0);
    let known: Vec<_> = recent.iter().map(|recent| recent.address).collect();
    assert_eq!(known, [3, 2].map(|number| client(number).address.unwrap()));
}

/// Pen forgets the server then.
#[test]
fn a_client_comes_back_from_the_emergency_server() {
    let rules = Rules {
        emergency: true,
        ..rules(&[])
    };
    let service = Service::new(rules, &plain(3));
    let names = [service.visit(client(1)), service.visit(client(2))];
    assert_eq!(names, ["a", "b"]);
    (0..3).for_each(|index| service.blacklist(index, Some(5)));
    assert_eq!(service.visit(client(2)), "emergency");
    service.now_ms.set(5);
    assert_eq!(service.visit(client(2)), "b");
}
