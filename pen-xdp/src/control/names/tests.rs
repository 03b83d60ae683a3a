use std::collections::HashMap;

use pen_common::config::{Change, Listener, Mode, Protocol, ServerRef};
use pen_common::hash::NameKey;
use pen_common::tables::Mac;

use super::*;
use crate::control::routes::routes;
use crate::control::snapshot::Snapshot;
use crate::control::state::{Command, Standing, State};

const VIP: u8 = 100;

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn addresses(lasts: &[u8]) -> Vec<IpAddr> {
    lasts.iter().map(|last| address(*last)).collect()
}

/// One service on 10.0.0.100:80, whose servers are `alpha`, 10.0.0.9 and `beta`.
fn config(mode: Mode) -> Config {
    let mut service = Service::new("web");
    service.mode = mode;
    service.listeners.push(Listener {
        address: address(VIP),
        port: 80,
        protocol: Protocol::Tcp,
    });
    let named = |name: &str, lasts: &[u8]| Backend {
        name: name.to_owned(),
        host: name.to_owned(),
        further: addresses(&lasts[1..]),
        weight: 7,
        ..Backend::new(address(lasts[0]))
    };
    let mut pool = Pool::new("web");
    pool.backends = vec![
        named("alpha", &[1, 2]),
        Backend::new(address(9)),
        named("beta", &[11]),
    ];
    Config {
        services: vec![service],
        pools: vec![pool],
        ..Config::default()
    }
}

fn heard(name: &str, lasts: &[u8]) -> Command {
    Command::Names(Answers(BTreeMap::from([(
        name.to_owned(),
        addresses(lasts),
    )])))
}

/// Name, last octet and whether it is there, by number.
fn rows(state: &State) -> Vec<(String, u8, bool)> {
    let backends = state.config().pools[0].backends.iter();
    let last = |backend: &Backend| match backend.address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    backends
        .map(|b| (b.name.clone(), last(b), !b.gone))
        .collect()
}

fn row(name: &str, last: u8, there: bool) -> (String, u8, bool) {
    (name.to_owned(), last, there)
}

/// With a MAC address for every back end.
fn reachable(state: &mut State) {
    for backend in state.config().pools[0].backends.clone() {
        let mac = Some(Mac(u64::from_be_bytes([2; 8]) >> 16));
        let address = backend.address;
        state.apply(Command::Neighbor { address, mac }).unwrap();
    }
}

#[test]
fn further_addresses_stand_behind_all_that_was_written() {
    let state = State::new(config(Mode::Dsr), 0);
    let expected = [
        row("alpha", 1, true),
        row("10.0.0.9", 9, true),
        row("beta", 11, true),
        row("alpha/10.0.0.2", 2, true),
    ];
    assert_eq!(rows(&state), expected);
    assert_eq!(state.config().pools[0].backends[3].weight, 7);
    assert_ne!(state.id("web", "alpha/10.0.0.2"), 0);
    assert_eq!(
        names(state.config()),
        ["alpha", "beta"].map(str::to_owned).into()
    );
}

#[test]
fn who_stays_keeps_number_and_name_who_goes_is_gone_who_comes_takes_its_number() {
    let mut state = State::new(config(Mode::Dsr), 0);
    assert_eq!(state.apply(heard("alpha", &[2])), Ok(true));
    let gone = [
        row("alpha", 1, false),
        row("10.0.0.9", 9, true),
        row("beta", 11, true),
        row("alpha/10.0.0.2", 2, true),
    ];
    assert_eq!(rows(&state), gone);
    // The same again is no change.
    assert_eq!(state.apply(heard("alpha", &[2])), Ok(false));
    state.apply(heard("alpha", &[4, 2, 3])).unwrap();
    let more = [
        row("alpha", 3, true),
        row("10.0.0.9", 9, true),
        row("beta", 11, true),
        row("alpha/10.0.0.2", 2, true),
        row("alpha/10.0.0.4", 4, true),
    ];
    assert_eq!(rows(&state), more);
    state.apply(heard("alpha", &[5, 3])).unwrap();
    state.apply(heard("alpha", &[3, 4, 5])).unwrap();
    let returned = [
        row("alpha", 3, true),
        row("10.0.0.9", 9, true),
        row("beta", 11, true),
        row("alpha/10.0.0.5", 5, true),
        row("alpha/10.0.0.4", 4, true),
    ];
    assert_eq!(rows(&state), returned);
    // A name of one address that moves keeps its one number.
    state.apply(heard("beta", &[12])).unwrap();
    assert_eq!(rows(&state)[2], row("beta", 12, true));
    assert_eq!(rows(&state).len(), 5);
}

