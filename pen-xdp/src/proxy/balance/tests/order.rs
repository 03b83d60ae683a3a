//! Who is chosen and who comes next.

use super::*;

/// Pen begins with its server 1.
#[test]
fn turns_begin_with_the_first_server() {
    for on in [&[][..], &[Balance::RoundRobin]] {
        let service = Service::new(rules(on), &plain(3));
        let names: Vec<_> = (0..4).map(|n| service.visit(client(n))).collect();
        assert_eq!(names, ["a", "b", "c", "a"]);
    }
}

#[test]
fn a_change_of_servers_does_not_give_a_turn_twice() {
    let service = Service::new(rules(&[Balance::RoundRobin]), &plain(3));
    service.visit(client(0));
    service.update(rules(&[Balance::RoundRobin]), &plain(4)[1..]);
    assert_eq!(service.visit(client(0)), "b");
    let mut turned = plain(4);
    turned.rotate_left(2);
    service.update(rules(&[Balance::RoundRobin]), &turned);
    let names: Vec<_> = (0..3).map(|_| service.visit(client(0))).collect();
    assert_eq!(names, ["c", "d", "a"]);
}

#[test]
fn the_lowest_prio_is_chosen_and_then_the_next() {
    let prio = [7, 2, 9, 2];
    let list = servers(4, |number, server| server.prio = prio[number]);
    let service = Service::new(rules(&[Balance::Prio, Balance::Weight]), &list);
    let mut held = service.admit(client(0)).unwrap();
    // Pen goes on by index: after b it tries c.
    assert_eq!(held.all_that_fail(), ["b", "d", "a", "c", "no-server"]);
}

#[test]
fn connections_follow_the_weights() {
    let list = servers(4, |number, server| server.weight = [1, 0, 3, 2][number]);
    let service = Service::new(rules(&[Balance::Weight, Balance::Hash]), &list);
    let held: Vec<_> = (0..60).map(|n| service.connect(client(n))).collect();
    assert_eq!(service.connections(), [10, 0, 30, 20]);
    drop(held);
    assert_eq!(service.connections(), [0; 4]);
    // c has the greatest weight, but the first of those without connections is chosen.
    let mut held = service.admit(client(99)).unwrap();
    assert_eq!(held.all_that_fail(), ["a", "c", "d", "no-server"]);
    let noted: Vec<_> = held.attempt.passed_over().iter().map(|p| p.why).collect();
    let failed = Refused::ConnectFailed;
    assert_eq!(noted, [failed, failed, failed, Refused::NoWeight]);
}

/// Pen with `-W` and its default weights finds no server at all.
#[test]
fn without_weights_all_weigh_the_same() {
    let service = Service::new(rules(&[Balance::Weight]), &plain(3));
    let _held: Vec<_> = (0..9).map(|n| service.connect(client(n))).collect();
    assert_eq!(service.connections(), [3, 3, 3]);
}

#[test]
fn a_client_keeps_a_server_that_is_drained() {
    let weights = |a| servers(2, move |number, s| s.weight = [a, 1][number]);
    for switch in [Balance::Weight, Balance::Hash] {
        let service = Service::new(rules(&[switch]), &weights(100));
        let at_a = (0..20).find(|n| service.visit(client(*n)) == "a").unwrap();
        service.update(rules(&[switch]), &weights(0));
        assert_eq!(service.visit(client(at_a)), "a");
        assert!((100..120).all(|n| service.visit(client(n)) == "b"));
    }
}

#[test]
fn the_fewest_connections_are_chosen() {
    let list = servers(3, |number, server| server.weight = [9, 1, 1][number]);
    let service = Service::new(rules(&[Balance::Least]), &list);
    let mut held: Vec<_> = (0..6).map(|n| service.connect(client(n)).0).collect();
    assert_eq!(service.connections(), [2, 2, 2]);
    held.remove(1);
    assert_eq!(service.visit(client(9)), "b");
    let _b = service.connect(client(10));
    let _a = service.connect(client(11));
    let mut next = service.admit(client(12)).unwrap();
    assert_eq!(next.all_that_fail(), ["b", "c", "a", "no-server"]);
}

