//! Places, counts and changes of the configuration.

use super::*;

#[test]
fn no_more_clients_are_admitted_than_may_be() {
    let two = Rules {
        conn_max: 2,
        ..rules(&[])
    };
    let service = Service::new(two, &plain(1));
    let held = (service.connect(client(1)), service.admit(client(2)));
    assert_eq!(
        service.admit(client(3)).err(),
        Some(Refused::TooManyConnections)
    );
    drop(held);
    assert!(service.admit(client(3)).is_ok());
}

/// Pen (until 0.34.1) stops accepting after a hundred refused connections.
#[test]
fn refused_connections_leave_nothing_behind() {
    let few = Rules {
        conn_max: 3,
        blacklist_ms: 0,
        emergency: true,
        ..rules(&[])
    };
    let service = Service::new(few, &plain(3));
    for number in 0..10_000 {
        let mut held = service.admit(client(number)).unwrap();
        assert_eq!(held.all_that_fail().len(), 5);
    }
    assert_eq!(service.connections(), [0, 0, 0]);
    let balancer = service.balancer.borrow();
    let counts = (balancer.connections(), balancer.clients());
    assert_eq!((counts, balancer.emergency().failures), ((0, 0), 10_000));
}

#[test]
fn a_place_is_given_back_once() {
    let service = Service::new(rules(&[Balance::Prio]), &plain(2));
    let _other = service.connect(client(2));
    let mut held = service.admit(client(1)).unwrap();
    held.next();
    let mut balancer = service.balancer.borrow_mut();
    balancer.connected(&mut held.attempt);
    balancer.connected(&mut held.attempt);
    // Without saying that it failed: the next one instead.
    assert_eq!(
        balancer.next(&mut held.attempt, 0),
        Ok(Target::Server(balancer.id(1).unwrap()))
    );
    balancer.ended(&mut held.attempt);
    balancer.ended(&mut held.attempt);
    balancer.failed(&mut held.attempt, 0);
    balancer.connected(&mut held.attempt);
    assert_eq!(balancer.next(&mut held.attempt, 0), Err(Refused::Ended));
    let tallies: Vec<_> = balancer.servers(0).map(|view| view.tally).collect();
    let tally = |connections, connects| Tally {
        connections,
        connects,
        failures: 0,
    };
    assert_eq!(tallies, [tally(1, 2), tally(0, 0)]);
    assert_eq!(balancer.connections(), 1);
}

#[test]
fn a_server_that_stays_keeps_what_is_known_of_it() {
    let service = Service::new(rules(&[]), &plain(2));
    let (_held, name) = service.connect(client(1));
    assert_eq!(name, "a");
    let a = service.id(0);
    service.blacklist(1, Some(7));
    let mut turned = plain(3);
    turned.reverse();
    service.update(rules(&[]), &turned);
    assert_eq!(
        (service.id(2), service.balancer.borrow().index(a)),
        (a, Some(2))
    );
    assert_eq!(service.connections(), [0, 0, 1]);
    assert_eq!(service.visit(client(1)), "a");
    let view = service
        .balancer
        .borrow()
        .servers(0)
        .nth(1)
        .unwrap()
        .blacklisted_until_ms;
    assert_eq!(view, Some(7));
}

#[test]
fn connections_of_a_server_that_is_gone_end_without_harm() {
    let service = Service::new(rules(&[]), &plain(2));
    let (held, _) = service.connect(client(1));
    let a = service.id(0);
    service.update(rules(&[]), &plain(2)[1..]);
    assert_eq!(service.balancer.borrow().index(a), None);
    assert_eq!(service.connections(), [0, 1], "b, then a");
    assert_eq!(service.visit(client(1)), "b");
    service.update(rules(&[]), &plain(3)[1..]);
    assert_eq!(service.connections(), [0, 0, 1]);
    drop(held);
    assert_eq!(service.connections(), [0, 0]);
    // Its place is free now, its number is not.
    service.update(rules(&[]), &plain(4)[1..]);
    assert!((0..3).all(|index| service.id(index) != a));
    assert!(!service.balancer.borrow_mut().blacklist(a, None));
}

#[test]
fn a_server_that_comes_back_has_the_connections_that_it_had() {
    let one = servers(1, |_, server| server.max = 1);
    let service = Service::new(rules(&[]), &one);
    let (held, _) = service.connect(client(1));
    service.update(rules(&[]), &[]);
    assert_eq!(service.visit(client(2)), "no-server");
    service.update(rules(&[]), &one);
    assert_eq!(service.visit(client(2)), "no-server");
    drop(held);
    assert_eq!(service.visit(client(2)), "a");
}

#[test]
fn what_is_noted_is_bounded() {
    let service = Service::new(rules(&[]), &plain(26));
    let mut held = service.admit(client(1)).unwrap();
    assert_eq!(held.all_that_fail().len(), 27);
    assert_eq!(held.attempt.passed_over().len(), PASSED_OVER_MAX);
}
