use super::*;
use crate::proxy::connections::tests::route;
use crate::proxy::log::Logs;

/// A service of two servers, on these ports.
fn service(ports: [u16; 2]) -> (Arc<Service>, Route) {
    let mut route = route("web");
    route.servers = vec![route.servers[0].clone(); 2];
    for (number, (server, port)) in route.servers.iter_mut().zip(ports).enumerate() {
        server.number = Some(number);
        server.name = format!("be{number}");
        server.place = Place::Tcp(([10, 0, 0, 1], port).into());
    }
    let log = Current::none("web", Logs::new().ring());
    let service = Service::new(&route, Arc::new(Connections::default()), log);
    (Arc::new(service), route)
}

fn visit(service: &Arc<Service>) -> Visit {
    let client = Client {
        address: None,
        port: 0,
    };
    service.admit(client, &mut None).unwrap()
}

/// Who serves whom, in this order.
fn servers(visit: &mut Visit) -> Vec<String> {
    let mut names = Vec::new();
    while let Ok(point) = visit.next() {
        names.push(point.name.clone());
        visit.passed_by();
    }
    names
}

#[test]
fn a_failure_where_a_server_was_says_nothing_of_where_it_is() {
    let (service, mut route) = service([1, 2]);
    let mut late = visit(&service);
    let missed = late.next().unwrap();
    let at = missed.index.unwrap();
    route.servers[at].place = Place::Tcp(([10, 0, 0, 9], 9).into());
    service.update(&route);
    assert!(!late.failed(&missed));
    drop(late);
    let mut all = servers(&mut visit(&service));
    all.sort();
    assert_eq!(all, ["be0", "be1"]);
    // One that is still where it was missed is taken out.
    let mut now = visit(&service);
    let missed = now.next().unwrap();
    assert!(now.failed(&missed));
    drop(now);
    assert!(!servers(&mut visit(&service)).contains(&missed.name));
}

#[test]
fn a_server_that_there_is_no_way_to_from_here_is_passed_by_and_not_taken_out() {
    let (service, _) = service([1, 2]);
    for _ in 0..2 {
        let mut all = servers(&mut visit(&service));
        all.sort();
        assert_eq!(all, ["be0", "be1"]);
    }
}