/// Where each of many clients goes, while `away` gets none.
fn hashed(service: &Service, away: Option<usize>) -> Vec<String> {
    if let Some(away) = away {
        service.blacklist(away, Some(u64::MAX));
    }
    let all = (0..2_000).map(|n| service.visit(client(n)));
    let all = all.collect();
    if let Some(away) = away {
        service.blacklist(away, None);
    }
    all
}

fn untracked_hash() -> Rules {
    Rules {
        clients_max: 0,
        ..rules(&[Balance::Hash])
    }
}

/// Pen moves everybody's clients when the number of servers changes, and ignores weights.
#[test]
fn only_the_clients_of_a_server_that_is_away_are_moved() {
    let list = servers(5, |number, s| s.weight = [2, 1, 1, 1, 0][number]);
    let service = Service::new(untracked_hash(), &list);
    let before = hashed(&service, None);
    let without = hashed(&service, Some(1));
    let mut shares = BTreeMap::<&str, usize>::new();
    let mut heirs = BTreeMap::<&str, usize>::new();
    for (before, without) in before.iter().zip(&without) {
        *shares.entry(before).or_default() += 1;
        match before == "b" {
            true => *heirs.entry(without).or_default() += 1,
            false => assert_eq!(before, without),
        }
    }
    assert_eq!(
        shares.keys().copied().collect::<Vec<_>>(),
        ["a", "b", "c", "d"]
    );
    assert!((700..900).contains(&shares["a"]), "{shares:?}");
    assert!((320..480).contains(&shares["b"]), "{shares:?}");
    // Those are spread by weight again.
    assert!(!heirs.contains_key("b"));
    assert!((150..250).contains(&heirs["a"]), "{heirs:?}");
    assert!((60..140).contains(&heirs["d"]), "{heirs:?}");
    assert_eq!(before, hashed(&service, None));
}

#[test]
fn a_hash_finds_the_one_server_that_is_left() {
    let list = servers(20, |number, s| {
        s.weight = [60_000, 1][usize::from(number > 0)]
    });
    let service = Service::new(untracked_hash(), &list);
    let mut firsts = BTreeMap::<String, usize>::new();
    for number in 0..200 {
        let mut held = service.admit(client(number)).unwrap();
        let mut names = held.all_that_fail();
        *firsts.entry(names[1].clone()).or_default() += 1;
        assert_eq!(names.pop().as_deref(), Some("no-server"));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 20);
        (0..20).for_each(|index| service.blacklist(index, None));
    }
    // Also beyond the probes every client has another order.
    assert!(firsts.len() > 10, "{firsts:?}");
}

#[test]
fn the_port_is_hashed_with_roundrobin_only() {
    let ports = |service: &Service| -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        for port in 1..100 {
            let name = service.visit(Client { port, ..client(1) });
            *names.entry(name).or_default() += 1;
        }
        names
    };
    let by_address = Service::new(untracked_hash(), &plain(4));
    assert_eq!(ports(&by_address).len(), 1);
    let both = rules(&[Balance::Hash, Balance::RoundRobin]);
    assert_eq!(ports(&Service::new(both, &plain(4))).len(), 4);
}

#[test]
fn the_seed_decides_where_hashes_lead() {
    let seeded = |seed| Rules {
        seed,
        ..untracked_hash()
    };
    let service = Service::new(seeded(1), &plain(4));
    let first = hashed(&service, None);
    service.update(seeded(2), &plain(4));
    assert_ne!(first, hashed(&service, None));
    service.update(seeded(1), &plain(4));
    assert_eq!(first, hashed(&service, None));
    assert_eq!(first, hashed(&Service::new(seeded(1), &plain(4)), None));
}