#[test]
fn an_answer_of_no_use_changes_nothing_and_says_why() {
    let mut state = State::new(config(Mode::Dsr), 0);
    let before = rows(&state);
    assert_eq!(state.apply(heard("beta", &[])), Ok(false));
    let bad = ["224.0.0.1", "0.0.0.0", "127.0.0.1", "::ffff:10.0.0.77"];
    let mut bad: Vec<IpAddr> = bad.iter().map(|text| text.parse().unwrap()).collect();
    bad.extend(addresses(&[VIP, 9, 1]));
    let answers = BTreeMap::from([("beta".to_owned(), bad.clone())]);
    assert_eq!(state.apply(Command::Names(Answers(answers))), Ok(false));
    assert_eq!(rows(&state), before);
    let unused = &state.unused().0["beta"];
    assert_eq!(unused.len(), bad.len(), "{unused:?}");
    for part in [
        "10.0.0.100: it is a VIP",
        "10.0.0.9: back end \"10.0.0.9\" has it",
    ] {
        assert!(unused.contains(part), "{unused:?}");
    }
    // As soon as the other name lets go of it, it is made use of.
    assert_eq!(state.apply(heard("beta", &[1])), Ok(false));
    assert_eq!(state.apply(heard("alpha", &[2])), Ok(true));
    assert_eq!(rows(&state)[2], row("beta", 1, true));
    assert!(state.unused().0.is_empty());
    // And does not come back to whom it was.
    state.apply(heard("alpha", &[1, 2])).unwrap();
    assert_eq!(rows(&state)[0], row("alpha", 1, false));
}

/// `alpha` and `beta` of one pool, at these addresses.
fn two(alpha: &[u8], beta: &[u8]) -> State {
    let mut config = config(Mode::Dsr);
    for (at, lasts) in [(0, alpha), (2, beta)] {
        let backend = &mut config.pools[0].backends[at];
        backend.address = address(lasts[0]);
        backend.further = addresses(&lasts[1..]);
    }
    State::new(config, 0)
}

fn both(alpha: &[u8], beta: &[u8]) -> Command {
    let answers = [("alpha", alpha), ("beta", beta)];
    let answers = answers.map(|(name, lasts)| (name.to_owned(), addresses(lasts)));
    Command::Names(Answers(answers.into()))
}

/// The addresses that are made use of, of either name.
fn used(state: &State) -> [BTreeSet<u8>; 2] {
    let backends = &state.config().pools[0].backends;
    let rows = rows(state);
    [0, 2].map(|number| {
        let ours = ours(backends, number).map(|at| &rows[at]);
        ours.filter(|row| row.2).map(|row| row.1).collect()
    })
}

#[test]
fn names_hand_addresses_over_and_exchange_them() {
    for [alpha, beta, alpha_now, beta_now] in [
        [vec![1], vec![2], vec![2], vec![3]],
        [vec![2], vec![1], vec![3], vec![2]],
        [vec![1], vec![2], vec![2], vec![1]],
        [vec![1, 2], vec![3], vec![1, 3], vec![2]],
        [vec![1, 2], vec![3, 4], vec![3, 4], vec![1, 2]],
    ] {
        let expected = [&alpha_now, &beta_now].map(|lasts| lasts.iter().copied().collect());
        // Both at once, and one after the other.
        for commands in [
            vec![both(&alpha_now, &beta_now)],
            vec![heard("alpha", &alpha_now), heard("beta", &beta_now)],
            vec![heard("beta", &beta_now), heard("alpha", &alpha_now)],
        ] {
            let mut state = two(&alpha, &beta);
            for command in commands {
                state.apply(command).unwrap();
            }
            assert_eq!(used(&state), expected, "{:?}", rows(&state));
            assert!(state.unused().0.is_empty(), "{:?}", state.unused());
        }
    }
}