#[test]
fn a_stubborn_service_gives_no_other_server() {
    let stubborn = Rules {
        emergency: true,
        ..rules(&[Balance::Stubborn])
    };
    let service = Service::new(stubborn.clone(), &plain(2));
    let mut held = service.admit(client(1)).unwrap();
    assert_eq!(held.all_that_fail(), ["a", "stubborn"]);
    assert_eq!(service.visit(client(1)), "b");
    service.blacklist(1, Some(9));
    assert_eq!(service.visit(client(1)), "stubborn");
    // Where nobody was chosen, there is nothing to be stubborn about.
    assert_eq!(service.visit(client(2)), "emergency");
    service.update(stubborn, &plain(1));
    assert_eq!(service.visit(client(1)), "emergency", "its server is gone");
}

#[test]
fn a_stubborn_hash_does_not_go_on() {
    let mut stubborn = untracked_hash();
    stubborn.switches.set(Balance::Stubborn, true);
    let service = Service::new(stubborn, &plain(2));
    let name = service.visit(client(1));
    service.blacklist(usize::from(name == "b"), Some(9));
    assert_eq!(service.visit(client(1)), "stubborn");
}

#[test]
fn the_turn_of_a_server_that_is_gone_goes_to_the_one_after_it() {
    let service = Service::new(rules(&[Balance::RoundRobin]), &plain(3));
    let names = [service.visit(client(0)), service.visit(client(0))];
    assert_eq!(names, ["a", "b"]);
    let mut without_b = plain(3);
    without_b.remove(1);
    service.update(rules(&[Balance::RoundRobin]), &without_b);
    assert_eq!(service.visit(client(0)), "c");
}

#[test]
fn few_connections_are_compared_by_weight_too() {
    let list = servers(2, |number, server| server.weight = [2, 3][number]);
    let service = Service::new(rules(&[Balance::Weight]), &list);
    let held: Vec<_> = (0..5).map(|n| service.connect(client(n))).collect();
    let names: Vec<_> = held.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "b", "a", "b"]);
}

/// Pen goes on by index.
#[test]
fn a_failed_hash_goes_on_as_one_that_is_away() {
    let service = Service::new(untracked_hash(), &plain(9));
    for number in 0..200 {
        let mut held = service.admit(client(number)).unwrap();
        held.next();
        held.failed();
        let after_failure = held.next();
        assert_eq!(service.visit(client(number)), after_failure);
        (0..9).for_each(|index| service.blacklist(index, None));
    }
}

#[test]
fn a_server_that_is_added_gets_its_share_of_hashes() {
    let service = Service::new(untracked_hash(), &plain(3));
    let before = hashed(&service, None);
    service.update(untracked_hash(), &plain(4));
    let after = hashed(&service, None);
    let moved = before.iter().zip(&after).filter(|(was, is)| was != is);
    let (to_d, others): (Vec<_>, Vec<_>) = moved.partition(|(_, is)| *is == "d");
    assert!((400..600).contains(&to_d.len()), "{}", to_d.len());
    assert!(others.len() < 40, "{}", others.len());
}

/// Who waits for room may ask again, and is still its server's client.
#[test]
fn a_stubborn_client_that_waits_for_its_full_server_gets_no_other_one() {
    let servers = servers(2, |_, server| server.max = 1);
    let service = Service::new(rules(&[Balance::Stubborn]), &servers);
    let (first, other) = (client(1), client(2));
    // Remembered at server 0, which then is full.
    assert_eq!(service.visit(first), "a");
    let (held, at) = service.connect(other);
    assert_eq!(at, "b");
    drop(held);
    let (held, at) = service.connect(first);
    assert_eq!(at, "a");
    let mut waits = service.admit(first).unwrap();
    for _ in 0..3 {
        assert_eq!(waits.next(), "stubborn");
    }
    drop(held);
    assert_eq!(waits.next(), "a");
}

/// Many that are of no use stand before the one that is full.
#[test]
fn one_full_server_is_seen_among_many_others() {
    let servers = servers(20, |index, server| {
        server.weight = u16::from(index == 19);
        server.max = 1;
    });
    let service = Service::new(rules(&[Balance::Weight]), &servers);
    let (_held, at) = service.connect(client(1));
    assert_eq!(at, "t");
    let mut waits = service.admit(client(2)).unwrap();
    assert_eq!(waits.next(), "no-server");
    assert!(waits.attempt.found_full());
}