#[test]
fn who_comes_begins_as_configured_whatever_was_said_of_the_one_written() {
    let mut state = State::new(config(Mode::Tcp), 0);
    let said = |changes: &[Change]| Command::Server {
        service: None,
        server: ServerRef::Index(0),
        changes: changes.to_vec(),
    };
    let out = [Change::Weight(0), Change::Max(3), Change::Blacklist(60)];
    state.apply(said(&out)).unwrap();
    // One more beside it, then one in its place.
    state.apply(heard("alpha", &[1, 2, 3])).unwrap();
    let backends = |state: &State| state.config().pools[0].backends.clone();
    assert_eq!(
        (backends(&state)[4].weight, backends(&state)[4].max),
        (7, 0)
    );
    // Who stays is what was said of it.
    let stays = backends(&state)[0].clone();
    assert_eq!((stays.weight, stays.max), (0, 3));
    assert_eq!(state.standing("web", &stays), Standing::Blacklisted(60));
    state.apply(heard("alpha", &[2, 3, 4])).unwrap();
    let new = backends(&state)[0].clone();
    assert_eq!(rows(&state)[0], row("alpha", 4, true));
    assert_eq!((new.weight, new.max), (7, 0));
    assert_eq!(state.blacklisted_until_ms("web", &new), None);
}

#[test]
fn a_name_that_would_be_left_with_nothing_keeps_its_address_from_others() {
    let mut state = two(&[1], &[2]);
    assert_eq!(state.apply(both(&[VIP], &[1])), Ok(false));
    assert_eq!(used(&state), [[1].into(), [2].into()]);
    let unused = &state.unused().0;
    assert!(unused["alpha"].contains("10.0.0.100: it is a VIP"));
    assert!(unused["beta"].contains("10.0.0.1: back end \"alpha\" has it"));
    state.apply(heard("alpha", &[5])).unwrap();
    assert_eq!(used(&state), [[5].into(), [1].into()]);
}

#[test]
fn another_order_moves_no_flow_and_one_that_goes_keeps_its_flows() {
    let mut state = State::new(config(Mode::Dsr), 0);
    state.apply(heard("alpha", &[1, 2, 3, 4])).unwrap();
    reachable(&mut state);
    let before = Snapshot::compile(&state, None).unwrap();
    let mut other = State::new(config(Mode::Dsr), 0);
    other.apply(heard("alpha", &[4, 2, 3, 1])).unwrap();
    reachable(&mut other);
    let after = Snapshot::compile(&other, Some(&before)).unwrap();
    assert_eq!(before.pools[0].slots, after.pools[0].slots);
    assert_eq!(state.apply(heard("alpha", &[3, 1, 4, 2])), Ok(false));

    state.apply(heard("alpha", &[1, 3, 4])).unwrap();
    let fewer = Snapshot::compile(&state, Some(&before)).unwrap();
    let gone = state.id("web", "alpha/10.0.0.2");
    assert!(!fewer.pools[0].slots.contains(&gone));
    // Frames of the flows before still find it.
    assert!(fewer.backends.contains_key(&gone));
    let backend = &state.config().pools[0].backends[3];
    assert_eq!(state.standing("web", backend), Standing::Gone);
    // Its slots go to others; those of the others stay nearly all.
    let pairs = before.pools[0]
        .slots
        .iter()
        .zip(fewer.pools[0].slots.iter());
    let (mut moved, mut all) = (0, 0);
    for (was, is) in pairs.filter(|(was, _)| **was != gone) {
        moved += usize::from(was != is);
        all += 1;
    }
    assert!(moved * 50 < all, "{moved} of {all} slots moved");
}

#[test]
fn a_mac_address_is_forgotten_with_its_back_end() {
    let mut state = State::new(config(Mode::Dsr), 0);
    reachable(&mut state);
    state.apply(heard("beta", &[12])).unwrap();
    // What is published still needs it.
    assert!(state.mac_of(address(11)).is_some());
    state.forget_unasked();
    assert_eq!(state.mac_of(address(11)), None);
    // One that is gone has its flows still.
    state.apply(heard("alpha", &[1])).unwrap();
    state.forget_unasked();
    assert!(state.mac_of(address(2)).is_some());
}

#[test]
fn the_proxy_is_not_told_of_who_is_gone_and_numbers_stay() {
    let mut state = State::new(config(Mode::Tcp), 0);
    state.apply(heard("alpha", &[2])).unwrap();
    let routes = routes(&state);
    let servers = &routes.0[0].servers;
    let servers: Vec<_> = servers
        .iter()
        .map(|s| (s.number, s.name.as_str()))
        .collect();
    let expected = [
        (Some(1), "10.0.0.9"),
        (Some(2), "beta"),
        (Some(3), "alpha/10.0.0.2"),
    ];
    assert_eq!(servers, expected);
}

#[test]
fn a_refused_publication_takes_back_what_was_asked_for_not_what_was_heard() {
    let before = State::new(config(Mode::Tcp), 0);
    let mut state = before.clone();
    state.apply(heard("beta", &[12, 13])).unwrap();
    let asked = Command::Server {
        service: None,
        server: ServerRef::Index(1),
        changes: vec![Change::Weight(3)],
    };
    state.apply(asked).unwrap();
    state.take_back(&before);
    assert_eq!(rows(&state)[2], row("beta", 12, true));
    assert_eq!(rows(&state)[4], row("beta/10.0.0.13", 13, true));
    assert_ne!(state.id("web", "beta/10.0.0.13"), 0);
    assert_eq!(state.config().pools[0].backends[1].weight, 1);
}

#[test]
fn a_server_for_emergencies_follows_its_name() {
    let mut config = config(Mode::Tcp);
    config.services[0].proxy.emergency = Some(Backend {
        host: "spare".to_owned(),
        ..Backend::new(address(50))
    });
    let mut state = State::new(config, 0);
    let now = |state: &State| {
        let spare = state.config().services[0].proxy.emergency.clone();
        spare.unwrap().address
    };
    assert_eq!(state.apply(heard("spare", &[49, 50])), Ok(false));
    assert_eq!(now(&state), address(50));
    // The service's own address is no place to go to.
    assert_eq!(state.apply(heard("spare", &[VIP])), Ok(false));
    assert_eq!(state.apply(heard("spare", &[VIP, 52, 51])), Ok(true));
    assert_eq!(now(&state), address(51));
}

/// Answers of every kind, hostile ones too: none moves what was written, renames or renumbers what
/// stays, or leaves a name without a back end.
#[test]
fn no_walk_of_answers_moves_what_stays() {
    for seed in 0..12 {
        let mode = if seed % 2 == 0 { Mode::Dsr } else { Mode::Tcp };
        let mut state = State::new(config(mode), 0);
        let key = NameKey::from_seed(seed);
        for step in 0_u64..200 {
            let random = |what: u64| key.hash_bytes(&(step << 16 | what).to_le_bytes());
            let name = if random(0) % 2 == 0 { "alpha" } else { "beta" };
            // A few addresses, so that names meet; sometimes more than any name may have.
            let count = if random(1) % 16 == 0 {
                120
            } else {
                random(1) % 6
            };
            let range = if count > 6 { 250 } else { 14 };
            let lasts: Vec<u8> = (0..count).map(|i| (random(2 + i) % range) as u8).collect();
            let before = state.clone();
            state.apply(heard(name, &lasts)).unwrap();
            check(&before, &state);
        }
    }
}

fn check(before: &State, after: &State) {
    // What is once settled is settled.
    let mut again = after.config().clone();
    follow(&mut again, after.answers(), &config(Mode::Dsr).pools);
    assert_eq!(&again, after.config());
    let (was, is) = (rows(before), rows(after));
    let at = |rows: &[(String, u8, bool)], number: usize| rows[number].0.clone();
    for number in 0..3 {
        assert_eq!(at(&was, number), at(&is, number));
    }
    assert_eq!(is[1], row("10.0.0.9", 9, true));
    assert!(is.len() >= was.len() && is.len() <= 1 + 2 * ADDRESSES_MAX);
    let backends = &after.config().pools[0].backends;
    for (number, then) in before.config().pools[0].backends.iter().enumerate() {
        let now = &backends[number];
        // Of too many those that were there stay, too.
        let answer = then.host_name().map(|host| &after.answers().0[host]);
        let stays = answer.is_none_or(|answer| answer.contains(&then.address));
        if !then.gone && stays {
            assert!(!now.gone && now.name == then.name && now.address == then.address);
        }
    }
    for number in [0, 2] {
        let mut ours = backends.iter().enumerate();
        let present = ours.any(|(at, b)| !b.gone && (at == number || b.of == Some(number)));
        assert!(present, "{} is empty: {is:?}", backends[number].name);
    }
    let mut seen = HashMap::new();
    let mut ids = BTreeSet::new();
    for backend in backends {
        assert!(
            ids.insert(after.id("web", &backend.name)),
            "two have one name: {is:?}"
        );
        if !backend.gone {
            let other = seen.insert(backend.address, &backend.name);
            assert_eq!(other, None, "two have {}", backend.address);
        }
    }
    assert!(!ids.contains(&0));
}
